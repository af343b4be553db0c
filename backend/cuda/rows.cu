/* Kernels along lines: softmax, normalisations, cross entropy. A group of lanes a line: a warp where a line's elements
 * lie side by side, one thread where neighbouring lines do. Sums in double, in an order that depends on the line's
 * length alone. */
#include "backend/cuda/fault.cuh"

static int lanes_for(const Lines &l) {
  return l.inner == 1 ? (int)WARP_LANES : 1;
}

DEVICE int64_t line_start(const Lines &l, int64_t line) {
  return line / l.inner * l.size * l.inner + line % l.inner;
}

/* All lines of this thread's group, in its lane. */
#define FOR_LINES(line, lane, lanes, n)                                                                                \
  for (int64_t line = global_thread() / lanes, lane = thread_index() % lanes; line < (n);                              \
       line += global_threads() / lanes)

/* The largest of a line, NaN if there is one. */
template <class T> DEVICE T largest(const T *x, const Lines &l, int64_t lane, int lanes) {
  T most = -(T)INFINITY;
  for (int64_t i = lane; i < l.size; i += lanes) {
    T next = x[i * l.inner];
    most = next > most || next != next ? next : most;
  }
  for (int half = lanes / 2; half; half /= 2) {
    T next = shuffle_xor(most, half);
    most = next > most || next != next ? next : most;
  }
  return most;
}

template <class T> DEVICE double sum_exp(const T *x, T most, const Lines &l, int64_t lane, int lanes) {
  double sum = 0;
  for (int64_t i = lane; i < l.size; i += lanes)
    sum += (double)exp(x[i * l.inner] - most);
  return sum_lanes(sum, lanes);
}

template <class T> GLOBAL void softmax(bool is_log, Lines l, int lanes, const T *from, T *to) {
  FOR_LINES(line, lane, lanes, l.outer * l.inner) {
    const T *x = from + line_start(l, line);
    T *y = to + line_start(l, line), most = largest(x, l, lane, lanes);
    double sum = sum_exp(x, most, l, lane, lanes);
    T divisor = (T)sum, shift = (T)log(sum);
    for (int64_t i = lane; i < l.size; i += lanes) {
      T d = x[i * l.inner] - most;
      y[i * l.inner] = is_log ? d - shift : exp(d) / divisor;
    }
  }
}

/* dX = Y (dY - sum dY Y); of the logarithm: dY - exp(Y) sum dY. Where nothing is asked of a line, its Y has no say: it
 * may be no number. */
template <class T>
GLOBAL void softmax_grad(bool is_log, Lines l, int lanes, const T *cotangent, const T *result, T *to) {
  FOR_LINES(line, lane, lanes, l.outer * l.inner) {
    int64_t at = line_start(l, line);
    const T *dy = cotangent + at, *y = result + at;
    double sum = 0;
    for (int64_t i = lane; i < l.size; i += lanes)
      if (dy[i * l.inner] != 0)
        sum += is_log ? (double)dy[i * l.inner] : (double)dy[i * l.inner] * (double)y[i * l.inner];
    T total = (T)sum_lanes(sum, lanes);
    for (int64_t i = lane; i < l.size; i += lanes) {
      T d = dy[i * l.inner], v = y[i * l.inner];
      T scaled = is_log ? total : d - total;
      scaled = scaled == 0 ? scaled : (is_log ? (T)exp(v) : v) * scaled;
      to[at + i * l.inner] = is_log ? d - scaled : scaled;
    }
  }
}

static int64_t blocks_of(const Lines &l) {
  return blocks_for(l.outer * l.inner * lanes_for(l));
}

void launch_softmax(cudaStream_t s, bool is_log, DType type, Lines lines, const void *x, void *y) {
  FOR_FLOATS(type, launch(softmax<T>, blocks_of(lines), BLOCK_THREADS, s, is_log, lines, lanes_for(lines), (const T *)x,
                          (T *)y))
}

void launch_softmax_grad(cudaStream_t s, bool is_log, DType type, Lines lines, const void *dy, const void *y,
                         void *dx) {
  FOR_FLOATS(type, launch(softmax_grad<T>, blocks_of(lines), BLOCK_THREADS, s, is_log, lines, lanes_for(lines),
                          (const T *)dy, (const T *)y, (T *)dx))
}

template <class T>
GLOBAL void norm(int64_t rows, int64_t n, double epsilon, const T *from, const T *scale, const T *bias, T *to, T *mean,
                 T *inv) {
  const int lanes = WARP_LANES;
  FOR_LINES(row, lane, lanes, rows) {
    const T *x = from + row * n;
    T *y = to + row * n;
    double sum = 0, squares = 0;
    for (int64_t i = lane; mean && i < n; i += lanes)
      sum += (double)x[i];
    double m = sum_lanes(sum, lanes) / (double)n;
    for (int64_t i = lane; i < n; i += lanes)
      squares += ((double)x[i] - m) * ((double)x[i] - m);
    squares = sum_lanes(squares, lanes);
    T centre = (T)m, factor = (T)(1 / sqrt(squares / (double)n + epsilon));
    for (int64_t i = lane; i < n; i += lanes) {
      T v = (x[i] - centre) * factor * scale[i];
      y[i] = bias ? v + bias[i] : v;
    }
    if (lane == 0) {
      inv[row] = factor;
      if (mean)
        mean[row] = centre;
    }
  }
}

void launch_norm(cudaStream_t s, DType type, int64_t rows, int64_t size, double epsilon, const void *x,
                 const void *scale, const void *bias, void *y, void *mean, void *inv) {
  FOR_FLOATS(type, launch(norm<T>, blocks_for(rows * WARP_LANES), BLOCK_THREADS, s, rows, size, epsilon, (const T *)x,
                          (const T *)scale, (const T *)bias, (T *)y, (T *)mean, (T *)inv))
}

/* With G = dY scale and H = (X - mean) inv: dX = inv (G - mean of G - H mean of G H); RMS leaves the mean of G out. */
template <class T>
GLOBAL void norm_grad(int64_t rows, int64_t n, const T *cotangent, const T *from, const T *scale, const T *mean,
                      const T *inv, T *to) {
  const int lanes = WARP_LANES;
  FOR_LINES(row, lane, lanes, rows) {
    const T *dy = cotangent + row * n, *x = from + row * n;
    T centre = mean ? mean[row] : 0, factor = inv[row];
    double sum = 0, dot = 0;
    for (int64_t i = lane; i < n; i += lanes) {
      sum += mean ? (double)(dy[i] * scale[i]) : 0;
      dot += (double)(dy[i] * scale[i]) * (double)((x[i] - centre) * factor);
    }
    T mean_g = (T)(sum_lanes(sum, lanes) / (double)n), mean_gh = (T)(sum_lanes(dot, lanes) / (double)n);
    for (int64_t i = lane; i < n; i += lanes)
      to[row * n + i] = factor * (dy[i] * scale[i] - mean_g - (x[i] - centre) * factor * mean_gh);
  }
}

void launch_norm_grad(cudaStream_t s, DType type, int64_t rows, int64_t size, const void *dy, const void *x,
                      const void *scale, const void *mean, const void *inv, void *dx){
    FOR_FLOATS(type, launch(norm_grad<T>, blocks_for(rows *WARP_LANES), BLOCK_THREADS, s, rows, size, (const T *)dy,
                            (const T *)x, (const T *)scale, (const T *)mean, (const T *)inv, (T *)dx))}

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

/* Ignored positions get the log_sum_exp too, so that no byte of an output is left unwritten. */
template <class T>
GLOBAL void cross_entropy(Classes c, Reporter reporter, int lanes, const T *logits, const void *target, T *log_sum_exp,
                          double *losses) {
  const Lines &l = c.lines;
  FOR_LINES(line, lane, lanes, l.outer * l.inner) {
    const T *x = logits + line_start(l, line);
    T most = largest(x, l, lane, lanes);
    double sum = sum_exp(x, most, l, lane, lanes);
    if (lane)
      continue;
    double all = l.size ? (double)most + log(sum) : 0;
    int64_t own = class_of(c, reporter, target, line);
    log_sum_exp[line] = (T)all;
    losses[line] = own < 0 ? 0 : all - (double)x[own * l.inner];
  }
}

void launch_cross_entropy(cudaStream_t s, DType type, const Classes *classes, Reporter reporter, const void *logits,
                          const void *target, void *log_sum_exp, double *losses) {
  FOR_FLOATS(type, launch(cross_entropy<T>, blocks_of(classes->lines), BLOCK_THREADS, s, *classes, reporter,
                          lanes_for(classes->lines), (const T *)logits, target, (T *)log_sum_exp, losses))
}

/* dLogits = scale (exp(logits - log_sum_exp) - one at the class), 0 where ignored. */
template <class T>
GLOBAL void cross_entropy_grad(Classes c, Reporter reporter, const T *logits, const void *target, const T *log_sum_exp,
                               const double *scale, T *dlogits) {
  const Lines &l = c.lines;
  T factor = (T)*scale;
  for (int64_t i = global_thread(); i < l.outer * l.size * l.inner; i += global_threads()) {
    int64_t line = i / (l.size * l.inner) * l.inner + i % l.inner, j = i / l.inner % l.size;
    int64_t own = class_of(c, reporter, target, line);
    dlogits[i] = own < 0 ? 0 : factor * (exp(logits[i] - log_sum_exp[line]) - (T)(j == own));
  }
}

void launch_cross_entropy_grad(cudaStream_t s, DType type, const Classes *classes, Reporter reporter,
                               const void *logits, const void *target, const void *log_sum_exp, const double *scale,
                               void *dlogits) {
  int64_t n = classes->lines.outer * classes->lines.size * classes->lines.inner;
  FOR_FLOATS(type, launch(cross_entropy_grad<T>, blocks_for(n), BLOCK_THREADS, s, *classes, reporter, (const T *)logits,
                          target, (const T *)log_sum_exp, scale, (T *)dlogits))
}
