/* Running sums and products along lines, a line a thread. */
#include "backend/cuda/steps.cuh"

/* A line's elements in the order in which they are met. */
struct Way {
  int64_t first, step;
};

DEVICE Way way_of(const Lines &l, bool reverse, int64_t line) {
  int64_t at = line / l.inner * l.size * l.inner + line % l.inner;
  return reverse ? Way{at + (l.size - 1) * l.inner, -l.inner} : Way{at, l.inner};
}

template <class T> GLOBAL void run_on(Running running, Lines l, bool exclusive, bool reverse, const T *x, T *y) {
  for (int64_t line = global_thread(); line < l.outer * l.inner; line += global_threads()) {
    Way way = way_of(l, reverse, line);
    WideOf<T> all = running == RUNNING_PRODUCT;
    for (int64_t i = 0, at = way.first; i < l.size; i++, at += way.step) {
      WideOf<T> before = all;
      all = running == RUNNING_PRODUCT ? all * (WideOf<T>)x[at] : all + (WideOf<T>)x[at];
      y[at] = (T)(exclusive ? before : all);
    }
  }
}

void launch_running(cudaStream_t s, Running running, DType type, Lines lines, bool exclusive, bool reverse,
                    const void *x, void *y) {
  FOR_NUMBERS(type, launch(run_on<T>, blocks_for(lines.outer * lines.inner), BLOCK_THREADS, s, running, lines,
                           exclusive, reverse, (const T *)x, (T *)y))
}

/* dX_i = (product of all before i) S_i, where S_i = dY_i + X_{i+1} S_{i+1}; exclusive: S_i = dY_{i+1} + X_{i+1}
 * S_{i+1}. Forwards the products, then backwards the sums. */
template <class T> GLOBAL void product_grad(Lines l, bool exclusive, bool reverse, const T *dy, const T *x, T *dx) {
  for (int64_t line = global_thread(); line < l.outer * l.inner; line += global_threads()) {
    Way way = way_of(l, reverse, line);
    double product = 1, sum = 0;
    for (int64_t i = 0, at = way.first; i < l.size; i++, at += way.step) {
      dx[at] = (T)product;
      product *= (double)x[at];
    }
    for (int64_t i = l.size - 1; i >= 0; i--) {
      int64_t at = way.first + i * way.step;
      double own = (double)dy[at], after = exclusive ? sum : sum + own;
      dx[at] = (T)((double)dx[at] * after);
      sum = (double)x[at] * after + (exclusive ? own : 0);
    }
  }
}

void launch_product_grad(cudaStream_t s, DType type, Lines lines, bool exclusive, bool reverse, const void *dy,
                         const void *x, void *dx) {
  FOR_FLOATS(type, launch(product_grad<T>, blocks_for(lines.outer * lines.inner), BLOCK_THREADS, s, lines, exclusive,
                          reverse, (const T *)dy, (const T *)x, (T *)dx))
}
