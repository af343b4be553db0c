/* The steps of recurrent layers, one sample behind the other. Invariant: a sample's numbers do not depend on the
 * others; sums of a step's product run in double, in lanes along the units (LANE_SUM). */
#include "backend/reference/recurrent.h"

#include <string.h>
#include <tgmath.h>

#include "backend/reference/kernel.h"

Steps steps_of(const Node *node, const Tensor *in, Shape all, int lengths) {
  Steps s = {.steps = all.dim[0], .samples = all.dim[1], .units = all.dim[2]};
  recurrent_of(node, &s.r);
  s.lengths = node->n_in > lengths && in[lengths].data ? &in[lengths] : NULL;
  return s;
}

#define T float
#define S(name) name##_f32
#include "backend/reference/recurrent.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/recurrent.inc"
#undef T
#undef S

/* One sample's gates, and its units. */
static size_t steps_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  const Value *matrix = graph_value(graph, node->in[node->op == OP_RecurrentSteps ? STEPS_R : STEPS_GRAD_R]);
  return (size_t)(matrix->shape.dim[0] + matrix->shape.dim[1]) * dtype_bytes(matrix->dtype);
}

KERNEL(RecurrentSteps, .accepts = takes_floats, .workspace = steps_workspace) {
  (void)stream, (void)state;
  switch (in[0].dtype) {
    CASE(F32, forward_f32(node, in, out, workspace))
    CASE(F64, forward_f64(node, in, out, workspace))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}

KERNEL(RecurrentStepsGrad, .accepts = takes_floats, .workspace = steps_workspace) {
  (void)stream, (void)state;
  switch (in[0].dtype) {
    CASE(F32, backward_f32(node, in, out, workspace))
    CASE(F64, backward_f64(node, in, out, workspace))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}
