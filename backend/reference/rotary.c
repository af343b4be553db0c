/* Rotary positions. */
#include "backend/reference/kernel.h"

#define T float
#define S(name) name##_f32
#include "backend/reference/rotary.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/rotary.inc"
#undef T
#undef S

FLOAT_KERNEL(Rotary)
