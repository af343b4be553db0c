/* Batch normalisation: statistics of a channel over all rows and places, and what follows from them. X is [rows,
 * channels, length]. */
#include "backend/cuda/fold.cuh"

/* Term k of channel c. */
DEVICE int64_t place_in(const Lines &l, int64_t c, int64_t k) {
  return (k / l.inner * l.size + c) * l.inner + k % l.inner;
}

template <class T> struct Sum {
  Lines l;
  const T *x;
  DEVICE double operator()(int64_t c, int64_t k) const { return (double)x[place_in(l, c, k)]; }
};

template <class T> struct Squares {
  Lines l;
  const T *x, *mean;
  DEVICE double operator()(int64_t c, int64_t k) const {
    double d = (double)x[place_in(l, c, k)] - (double)mean[c];
    return d * d;
  }
};

template <class T> struct Dot {
  Lines l;
  const T *dy, *x, *mean, *inv;
  DEVICE double operator()(int64_t c, int64_t k) const {
    int64_t at = place_in(l, c, k);
    return (double)dy[at] * (double)((x[at] - mean[c]) * inv[c]);
  }
};

template <class T> struct Put {
  T *y;
  double divisor;
  DEVICE void operator()(int64_t g, int64_t c, double total) const {
    (void)g;
    y[c] = (T)(total / divisor);
  }
};

template <class T> struct PutSpread {
  T *inv, *variance;
  double count, divisor, epsilon;
  DEVICE void operator()(int64_t g, int64_t c, double total) const {
    (void)g;
    inv[c] = (T)(1 / sqrt(total / count + epsilon));
    variance[c] = (T)(total / divisor);
  }
};

template <class T>
GLOBAL void normalize(Lines l, int64_t scales, const T *x, const T *scale, const T *bias, const T *mean, const T *inv,
                      T *y) {
  int64_t n = l.outer * l.size * l.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t c = i / l.inner % l.size;
    y[i] = (x[i] - mean[c]) * (inv[c] * scale[c % scales]) + bias[c % scales];
  }
}

/* dX = scale inv (dY - dBias / n - H dScale / n) with H = (X - mean) inv */
template <class T>
GLOBAL void normalize_grad(Lines l, int64_t scales, const T *dy, const T *x, const T *scale, const T *mean,
                           const T *inv, const T *dscale, const T *dbias, T *dx) {
  int64_t n = l.outer * l.size * l.inner;
  T count = (T)(l.outer * l.inner);
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t c = i / l.inner % l.size;
    dx[i] = scale[c % scales] * inv[c] * (dy[i] - dbias[c] / count - (x[i] - mean[c]) * inv[c] * (dscale[c] / count));
  }
}

template <class T> GLOBAL void update(int64_t n, double momentum, const T *statistic, T *running) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    running[i] = (T)(momentum * (double)running[i] + (1 - momentum) * (double)statistic[i]);
}

template <class T>
static void batch_norm(cudaStream_t s, const ChannelWork &w, const T *x, const T *scale, const T *bias, T *y, T *mean,
                       T *inv, T *variance, void *partial) {
  int64_t count = w.lines.outer * w.lines.inner, n = w.lines.size;
  double all = (double)(count ? count : 1), divisor = w.unbiased && count > 1 ? all - 1 : all;
  run_fold<Adding>(s, (Sum<T>{w.lines, x}), (Put<T>{mean, all}), n, count, true, partial);
  run_fold<Adding>(s, (Squares<T>{w.lines, x, mean}), (PutSpread<T>{inv, variance, all, divisor, w.epsilon}), n, count,
                   true, partial);
  launch(normalize<T>, blocks_for(count * n), BLOCK_THREADS, s, w.lines, w.scales, x, scale, bias, (const T *)mean,
         (const T *)inv, y);
}

void launch_batch_norm(cudaStream_t s, DType type, const ChannelWork *w, const void *x, const void *scale,
                       const void *bias, void *y, void *mean, void *inv, void *variance, void *partial) {
  FOR_FLOATS(type, batch_norm<T>(s, *w, (const T *)x, (const T *)scale, (const T *)bias, (T *)y, (T *)mean, (T *)inv,
                                 (T *)variance, partial))
}

template <class T>
static void batch_norm_sums(cudaStream_t s, const Lines &l, const T *dy, const T *x, const T *mean, const T *inv,
                            T *dscale, T *dbias, void *partial) {
  int64_t count = l.outer * l.inner;
  run_fold<Adding>(s, (Dot<T>{l, dy, x, mean, inv}), (Put<T>{dscale, 1}), l.size, count, true, partial);
  run_fold<Adding>(s, (Sum<T>{l, dy}), (Put<T>{dbias, 1}), l.size, count, true, partial);
}

void launch_batch_norm_sums(cudaStream_t s, DType type, Lines lines, const void *dy, const void *x, const void *mean,
                            const void *inv, void *dscale, void *dbias, void *partial) {
  FOR_FLOATS(type, batch_norm_sums<T>(s, lines, (const T *)dy, (const T *)x, (const T *)mean, (const T *)inv,
                                      (T *)dscale, (T *)dbias, partial))
}

void launch_batch_norm_grad(cudaStream_t s, DType type, const ChannelWork *w, const void *dy, const void *x,
                            const void *scale, const void *mean, const void *inv, const void *dscale, const void *dbias,
                            void *dx) {
  int64_t n = w->lines.outer * w->lines.size * w->lines.inner;
  FOR_FLOATS(type, launch(normalize_grad<T>, blocks_for(n), BLOCK_THREADS, s, w->lines, w->scales, (const T *)dy,
                          (const T *)x, (const T *)scale, (const T *)mean, (const T *)inv, (const T *)dscale,
                          (const T *)dbias, (T *)dx))
}

void launch_update_statistics(cudaStream_t s, DType type, int64_t n, double momentum, const void *statistic,
                              void *running) {
  FOR_FLOATS(type, launch(update<T>, blocks_for(n), BLOCK_THREADS, s, n, momentum, (const T *)statistic, (T *)running))
}
