/* Windows and resampling over threads: planes, and the axes before the resampled one, are independent. */
#include "backend/cpu/split.h"
#include "backend/reference/reference.h"

/* Indices count the elements of all planes. */
CPU_KERNEL(MaxPool, .accepts = takes_pooled) {
  CPU_UNUSED;
  bool counts = node->n_out > 1 && out[1].data;
  return split_leading(stream, node, in, out, counts ? 0 : 2, reference_MaxPool.run);
}

#define SPLIT_PLANES(op_name)                                                                                          \
  CPU_KERNEL(op_name, .accepts = takes_floats) {                                                                       \
    CPU_UNUSED;                                                                                                        \
    return split_leading(stream, node, in, out, 2, reference_##op_name.run);                                           \
  }
SPLIT_PLANES(MaxPoolGrad)
SPLIT_PLANES(AveragePool)
SPLIT_PLANES(AveragePoolGrad)

/* Indices and weights are read whole: they lie below the last two axes. */
#define SPLIT_LINES(op_name)                                                                                           \
  CPU_KERNEL(op_name, .accepts = takes_floats) {                                                                       \
    CPU_UNUSED;                                                                                                        \
    int axes = (int)node_int(node, "axis", 0);                                                                         \
    return split_leading(stream, node, in, out, (int)least(axes, out->shape.rank - 2), reference_##op_name.run);       \
  }
SPLIT_LINES(Resample)
SPLIT_LINES(ResampleGrad)
