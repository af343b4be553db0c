/* Reading between elements over threads: a task a sample. */
#include "backend/cpu/cpu.h"
#include "backend/reference/reference.h"

enum { OPERANDS = 3 };

typedef struct {
  Stream *stream;
  const Node *node;
  const Tensor *in, *out;
  Kernel *kernel;
} Samples;

static Tensor sample_of(const Tensor *t, int64_t i) {
  Tensor sample = *t;
  sample.shape.dim[0] = 1;
  sample.data = (char *)t->data + (size_t)(i * shape_elements(sample.shape)) * dtype_bytes(t->dtype);
  return sample;
}

static Status run_sample(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Samples *s = context;
  Tensor in[OPERANDS], out = sample_of(s->out, i);
  for (int k = 0; k < s->node->n_in; k++)
    in[k] = sample_of(&s->in[k], i);
  return s->kernel(s->stream, s->node, in, &out, NULL, NULL);
}

#define POINTS(op_name)                                                                                                \
  CPU_KERNEL(op_name, .accepts = takes_floats) {                                                                       \
    CPU_UNUSED;                                                                                                        \
    Samples s = {stream, node, in, out, reference_##op_name.run};                                                      \
    return pool_run(stream->pool, out->shape.dim[0], run_sample, &s);                                                  \
  }
POINTS(PointSample)
POINTS(PointSampleGradInput)
POINTS(PointSampleGradPoints)
