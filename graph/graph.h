/* The one representation of a model: a flat, acyclic list of nodes in execution order over values whose shapes
 * are numbers. Forward, backward and update nodes stand in the same list. One arena owns a graph; ids are
 * indices and pointers to values and nodes stay valid while the graph grows.
 *
 * Invariants: every value has at most one producer, which stands before all its users; what controls structure
 * (axes, shapes, starts, perms, splits, pads …) is an attribute, never an input: inputs are data. */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H

#include "base/arena.h"
#include "base/status.h"
#include "graph/tensor.h"

typedef uint32_t ValueId;
typedef uint32_t NodeId;
#define NO_VALUE UINT32_MAX
#define NO_NODE UINT32_MAX

typedef enum {
#define OP(name) OP_##name,
#include "graph/ops.def"
#undef OP
  OP_COUNT
} OpKind;

typedef enum {
  ROLE_ACTIVATION, /* produced by a node, one for each microbatch */
  ROLE_INPUT,      /* a model input, or the loss's target: fed for each microbatch on every stage that uses it */
  ROLE_CONSTANT,   /* never changes: `data` holds it, or initializer >= 0 says where to read it */
  ROLE_PARAMETER,  /* trained: initializer >= 0 says where its first value is */
  ROLE_GRADIENT,   /* accumulator of one group of uses of `parameter`, or the rows and places in its stead (UseGroup);
                      zero when a step begins */
  ROLE_BUFFER,  /* running statistics: kept from step to step and saved, as a parameter, and written by forward nodes in
                   the order of microbatches; all nodes that touch a written one are forward nodes of one stage */
  ROLE_COUNTER, /* int64 [COUNTER_NUMBERS], what random operators draw by, beside their own number: fed as inputs are,
                   by the executor */
  ROLE_STATE,   /* of the optimizer, for `parameter`; zero when training begins */
  ROLE_STEP     /* small, kept between nodes of a step: loss_scale and optimizer scalars, written by the host;
                   squared norms of gradients, read by it */
} Role;

/* Where the samples lie in a value: nowhere; along one axis; or everywhere, since samples have met, or a number came
 * from how many there are. */
typedef enum { BATCH_NONE, BATCH_AXIS, BATCH_MIXED } BatchKind;

typedef struct {
  BatchKind kind;
  int axis;             /* of BATCH_AXIS: it has outer · samples · inner places, in this order of elements */
  int64_t outer, inner; /* both 1 unless axes were merged: [L·N, D] has outer L */
  bool uniform;         /* of BATCH_AXIS: every sample has the same contents */
  int64_t step;         /* of integers along BATCH_AXIS: sample s has s · step more than it would have as sample 0 */
  bool address;         /* that is so in the first place of the last axis alone, where GatherND looks for the sample */
  bool grows;           /* of BATCH_MIXED: the shape comes from how many samples there are, too */
  bool apart;           /* of BATCH_MIXED: an element is one sample's, all have as many; only their order is lost */
  double per_sample;    /* of BATCH_MIXED: it is one known number, this many for each sample; 0: it is not */
  const char *by;       /* of BATCH_MIXED: "node 'h/mean' (ReduceMean)", where it began */
} Batch;

/* The numbers of a ROLE_COUNTER: the same whoever computes. */
enum { COUNTER_SEED, COUNTER_STEP, COUNTER_SAMPLE /* the microbatch's first, in the step */, COUNTER_NUMBERS };

/* What of a gradient is kept: all of it; in groups that are a lookup the rows (graph/rows.h), where that is less; or
 * these wherever nothing but lookups use the table, since the update means those rows alone. */
typedef enum { KEEP_ALL, KEEP_LESS, KEEP_ROWS } Keep;

typedef struct {
  const char *name;
  DType dtype;
  Shape shape;
  Batch batch;     /* of forward values: graph/batch.h */
  NodeId producer; /* NO_NODE: not produced by a node */
  Role role;
  const void *data;    /* contents of a known constant (arena-owned, dense), else NULL */
  int initializer;     /* index in the model's initializer table, else -1 */
  ValueId parameter;   /* of a ROLE_GRADIENT or ROLE_STATE, else NO_VALUE */
  int group;           /* of a ROLE_GRADIENT: 0 … , graph order of uses */
  bool needs_gradient; /* set by autodiff: a parameter reaches it through differentiable operators */
  Keep keep;           /* of a ROLE_PARAMETER, set before autodiff: what of its gradient */
  uint8_t rounded_on; /* bit k: on the run's backend k products read it in bfloat16, rounded before (graph/rounded.h) */
} Value;

typedef enum { ATTR_INT, ATTR_FLOAT, ATTR_STRING, ATTR_INTS, ATTR_FLOATS } AttrKind;

typedef struct {
  const char *name;
  AttrKind kind;
  int64_t i;
  double f;
  const char *s;
  const int64_t *ints; /* n of them */
  const double *floats;
  int n;
} Attr;

/* F: forward, loss included. B: a gradient of the stage's input depends on it. W: other backward nodes.
 * Before stages are assigned every backward node is PHASE_B. UPDATE: once a step, after all microbatches. */
typedef enum { PHASE_F, PHASE_B, PHASE_W, PHASE_UPDATE } Phase;

/* How exactly a float32 product is computed: operands in full, with TF32's 10 binary digits, or as bfloat16. Sums and
 * results are float32 in all of them. */
typedef enum { PRECISION_FLOAT32, PRECISION_TF32, PRECISION_BF16 } Precision;

/* Ranks of one run may compute on so many backends. */
enum { RUN_BACKENDS = 4 };

typedef struct {
  NodeId id;
  OpKind op;
  const char *name;  /* as in the file; a backward node has its forward node's, Accumulate and update the parameter's */
  ValueId *in, *out; /* NO_VALUE: an absent optional one */
  int n_in, n_out;
  Attr *attrs;
  int n_attrs;
  Phase phase;
  NodeId origin; /* the forward node whose stage this node shares; itself for a forward node, NO_NODE for update */
  bool again;    /* a forward node that backward runs again: `origin`'s clone (graph/recompute.h) */
  int unrolled;  /* of a loop's body, whose uses of a parameter are one group: the loop's number; else 0 */
  int stage;     /* -1 until assigned; update nodes keep -1: they run on every rank that holds the parameter */
  Precision precision;                  /* of a product, on backends that reduce it; set before workspaces */
  size_t workspace_bytes[RUN_BACKENDS]; /* what each of the run's backends wants, set before memory is planned */
} Node;

enum { MAX_GROUPS = 4 }; /* of a parameter's uses */

/* Uses of one parameter whose gradients share an accumulator, or all uses of a buffer: in one stage. */
typedef struct {
  ValueId parameter;
  ValueId gradient; /* the accumulator; NO_VALUE when no gradient reaches it, or for a ROLE_BUFFER */
  ValueId places;   /* where `gradient` holds rows of a table: which ones (graph/rows.h); else NO_VALUE */
  NodeId *nodes;    /* forward nodes, in graph order */
  int n_nodes;
} UseGroup;

/* The number of targets that count, by which the model's own loss divides: `count` is one microbatch's, a float64
 * scalar that depends on inputs alone; `total`, ROLE_STEP, is what the graph reads: the whole batch's / microbatches.
 */
typedef struct {
  ValueId total, count;
} Denominator;

/* What a pass over the graph found. */
typedef struct {
  const char *name;
  int times;
} PassDone;

typedef struct Graph {
  Arena *arena;
  const char *name;
  Value **values;
  size_t n_values, values_capacity;
  Node **nodes; /* in execution order */
  size_t n_nodes, nodes_capacity;
  ValueId *inputs, *outputs; /* of the model, in file order */
  size_t n_inputs, n_outputs, inputs_capacity, outputs_capacity;
  ValueId counter;      /* ROLE_COUNTER; NO_VALUE: nothing is random */
  int64_t samples;      /* of a microbatch; 0 where nothing counts samples */
  int64_t microbatches; /* of a step; needed where a parameter's gradient keeps rows */
  /* Set by autodiff and loss; NO_VALUE before. */
  ValueId target;       /* ROLE_INPUT: the loss's target */
  ValueId loss_sum;     /* float64 scalar: the microbatch's loss, summed, not divided */
  ValueId loss_scale;   /* ROLE_STEP float64 scalar: 1 / the whole batch's denominator; the cotangent of loss_sum */
  ValueId step_scalars; /* ROLE_STEP float64 [STEP_SCALARS], see graph/optimizer.h */
  UseGroup *groups;     /* set by autodiff, by parameter and group */
  size_t n_groups, groups_capacity;
  Denominator *denominators; /* set by the loss, where it is the model's own */
  size_t n_denominators, denominators_capacity;
  PassDone *passes; /* that found something, in their order */
  size_t n_passes, passes_capacity;
  const NodeId *plain; /* [n_nodes], of a graph with clones (graph/recompute.h): the node's number in the graph without
                          them, a clone's that of its node; NULL: there are none */
  const uint8_t *backend_of_rank; /* [ranks]: which of the run's backends; NULL: all have the first */
  const bool *offloads;           /* [ranks]: ROLE_STATEs lie in the host's memory (graph/memory.h); NULL: of none */
  Phase building;                 /* phase and origin that graph_add_node gives to new nodes */
  NodeId origin;                  /* NO_NODE while building forward nodes: each is its own origin */
  int unrolling, n_unrolled;      /* the loop whose nodes are added, 0: none; how many there were */
} Graph;

/* A new graph inside `arena`; the arena's owner frees it. */
Status graph_create(Arena *arena, const char *name, Graph **graph);

/* A value without a producer. The name is copied. Fails E_SHAPE when the bytes overflow. */
Status graph_add_value(Graph *graph, const char *name, DType dtype, Shape shape, Role role, ValueId *value);

/* A ROLE_CONSTANT with these contents (copied). */
Status graph_add_constant(Graph *graph, const char *name, DType dtype, Shape shape, const void *data, ValueId *value);

/* The graph's ROLE_COUNTER, made when it is first asked for. */
Status graph_counter(Graph *graph, ValueId *value);

/* A node with n_out fresh outputs, whose types and shapes its shape rule infers. `in` may hold NO_VALUE for
 * absent optional inputs; `attrs` are copied deeply; out_names may be NULL (names are derived) or hold NULLs,
 * and "" makes an output absent (NO_VALUE), which only operators with any number of outputs (Split) allow. Fails as the
 * shape rule does, with "node 'name' (Op): " in front; a failed call leaves the graph unchanged. */
Status graph_add_node(Graph *graph, OpKind op, const char *name, const ValueId *in, int n_in, const Attr *attrs,
                      int n_attrs, const char *const *out_names, int n_out, NodeId *node);

/* The node with one output, for rules that emit: *out is its value. Named after graph->origin's node. */
Status graph_emit(Graph *graph, OpKind op, const ValueId *in, int n_in, const Attr *attrs, int n_attrs, ValueId *out);

/* Nodes that are added from here to graph_unroll_end are one loop's body, run by run; of loops within loops, the
 * outermost one's. Gives what graph_unroll_end takes. */
int graph_unroll_begin(Graph *graph);
void graph_unroll_end(Graph *graph, int before);

/* Makes the value the model's next input or output. */
Status graph_add_input(Graph *graph, ValueId value);
Status graph_add_output(Graph *graph, ValueId value);

static inline Value *graph_value(const Graph *graph, ValueId id) {
  return graph->values[id];
}
static inline Node *graph_node(const Graph *graph, NodeId id) {
  return graph->nodes[id];
}
/* The node's number in the graph without clones. */
static inline NodeId graph_plain(const Graph *graph, NodeId id) {
  return graph->plain ? graph->plain[id] : id;
}
/* Dense bytes of a value. */
size_t graph_value_bytes(const Graph *graph, ValueId id);

/* What a node's workspace takes on this rank; -1: on the one where it takes most. */
size_t node_workspace_bytes(const Graph *graph, const Node *node, int rank);

/* Of the same name, kind and value, bit for bit. */
bool attr_equal(const Attr *a, const Attr *b);
/* Attribute access: the default when absent. An attribute of another kind counts as absent. */
const Attr *node_attr(const Node *node, const char *name);
int64_t node_int(const Node *node, const char *name, int64_t absent);
double node_float(const Node *node, const char *name, double absent);
const char *node_string(const Node *node, const char *name, const char *absent);
/* *n integers; NULL and 0 when absent. */
const int64_t *node_ints(const Node *node, const char *name, int *n);

/* Attributes for emitting. The arrays are copied by graph_add_node. */
Attr attr_int(const char *name, int64_t i);
Attr attr_float(const char *name, double f);
Attr attr_string(const char *name, const char *s);
Attr attr_ints(const char *name, const int64_t *ints, int n);

/* Puts "node 'h3/attn' (MatMul): " in front of the message. */
void node_context(const Node *node);

#endif
