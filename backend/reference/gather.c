/* Picking by index and its transpose, adding by index. Invariant: no index leaves its axis; one that would fails
 * E_MODEL with its value and position. */
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

static int64_t index_at(const Tensor *indices, int64_t i) {
  return indices->dtype == I64 ? ((const int64_t *)indices->data)[i] : ((const int32_t *)indices->data)[i];
}

Status gather_index(const Node *node, const Tensor *indices, int64_t i, Shape data, int axis, int64_t *offset) {
  int64_t index = index_at(indices, i), size = data.dim[axis];
  if (index < -size || index >= size) {
    fail(E_MODEL, "index %lld at position %lld is outside axis %d of %s", (long long)index, (long long)i, axis,
         SHAPE_STR(data));
    node_context(node);
    return E_MODEL;
  }
  *offset = index < 0 ? index + size : index;
  return OK;
}

KERNEL(Gather, .accepts = takes_any) {
  UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  Split3 s = split_at(in[0].shape, axis);
  int64_t count = shape_elements(in[1].shape);
  size_t row = (size_t)s.inner * dtype_bytes(in[0].dtype);
  for (int64_t i = 0; i < count; i++) {
    int64_t from;
    TRY(gather_index(node, &in[1], i, in[0].shape, axis, &from));
    for (int64_t o = 0; row && o < s.outer; o++)
      memcpy((char *)out->data + (size_t)(o * count + i) * row,
             (const char *)in[0].data + (size_t)(o * s.size + from) * row, row);
  }
  return OK;
}

/* GatherND: where row i of the indices [rows, depth] points in data whose leading batch axes the rows share. */
typedef struct {
  int batch, depth;
  int64_t rows, rows_per_batch, inner;
} Pick;

static Pick pick_of(const Node *node, Shape data, Shape indices) {
  Pick p = {.batch = (int)node_int(node, "batch_dims", 0), .depth = (int)indices.dim[indices.rank - 1]};
  p.rows = p.rows_per_batch = p.inner = 1;
  for (int i = 0; i < indices.rank - 1; i++)
    *(i < p.batch ? &p.rows : &p.rows_per_batch) *= indices.dim[i];
  p.rows *= p.rows_per_batch;
  for (int i = p.batch + p.depth; i < data.rank; i++)
    p.inner *= data.dim[i];
  return p;
}

/* The offset of row i's slice, in slices. */
static Status pick_offset(const Node *node, const Pick *p, const Tensor *indices, int64_t i, Shape data,
                          int64_t *offset) {
  int64_t at = i / p->rows_per_batch;
  for (int d = 0; d < p->depth; d++) {
    int64_t index;
    TRY(gather_index(node, indices, i * p->depth + d, data, p->batch + d, &index));
    at = at * data.dim[p->batch + d] + index;
  }
  *offset = at;
  return OK;
}

KERNEL(GatherND, .accepts = takes_any) {
  UNUSED;
  Pick p = pick_of(node, in[0].shape, in[1].shape);
  size_t bytes = (size_t)p.inner * dtype_bytes(in[0].dtype);
  for (int64_t i = 0; i < p.rows; i++) {
    int64_t from;
    TRY(pick_offset(node, &p, &in[1], i, in[0].shape, &from));
    if (bytes)
      memcpy((char *)out->data + (size_t)i * bytes, (const char *)in[0].data + (size_t)from * bytes, bytes);
  }
  return OK;
}

static void zero(const Tensor *tensor) {
  size_t bytes = (size_t)shape_elements(tensor->shape) * dtype_bytes(tensor->dtype);
  if (bytes)
    memset(tensor->data, 0, bytes);
}

WIDE_LOOPS static void add_f32(float *to, const float *from, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] += from[i];
}

WIDE_LOOPS static void add_f64(double *to, const double *from, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] += from[i];
}

static void add_row(DType dtype, void *to, int64_t to_row, const void *from, int64_t from_row, int64_t n) {
  if (dtype == F32)
    add_f32((float *)to + to_row * n, (const float *)from + from_row * n, n);
  else
    add_f64((double *)to + to_row * n, (const double *)from + from_row * n, n);
}

KERNEL(GatherGrad, .accepts = takes_floats) {
  UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  Split3 s = split_at(out->shape, axis);
  int64_t count = shape_elements(in[1].shape);
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  zero(out);
  for (int64_t i = 0; i < count; i++) {
    int64_t to;
    TRY(gather_index(node, &in[1], i, out->shape, axis, &to));
    for (int64_t o = 0; o < s.outer; o++)
      add_row(in[0].dtype, out->data, o * s.size + to, in[0].data, o * count + i, s.inner);
  }
  return OK;
}

KERNEL(GatherNDGrad, .accepts = takes_floats) {
  UNUSED;
  Pick p = pick_of(node, out->shape, in[1].shape);
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  zero(out);
  for (int64_t i = 0; i < p.rows; i++) {
    int64_t to;
    TRY(pick_offset(node, &p, &in[1], i, out->shape, &to));
    add_row(in[0].dtype, out->data, to, in[0].data, i, p.inner);
  }
  return OK;
}
