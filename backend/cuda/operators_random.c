/* From nodes to launches: what is drawn. */
#include "backend/cuda/cuda.h"
#include "backend/reference/reference.h"

static double kept_factor(const Node *node) {
  double ratio = node_float(node, "ratio", 0.5);
  return ratio < 1 ? 1 / (1 - ratio) : 0;
}

/* As the reference's (backend/reference/random.c). */
Drawing cuda_drawing(const Node *node, int64_t elements) {
  int64_t outer = node_int(node, "outer", 1), inner = node_int(node, "inner", 0);
  bool per_sample = node_int(node, "per_sample", 0) && outer > 0 && inner > 0;
  return (Drawing){.samples = per_sample ? elements / (outer * inner) : 1,
                   .inner = per_sample ? inner : elements,
                   .per_sample = per_sample,
                   .seed = (uint64_t)node_int(node, "seed", 0),
                   .node = (uint32_t)node_int(node, "node", 0),
                   .threshold = (uint64_t)(node_float(node, "ratio", 0.5) * 0x1p32)};
}

KERNEL(Dropout, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  int64_t n = shape_elements(in->shape);
  Drawing d = cuda_drawing(node, n);
  launch_dropout(stream->cuda, (Types){.in = {in->dtype}, .out = out->dtype}, &d, n, kept_factor(node), in[0].data,
                 in[1].data, out[0].data, out[1].data);
  return cuda_launched(stream, node);
}

KERNEL(DropoutGrad, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_dropout_grad(stream->cuda, (Types){.in = {in->dtype}, .out = out->dtype}, shape_elements(in->shape),
                      kept_factor(node), in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

/* from + by times a number between 0 and 1, or a standard normal one. */
static Status draw(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, bool is_normal, double from,
                   double by) {
  TAKES(in->dtype, is_float(in->dtype));
  int64_t n = shape_elements(in->shape);
  Drawing d = cuda_drawing(node, n);
  launch_draw(stream->cuda, in->dtype, &d, is_normal, n, from, by, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(RandomUniform, .accepts = takes_floats) {
  UNUSED;
  double low = node_float(node, "low", 0);
  return draw(stream, node, in, out, false, low, node_float(node, "high", 1) - low);
}

KERNEL(RandomNormal, .accepts = takes_floats) {
  UNUSED;
  return draw(stream, node, in, out, true, node_float(node, "mean", 0), node_float(node, "scale", 1));
}
