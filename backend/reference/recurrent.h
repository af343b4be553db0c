/* How kernels see the steps of a recurrent layer. */
#ifndef BACKEND_REFERENCE_RECURRENT_H
#define BACKEND_REFERENCE_RECURRENT_H

#include "backend/reference/reference.h"
#include "graph/ops/recurrent.h"

/* T steps of N samples with H units. */
typedef struct {
  Recurrent r;
  int64_t steps, samples, units;
  const Tensor *lengths; /* [N], NULL: all samples have T steps */
} Steps;

/* Of the node whose tensors of all steps have the shape `all`; `lengths`: which of its inputs holds them. */
Steps steps_of(const Node *node, const Tensor *in, Shape all, int lengths);

/* Step number k of the walk forward. */
static inline int64_t step_at(const Steps *s, int64_t k) {
  return s->r.reverse ? s->steps - 1 - k : k;
}

/* Whether sample n has a step t. */
static inline bool step_counts(const Steps *s, int64_t t, int64_t n) {
  return !s->lengths || t < (s->lengths->dtype == I64 ? ((const int64_t *)s->lengths->data)[n]
                                                      : ((const int32_t *)s->lengths->data)[n]);
}

#endif
