/* Cast between all types, a chunk at a time through the widest type of the source's kind. Invariant: no conversion is
 * undefined: a float that an integer type cannot hold becomes that type's most negative value (0 if unsigned), halves
 * round to nearest even, and what is not 0 is true. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"

enum { CHUNK = 256 };

typedef struct {
  enum { WIDE_FLOAT, WIDE_SIGNED, WIDE_UNSIGNED } kind;
  union {
    double f[CHUNK];
    int64_t i[CHUNK];
    uint64_t u[CHUNK];
  };
} Wide;

static double bits_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static double bfloat_value(uint16_t h) {
  return bits_float((uint32_t)h << 16);
}

/* Rounds to `digits` binary digits after the first with exponents from `least` on; the bits of a small float format
 * whose largest exponent is -least + 1. */
static uint16_t small_float(double x, int digits, int least) {
  uint16_t sign = (uint16_t)(signbit(x) ? 0x8000 : 0), infinity = (uint16_t)((-2 * least + 3) << digits);
  int exponent;
  if (isnan(x))
    return sign | infinity | (uint16_t)(1 << (digits - 1));
  x = fabs(x);
  if (isinf(x) || x == 0)
    return x == 0 ? sign : sign | infinity;
  frexp(x, &exponent);
  exponent = exponent - 1 < least ? least : exponent - 1;
  /* steps of the last digit, hidden one included: a carry runs into the exponent as it should */
  double steps = nearbyint(ldexp(x, digits - exponent));
  double bits = steps + ldexp(exponent - least, digits);
  return sign | (bits >= infinity ? infinity : (uint16_t)bits);
}

static uint16_t half_bits(double x) {
  return small_float(x, 10, -14);
}

static uint16_t bfloat_bits(double x) {
  return small_float(x, 7, -126);
}

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
    LOAD(F16, uint16_t, WIDE_FLOAT, f, half_value(x))
    LOAD(BF16, uint16_t, WIDE_FLOAT, f, bfloat_value(x))
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
    STORE(F16, uint16_t, half_bits(x), half_bits((double)x))
    STORE(BF16, uint16_t, bfloat_bits(x), bfloat_bits((double)x))
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
