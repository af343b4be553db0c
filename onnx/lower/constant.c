/* Known contents. Invariant: a Constant is stored once along every axis where its contents repeat, and equal constants
 * are one object, but for large ones whose contents have one sum and differ. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "onnx/lower/lower.h"

enum { KEY_BYTES = 4096 }; /* larger contents are known by their sum */

/* Copies elements of `dim` (row-major) from steps in `from`, counted in elements. */
static void strided_copy(size_t element, int rank, const int64_t *dim, const int64_t *step, const char *from,
                         char *to) {
  int64_t at[MAX_RANK] = {0}, inner = rank ? dim[rank - 1] : 1, runs = 1;
  int64_t stride = rank ? step[rank - 1] : 1;
  for (int i = 0; i + 1 < rank; i++)
    runs *= dim[i];
  for (int64_t run = 0; run < runs; run++) {
    int64_t offset = 0;
    for (int i = 0; i + 1 < rank; i++)
      offset += at[i] * step[i];
    const char *source = from + (size_t)offset * element;
    if (stride == 1)
      memcpy(to, source, (size_t)inner * element);
    else
      for (int64_t i = 0; i < inner; i++)
        memcpy(to + (size_t)i * element, source + (size_t)(i * stride) * element, element);
    to += (size_t)inner * element;
    for (int i = rank - 2; i >= 0 && ++at[i] == dim[i]; i--)
      at[i] = 0;
  }
}

void broadcast_copy(size_t element, Shape stored, const void *data, Shape shape, void *out) {
  int64_t step[MAX_RANK] = {0}, next = 1;
  if (shape_elements(shape) == 0)
    return;
  for (int i = shape.rank - 1, j = stored.rank - 1; j >= 0; i--, j--) {
    step[i] = stored.dim[j] == 1 ? 0 : next;
    next *= stored.dim[j];
  }
  strided_copy(element, shape.rank, shape.dim, step, data, out);
}

/* Whether all slices along an axis are the same bytes. */
static bool repeats(const char *data, Shape shape, int axis, size_t element) {
  size_t outer = 1, block = element;
  for (int i = 0; i < axis; i++)
    outer *= (size_t)shape.dim[i];
  for (int i = axis + 1; i < shape.rank; i++)
    block *= (size_t)shape.dim[i];
  for (size_t o = 0; o < outer; o++, data += block * (size_t)shape.dim[axis])
    for (int64_t k = 1; k < shape.dim[axis]; k++)
      if (memcmp(data, data + (size_t)k * block, block) != 0)
        return false;
  return true;
}

/* Of large contents, eight bytes at a time. */
static uint64_t sum_bytes(const char *bytes, size_t n) {
  uint64_t sum = 0xcbf29ce484222325u, word = 0;
  for (size_t i = 0; i < n; i += sizeof word) {
    memcpy(&word, bytes + i, n - i < sizeof word ? n - i : sizeof word);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    sum ^= sum >> 29;
  }
  return sum;
}

/* Type, rank and dimensions in front of the bytes, or of their sum. */
static Status find_shared(Lower *lower, const char *name, DType dtype, Shape stored, const char *bytes, size_t n,
                          const Constant **c) {
  Constant *fresh, *known;
  char key[sizeof(int64_t) * (MAX_RANK + 2) + KEY_BYTES] = {0};
  int64_t head[MAX_RANK + 2] = {dtype, stored.rank};
  memcpy(head + 2, stored.dim, (size_t)stored.rank * sizeof *head);
  memcpy(key, head, sizeof head);
  uint64_t sum = n > KEY_BYTES ? sum_bytes(bytes, n) : 0;
  size_t room = sizeof head + (n > KEY_BYTES ? sizeof sum : n);
  memcpy(key + sizeof head, n > KEY_BYTES ? (const void *)&sum : bytes, room - sizeof head);
  known = map_find(lower->constants, key, room);
  if (known && memcmp(known->data, bytes, n) == 0)
    return *c = known, OK;
  TRY(ARENA_NEW(lower->arena, fresh, 1));
  *fresh = (Constant){.name = name, .dtype = dtype, .stored = stored, .data = bytes};
  *c = fresh;
  return known ? OK : map_put(lower->constants, key, room, fresh);
}

Status constant_make(Lower *lower, const char *name, DType dtype, Shape shape, const void *data, const Constant **c) {
  size_t element = dtype_bytes(dtype), bytes;
  Shape kept = shape, stored = {0};
  int64_t step[MAX_RANK], next = 1;
  TRY(shape_bytes(shape, dtype, &bytes));
  for (int i = shape.rank - 1; i >= 0; i--) {
    step[i] = next;
    next *= shape.dim[i];
    if (bytes && shape.dim[i] > 1 && repeats(data, shape, i, element))
      kept.dim[i] = 1;
  }
  char *copy;
  TRY(shape_bytes(kept, dtype, &bytes));
  TRY(ARENA_NEW(lower->arena, copy, bytes));
  if (bytes)
    strided_copy(element, kept.rank, kept.dim, step, data, copy);
  for (int i = 0; i < kept.rank; i++)
    if (stored.rank || kept.dim[i] != 1)
      stored.dim[stored.rank++] = kept.dim[i];
  return find_shared(lower, name, dtype, stored, copy, bytes, c);
}

Status term_broadcast(Lower *lower, const Constant *constant, Shape shape, Term **term) {
  TRY(ARENA_NEW(lower->arena, *term, 1));
  **term = (Term){.kind = TERM_TENSOR,
                  .dtype = constant->dtype,
                  .shape = shape,
                  .constant = constant,
                  .initializer = -1,
                  .value = NO_VALUE};
  return OK;
}

Status term_make(Lower *lower, const char *name, DType dtype, Shape shape, const void *data, Term **term) {
  const Constant *constant;
  TRY(constant_make(lower, name, dtype, shape, data, &constant));
  return term_broadcast(lower, constant, shape, term);
}

bool term_readable(const Lower *lower, const Term *term) {
  if (term->kind != TERM_TENSOR || term->constant || term->initializer < 0)
    return term->kind == TERM_TENSOR && term->constant;
  const Initializer *init = &lower->model->initializers[term->initializer];
  return !init->trains && init->tied_to < 0 && !(init->is_buffer && lower->options->live) &&
         (size_t)shape_elements(term->shape) <= BIND_READ_BYTES / dtype_bytes(term->dtype);
}

Status term_known(Lower *lower, Term *term, bool *known) {
  *known = term->constant;
  if (*known || !term_readable(lower, term))
    return OK;
  const Initializer *init = &lower->model->initializers[term->initializer];
  DType dtype;
  Shape shape;
  const void *data;
  const void *const *replaced = lower->options->replaced;
  if (replaced && replaced[term->initializer]) {
    TRY(constant_make(lower, init->name, init->dtype, init->shape, replaced[term->initializer], &term->constant));
    *known = true;
    return OK;
  }
  Status status =
      tensor_read(lower->model, lower->model->sources[term->initializer].proto, lower->arena, &dtype, &shape, &data);
  if (status == E_IO) /* weights that are not there: the node stays a node */
    return OK;
  TRY(status);
  TRY(constant_make(lower, init->name, dtype, shape, data, &term->constant));
  *known = true;
  return OK;
}

void term_write(const Term *term, void *data) {
  broadcast_copy(dtype_bytes(term->dtype), term->constant->stored, term->constant->data, term->shape, data);
}

/* An integer of any type; of uint64 its bits. */
static int64_t integer_at(const void *data, DType dtype, int64_t i) {
  switch (dtype) {
  case I64:
  case U64:
    return ((const int64_t *)data)[i];
  case I32:
    return ((const int32_t *)data)[i];
  case U32:
    return ((const uint32_t *)data)[i];
  case I16:
    return ((const int16_t *)data)[i];
  case U16:
    return ((const uint16_t *)data)[i];
  case I8:
    return ((const int8_t *)data)[i];
  default:
    return ((const uint8_t *)data)[i];
  }
}

Status term_ints(Lower *lower, const Term *term, const int64_t **ints, int *n) {
  int64_t count = shape_elements(term->shape), *list;
  void *data;
  size_t bytes;
  TRY(ARENA_NEW(lower->arena, list, count));
  TRY(shape_bytes(term->shape, term->dtype, &bytes));
  if (!(data = arena_alloc(lower->arena, bytes, 1)))
    return status_code();
  term_write(term, data);
  for (int64_t i = 0; i < count; i++)
    list[i] = integer_at(data, term->dtype, i);
  *ints = list;
  *n = (int)count;
  return OK;
}

bool term_number(const Term *term, double *number) {
  if (!term->constant || shape_elements(term->shape) != 1)
    return false;
  const void *data = term->constant->data;
  switch (term->dtype) {
  case F32:
    *number = *(const float *)data;
    return true;
  case F64:
    *number = *(const double *)data;
    return true;
  case BOOL:
    *number = *(const uint8_t *)data != 0;
    return true;
  case U64:
    *number = (double)*(const uint64_t *)data;
    return true;
  default:
    *number = (double)integer_at(data, term->dtype, 0);
    return !dtype_is_float(term->dtype);
  }
}
