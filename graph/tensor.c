/* Element types and shapes. Invariant: a shape that passed shape_bytes has a product that fits int64. */
#include "graph/tensor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

static const struct {
  const char *name;
  size_t bytes;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_NONE] = {"none", 0},
    [F32] = {"float32", 4},
    [F64] = {"float64", 8},
    [F16] = {"float16", 2},
    [BF16] = {"bfloat16", 2},
    [I64] = {"int64", 8},
    [I32] = {"int32", 4},
    [I16] = {"int16", 2},
    [I8] = {"int8", 1},
    [U8] = {"uint8", 1},
    [U16] = {"uint16", 2},
    [U32] = {"uint32", 4},
    [U64] = {"uint64", 8},
    [BOOL] = {"bool", 1},
    [F8E4M3FN] = {"float8e4m3fn", 1},
    [F8E4M3FNUZ] = {"float8e4m3fnuz", 1},
    [F8E5M2] = {"float8e5m2", 1},
    [F8E5M2FNUZ] = {"float8e5m2fnuz", 1},
};

size_t dtype_bytes(DType dtype) {
  return dtypes[dtype].bytes;
}

const char *dtype_name(DType dtype) {
  return dtypes[dtype].name;
}

bool dtype_is_float(DType dtype) {
  return dtype == F32 || dtype == F64 || dtype == F16 || dtype == BF16 || dtype >= F8E4M3FN;
}

Shape shape_of(int rank, const int64_t *dim) {
  assert(rank >= 0 && rank <= MAX_RANK);
  Shape shape = {.rank = rank};
  for (int i = 0; i < rank; i++)
    shape.dim[i] = dim[i];
  return shape;
}

bool shape_equal(Shape a, Shape b) {
  return a.rank == b.rank && memcmp(a.dim, b.dim, (size_t)a.rank * sizeof a.dim[0]) == 0;
}

int64_t shape_elements(Shape shape) {
  int64_t n = 1;
  for (int i = 0; i < shape.rank; i++)
    n *= shape.dim[i];
  return n;
}

Status shape_bytes(Shape shape, DType dtype, size_t *bytes) {
  const int64_t limit = (int64_t)1 << 62;
  int64_t n = (int64_t)dtype_bytes(dtype);
  bool empty = false;
  for (int i = 0; i < shape.rank; i++) {
    if (shape.dim[i] < 0)
      return fail(E_SHAPE, "shape %s has a negative dimension", SHAPE_STR(shape));
    if (shape.dim[i] == 0)
      empty = true;
    else if (!checked_mul_i64(n, shape.dim[i], &n) || n > limit)
      return fail(E_SHAPE, "shape %s of %s is too large to address", SHAPE_STR(shape), dtype_name(dtype));
  }
  *bytes = empty ? 0 : (size_t)n;
  return OK;
}

char *shape_text(Shape shape, char *text) {
  size_t at = 0;
  text[at++] = '[';
  for (int i = 0; i < shape.rank; i++)
    at += (size_t)snprintf(text + at, SHAPE_TEXT - at, "%s%lld", i ? "," : "", (long long)shape.dim[i]);
  snprintf(text + at, SHAPE_TEXT - at, "]");
  return text;
}

int axis_normalize(int64_t axis, int rank) {
  if (axis < 0)
    axis += rank;
  return axis < 0 || axis >= rank ? -1 : (int)axis;
}

bool shape_broadcast(Shape a, Shape b, Shape *out) {
  Shape wide = {.rank = a.rank > b.rank ? a.rank : b.rank};
  for (int i = 1; i <= wide.rank; i++) {
    int64_t x = i <= a.rank ? a.dim[a.rank - i] : 1, y = i <= b.rank ? b.dim[b.rank - i] : 1;
    if (x != y && x != 1 && y != 1)
      return false;
    wide.dim[wide.rank - i] = x == 1 ? y : x;
  }
  *out = wide;
  return true;
}
