/* SegmentReduce and its gradient. Invariant: a bag's rows are added in their order, in double. */
#include <string.h>

#include "backend/reference/kernel.h"

/* Rows first … end-1 of bag i of `rows` rows; bags lie one behind the other. Fails E_MODEL where they do not. */
static Status segment_at(const Node *node, const Tensor *offsets, int64_t i, int64_t rows, int64_t *first,
                         int64_t *end) {
  int64_t n = shape_elements(offsets->shape), at[2] = {0, rows};
  for (int k = 0; k < 2 && i + k < n; k++)
    at[k] = offsets->dtype == I64 ? ((const int64_t *)offsets->data)[i + k] : ((const int32_t *)offsets->data)[i + k];
  *first = at[0];
  *end = at[1];
  if (at[0] >= 0 && at[0] <= at[1] && at[1] <= rows)
    return OK;
  fail(E_MODEL, "bag %lld goes from row %lld to %lld of %lld", (long long)i, (long long)at[0], (long long)at[1],
       (long long)rows);
  node_context(node);
  return E_MODEL;
}

typedef enum { SEGMENT_SUM, SEGMENT_MEAN, SEGMENT_MAX } Mode;

static Mode mode_of(const Node *node) {
  const char *mode = node_string(node, "mode", "sum");
  return strcmp(mode, "max") == 0 ? SEGMENT_MAX : strcmp(mode, "mean") == 0 ? SEGMENT_MEAN : SEGMENT_SUM;
}

/* Elements of a row. */
static int64_t row_of(Shape s) {
  return shape_elements(shape_of(s.rank - 1, s.dim + 1));
}

#define T float
#define S(name) name##_f32
#include "backend/reference/segment.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/segment.inc"
#undef T
#undef S

FLOAT_KERNEL(SegmentReduce)
FLOAT_KERNEL(SegmentReduceGrad)
