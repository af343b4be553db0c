/* Optimizers as update nodes, PyTorch's definitions and defaults (torch.optim.SGD, Adam, AdamW). */
#ifndef GRAPH_OPTIMIZER_H
#define GRAPH_OPTIMIZER_H

#include "graph/graph.h"

typedef enum { OPTIMIZER_SGD, OPTIMIZER_ADAM, OPTIMIZER_ADAMW, OPTIMIZER_COUNT } OptimizerKind;

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

/* Appends, for each trained parameter that has gradients (after autodiff_append), two nodes of PHASE_UPDATE with the
 * parameter's name, in this order:
 * SquaredNorm: inputs its accumulators in group order; output, of ROLE_STEP, the float64 scalar "NAME/squared_norm".
 * The global gradient norm (before SCALAR_GRADIENT_FACTOR) is the root of their sum in graph order.
 * The update: inputs parameter, step_scalars, its states (as many as the optimizer keeps), its accumulators in group
 * order, which the kernel adds up left to right; no outputs; attributes carry the constants. Fails E_USAGE on numbers
 * that torch.optim refuses. */
Status optimizer_append(Graph *graph, const OptimizerSpec *spec);

/* Fills STEP_SCALARS scalars for step t (from 1) at this learning rate. */
void optimizer_scalars(const OptimizerSpec *spec, int64_t t, double learning_rate, double gradient_factor,
                       double scalars[STEP_SCALARS]);

#endif
