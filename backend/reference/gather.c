/* Picking by index, its transpose, adding by index, and putting by index. Invariant: no index leaves its axis; one that
 * would fails E_MODEL with its value and position; what goes to one place goes there in the order of the indices. */
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

/* GatherElements and ScatterElements: where each element of the indices points, in row-major order. Elements of one
 * run differ in their last position alone. */
typedef struct {
  const Node *node;
  const Tensor *indices;
  Shape data;
  int axis;
  int64_t run, stride[MAX_RANK]; /* of the data */
} Points;

static Points points_of(const Node *node, Shape data, const Tensor *indices) {
  int last = data.rank - 1;
  Points p = {.node = node, .indices = indices, .data = data, .axis = (int)node_int(node, "axis", 0)};
  dense_strides(data, p.stride);
  p.run = indices->shape.dim[last];
  return p;
}

/* Where the run begins in the data, with index 0 on the axis. */
static int64_t run_start(const Points *p, int64_t run) {
  int64_t at = 0;
  for (int i = p->data.rank - 2; i >= 0; i--) {
    at += i == p->axis ? 0 : run % p->indices->shape.dim[i] * p->stride[i];
    run /= p->indices->shape.dim[i];
  }
  return at;
}

/* Of element i of a run that begins at `start`. */
static Status point(const Points *p, int64_t start, int64_t run, int64_t i, int64_t *at) {
  int64_t index, own = p->axis == p->data.rank - 1 ? 0 : i;
  TRY(gather_index(p->node, p->indices, run * p->run + i, p->data, p->axis, &index));
  *at = start + own + index * p->stride[p->axis];
  return OK;
}

int64_t element_runs(const Tensor *indices) {
  int64_t run = indices->shape.dim[indices->shape.rank - 1];
  return run ? shape_elements(indices->shape) / run : 0;
}

Status gather_elements_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  Points p = points_of(node, in[0].shape, &in[1]);
  size_t size = dtype_bytes(in[0].dtype);
  for (int64_t run = first; run < end; run++) {
    int64_t start = run_start(&p, run), from;
    for (int64_t i = 0; i < p.run; i++) {
      TRY(point(&p, start, run, i, &from));
      memcpy((char *)out->data + (size_t)(run * p.run + i) * size, (const char *)in[0].data + (size_t)from * size,
             size);
    }
  }
  return OK;
}

KERNEL(GatherElements, .accepts = takes_any) {
  UNUSED;
  return gather_elements_part(node, in, out, 0, element_runs(&in[1]));
}

/* n elements of an update onto those that are there. */
typedef void Put(void *to, const void *from, int64_t n);

#define PUT(name, S, T, EXPR)                                                                                          \
  static void name##_##S(void *to, const void *from, int64_t n) {                                                      \
    T *a = to;                                                                                                         \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T x = a[i], y = ((const T *)from)[i];                                                                            \
      a[i] = EXPR;                                                                                                     \
    }                                                                                                                  \
  }
#define PUTS(S, T, A)                                                                                                  \
  PUT(plus, S, T, (T)((A)x + (A)y))                                                                                    \
  PUT(times, S, T, (T)((A)x * (A)y))                                                                                   \
  PUT(largest, S, T, y > x || y != y ? y : x)                                                                          \
  PUT(smallest, S, T, y < x || y != y ? y : x)
PUTS(f32, float, float)
PUTS(f64, double, double)
PUTS(i64, int64_t, uint64_t)
PUTS(i32, int32_t, uint32_t)

/* *put is NULL where an update replaces what is there. */
static Status find_put(const Node *node, DType dtype, Put **put) {
  static const struct {
    const char *reduction;
    Put *of[4];
  } puts[] = {{"add", {plus_f32, plus_f64, plus_i64, plus_i32}},
              {"mul", {times_f32, times_f64, times_i64, times_i32}},
              {"max", {largest_f32, largest_f64, largest_i64, largest_i32}},
              {"min", {smallest_f32, smallest_f64, smallest_i64, smallest_i32}}};
  static const DType types[] = {F32, F64, I64, I32};
  const char *reduction = node_string(node, "reduction", "none");
  *put = NULL;
  for (int i = 0; i < 4; i++)
    for (int t = 0; t < 4; t++)
      if (types[t] == dtype && strcmp(reduction, puts[i].reduction) == 0)
        *put = puts[i].of[t];
  return *put || strcmp(reduction, "none") == 0 ? OK : unsupported_type(node, dtype);
}

bool takes_puts(const Graph *graph, const Node *node) {
  return strcmp(node_string(node, "reduction", "none"), "none") == 0 || takes_numbers(graph, node);
}

void put_begin(const Node *node, const Tensor *in, const Tensor *out) {
  size_t bytes = (size_t)shape_elements(out->shape) * dtype_bytes(out->dtype);
  if (node->n_in < 3)
    zero(out);
  else if (bytes)
    memcpy(out->data, in[2].data, bytes);
}

static void put_row(Put *put, const Tensor *out, int64_t to, const Tensor *updates, int64_t from, int64_t n) {
  size_t size = dtype_bytes(out->dtype);
  char *a = (char *)out->data + (size_t)(to * n) * size;
  const char *b = (const char *)updates->data + (size_t)(from * n) * size;
  if (put)
    put(a, b, n);
  else if (n)
    memcpy(a, b, (size_t)n * size);
}

int64_t runs_that_meet(const Node *node, const Tensor *indices) {
  int axis = (int)node_int(node, "axis", 0);
  int64_t runs = 1;
  for (int i = axis; i < indices->shape.rank - 1; i++)
    runs *= indices->shape.dim[i];
  return runs;
}

Status scatter_elements_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  Points p = points_of(node, out->shape, &in[1]);
  Put *put;
  TRY(find_put(node, out->dtype, &put));
  for (int64_t run = first; run < end; run++) {
    int64_t start = run_start(&p, run), to;
    for (int64_t i = 0; i < p.run; i++) {
      TRY(point(&p, start, run, i, &to));
      put_row(put, out, to, &in[0], run * p.run + i, 1);
    }
  }
  return OK;
}

KERNEL(ScatterElements, .accepts = takes_puts) {
  UNUSED;
  put_begin(node, in, out);
  return scatter_elements_part(node, in, out, 0, element_runs(&in[1]));
}

KERNEL(ScatterND, .accepts = takes_puts) {
  UNUSED;
  Pick p = pick_of(node, out->shape, in[1].shape);
  Put *put;
  TRY(find_put(node, out->dtype, &put));
  put_begin(node, in, out);
  for (int64_t i = 0; i < p.rows; i++) {
    int64_t to;
    TRY(pick_offset(node, &p, &in[1], i, out->shape, &to));
    put_row(put, out, to, &in[0], i, p.inner);
  }
  return OK;
}
