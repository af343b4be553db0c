/* Resampling over threads: the axes before the resampled one are independent. */
#include "backend/cpu/split.h"
#include "backend/reference/reference.h"

/* Indices and weights are read whole: they lie below the last two axes. */
#define SPLIT_LINES(op_name)                                                                                           \
  CPU_KERNEL(op_name, .accepts = takes_floats) {                                                                       \
    CPU_UNUSED;                                                                                                        \
    int axes = (int)node_int(node, "axis", 0);                                                                         \
    return split_leading(stream, node, in, out, (int)least(axes, out->shape.rank - 2), reference_##op_name.run);       \
  }
SPLIT_LINES(Resample)
SPLIT_LINES(ResampleGrad)
