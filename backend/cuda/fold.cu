/* The reductions that operators are. */
#include "backend/cuda/fold.cuh"

int64_t fold_partials(int64_t results, int64_t count, bool along) {
  int64_t chunk = chunk_of(results, count, along ? WARP_LANES : 1), chunks = (count + chunk - 1) / chunk;
  return chunks > 1 ? results * chunks : 0;
}

template <class T> struct Element {
  const T *x;
  Steps kept, reduced;
  DEVICE T operator()(int64_t r, int64_t k) const { return x[step_offset(kept, 0, r) + step_offset(reduced, 0, k)]; }
};

template <class T>
static void reduce(cudaStream_t s, Reduction reduction, const Steps *kept, const Steps *reduced, bool along, const T *x,
                   T *y, void *partial) {
  Element<T> term = {x, *kept, *reduced};
  Divide<T> finish = {y, reduction == REDUCTION_MEAN ? (double)reduced->n : 1};
  typedef typename std::conditional<std::is_floating_point<T>::value, double, int64_t>::type Wide;
  typedef typename std::conditional<std::is_floating_point<T>::value, Adding, Wrapping>::type Sum;
  if (reduction == REDUCTION_MAX)
    run_fold<Largest<T, Wide>>(s, term, finish, kept->n, reduced->n, along, partial);
  else
    run_fold<Sum>(s, term, finish, kept->n, reduced->n, along, partial);
}

void launch_reduce(cudaStream_t s, Reduction reduction, DType type, const Steps *kept, const Steps *reduced, bool along,
                   const void *x, void *y, void *partial) {
  FOR_NUMBERS(type, reduce<T>(s, reduction, kept, reduced, along, (const T *)x, (T *)y, partial))
}

template <class T> struct ScaleTerm {
  int64_t columns;
  const T *dy, *x, *mean, *inv;
  DEVICE double operator()(int64_t column, int64_t row) const {
    int64_t at = row * columns + column;
    return (double)dy[at] * (double)((x[at] - (mean ? mean[row] : 0)) * inv[row]);
  }
};

void launch_scale_grad(cudaStream_t s, DType type, int64_t rows, int64_t columns, const void *dy, const void *x,
                       const void *mean, const void *inv, void *y, void *partial) {
  FOR_FLOATS(type,
             run_fold<Adding>(s, (ScaleTerm<T>{columns, (const T *)dy, (const T *)x, (const T *)mean, (const T *)inv}),
                              (Divide<T>{(T *)y, 1}), columns, rows, false, partial))
}

template <class T> struct LossTerm {
  bool squares;
  const T *x, *z;
  DEVICE double operator()(int64_t r, int64_t i) const {
    (void)r;
    if (squares)
      return ((double)x[i] - (double)z[i]) * ((double)x[i] - (double)z[i]);
    return (double)((x[i] > 0 ? x[i] : 0) - x[i] * z[i] + log1p(exp(-fabs(x[i]))));
  }
};

struct CountTerm {
  DType type;
  const void *target;
  int64_t ignored;
  DEVICE double operator()(int64_t r, int64_t i) const {
    (void)r;
    return index_at(type, target, i) != ignored;
  }
};

void launch_count(cudaStream_t s, DType type, int64_t n, int64_t ignored, const void *target, double *y,
                  void *partial) {
  run_fold<Adding>(s, CountTerm{type, target, ignored}, Divide<double>{y, 1}, 1, n, true, partial);
}

template <class T>
static void sum_loss(cudaStream_t s, PairedLoss loss, int64_t n, const T *x, const T *z, double *y, void *partial) {
  run_fold<Adding>(s, LossTerm<T>{loss == LOSS_SQUARES, x, z}, Divide<double>{y, 1}, 1, n, true, partial);
}

void launch_loss(cudaStream_t s, PairedLoss loss, DType type, int64_t n, const void *x, const void *z, double *y,
                 void *partial) {
  FOR_FLOATS(type, sum_loss<T>(s, loss, n, (const T *)x, (const T *)z, y, partial))
}

struct NumberTerm {
  const double *x;
  DEVICE double operator()(int64_t r, int64_t i) const {
    (void)r;
    return x[i];
  }
};

void launch_sum(cudaStream_t s, int64_t n, const double *x, double *y, void *partial) {
  run_fold<Adding>(s, NumberTerm{x}, Divide<double>{y, 1}, 1, n, true, partial);
}
