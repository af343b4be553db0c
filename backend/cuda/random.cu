/* What is drawn, with the reference's bits: compiled without contraction (cmake/cuda.cmake). */
#include "backend/cuda/draw.cuh"
#include "backend/cuda/steps.cuh"
#include "backend/reference/draw.h"

template <class T>
GLOBAL void dropout(Drawing d, int64_t n, T factor, const T *x, const int64_t *counter, T *y, uint8_t *mask) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    mask[i] = is_kept(d, counter, i);
    y[i] = mask[i] ? x[i] * factor : 0;
  }
}

void launch_dropout(cudaStream_t s, DType type, const Drawing *d, int64_t n, double factor, const void *x,
                    const int64_t *counter, void *y, uint8_t *mask) {
  FOR_FLOATS(type,
             launch(dropout<T>, blocks_for(n), BLOCK_THREADS, s, *d, n, (T)factor, (const T *)x, counter, (T *)y, mask))
}

template <class T> GLOBAL void dropout_grad(int64_t n, T factor, const T *dy, const uint8_t *mask, T *dx) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    dx[i] = mask[i] ? dy[i] * factor : 0;
}

void launch_dropout_grad(cudaStream_t s, DType type, int64_t n, double factor, const void *dy, const uint8_t *mask,
                         void *dx) {
  FOR_FLOATS(type, launch(dropout_grad<T>, blocks_for(n), BLOCK_THREADS, s, n, (T)factor, (const T *)dy, mask, (T *)dx))
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
