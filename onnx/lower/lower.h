/* From the nodes of a file to canonical operators: what bind.c and the tables of lowerings share.
 *
 * A name of the file stands for a Term while the file is lowered. A term whose contents follow from constants and
 * shapes is known, and a node whose inputs are known leaves no trace but its result. Known contents are stored once
 * along every axis where they repeat, so that masks and fills are small whatever the batch.
 *
 * Invariant: a lowering sets every output of its Op that somebody reads, with the shape that ONNX says. */
#ifndef ONNX_LOWER_LOWER_H
#define ONNX_LOWER_LOWER_H

#include <jansson.h>

#include "onnx/file/internal.h"
#include "onnx/file/map.h"
#include "onnx/lower/bind.h"

/* Known contents. Equal ones are one object, so equal pointers mean equal contents. */
typedef struct {
  const char *name; /* of the first term that had it, for the graph */
  DType dtype;
  Shape stored; /* broadcasts to the shape of every term that has it */
  const void *data;
} Constant;

typedef enum {
  TERM_ABSENT,
  TERM_TENSOR,
  TERM_SEQUENCE,
  TERM_UNKNOWN /* of a node that is not supported: those that read it are passed over */
} TermKind;

typedef struct Term {
  TermKind kind;
  DType dtype;
  DType narrow; /* whose numbers it holds, by what the file says of it; DTYPE_NONE: of dtype */
  Shape shape;
  const Constant *constant; /* known contents, else NULL */
  int initializer;          /* of the main graph, not read so far, else -1 */
  ValueId value;            /* in the graph; NO_VALUE until somebody needs it there */
  struct Term *unmasked; /* of a tensor with frozen rows: the parameter, whose own rows there do not count; else NULL */
  int bits;              /* of integers that the file has several of in a byte: 4, 2; else 0 */
  struct Term *whole;    /* of integers that floats were quantised to: the same as floats, which train; else NULL */
  struct Term **parts;   /* of a sequence */
  int n_parts;
} Term;

/* Names of one graph or function body; a branch of an If sees its surroundings through `parent`. */
typedef struct Scope {
  const struct Scope *parent;
  Map *terms;
} Scope;

/* What a body of nodes is lowered within: the main graph, or one call of a local function. */
typedef struct Frame {
  const Onnx__FunctionProto *function; /* NULL: the main graph */
  Map *attributes;                     /* of the call, by name: Onnx__AttributeProto */
  Onnx__OperatorSetIdProto **imports;
  size_t n_imports;
  const char *prefix; /* of node and value names: "layer.3/" */
  bool specified;     /* within a function of the specification: local functions are not called there */
} Frame;

typedef struct {
  const char *node, *operator, * reason;
} Finding;

typedef struct {
  Finding *list;
  size_t n, capacity;
} Findings;

/* What an import may still take, see budget.c. */
typedef struct {
  size_t arena_bytes;                 /* of Lower.arena */
  size_t fold_node_bytes, fold_bytes; /* that computing one node, and all of them, may touch */
  double fold_flops;
  double kept_bytes, kept_flops; /* of nodes that stay though no input of the model reaches them */
  size_t repeat_bytes;           /* that repeats of known contents may be written out to */
  size_t values;                 /* of the graph, in all */
  size_t body_nodes;             /* that bodies are lowered to, run by run */
} Budget;

/* Whether a step had nothing to do, in the order in which that was asked: with one sample more steps seem to have
 * nothing to do than with many ([N,1] to [1,N]), and nodes of two graphs would not correspond. */
typedef struct {
  Arena *arena; /* of `idle` */
  bool *idle;
  size_t n, capacity, at;
  bool replaying; /* a step is left out where it was and where it may be; else it is set down */
} Replay;

typedef struct {
  Model *model;
  const BindOptions *options;
  Replay *replay;      /* NULL: none */
  Arena *arena;        /* of everything here; the result is copied out of it */
  Graph *graph;        /* nodes that stay */
  Graph *probe;        /* shapes of nodes that fold; emptied after each */
  Term **initializers; /* what each stands for, ties and copies resolved */
  Map *constants, *folded, *placed, *named;
  Budget budget;
  int64_t draws; /* nodes that draw, so far */
  bool *fixed;   /* of each value of the graph: no input of the model reaches it */
  size_t n_fixed, fixed_capacity;
  const void **given; /* of each value of the graph: its contents, where inputs were asked for them (given.c) */
  size_t n_given, given_capacity;
  Findings findings;
} Lower;

typedef struct Lowering Lowering;

/* One node being lowered. */
typedef struct {
  Lower *lower;
  const Scope *scope;
  const Frame *frame;
  const Onnx__NodeProto *proto;
  const Lowering *lowering;
  const char *name; /* unique enough for a person; unnamed nodes are Op_index */
  int64_t opset;
  Term **in, **out; /* in: absent ones too; out[i] is set by the lowering */
  int n_in, n_out;
} Op;

/* One row of the table: the operator in the versions from … to. Attributes are "axis:i axes:I epsilon:f mode:s
 * value:t then_branch:g", "keepdims:b" where the number is 0 or 1, "to:d" where it is one of ONNX's data types, with a
 * "!" behind those that must be there; others are refused. */
struct Lowering {
  const char *op;
  int from, to;
  int min_in, max_in, max_out; /* MANY: any number; SOME: of inputs that may be absent */
  Status (*lower)(Op *op);
  const char *attributes;
};
enum { MANY = 1 << 20, SOME = MANY + 1, OPSET_FIRST = 7, OPSET_LAST = OPSET_NEWEST };

/* The tables (onnx/lower/tables.def), each ended by a row without a name. */
#define TABLE(name) extern const Lowering lowerings_##name[];
#include "onnx/lower/tables.def"
#undef TABLE

/* operators.c: what is supported. *row is NULL and *reason says why (in the arena) where the node is not. `call`: the
 * attributes of the calling function, NULL where there is none or they are not known. */
Status operator_find(Arena *arena, const Onnx__NodeProto *node, int64_t opset, const Map *call, const Lowering **row,
                     const char **reason);
/* Whether a row has this operator at this opset. */
bool operator_has_row(const Onnx__NodeProto *node, int64_t opset);
/* bodies.c: the function that the specification gives an operator without a row; *body is NULL where there is none. */
Status body_find(Model *model, const Onnx__NodeProto *node, int64_t opset, const Onnx__FunctionProto **body);
/* Why it does not take the node, in the arena; NULL where it does. */
const char *body_refuses(Arena *arena, const Onnx__FunctionProto *body, const Onnx__NodeProto *node);
/* The version of a node's domain that the body imports; 0 where it imports none. "" and "ai.onnx" are one. */
int64_t operator_opset(const char *domain, Onnx__OperatorSetIdProto *const *imports, size_t n_imports);
Status finding_add(Arena *arena, Findings *findings, const char *node, const char *operator, const char * reason);
/* E_UNSUPPORTED naming all, or OK where there is none. */
Status findings_fail(const Findings *findings);
/* Appends {node, operator, reason} for everything that binding would refuse as unsupported. */
Status model_unsupported(Model *model, json_t *array);
/* "Conv_17" for a node without a name. */
const char *node_label(Arena *arena, const Onnx__NodeProto *node, size_t index);

/* bind.c */
/* The whole model as a graph in `result`; `scratch` holds what only lowering needs. `replay` may be NULL. */
Status bind_graph(Model *model, const BindOptions *options, Replay *replay, Arena *scratch, Arena *result,
                  Graph **graph);
/* Lowers nodes in order; the names that they define go into `scope`. */
Status lower_body(Lower *lower, Scope *scope, const Frame *frame, Onnx__NodeProto *const *nodes, size_t n_nodes);
Term *scope_find(const Scope *scope, const char *name);
Status scope_put(Scope *scope, const char *name, Term *term);

/* ---- budget.c: everything that a file can make large ---- */

/* What an import of this file may take. */
Budget budget_of(const Model *model);
/* What does not depend on inputs may be there for each sample. */
void budget_samples(Budget *budget, int64_t samples);
/* Takes it from what folding may; false where that is not enough. */
bool budget_fold(Budget *budget, size_t bytes, double flops);
/* The same for what has to be computed now: E_LIMIT. */
Status budget_need(Budget *budget, size_t bytes, double flops);
/* Contents that a file repeats, for its batch say, become larger than the file: that has a bound. */
Status budget_repeat(Budget *budget, const Constant *c, Shape shape, size_t bytes);
/* Of a node that was added to the graph. */
Status budget_node(Lower *lower, const Node *node);

/* One more run of a body of so many nodes. */
Status budget_body(Budget *budget, size_t n_nodes);

/* ---- control.c: bodies of If, Loop, Scan, SequenceMap ---- */

/* A graph in an attribute, with its constants. */
typedef struct {
  const Onnx__GraphProto *graph;
  Scope constants; /* its surroundings: the node's */
  size_t findings; /* before it ran */
} Body;

/* The graph attribute of a node, its constants known by name. */
Status body_open(Op *op, const char *attribute, Body *body);
/* E_MODEL where the body has not as many inputs and outputs. */
Status body_counts(const Body *body, size_t n_in, size_t n_out);
/* Lowers it once: `in` and `out` as its inputs and outputs. `prefix` of its names; NULL: memory is out. */
Status body_run(Op *op, const Body *body, const char *prefix, Term *const *in, Term **out);
/* Whether something in it was found not to be supported. */
bool body_unsupported(const Op *op, const Body *body);
/* Those that read the node's outputs are passed over. */
Status outputs_unknown(Op *op);

/* ---- op.c: what a lowering reads ---- */

/* The attribute with references to the calling function's resolved; NULL where absent. */
const Onnx__AttributeProto *op_attribute(const Op *op, const char *name);
int64_t op_int(const Op *op, const char *name, int64_t absent);
double op_float(const Op *op, const char *name, double absent);
/* NULL where absent. A copy in the arena that ends in 0. */
Status op_string(const Op *op, const char *name, const char *absent, const char **text);
/* *ints is NULL and *n 0 where absent. */
void op_ints(const Op *op, const char *name, const int64_t **ints, int *n);
/* Input i; an absent term where the node has none. */
Term *op_in(const Op *op, int i);
bool op_has(const Op *op, int i);
/* Whether somebody may read output i. */
bool op_wants(const Op *op, int i);
/* Attribute `name` as an axis of `rank`; E_SHAPE where it is outside. */
Status op_axis(const Op *op, const char *name, int64_t absent, int rank, int *axis);
/* Input i as known integers (int64 or int32, any rank); E_UNSUPPORTED where they are not known now, E_LIMIT where there
 * are more than any operator takes. */
Status op_known_ints(Op *op, int i, const int64_t **ints, int *n);
/* Input i as one known integer. */
Status op_known_int(Op *op, int i, int64_t *number);
/* Input i as one known number of any type. */
Status op_known_number(Op *op, int i, double *number);
/* The axes given by attribute (old) or by input (new), counted from the front, sorted; *n is -1 where not given. */
Status op_axes(Op *op, const char *attribute, int input, int rank, int64_t axes[MAX_RANK], int *n);

/* ---- constant.c: known contents ---- */

/* Takes over contents of `shape`; repeats are dropped. */
Status constant_make(Lower *lower, const char *name, DType dtype, Shape shape, const void *data, const Constant **c);
/* A known term. */
Status term_make(Lower *lower, const char *name, DType dtype, Shape shape, const void *data, Term **term);
/* A constant with a larger shape. */
Status term_broadcast(Lower *lower, const Constant *constant, Shape shape, Term **term);
/* Whether the contents are known or could be read. */
bool term_readable(const Lower *lower, const Term *term);
/* Whether the contents are known; reads small initializers that do not train. */
Status term_known(Lower *lower, Term *term, bool *known);
/* The same for what has to be known: also what follows from inputs that the data gives once (given.c). */
Status term_given(Lower *lower, Term *term, bool *known);
/* Known contents, repeats written out, into memory of the term's size. */
void term_write(const Term *term, void *data);
/* Known integers of a known term, in the arena. */
Status term_ints(Lower *lower, const Term *term, const int64_t **ints, int *n);
/* A known term as a number; false where it is not one. */
bool term_number(const Term *term, double *number);
/* term_write for shapes that are not a term's: `stored` broadcasts to `shape`. */
void broadcast_copy(size_t element, Shape stored, const void *data, Shape shape, void *out);

/* ---- fold.c ---- */

/* Computes the node now where all its inputs are known and the budget allows it; *done says whether. */
Status op_fold(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out, int n_out,
               bool *done);
/* ---- emit.c: what a lowering writes. Each folds where it can, and forwards where nothing would happen, for any
 * number of samples: the nodes of two graphs of one file correspond. ---- */

/* Settle, of a Replay or NULL: what may be left out is, but where it may not be for other numbers of samples. */
Status replay_settle(void *replay, bool possible, bool *does);
/* Whether a step that may be left out here is. */
Status op_leaves_out(Op *op, bool possible, bool *leaves);
/* What stands for a value of the graph. */
Status term_of(Lower *lower, ValueId id, Term **term);
/* The term in the graph. */
Status term_value(Op *op, Term *term, ValueId *value);
Status op_emit(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out, int n_out);
/* integers.c: op_emit over integers that kernels do not compute in. *wide: whether it was such, and is done. */
Status op_emit_wide(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out,
                    int n_out, bool *wide);
Status op_emit1(Op *op, OpKind kind, Term *a, Term **out);
Status op_emit2(Op *op, OpKind kind, Term *a, Term *b, Term **out);
Status op_where(Op *op, Term *condition, Term *a, Term *b, Term **out);
Status op_cast(Op *op, Term *a, DType to, Term **out);
/* narrow.c: a cast to a narrow type, which rounds and leaves float32; and to any type as ONNX's Cast says it. */
Status op_cast_as(Op *op, Term *a, DType to, Term **out);
/* The same term, of numbers of a narrow type; DTYPE_NONE: of none. */
Status term_of_narrow(Op *op, Term *a, DType narrow, Term **out);
Status op_reshape(Op *op, Term *a, Shape shape, Term **out);
Status op_transpose(Op *op, Term *a, const int64_t *perm, Term **out);
Status op_expand(Op *op, Term *a, Shape shape, Term **out);
/* One axis from start (inclusive) to end (exclusive), both within the axis. */
Status op_slice(Op *op, Term *a, int axis, int64_t start, int64_t end, Term **out);
Status op_concat(Op *op, Term *const *in, int n_in, int axis, Term **out);
/* Parts of one shape along a new axis. */
Status op_stack(Op *op, Term *const *parts, int n, int axis, Term **out);
Status op_split(Op *op, Term *a, int axis, const int64_t *sizes, int n, Term **out);
Status op_reduce(Op *op, OpKind kind, Term *a, const int64_t *axes, int n, bool keepdims, Term **out);
/* Transposes of the last two axes become flags. */
Status op_matmul(Op *op, Term *a, bool trans_a, Term *b, bool trans_b, Term **out);
Status op_gemm(Op *op, Term *a, Term *b, Term *c, double alpha, double beta, bool trans_a, bool trans_b, Term **out);
/* What the LogSoftmax along `axis` read that made a; NULL where none did. */
Status op_before_log_softmax(Op *op, const Term *a, int axis, Term **out);
/* A scalar of a's type; integers round towards zero and saturate. */
Status op_scalar(Op *op, const Term *like, double number, Term **out);
/* a op number. */
Status op_with_number(Op *op, OpKind kind, Term *a, double number, Term **out);
/* 0, 1, 2, … count-1 as int64. */
Status op_iota(Op *op, int64_t count, Term **out);

/* ---- attention.c ---- */

/* [batch, length, heads size] to [batch, heads, length, size]; four axes stay. And back. */
Status op_split_heads(Op *op, Term *x, int64_t heads, Term **out);
Status op_join_heads(Op *op, Term *x, Term **out);

/* ---- convolution.c ---- */

/* The convolution of x by w with the node's attributes, without a bias. */
Status op_conv(Op *op, Term *x, Term *w, Term **out);
/* y plus a bias with an element for each of its channels; y itself where that is absent. */
Status op_add_bias(Op *op, Term *y, Term *bias, const char *name, Term **out);

/* ---- batch.c ---- */

/* The graph, and where the samples lie in it, found at two sample counts; what was found is kept in the model for the
 * next graph of the same sizes of other dimensions. */
Status bind_with_samples(Model *model, const BindOptions *options, Arena *scratch, Arena *result, Graph **graph);

#endif
