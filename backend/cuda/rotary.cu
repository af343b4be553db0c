/* Rotary positions: a row's halves x1, x2 become x cos + (-x2, x1) sin; or what that does to a cotangent. */
#include "backend/cuda/many.cuh"

/* Eight neighbouring elements of each half, or one, a thread. A: of cosines and sines, of which rows.step[0] and [1]
 * are the rows from one of X's to the next. */
template <class T, class A, bool EIGHT>
GLOBAL void rotate(Steps rows, int half, bool inverse, const T *x, const A *cosine, const A *sine, T *y) {
  typedef Computed<T> C;
  constexpr int N = EIGHT ? 8 : 1;
  int runs = half / N;
  int64_t n = rows.n * runs;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t row = n <= UINT32_MAX ? (uint32_t)i / (uint32_t)runs : i / runs;
    int64_t at = row * 2 * half + (i - row * runs) * N, column = (i - row * runs) * N;
    int64_t c_at = step_offset(rows, 0, row) * 2 * half + column, s_at = step_offset(rows, 1, row) * 2 * half + column;
    if (EIGHT) {
      Many<T, 8> first = load_many<8>(x + at), second = load_many<8>(x + at + half), y1, y2;
      Many<A, 8> c1 = load_many<8>(cosine + c_at), c2 = load_many<8>(cosine + c_at + half);
      Many<A, 8> s1 = load_many<8>(sine + s_at), s2 = load_many<8>(sine + s_at + half);
      for (int k = 0; k < 8; k++) {
        C x1 = (C)first.at[k], x2 = (C)second.at[k];
        y1.at[k] = (T)(x1 * (C)c1.at[k] + (inverse ? x2 * (C)s2.at[k] : -x2 * (C)s1.at[k]));
        y2.at[k] = (T)(x2 * (C)c2.at[k] + (inverse ? -x1 * (C)s1.at[k] : x1 * (C)s2.at[k]));
      }
      store_many<8>(y + at, y1);
      store_many<8>(y + at + half, y2);
    } else {
      C x1 = (C)x[at], x2 = (C)x[at + half], s1 = (C)sine[s_at], s2 = (C)sine[s_at + half];
      y[at] = (T)(x1 * (C)cosine[c_at] + (inverse ? x2 * s2 : -x2 * s1));
      y[at + half] = (T)(x2 * (C)cosine[c_at + half] + (inverse ? -x1 * s1 : x1 * s2));
    }
  }
}

template <class T, class A>
static void launch_typed(cudaStream_t s, const Steps *rows, int64_t size, bool inverse, const void *x,
                         const void *cosine, const void *sine, void *y) {
  int half = (int)(size / 2);
  bool eight = half % 8 == 0 && many_at<8>((const T *)x) && many_at<8>((const T *)y) && many_at<8>((const A *)cosine) &&
               many_at<8>((const A *)sine);
  launch(eight ? rotate<T, A, true> : rotate<T, A, false>, blocks_for(rows->n * (eight ? half / 8 : half)),
         BLOCK_THREADS, s, *rows, half, inverse, (const T *)x, (const A *)cosine, (const A *)sine, (T *)y);
}

void launch_rotary(cudaStream_t s, DType type, DType angles, const Steps *rows, int64_t size, bool inverse,
                   const void *x, const void *cosine, const void *sine, void *y) {
  if (type == BF16 && angles == F32)
    launch_typed<Bfloat, float>(s, rows, size, inverse, x, cosine, sine, y);
  else
    FOR_STORED(type, (launch_typed<T, T>(s, rows, size, inverse, x, cosine, sine, y)))
}
