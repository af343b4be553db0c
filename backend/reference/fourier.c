/* The transform of graph/ops/fourier.c. Numbers of several lines lie side by
 * side, [place][line], real parts and imaginary parts apart, so that all loops
 * are wide. */
#include "backend/reference/fourier.h"

#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/roots.h"

enum { LARGEST_RADIX = 47 };

typedef struct {
  double *re, *im;
} Complex;

int64_t fourier_factor(int64_t n) {
  if (n % 4 == 0)
    return 4;
  for (int64_t p = 2; p <= LARGEST_RADIX && p * p <= n; p++)
    if (n % p == 0)
      return p;
  return n;
}

/* Whether all factors are small enough to be gone through as they are. */
static bool is_smooth(int64_t n) {
  while (n > 1) {
    int64_t p = fourier_factor(n);
    if (p > LARGEST_RADIX)
      return false;
    n /= p;
  }
  return true;
}

int64_t fourier_inner_length(int64_t n) {
  int64_t m = 1;
  if (is_smooth(n))
    return n;
  while (m < 2 * n - 1)
    m *= 2;
  return m;
}

size_t fourier_table_bytes(int64_t n) {
  int64_t m = fourier_inner_length(n);
  return (size_t)(m == n ? 2 * n : 6 * m + 2 * n) * sizeof(double);
}

size_t fourier_room_bytes(int64_t n, int64_t lines) {
  return (size_t)fourier_inner_length(n) * 4 * (size_t)lines * sizeof(double);
}

static void roots_of_one(int64_t n, double *re, double *im) {
  for (int64_t k = 0; k < n; k++)
    root_of_one(k, n, &re[k], &im[k]);
}

/* One radix: `done` places of each of `rest` · radix interleaved transforms
 * become done · radix places of `rest`. From x to y, [place][transform][line];
 * w: the roots of one, of the whole length. */
typedef struct {
  int64_t radix, done, rest, lines;
} Step;

WIDE_LOOPS static void step_2(Step s, Complex x, Complex y, const double *wr, const double *wi) {
  int64_t n = s.rest * s.lines;
  for (int64_t k = 0; k < s.done; k++) {
    double cr = wr[k * s.rest], ci = wi[k * s.rest];
    const double *ar = x.re + 2 * k * n, *ai = x.im + 2 * k * n, *br = ar + n, *bi = ai + n;
    double *pr = y.re + k * n, *pi = y.im + k * n, *qr = pr + s.done * n, *qi = pi + s.done * n;
    for (int64_t i = 0; i < n; i++) {
      double tr = cr * br[i] - ci * bi[i], ti = cr * bi[i] + ci * br[i];
      double ur = ar[i], ui = ai[i];
      pr[i] = ur + tr;
      pi[i] = ui + ti;
      qr[i] = ur - tr;
      qi[i] = ui - ti;
    }
  }
}

WIDE_LOOPS static void step_4(Step s, Complex x, Complex y, const double *wr, const double *wi) {
  int64_t n = s.rest * s.lines, far = s.done * n;
  for (int64_t k = 0; k < s.done; k++) {
    int64_t at = k * s.rest;
    double c1r = wr[at], c1i = wi[at], c2r = wr[2 * at], c2i = wi[2 * at], c3r = wr[3 * at], c3i = wi[3 * at];
    const double *xr = x.re + 4 * k * n, *xi = x.im + 4 * k * n;
    double *yr = y.re + k * n, *yi = y.im + k * n;
    for (int64_t i = 0; i < n; i++) {
      double ar = xr[i], ai = xi[i];
      double br = c1r * xr[i + n] - c1i * xi[i + n], bi = c1r * xi[i + n] + c1i * xr[i + n];
      double cr = c2r * xr[i + 2 * n] - c2i * xi[i + 2 * n], ci = c2r * xi[i + 2 * n] + c2i * xr[i + 2 * n];
      double dr = c3r * xr[i + 3 * n] - c3i * xi[i + 3 * n], di = c3r * xi[i + 3 * n] + c3i * xr[i + 3 * n];
      double er = ar + cr, ei = ai + ci, fr = ar - cr, fi = ai - ci;
      double gr = br + dr, gi = bi + di, hr = br - dr, hi = bi - di;
      yr[i] = er + gr;
      yi[i] = ei + gi;
      yr[i + far] = fr + hi;
      yi[i + far] = fi - hr;
      yr[i + 2 * far] = er - gr;
      yi[i + 2 * far] = ei - gi;
      yr[i + 3 * far] = fr - hi;
      yi[i + 3 * far] = fi + hr;
    }
  }
}

/* Any radix by its definition. */
WIDE_LOOPS static void step_any(Step s, Complex x, Complex y, const double *wr, const double *wi) {
  int64_t n = s.rest * s.lines, length = s.radix * s.done * s.rest;
  for (int64_t k = 0; k < s.done; k++)
    for (int64_t q = 0; q < s.radix; q++) {
      double *yr = y.re + (k + s.done * q) * n, *yi = y.im + (k + s.done * q) * n;
      for (int64_t c = 0; c < s.radix; c++) {
        int64_t at = (c * s.rest * (k + s.done * q)) % length;
        const double *xr = x.re + (k * s.radix + c) * n, *xi = x.im + (k * s.radix + c) * n;
        double cr = wr[at], ci = wi[at];
        for (int64_t i = 0; i < n; i++) {
          double tr = cr * xr[i] - ci * xi[i], ti = cr * xi[i] + ci * xr[i];
          yr[i] = c ? yr[i] + tr : tr;
          yi[i] = c ? yi[i] + ti : ti;
        }
      }
    }
}

/* From x, by way of y, to one of them, which it returns. */
static Complex transform(int64_t length, int64_t lines, const double *table, Complex x, Complex y) {
  const double *wr = table, *wi = table + length;
  Step s = {.done = 1, .rest = length, .lines = lines};
  while (s.rest > 1) {
    s.radix = fourier_factor(s.rest);
    s.rest /= s.radix;
    if (s.radix == 2)
      step_2(s, x, y, wr, wi);
    else if (s.radix == 4)
      step_4(s, x, y, wr, wi);
    else
      step_any(s, x, y, wr, wi);
    s.done *= s.radix;
    Complex t = x;
    x = y;
    y = t;
  }
  return x;
}

/* Of a smooth length: the roots of one. Otherwise those of the inner length m;
 * the chirp exp(-πi j² / n), n of it; the transform of its conjugate, wrapped
 * around m, by m; and room for that. */
void fourier_table(int64_t n, double *table) {
  int64_t m = fourier_inner_length(n), square = 0;
  roots_of_one(m, table, table + m);
  if (m == n)
    return;
  double *chirp = table + 2 * m;
  Complex filter = {chirp + 2 * n, chirp + 2 * n + m}, room = {filter.im + m, filter.im + 2 * m};
  memset(filter.re, 0, 2 * (size_t)m * sizeof(double));
  for (int64_t j = 0; j < n; j++) {
    root_of_one(square, 2 * n, &chirp[j], &chirp[n + j]);
    filter.re[j] = filter.re[j ? m - j : 0] = chirp[j];
    filter.im[j] = filter.im[j ? m - j : 0] = -chirp[n + j];
    square = (square + 2 * j + 1) % (2 * n);
  }
  Complex done = transform(m, 1, table, filter, room);
  for (int64_t k = 0; k < m; k++) {
    double re = done.re[k] / (double)m, im = done.im[k] / (double)m;
    filter.re[k] = re;
    filter.im[k] = im;
  }
}

/* x_j c_j, convolved with the conjugate chirp, times c_k: the inverse transform
 * is one with parts exchanged. */
WIDE_LOOPS static Complex convolve(int64_t n, int64_t lines, const double *table, Complex x, Complex y) {
  int64_t m = fourier_inner_length(n);
  const double *chirp = table + 2 * m, *filter = chirp + 2 * n;
  for (int64_t j = 0; j < m; j++)
    for (int64_t l = 0; l < lines; l++) {
      double re = x.re[j * lines + l], im = x.im[j * lines + l];
      x.re[j * lines + l] = j < n ? re * chirp[j] - im * chirp[n + j] : 0;
      x.im[j * lines + l] = j < n ? re * chirp[n + j] + im * chirp[j] : 0;
    }
  Complex z = transform(m, lines, table, x, y), other = z.re == x.re ? y : x;
  for (int64_t k = 0; k < m; k++)
    for (int64_t l = 0; l < lines; l++) {
      double re = z.re[k * lines + l], im = z.im[k * lines + l];
      z.re[k * lines + l] = re * filter[k] - im * filter[m + k];
      z.im[k * lines + l] = re * filter[m + k] + im * filter[k];
    }
  Complex back = transform(m, lines, table, (Complex){z.im, z.re}, (Complex){other.im, other.re});
  for (int64_t k = 0; k < n; k++)
    for (int64_t l = 0; l < lines; l++) {
      double re = back.im[k * lines + l], im = back.re[k * lines + l];
      back.im[k * lines + l] = re * chirp[k] - im * chirp[n + k];
      back.re[k * lines + l] = re * chirp[n + k] + im * chirp[k];
    }
  return (Complex){back.im, back.re};
}

/* Lines along the axis: number l begins at (l / inner · n · inner + l % inner)
 * · parts and goes on by inner · parts. */
typedef struct {
  int64_t outer, inner, n, parts;
} Along;

static Along along(const Tensor *t, const Node *node) {
  int axis = (int)node_int(node, "axis", 0), last = t->shape.rank - 1;
  Split3 s = split_at(shape_of(last, t->shape.dim), axis);
  return (Along){s.outer, s.inner, s.size, t->shape.dim[last]};
}

static int64_t begin_of(Along a, int64_t line) {
  return (line / a.inner * a.n * a.inner + line % a.inner) * a.parts;
}

static double number(const Tensor *t, int64_t i) {
  return t->dtype == F32 ? (double)((const float *)t->data)[i] : ((const double *)t->data)[i];
}

/* One line into column `column` of x; behind its end zeros, or the other side
 * of the spectrum. */
static void load(const Node *node, const Tensor *in, int64_t line, Complex x, int64_t lines, int64_t column) {
  Along a = along(in, node);
  int64_t at = begin_of(a, line), length = node_int(node, "length", 0);
  bool hermitian = node_int(node, "hermitian", 0);
  for (int64_t j = 0; j < length; j++) {
    double re = 0, im = 0;
    if (j < a.n) {
      re = number(in, at + j * a.inner * a.parts);
      im = a.parts == 2 && !(hermitian && (j == 0 || 2 * j == length)) ? number(in, at + j * a.inner * 2 + 1) : 0;
    } else if (hermitian && length - j < a.n) {
      re = number(in, at + (length - j) * a.inner * 2);
      im = -number(in, at + (length - j) * a.inner * 2 + 1);
    }
    x.re[j * lines + column] = re;
    x.im[j * lines + column] = im;
  }
}

static void store(const Node *node, const Tensor *out, int64_t line, Complex y, int64_t lines, int64_t column) {
  Along a = along(out, node);
  int64_t at = begin_of(a, line);
  double scale = node_float(node, "scale", 1);
  for (int64_t k = 0; k < a.n; k++)
    for (int64_t part = 0; part < a.parts; part++) {
      double value = scale * (part ? y.im : y.re)[k * lines + column];
      int64_t to = at + k * a.inner * a.parts + part;
      if (out->dtype == F32)
        ((float *)out->data)[to] = (float)value;
      else
        ((double *)out->data)[to] = value;
    }
}

int64_t fourier_lines(const Node *node, const Tensor *in) {
  Along a = along(in, node);
  return a.outer * a.inner;
}

void fourier_part(const Node *node, const Tensor *in, const Tensor *out, const double *table, double *room,
                  int64_t at_once, int64_t first, int64_t end) {
  int64_t length = node_int(node, "length", 0), m = fourier_inner_length(length), size = m * at_once;
  bool inverse = node_int(node, "inverse", 0);
  for (int64_t line = first; line < end; line += at_once) {
    int64_t lines = least(at_once, end - line);
    Complex x = {room, room + size}, y = {room + 2 * size, room + 3 * size};
    if (inverse)
      x = (Complex){x.im, x.re};
    for (int64_t l = 0; l < lines; l++)
      load(node, in, line + l, x, lines, l);
    if (inverse)
      x = (Complex){x.im, x.re};
    x = m == length ? transform(m, lines, table, x, y) : convolve(length, lines, table, x, y);
    if (inverse)
      x = (Complex){x.im, x.re};
    for (int64_t l = 0; l < lines; l++)
      store(node, out, line + l, x, lines, l);
  }
}

size_t fourier_workspace(const Graph *graph, const Node *node, size_t budget) {
  int64_t length = node_int(node, "length", 0);
  (void)graph;
  (void)budget;
  return fourier_table_bytes(length) + fourier_room_bytes(length, 1);
}

KERNEL(DFT, .accepts = takes_floats, .workspace = fourier_workspace) {
  UNUSED;
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  int64_t length = node_int(node, "length", 0);
  double *table = workspace, *room = table + fourier_table_bytes(length) / sizeof *table;
  fourier_table(length, table);
  fourier_part(node, in, out, table, room, 1, 0, fourier_lines(node, in));
  return OK;
}
