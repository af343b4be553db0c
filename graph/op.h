/* The one table of operators. An operator is one entry: what it is called, its shapes, its gradient, its cost.
 * graph/ops.def lists the names; graph/ops/ holds the entries; every backend's table has OP_COUNT kernels. */
#ifndef GRAPH_OP_H
#define GRAPH_OP_H

#include "graph/cost.h"
#include "graph/graph.h"

/* What others ask of an operator, beside its rules; nothing lists operators or goes by their order. */
enum {
  OP_VIEW = 1,          /* the output shares in[0]'s bytes: no kernel runs where both lie in one stage */
  OP_MUTATES_FIRST = 2, /* writes in[0], which is persistent: an accumulator (AccumulateRows in[1], too), a buffer */
  OP_UPDATE = 4,        /* an optimizer step: writes its parameter and states */
  OP_ELEMENTWISE = 8,   /* an element follows from those at its place; inputs broadcast to the output */
  OP_PERMUTES = 16,     /* the output's axes are the input's, in some order */
  OP_LINEAR = 32,       /* in all its inputs together */
  OP_BILINEAR = 64,     /* in each of its first two inputs */
  OP_PRODUCT = 128,     /* of matrices: heeds Node.precision */
  OP_SCALES = 256,      /* a vector among its first two inputs multiplies: ones leave things as they are */
  OP_DIVIDES = 512,     /* by in[1], in which a whole 0 has no meaning */
  OP_ANY_TYPE = 1024,   /* elements of any type, as they are or bit by bit */
  OP_RANDOM = 2048,     /* draws by its last input, the counter; nothing of it is known, nor the same for all samples */
  OP_STOPS = 4096,      /* no gradient passes it: of its inputs it has the shape alone */
  OP_COUPLES = 8192,    /* where out[1], its statistics, is mixed, a sample is one of its microbatch: they meet there */
  OP_CONVOLVES = 32768, /* a product over windows */
  OP_ATTENDS = 65536,   /* products with a softmax between them */
  OP_IN_PLACE = 16384   /* each output may lie over an input of its type and shape, two over two: kernels read a place
                           of all inputs before they write it, and nothing of that place afterwards */
};

typedef struct {
  const char *name;
  int min_in, max_in, min_out, max_out;
  unsigned traits;
  /* Sets dtype and shape of every present output. Called with the inputs' count and presence checked. */
  Status (*infer_shape)(Graph *graph, Node *node);
  /* Emits nodes that compute the cotangents. d_out[i] is NO_VALUE when output i has none. d_in[i] arrives as
   * NO_VALUE and is set where graph_value(in[i])->needs_gradient; it may have the broadcast shape: autodiff
   * un-broadcasts and sums fan-out. Input and weight gradients come from separate nodes (B and W apart).
   * NULL: not differentiable (integers, comparisons, gradient nodes). */
  Status (*gradient)(Graph *graph, const Node *node, const ValueId *d_out, ValueId *d_in);
  /* Floating-point operations and bytes moved. NULL: bytes of inputs and outputs, one operation an element. */
  Cost (*cost)(const Graph *graph, const Node *node);
  /* Where the samples lie in every output (out [n_out], BATCH_NONE at first), given where they lie in the inputs (in
   * [n_in]), of which some are BATCH_AXIS and none is BATCH_MIXED. NULL: what comes out is mixed. */
  void (*batch)(const Graph *graph, const Node *node, const Batch *in, Batch *out);
} OpDef;

#define OP(name) extern const OpDef op_##name;
#include "graph/ops.def"
#undef OP

/* Whether whoever will run the graph has the node: all backends of a run. */
typedef bool Takes(const void *context, const Graph *graph, const Node *node);

/* The entry of an operator. */
const OpDef *op_def(OpKind op);
/* The operator with this name, or OP_COUNT. */
OpKind op_find(const char *name);
/* The cost of a node by its rule or the default. A view costs nothing. */
Cost op_cost(const Graph *graph, const Node *node);
/* The roofline of a node on a device, in the node's precision. */
double op_seconds(const Graph *graph, const Node *node, const DeviceSpec *device);

#endif
