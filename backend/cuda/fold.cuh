/* Reductions. Invariant: the order of a sum depends on the numbers of results and terms alone. A result's terms are cut
 * into chunks where there are many; the lanes of a group (a warp, or one thread) take a chunk's terms in turn, and add
 * up pairwise; a second round adds the chunks' sums. */
#ifndef BACKEND_CUDA_FOLD_CUH
#define BACKEND_CUDA_FOLD_CUH

#include "backend/cuda/fault.cuh"

constexpr int64_t LEAST_CHUNK = 64, CHUNKS = 1024, ENOUGH = 1 << 16;

/* Terms a chunk: all where the results alone keep the device busy. */
static int64_t chunk_of(int64_t results, int64_t count, int lanes) {
  int64_t least = (int64_t)LEAST_CHUNK * lanes, chunk = (count + CHUNKS - 1) / CHUNKS;
  if (results * lanes >= ENOUGH || count <= 2 * least)
    return count > 0 ? count : 1;
  return chunk < least ? least : chunk;
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

#endif
