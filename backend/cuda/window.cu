/* Pooling and its gradients, a thread an element. Invariant: a gradient adds what the windows over an element give, in
 * the order of the windows. */
#include "backend/cuda/bfloat.cuh"

/* Taps first … end-1 of window `out` along one axis lie in X (graph/window.h says the same for the host). */
DEVICE Taps taps_of(const Window &w, int axis, int64_t out) {
  int64_t d = w.dilation[axis], start = out * w.stride[axis] - w.begin[axis];
  int64_t behind = w.in[axis] - start, padded = behind + w.end[axis];
  Taps t;
  t.start = start;
  t.first = start >= 0 ? 0 : (d - 1 - start) / d;
  t.end = behind <= 0 ? 0 : (behind - 1) / d + 1;
  t.end = t.end < w.kernel[axis] ? t.end : w.kernel[axis];
  t.padded = padded <= 0 ? 0 : (padded - 1) / d + 1;
  t.padded = t.padded < w.kernel[axis] ? t.padded : w.kernel[axis];
  return t;
}

struct Opening {
  Taps axis[WINDOW_AXES];
};

DEVICE Opening opening_of(const Window &w, const int64_t *at) {
  Opening o;
  for (int a = 0; a < WINDOW_AXES; a++)
    o.axis[a] = taps_of(w, a, at[a]);
  return o;
}

DEVICE void place_of(const int64_t *size, int64_t i, int64_t *at) {
  at[2] = i % size[2];
  at[1] = i / size[2] % size[1];
  at[0] = i / size[2] / size[1];
}

/* Calls `visit` with the place, in X's plane, of each tap, in order. */
template <class Visit> DEVICE void each_tap(const Window &w, const Opening &o, Visit visit) {
  const Taps *t = o.axis;
  for (int64_t d = t[0].first; d < t[0].end; d++)
    for (int64_t e = t[1].first; e < t[1].end; e++)
      for (int64_t f = t[2].first; f < t[2].end; f++)
        visit(((t[0].start + d * w.dilation[0]) * w.in[1] + t[1].start + e * w.dilation[1]) * w.in[2] + t[2].start +
              f * w.dilation[2]);
}

/* As the host's kernels say: the first of the largest, and what is no number is larger. -1: the window has nothing. */
template <class T> DEVICE int64_t largest(const Window &w, const Opening &o, const T *x) {
  int64_t best = -1;
  Computed<T> most = 0;
  each_tap(w, o, [&](int64_t i) {
    Computed<T> next = x[i];
    if (best < 0 || next > most || next != next) {
      most = next;
      best = i;
    }
  });
  return best;
}

DEVICE double divisor_of(const Opening &o, int divisor) {
  double n = 1;
  for (int a = 0; divisor && a < WINDOW_AXES; a++) {
    const Taps *t = &o.axis[a];
    n *= (double)(divisor == 2 ? t->padded : t->end > t->first ? t->end - t->first : 0);
  }
  return n > 0 ? n : 1;
}

DEVICE int64_t counted_from_the_first(const Window &w, int64_t i) {
  int64_t at[WINDOW_AXES];
  place_of(w.in, i, at);
  return at[0] + w.in[0] * (at[1] + w.in[1] * at[2]);
}

/* What a window of nothing gives. */
template <class T> DEVICE T least() {
  if constexpr (std::is_floating_point<T>::value)
    return (T)-INFINITY;
  else
    return (T)((uint64_t)1 << (8 * sizeof(T) - 1));
}

template <class T> GLOBAL void max_pool(Pools p, const T *x, T *y, int64_t *indices) {
  int64_t n = p.planes * p.to;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t plane = i / p.to, at[WINDOW_AXES];
    place_of(p.w.out, i % p.to, at);
    const T *from = x + plane * p.from;
    int64_t best = largest(p.w, opening_of(p.w, at), from);
    y[i] = (T)(best < 0 ? least<Computed<T>>() : (Computed<T>)from[best]);
    if (indices)
      indices[i] = plane * p.from + (best < 0 ? 0 : p.columns ? counted_from_the_first(p.w, best) : best);
  }
}

template <class T> GLOBAL void average_pool(Pools p, const T *x, T *y) {
  int64_t n = p.planes * p.to;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t at[WINDOW_AXES];
    double sum = 0;
    const T *from = x + i / p.to * p.from;
    place_of(p.w.out, i % p.to, at);
    Opening o = opening_of(p.w, at);
    each_tap(p.w, o, [&](int64_t k) { sum += (double)(Computed<T>)from[k]; });
    y[i] = (T)(Computed<T>)(sum / divisor_of(o, p.divisor));
  }
}

/* The windows first … last along an axis that may have place i. */
DEVICE void windows_over(const Window &w, int a, int64_t i, int64_t *first, int64_t *last) {
  int64_t reach = (w.kernel[a] - 1) * w.dilation[a], low = i + w.begin[a] - reach;
  *first = low <= 0 ? 0 : (low + w.stride[a] - 1) / w.stride[a];
  *last = (i + w.begin[a]) / w.stride[a];
  *last = *last < w.out[a] ? *last : w.out[a] - 1;
}

/* Whether a tap of the window is place i. */
DEVICE bool has_place(const Window &w, const Opening &o, const int64_t *i) {
  for (int a = 0; a < WINDOW_AXES; a++) {
    int64_t from = i[a] - o.axis[a].start;
    if (from < 0 || from % w.dilation[a] || from / w.dilation[a] >= w.kernel[a])
      return false;
  }
  return true;
}

/* x NULL: of an average. */
template <class T> GLOBAL void pool_grad(Pools p, const T *dy, const T *x, T *dx) {
  int64_t n = p.planes * p.from;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t own = i % p.from, at[WINDOW_AXES], first[WINDOW_AXES], last[WINDOW_AXES], window[WINDOW_AXES];
    const T *from = dy + i / p.from * p.to;
    Computed<T> sum = 0;
    place_of(p.w.in, own, at);
    for (int a = 0; a < WINDOW_AXES; a++)
      windows_over(p.w, a, at[a], &first[a], &last[a]);
    for (window[0] = first[0]; window[0] <= last[0]; window[0]++)
      for (window[1] = first[1]; window[1] <= last[1]; window[1]++)
        for (window[2] = first[2]; window[2] <= last[2]; window[2]++) {
          Opening o = opening_of(p.w, window);
          Computed<T> d = from[(window[0] * p.w.out[1] + window[1]) * p.w.out[2] + window[2]];
          if (!has_place(p.w, o, at))
            continue;
          if (!x)
            sum += (Computed<T>)((double)d / divisor_of(o, p.divisor));
          else if (largest(p.w, o, x + i / p.from * p.from) == own)
            sum += d;
        }
    dx[i] = (T)sum;
  }
}

void launch_max_pool(cudaStream_t s, DType type, const Pools *p, const void *x, void *y, int64_t *indices) {
  int64_t blocks = blocks_for(p->planes * p->to);
  if (type == BF16)
    launch(max_pool<Bfloat>, blocks, BLOCK_THREADS, s, *p, (const Bfloat *)x, (Bfloat *)y, indices);
  else
    FOR_NUMBERS(type, launch(max_pool<T>, blocks, BLOCK_THREADS, s, *p, (const T *)x, (T *)y, indices))
}

void launch_average_pool(cudaStream_t s, DType type, const Pools *p, const void *x, void *y) {
  FOR_STORED(type, launch(average_pool<T>, blocks_for(p->planes * p->to), BLOCK_THREADS, s, *p, (const T *)x, (T *)y))
}

void launch_pool_grad(cudaStream_t s, DType type, const Pools *p, const void *dy, const void *x, void *dx) {
  FOR_STORED(type, launch(pool_grad<T>, blocks_for(p->planes * p->from), BLOCK_THREADS, s, *p, (const T *)dy,
                          (const T *)x, (T *)dx))
}

/* Y [outer, places, inner] of X [outer, size, inner] along its axis. */
template <class T>
GLOBAL void resample(Lines l, int64_t places, int64_t taps, const int64_t *indices, const double *weights, const T *x,
                     T *y) {
  int64_t n = l.outer * places * l.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t column = i % l.inner, place = i / l.inner % places, outer = i / l.inner / places;
    T sum = 0;
    for (int64_t t = place * taps; t < (place + 1) * taps; t++) {
      int64_t at = indices[t] < 0 ? indices[t] + l.size : indices[t];
      sum += (T)weights[t] * x[(outer * l.size + at) * l.inner + column];
    }
    y[i] = sum;
  }
}

/* Each place of X looks for itself among the taps. */
template <class T>
GLOBAL void resample_grad(Lines l, int64_t places, int64_t taps, const int64_t *indices, const double *weights,
                          const T *dy, T *dx) {
  int64_t n = l.outer * l.size * l.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t column = i % l.inner, own = i / l.inner % l.size, outer = i / l.inner / l.size;
    T sum = 0;
    for (int64_t t = 0; t < places * taps; t++) {
      int64_t at = indices[t] < 0 ? indices[t] + l.size : indices[t];
      if (at == own)
        sum += (T)weights[t] * dy[(outer * places + t / taps) * l.inner + column];
    }
    dx[i] = sum;
  }
}

void launch_resample(cudaStream_t s, DType type, Lines lines, int64_t places, int64_t taps, const int64_t *indices,
                     const double *weights, const void *x, void *y) {
  FOR_FLOATS(type, launch(resample<T>, blocks_for(lines.outer * places * lines.inner), BLOCK_THREADS, s, lines, places,
                          taps, indices, weights, (const T *)x, (T *)y))
}

void launch_resample_grad(cudaStream_t s, DType type, Lines lines, int64_t places, int64_t taps, const int64_t *indices,
                          const double *weights, const void *dy, void *dx) {
  FOR_FLOATS(type, launch(resample_grad<T>, blocks_for(lines.outer * lines.size * lines.inner), BLOCK_THREADS, s, lines,
                          places, taps, indices, weights, (const T *)dy, (T *)dx))
}
