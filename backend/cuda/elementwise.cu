/* One element of the output a thread. What a function computes is chosen inside the kernel: all threads take the same
 * way, memory is the limit, and a kernel serves many operators. */
#include "backend/cuda/map.cuh"

template <class T> GLOBAL void map_where(Steps s, const uint8_t *c, const T *a, const T *b, T *y) {
  for (int64_t i = global_thread(); i < s.n; i += global_threads())
    y[i] = c[step_offset(s, 0, i)] ? a[step_offset(s, 1, i)] : b[step_offset(s, 2, i)];
}

/* Integer arithmetic wraps. */
#define WRAPPED(T, x, op, y) (T)((uint64_t)(x)op(uint64_t)(y))

template <class T> struct Unary {
  UnaryFunction function;
  T alpha;
  bool tanh_form;
  DEVICE T operator()(T x) const {
    const T half = (T)0.5, root_half = (T)0.7071067811865476, root_2_pi = (T)0.7978845608028654, cubic = (T)0.044715;
    switch (function) {
    case UNARY_Neg:
      return -x;
    case UNARY_Abs:
      return fabs(x);
    case UNARY_Sqrt:
      return sqrt(x);
    case UNARY_Exp:
      return exp(x);
    case UNARY_Log:
      return log(x);
    case UNARY_Erf:
      return erf(x);
    case UNARY_Sin:
      return sin(x);
    case UNARY_Cos:
      return cos(x);
    case UNARY_Tan:
      return tan(x);
    case UNARY_Asin:
      return asin(x);
    case UNARY_Acos:
      return acos(x);
    case UNARY_Atan:
      return atan(x);
    case UNARY_Sinh:
      return sinh(x);
    case UNARY_Cosh:
      return cosh(x);
    case UNARY_Asinh:
      return asinh(x);
    case UNARY_Acosh:
      return acosh(x);
    case UNARY_Atanh:
      return atanh(x);
    case UNARY_Floor:
      return floor(x);
    case UNARY_Ceil:
      return ceil(x);
    case UNARY_Round:
      return rint(x);
    case UNARY_Reciprocal:
      return 1 / x;
    case UNARY_Tanh:
      return tanh(x);
    case UNARY_Sigmoid:
      return 1 / (1 + exp(-x));
    case UNARY_Relu:
      return x > 0 || x != x ? x : 0;
    case UNARY_LeakyRelu:
      return x >= 0 ? x : alpha * x;
    case UNARY_Gelu:
      return x * half * (1 + (tanh_form ? tanh(root_2_pi * (x + cubic * x * x * x)) : erf(x * root_half)));
    case UNARY_Swish:
      return x / (1 + exp(-alpha * x));
    }
    return (T)NAN;
  }
};

template <class T> struct WholeUnary { /* integers: Neg and Abs */
  bool negates;
  DEVICE T operator()(T x) const { return negates || x < 0 ? WRAPPED(T, 0, -, x) : x; }
};

void launch_unary(cudaStream_t s, UnaryFunction function, DType type, double alpha, bool tanh_form, int64_t n,
                  const void *x, void *y) {
  if (type == I64) {
    run1(s, WholeUnary<int64_t>{function == UNARY_Neg}, n, (const int64_t *)x, (int64_t *)y);
  } else if (type == I32) {
    run1(s, WholeUnary<int32_t>{function == UNARY_Neg}, n, (const int32_t *)x, (int32_t *)y);
  } else {
    FOR_FLOATS(type, run1(s, (Unary<T>{function, (T)alpha, tanh_form}), n, (const T *)x, (T *)y))
  }
}

struct Not {
  DEVICE uint8_t operator()(uint8_t x) const { return !x; }
};

void launch_not(cudaStream_t s, int64_t n, const void *x, void *y) {
  run1(s, Not(), n, (const uint8_t *)x, (uint8_t *)y);
}

template <class T> struct Pair {
  PairFunction function;
  T alpha;
  bool tanh_form;
  DEVICE T operator()(T d, T v) const {
    const T half = (T)0.5, root_half = (T)0.7071067811865476, root_2_pi = (T)0.7978845608028654, cubic = (T)0.044715,
            inv_root_2pi = (T)0.3989422804014327;
    switch (function) {
    case PAIR_TanhGrad:
      return d * (1 - v * v);
    case PAIR_SigmoidGrad:
      return d * v * (1 - v);
    case PAIR_ReluGrad:
      return v > 0 ? d : 0;
    case PAIR_LeakyReluGrad:
      return v > 0 ? d : alpha * d;
    case PAIR_GeluGrad: {
      if (!tanh_form)
        return d * (half * (1 + erf(v * root_half)) + v * inv_root_2pi * exp(-half * v * v));
      T t = tanh(root_2_pi * (v + cubic * v * v * v));
      return d * (half * (1 + t) + half * v * (1 - t * t) * root_2_pi * (1 + 3 * cubic * v * v));
    }
    case PAIR_SwishGrad: {
      T gate = 1 / (1 + exp(-alpha * v));
      return d * (gate * (1 + alpha * v * (1 - gate)));
    }
    }
    return (T)NAN;
  }
};

void launch_pair(cudaStream_t s, PairFunction function, DType type, double alpha, bool tanh_form, int64_t n,
                 const void *d, const void *v, void *y) {
  FOR_FLOATS(type, run2(s, (Pair<T>{function, (T)alpha, tanh_form}), dense(n), (const T *)d, (const T *)v, (T *)y))
}

template <class T> struct Clip {
  T least, most;
  DEVICE T operator()(T x) const {
    T up = x < least ? least : x;
    return up > most ? most : up;
  }
  DEVICE T operator()(T d, T x) const { return x < least || x > most ? T(0) : d; }
};

void launch_clip(cudaStream_t s, DType type, double least, double most, int64_t n, const void *d, const void *x,
                 void *y) {
  if (d)
    FOR_FLOATS(type, run2(s, (Clip<T>{(T)least, (T)most}), dense(n), (const T *)d, (const T *)x, (T *)y))
  else
    FOR_FLOATS(type, run1(s, (Clip<T>{(T)least, (T)most}), n, (const T *)x, (T *)y))
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
  bool c_sign;
  DEVICE T operator()(T x, T y) const {
    constexpr bool whole = !std::is_floating_point<T>::value;
    switch (function) {
    case ARITHMETIC_Add:
      return whole ? WRAPPED(T, (int64_t)x, +, (int64_t)y) : x + y;
    case ARITHMETIC_Sub:
      return whole ? WRAPPED(T, (int64_t)x, -, (int64_t)y) : x - y;
    case ARITHMETIC_Mul:
      return whole ? WRAPPED(T, (int64_t)x, *, (int64_t)y) : x * y;
    case ARITHMETIC_Div:
      return quotient(x, y);
    case ARITHMETIC_Max:
      return x > y || x != x ? x : y;
    case ARITHMETIC_Min:
      return x < y || x != x ? x : y;
    case ARITHMETIC_Mod:
      return modulo(x, y, c_sign);
    }
    return (T)(whole ? 0 : NAN);
  }
};

template <class T> struct Comparison {
  ComparisonFunction function;
  DEVICE bool operator()(T x, T y) const {
    switch (function) {
    case COMPARISON_Equal:
      return x == y;
    case COMPARISON_Greater:
      return x > y;
    case COMPARISON_GreaterOrEqual:
      return x >= y;
    case COMPARISON_Less:
      return x < y;
    case COMPARISON_LessOrEqual:
      return x <= y;
    case COMPARISON_And:
      return x && y;
    case COMPARISON_Or:
      return x || y;
    }
    return false;
  }
};

void launch_arithmetic(cudaStream_t s, ArithmeticFunction function, DType type, bool c_sign, const Steps *steps,
                       const void *a, const void *b, void *c) {
  FOR_NUMBERS(type, run2(s, (Arithmetic<T>{function, c_sign}), *steps, (const T *)a, (const T *)b, (T *)c))
}

void launch_comparison(cudaStream_t s, ComparisonFunction function, DType type, const Steps *steps, const void *a,
                       const void *b, void *c) {
  if (type == U8 || type == BOOL) {
    run2(s, Comparison<uint8_t>{function}, *steps, (const uint8_t *)a, (const uint8_t *)b, (uint8_t *)c);
  } else {
    FOR_NUMBERS(type, run2(s, Comparison<T>{function}, *steps, (const T *)a, (const T *)b, (uint8_t *)c))
  }
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
      return y == 2 ? x * x : y == 1 ? x : pow(x, y);
    else
      return (A)pow((double)x, (double)y);
  }
};

template <class A>
static void power(cudaStream_t s, DType exponent, const Steps *steps, const A *a, const void *b, A *c) {
  FOR_NUMBERS(exponent, run2(s, Power<A, T>(), *steps, a, (const T *)b, c))
}

void launch_power(cudaStream_t s, DType base, DType exponent, const Steps *steps, const void *a, const void *b,
                  void *c) {
  FOR_NUMBERS(base, power<T>(s, exponent, steps, (const T *)a, b, (T *)c))
}

void launch_where(cudaStream_t s, size_t size, const Steps *steps, const void *condition, const void *a, const void *b,
                  void *c) {
  FOR_SIZES(size, launch(map_where<T>, blocks_for(steps->n), BLOCK_THREADS, s, *steps, (const uint8_t *)condition,
                         (const T *)a, (const T *)b, (T *)c))
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

void launch_loss_grad(cudaStream_t s, PairedLoss loss, DType type, int64_t n, const void *x, const void *z,
                      const double *scale, void *dx) {
  FOR_FLOATS(type, run2(s, (LossGrad<T>{loss == LOSS_SQUARES, scale}), dense(n), (const T *)x, (const T *)z, (T *)dx))
}
