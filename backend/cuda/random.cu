/* What is drawn, with the reference's bits: compiled without contraction (cmake/cuda.cmake). */
#include "backend/cuda/draw.cuh"
#include "backend/cuda/map.cuh"
#include "backend/reference/draw.h"

/* Which of eight neighbours are kept that are numbered one after another, from a multiple of eight on. */
DEVICE Many<uint8_t, 8> eight_kept(const Drawing &d, const int64_t *counter, int64_t n, int64_t i) {
  Many<uint8_t, 8> kept;
  Standing at;
  if (!d.per_sample) {
    at = Standing{0, (uint64_t)i};
  } else if (n <= UINT32_MAX) { /* in 32 bits division is fast */
    uint32_t row = (uint32_t)i / (uint32_t)d.inner, outer = row / (uint32_t)d.samples;
    at.sample = (uint64_t)counter[COUNTER_SAMPLE] + 1 + (row - outer * (uint32_t)d.samples);
    at.number = outer * (uint32_t)d.inner + ((uint32_t)i - row * (uint32_t)d.inner);
  } else {
    at = standing_of(d, counter, i);
  }
  UNROLL
  for (int k = 0; k < 2; k++) {
    Philox four = words_of(d, counter, at.sample, at.number / 4 + k);
    UNROLL
    for (int j = 0; j < 4; j++)
      kept.at[4 * k + j] = four.word[j] >= d.threshold;
  }
  return kept;
}

template <class A, class R>
GLOBAL void dropout(Drawing d, int64_t n, bool together, Computed<A> factor, const A *x, const int64_t *counter, R *y,
                    uint8_t *mask) {
  bool in_line = !d.per_sample || d.inner % 8 == 0;
  for (int64_t i = global_thread() * 8; i < n; i += global_threads() * 8) {
    int count = n - i < 8 ? (int)(n - i) : 8;
    Many<A, 8> from = load_dense<8>(x + i, 0, count, together);
    Many<R, 8> to;
    Many<uint8_t, 8> kept;
    if (in_line) {
      kept = eight_kept(d, counter, n, i);
    } else {
      UNROLL
      for (int k = 0; k < 8; k++)
        kept.at[k] = is_kept(d, counter, i + k);
    }
    UNROLL
    for (int k = 0; k < 8; k++)
      to.at[k] = (R)(kept.at[k] ? (Computed<A>)from.at[k] * factor : 0);
    store_result<8>(y + i, 0, count, together, to);
    store_result<8>(mask + i, 0, count, together, kept);
  }
}

template <class A, class R>
static void drop(cudaStream_t s, const Drawing *d, int64_t n, double factor, const A *x, const int64_t *counter, R *y,
                 uint8_t *mask) {
  bool together = many_at<8>(x) && many_at<8>(y) && many_at<8>(mask);
  launch(dropout<A, R>, blocks_for((n + 7) / 8), BLOCK_THREADS, s, *d, n, together, (Computed<A>)factor, x, counter, y,
         mask);
}

void launch_dropout(cudaStream_t s, Types types, const Drawing *d, int64_t n, double factor, const void *x,
                    const int64_t *counter, void *y, uint8_t *mask) {
  if (types.in[0] == F64)
    drop(s, d, n, factor, (const double *)x, counter, (double *)y, mask);
  else
    FOR_EITHER(types.in[0], A, FOR_EITHER(types.out, R, drop(s, d, n, factor, (const A *)x, counter, (R *)y, mask)))
}

template <class T> struct Kept {
  T factor;
  DEVICE T operator()(T d, uint8_t kept) const { return kept ? d * factor : 0; }
};

void launch_dropout_grad(cudaStream_t s, Types types, int64_t n, double factor, const void *dy, const uint8_t *mask,
                         void *dx) {
  if (types.in[0] == F64)
    run2_dense(s, Kept<double>{factor}, n, (const double *)dy, mask, (double *)dx);
  else
    FOR_EITHER(types.in[0], A,
               FOR_EITHER(types.out, R, run2_dense(s, Kept<float>{(float)factor}, n, (const A *)dy, mask, (R *)dx)))
}

/* Two words a number. */
template <class T>
GLOBAL void draw_numbers(Drawing d, bool is_normal, int64_t n, double from, double by, const int64_t *counter, T *y) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    Standing at = standing_of(d, counter, i);
    Philox words = words_of(d, counter, at.sample, at.number / 2);
    const uint32_t *own = words.word + at.number % 2 * 2;
    uint64_t draw = (uint64_t)own[0] << 32 | own[1];
    y[i] = (T)(from + by * (is_normal ? normal(draw) : uniform(draw, sizeof(T) == 4)));
  }
}

void launch_draw(cudaStream_t s, DType type, const Drawing *d, bool is_normal, int64_t n, double from, double by,
                 const int64_t *counter, void *y) {
  FOR_FLOATS(type,
             launch(draw_numbers<T>, blocks_for(n), BLOCK_THREADS, s, *d, is_normal, n, from, by, counter, (T *)y))
}
