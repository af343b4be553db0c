/* A function of one, two or three inputs, element by element: what the files of such functions share. A thread has
 * several neighbours of a dense result; an operand runs along them, is one for them all, or is found one by one. */
#ifndef BACKEND_CUDA_MAP_CUH
#define BACKEND_CUDA_MAP_CUH

#include "backend/cuda/many.cuh"

/* How many neighbours a thread has: 1 of a function that takes long. */
template <class F> constexpr int neighbours = 8;
/* Whether F is one of several functions: each(visit) calls visit with it. So that the choice is made once a thread. */
template <class F> constexpr bool chooses = false;

template <class F, class V> DEVICE void choose(const F &f, V visit) {
  if constexpr (chooses<F>)
    f.each(visit);
  else
    visit(f);
}

/* Division of numbers below 2^31 by one that is known before. */
struct Divisor {
  uint32_t by, factor, shift;
};

static inline Divisor divisor(uint32_t by) {
  Divisor d = {by, 0, 0};
  while ((uint64_t)1 << d.shift < by)
    d.shift++;
  d.factor = (uint32_t)((((uint64_t)1 << 32) * (((uint64_t)1 << d.shift) - by)) / by + 1);
  return d;
}

DEVICE uint32_t quotient_by(const Divisor &d, uint32_t x) {
  return ((uint32_t)((uint64_t)x * d.factor >> 32) + x) >> d.shift;
}

enum Run {
  RUN_DENSE, /* as the result */
  RUN_ALONG, /* neighbours are neighbours */
  RUN_SAME,  /* one for all neighbours */
  RUN_APART
};

/* How operands run along a result of n elements. */
struct Layout {
  uint32_t n;
  int rank;
  Divisor dim[MAX_RANK];
  uint32_t step[3][MAX_RANK];
  Run run[3];
  bool together; /* the result is written in one access */
};

DEVICE uint32_t layout_offset(const Layout &l, int operand, uint32_t i) {
  uint32_t at = 0;
  for (int k = l.rank - 1; k > 0; k--) {
    uint32_t rest = quotient_by(l.dim[k], i);
    at += (i - rest * l.dim[k].by) * l.step[operand][k];
    i = rest;
  }
  return at + i * l.step[operand][0];
}

/* N elements of an operand from number i on, of which `count` are there. */
template <int N, class T>
DEVICE Many<T, N> load_operand(const Layout &l, int operand, const T *x, uint32_t i, int count) {
  Many<T, N> many;
  Run run = l.run[operand];
  if (count == N && (run == RUN_DENSE || run == RUN_ALONG))
    return load_many<N>(x + (run == RUN_DENSE ? i : layout_offset(l, operand, i)));
  if (run == RUN_SAME) {
    T same = x[layout_offset(l, operand, i)];
    UNROLL
    for (int k = 0; k < N; k++)
      many.at[k] = same;
    return many;
  }
  UNROLL
  for (int k = 0; k < N; k++)
    many.at[k] = k < count ? x[layout_offset(l, operand, i + k)] : T();
  return many;
}

template <int N, class T> DEVICE Many<T, N> load_dense(const T *x, uint32_t i, int count, bool together) {
  if (together && count == N)
    return load_many<N>(x + i);
  Many<T, N> many;
  UNROLL
  for (int k = 0; k < N; k++)
    many.at[k] = k < count ? x[i + k] : T();
  return many;
}

template <int N, class T> DEVICE void store_result(T *y, uint32_t i, int count, bool together, const Many<T, N> &many) {
  if (together && count == N) {
    store_many<N>(y + i, many);
    return;
  }
  UNROLL
  for (int k = 0; k < N; k++)
    if (k < count)
      y[i + k] = many.at[k];
}

/* This thread's: neighbours i … i + count - 1 of n. */
#define FOR_NEIGHBOURS(N, n, i, count)                                                                                 \
  for (uint32_t i = (uint32_t)global_thread() * N, step = (uint32_t)global_threads() * N, count; i < n; i += step)     \
    if ((count = n - i < N ? n - i : N))

template <class F, class A, class R> GLOBAL void map1(F f, uint32_t n, bool together, const A *a, R *y) {
  constexpr int N = neighbours<F>;
  FOR_NEIGHBOURS(N, n, i, count) {
    Many<A, N> x = load_dense<N>(a, i, (int)count, together);
    Many<R, N> z = {};
    choose(f, [&](auto g) {
      UNROLL
      for (int k = 0; k < N; k++)
        z.at[k] = (R)g((Computed<A>)x.at[k]);
    });
    store_result<N>(y, i, (int)count, together, z);
  }
}

/* Of operands as the result: their elements are where its are. */
template <class F, class A, class B, class R>
GLOBAL void map2_dense(F f, uint32_t n, bool together, const A *a, const B *b, R *y) {
  constexpr int N = neighbours<F>;
  FOR_NEIGHBOURS(N, n, i, count) {
    Many<A, N> x = load_dense<N>(a, i, (int)count, together);
    Many<B, N> z = load_dense<N>(b, i, (int)count, together);
    Many<R, N> r = {};
    choose(f, [&](auto g) {
      UNROLL
      for (int k = 0; k < N; k++)
        r.at[k] = (R)g((Computed<A>)x.at[k], (Computed<B>)z.at[k]);
    });
    store_result<N>(y, i, (int)count, together, r);
  }
}

template <class F, class A, class B, class R> GLOBAL void map2(F f, CONSTANT Layout l, const A *a, const B *b, R *y) {
  constexpr int N = neighbours<F>;
  FOR_NEIGHBOURS(N, l.n, i, count) {
    Many<A, N> x = load_operand<N>(l, 0, a, i, (int)count);
    Many<B, N> z = load_operand<N>(l, 1, b, i, (int)count);
    Many<R, N> r = {};
    choose(f, [&](auto g) {
      UNROLL
      for (int k = 0; k < N; k++)
        r.at[k] = (R)g((Computed<A>)x.at[k], (Computed<B>)z.at[k]);
    });
    store_result<N>(y, i, (int)count, l.together, r);
  }
}

template <class F, class A, class B, class C, class R>
GLOBAL void map3(F f, CONSTANT Layout l, const A *a, const B *b, const C *c, R *y) {
  constexpr int N = neighbours<F>;
  FOR_NEIGHBOURS(N, l.n, i, count) {
    Many<A, N> u = load_operand<N>(l, 0, a, i, (int)count);
    Many<B, N> v = load_operand<N>(l, 1, b, i, (int)count);
    Many<C, N> w = load_operand<N>(l, 2, c, i, (int)count);
    Many<R, N> r = {};
    UNROLL
    for (int k = 0; k < N; k++)
      r.at[k] = (R)f(u.at[k], v.at[k], w.at[k]);
    store_result<N>(y, i, (int)count, l.together, r);
  }
}

/* Elements of a launch: their numbers, and one thread's more, fit 32 bits. */
constexpr int64_t MOST_ELEMENTS = 1 << 30;

/* Calls visit(steps, at) with parts of at most MOST_ELEMENTS, which begin at at[k] of operand k, at[3] of the result.
 */
template <class V> void in_parts(const Steps &s, const int64_t at[4], V visit) {
  if (s.n <= MOST_ELEMENTS) {
    if (s.n)
      visit(s, at);
    return;
  }
  int64_t inner = s.n / s.dim[0], most = inner > MOST_ELEMENTS ? 1 : MOST_ELEMENTS / inner;
  for (int64_t i = 0; i < s.dim[0]; i += most) {
    int64_t count = s.dim[0] - i < most ? s.dim[0] - i : most;
    Steps part = s;
    int64_t from[4] = {at[0] + i * s.step[0][0], at[1] + i * s.step[1][0], at[2] + i * s.step[2][0], at[3] + i * inner};
    part.n = count * inner;
    part.dim[0] = count;
    if (inner > MOST_ELEMENTS) {
      part.rank--;
      for (int k = 0; k < part.rank; k++) {
        part.dim[k] = s.dim[k + 1];
        for (int operand = 0; operand < 3; operand++)
          part.step[operand][k] = s.step[operand][k + 1];
      }
    }
    in_parts(part, from, visit);
  }
}

/* Whether the operand runs as the result. */
static inline bool is_dense(const Steps &s, int operand) {
  for (int64_t k = s.rank - 1, below = 1; k >= 0; below *= s.dim[k--])
    if (s.dim[k] != 1 && s.step[operand][k] != below)
      return false;
  return true;
}

template <int N, class T> Run run_of(const Steps &s, int operand, const T *x) {
  const int64_t *step = s.step[operand];
  int last = s.rank - 1;
  bool fits = s.rank == 1 || s.dim[last] % N == 0, along = many_at<N>(x) && fits && step[last] == 1;
  if (many_at<N>(x) && is_dense(s, operand))
    return RUN_DENSE;
  for (int k = 0; k < last; k++)
    along &= step[k] % N == 0;
  return along ? RUN_ALONG : fits && step[last] == 0 ? RUN_SAME : RUN_APART;
}

template <int N, class A, class B, class C, class R>
Layout layout_of(const Steps &s, const A *a, const B *b, const C *c, const R *y) {
  Layout l = {(uint32_t)s.n, s.rank, {}, {}, {run_of<N>(s, 0, a), run_of<N>(s, 1, b), run_of<N>(s, 2, c)},
              many_at<N>(y)};
  for (int i = 0; i < s.rank; i++) {
    l.dim[i] = divisor((uint32_t)s.dim[i]);
    for (int k = 0; k < 3; k++)
      l.step[k][i] = (uint32_t)s.step[k][i];
  }
  return l;
}

template <class F> int64_t blocks_of(int64_t n) {
  return blocks_for((n + neighbours<F> - 1) / neighbours<F>);
}

template <class F, class A, class R> static void run1(cudaStream_t stream, F f, int64_t n, const A *a, R *y) {
  constexpr int N = neighbours<F>;
  for (int64_t at = 0; at < n; at += MOST_ELEMENTS) {
    int64_t count = n - at < MOST_ELEMENTS ? n - at : MOST_ELEMENTS;
    launch(map1<F, A, R>, blocks_of<F>(count), BLOCK_THREADS, stream, f, count, many_at<N>(a) && many_at<N>(y), a + at,
           y + at);
  }
}

template <class F, class A, class B, class R>
static void run2_dense(cudaStream_t stream, F f, int64_t n, const A *a, const B *b, R *y) {
  constexpr int N = neighbours<F>;
  bool together = many_at<N>(a) && many_at<N>(b) && many_at<N>(y);
  for (int64_t at = 0; at < n; at += MOST_ELEMENTS) {
    int64_t count = n - at < MOST_ELEMENTS ? n - at : MOST_ELEMENTS;
    launch(map2_dense<F, A, B, R>, blocks_of<F>(count), BLOCK_THREADS, stream, f, count, together, a + at, b + at,
           y + at);
  }
}

template <class F, class A, class B, class R>
static void run2(cudaStream_t stream, F f, const Steps &steps, const A *a, const B *b, R *y) {
  const int64_t start[4] = {};
  if constexpr (neighbours < F >> 1)
    if (is_dense(steps, 0) && is_dense(steps, 1))
      return run2_dense(stream, f, steps.n, a, b, y);
  in_parts(steps, start, [=](const Steps &s, const int64_t *at) {
    Layout l = layout_of<neighbours<F>>(s, a + at[0], b + at[1], a + at[0], y + at[3]);
    launch(map2<F, A, B, R>, blocks_of<F>(s.n), BLOCK_THREADS, stream, f, l, a + at[0], b + at[1], y + at[3]);
  });
}

template <class F, class A, class B, class C, class R>
static void run3(cudaStream_t stream, F f, const Steps &steps, const A *a, const B *b, const C *c, R *y) {
  const int64_t start[4] = {};
  in_parts(steps, start, [=](const Steps &s, const int64_t *at) {
    Layout l = layout_of<neighbours<F>>(s, a + at[0], b + at[1], c + at[2], y + at[3]);
    launch(map3<F, A, B, C, R>, blocks_of<F>(s.n), BLOCK_THREADS, stream, f, l, a + at[0], b + at[1], c + at[2],
           y + at[3]);
  });
}

/* Calls CALL with T as the type: one of the two that a float32 value is stored in. */
#define FOR_EITHER(dtype, T, CALL)                                                                                     \
  {                                                                                                                    \
    if (dtype == BF16) {                                                                                               \
      typedef Bfloat T;                                                                                                \
      CALL;                                                                                                            \
    } else {                                                                                                           \
      typedef float T;                                                                                                 \
      CALL;                                                                                                            \
    }                                                                                                                  \
  }

/* Calls CALL with A, B and R as the types of two float inputs and the result. */
#define FOR_MIXES(types, CALL)                                                                                         \
  {                                                                                                                    \
    if (types.in[0] == F64) {                                                                                          \
      typedef double A, B, R;                                                                                          \
      CALL;                                                                                                            \
    } else                                                                                                             \
      FOR_EITHER(types.in[0], A, FOR_EITHER(types.in[1], B, FOR_EITHER(types.out, R, CALL)))                           \
  }

#endif
