/* Kernels along lines: softmax, normalisations, cross entropy. Sums in an order that depends on the line's length
 * alone. */
#include "backend/cuda/row.cuh"

DEVICE float exponential(float x) {
  return quick_exp(x);
}
DEVICE double exponential(double x) {
  return exp(x);
}

/* The largest of a line, NaNs apart: what follows from them are NaNs again. */
template <class X, int WIDTH, int PACKS>
DEVICE Computed<X> largest(const Row<X, WIDTH, PACKS> &row, const Span<WIDTH, PACKS> &span) {
  typedef Computed<X> C;
  C most = -(C)INFINITY;
  span.each([&](int p, int64_t c) {
    C v[WIDTH];
    row.get(p, c, v);
    for (int i = 0; i < WIDTH; i++)
      most = RowMost::join(most, v[i]);
  });
  return join_group<RowMost>(most, span.lanes);
}

template <class X, class Y, int WIDTH, int PACKS>
GLOBAL void softmax(bool is_log, Lines l, int lanes, const X *from, Y *to) {
  typedef Computed<X> C;
  Span<WIDTH, PACKS> span = {l.size, thread_index() % lanes, lanes};
  FOR_LINES(line, lanes, l.outer * l.inner) {
    int64_t start = line_start(l, line);
    Row<X, WIDTH, PACKS> row(from + start, l.inner, span);
    C most = largest(row, span);
    SumOf<C, PACKS> sum = 0;
    span.each([&](int p, int64_t c) {
      C v[WIDTH];
      row.get(p, c, v);
      for (int i = 0; i < WIDTH; i++)
        v[i] = exponential(v[i] - most);
      sum += sum_pack<WIDTH>(v);
    });
    sum = join_group<RowSum>(sum, lanes);
    C factor = (C)(1 / sum), shift = (C)log(sum);
    span.each([&](int p, int64_t c) {
      C v[WIDTH];
      row.get(p, c, v);
      for (int i = 0; i < WIDTH; i++)
        v[i] = is_log ? v[i] - most - shift : exponential(v[i] - most) * factor;
      write_pack<WIDTH>(v, to + start + c * row.step);
    });
  }
}

/* dX = Y (dY - sum dY Y); of the logarithm: dY - exp(Y) sum dY. Where nothing is asked of a line, its Y has no say: it
 * may be no number. */
template <class D, class Y, class X, int WIDTH, int PACKS>
GLOBAL void softmax_grad(bool is_log, Lines l, int lanes, const D *cotangent, const Y *result, X *to) {
  typedef Computed<Y> C;
  Span<WIDTH, PACKS> span = {l.size, thread_index() % lanes, lanes};
  FOR_LINES(line, lanes, l.outer * l.inner) {
    int64_t start = line_start(l, line);
    Row<D, WIDTH, PACKS> dy(cotangent + start, l.inner, span);
    Row<Y, WIDTH, PACKS> y(result + start, l.inner, span);
    SumOf<C, PACKS> sum = 0;
    span.each([&](int p, int64_t c) {
      C d[WIDTH], v[WIDTH];
      dy.get(p, c, d);
      y.get(p, c, v);
      for (int i = 0; i < WIDTH; i++)
        d[i] = is_log || d[i] == 0 ? d[i] : d[i] * v[i];
      sum += sum_pack<WIDTH>(d);
    });
    C total = (C)join_group<RowSum>(sum, lanes);
    span.each([&](int p, int64_t c) {
      C d[WIDTH], v[WIDTH];
      dy.get(p, c, d);
      y.get(p, c, v);
      for (int i = 0; i < WIDTH; i++) {
        C scaled = is_log ? total : d[i] - total;
        scaled = scaled == 0 ? scaled : (is_log ? exponential(v[i]) : v[i]) * scaled;
        v[i] = is_log ? d[i] - scaled : scaled;
      }
      write_pack<WIDTH>(v, to + start + c * dy.step);
    });
  }
}

/* One lane per line, or lines of any length: kernels of one more parameter; float64 lies in no packs. */
template <class X, class Y> static void run_softmax(cudaStream_t s, bool is_log, const Lines &l, const X *x, Y *y) {
  for_rows<sizeof(Computed<X>) < 8, true>(l, [&](auto width, auto packs) {
    launch(softmax<X, Y, width(), packs()>, row_blocks(l), BLOCK_THREADS, s, is_log, l, lanes_for(l), x, y);
  });
}

void launch_softmax(cudaStream_t s, bool is_log, DType from, DType to, Lines lines, const void *x, void *y) {
  if (from == F64)
    run_softmax(s, is_log, lines, (const double *)x, (double *)y);
  else
    FOR_TWO_STORED(from, to, run_softmax(s, is_log, lines, (const A *)x, (B *)y))
}

template <class D, class Y, class X>
static void run_softmax_grad(cudaStream_t s, bool is_log, const Lines &l, const D *dy, const Y *y, X *dx) {
  for_rows<sizeof(Computed<X>) < 8, std::is_same<D, X>::value>(l, [&](auto width, auto packs) {
    launch(softmax_grad<D, Y, X, width(), packs()>, row_blocks(l), BLOCK_THREADS, s, is_log, l, lanes_for(l), dy, y,
           dx);
  });
}

void launch_softmax_grad(cudaStream_t s, bool is_log, DType dy_type, DType y_type, DType dx_type, Lines lines,
                         const void *dy, const void *y, void *dx) {
  if (dy_type == F64)
    run_softmax_grad(s, is_log, lines, (const double *)dy, (const double *)y, (double *)dx);
  else if (dx_type == BF16)
    FOR_TWO_STORED(dy_type, y_type, run_softmax_grad(s, is_log, lines, (const A *)dy, (const B *)y, (Bfloat *)dx))
  else
    FOR_TWO_STORED(dy_type, y_type, run_softmax_grad(s, is_log, lines, (const A *)dy, (const B *)y, (float *)dx))
}

/* ---- normalisations; statistics and parameters are what elements are computed in ---- */

template <class X, class Y, int WIDTH, int PACKS>
GLOBAL void norm(Lines l, int lanes, double epsilon, const X *from, const Computed<X> *scale, const Computed<X> *bias,
                 Y *to, Computed<X> *mean, Computed<X> *inv) {
  typedef Computed<X> C;
  typedef SumOf<C, PACKS> Sum;
  const double part = 1 / (double)l.size;
  Span<WIDTH, PACKS> span = {l.size, thread_index() % lanes, lanes};
  FOR_LINES(line, lanes, l.outer) {
    Row<X, WIDTH, PACKS> row(from + line * l.size, 1, span);
    C centre = 0;
    if (mean) {
      Sum sum = 0;
      span.each([&](int p, int64_t c) {
        C v[WIDTH];
        row.get(p, c, v);
        sum += sum_pack<WIDTH>(v);
      });
      centre = (C)((double)join_group<RowSum>(sum, lanes) * part);
    }
    Sum squares = 0;
    span.each([&](int p, int64_t c) {
      C v[WIDTH];
      row.get(p, c, v);
      for (int i = 0; i < WIDTH; i++)
        v[i] = (v[i] - centre) * (v[i] - centre);
      squares += sum_pack<WIDTH>(v);
    });
    C factor = 1 / sqrt((C)((double)join_group<RowSum>(squares, lanes) * part + epsilon));
    span.each([&](int p, int64_t c) {
      C v[WIDTH], a[WIDTH], b[WIDTH];
      row.get(p, c, v);
      read_pack<WIDTH>(scale + c, a);
      for (int i = 0; i < WIDTH; i++)
        v[i] = (v[i] - centre) * factor * a[i];
      if (bias) {
        read_pack<WIDTH>(bias + c, b);
        for (int i = 0; i < WIDTH; i++)
          v[i] += b[i];
      }
      write_pack<WIDTH>(v, to + line * l.size + c);
    });
    if (span.lane == 0) {
      inv[line] = factor;
      if (mean)
        mean[line] = centre;
    }
  }
}

template <class X, class Y>
static void run_norm(cudaStream_t s, const Lines &l, double epsilon, const X *x, const void *scale, const void *bias,
                     Y *y, void *mean, void *inv) {
  typedef Computed<X> C;
  for_rows<sizeof(C) < 8, true>(l, [&](auto width, auto packs) {
    launch(norm<X, Y, width(), packs()>, row_blocks(l), BLOCK_THREADS, s, l, lanes_for(l), epsilon, x, (const C *)scale,
           (const C *)bias, y, (C *)mean, (C *)inv);
  });
}

void launch_norm(cudaStream_t s, DType from, DType to, int64_t rows, int64_t size, double epsilon, const void *x,
                 const void *scale, const void *bias, void *y, void *mean, void *inv) {
  Lines l = {rows, size, 1};
  if (from == F64)
    run_norm(s, l, epsilon, (const double *)x, scale, bias, (double *)y, mean, inv);
  else
    FOR_TWO_STORED(from, to, run_norm(s, l, epsilon, (const A *)x, scale, bias, (B *)y, mean, inv))
}

/* With G = dY scale and H = (X - mean) inv: dX = inv (G - mean of G - H mean of G H); RMS leaves the mean of G out; and
 * `more`, or NULL. */
template <class D, class X, class T, int WIDTH, int PACKS>
GLOBAL void norm_grad(Lines l, int lanes, const D *cotangent, const X *from, const Computed<X> *scale,
                      const Computed<X> *mean, const Computed<X> *inv, const T *more, T *to) {
  typedef Computed<X> C;
  typedef SumOf<C, PACKS> Sum;
  const double part = 1 / (double)l.size;
  Span<WIDTH, PACKS> span = {l.size, thread_index() % lanes, lanes};
  FOR_LINES(line, lanes, l.outer) {
    Row<D, WIDTH, PACKS> dy(cotangent + line * l.size, 1, span);
    Row<X, WIDTH, PACKS> x(from + line * l.size, 1, span);
    C centre = mean ? mean[line] : 0, factor = inv[line];
    Sum sum = 0, dot = 0;
    span.each([&](int p, int64_t c) {
      C g[WIDTH], h[WIDTH], a[WIDTH];
      dy.get(p, c, g);
      x.get(p, c, h);
      read_pack<WIDTH>(scale + c, a);
      for (int i = 0; i < WIDTH; i++) {
        g[i] *= a[i];
        h[i] = g[i] * ((h[i] - centre) * factor);
      }
      sum += sum_pack<WIDTH>(g);
      dot += sum_pack<WIDTH>(h);
    });
    C mean_g = mean ? (C)((double)join_group<RowSum>(sum, lanes) * part) : 0;
    C mean_gh = (C)((double)join_group<RowSum>(dot, lanes) * part);
    span.each([&](int p, int64_t c) {
      C g[WIDTH], h[WIDTH], a[WIDTH];
      dy.get(p, c, g);
      x.get(p, c, h);
      read_pack<WIDTH>(scale + c, a);
      for (int i = 0; i < WIDTH; i++)
        g[i] = factor * (g[i] * a[i] - mean_g - (h[i] - centre) * factor * mean_gh);
      if (more) {
        read_pack<WIDTH>(more + line * l.size + c, h);
        for (int i = 0; i < WIDTH; i++)
          g[i] += h[i];
      }
      write_pack<WIDTH>(g, to + line * l.size + c);
    });
  }
}

template <class D, class X, class T>
static void run_norm_grad(cudaStream_t s, const Lines &l, const D *dy, const X *x, const void *scale, const void *mean,
                          const void *inv, const void *more, T *dx) {
  typedef Computed<X> C;
  for_rows<sizeof(C) < 8, std::is_same<D, T>::value>(l, [&](auto width, auto packs) {
    launch(norm_grad<D, X, T, width(), packs()>, row_blocks(l), BLOCK_THREADS, s, l, lanes_for(l), dy, x,
           (const C *)scale, (const C *)mean, (const C *)inv, (const T *)more, dx);
  });
}

void launch_norm_grad(cudaStream_t s, DType dy_type, DType x_type, DType dx_type, int64_t rows, int64_t size,
                      const void *dy, const void *x, const void *scale, const void *mean, const void *inv,
                      const void *more, void *dx) {
  Lines l = {rows, size, 1};
  if (x_type == F64)
    run_norm_grad(s, l, (const double *)dy, (const double *)x, scale, mean, inv, more, (double *)dx);
  else if (dx_type == BF16)
    FOR_TWO_STORED(dy_type, x_type,
                   run_norm_grad(s, l, (const A *)dy, (const B *)x, scale, mean, inv, more, (Bfloat *)dx))
  else
    FOR_TWO_STORED(dy_type, x_type,
                   run_norm_grad(s, l, (const A *)dy, (const B *)x, scale, mean, inv, more, (float *)dx))
}

/* ---- cross entropy ---- */

/* The class of a position; -1 where it does not count. */
DEVICE int64_t class_of(const Classes &c, const Reporter &reporter, const void *target, int64_t position) {
  int64_t value = index_at(c.target_type, target, position);
  if (value == c.ignored)
    return -1;
  if (value >= 0 && value < c.lines.size)
    return value;
  Shape classes = {1, {c.lines.size}};
  report(reporter, FAULT_TARGET, classes, position, value);
  return -1;
}

/* A sum of exponentials of what is less than `most`. Of one lane it is in the elements' type. */
template <class C> struct Exponentials {
  C most, sum;
  /* What exponentials are taken less of; where all is as good as forbidden so far, of nothing. */
  DEVICE C shift() const { return most == -(C)INFINITY ? 0 : most; }
  template <int N> DEVICE void add(C *v) {
    C next = most;
    for (int i = 0; i < N; i++)
      next = RowMost::join(next, v[i]);
    if (next > most) {
      sum *= exponential(most - next);
      most = next;
    }
    for (int i = 0; i < N; i++)
      v[i] = exponential(v[i] - shift());
    sum += sum_pack<N>(v);
  }
};

/* In one pass. Ignored positions get the log_sum_exp too, so that no byte of an output is left unwritten. */
template <class X, int WIDTH>
GLOBAL void cross_entropy(Classes c, Reporter reporter, int lanes, const X *logits, const void *target,
                          Computed<X> *log_sum_exp, double *losses) {
  typedef Computed<X> C;
  const Lines &l = c.lines;
  Span<WIDTH, 0> span = {l.size, thread_index() % lanes, lanes};
  FOR_LINES(line, lanes, l.outer * l.inner) {
    const X *x = logits + line_start(l, line);
    Row<X, WIDTH, 0> row(x, l.inner, span);
    Exponentials<C> own = {-(C)INFINITY, 0};
    span.each([&](int p, int64_t at) {
      C v[WIDTH];
      row.get(p, at, v);
      own.template add<WIDTH>(v);
    });
    C most = join_group<RowMost>(own.most, lanes);
    double sum = join_group<RowSum>((double)(own.sum * exponential(own.shift() - most)), lanes);
    if (span.lane)
      continue;
    double all = l.size ? (double)most + log(sum) : 0;
    int64_t place = class_of(c, reporter, target, line);
    log_sum_exp[line] = (C)all;
    losses[line] = place < 0 ? 0 : all - (double)(C)x[place * l.inner];
  }
}

template <class X>
static void run_cross_entropy(cudaStream_t s, const Classes &c, Reporter reporter, const X *logits, const void *target,
                              void *log_sum_exp, double *losses) {
  typedef Computed<X> C;
  for_rows<sizeof(C) < 8, false>(c.lines, [&](auto width, auto) {
    launch(cross_entropy<X, width()>, row_blocks(c.lines), BLOCK_THREADS, s, c, reporter, lanes_for(c.lines), logits,
           target, (C *)log_sum_exp, losses);
  });
}

void launch_cross_entropy(cudaStream_t s, DType type, const Classes *classes, Reporter reporter, const void *logits,
                          const void *target, void *log_sum_exp, double *losses) {
  FOR_STORED(type, run_cross_entropy(s, *classes, reporter, (const T *)logits, target, log_sum_exp, losses))
}

/* dLogits = scale (exp(logits - log_sum_exp) - one at the class), 0 where ignored. */
template <class X, class Y, int WIDTH>
GLOBAL void cross_entropy_grad(Classes c, Reporter reporter, int lanes, const X *logits, const void *target,
                               const Computed<X> *log_sum_exp, const double *scale, Y *dlogits) {
  typedef Computed<X> C;
  const Lines &l = c.lines;
  C factor = (C)*scale;
  Span<WIDTH, 0> span = {l.size, thread_index() % lanes, lanes};
  FOR_LINES(line, lanes, l.outer * l.inner) {
    int64_t start = line_start(l, line), own = class_of(c, reporter, target, line);
    Row<X, WIDTH, 0> row(logits + start, l.inner, span);
    C all = log_sum_exp[line];
    span.each([&](int p, int64_t at) {
      C v[WIDTH];
      int mark = own >= at && own < at + WIDTH ? (int)(own - at) : -1;
      row.get(p, at, v);
      for (int i = 0; i < WIDTH; i++)
        v[i] = own < 0 ? 0 : factor * (exponential(v[i] - all) - (C)(i == mark));
      write_pack<WIDTH>(v, dlogits + start + at * row.step);
    });
  }
}

template <class X, class Y>
static void run_cross_entropy_grad(cudaStream_t s, const Classes &c, Reporter reporter, const X *logits,
                                   const void *target, const void *log_sum_exp, const double *scale, Y *dlogits) {
  typedef Computed<X> C;
  for_rows<sizeof(C) < 8, false>(c.lines, [&](auto width, auto) {
    launch(cross_entropy_grad<X, Y, width()>, row_blocks(c.lines), BLOCK_THREADS, s, c, reporter, lanes_for(c.lines),
           logits, target, (const C *)log_sum_exp, scale, dlogits);
  });
}

void launch_cross_entropy_grad(cudaStream_t s, DType type, DType to, const Classes *classes, Reporter reporter,
                               const void *logits, const void *target, const void *log_sum_exp, const double *scale,
                               void *dlogits) {
  if (type == F64)
    run_cross_entropy_grad(s, *classes, reporter, (const double *)logits, target, log_sum_exp, scale,
                           (double *)dlogits);
  else
    FOR_TWO_STORED(
        type, to,
        run_cross_entropy_grad(s, *classes, reporter, (const A *)logits, target, log_sum_exp, scale, (B *)dlogits))
}
