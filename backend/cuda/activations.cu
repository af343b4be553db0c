/* Functions of one float, and the gradients of activations. What memory limits is chosen once a thread; what takes long
 * is computed one element a thread. */
#include "backend/cuda/map.cuh"

/* `quick`: something is stored in bfloat16, beside which the device's own exp and quotient are exact. */
template <bool quick, class T> DEVICE T exponential(T x) {
  if constexpr (quick)
    return quick_exp(x);
  else
    return exp(x);
}

template <bool quick, class T> DEVICE T ratio(T x, T y) {
  if constexpr (quick)
    return quick_quotient(x, y);
  else
    return x / y;
}

/* 1 + exp(-x), by which a sigmoid's gate divides. */
template <bool quick, class T> DEVICE T gate_divisor(T x) {
  return 1 + exponential<quick>(-x);
}

template <class T> constexpr T half = (T)0.5;
template <class T> constexpr T root_half = (T)0.7071067811865476;
template <class T> constexpr T root_2_pi = (T)0.7978845608028654;
template <class T> constexpr T inv_root_2pi = (T)0.3989422804014327;
template <class T> constexpr T cubic = (T)0.044715;

/* GELU's tanh form is x times the sigmoid of this. */
template <class T> DEVICE T tanh_argument(T x) {
  return 2 * root_2_pi<T> * (x + cubic<T> * x * x * x);
}

/* What does not take longer than memory. */
template <class T, bool quick> struct Activation {
  UnaryFunction function;
  T alpha;
  bool tanh_form;
  template <class V> DEVICE void each(V visit) const {
    T a = alpha;
    switch (function) {
    case UNARY_Neg:
      return visit([](T x) { return -x; });
    case UNARY_Abs:
      return visit([](T x) { return fabs(x); });
    case UNARY_Sqrt:
      return visit([](T x) { return sqrt(x); });
    case UNARY_Exp:
      return visit([](T x) { return exp(x); });
    case UNARY_Floor:
      return visit([](T x) { return floor(x); });
    case UNARY_Ceil:
      return visit([](T x) { return ceil(x); });
    case UNARY_Round:
      return visit([](T x) { return rint(x); });
    case UNARY_Reciprocal:
      return visit([](T x) { return 1 / x; });
    case UNARY_Tanh:
      return visit([](T x) { return tanh(x); });
    case UNARY_Sigmoid:
      return visit([](T x) { return ratio<quick, T>(1, gate_divisor<quick>(x)); });
    case UNARY_Relu:
      return visit([](T x) { return x > 0 || x != x ? x : 0; });
    case UNARY_LeakyRelu:
      return visit([a](T x) { return x >= 0 ? x : a * x; });
    case UNARY_Gelu:
      if (tanh_form)
        return visit([](T x) { return ratio<quick>(x, gate_divisor<quick>(tanh_argument(x))); });
      return visit([](T x) { return x * half<T> * (1 + erf(x * root_half<T>)); });
    case UNARY_Swish:
      return visit([a](T x) { return ratio<quick>(x, gate_divisor<quick>(a * x)); });
    default:
      return visit([](T) { return (T)NAN; });
    }
  }
};
template <class T, bool quick> constexpr bool chooses<Activation<T, quick>> = true;

template <class T> struct LongFunction {
  UnaryFunction function;
  DEVICE T operator()(T x) const {
    switch (function) {
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
    default:
      return (T)NAN;
    }
  }
};
template <class T> constexpr int neighbours<LongFunction<T>> = 1;

static bool takes_long(UnaryFunction function) {
  return function == UNARY_Log || function == UNARY_Erf || (function >= UNARY_Sin && function <= UNARY_Atanh);
}

/* Integers: Neg and Abs. */
template <class T> struct WholeUnary {
  bool negates;
  DEVICE T operator()(T x) const { return negates || x < 0 ? (T)(0 - (uint64_t)x) : x; }
};

template <class A, class R>
static void unary(cudaStream_t s, UnaryFunction function, double alpha, bool tanh_form, int64_t n, const A *x, R *y) {
  typedef Computed<A> T;
  constexpr bool quick = std::is_same<A, Bfloat>::value || std::is_same<R, Bfloat>::value;
  if (takes_long(function))
    run1(s, LongFunction<T>{function}, n, x, y);
  else
    run1(s, Activation<T, quick>{function, (T)alpha, tanh_form}, n, x, y);
}

void launch_unary(cudaStream_t s, UnaryFunction function, Types types, double alpha, bool tanh_form, int64_t n,
                  const void *x, void *y) {
  if (types.in[0] == I64)
    run1(s, WholeUnary<int64_t>{function == UNARY_Neg}, n, (const int64_t *)x, (int64_t *)y);
  else if (types.in[0] == I32)
    run1(s, WholeUnary<int32_t>{function == UNARY_Neg}, n, (const int32_t *)x, (int32_t *)y);
  else if (types.in[0] == F64)
    unary(s, function, alpha, tanh_form, n, (const double *)x, (double *)y);
  else
    FOR_EITHER(types.in[0], A, FOR_EITHER(types.out, R, unary(s, function, alpha, tanh_form, n, (const A *)x, (R *)y)))
}

template <class T, bool quick> struct Slope {
  PairFunction function;
  T alpha;
  bool tanh_form;
  template <class V> DEVICE void each(V visit) const {
    T a = alpha;
    switch (function) {
    case PAIR_TanhGrad:
      return visit([](T d, T v) { return d * (1 - v * v); });
    case PAIR_SigmoidGrad:
      return visit([](T d, T v) { return d * v * (1 - v); });
    case PAIR_ReluGrad:
      return visit([](T d, T v) { return v > 0 ? d : 0; });
    case PAIR_LeakyReluGrad:
      return visit([a](T d, T v) { return v > 0 ? d : a * d; });
    case PAIR_GeluGrad:
      if (tanh_form)
        return visit([](T d, T v) {
          T gate = ratio<quick, T>(1, gate_divisor<quick>(tanh_argument(v)));
          return d * (gate + 2 * v * gate * (1 - gate) * root_2_pi<T> * (1 + 3 * cubic<T> * v * v));
        });
      return visit([](T d, T v) {
        return d * (half<T> * (1 + erf(v * root_half<T>)) + v * inv_root_2pi<T> * exponential<quick>(-half<T> * v * v));
      });
    case PAIR_SwishGrad:
      return visit([a](T d, T v) {
        T gate = ratio<quick, T>(1, gate_divisor<quick>(a * v));
        return d * (gate * (1 + a * v * (1 - gate)));
      });
    }
  }
};
template <class T, bool quick> constexpr bool chooses<Slope<T, quick>> = true;

template <class A, class B, class R>
static void pair(cudaStream_t s, PairFunction function, double alpha, bool tanh_form, int64_t n, const A *d, const B *v,
                 R *y) {
  typedef Computed<A> T;
  constexpr bool quick = sizeof(A) + sizeof(B) + sizeof(R) < 12;
  run2_dense(s, Slope<T, quick>{function, (T)alpha, tanh_form}, n, d, v, y);
}

void launch_pair(cudaStream_t s, PairFunction function, Types types, double alpha, bool tanh_form, int64_t n,
                 const void *d, const void *v, void *y) {
  FOR_MIXES(types, pair(s, function, alpha, tanh_form, n, (const A *)d, (const B *)v, (R *)y))
}

template <class T, bool quick> struct SwiGLU {
  T alpha;
  DEVICE T operator()(T a, T b) const { return ratio<quick>(a, gate_divisor<quick>(alpha * a)) * b; }
};

template <class A, class B, class R>
static void swiglu(cudaStream_t s, double alpha, int64_t n, const A *a, const B *b, R *y) {
  typedef Computed<A> T;
  constexpr bool quick = sizeof(A) + sizeof(B) + sizeof(R) < 12;
  run2_dense(s, SwiGLU<T, quick>{(T)alpha}, n, a, b, y);
}

void launch_swiglu(cudaStream_t s, Types types, double alpha, int64_t n, const void *a, const void *b, void *y) {
  FOR_MIXES(types, swiglu(s, alpha, n, (const A *)a, (const B *)b, (R *)y))
}

enum { SWIGLU_NEIGHBOURS = 8 };

/* A thread has read its elements of all operands before it writes the first result. */
template <class D, class X, class R>
GLOBAL void swiglu_grad(Computed<X> alpha, uint32_t n, bool together, const D *d, const X *a, const X *b, R *da,
                        R *db) {
  typedef Computed<X> T;
  constexpr int N = SWIGLU_NEIGHBOURS;
  constexpr bool quick = sizeof(D) + sizeof(X) + sizeof(R) < 12;
  FOR_NEIGHBOURS(N, n, i, count) {
    Many<D, N> dy = load_dense<N>(d, i, (int)count, together);
    Many<X, N> x = load_dense<N>(a, i, (int)count, together);
    Many<X, N> z = load_dense<N>(b, i, (int)count, together);
    Many<R, N> dx = {}, dz = {};
    UNROLL
    for (int k = 0; k < N; k++) {
      T t = (T)dy.at[k], v = (T)x.at[k], gate = ratio<quick, T>(1, gate_divisor<quick>(alpha * v));
      dx.at[k] = (R)(t * (T)z.at[k] * (gate * (1 + alpha * v * (1 - gate))));
      dz.at[k] = (R)(t * (v * gate));
    }
    store_result<N>(da, i, (int)count, together, dx);
    store_result<N>(db, i, (int)count, together, dz);
  }
}

template <class D, class X, class R>
static void run_swiglu_grad(cudaStream_t s, double alpha, int64_t n, const D *d, const X *a, const X *b, R *da, R *db) {
  constexpr int N = SWIGLU_NEIGHBOURS;
  bool together = many_at<N>(d) && many_at<N>(a) && many_at<N>(b) && many_at<N>(da) && many_at<N>(db);
  for (int64_t at = 0; at < n; at += MOST_ELEMENTS) {
    int64_t count = n - at < MOST_ELEMENTS ? n - at : MOST_ELEMENTS;
    launch(swiglu_grad<D, X, R>, blocks_for((count + N - 1) / N), BLOCK_THREADS, s, (Computed<X>)alpha, count, together,
           d + at, a + at, b + at, da + at, db + at);
  }
}

void launch_swiglu_grad(cudaStream_t s, Types types, double alpha, int64_t n, const void *d, const void *a,
                        const void *b, void *da, void *db) {
  FOR_MIXES(types, run_swiglu_grad(s, alpha, n, (const A *)d, (const B *)a, (const B *)b, (R *)da, (R *)db))
}

template <class T> struct Clip {
  T least, most;
  DEVICE T operator()(T x) const {
    T up = x < least ? least : x;
    return up > most ? most : up;
  }
  DEVICE T operator()(T d, T x) const { return x < least || x > most ? T(0) : d; }
};

void launch_clip(cudaStream_t s, Types types, double least, double most, int64_t n, const void *x, void *y) {
  if (types.in[0] == F64)
    run1(s, Clip<double>{least, most}, n, (const double *)x, (double *)y);
  else
    FOR_EITHER(types.in[0], A,
               FOR_EITHER(types.out, R, run1(s, (Clip<float>{(float)least, (float)most}), n, (const A *)x, (R *)y)))
}

void launch_clip_grad(cudaStream_t s, Types types, double least, double most, int64_t n, const void *d, const void *x,
                      void *dx) {
  FOR_MIXES(types, run2_dense(s, (Clip<Computed<A>>{(Computed<A>)least, (Computed<A>)most}), n, (const A *)d,
                              (const B *)x, (R *)dx))
}
