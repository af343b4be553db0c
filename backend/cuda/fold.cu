/* Reductions. Invariant: the order of a sum depends on the numbers of results and terms alone. A result's terms are cut
 * into chunks where there are many; the lanes of a group (a warp, or one thread) take a chunk's terms in turn, and add
 * up pairwise; a second round adds the chunks' sums. */
#include "backend/cuda/fault.cuh"

constexpr int64_t LEAST_CHUNK = 64, CHUNKS = 1024, ENOUGH = 1 << 16;

/* Terms a chunk: all where the results alone keep the device busy. */
static int64_t chunk_of(int64_t results, int64_t count, int lanes) {
  int64_t least = (int64_t)LEAST_CHUNK * lanes, chunk = (count + CHUNKS - 1) / CHUNKS;
  if (results * lanes >= ENOUGH || count <= 2 * least)
    return count > 0 ? count : 1;
  return chunk < least ? least : chunk;
}

int64_t fold_partials(int64_t results, int64_t count, bool along) {
  int64_t chunk = chunk_of(results, count, along ? WARP_LANES : 1), chunks = (count + chunk - 1) / chunk;
  return chunks > 1 ? results * chunks : 0;
}

/* What accumulates: in eight bytes, whatever the terms are. */
struct Adding {
  typedef double Total;
  DEVICE double start() const { return 0; }
  DEVICE double join(double a, double b) const { return a + b; }
};

struct Wrapping {
  typedef uint64_t Total;
  DEVICE uint64_t start() const { return 0; }
  DEVICE uint64_t join(uint64_t a, uint64_t b) const { return a + b; }
};

template <class T, class Wide> struct Largest {
  typedef Wide Total;
  DEVICE Wide start() const {
    if constexpr (std::is_floating_point<Wide>::value)
      return -(Wide)INFINITY;
    else
      return (Wide)(T)((uint64_t)1 << (8 * sizeof(T) - 1)); /* the least of T */
  }
  DEVICE Wide join(Wide a, Wide b) const { return b > a || b != b ? b : a; }
};

/* Sums of earlier chunks: term c of result r. */
template <class A> struct Partials {
  const typename A::Total *partial;
  int64_t results;
  DEVICE typename A::Total operator()(int64_t r, int64_t c) const { return partial[c * results + r]; }
};

/* A group of lanes a result and chunk. */
template <class A, class Term, class Finish>
GLOBAL void fold(Term term, Finish finish, int64_t results, int64_t count, int64_t chunk, int lanes) {
  const A a = A();
  int64_t chunks = (count + chunk - 1) / chunk, groups = results * (chunks ? chunks : 1);
  int lane = thread_index() % lanes;
  for (int64_t g = global_thread() / lanes; g < groups; g += global_threads() / lanes) {
    int64_t r = g % results, first = g / results * chunk, end = first + chunk < count ? first + chunk : count;
    typename A::Total total = a.start();
    for (int64_t k = first + lane; k < end; k += lanes)
      total = a.join(total, (typename A::Total)term(r, k));
    for (int half = lanes / 2; half;
         half /= 2) { /* the lower lane's first, in both: a maximum of NaNs is one of them */
      typename A::Total other = shuffle_xor(total, half);
      total = lane & half ? a.join(other, total) : a.join(total, other);
    }
    if (lane == 0)
      finish(g, r, total);
  }
}

template <class Total> struct Store {
  Total *partial;
  DEVICE void operator()(int64_t g, int64_t r, Total total) const {
    (void)r;
    partial[g] = total;
  }
};

template <class T> struct Divide {
  T *y;
  double divisor;
  template <class Total> DEVICE void operator()(int64_t g, int64_t r, Total total) const {
    (void)g;
    if constexpr (std::is_floating_point<T>::value)
      y[r] = (T)(total / divisor);
    else
      y[r] = (T)total;
  }
};

template <class A, class Term, class Finish>
static void run_fold(cudaStream_t s, Term term, Finish finish, int64_t results, int64_t count, bool along,
                     void *partial) {
  typedef typename A::Total Total;
  int lanes = along ? WARP_LANES : 1;
  int64_t chunk = chunk_of(results, count, lanes), chunks = (count + chunk - 1) / chunk;
  if (chunks <= 1) {
    launch(fold<A, Term, Finish>, blocks_for(results * lanes), BLOCK_THREADS, s, term, finish, results, count, chunk,
           lanes);
    return;
  }
  Store<Total> store = {(Total *)partial};
  Partials<A> partials = {(const Total *)partial, results};
  launch(fold<A, Term, Store<Total>>, blocks_for(results * chunks * lanes), BLOCK_THREADS, s, term, store, results,
         count, chunk, lanes);
  lanes = results >= ENOUGH / WARP_LANES ? 1 : (int)WARP_LANES;
  launch(fold<A, Partials<A>, Finish>, blocks_for(results * lanes), BLOCK_THREADS, s, partials, finish, results, chunks,
         chunks, lanes);
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

/* The square of the sum of the groups' elements, added from the left in their type. */
template <class T> struct SquareTerm {
  int n_groups;
  const T *groups[MOST_GROUPS];
  DEVICE double operator()(int64_t r, int64_t i) const {
    (void)r;
    T sum = groups[0][i];
    for (int k = 1; k < n_groups; k++)
      sum += groups[k][i];
    return (double)sum * (double)sum;
  }
};

template <class T>
static void squared_norm(cudaStream_t s, int64_t n, int n_groups, const void *const *groups, double *y, void *partial) {
  SquareTerm<T> term = {n_groups, {}};
  for (int k = 0; k < n_groups; k++)
    term.groups[k] = (const T *)groups[k];
  run_fold<Adding>(s, term, Divide<double>{y, 1}, 1, n, true, partial);
}

void launch_squared_norm(cudaStream_t s, DType type, int64_t n, int n_groups, const void *const *groups, double *y,
                         void *partial) {
  FOR_FLOATS(type, squared_norm<T>(s, n, n_groups, groups, y, partial))
}
