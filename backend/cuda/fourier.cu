/* Fourier transforms as the reference's (backend/reference/fourier.c): a launch a radix, over all lines at once; by a
 * convolution where the length has a large factor. Numbers of several lines lie side by side, [place][line], real parts
 * and imaginary parts apart, in double. */
#include "backend/cuda/steps.cuh"
#include "backend/reference/roots.h"

struct Complex {
  double *re, *im;
};

static GLOBAL void find_roots(int64_t n, Complex roots) {
  for (int64_t k = global_thread(); k < n; k += global_threads())
    root_of_one(k, n, &roots.re[k], &roots.im[k]);
}

/* The chirp exp(-πi j² / n). */
static GLOBAL void find_chirp(int64_t n, Complex chirp) {
  for (int64_t j = global_thread(); j < n; j += global_threads())
    root_of_one(j * j % (2 * n), 2 * n, &chirp.re[j], &chirp.im[j]);
}

/* Its conjugate, wrapped around m, by m. */
static GLOBAL void wrap_chirp(int64_t n, int64_t m, Complex chirp, Complex filter) {
  for (int64_t k = global_thread(); k < m; k += global_threads()) {
    int64_t j = k < n ? k : m - k;
    filter.re[k] = j < n ? chirp.re[j] / (double)m : 0;
    filter.im[k] = j < n ? -chirp.im[j] / (double)m : 0;
  }
}

/* `done` places of each of rest · radix interleaved transforms become done · radix places of `rest`; roots: of one, of
 * the whole length. A number of y a thread. */
struct Radix {
  int64_t radix, done, rest, lines;
};

static GLOBAL void step(Radix s, Complex x, Complex roots, Complex y) {
  int64_t n = s.rest * s.lines, length = s.radix * s.done * s.rest, all = length * s.lines;
  for (int64_t at = global_thread(); at < all; at += global_threads()) {
    int64_t i = at % n, place = at / n, turn = place * s.rest, root = 0;
    const double *xr = x.re + place % s.done * s.radix * n + i, *xi = x.im + place % s.done * s.radix * n + i;
    double re = xr[0], im = xi[0];
    for (int64_t c = 1; c < s.radix; c++) {
      root += turn;
      root -= root >= length ? length : 0;
      double wr = roots.re[root], wi = roots.im[root];
      re += wr * xr[c * n] - wi * xi[c * n];
      im += wr * xi[c * n] + wi * xr[c * n];
    }
    y.re[at] = re;
    y.im[at] = im;
  }
}

/* From x, by way of y, to one of them, which it returns. */
static Complex transform(cudaStream_t s, const FourierWork &w, int64_t lines, Complex roots, Complex x, Complex y) {
  Radix r = {0, 1, w.inner_length, lines};
  for (int i = 0; i < w.n_radices; i++) {
    r.radix = w.radix[i];
    r.rest /= r.radix;
    launch(step, blocks_for(w.inner_length * lines), BLOCK_THREADS, s, r, x, roots, y);
    r.done *= r.radix;
    Complex t = x;
    x = y;
    y = t;
  }
  return x;
}

DEVICE int64_t begin_of(const FourierLines &l, int64_t line) {
  return (line / l.inner * l.n * l.inner + line % l.inner) * l.parts;
}

/* Lines first … first + lines-1, behind their ends zeros, or the other side of the spectrum; times the chirp where it
 * is there. */
template <class T>
GLOBAL void load(FourierWork w, int64_t first, int64_t lines, const T *in, bool chirps, Complex chirp, Complex x) {
  const FourierLines &a = w.in;
  for (int64_t i = global_thread(); i < w.inner_length * lines; i += global_threads()) {
    int64_t j = i / lines, at = begin_of(a, first + i % lines), step = a.inner * a.parts;
    double re = 0, im = 0;
    if (j < a.n && j < w.length) {
      re = (double)in[at + j * step];
      im = a.parts == 2 && !(w.hermitian && (j == 0 || 2 * j == w.length)) ? (double)in[at + j * step + 1] : 0;
    } else if (w.hermitian && j < w.length && w.length - j < a.n) {
      re = (double)in[at + (w.length - j) * step];
      im = -(double)in[at + (w.length - j) * step + 1];
    }
    if (w.inverse) { /* a transform of what has its parts exchanged, which gives them exchanged */
      double t = re;
      re = im;
      im = t;
    }
    bool turns = chirps && j < w.length;
    x.re[i] = turns ? re * chirp.re[j] - im * chirp.im[j] : re;
    x.im[i] = turns ? re * chirp.im[j] + im * chirp.re[j] : im;
  }
}

template <class T>
GLOBAL void store(FourierWork w, int64_t first, int64_t lines, Complex y, bool chirps, Complex chirp, T *out) {
  const FourierLines &a = w.out;
  for (int64_t i = global_thread(); i < a.n * lines; i += global_threads()) {
    int64_t k = i / lines, to = begin_of(a, first + i % lines) + k * a.inner * a.parts;
    double re = y.re[i], im = y.im[i];
    if (chirps) {
      double turned = re * chirp.re[k] - im * chirp.im[k];
      im = re * chirp.im[k] + im * chirp.re[k];
      re = turned;
    }
    out[to] = (T)(w.scale * (w.inverse ? im : re));
    if (a.parts == 2)
      out[to + 1] = (T)(w.scale * (w.inverse ? re : im));
  }
}

/* z times the filter, its parts exchanged: the inverse transform is one with parts exchanged. */
static GLOBAL void multiply(int64_t n, int64_t lines, Complex filter, Complex z) {
  for (int64_t i = global_thread(); i < n * lines; i += global_threads()) {
    double re = z.re[i], im = z.im[i], fr = filter.re[i / lines], fi = filter.im[i / lines];
    z.re[i] = re * fi + im * fr;
    z.im[i] = re * fr - im * fi;
  }
}

/* table: the roots of m numbers, then the chirp of n, the filter of m, and room for it. */
template <class T> static void fourier(cudaStream_t s, const FourierWork &w, const T *in, void *workspace, T *out) {
  int64_t n = w.length, m = w.inner_length, lines = w.in.outer * w.in.inner;
  double *table = (double *)workspace, *room = table + (m == n ? 2 * m : 6 * m + 2 * n);
  Complex roots = {table, table + m}, chirp = {table + 2 * m, table + 2 * m + n}, filter = {chirp.im + n, NULL};
  bool chirps = m != n;
  launch(find_roots, blocks_for(m), BLOCK_THREADS, s, m, roots);
  if (chirps) {
    filter.im = filter.re + m;
    launch(find_chirp, blocks_for(n), BLOCK_THREADS, s, n, chirp);
    launch(wrap_chirp, blocks_for(m), BLOCK_THREADS, s, n, m, chirp, filter);
    filter = transform(s, w, 1, roots, filter, Complex{filter.im + m, filter.im + 2 * m});
  }
  for (int64_t first = 0; first < lines; first += w.at_once) {
    int64_t some = lines - first < w.at_once ? lines - first : w.at_once, size = m * some;
    Complex x = {room, room + size}, y = {room + 2 * size, room + 3 * size};
    launch(load<T>, blocks_for(size), BLOCK_THREADS, s, w, first, some, in, chirps, chirp, x);
    Complex z = transform(s, w, some, roots, x, y);
    if (chirps) {
      launch(multiply, blocks_for(size), BLOCK_THREADS, s, m, some, filter, z);
      z = transform(s, w, some, roots, z, z.re == x.re ? y : x);
      z = Complex{z.im, z.re};
    }
    launch(store<T>, blocks_for(w.out.n * some), BLOCK_THREADS, s, w, first, some, z, chirps, chirp, out);
  }
}

void launch_fourier(cudaStream_t s, DType type, const FourierWork *work, const void *x, void *workspace, void *y) {
  FOR_FLOATS(type, fourier(s, *work, (const T *)x, workspace, (T *)y))
}
