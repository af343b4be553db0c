/* Batch normalisation: statistics of a channel over all rows and places, and what follows from them. X is [rows,
 * channels, length]. Where a row's channels lie side by side, length is 1. */
#include "backend/cuda/fold.cuh"

/* Term k of channel c. */
DEVICE int64_t place_in(const Lines &l, int64_t c, int64_t k) {
  if (l.inner == 1)
    return k * l.size + c;
  if (l.outer * l.inner <= UINT32_MAX) {
    uint32_t row = (uint32_t)k / (uint32_t)l.inner, at = (uint32_t)k - row * (uint32_t)l.inner;
    return (row * l.size + c) * l.inner + at;
  }
  return (k / l.inner * l.size + c) * l.inner + k % l.inner;
}

template <class X> struct Sum {
  typedef Summed<X> Value;
  Lines l;
  const X *x;
  DEVICE int64_t place(int64_t c) const { return c; }
  template <int N> DEVICE void read(int64_t, int64_t c, int64_t k, Value *v) const {
    Computed<X> own[N];
    read_pack<N>(x + place_in(l, c, k), own);
    for (int i = 0; i < N; i++)
      v[i] = own[i];
  }
};

/* N statistics: of channel c, or of that and those behind it where they lie side by side. */
template <int N, class C> DEVICE void read_channels(const Lines &l, const C *from, int64_t c, C *v) {
  for (int i = 0; i < N; i++)
    v[i] = from[l.inner == 1 ? c + i : c];
}

template <class X> struct Squares {
  typedef Summed<X> Value;
  Lines l;
  const X *x;
  const Computed<X> *mean;
  DEVICE int64_t place(int64_t c) const { return c; }
  template <int N> DEVICE void read(int64_t, int64_t c, int64_t k, Value *v) const {
    Computed<X> own[N], m[N];
    read_channels<N>(l, mean, c, m);
    read_pack<N>(x + place_in(l, c, k), own);
    for (int i = 0; i < N; i++) {
      Value d = (Value)own[i] - m[i];
      v[i] = d * d;
    }
  }
};

template <class D, class X> struct Dot {
  typedef Summed<X> Value;
  Lines l;
  const D *dy;
  const X *x;
  const Computed<X> *mean, *inv;
  DEVICE int64_t place(int64_t c) const { return c; }
  template <int N> DEVICE void read(int64_t, int64_t c, int64_t k, Value *v) const {
    int64_t at = place_in(l, c, k);
    Computed<X> d[N], own[N], m[N], f[N];
    read_pack<N>(dy + at, d);
    read_pack<N>(x + at, own);
    read_channels<N>(l, mean, c, m);
    read_channels<N>(l, inv, c, f);
    for (int i = 0; i < N; i++)
      v[i] = (Value)d[i] * ((own[i] - m[i]) * f[i]);
  }
};

template <class C> struct PutSpread {
  C *inv, *variance;
  double count, divisor, epsilon;
  DEVICE void operator()(int64_t, int64_t c, double total) const {
    inv[c] = (C)(1 / sqrt(total / count + epsilon));
    variance[c] = (C)(total / divisor);
  }
};

/* So many elements at a time. */
template <class C> static bool in_packs(const Lines &l) {
  return sizeof(C) < 8 && (l.inner == 1 ? l.size : l.inner) % FOLD_WIDTH == 0;
}

template <class C, class Term, class Finish>
static void fold_channels(cudaStream_t s, const Lines &l, Term term, Finish finish, void *partial) {
  constexpr int WIDTH = sizeof(C) < 8 ? FOLD_WIDTH : 1;
  int64_t count = l.outer * l.inner;
  if (l.inner == 1 && in_packs<C>(l))
    run_fold<Adding, WIDTH, false>(s, term, finish, l.size, count, partial);
  else if (l.inner == 1)
    run_fold<Adding, 1, false>(s, term, finish, l.size, count, partial);
  else if (in_packs<C>(l))
    run_fold<Adding, WIDTH, true>(s, term, finish, l.size, count, partial);
  else
    run_fold<Adding, 1, true>(s, term, finish, l.size, count, partial);
}

/* The channel of the element. */
DEVICE int64_t channel_of(const Lines &l, int64_t n, int64_t i) {
  if (n <= UINT32_MAX)
    return (uint32_t)i / (uint32_t)l.inner % (uint32_t)l.size;
  return i / l.inner % l.size;
}

template <int N, class C> DEVICE void read_scales(const Lines &l, int64_t scales, const C *from, int64_t c, C *v) {
  for (int i = 0; i < N; i++) {
    int64_t own = l.inner == 1 ? c + i : c;
    v[i] = from[scales == l.size ? own : own % scales];
  }
}

template <class X, class Y, int N>
GLOBAL void normalize(Lines l, int64_t scales, const X *x, const Computed<X> *scale, const Computed<X> *bias,
                      const Computed<X> *mean, const Computed<X> *inv, Y *y) {
  int64_t n = l.outer * l.size * l.inner;
  for (int64_t i = global_thread() * N; i < n; i += global_threads() * N) {
    int64_t c = channel_of(l, n, i);
    Computed<X> v[N], m[N], f[N], a[N], b[N];
    read_pack<N>(x + i, v);
    read_channels<N>(l, mean, c, m);
    read_channels<N>(l, inv, c, f);
    read_scales<N>(l, scales, scale, c, a);
    read_scales<N>(l, scales, bias, c, b);
    for (int k = 0; k < N; k++)
      v[k] = (v[k] - m[k]) * (f[k] * a[k]) + b[k];
    write_pack<N>(v, y + i);
  }
}

/* dX = scale inv (dY - dBias / n - H dScale / n) with H = (X - mean) inv */
template <class D, class X, class Y, int N>
GLOBAL void normalize_grad(Lines l, int64_t scales, const D *dy, const X *x, const Computed<X> *scale,
                           const Computed<X> *mean, const Computed<X> *inv, const Computed<X> *dscale,
                           const Computed<X> *dbias, Y *dx) {
  typedef Computed<X> C;
  int64_t n = l.outer * l.size * l.inner;
  C count = (C)(l.outer * l.inner);
  for (int64_t i = global_thread() * N; i < n; i += global_threads() * N) {
    int64_t c = channel_of(l, n, i);
    C d[N], v[N], m[N], f[N], a[N], ds[N], db[N];
    read_pack<N>(dy + i, d);
    read_pack<N>(x + i, v);
    read_channels<N>(l, mean, c, m);
    read_channels<N>(l, inv, c, f);
    read_scales<N>(l, scales, scale, c, a);
    read_channels<N>(l, dscale, c, ds);
    read_channels<N>(l, dbias, c, db);
    for (int k = 0; k < N; k++)
      v[k] = a[k] * f[k] * (d[k] - db[k] / count - (v[k] - m[k]) * f[k] * (ds[k] / count));
    write_pack<N>(v, dx + i);
  }
}

template <class T> GLOBAL void update(int64_t n, double momentum, const T *statistic, T *running) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    running[i] = (T)(momentum * (double)running[i] + (1 - momentum) * (double)statistic[i]);
}

template <class X, class Y>
static void batch_norm(cudaStream_t s, const ChannelWork &w, const X *x, const void *scale, const void *bias, Y *y,
                       void *mean, void *inv, void *variance, void *partial) {
  typedef Computed<X> C;
  constexpr int WIDTH = sizeof(C) < 8 ? FOLD_WIDTH : 1;
  int64_t count = w.lines.outer * w.lines.inner, n = count * w.lines.size;
  double all = (double)(count ? count : 1), divisor = w.unbiased && count > 1 ? all - 1 : all;
  fold_channels<C>(s, w.lines, Sum<X>{w.lines, x}, Divide<C>{(C *)mean, all, false}, partial);
  fold_channels<C>(s, w.lines, Squares<X>{w.lines, x, (const C *)mean},
                   PutSpread<C>{(C *)inv, (C *)variance, all, divisor, w.epsilon}, partial);
  bool packs = in_packs<C>(w.lines);
  launch(packs ? normalize<X, Y, WIDTH> : normalize<X, Y, 1>, blocks_for(packs ? n / WIDTH : n), BLOCK_THREADS, s,
         w.lines, w.scales, x, (const C *)scale, (const C *)bias, (const C *)mean, (const C *)inv, y);
}

void launch_batch_norm(cudaStream_t s, DType from, DType to, const ChannelWork *w, const void *x, const void *scale,
                       const void *bias, void *y, void *mean, void *inv, void *variance, void *partial) {
  if (from == F64)
    batch_norm(s, *w, (const double *)x, scale, bias, (double *)y, mean, inv, variance, partial);
  else
    FOR_TWO_STORED(from, to, batch_norm(s, *w, (const A *)x, scale, bias, (B *)y, mean, inv, variance, partial))
}

template <class D, class X>
static void batch_norm_sums(cudaStream_t s, const Lines &l, const D *dy, const X *x, const void *mean, const void *inv,
                            void *dscale, void *dbias, void *partial) {
  typedef Computed<X> C;
  fold_channels<C>(s, l, Dot<D, X>{l, dy, x, (const C *)mean, (const C *)inv}, Divide<C>{(C *)dscale, 1, false},
                   partial);
  fold_channels<C>(s, l, Sum<D>{l, dy}, Divide<C>{(C *)dbias, 1, false}, partial);
}

void launch_batch_norm_sums(cudaStream_t s, DType dy_type, DType x_type, Lines lines, const void *dy, const void *x,
                            const void *mean, const void *inv, void *dscale, void *dbias, void *partial) {
  if (x_type == F64)
    batch_norm_sums(s, lines, (const double *)dy, (const double *)x, mean, inv, dscale, dbias, partial);
  else
    FOR_TWO_STORED(dy_type, x_type,
                   batch_norm_sums(s, lines, (const A *)dy, (const B *)x, mean, inv, dscale, dbias, partial))
}

template <class D, class X, class Y>
static void batch_norm_grad(cudaStream_t s, const ChannelWork &w, const D *dy, const X *x, const void *scale,
                            const void *mean, const void *inv, const void *dscale, const void *dbias, Y *dx) {
  typedef Computed<X> C;
  constexpr int WIDTH = sizeof(C) < 8 ? FOLD_WIDTH : 1;
  int64_t n = w.lines.outer * w.lines.size * w.lines.inner;
  bool packs = in_packs<C>(w.lines);
  launch(packs ? normalize_grad<D, X, Y, WIDTH> : normalize_grad<D, X, Y, 1>, blocks_for(packs ? n / WIDTH : n),
         BLOCK_THREADS, s, w.lines, w.scales, dy, x, (const C *)scale, (const C *)mean, (const C *)inv,
         (const C *)dscale, (const C *)dbias, dx);
}

void launch_batch_norm_grad(cudaStream_t s, DType dy_type, DType x_type, DType dx_type, const ChannelWork *w,
                            const void *dy, const void *x, const void *scale, const void *mean, const void *inv,
                            const void *dscale, const void *dbias, void *dx) {
  if (x_type == F64)
    batch_norm_grad(s, *w, (const double *)dy, (const double *)x, scale, mean, inv, dscale, dbias, (double *)dx);
  else if (dx_type == BF16)
    FOR_TWO_STORED(dy_type, x_type,
                   batch_norm_grad(s, *w, (const A *)dy, (const B *)x, scale, mean, inv, dscale, dbias, (Bfloat *)dx))
  else
    FOR_TWO_STORED(dy_type, x_type,
                   batch_norm_grad(s, *w, (const A *)dy, (const B *)x, scale, mean, inv, dscale, dbias, (float *)dx))
}

void launch_update_statistics(cudaStream_t s, DType type, int64_t n, double momentum, const void *statistic,
                              void *running) {
  FOR_FLOATS(type, launch(update<T>, blocks_for(n), BLOCK_THREADS, s, n, momentum, (const T *)statistic, (T *)running))
}
