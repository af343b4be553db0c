/* Element types, shapes and the view of a buffer that a kernel gets. Tensors are dense and row-major. */
#ifndef GRAPH_TENSOR_H
#define GRAPH_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
  DTYPE_NONE = 0, /* an optional input that is absent */
  F32,
  F64,
  F16,
  BF16,
  I64,
  I32,
  I16,
  I8,
  U8,
  U16,
  U32,
  U64,
  BOOL,
  F8E4M3FN,
  F8E4M3FNUZ,
  F8E5M2,
  F8E5M2FNUZ,
  DTYPE_COUNT
} DType;

enum { MAX_RANK = 8 };

typedef struct {
  int rank;
  int64_t dim[MAX_RANK];
} Shape;

typedef struct {
  DType dtype;
  Shape shape;
  void *data;    /* 64-byte aligned; NULL for an absent optional input */
  void *rounded; /* of a weight: the same in bfloat16, which updates write and products read; NULL: is not kept */
} Tensor;

static inline Tensor tensor_at(DType dtype, Shape shape, void *data) {
  return (Tensor){.dtype = dtype, .shape = shape, .data = data, .rounded = NULL};
}

/* Bytes of one element; 0 for DTYPE_NONE. */
size_t dtype_bytes(DType dtype);
/* "float32", "int64", …; "none". */
const char *dtype_name(DType dtype);
bool dtype_is_float(DType dtype);

/* A shape from its dimensions: shape_of(2, (int64_t[]){3, 4}). The rank was checked against MAX_RANK. */
Shape shape_of(int rank, const int64_t *dim);
bool shape_equal(Shape a, Shape b);
/* Product of the dimensions; the shapes of a graph were checked not to overflow (shape_bytes). */
int64_t shape_elements(Shape shape);
/* Bytes of a dense tensor; fails E_SHAPE on a negative dimension or overflow (limit 2^62). */
Status shape_bytes(Shape shape, DType dtype, size_t *bytes);
/* "[8,128,64]" into `text`, which has at least SHAPE_TEXT bytes; returns `text`. */
enum { SHAPE_TEXT = 24 * MAX_RANK };
char *shape_text(Shape shape, char *text);
/* For messages: SHAPE_STR(shape) lives until the end of the enclosing block. */
#define SHAPE_STR(shape) shape_text((shape), (char[SHAPE_TEXT]){0})
/* Axis of a tensor of this rank with negative axes counted from the end; -1 when out of range. */
int axis_normalize(int64_t axis, int rank);
/* NumPy broadcasting of a and b; false when they do not fit. */
bool shape_broadcast(Shape a, Shape b, Shape *out);

#endif
