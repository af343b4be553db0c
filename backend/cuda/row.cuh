/* Lines of elements, each met by a group of lanes: a warp or a block where a line's elements lie side by side, one
 * thread where neighbouring lines do. Invariant: which lane has which element depends on the line's length alone.
 *
 * WIDTH elements at a time: eight where lines are multiples of that; else one. PACKS > 0: so many of these a lane,
 * which keeps them in registers: a line is read once. */
#ifndef BACKEND_CUDA_ROW_CUH
#define BACKEND_CUDA_ROW_CUH

#include "backend/cuda/fold.cuh"

enum { ROW_WIDTH = 8 };
constexpr int64_t WARP_ROW = 4 * WARP_LANES * ROW_WIDTH; /* the longest line that a warp's registers have */

static inline int lanes_for(const Lines &l) {
  return l.inner > 1 ? 1 : l.size <= WARP_ROW ? (int)WARP_LANES : (int)BLOCK_THREADS;
}

static inline int64_t row_blocks(const Lines &l) {
  return blocks_for(l.outer * l.inner * lanes_for(l));
}

DEVICE int64_t line_start(const Lines &l, int64_t line) {
  return l.inner == 1 ? line * l.size : line / l.inner * l.size * l.inner + line % l.inner;
}

/* All lines of this thread's group. */
#define FOR_LINES(line, lanes, n)                                                                                      \
  for (int64_t line = (int64_t)block_index() * (block_size() / lanes) + thread_index() / lanes; line < (n);            \
       line += (int64_t)grid_size() * (block_size() / lanes))

/* Where a lane's packs begin; f(p, c): pack p, which it has in registers, begins at c. */
template <int WIDTH, int PACKS> struct Span {
  int64_t n;
  int lane, lanes;
  template <class F> DEVICE void each(F f) const {
    if constexpr (PACKS > 0) {
      UNROLL_BY(PACKS)
      for (int p = 0; p < PACKS; p++) {
        int c = (p * lanes + lane) * WIDTH;
        if (c < n)
          f(p, c);
      }
    } else {
      UNROLL_BY(4)
      for (int64_t c = lane * WIDTH; c < n; c += lanes * WIDTH)
        f(0, c);
    }
  }
};

/* A line's elements; `step` from one to the next, where WIDTH is 1. */
template <class T, int WIDTH, int PACKS> struct Row {
  typedef Computed<T> C;
  const T *x;
  int64_t step;
  Pack<T, WIDTH> held[PACKS ? PACKS : 1] = {}; /* what is beyond the line, too */
  DEVICE Row(const T *from, int64_t inner, const Span<WIDTH, PACKS> &span) : x(from), step(WIDTH > 1 ? 1 : inner) {
    if constexpr (PACKS > 0)
      span.each([&](int p, int64_t c) { held[p] = *(const Pack<T, WIDTH> *)(x + c); });
  }
  DEVICE void get(int p, int64_t c, C *v) const {
    if constexpr (PACKS > 0)
      for (int i = 0; i < WIDTH; i++)
        v[i] = (C)held[p].at[i];
    else
      read_pack<WIDTH>(x + c * step, v);
  }
};

/* What a line's sums are: in registers, where few are added one by one, in what elements are computed in. */
template <class C, int PACKS> using SumOf = typename std::conditional<PACKS != 0, C, double>::type;

template <int N, class C> DEVICE C sum_pack(const C *v) {
  if constexpr (N == 1)
    return v[0];
  else
    return sum_pack<N / 2>(v) + sum_pack<N / 2>(v + N / 2);
}

/* What join_group() does with what lanes have. */
struct RowSum {
  template <class S> static DEVICE S join(S a, S b) { return a + b; }
};

/* NaNs have no say. */
struct RowMost {
  template <class S> static DEVICE S join(S a, S b) { return fmax(a, b); }
};

/* Calls f(WIDTH, PACKS), two std::integral_constants, for lines of so many elements. held: whether such with packs in
 * registers are wanted. */
template <bool wide, bool held, class F> static void for_rows(const Lines &l, F f) {
  int64_t packs = l.size / (lanes_for(l) * ROW_WIDTH) + (l.size % (lanes_for(l) * ROW_WIDTH) != 0);
  if constexpr (wide) {
    if (l.inner == 1 && l.size % ROW_WIDTH == 0) {
      if constexpr (held) {
        if (packs == 1)
          return f(std::integral_constant<int, ROW_WIDTH>(), std::integral_constant<int, 1>());
        if (packs == 2)
          return f(std::integral_constant<int, ROW_WIDTH>(), std::integral_constant<int, 2>());
        if (packs <= 4)
          return f(std::integral_constant<int, ROW_WIDTH>(), std::integral_constant<int, 4>());
      }
      return f(std::integral_constant<int, ROW_WIDTH>(), std::integral_constant<int, 0>());
    }
  }
  f(std::integral_constant<int, 1>(), std::integral_constant<int, 0>());
}

#endif
