/* From nodes to launches: the steps of recurrent layers. */
#include "backend/cuda/cuda.h"
#include "backend/reference/reference.h"

/* What is absent behind the last input has no Tensor. */
static void *data_of(const Node *node, const Tensor *in, int i) {
  return i < node->n_in ? in[i].data : NULL;
}

/* T steps of N samples with H units: all = [T,N,H]. */
static RecurrentWork work_of(const Node *node, const Tensor *in, Shape all, int lengths) {
  RecurrentWork w = {.steps = all.dim[0], .samples = all.dim[1], .units = all.dim[2]};
  recurrent_of(node, &w.r);
  w.lengths = data_of(node, in, lengths);
  w.length_type = w.lengths ? in[lengths].dtype : I64;
  return w;
}

/* The state that the walk begins with; 0 where none is given. */
static Status begin_with(Stream *stream, const void *first, const Tensor *state) {
  size_t bytes = tensor_bytes(state);
  return first ? backend_cuda.copy(stream, state->data, first, bytes, COPY_DEVICE_TO_DEVICE)
               : backend_cuda.zero(stream, state->data, bytes);
}

/* Samples times (gates + 1) units forward: sums and r h; samples times units backward. */
static size_t steps_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  bool forward = node->op == OP_RecurrentSteps;
  const Value *matrix = graph_value(graph, node->in[forward ? STEPS_R : STEPS_GRAD_R]);
  int64_t samples = graph_value(graph, node->in[forward ? STEPS_P : STEPS_GRAD_PREV])->shape.dim[1];
  return (size_t)(samples * (matrix->shape.dim[1] + (forward ? matrix->shape.dim[0] : 0))) * dtype_bytes(matrix->dtype);
}

KERNEL(RecurrentSteps, .accepts = takes_floats, .workspace = steps_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  RecurrentWork w = work_of(node, in, out[0].shape, STEPS_LENGTHS);
  bool lstm = w.r.cell == CELL_LSTM;
  TRY(begin_with(stream, data_of(node, in, STEPS_H0), &out[1]));
  if (lstm)
    TRY(begin_with(stream, data_of(node, in, STEPS_C0), &out[2]));
  w.matrix = in[STEPS_R].data;
  w.bias = data_of(node, in, STEPS_B);
  w.p = in[STEPS_P].data;
  w.y = out[0].data;
  w.h = out[1].data;
  w.c = lstm ? out[2].data : NULL;
  w.prev = out[2 + lstm].data;
  w.saved = w.r.saved ? out[3 + lstm].data : NULL;
  w.work = workspace;
  w.sums = (char *)workspace + (size_t)(w.samples * w.units) * dtype_bytes(in->dtype);
  launch_recurrent(stream->cuda, in->dtype, &w);
  return cuda_launched(stream, node);
}

KERNEL(RecurrentStepsGrad, .accepts = takes_floats, .workspace = steps_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  RecurrentWork w = work_of(node, in, in[STEPS_GRAD_PREV].shape, STEPS_GRAD_LENGTHS);
  bool lstm = w.r.cell == CELL_LSTM;
  TRY(begin_with(stream, data_of(node, in, STEPS_GRAD_H), &out[1]));
  if (lstm)
    TRY(begin_with(stream, data_of(node, in, STEPS_GRAD_C), &out[2]));
  w.matrix = in[STEPS_GRAD_R].data;
  w.prev = in[STEPS_GRAD_PREV].data;
  w.saved = in[STEPS_GRAD_SAVED].data;
  w.y = data_of(node, in, STEPS_GRAD_Y);
  w.h = out[1].data;
  w.c = lstm ? out[2].data : NULL;
  w.dp = out[0].data;
  w.ds = w.r.cell == CELL_GRU_AFTER ? out[2].data : NULL;
  w.work = workspace;
  launch_recurrent_grad(stream->cuda, in->dtype, &w);
  return cuda_launched(stream, node);
}
