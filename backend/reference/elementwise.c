/* Elementwise kernels. Every loop nest is a Walk: an inner run along the last merged axis, where an input either
 * steps by one element or stands still (is broadcast), and the runs outside it. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"

/* The inner run with the common steppings spelled out, so that the compiler sees unit strides. */
#define RUN2(EXPR)                                                                                                     \
  if (sa == 1 && sb == 1)                                                                                              \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      x = a[i], y = b[i];                                                                                              \
      c[i] = EXPR;                                                                                                     \
    }                                                                                                                  \
  else if (sa == 1 && sb == 0)                                                                                         \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      x = a[i], y = b[0];                                                                                              \
      c[i] = EXPR;                                                                                                     \
    }                                                                                                                  \
  else if (sa == 0 && sb == 1)                                                                                         \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      x = a[0], y = b[i];                                                                                              \
      c[i] = EXPR;                                                                                                     \
    }                                                                                                                  \
  else                                                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      x = a[i * sa], y = b[i * sb];                                                                                    \
      c[i] = EXPR;                                                                                                     \
    }

#define BINARY_LOOP(name, TA, TB, R, EXPR)                                                                             \
  WIDE_LOOPS static void name(const TA *a, int64_t sa, const TB *b, int64_t sb, R *c, int64_t n) {                     \
    TA x;                                                                                                              \
    TB y;                                                                                                              \
    RUN2(EXPR)                                                                                                         \
  }                                                                                                                    \
  static Status name##_all(const Tensor *in, const Tensor *out) {                                                      \
    Walk w;                                                                                                            \
    walk_init(&w, out->shape, in, 2);                                                                                  \
    int64_t runs = walk_runs(&w), n = w.dim[w.rank - 1], at[3];                                                        \
    for (int64_t run = 0; run < runs; run++) {                                                                         \
      walk_offsets(&w, run, 2, at);                                                                                    \
      name((const TA *)in[0].data + at[0], w.stride[0][w.rank - 1], (const TB *)in[1].data + at[1],                    \
           w.stride[1][w.rank - 1], (R *)out->data + run * n, n);                                                      \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }

/* One kernel over float and integer types. */
#define ARITHMETIC(op_name, FLOAT_EXPR, INT_EXPR)                                                                      \
  BINARY_LOOP(op_name##_f32, float, float, float, FLOAT_EXPR)                                                          \
  BINARY_LOOP(op_name##_f64, double, double, double, FLOAT_EXPR)                                                       \
  BINARY_LOOP(op_name##_i64, int64_t, int64_t, int64_t, INT_EXPR)                                                      \
  BINARY_LOOP(op_name##_i32, int32_t, int32_t, int32_t, INT_EXPR)                                                      \
  KERNEL(op_name, .accepts = takes_numbers) {                                                                          \
    UNUSED;                                                                                                            \
    switch (in[0].dtype) {                                                                                             \
      CASE(F32, op_name##_f32_all(in, out))                                                                            \
      CASE(F64, op_name##_f64_all(in, out))                                                                            \
      CASE(I64, op_name##_i64_all(in, out))                                                                            \
      CASE(I32, op_name##_i32_all(in, out))                                                                            \
    default:                                                                                                           \
      return unsupported_type(node, in[0].dtype);                                                                      \
    }                                                                                                                  \
  }

/* Integer sums wrap, as in every array library, without being undefined. */
#define WRAP(op) (__typeof__(x))((uint64_t)x op(uint64_t) y)
ARITHMETIC(Add, x + y, WRAP(+))
ARITHMETIC(Sub, x - y, WRAP(-))
ARITHMETIC(Mul, x *y, WRAP(*))
ARITHMETIC(Div, x / y, y == 0 ? 0 : y == -1 ? (__typeof__(x))(0 - (uint64_t)x) : x / y)
ARITHMETIC(Max, x > y || x != x ? x : y, x > y ? x : y)
ARITHMETIC(Min, x < y || x != x ? x : y, x < y ? x : y)

static double modulo_f64(double x, double y, bool c_sign) {
  double r = fmod(x, y);
  if (c_sign)
    return r;
  return r == 0 ? copysign(0, y) : (r < 0) != (y < 0) ? r + y : r;
}

static int64_t modulo_i64(int64_t x, int64_t y, bool c_sign) {
  if (y == 0 || y == -1)
    return 0;
  int64_t r = x % y;
  return !c_sign && r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

#define MODULO(S, T, function)                                                                                         \
  BINARY_LOOP(Mod_##S, T, T, T, (T)function(x, y, false))                                                              \
  BINARY_LOOP(Fmod_##S, T, T, T, (T)function(x, y, true))
MODULO(f32, float, modulo_f64)
MODULO(f64, double, modulo_f64)
MODULO(i64, int64_t, modulo_i64)
MODULO(i32, int32_t, modulo_i64)

KERNEL(Mod, .accepts = takes_numbers) {
  UNUSED;
  bool c_sign = node_int(node, "fmod", 0);
  switch (in[0].dtype) {
    CASE(F32, c_sign ? Fmod_f32_all(in, out) : Mod_f32_all(in, out))
    CASE(F64, c_sign ? Fmod_f64_all(in, out) : Mod_f64_all(in, out))
    CASE(I64, c_sign ? Fmod_i64_all(in, out) : Mod_i64_all(in, out))
    CASE(I32, c_sign ? Fmod_i32_all(in, out) : Mod_i32_all(in, out))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}

/* Squares are the common case and need no library call. */
BINARY_LOOP(Pow_f32, float, float, float, y == 2 ? x * x : y == 1 ? x : powf(x, y))
BINARY_LOOP(Pow_f64, double, double, double, y == 2 ? x * x : y == 1 ? x : pow(x, y))

/* Wraps, as products do; 0 for what is no integer. */
static int64_t integer_power(int64_t x, double y) {
  uint64_t power = 1, square = (uint64_t)x;
  if (x == 1 || x == -1)
    return x == 1 || fmod(y, 2) == 0 ? 1 : -1;
  if (!(y >= 0 && y < 0x1p63))
    return 0;
  for (int64_t n = (int64_t)y; n; n /= 2, square *= square)
    power *= n % 2 ? square : 1;
  return (int64_t)power;
}

/* A base with exponents of other types. */
#define POWERS(S, T, function)                                                                                         \
  BINARY_LOOP(Pow_##S##_f32, T, float, T, (T)function(x, (double)y))                                                   \
  BINARY_LOOP(Pow_##S##_f64, T, double, T, (T)function(x, (double)y))                                                  \
  BINARY_LOOP(Pow_##S##_i64, T, int64_t, T, (T)function(x, (double)y))                                                 \
  BINARY_LOOP(Pow_##S##_i32, T, int32_t, T, (T)function(x, (double)y))                                                 \
  static Status powers_##S(const Node *node, const Tensor *in, const Tensor *out) {                                    \
    switch (in[1].dtype) {                                                                                             \
      CASE(F32, Pow_##S##_f32_all(in, out))                                                                            \
      CASE(F64, Pow_##S##_f64_all(in, out))                                                                            \
      CASE(I64, Pow_##S##_i64_all(in, out))                                                                            \
      CASE(I32, Pow_##S##_i32_all(in, out))                                                                            \
    default:                                                                                                           \
      return unsupported_type(node, in[1].dtype);                                                                      \
    }                                                                                                                  \
  }
POWERS(f32, float, pow)
POWERS(f64, double, pow)
POWERS(i64, int64_t, integer_power)
POWERS(i32, int32_t, integer_power)

KERNEL(Pow, .accepts = takes_powers) {
  UNUSED;
  if (in[0].dtype == F32 && in[1].dtype == F32)
    return Pow_f32_all(in, out);
  if (in[0].dtype == F64 && in[1].dtype == F64)
    return Pow_f64_all(in, out);
  switch (in[0].dtype) {
    CASE(F32, powers_f32(node, in, out))
    CASE(F64, powers_f64(node, in, out))
    CASE(I64, powers_i64(node, in, out))
    CASE(I32, powers_i32(node, in, out))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}

#define COMPARISON(op_name, EXPR)                                                                                      \
  BINARY_LOOP(op_name##_f32, float, float, uint8_t, EXPR)                                                              \
  BINARY_LOOP(op_name##_f64, double, double, uint8_t, EXPR)                                                            \
  BINARY_LOOP(op_name##_i64, int64_t, int64_t, uint8_t, EXPR)                                                          \
  BINARY_LOOP(op_name##_i32, int32_t, int32_t, uint8_t, EXPR)                                                          \
  BINARY_LOOP(op_name##_u8, uint8_t, uint8_t, uint8_t, EXPR)                                                           \
  KERNEL(op_name, .accepts = takes_comparable) {                                                                       \
    UNUSED;                                                                                                            \
    switch (in[0].dtype) {                                                                                             \
      CASE(F32, op_name##_f32_all(in, out))                                                                            \
      CASE(F64, op_name##_f64_all(in, out))                                                                            \
      CASE(I64, op_name##_i64_all(in, out))                                                                            \
      CASE(I32, op_name##_i32_all(in, out))                                                                            \
      CASE(U8, op_name##_u8_all(in, out))                                                                              \
      CASE(BOOL, op_name##_u8_all(in, out))                                                                            \
    default:                                                                                                           \
      return unsupported_type(node, in[0].dtype);                                                                      \
    }                                                                                                                  \
  }

COMPARISON(Equal, x == y)
COMPARISON(Greater, x > y)
COMPARISON(GreaterOrEqual, x >= y)
COMPARISON(Less, x < y)
COMPARISON(LessOrEqual, x <= y)

BINARY_LOOP(And_u8, uint8_t, uint8_t, uint8_t, x &&y)
BINARY_LOOP(Or_u8, uint8_t, uint8_t, uint8_t, x || y)

KERNEL(And, .accepts = takes_any) {
  UNUSED;
  return And_u8_all(in, out);
}

KERNEL(Or, .accepts = takes_any) {
  UNUSED;
  return Or_u8_all(in, out);
}

KERNEL(Not, .accepts = takes_any) {
  UNUSED;
  const uint8_t *x = in[0].data;
  uint8_t *y = out[0].data;
  int64_t n = shape_elements(out[0].shape);
  for (int64_t i = 0; i < n; i++)
    y[i] = !x[i];
  return OK;
}

/* Integers as bits: those of one size are one kernel, of any sign. */
#define BITS(op_name, EXPR)                                                                                            \
  BINARY_LOOP(op_name##_w8, uint64_t, uint64_t, uint64_t, (uint64_t)(EXPR))                                            \
  BINARY_LOOP(op_name##_w4, uint32_t, uint32_t, uint32_t, (uint32_t)(EXPR))                                            \
  BINARY_LOOP(op_name##_w2, uint16_t, uint16_t, uint16_t, (uint16_t)(EXPR))                                            \
  BINARY_LOOP(op_name##_w1, uint8_t, uint8_t, uint8_t, (uint8_t)(EXPR))                                                \
  static Status op_name##_bits(const Tensor *in, const Tensor *out) {                                                  \
    switch (dtype_bytes(out->dtype)) {                                                                                 \
      CASE(8, op_name##_w8_all(in, out))                                                                               \
      CASE(4, op_name##_w4_all(in, out))                                                                               \
      CASE(2, op_name##_w2_all(in, out))                                                                               \
    default:                                                                                                           \
      return op_name##_w1_all(in, out);                                                                                \
    }                                                                                                                  \
  }
BITS(BitwiseAnd, x &y)
BITS(BitwiseOr, x | y)
BITS(BitwiseXor, x ^ y)
/* What is shifted by all its bits or more, which a number below 0 means too, is 0. */
BITS(ShiftLeft, y < 8 * sizeof x ? (uint64_t)x << y : 0)
BITS(ShiftRight, y < 8 * sizeof x ? (uint64_t)x >> y : 0)

/* Of a type with a sign, the sign moves in from the left. */
#define SIGNED_SHIFT(S, T)                                                                                             \
  BINARY_LOOP(ShiftRight_##S, T, T, T, (T)(x >> (y < 0 || y >= (T)(8 * sizeof x) ? (T)(8 * sizeof x - 1) : y)))
SIGNED_SHIFT(i64, int64_t)
SIGNED_SHIFT(i32, int32_t)
SIGNED_SHIFT(i16, int16_t)
SIGNED_SHIFT(i8, int8_t)

static Status shift_right(const Tensor *in, const Tensor *out) {
  switch (out->dtype) {
    CASE(I64, ShiftRight_i64_all(in, out))
    CASE(I32, ShiftRight_i32_all(in, out))
    CASE(I16, ShiftRight_i16_all(in, out))
    CASE(I8, ShiftRight_i8_all(in, out))
  default:
    return ShiftRight_bits(in, out);
  }
}

KERNEL(BitwiseAnd, .accepts = takes_any) {
  UNUSED;
  return BitwiseAnd_bits(in, out);
}

KERNEL(BitwiseOr, .accepts = takes_any) {
  UNUSED;
  return BitwiseOr_bits(in, out);
}

KERNEL(BitwiseXor, .accepts = takes_any) {
  UNUSED;
  return BitwiseXor_bits(in, out);
}

KERNEL(BitShift, .accepts = takes_any) {
  UNUSED;
  return node_int(node, "right", 0) ? shift_right(in, out) : ShiftLeft_bits(in, out);
}

KERNEL(BitwiseNot, .accepts = takes_any) {
  UNUSED;
  const uint8_t *x = in[0].data;
  uint8_t *y = out[0].data;
  int64_t n = shape_elements(out[0].shape) * (int64_t)dtype_bytes(out[0].dtype);
  for (int64_t i = 0; i < n; i++)
    y[i] = (uint8_t)~x[i];
  return OK;
}

KERNEL(BitCast, .accepts = takes_any) {
  UNUSED;
  size_t bytes = (size_t)shape_elements(out[0].shape) * dtype_bytes(out[0].dtype);
  if (bytes)
    memcpy(out[0].data, in[0].data, bytes);
  return OK;
}

/* The common steppings spelled out, as RUN2; a mask, for conditions that no branch predictor knows. */
#define CHOOSE(T, c_step, a_step, b_step)                                                                              \
  if (sc == c_step && sa == a_step && sb == b_step) {                                                                  \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T mask = (T)(0 - (T)(c[i * c_step] != 0));                                                                       \
      y[i] = (T)((a[i * a_step] & mask) | (b[i * b_step] & ~mask));                                                    \
    }                                                                                                                  \
    return;                                                                                                            \
  }

#define WHERE(S, T)                                                                                                    \
  WIDE_LOOPS static void choose_##S(const uint8_t *c, int64_t sc, const T *a, int64_t sa, const T *b, int64_t sb,      \
                                    T *y, int64_t n) {                                                                 \
    CHOOSE(T, 1, 1, 1)                                                                                                 \
    CHOOSE(T, 1, 1, 0)                                                                                                 \
    CHOOSE(T, 1, 0, 1)                                                                                                 \
    for (int64_t i = 0; i < n; i++)                                                                                    \
      y[i] = c[i * sc] ? a[i * sa] : b[i * sb];                                                                        \
  }                                                                                                                    \
  static Status where_##S(const Tensor *in, const Tensor *out) {                                                       \
    Walk w;                                                                                                            \
    walk_init(&w, out->shape, in, 3);                                                                                  \
    int64_t runs = walk_runs(&w), last = w.rank - 1, n = w.dim[last], at[3];                                           \
    for (int64_t run = 0; run < runs; run++) {                                                                         \
      walk_offsets(&w, run, 3, at);                                                                                    \
      choose_##S((const uint8_t *)in[0].data + at[0], w.stride[0][last], (const T *)in[1].data + at[1],                \
                 w.stride[1][last], (const T *)in[2].data + at[2], w.stride[2][last], (T *)out->data + run * n, n);    \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }
WHERE(w8, uint64_t)
WHERE(w4, uint32_t)
WHERE(w2, uint16_t)
WHERE(w1, uint8_t)

KERNEL(Where, .accepts = takes_any) {
  UNUSED;
  switch (dtype_bytes(out[0].dtype)) {
    CASE(8, where_w8(in, out))
    CASE(4, where_w4(in, out))
    CASE(2, where_w2(in, out))
  default:
    return where_w1(in, out);
  }
}

#define UNARY_LOOP(name, T, EXPR)                                                                                      \
  WIDE_LOOPS static void name(const T *a, T *c, int64_t n) {                                                           \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T x = a[i];                                                                                                      \
      c[i] = EXPR;                                                                                                     \
    }                                                                                                                  \
  }

#define UNARY(op_name, EXPR32, EXPR64)                                                                                 \
  UNARY_LOOP(op_name##_f32, float, EXPR32)                                                                             \
  UNARY_LOOP(op_name##_f64, double, EXPR64)                                                                            \
  KERNEL(op_name, .accepts = takes_floats) {                                                                           \
    UNUSED;                                                                                                            \
    if (in[0].dtype == F32)                                                                                            \
      op_name##_f32(in[0].data, out[0].data, shape_elements(out[0].shape));                                            \
    else if (in[0].dtype == F64)                                                                                       \
      op_name##_f64(in[0].data, out[0].data, shape_elements(out[0].shape));                                            \
    else                                                                                                               \
      return unsupported_type(node, in[0].dtype);                                                                      \
    return OK;                                                                                                         \
  }

UNARY(Sqrt, sqrtf(x), sqrt(x))
UNARY(Exp, expf(x), exp(x))
UNARY(Log, logf(x), log(x))
UNARY(Erf, erff(x), erf(x))
UNARY(Sin, sinf(x), sin(x))
UNARY(Cos, cosf(x), cos(x))
UNARY(Tan, tanf(x), tan(x))
UNARY(Asin, asinf(x), asin(x))
UNARY(Acos, acosf(x), acos(x))
UNARY(Atan, atanf(x), atan(x))
UNARY(Sinh, sinhf(x), sinh(x))
UNARY(Cosh, coshf(x), cosh(x))
UNARY(Asinh, asinhf(x), asinh(x))
UNARY(Acosh, acoshf(x), acosh(x))
UNARY(Atanh, atanhf(x), atanh(x))
UNARY(Floor, floorf(x), floor(x))
UNARY(Ceil, ceilf(x), ceil(x))
UNARY(Round, rintf(x), rint(x))
UNARY(Reciprocal, 1 / x, 1 / x)
UNARY(Tanh, tanhf(x), tanh(x))
UNARY(Sigmoid, 1 / (1 + expf(-x)), 1 / (1 + exp(-x)))
UNARY(Relu, x > 0 || x != x ? x : 0, x > 0 || x != x ? x : 0)

UNARY_LOOP(Neg_f32, float, -x)
UNARY_LOOP(Neg_f64, double, -x)
UNARY_LOOP(Neg_i64, int64_t, (int64_t)(0 - (uint64_t)x))
UNARY_LOOP(Neg_i32, int32_t, (int32_t)(0 - (uint32_t)x))
UNARY_LOOP(Abs_f32, float, fabsf(x))
UNARY_LOOP(Abs_f64, double, fabs(x))
UNARY_LOOP(Abs_i64, int64_t, x < 0 ? (int64_t)(0 - (uint64_t)x) : x)
UNARY_LOOP(Abs_i32, int32_t, x < 0 ? (int32_t)(0 - (uint32_t)x) : x)

#define SIGNED_UNARY(op_name)                                                                                          \
  KERNEL(op_name, .accepts = takes_numbers) {                                                                          \
    UNUSED;                                                                                                            \
    int64_t n = shape_elements(out[0].shape);                                                                          \
    switch (in[0].dtype) {                                                                                             \
      CASE(F32, (op_name##_f32(in[0].data, out[0].data, n), OK))                                                       \
      CASE(F64, (op_name##_f64(in[0].data, out[0].data, n), OK))                                                       \
      CASE(I64, (op_name##_i64(in[0].data, out[0].data, n), OK))                                                       \
      CASE(I32, (op_name##_i32(in[0].data, out[0].data, n), OK))                                                       \
    default:                                                                                                           \
      return unsupported_type(node, in[0].dtype);                                                                      \
    }                                                                                                                  \
  }
SIGNED_UNARY(Neg)
SIGNED_UNARY(Abs)

/* Activations with an attribute, and the gradients of activations: y of one or two arrays of one shape. */
#define PAIR_LOOP(name, T, EXPR)                                                                                       \
  WIDE_LOOPS static void name(const T *a, const T *b, T alpha, T *c, int64_t n) {                                      \
    (void)alpha;                                                                                                       \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T d = a[i], v = b[i];                                                                                            \
      c[i] = EXPR;                                                                                                     \
    }                                                                                                                  \
  }

#define PAIR(op_name, label, second, alpha, EXPR32, EXPR64)                                                            \
  PAIR_LOOP(label##_f32, float, EXPR32)                                                                                \
  PAIR_LOOP(label##_f64, double, EXPR64)                                                                               \
  static Status label(const Node *node, const Tensor *in, const Tensor *out) {                                         \
    int64_t n = shape_elements(out[0].shape);                                                                          \
    if (in[0].dtype == F32)                                                                                            \
      label##_f32(in[0].data, in[second].data, (float)(alpha), out[0].data, n);                                        \
    else if (in[0].dtype == F64)                                                                                       \
      label##_f64(in[0].data, in[second].data, (alpha), out[0].data, n);                                               \
    else                                                                                                               \
      return unsupported_type(node, in[0].dtype);                                                                      \
    return OK;                                                                                                         \
  }

#define SQRT_HALF 0.7071067811865476
#define SQRT_2_PI 0.7978845608028654
#define INV_SQRT_2PI 0.3989422804014327
#define CUBIC 0.044715

PAIR(TanhGrad, tanh_grad, 1, 0, d *(1 - v * v), d *(1 - v * v))
PAIR(SigmoidGrad, sigmoid_grad, 1, 0, d *v *(1 - v), d *v *(1 - v))
PAIR(ReluGrad, relu_grad, 1, 0, v > 0 ? d : 0, v > 0 ? d : 0)
PAIR(LeakyRelu, leaky_relu, 0, node_float(node, "alpha", 0.01), v >= 0 ? d : alpha * d, v >= 0 ? d : alpha * d)
PAIR(LeakyReluGrad, leaky_relu_grad, 1, node_float(node, "alpha", 0.01), v > 0 ? d : alpha * d, v > 0 ? d : alpha * d)
PAIR(Gelu, gelu_erf, 0, 0, d * 0.5f * (1 + erff(v * (float)SQRT_HALF)), d * 0.5 * (1 + erf(v * SQRT_HALF)))
PAIR(Gelu, gelu_tanh, 0, 0, d * 0.5f * (1 + tanhf((float)SQRT_2_PI * (v + (float)CUBIC * v * v * v))),
     d * 0.5 * (1 + tanh(SQRT_2_PI * (v + CUBIC * v * v * v))))
PAIR(GeluGrad, gelu_erf_grad, 1, 0,
     d *(0.5f * (1 + erff(v * (float)SQRT_HALF)) + v * (float)INV_SQRT_2PI * expf(-0.5f * v * v)),
     d *(0.5 * (1 + erf(v * SQRT_HALF)) + v * INV_SQRT_2PI * exp(-0.5 * v * v)))

static inline double gelu_tanh_slope(double v) {
  double t = tanh(SQRT_2_PI * (v + CUBIC * v * v * v));
  return 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * SQRT_2_PI * (1 + 3 * CUBIC * v * v);
}
PAIR(GeluGrad, gelu_tanh_grad, 1, 0, d *(float)gelu_tanh_slope(v), d *gelu_tanh_slope(v))

PAIR(Swish, swish, 0, node_float(node, "alpha", 1), v / (1 + expf(-alpha * d)), v / (1 + exp(-alpha * d)))

static inline double swish_slope(double x, double alpha) {
  double gate = 1 / (1 + exp(-alpha * x));
  return gate * (1 + alpha * x * (1 - gate));
}
PAIR(SwishGrad, swish_grad, 1, node_float(node, "alpha", 1), d *(float)swish_slope(v, alpha), d *swish_slope(v, alpha))

#define SWIGLU_LOOPS(S, T, EXP)                                                                                        \
  WIDE_LOOPS static void swiglu_##S(const T *a, const T *b, T alpha, T *y, int64_t n) {                                \
    for (int64_t i = 0; i < n; i++)                                                                                    \
      y[i] = a[i] / (1 + EXP(-alpha * a[i])) * b[i];                                                                   \
  }                                                                                                                    \
  WIDE_LOOPS static void swiglu_grad_##S(const T *d, const T *a, const T *b, T alpha, T *da, T *db, int64_t n) {       \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T to_gate = d[i] * b[i] * (T)swish_slope(a[i], alpha), to_other = d[i] * (a[i] / (1 + EXP(-alpha * a[i])));      \
      da[i] = to_gate;                                                                                                 \
      db[i] = to_other;                                                                                                \
    }                                                                                                                  \
  }
SWIGLU_LOOPS(f32, float, expf)
SWIGLU_LOOPS(f64, double, exp)

bool gelu_is_tanh(const Node *node) {
  return strcmp(node_string(node, "approximate", "none"), "tanh") == 0;
}

KERNEL(TanhGrad, .accepts = takes_floats) {
  UNUSED;
  return tanh_grad(node, in, out);
}

KERNEL(SigmoidGrad, .accepts = takes_floats) {
  UNUSED;
  return sigmoid_grad(node, in, out);
}

KERNEL(ReluGrad, .accepts = takes_floats) {
  UNUSED;
  return relu_grad(node, in, out);
}

KERNEL(LeakyRelu, .accepts = takes_floats) {
  UNUSED;
  return leaky_relu(node, in, out);
}

KERNEL(LeakyReluGrad, .accepts = takes_floats) {
  UNUSED;
  return leaky_relu_grad(node, in, out);
}

KERNEL(Gelu, .accepts = takes_floats) {
  UNUSED;
  return gelu_is_tanh(node) ? gelu_tanh(node, in, out) : gelu_erf(node, in, out);
}

KERNEL(GeluGrad, .accepts = takes_floats) {
  UNUSED;
  return gelu_is_tanh(node) ? gelu_tanh_grad(node, in, out) : gelu_erf_grad(node, in, out);
}

KERNEL(Swish, .accepts = takes_floats) {
  UNUSED;
  return swish(node, in, out);
}

KERNEL(SwishGrad, .accepts = takes_floats) {
  UNUSED;
  return swish_grad(node, in, out);
}

KERNEL(SwiGLU, .accepts = takes_floats) {
  UNUSED;
  double alpha = node_float(node, "alpha", 1);
  int64_t n = shape_elements(out->shape);
  switch (in->dtype) {
    CASE(F32, (swiglu_f32(in[0].data, in[1].data, (float)alpha, out->data, n), OK))
    CASE(F64, (swiglu_f64(in[0].data, in[1].data, alpha, out->data, n), OK))
  default:
    return unsupported_type(node, in->dtype);
  }
}

KERNEL(SwiGLUGrad, .accepts = takes_floats) {
  UNUSED;
  double alpha = node_float(node, "alpha", 1);
  int64_t n = shape_elements(out->shape);
  const void *d = in[0].data, *a = in[1].data, *b = in[2].data;
  switch (in->dtype) {
    CASE(F32, (swiglu_grad_f32(d, a, b, (float)alpha, out[0].data, out[1].data, n), OK))
    CASE(F64, (swiglu_grad_f64(d, a, b, alpha, out[0].data, out[1].data, n), OK))
  default:
    return unsupported_type(node, in->dtype);
  }
}

/* x between two numbers, and what passes there, the numbers themselves included: as torch.clamp. NaN passes. */
#define CLIP_LOOPS(T)                                                                                                  \
  WIDE_LOOPS static void clip_##T(const T *x, T least, T most, T *y, int64_t n) {                                      \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      T up = x[i] < least ? least : x[i];                                                                              \
      y[i] = up > most ? most : up;                                                                                    \
    }                                                                                                                  \
  }                                                                                                                    \
  WIDE_LOOPS static void clip_grad_##T(const T *d, const T *x, T least, T most, T *y, int64_t n) {                     \
    for (int64_t i = 0; i < n; i++)                                                                                    \
      y[i] = x[i] < least || x[i] > most ? 0 : d[i];                                                                   \
  }
CLIP_LOOPS(float)
CLIP_LOOPS(double)

KERNEL(Clip, .accepts = takes_floats) {
  UNUSED;
  double least = node_float(node, "min", -INFINITY), most = node_float(node, "max", INFINITY);
  int64_t n = shape_elements(out->shape);
  switch (in->dtype) {
    CASE(F32, (clip_float(in->data, (float)least, (float)most, out->data, n), OK))
    CASE(F64, (clip_double(in->data, least, most, out->data, n), OK))
  default:
    return unsupported_type(node, in->dtype);
  }
}

KERNEL(ClipGrad, .accepts = takes_floats) {
  UNUSED;
  double least = node_float(node, "min", -INFINITY), most = node_float(node, "max", INFINITY);
  int64_t n = shape_elements(out->shape);
  switch (in->dtype) {
    CASE(F32, (clip_grad_float(in[0].data, in[1].data, (float)least, (float)most, out->data, n), OK))
    CASE(F64, (clip_grad_double(in[0].data, in[1].data, least, most, out->data, n), OK))
  default:
    return unsupported_type(node, in->dtype);
  }
}
