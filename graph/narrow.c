/* Narrow floating-point types, by one table of their layouts. Sources: IEEE 754 binary16; bfloat16, the upper half of a
 * float32; "FP8 Formats for Deep Learning", Micikevicius et al. 2022, and "8-bit Numerical Formats for Deep Neural
 * Networks", Noune et al. 2022, as ONNX names them. Invariant: bits → number → bits is the identity, NaNs apart. */
#include "graph/narrow.h"

#include <math.h>
#include <string.h>

static const NarrowLayout layouts[DTYPE_COUNT] = {
    [F16] = {10, -14, 0x8000, 0x7bff, 0x7c00, 0x7e00}, [BF16] = {7, -126, 0x8000, 0x7f7f, 0x7f80, 0x7fc0},
    [F8E4M3FN] = {3, -6, 0x80, 0x7e, 0, 0x7f},         [F8E4M3FNUZ] = {3, -7, 0x80, 0x7f, 0, 0x80},
    [F8E5M2] = {2, -14, 0x80, 0x7b, 0x7c, 0x7f},       [F8E5M2FNUZ] = {2, -15, 0x80, 0x7f, 0, 0x80},
};

NarrowLayout narrow_layout(DType dtype) {
  return layouts[dtype];
}

bool dtype_is_narrow(DType dtype) {
  return layouts[dtype].sign;
}

DType dtype_computed(DType dtype) {
  return dtype_is_narrow(dtype) ? F32 : dtype;
}

double narrow_value(DType dtype, uint32_t bits) {
  const NarrowLayout *l = &layouts[dtype];
  uint32_t magnitude = bits & (l->sign - 1);
  double number;
  if (bits == l->nan || magnitude > l->largest)
    number = l->infinity && magnitude == l->infinity ? INFINITY : NAN;
  else {
    uint32_t exponent = magnitude >> l->digits, fraction = magnitude & ((1u << l->digits) - 1);
    number = exponent ? ldexp(fraction + (1u << l->digits), (int)exponent - 1 + l->least - l->digits)
                      : ldexp(fraction, l->least - l->digits);
  }
  return bits & l->sign ? -number : number;
}

uint32_t narrow_bits(DType dtype, double x, bool saturate) {
  const NarrowLayout *l = &layouts[dtype];
  bool one_zero = l->nan == l->sign; /* then -0 is NaN's place */
  uint32_t sign = signbit(x) ? l->sign : 0;
  if (isnan(x))
    return one_zero ? l->nan : sign | l->nan;
  x = fabs(x);
  double bits = INFINITY;
  if (!isinf(x)) {
    int exponent;
    frexp(x, &exponent);
    exponent = x == 0 || exponent - 1 < l->least ? l->least : exponent - 1;
    /* steps of the last digit, hidden one included: a carry runs into the exponent as it should */
    bits = nearbyint(ldexp(x, l->digits - exponent)) + ldexp(exponent - l->least, l->digits);
  }
  if (bits > l->largest) {
    bool bounded = saturate && dtype_bytes(dtype) == 1;
    return bounded ? sign | l->largest : l->infinity ? sign | l->infinity : one_zero ? l->nan : sign | l->nan;
  }
  return bits == 0 && one_zero ? 0 : sign | (uint32_t)bits;
}

void narrow_read(DType dtype, const void *bits, int64_t n, float *numbers) {
  bool one = dtype_bytes(dtype) == 1;
  for (int64_t i = 0; i < n; i++) {
    uint16_t two;
    memcpy(&two, (const char *)bits + (one ? 0 : 2 * i), one ? 0 : 2);
    numbers[i] = (float)narrow_value(dtype, one ? ((const uint8_t *)bits)[i] : two);
  }
}

void narrow_write(DType dtype, const float *numbers, int64_t n, void *bits) {
  bool one = dtype_bytes(dtype) == 1;
  for (int64_t i = 0; i < n; i++) {
    uint32_t b = narrow_bits(dtype, numbers[i], true);
    if (one)
      ((uint8_t *)bits)[i] = (uint8_t)b;
    else
      memcpy((char *)bits + 2 * i, &(uint16_t){(uint16_t)b}, 2);
  }
}
