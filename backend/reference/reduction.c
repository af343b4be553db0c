/* Sums, means and maxima over any axes. Invariant: the order of a sum depends on the shape alone: along a reduced last
 * axis in lanes (LANE_SUM), over the other reduced axes in row-major order. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"
#include "graph/narrow.h"

/* The input's axes, merged where neighbours are both kept or both reduced, split into the two kinds. */
typedef struct {
  int n_kept, n_reduced;
  int64_t kept[MAX_RANK], kept_step[MAX_RANK];
  int64_t reduced[MAX_RANK], reduced_step[MAX_RANK];
  int64_t columns; /* 1 where the last axis is reduced, else its size: that many results lie side by side */
  int64_t run;     /* size of the last axis where it is reduced, else 1 */
} Fold;

static void fold_init(Fold *fold, const Node *node, Shape shape) {
  int count, next, n = 0;
  const int64_t *axes = node_ints(node, "axes", &count);
  int64_t dim[MAX_RANK], step = 1;
  bool reduced[MAX_RANK];
  *fold = (Fold){.columns = 1, .run = 1};
  next = count - 1;
  for (int i = shape.rank - 1; i >= 0; i--) { /* last axis first */
    bool is_reduced = next >= 0 && axes[next] == i;
    next -= is_reduced;
    if (n && reduced[n - 1] == is_reduced) {
      dim[n - 1] *= shape.dim[i];
    } else {
      dim[n] = shape.dim[i];
      reduced[n++] = is_reduced;
    }
  }
  if (n)
    *(reduced[0] ? &fold->run : &fold->columns) = dim[0];
  for (int i = 0; i < n; i++) {
    if (i && reduced[i]) {
      fold->reduced[fold->n_reduced] = dim[i];
      fold->reduced_step[fold->n_reduced++] = step;
    } else if (i) {
      fold->kept[fold->n_kept] = dim[i];
      fold->kept_step[fold->n_kept++] = step;
    }
    step *= dim[i];
  }
}

static int64_t product(const int64_t *dim, int n) {
  int64_t p = 1;
  for (int i = 0; i < n; i++)
    p *= dim[i];
  return p;
}

/* Offset of row-major position i in loops whose last one comes first in `dim`. */
static int64_t offset_of(int64_t i, const int64_t *dim, const int64_t *step, int n) {
  int64_t at = 0;
  for (int k = 0; k < n; k++) {
    at += i % dim[k] * step[k];
    i /= dim[k];
  }
  return at;
}

enum { BLOCK = 128, AHEAD = 8 /* rows of a block that are brought near: they lie too far apart to be foreseen */ };

#define ADD_LOOPS(S, T, VALUE)                                                                                         \
  WIDE_LOOPS static double run_##S(const T *x, int64_t n) {                                                            \
    double sum;                                                                                                        \
    LANE_SUM(sum, n, (double)VALUE(x[i]));                                                                             \
    return sum;                                                                                                        \
  }                                                                                                                    \
  WIDE_LOOPS static void columns_##S(const T *x, double *sum, int64_t n) {                                             \
    for (int64_t i = 0; i < n; i++)                                                                                    \
      sum[i] += (double)VALUE(x[i]);                                                                                   \
  }
ADD_LOOPS(f32, float, )
ADD_LOOPS(f64, double, )
ADD_LOOPS(bf16, uint16_t, bf16_value)

/* A block of neighbouring results at a time, in double. */
#define SUM(S, T, Y)                                                                                                   \
  static void sum_##S(const Fold *f, const Tensor *in, const Tensor *out, int64_t first, int64_t end,                  \
                      double divisor) {                                                                                \
    int64_t blocks = (f->columns + BLOCK - 1) / BLOCK, folds = product(f->reduced, f->n_reduced);                      \
    for (int64_t b = first; b < end; b++) {                                                                            \
      int64_t r = b / blocks, c = b % blocks * BLOCK;                                                                  \
      const T *x = (const T *)in->data + offset_of(r, f->kept, f->kept_step, f->n_kept) + c;                           \
      Y *y = (Y *)out->data + r * f->columns + c;                                                                      \
      int64_t n = f->columns - c < BLOCK ? f->columns - c : BLOCK;                                                     \
      double sum[BLOCK] = {0};                                                                                         \
      for (int64_t k = 0; k < folds; k++) {                                                                            \
        const T *part = x + offset_of(k, f->reduced, f->reduced_step, f->n_reduced);                                   \
        if (f->columns == 1) {                                                                                         \
          sum[0] += run_##S(part, f->run);                                                                             \
          continue;                                                                                                    \
        }                                                                                                              \
        for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(T))                                                       \
          __builtin_prefetch(part + AHEAD * f->columns + i);                                                           \
        columns_##S(part, sum, n);                                                                                     \
      }                                                                                                                \
      for (int64_t i = 0; i < n; i++)                                                                                  \
        y[i] = (Y)(sum[i] / divisor);                                                                                  \
    }                                                                                                                  \
  }
SUM(f32, float, float)
SUM(f64, double, double)
SUM(bf16, uint16_t, float)

int64_t reduce_blocks(const Node *node, Shape shape) {
  Fold f;
  fold_init(&f, node, shape);
  return product(f.kept, f.n_kept) * ((f.columns + BLOCK - 1) / BLOCK);
}

void reduce_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  Fold f;
  fold_init(&f, node, in->shape);
  double divisor = node->op == OP_ReduceMean ? (double)(product(f.reduced, f.n_reduced) * f.run) : 1;
  if (in->dtype == F32)
    sum_f32(&f, in, out, first, end, divisor);
  else if (in->dtype == BF16)
    sum_bf16(&f, in, out, first, end, divisor);
  else
    sum_f64(&f, in, out, first, end, divisor);
}

/* One result at a time, in row-major order: integers and maxima. Of nothing, the least number is the largest. */
#define FOLD(name, T, A, FIRST, STEP)                                                                                  \
  static Status name(const Node *node, const Tensor *in, const Tensor *out) {                                          \
    Fold f;                                                                                                            \
    fold_init(&f, node, in->shape);                                                                                    \
    int64_t results = product(f.kept, f.n_kept) * f.columns, folds = product(f.reduced, f.n_reduced);                  \
    for (int64_t r = 0; r < results; r++) {                                                                            \
      const T *x = (const T *)in->data + offset_of(r / f.columns, f.kept, f.kept_step, f.n_kept) + r % f.columns;      \
      A all = FIRST;                                                                                                   \
      for (int64_t k = 0; k < folds; k++)                                                                              \
        for (int64_t i = 0; i < f.run; i++) {                                                                          \
          T next = x[offset_of(k, f.reduced, f.reduced_step, f.n_reduced) + i];                                        \
          STEP;                                                                                                        \
        }                                                                                                              \
      ((T *)out->data)[r] = (T)all;                                                                                    \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }
FOLD(sum_i64, int64_t, uint64_t, 0, all += (uint64_t)next)
FOLD(sum_i32, int32_t, uint32_t, 0, all += (uint32_t)next)
FOLD(max_f32, float, float, -INFINITY, all = next > all || next != next ? next : all)
FOLD(max_f64, double, double, -INFINITY, all = next > all || next != next ? next : all)
FOLD(max_i64, int64_t, int64_t, INT64_MIN, all = next > all ? next : all)
FOLD(max_i32, int32_t, int32_t, INT32_MIN, all = next > all ? next : all)

KERNEL(ReduceSum, .accepts = takes_numbers) {
  UNUSED;
  switch (in->dtype) {
    CASE(F32, (reduce_part(node, in, out, 0, reduce_blocks(node, in->shape)), OK))
    CASE(F64, (reduce_part(node, in, out, 0, reduce_blocks(node, in->shape)), OK))
    CASE(I64, sum_i64(node, in, out))
    CASE(I32, sum_i32(node, in, out))
  default:
    return unsupported_type(node, in->dtype);
  }
}

KERNEL(ReduceMean, .accepts = takes_floats) {
  UNUSED;
  switch (in->dtype) {
    CASE(F32, (reduce_part(node, in, out, 0, reduce_blocks(node, in->shape)), OK))
    CASE(F64, (reduce_part(node, in, out, 0, reduce_blocks(node, in->shape)), OK))
  default:
    return unsupported_type(node, in->dtype);
  }
}

KERNEL(ReduceMax, .accepts = takes_numbers) {
  UNUSED;
  switch (in->dtype) {
    CASE(F32, max_f32(node, in, out))
    CASE(F64, max_f64(node, in, out))
    CASE(I64, max_i64(node, in, out))
    CASE(I32, max_i32(node, in, out))
  default:
    return unsupported_type(node, in->dtype);
  }
}
