/* The reductions that operators are. */
#include "backend/cuda/fold.cuh"

int64_t fold_partials(int64_t results, int64_t count, bool along) {
  int64_t chunk = chunk_of(results, count, along), chunks = (count + chunk - 1) / chunk;
  return chunks > 1 ? results * chunks : 0;
}

/* LINE: the terms of a result are one loop. */
template <class T, bool LINE> struct Element {
  typedef Summed<T> Value;
  const T *x;
  Steps kept, reduced;
  DEVICE int64_t place(int64_t r) const { return step_offset(kept, 0, r); }
  template <int N> DEVICE void read(int64_t, int64_t place, int64_t k, Value *v) const {
    Computed<T> own[N];
    read_pack<N>(x + place + (LINE ? k * reduced.step[0][0] : step_offset(reduced, 0, k)), own);
    for (int i = 0; i < N; i++)
      v[i] = own[i];
  }
};

/* Whether packs of elements along these steps are whole and begin at multiples of their size. */
static bool in_packs(const Steps &inner, const Steps &outer) {
  int last = inner.rank - 1;
  bool whole = last >= 0 && inner.step[0][last] == 1 && inner.dim[last] % FOLD_WIDTH == 0;
  for (int i = 0; whole && i < last; i++)
    whole = inner.step[0][i] % FOLD_WIDTH == 0;
  for (int i = 0; whole && i < outer.rank; i++)
    whole = outer.step[0][i] % FOLD_WIDTH == 0;
  return whole;
}

template <class A, class T>
static void reduce(cudaStream_t s, double divisor, bool narrow, const Steps *kept, const Steps *reduced, bool along,
                   const void *x, void *y, void *partial) {
  Element<T, false> term = {(const T *)x, *kept, *reduced};
  Divide<Computed<T>> finish = {(Computed<T> *)y, divisor, narrow};
  int64_t results = kept->n, count = reduced->n;
  if constexpr (std::is_floating_point<Computed<T>>::value && sizeof(T) < 8) {
    Element<T, true> line = {(const T *)x, *kept, *reduced};
    bool is_line = reduced->rank == 1, lone = kept->n == 1 && is_line;
    if (along && (lone || (is_line && in_packs(*reduced, *kept)))) {
      run_fold<A, FOLD_WIDTH, true>(s, line, finish, results, count, partial);
      return;
    }
    if (!along && is_line && in_packs(*kept, *reduced)) {
      run_fold<A, FOLD_WIDTH, false>(s, line, finish, results, count, partial);
      return;
    }
  }
  if (along)
    run_fold<A, 1, true>(s, term, finish, results, count, partial);
  else
    run_fold<A, 1, false>(s, term, finish, results, count, partial);
}

void launch_reduce(cudaStream_t s, Reduction reduction, DType type, DType to, const Steps *kept, const Steps *reduced,
                   bool along, const void *x, void *y, void *partial) {
  double divisor = reduction == REDUCTION_MEAN ? (double)reduced->n : 1;
#define REDUCE(Sum, T)                                                                                                 \
  {                                                                                                                    \
    if (reduction == REDUCTION_MAX)                                                                                    \
      reduce<Largest<Computed<T>>, T>(s, 1, to == BF16, kept, reduced, along, x, y, partial);                          \
    else                                                                                                               \
      reduce<Sum, T>(s, divisor, to == BF16, kept, reduced, along, x, y, partial);                                     \
  }
  if (type == I64)
    REDUCE(Wrapping, int64_t)
  else if (type == I32)
    REDUCE(Wrapping, int32_t)
  else if (type == F64)
    REDUCE(Adding, double)
  else if (type == F32)
    REDUCE(Adding, float)
  else
    REDUCE(Adding, Bfloat)
#undef REDUCE
}

/* X - mean, times inv, of a row: of each column. */
template <class D, class X> struct ScaleTerm {
  typedef Computed<X> Value;
  int64_t columns;
  const D *dy;
  const X *x;
  const Value *mean, *inv;
  DEVICE int64_t place(int64_t column) const { return column; }
  template <int N> DEVICE void read(int64_t, int64_t place, int64_t row, Value *v) const {
    Value d[N], centre = mean ? mean[row] : 0, factor = inv[row];
    read_pack<N>(dy + row * columns + place, d);
    read_pack<N>(x + row * columns + place, v);
    for (int i = 0; i < N; i++)
      v[i] = d[i] * ((v[i] - centre) * factor);
  }
};

template <class D, class X>
static void scale_grad(cudaStream_t s, int64_t rows, int64_t columns, const void *dy, const void *x, const void *mean,
                       const void *inv, void *y, void *partial) {
  typedef Computed<X> C;
  ScaleTerm<D, X> term = {columns, (const D *)dy, (const X *)x, (const C *)mean, (const C *)inv};
  Divide<C> finish = {(C *)y, 1, false};
  if (columns % FOLD_WIDTH == 0)
    run_fold<Adding, sizeof(C) < 8 ? (int)FOLD_WIDTH : 1, false>(s, term, finish, columns, rows, partial);
  else
    run_fold<Adding, 1, false>(s, term, finish, columns, rows, partial);
}

void launch_scale_grad(cudaStream_t s, DType dy_type, DType x_type, int64_t rows, int64_t columns, const void *dy,
                       const void *x, const void *mean, const void *inv, void *y, void *partial) {
  if (x_type == F64)
    scale_grad<double, double>(s, rows, columns, dy, x, mean, inv, y, partial);
  else
    FOR_TWO_STORED(dy_type, x_type, (scale_grad<A, B>(s, rows, columns, dy, x, mean, inv, y, partial)))
}

/* ---- one sum of all elements ---- */

template <class A, class B> struct LossTerm {
  typedef Computed<A> Value;
  bool squares;
  const A *x;
  const B *z;
  DEVICE int64_t place(int64_t) const { return 0; }
  template <int N> DEVICE void read(int64_t, int64_t, int64_t at, Value *v) const {
    Value w[N];
    read_pack<N>(x + at, v);
    read_pack<N>(z + at, w);
    for (int i = 0; i < N; i++)
      v[i] = squares ? (v[i] - w[i]) * (v[i] - w[i])
                     : (v[i] > 0 ? v[i] : 0) - v[i] * w[i] + log1p(exp(v[i] < 0 ? v[i] : -v[i]));
  }
};

template <class A, class B>
static void sum_loss(cudaStream_t s, PairedLoss loss, int64_t n, const void *x, const void *z, double *y,
                     void *partial) {
  LossTerm<A, B> term = {loss == LOSS_SQUARES, (const A *)x, (const B *)z};
  run_fold<Adding, sizeof(Computed<A>) < 8 ? (int)FOLD_WIDTH : 1, true>(s, term, Divide<double>{y, 1, false}, 1, n,
                                                                        partial);
}

void launch_loss(cudaStream_t s, PairedLoss loss, DType x_type, DType z_type, int64_t n, const void *x, const void *z,
                 double *y, void *partial) {
  if (x_type == F64)
    sum_loss<double, double>(s, loss, n, x, z, y, partial);
  else
    FOR_TWO_STORED(x_type, z_type, (sum_loss<A, B>(s, loss, n, x, z, y, partial)))
}

struct CountTerm {
  typedef double Value;
  DType type;
  const void *target;
  int64_t ignored;
  DEVICE int64_t place(int64_t) const { return 0; }
  template <int N> DEVICE void read(int64_t, int64_t, int64_t at, double *v) const {
    v[0] = index_at(type, target, at) != ignored;
  }
};

void launch_count(cudaStream_t s, DType type, int64_t n, int64_t ignored, const void *target, double *y,
                  void *partial) {
  run_fold<Adding, 1, true>(s, CountTerm{type, target, ignored}, Divide<double>{y, 1, false}, 1, n, partial);
}

struct NumberTerm {
  typedef double Value;
  const double *x;
  DEVICE int64_t place(int64_t) const { return 0; }
  template <int N> DEVICE void read(int64_t, int64_t, int64_t at, double *v) const { v[0] = x[at]; }
};

void launch_sum(cudaStream_t s, int64_t n, const double *x, double *y, void *partial) {
  run_fold<Adding, 1, true>(s, NumberTerm{x}, Divide<double>{y, 1, false}, 1, n, partial);
}
