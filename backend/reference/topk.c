/* The k largest or smallest along an axis. Invariant: of equal elements the one before comes first, and no number is
 * larger than what is no number; so the order is a total one, and the result the same however it is found. */
#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

/* A line of results is a heap while it is filled, whose root is the last of those that are kept. Sorting takes the root
 * away, to the end, until none is left. `inner` elements apart. */
#define TOP_K(S, T)                                                                                                    \
  static bool before_##S(T a, int64_t i, T b, int64_t j, bool largest) {                                               \
    bool is_more = a > b || (a != a && b == b), is_less = a < b || (a == a && b != b);                                 \
    return is_more || is_less ? is_more == largest : i < j;                                                            \
  }                                                                                                                    \
  static void sink_##S(T *y, int64_t *at, int64_t inner, int64_t n, T x, int64_t i, bool largest) {                    \
    int64_t hole = 0;                                                                                                  \
    for (int64_t child = 1; child < n; child = 2 * hole + 1) {                                                         \
      int64_t a = child * inner, b = a + inner;                                                                        \
      if (child + 1 < n && before_##S(y[a], at[a], y[b], at[b], largest))                                              \
        child++, a = b;                                                                                                \
      if (!before_##S(x, i, y[a], at[a], largest))                                                                     \
        break;                                                                                                         \
      y[hole * inner] = y[a];                                                                                          \
      at[hole * inner] = at[a];                                                                                        \
      hole = child;                                                                                                    \
    }                                                                                                                  \
    y[hole * inner] = x;                                                                                               \
    at[hole * inner] = i;                                                                                              \
  }                                                                                                                    \
  static void rise_##S(T *y, int64_t *at, int64_t inner, int64_t hole, T x, int64_t i, bool largest) {                 \
    for (; hole && before_##S(y[(hole - 1) / 2 * inner], at[(hole - 1) / 2 * inner], x, i, largest);                   \
         hole = (hole - 1) / 2) {                                                                                      \
      y[hole * inner] = y[(hole - 1) / 2 * inner];                                                                     \
      at[hole * inner] = at[(hole - 1) / 2 * inner];                                                                   \
    }                                                                                                                  \
    y[hole * inner] = x;                                                                                               \
    at[hole * inner] = i;                                                                                              \
  }                                                                                                                    \
  static void line_##S(const T *x, int64_t n, T *y, int64_t *at, int64_t k, int64_t inner, bool largest) {             \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      if (i < k)                                                                                                       \
        rise_##S(y, at, inner, i, x[i * inner], i, largest);                                                           \
      else if (before_##S(x[i * inner], i, *y, *at, largest))                                                          \
        sink_##S(y, at, inner, k, x[i * inner], i, largest);                                                           \
    }                                                                                                                  \
    for (int64_t end = k - 1; end > 0; end--) {                                                                        \
      T last = y[end * inner];                                                                                         \
      int64_t i = at[end * inner];                                                                                     \
      y[end * inner] = *y;                                                                                             \
      at[end * inner] = *at;                                                                                           \
      sink_##S(y, at, inner, end, last, i, largest);                                                                   \
    }                                                                                                                  \
  }                                                                                                                    \
  static Status top_##S(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {           \
    int axis = (int)node_int(node, "axis", 0);                                                                         \
    Split3 from = split_at(in->shape, axis), to = split_at(out->shape, axis);                                          \
    for (int64_t line = first; to.size && line < end; line++) {                                                        \
      int64_t outer = line / to.inner, column = line % to.inner, at = outer * to.size * to.inner + column;             \
      line_##S((const T *)in->data + outer * from.size * from.inner + column, from.size, (T *)out[0].data + at,        \
               (int64_t *)out[1].data + at, to.size, to.inner, node_int(node, "largest", 1));                          \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }
TOP_K(f32, float)
TOP_K(f64, double)
TOP_K(i64, int64_t)
TOP_K(i32, int32_t)

int64_t top_k_lines(const Node *node, const Tensor *out) {
  Split3 to = split_at(out->shape, (int)node_int(node, "axis", 0));
  return to.outer * to.inner;
}

Status top_k_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  switch (in->dtype) {
    CASE(F32, top_f32(node, in, out, first, end))
    CASE(F64, top_f64(node, in, out, first, end))
    CASE(I64, top_i64(node, in, out, first, end))
    CASE(I32, top_i32(node, in, out, first, end))
  default:
    return unsupported_type(node, in->dtype);
  }
}

KERNEL(TopK, .accepts = takes_numbers) {
  UNUSED;
  return top_k_part(node, in, out, 0, top_k_lines(node, out));
}
