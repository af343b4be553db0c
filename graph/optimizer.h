/* Optimizers as update nodes, PyTorch's definitions and defaults (torch.optim.SGD, Adam, AdamW, SparseAdam). */
#ifndef GRAPH_OPTIMIZER_H
#define GRAPH_OPTIMIZER_H

#include "graph/graph.h"

typedef enum { OPTIMIZER_SGD, OPTIMIZER_ADAM, OPTIMIZER_ADAMW, OPTIMIZER_SPARSE_ADAM, OPTIMIZER_COUNT } OptimizerKind;

typedef struct {
  OptimizerKind kind;
  double learning_rate; /* 1e-3 */
  double momentum;      /* 0 */
  bool nesterov;
  double beta1, beta2; /* 0.9, 0.999 */
  double epsilon;      /* 1e-8 */
  double weight_decay; /* 0; AdamW 0.01 */
} OptimizerSpec;

/* graph->step_scalars, float64: written by the trainer before each update. */
enum {
  SCALAR_LEARNING_RATE,
  SCALAR_BIAS_CORRECTION1, /* 1 - beta1^t, t from 1 */
  SCALAR_BIAS_CORRECTION2, /* 1 - beta2^t */
  SCALAR_GRADIENT_FACTOR,  /* multiplies every gradient: 1, or below for --clip-norm */
  SCALAR_FIRST_STEP,       /* 1 at t = 1, else 0: SGD's momentum buffer starts as the gradient */
  STEP_SCALARS
};

/* "sgd" …; OPTIMIZER_COUNT for an unknown name. */
OptimizerKind optimizer_find(const char *name);
/* PyTorch's. */
OptimizerSpec optimizer_defaults(OptimizerKind kind);

/* What is kept of gradients: rows where that is less; or, since the update means rows alone (SparseAdam), wherever they
 * are known. */
Keep optimizer_keeps(const OptimizerSpec *spec);

/* Whether the update of a table that is looked up alone goes over the rows that were, not over all of it: SparseAdam;
 * SGD without momentum and decay, with the bits of the other. */
bool optimizer_updates_rows(const OptimizerSpec *spec);

/* Before autodiff_append: what is kept of each parameter's gradient, over this many microbatches a step. `able`:
 * whoever runs the graph has the nodes that update rows; where it has not, what means rows alone is asked for all the
 * same. */
void optimizer_choose(Graph *graph, const OptimizerSpec *spec, int64_t microbatches, bool able);

/* Appends, for each trained parameter that has gradients (after autodiff_append), two nodes of PHASE_UPDATE with the
 * parameter's name, in this order:
 * SquaredNorm: inputs its accumulators in group order; output, of ROLE_STEP, the float64 scalar "NAME/squared_norm".
 * The global gradient norm (before SCALAR_GRADIENT_FACTOR) is the root of their sum in graph order.
 * The update: inputs parameter, step_scalars, its states (as many as the optimizer keeps), its accumulators in group
 * order, which the kernel adds up left to right; no outputs; attributes carry the constants.
 * Where a group's gradient is kept as rows (graph/rows.h) they are SquaredNormRows and SgdUpdateRows or AdamUpdateRows,
 * with the same attributes, or SparseAdamUpdate, and rows and places stand in the place of that accumulator. SparseAdam
 * updates parameters that have other gradients as Adam does. Fails E_USAGE on numbers that torch.optim refuses. */
Status optimizer_append(Graph *graph, const OptimizerSpec *spec);

/* Whether it is a parameter's norm, of which each update node has one before it. */
bool optimizer_is_norm(const Node *node);

/* Whether the update goes element by element, so that parts of a parameter may be updated apart, with the same bits:
 * its gradients are accumulators of the parameter's shape, not rows. */
bool optimizer_updates_parts(const Graph *graph, const Node *update);

/* Fills STEP_SCALARS scalars for step t (from 1) at this learning rate. */
void optimizer_scalars(const OptimizerSpec *spec, int64_t t, double learning_rate, double gradient_factor,
                       double scalars[STEP_SCALARS]);

#endif
