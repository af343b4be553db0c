/* From nodes to launches: batch normalisation. */
#include "backend/cuda/cuda.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"

static Lines channels_of(Shape x) {
  Split3 s = split_at(x, 1);
  return (Lines){s.outer, s.size, s.inner};
}

/* x: which input it is. */
static size_t partials(const Graph *graph, const Node *node, int x) {
  Lines l = channels_of(kernel_input(graph, node, x).shape);
  return sizeof(double) * (size_t)fold_partials(l.size, l.outer * l.inner, l.inner != 1);
}

static size_t norm_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return partials(graph, node, 0);
}

/* X, and dY, and what has their shape, as they like. */
static bool takes_activations(const Node *node, const Tensor *in, const Tensor *out) {
  bool backward = node->op != OP_BatchNormalization, wide = true;
  for (int i = backward ? 2 : 1; i < node->n_in; i++)
    wide &= in[i].dtype != BF16;
  for (int i = node->op == OP_BatchNormalizationGradScale ? 0 : 1; i < node->n_out; i++)
    wide &= out[i].dtype != BF16;
  return wide;
}

static ChannelWork work_of(const Node *node, const Tensor *x, const Tensor *scale) {
  return (ChannelWork){.lines = channels_of(x->shape),
                       .scales = shape_elements(scale->shape),
                       .epsilon = node_float(node, "epsilon", 1e-5),
                       .unbiased = node_int(node, "unbiased", 0) != 0};
}

KERNEL(BatchNormalization, .accepts = takes_floats, .narrow = takes_activations, .workspace = norm_workspace) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  ChannelWork w = work_of(node, &in[0], &in[1]);
  launch_batch_norm(stream->cuda, in->dtype, out->dtype, &w, in[0].data, in[1].data, in[2].data, out[0].data,
                    out[1].data, out[2].data, out[3].data, workspace);
  return cuda_launched(stream, node);
}

KERNEL(BatchNormalizationGradScale, .accepts = takes_floats, .narrow = takes_activations, .workspace = norm_workspace) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_batch_norm_sums(stream->cuda, in[0].dtype, in[1].dtype, channels_of(in[1].shape), in[0].data, in[1].data,
                         in[2].data, in[3].data, out[0].data, out[1].data, workspace);
  return cuda_launched(stream, node);
}

KERNEL(BatchNormalizationGradInput, .accepts = takes_floats, .narrow = takes_activations) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  ChannelWork w = work_of(node, &in[1], &in[2]);
  launch_batch_norm_grad(stream->cuda, in[0].dtype, in[1].dtype, out->dtype, &w, in[0].data, in[1].data, in[2].data,
                         in[3].data, in[4].data, in[5].data, in[6].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(UpdateStatistics, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_update_statistics(stream->cuda, in->dtype, shape_elements(in->shape), node_float(node, "momentum", 0.9),
                           in[1].data, in[0].data);
  return cuda_launched(stream, node);
}
