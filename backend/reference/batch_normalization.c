/* Normalisation over all axes but axis 1. Invariant: sums in double, in an order that depends on the shape alone. */
#include <string.h>
#include <tgmath.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

enum { BLOCK = 64 };

#define T float
#define S(name) name##_f32
#include "backend/reference/batch_normalization.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/batch_normalization.inc"
#undef T
#undef S

/* As many channels as there may be side by side; where each is long, one is enough. */
static int64_t block(const Tensor *x) {
  return split_at(x->shape, 1).inner == 1 ? BLOCK : 1;
}

int64_t channel_blocks(const Tensor *x) {
  return (x->shape.dim[1] + block(x) - 1) / block(x);
}

#define PART(name)                                                                                                     \
  case OP_##name:                                                                                                      \
    if (in->dtype == F32)                                                                                              \
      name##_f32(node, in, out, c, n);                                                                                 \
    else                                                                                                               \
      name##_f64(node, in, out, c, n);                                                                                 \
    break;

void channel_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  for (int64_t b = first; b < end; b++) {
    int64_t c = b * block(in), n = least(block(in), in->shape.dim[1] - c);
    switch (node->op) {
      PART(BatchNormalization)
      PART(BatchNormalizationGradScale)
      PART(BatchNormalizationGradInput)
    default:
      break;
    }
  }
}

#define CHANNEL_KERNEL(name)                                                                                           \
  KERNEL(name, .accepts = takes_floats) {                                                                              \
    UNUSED;                                                                                                            \
    if (in->dtype != F32 && in->dtype != F64)                                                                          \
      return unsupported_type(node, in->dtype);                                                                        \
    channel_part(node, in, out, 0, channel_blocks(in));                                                                \
    return OK;                                                                                                         \
  }
CHANNEL_KERNEL(BatchNormalization)
CHANNEL_KERNEL(BatchNormalizationGradScale)
CHANNEL_KERNEL(BatchNormalizationGradInput)

/* running = momentum running + (1 - momentum) statistic */
KERNEL(UpdateStatistics, .accepts = takes_floats) {
  UNUSED;
  (void)out;
  double momentum = node_float(node, "momentum", 0.9);
  int64_t n = shape_elements(in->shape);
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  if (in->dtype == F32)
    for (int64_t i = 0; i < n; i++)
      ((float *)in[0].data)[i] = (float)(momentum * (double)((const float *)in[0].data)[i] +
                                         (1 - momentum) * (double)((const float *)in[1].data)[i]);
  else
    for (int64_t i = 0; i < n; i++)
      ((double *)in[0].data)[i] =
          momentum * ((const double *)in[0].data)[i] + (1 - momentum) * ((const double *)in[1].data)[i];
  return OK;
}
