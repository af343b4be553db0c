/* Kernels that move elements, by element size: types do not matter. Transpose, Expand, Slice and SliceGrad are one
 * strided copy. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

void nest_push(Nest *nest, int64_t dim, int64_t from, int64_t to) {
  int last = nest->rank - 1;
  if (dim == 1)
    return;
  if (last >= 0 && nest->from[last] == dim * from && nest->to[last] == dim * to) {
    nest->dim[last] *= dim;
    nest->from[last] = from;
    nest->to[last] = to;
    return;
  }
  nest->dim[nest->rank] = dim;
  nest->from[nest->rank] = from;
  nest->to[nest->rank++] = to;
}

void dense_strides(Shape shape, int64_t dense[MAX_RANK]) {
  int64_t step = 1;
  for (int i = shape.rank - 1; i >= 0; i--) {
    dense[i] = step;
    step *= shape.dim[i];
  }
}

#define COPY_RUN(name, T)                                                                                              \
  static void name(T *to, int64_t to_step, const T *from, int64_t from_step, int64_t n) {                              \
    for (int64_t i = 0; i < n; i++)                                                                                    \
      to[i * to_step] = from[i * from_step];                                                                           \
  }
COPY_RUN(copy_run8, uint64_t)
COPY_RUN(copy_run4, uint32_t)
COPY_RUN(copy_run2, uint16_t)
COPY_RUN(copy_run1, uint8_t)

static void copy_run(size_t size, char *to, int64_t to_step, const char *from, int64_t from_step, int64_t n) {
  if (to_step == 1 && from_step == 1)
    memcpy(to, from, (size_t)n * size);
  else if (size == 8)
    copy_run8((uint64_t *)to, to_step, (const uint64_t *)from, from_step, n);
  else if (size == 4)
    copy_run4((uint32_t *)to, to_step, (const uint32_t *)from, from_step, n);
  else if (size == 2)
    copy_run2((uint16_t *)to, to_step, (const uint16_t *)from, from_step, n);
  else
    copy_run1((uint8_t *)to, to_step, (const uint8_t *)from, from_step, n);
}

int64_t nest_runs(const Nest *nest) {
  int64_t runs = 1;
  for (int i = 0; i < nest->rank; i++) {
    if (nest->dim[i] == 0)
      return 0;
    runs *= i < nest->rank - 1 ? nest->dim[i] : 1;
  }
  return runs;
}

void nest_copy(const Nest *nest, size_t size, char *to, const char *from, int64_t first, int64_t end) {
  int last = nest->rank - 1;
  if (last < 0) {
    memcpy(to, from, size);
    return;
  }
  for (int64_t run = first; run < end; run++) {
    int64_t rest = run, from_at = 0, to_at = 0;
    for (int i = last - 1; i >= 0; i--) {
      int64_t at = rest % nest->dim[i];
      rest /= nest->dim[i];
      from_at += at * nest->from[i];
      to_at += at * nest->to[i];
    }
    copy_run(size, to + to_at * (int64_t)size, nest->to[last], from + from_at * (int64_t)size, nest->from[last],
             nest->dim[last]);
  }
}

static size_t tensor_bytes(const Tensor *tensor) {
  return (size_t)shape_elements(tensor->shape) * dtype_bytes(tensor->dtype);
}

KERNEL(Reshape, .accepts = takes_any) {
  UNUSED;
  size_t bytes = tensor_bytes(out);
  if (bytes)
    memcpy(out->data, in->data, bytes);
  return OK;
}

static void transpose_nest(const Node *node, const Tensor *in, const Tensor *out, Nest *nest) {
  int count;
  const int64_t *perm = node_ints(node, "perm", &count);
  int64_t from[MAX_RANK], to[MAX_RANK];
  dense_strides(in->shape, from);
  dense_strides(out->shape, to);
  for (int i = 0; i < count; i++)
    nest_push(nest, out->shape.dim[i], from[perm[i]], to[i]);
}

static void expand_nest(const Tensor *in, const Tensor *out, Nest *nest) {
  int64_t from[MAX_RANK], to[MAX_RANK];
  int lead = out->shape.rank - in->shape.rank;
  dense_strides(in->shape, from);
  dense_strides(out->shape, to);
  for (int i = 0; i < out->shape.rank; i++)
    nest_push(nest, out->shape.dim[i], i < lead || in->shape.dim[i - lead] == 1 ? 0 : from[i - lead], to[i]);
}

/* The part of `whole` that a node with Slice's attributes picks: its offset, and its strides by axis. */
static int64_t slice_of(const Node *node, Shape whole, int64_t stride[MAX_RANK]) {
  int count;
  const int64_t *axes = node_ints(node, "axes", &count), *starts = node_ints(node, "starts", &count);
  const int64_t *steps = node_ints(node, "steps", &count);
  int64_t offset = 0;
  dense_strides(whole, stride);
  for (int i = 0; i < count; i++) {
    offset += starts[i] * stride[axes[i]];
    /* a step beyond the axis is never taken: keep the product small */
    int64_t dim = whole.dim[axes[i]], step = steps[i] > dim ? dim : steps[i] < -dim ? -dim : steps[i];
    stride[axes[i]] *= step;
  }
  return offset;
}

static void slice_nest(const Node *node, const Tensor *in, const Tensor *out, Nest *nest) {
  bool gradient = node->op == OP_SliceGrad;
  Shape part = gradient ? in->shape : out->shape;
  int64_t whole[MAX_RANK], dense[MAX_RANK];
  int64_t offset = slice_of(node, gradient ? out->shape : in->shape, whole);
  *(gradient ? &nest->to_offset : &nest->from_offset) = offset;
  dense_strides(part, dense);
  for (int i = 0; i < part.rank; i++)
    nest_push(nest, part.dim[i], gradient ? dense[i] : whole[i], gradient ? whole[i] : dense[i]);
}

void nest_init(Nest *nest, const Node *node, const Tensor *in, const Tensor *out) {
  *nest = (Nest){0};
  if (node->op == OP_Transpose)
    transpose_nest(node, in, out, nest);
  else if (node->op == OP_Expand)
    expand_nest(in, out, nest);
  else
    slice_nest(node, in, out, nest);
}

static Status copy_all(const Node *node, const Tensor *in, const Tensor *out) {
  Nest nest;
  int64_t size = (int64_t)dtype_bytes(in->dtype);
  nest_init(&nest, node, in, out);
  int64_t runs = nest_runs(&nest);
  if (runs)
    nest_copy(&nest, (size_t)size, (char *)out->data + nest.to_offset * size,
              (const char *)in->data + nest.from_offset * size, 0, runs);
  return OK;
}

KERNEL(Transpose, .accepts = takes_any) {
  UNUSED;
  return copy_all(node, in, out);
}

KERNEL(Expand, .accepts = takes_any) {
  UNUSED;
  return copy_all(node, in, out);
}

KERNEL(Slice, .accepts = takes_any) {
  UNUSED;
  return copy_all(node, in, out);
}

KERNEL(SliceGrad, .accepts = takes_any) {
  UNUSED;
  size_t bytes = tensor_bytes(out);
  if (bytes)
    memset(out->data, 0, bytes);
  return copy_all(node, in, out);
}

KERNEL(Concat, .accepts = takes_any) {
  UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  Split3 whole = split_at(out->shape, axis);
  size_t size = dtype_bytes(out->dtype), row = (size_t)(whole.size * whole.inner) * size, at = 0;
  for (int k = 0; k < node->n_in; k++) {
    size_t part = (size_t)(in[k].shape.dim[axis] * whole.inner) * size;
    for (int64_t o = 0; part && o < whole.outer; o++)
      memcpy((char *)out->data + (size_t)o * row + at, (const char *)in[k].data + (size_t)o * part, part);
    at += part;
  }
  return OK;
}

KERNEL(Split, .accepts = takes_any) {
  UNUSED;
  int count, axis = (int)node_int(node, "axis", 0);
  const int64_t *sizes = node_ints(node, "split", &count);
  Split3 whole = split_at(in->shape, axis);
  size_t size = dtype_bytes(in->dtype), row = (size_t)(whole.size * whole.inner) * size, at = 0;
  for (int k = 0; k < count; k++) {
    size_t part = (size_t)(sizes[k] * whole.inner) * size;
    for (int64_t o = 0; out[k].data && part && o < whole.outer; o++)
      memcpy((char *)out[k].data + (size_t)o * part, (const char *)in->data + (size_t)o * row + at, part);
    at += part;
  }
  return OK;
}

KERNEL(Trilu, .accepts = takes_any) {
  UNUSED;
  bool upper = node_int(node, "upper", 1);
  int64_t k = node_int(node, "k", 0);
  Split3 s = split_from(in->shape, in->shape.rank - 2);
  int64_t rows = in->shape.dim[in->shape.rank - 2], columns = in->shape.dim[in->shape.rank - 1];
  size_t size = dtype_bytes(in->dtype);
  for (int64_t row = 0; row < s.outer * rows && columns; row++) {
    /* columns before `cut` are c - row < k (upper) or c - row <= k (lower); k may be any number */
    int64_t r = row % rows, cut = k > columns ? columns : k < -rows ? 0 : r + k + !upper;
    cut = cut < 0 ? 0 : cut > columns ? columns : cut;
    const char *x = (const char *)in->data + (size_t)(row * columns) * size;
    char *y = (char *)out->data + (size_t)(row * columns) * size;
    size_t head = (size_t)cut * size, tail = (size_t)(columns - cut) * size;
    memset(upper ? y : y + head, 0, upper ? head : tail);
    memcpy(upper ? y + head : y, upper ? x + head : x, upper ? tail : head);
  }
  return OK;
}

#define RANGE(name, T, EXPR)                                                                                           \
  static Status name(const Tensor *in, const Tensor *out) {                                                            \
    T start = *(const T *)in[0].data, delta = *(const T *)in[2].data, *y = out->data;                                  \
    for (int64_t i = 0; i < out->shape.dim[0]; i++)                                                                    \
      y[i] = (T)(EXPR);                                                                                                \
    return OK;                                                                                                         \
  }
RANGE(range_f32, float, (double)start + (double)i * (double)delta)
RANGE(range_f64, double, start + (double)i * delta)
RANGE(range_i64, int64_t, (uint64_t)start + (uint64_t)i * (uint64_t)delta)
RANGE(range_i32, int32_t, (uint32_t)start + (uint32_t)i * (uint32_t)delta)

KERNEL(Range, .accepts = takes_numbers) {
  UNUSED;
  switch (in->dtype) {
    CASE(F32, range_f32(in, out))
    CASE(F64, range_f64(in, out))
    CASE(I64, range_i64(in, out))
    CASE(I32, range_i32(in, out))
  default:
    return unsupported_type(node, in->dtype);
  }
}

/* Running sums along the axis, in double for floats and wrapping for integers. */
#define CUMSUM(name, T, SUM)                                                                                           \
  static Status name(const Node *node, const Tensor *in, const Tensor *out) {                                          \
    bool exclusive = node_int(node, "exclusive", 0), reverse = node_int(node, "reverse", 0);                           \
    Split3 s = split_at(in->shape, (int)node_int(node, "axis", 0));                                                    \
    for (int64_t line = 0; line < s.outer * s.inner; line++) {                                                         \
      int64_t at = line / s.inner * s.size * s.inner + line % s.inner;                                                 \
      const T *x = (const T *)in->data + at;                                                                           \
      T *y = (T *)out->data + at;                                                                                      \
      SUM sum = 0;                                                                                                     \
      for (int64_t i = 0; i < s.size; i++) {                                                                           \
        int64_t j = (reverse ? s.size - 1 - i : i) * s.inner;                                                          \
        SUM before = sum;                                                                                              \
        sum += (SUM)x[j];                                                                                              \
        y[j] = (T)(exclusive ? before : sum);                                                                          \
      }                                                                                                                \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }
CUMSUM(cumsum_f32, float, double)
CUMSUM(cumsum_f64, double, double)
CUMSUM(cumsum_i64, int64_t, uint64_t)
CUMSUM(cumsum_i32, int32_t, uint32_t)

KERNEL(CumSum, .accepts = takes_numbers) {
  UNUSED;
  switch (in->dtype) {
    CASE(F32, cumsum_f32(node, in, out))
    CASE(F64, cumsum_f64(node, in, out))
    CASE(I64, cumsum_i64(node, in, out))
    CASE(I32, cumsum_i32(node, in, out))
  default:
    return unsupported_type(node, in->dtype);
  }
}
