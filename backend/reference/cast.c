/* Cast between all types, a chunk at a time through the widest type of the source's kind. Invariant: no conversion is
 * undefined: a float that an integer type cannot hold becomes that type's most negative value (0 if unsigned), halves
 * round to nearest even, and what is not 0 is true. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "graph/narrow.h"

enum { CHUNK = 256 };

typedef struct {
  enum { WIDE_FLOAT, WIDE_SIGNED, WIDE_UNSIGNED } kind;
  union {
    double f[CHUNK];
    int64_t i[CHUNK];
    uint64_t u[CHUNK];
  };
} Wide;

#define LOAD(DTYPE, T, KIND, field, EXPR)                                                                              \
  case DTYPE:                                                                                                          \
    wide->kind = KIND;                                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T x = ((const T *)from)[i];                                                                                      \
      wide->field[i] = EXPR;                                                                                           \
    }                                                                                                                  \
    return true;

static bool load(DType dtype, const void *from, int64_t n, Wide *wide) {
  switch (dtype) {
    LOAD(F32, float, WIDE_FLOAT, f, x)
    LOAD(F64, double, WIDE_FLOAT, f, x)
    LOAD(F16, uint16_t, WIDE_FLOAT, f, narrow_value(F16, x))
    LOAD(BF16, uint16_t, WIDE_FLOAT, f, narrow_value(BF16, x))
    LOAD(F8E4M3FN, uint8_t, WIDE_FLOAT, f, narrow_value(F8E4M3FN, x))
    LOAD(F8E4M3FNUZ, uint8_t, WIDE_FLOAT, f, narrow_value(F8E4M3FNUZ, x))
    LOAD(F8E5M2, uint8_t, WIDE_FLOAT, f, narrow_value(F8E5M2, x))
    LOAD(F8E5M2FNUZ, uint8_t, WIDE_FLOAT, f, narrow_value(F8E5M2FNUZ, x))
    LOAD(I64, int64_t, WIDE_SIGNED, i, x)
    LOAD(I32, int32_t, WIDE_SIGNED, i, x)
    LOAD(I16, int16_t, WIDE_SIGNED, i, x)
    LOAD(I8, int8_t, WIDE_SIGNED, i, x)
    LOAD(U8, uint8_t, WIDE_SIGNED, i, x)
    LOAD(U16, uint16_t, WIDE_SIGNED, i, x)
    LOAD(U32, uint32_t, WIDE_SIGNED, i, x)
    LOAD(U64, uint64_t, WIDE_UNSIGNED, u, x)
    LOAD(BOOL, uint8_t, WIDE_SIGNED, i, x != 0)
  default:
    return false;
  }
}

/* FLOAT and INTEGER give the value of x, a double or an integer. */
#define STORE(DTYPE, T, FLOAT, INTEGER)                                                                                \
  case DTYPE:                                                                                                          \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      if (wide->kind == WIDE_FLOAT) {                                                                                  \
        double x = wide->f[i];                                                                                         \
        ((T *)to)[i] = (T)(FLOAT);                                                                                     \
      } else if (wide->kind == WIDE_SIGNED) {                                                                          \
        int64_t x = wide->i[i];                                                                                        \
        ((T *)to)[i] = (T)(INTEGER);                                                                                   \
      } else {                                                                                                         \
        uint64_t x = wide->u[i];                                                                                       \
        ((T *)to)[i] = (T)(INTEGER);                                                                                   \
      }                                                                                                                \
    }                                                                                                                  \
    return true;

/* x where low <= x < high after truncation, else `low` of a signed type, 0 of an unsigned one. */
#define WITHIN(low, high, otherwise) (x > (low)-1.0 && x < (high) ? x : (otherwise))

static bool store(DType dtype, const Wide *wide, int64_t n, void *to) {
  switch (dtype) {
    STORE(F32, float, x, x)
    STORE(F64, double, x, x)
    STORE(F16, uint16_t, narrow_bits(F16, x, true), narrow_bits(F16, (double)x, true))
    STORE(BF16, uint16_t, narrow_bits(BF16, x, true), narrow_bits(BF16, (double)x, true))
    STORE(F8E4M3FN, uint8_t, narrow_bits(F8E4M3FN, x, true), narrow_bits(F8E4M3FN, (double)x, true))
    STORE(F8E4M3FNUZ, uint8_t, narrow_bits(F8E4M3FNUZ, x, true), narrow_bits(F8E4M3FNUZ, (double)x, true))
    STORE(F8E5M2, uint8_t, narrow_bits(F8E5M2, x, true), narrow_bits(F8E5M2, (double)x, true))
    STORE(F8E5M2FNUZ, uint8_t, narrow_bits(F8E5M2FNUZ, x, true), narrow_bits(F8E5M2FNUZ, (double)x, true))
    STORE(I64, int64_t, x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN, x)
    STORE(I32, int32_t, WITHIN(-0x1p31, 0x1p31, -0x1p31), x)
    STORE(I16, int16_t, WITHIN(-0x1p15, 0x1p15, -0x1p15), x)
    STORE(I8, int8_t, WITHIN(-0x1p7, 0x1p7, -0x1p7), x)
    STORE(U8, uint8_t, WITHIN(0, 0x1p8, 0), x)
    STORE(U16, uint16_t, WITHIN(0, 0x1p16, 0), x)
    STORE(U32, uint32_t, WITHIN(0, 0x1p32, 0), x)
    STORE(U64, uint64_t, WITHIN(0, 0x1p64, 0), x)
    STORE(BOOL, uint8_t, x != 0, x != 0)
  default:
    return false;
  }
}

KERNEL(Cast, .accepts = takes_any) {
  UNUSED;
  int64_t n = shape_elements(out->shape);
  Wide wide;
  for (int64_t at = 0; at < n; at += CHUNK) {
    int64_t count = n - at < CHUNK ? n - at : CHUNK;
    const char *from = (const char *)in->data + (size_t)at * dtype_bytes(in->dtype);
    if (!load(in->dtype, from, count, &wide))
      return unsupported_type(node, in->dtype);
    if (!store(out->dtype, &wide, count, (char *)out->data + (size_t)at * dtype_bytes(out->dtype)))
      return unsupported_type(node, out->dtype);
  }
  return OK;
}

/* The nearest number of the narrow type. */
#define NARROW(T)                                                                                                      \
  for (int64_t i = 0; i < n; i++)                                                                                      \
    ((T *)out->data)[i] = (T)narrow_value(to, narrow_bits(to, ((const T *)in->data)[i], saturate));                    \
  return OK;

KERNEL(Narrow, .accepts = takes_floats) {
  UNUSED;
  DType to = (DType)node_int(node, "to", F16);
  bool saturate = node_int(node, "saturate", 1);
  int64_t n = shape_elements(out->shape);
  switch (in->dtype) {
  case F32:
    NARROW(float)
  case F64:
    NARROW(double)
  default:
    return unsupported_type(node, in->dtype);
  }
}
