/* Functions of two and three inputs, and of one that is no float. */
#include "backend/cuda/map.cuh"

/* Integer arithmetic wraps. */
#define WRAPPED(T, x, op, y) (T)((uint64_t)(x)op(uint64_t)(y))

struct Not {
  DEVICE uint8_t operator()(uint8_t x) const { return !x; }
};

void launch_not(cudaStream_t s, int64_t n, const void *x, void *y) {
  run1(s, Not(), n, (const uint8_t *)x, (uint8_t *)y);
}

template <class T> DEVICE T modulo(T x, T y, bool c_sign) {
  if constexpr (std::is_floating_point<T>::value) {
    T r = fmod(x, y);
    if (c_sign)
      return r;
    return r == 0 ? copysign(T(0), y) : (r < 0) != (y < 0) ? r + y : r;
  } else {
    if (y == 0 || y == -1)
      return 0;
    T r = x % y;
    return !c_sign && r != 0 && (r < 0) != (y < 0) ? r + y : r;
  }
}

template <class T> DEVICE T quotient(T x, T y) {
  if constexpr (std::is_floating_point<T>::value)
    return x / y;
  else
    return y == 0 ? 0 : y == -1 ? WRAPPED(T, 0, -, x) : x / y;
}

template <class T> struct Arithmetic {
  ArithmeticFunction function;
  template <class V> DEVICE void each(V visit) const {
    constexpr bool whole = !std::is_floating_point<T>::value;
    switch (function) {
    case ARITHMETIC_Add:
      return visit([](T x, T y) { return whole ? WRAPPED(T, (int64_t)x, +, (int64_t)y) : x + y; });
    case ARITHMETIC_Sub:
      return visit([](T x, T y) { return whole ? WRAPPED(T, (int64_t)x, -, (int64_t)y) : x - y; });
    case ARITHMETIC_Mul:
      return visit([](T x, T y) { return whole ? WRAPPED(T, (int64_t)x, *, (int64_t)y) : x * y; });
    case ARITHMETIC_Div:
      return visit([](T x, T y) { return quotient(x, y); });
    case ARITHMETIC_Max:
      return visit([](T x, T y) { return x > y || x != x ? x : y; });
    case ARITHMETIC_Min:
      return visit([](T x, T y) { return x < y || x != x ? x : y; });
    }
  }
};
template <class T> constexpr bool chooses<Arithmetic<T>> = true;

template <class T> struct Modulo {
  bool c_sign;
  DEVICE T operator()(T x, T y) const { return modulo(x, y, c_sign); }
};
template <class T> constexpr int neighbours<Modulo<T>> = 1;

template <class T> struct Comparison {
  ComparisonFunction function;
  template <class V> DEVICE void each(V visit) const {
    switch (function) {
    case COMPARISON_Equal:
      return visit([](T x, T y) { return x == y; });
    case COMPARISON_Greater:
      return visit([](T x, T y) { return x > y; });
    case COMPARISON_GreaterOrEqual:
      return visit([](T x, T y) { return x >= y; });
    case COMPARISON_Less:
      return visit([](T x, T y) { return x < y; });
    case COMPARISON_LessOrEqual:
      return visit([](T x, T y) { return x <= y; });
    case COMPARISON_And:
      return visit([](T x, T y) { return x && y; });
    case COMPARISON_Or:
      return visit([](T x, T y) { return x || y; });
    }
  }
};
template <class T> constexpr bool chooses<Comparison<T>> = true;

template <class A, class B, class R>
static void arithmetic(cudaStream_t s, ArithmeticFunction function, const Steps *steps, const A *a, const B *b, R *c) {
  run2(s, Arithmetic<Computed<A>>{function}, *steps, a, b, c);
}

void launch_arithmetic(cudaStream_t s, ArithmeticFunction function, Types types, const Steps *steps, const void *a,
                       const void *b, void *c) {
  if (types.in[0] == I64)
    arithmetic(s, function, steps, (const int64_t *)a, (const int64_t *)b, (int64_t *)c);
  else if (types.in[0] == I32)
    arithmetic(s, function, steps, (const int32_t *)a, (const int32_t *)b, (int32_t *)c);
  else
    FOR_MIXES(types, arithmetic(s, function, steps, (const A *)a, (const B *)b, (R *)c))
}

void launch_modulo(cudaStream_t s, DType type, bool c_sign, const Steps *steps, const void *a, const void *b, void *c) {
  FOR_NUMBERS(type, run2(s, Modulo<T>{c_sign}, *steps, (const T *)a, (const T *)b, (T *)c))
}

template <class A, class B>
static void compare(cudaStream_t s, ComparisonFunction function, const Steps *steps, const A *a, const B *b, void *c) {
  run2(s, Comparison<Computed<A>>{function}, *steps, a, b, (uint8_t *)c);
}

void launch_comparison(cudaStream_t s, ComparisonFunction function, Types types, const Steps *steps, const void *a,
                       const void *b, void *c) {
  DType type = types.in[0];
  if (type == U8 || type == BOOL)
    compare(s, function, steps, (const uint8_t *)a, (const uint8_t *)b, c);
  else if (type == I64)
    compare(s, function, steps, (const int64_t *)a, (const int64_t *)b, c);
  else if (type == I32)
    compare(s, function, steps, (const int32_t *)a, (const int32_t *)b, c);
  else if (type == F64)
    compare(s, function, steps, (const double *)a, (const double *)b, c);
  else
    FOR_EITHER(type, A, FOR_EITHER(types.in[1], B, compare(s, function, steps, (const A *)a, (const B *)b, c)))
}

/* As the reference: integers wrap, and what has no integer result is 0. */
DEVICE int64_t whole_power(int64_t x, double y) {
  uint64_t power = 1, square = (uint64_t)x;
  if (x == 1 || x == -1)
    return x == 1 || fmod(y, 2.0) == 0 ? 1 : -1;
  if (!(y >= 0 && y < 9223372036854775808.0))
    return 0;
  for (int64_t n = (int64_t)y; n; n /= 2, square *= square)
    power *= n % 2 ? square : 1;
  return (int64_t)power;
}

template <class A, class B> struct Power {
  DEVICE A operator()(A x, B y) const {
    if constexpr (!std::is_floating_point<A>::value)
      return (A)whole_power((int64_t)x, (double)y);
    else if constexpr (std::is_same<A, B>::value)
      return y == 2 ? x * x : y == 3 ? x * x * x : y == 1 ? x : pow(x, y);
    else
      return (A)pow((double)x, (double)y);
  }
};
template <class A, class B> constexpr int neighbours<Power<A, B>> = 1;

template <class A>
static void power(cudaStream_t s, DType exponent, const Steps *steps, const A *a, const void *b, A *c) {
  FOR_NUMBERS(exponent, run2(s, Power<A, T>(), *steps, a, (const T *)b, c))
}

void launch_power(cudaStream_t s, Types types, const Steps *steps, const void *a, const void *b, void *c) {
  bool narrow = types.in[0] == BF16 || types.in[1] == BF16 || types.out == BF16;
  if (narrow)
    FOR_MIXES(types, run2(s, Power<Computed<A>, Computed<B>>(), *steps, (const A *)a, (const B *)b, (R *)c))
  else
    FOR_NUMBERS(types.in[0], power(s, types.in[1], steps, (const T *)a, b, (T *)c))
}

struct Where {
  template <class A, class B> DEVICE Computed<A> operator()(uint8_t c, A a, B b) const {
    return c ? (Computed<A>)a : (Computed<B>)b;
  }
};

void launch_where(cudaStream_t s, Types types, const Steps *steps, const void *condition, const void *a, const void *b,
                  void *c) {
  const uint8_t *which = (const uint8_t *)condition;
  if (types.in[1] == types.in[2] && types.in[1] == types.out)
    FOR_SIZES(dtype_bytes(types.out), run3(s, Where(), *steps, which, (const T *)a, (const T *)b, (T *)c))
  else
    FOR_EITHER(
        types.in[1], A,
        FOR_EITHER(types.in[2], B,
                   FOR_EITHER(types.out, R, run3(s, Where(), *steps, which, (const A *)a, (const B *)b, (R *)c))))
}

template <class T> struct AddScaled {
  T beta;
  DEVICE T operator()(T c, T y) const { return y + beta * c; }
};

void launch_add_scaled(cudaStream_t s, DType type, double beta, const Steps *steps, const void *c, void *y) {
  FOR_FLOATS(type, run2(s, AddScaled<T>{(T)beta}, *steps, (const T *)c, (const T *)y, (T *)y))
}

template <class T> struct LossGrad {
  bool squares;
  const double *scale;
  DEVICE T operator()(T x, T z) const {
    return squares ? (T)(2 * *scale) * (x - z) : (T)*scale * (1 / (1 + exp(-x)) - z);
  }
};

void launch_loss_grad(cudaStream_t s, PairedLoss loss, Types types, int64_t n, const void *x, const void *z,
                      const double *scale, void *dx) {
  FOR_MIXES(types,
            run2_dense(s, (LossGrad<Computed<A>>{loss == LOSS_SQUARES, scale}), n, (const A *)x, (const B *)z, (R *)dx))
}
