/* Floating-point types narrower than float32: files store them, and numbers are rounded to them; the graph computes in
 * float32. */
#ifndef GRAPH_NARROW_H
#define GRAPH_NARROW_H

#include <string.h>

#include "graph/tensor.h"

/* Whether it is float16, bfloat16 or one of the float8 types. */
bool dtype_is_narrow(DType dtype);
/* The type that contents of this one have in a graph: float32 for a narrow type, else the type itself. */
DType dtype_computed(DType dtype);

/* Where the bits of a narrow type stand. */
typedef struct {
  int digits;             /* after the leading one */
  int least;              /* the smallest exponent of a number with a leading one */
  uint32_t sign, largest; /* bits; of another type: 0 */
  uint32_t infinity;      /* 0: there is none */
  uint32_t nan;
} NarrowLayout;
NarrowLayout narrow_layout(DType dtype);

/* The number that the bits of a narrow type are. */
double narrow_value(DType dtype, uint32_t bits);
/* The bits of the nearest number, ties to even. What is larger than all of them is infinity, or NaN where the type has
 * none; with `saturate` the largest, in a float8 type. */
uint32_t narrow_bits(DType dtype, double x, bool saturate);

/* bfloat16's, for loops: the same numbers and bits. */
static inline float bf16_value(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float number;
  memcpy(&number, &wide, sizeof number);
  return number;
}
static inline uint16_t bf16_bits(float number) {
  uint32_t wide;
  memcpy(&wide, &number, sizeof wide);
  uint32_t nearest = (wide + 0x7fff + (wide >> 16 & 1)) >> 16, nan = (wide >> 16 & 0x8000) | 0x7fc0;
  return (uint16_t)((wide & 0x7fffffff) > 0x7f800000 ? nan : nearest);
}

/* n numbers between their bits and float32. */
void narrow_read(DType dtype, const void *bits, int64_t n, float *numbers);
void narrow_write(DType dtype, const float *numbers, int64_t n, void *bits);

#endif
