/* Batch normalisation by blocks of channels, draws by runs of elements. Invariant: what a task computes is what the
 * reference does for its part, whoever runs it. */
#include "backend/cpu/split.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"

typedef struct {
  const Node *node;
  const Tensor *in, *out;
  void (*part)(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);
  int64_t n, of_task;
} Parts;

static Status part_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Parts *p = context;
  p->part(p->node, p->in, p->out, i * p->of_task, least((i + 1) * p->of_task, p->n));
  return OK;
}

static Status run_parts(Stream *stream, Parts p, int64_t elements) {
  if (p.in->dtype != F32 && p.in->dtype != F64)
    return unsupported_type(p.node, p.in->dtype);
  if (!p.n)
    return OK;
  p.of_task = items_of_task(p.n, elements / p.n);
  return pool_run(stream->pool, (p.n + p.of_task - 1) / p.of_task, part_task, &p);
}

#define CHANNELS(op_name)                                                                                              \
  CPU_KERNEL(op_name, .accepts = takes_floats) {                                                                       \
    CPU_UNUSED;                                                                                                        \
    return run_parts(stream, (Parts){node, in, out, channel_part, channel_blocks(in), 0}, shape_elements(in->shape));  \
  }
CHANNELS(BatchNormalization)
CHANNELS(BatchNormalizationGradScale)
CHANNELS(BatchNormalizationGradInput)

#define DRAWS(op_name)                                                                                                 \
  CPU_KERNEL(op_name, .accepts = takes_floats) {                                                                       \
    CPU_UNUSED;                                                                                                        \
    return run_parts(stream, (Parts){node, in, out, draw_part, shape_elements(in->shape), 0},                          \
                     shape_elements(in->shape));                                                                       \
  }
DRAWS(Dropout)
DRAWS(RandomUniform)
DRAWS(RandomNormal)

CPU_KERNEL(DropoutGrad, .accepts = takes_floats) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, reference_DropoutGrad.run);
}
