/* Reductions. Invariant: the order of a sum depends on shapes alone. A result's terms are cut into chunks where the
 * results are too few to keep the device busy; a second round adds the chunks' sums. Threads add a few terms in the
 * terms' own type, and what they have of these, and each other's, in a wider one.
 *
 * A Term has its type, Value; place(r), where those of result r begin; and read(r, place, k, v), which gives N of them:
 * terms k … k+N-1 of result r (ALONG), or term k of results r … r+N-1. */
#ifndef BACKEND_CUDA_FOLD_CUH
#define BACKEND_CUDA_FOLD_CUH

#include "backend/cuda/bfloat.cuh"
#include "backend/cuda/fault.cuh"

enum {
  FOLD_WIDTH = 8,  /* terms, or results, that lie side by side in one access */
  AT_ONCE = 4,     /* accesses between two additions to the wide sum */
  TILE_LANES = 32, /* threads side by side, over neighbouring results */
  MOST_WARPS = BLOCK_THREADS / WARP_LANES
};
constexpr int64_t SHORT = 1024, LEAST_CHUNK = 8192, CHUNKS = 1024, TILE_COLUMNS = TILE_LANES * FOLD_WIDTH, TILES = 512,
                  LEAST_SLAB = 32;

/* Terms a chunk: all where the results alone keep the device busy. */
static inline int64_t chunk_of(int64_t results, int64_t count, bool along) {
  int64_t chunks, least;
  if (along) {
    chunks = results ? (CHUNKS + results - 1) / results : 1;
    least = LEAST_CHUNK;
  } else {
    int64_t tiles = (results + TILE_COLUMNS - 1) / TILE_COLUMNS;
    chunks = tiles ? (TILES + tiles - 1) / tiles : 1;
    least = LEAST_SLAB;
  }
  int64_t chunk = (count + chunks - 1) / chunks;
  chunk = (chunk + least - 1) / least * least;
  return count <= 2 * least || chunk >= count ? (count > 0 ? count : 1) : chunk;
}

/* What accumulates: terms as a Part, and these in eight bytes, whatever the terms are. */
struct Adding {
  typedef double Total;
  template <class V> using Part = V;
  template <class V> static DEVICE V none() { return 0; }
  template <class V> static DEVICE V join(V a, V b) { return a + b; }
};

struct Wrapping {
  typedef uint64_t Total;
  template <class V> using Part = uint64_t;
  template <class V> static DEVICE V none() { return 0; }
  template <class V> static DEVICE V join(V a, V b) { return a + b; }
};

template <class T> struct Largest {
  typedef T Total;
  template <class V> using Part = T;
  template <class V> static DEVICE V none() {
    if constexpr (std::is_floating_point<T>::value)
      return -(T)INFINITY;
    else
      return (T)((uint64_t)1 << (8 * sizeof(T) - 1)); /* the least of T */
  }
  template <class V> static DEVICE V join(V a, V b) { return b > a || b != b ? b : a; }
};

/* N of them, pairwise. */
template <class A, int N, class P, class V> DEVICE P join_all(const V *v) {
  if constexpr (N == 1)
    return (P)v[0];
  else
    return A::join(join_all<A, N / 2, P>(v), join_all<A, N / 2, P>(v + N / 2));
}

/* Over neighbouring lanes, a power of two of them: the same in each. The lower lane's first: a maximum of NaNs is one
 * of them. */
template <class A, class P> DEVICE P join_lanes(P own, int lanes) {
  for (int half = lanes / 2; half; half /= 2) {
    P other = shuffle_xor(own, half);
    own = thread_index() & half ? A::join(other, own) : A::join(own, other);
  }
  return own;
}

/* Over a warp's lanes, or a block's. */
template <class A, class P> DEVICE P join_group(P own, int lanes) {
  SHARED P part[MOST_WARPS];
  own = join_lanes<A>(own, lanes < WARP_LANES ? lanes : (int)WARP_LANES);
  if (lanes <= WARP_LANES)
    return own;
  if (thread_index() % WARP_LANES == 0)
    part[thread_index() / WARP_LANES] = own;
  barrier();
  own = part[0];
  for (int i = 1; i < MOST_WARPS; i++)
    own = A::join(own, part[i]);
  barrier();
  return own;
}

/* A group of lanes (a warp, or a block) a result and chunk. */
template <class A, int WIDTH, class Term, class Finish>
GLOBAL void fold_along(Term term, Finish finish, int64_t results, int64_t count, int64_t chunk, int lanes) {
  typedef typename Term::Value V;
  typedef typename A::template Part<V> P;
  typedef typename A::Total Total;
  int64_t chunks = (count + chunk - 1) / chunk, groups = results * (chunks ? chunks : 1);
  int lane = thread_index() % lanes;
  for (int64_t g = global_thread() / lanes; g < groups; g += global_threads() / lanes) {
    int64_t r = chunks > 1 ? g % results : g, first = chunks > 1 ? g / results * chunk : 0;
    int64_t end = first + chunk < count ? first + chunk : count;
    int64_t place = term.place(r), whole = end - (end - first) % WIDTH;
    Total total = A::template none<Total>();
    V v[WIDTH];
    UNROLL_BY(4)
    for (int64_t k = first + lane * WIDTH; k < whole; k += lanes * WIDTH) {
      term.template read<WIDTH>(r, place, k, v);
      total = A::join(total, (Total)join_all<A, WIDTH, P>(v));
    }
    if (WIDTH > 1 && whole + lane < end) {
      term.template read<1>(r, place, whole + lane, v);
      total = A::join(total, (Total)(P)v[0]);
    }
    total = join_group<A>(total, lanes);
    if (lane == 0)
      finish(g, r, total);
  }
}

/* A tile of neighbouring results and a chunk of their terms a block: `across` threads side by side, below each other
 * the others. */
template <class A, int WIDTH, class Term, class Finish>
GLOBAL void fold_across(Term term, Finish finish, int64_t results, int64_t count, int64_t chunk, int across) {
  typedef typename Term::Value V;
  typedef typename A::template Part<V> P;
  typedef typename A::Total Total;
  SHARED Total below[WIDTH * (BLOCK_THREADS + 1)];
  int64_t tiles = (results + across * WIDTH - 1) / (across * WIDTH), chunks = (count + chunk - 1) / chunk;
  int x = thread_index() % across, y = thread_index() / across, rows = BLOCK_THREADS / across;
  for (int64_t t = block_index(); t < tiles * (chunks ? chunks : 1); t += grid_size()) {
    int64_t left = t % tiles * across * WIDTH, r = left + x * WIDTH, first = t / tiles * chunk;
    int64_t end = first + chunk < count ? first + chunk : count;
    Total total[WIDTH];
    for (int j = 0; j < WIDTH; j++)
      total[j] = A::template none<Total>();
    if (r < results) {
      int64_t place = term.place(r);
      for (int64_t k = first + y; k < end; k += AT_ONCE * rows) {
        V v[AT_ONCE][WIDTH];
        P part[WIDTH];
        for (int i = 0; i < AT_ONCE; i++)
          if (k + i * rows < end)
            term.template read<WIDTH>(r, place, k + i * rows, v[i]);
        for (int j = 0; j < WIDTH; j++)
          part[j] = A::template none<P>();
        for (int i = 0; i < AT_ONCE; i++)
          for (int j = 0; j < WIDTH; j++)
            if (k + i * rows < end)
              part[j] = A::join(part[j], (P)v[i][j]);
        for (int j = 0; j < WIDTH; j++)
          total[j] = A::join(total[j], (Total)part[j]);
      }
    }
    for (int j = 0; j < WIDTH; j++)
      below[j * (BLOCK_THREADS + 1) + thread_index()] = total[j];
    barrier();
    for (int own = thread_index(); own < across * WIDTH; own += BLOCK_THREADS)
      if (left + own < results) {
        const Total *from = below + own % WIDTH * (BLOCK_THREADS + 1) + own / WIDTH;
        Total all = from[0];
        for (int i = 1; i < rows; i++)
          all = A::join(all, from[i * across]);
        finish(t / tiles * results + left + own, left + own, all);
      }
    barrier();
  }
}

/* Sums of earlier chunks: term c of result r. */
template <class A> struct Partials {
  typedef typename A::Total Value;
  const Value *partial;
  int64_t results;
  DEVICE int64_t place(int64_t r) const { return r; }
  template <int N> DEVICE void read(int64_t, int64_t place, int64_t c, Value *v) const {
    v[0] = partial[c * results + place];
  }
};

template <class Total> struct Store {
  Total *partial;
  DEVICE void operator()(int64_t g, int64_t, Total total) const { partial[g] = total; }
};

/* narrow: results are bfloat16. */
template <class T> struct Divide {
  T *y;
  double divisor;
  bool narrow;
  template <class Total> DEVICE void operator()(int64_t, int64_t r, Total total) const {
    if constexpr (std::is_integral<T>::value)
      y[r] = (T)total;
    else if (narrow)
      ((Bfloat *)y)[r] = Bfloat((float)((double)total / divisor));
    else
      y[r] = (T)((double)total / divisor);
  }
};

/* Results' terms lie side by side; WIDTH of them from each multiple of it on, but for a lone result's last ones. */
template <class A, int WIDTH, class Term, class Finish>
static void launch_along(cudaStream_t s, Term term, Finish finish, int64_t results, int64_t count, int64_t chunk) {
  int64_t chunks = count > chunk ? (count + chunk - 1) / chunk : 1;
  int lanes = count <= SHORT ? (int)WARP_LANES : (int)BLOCK_THREADS;
  launch(fold_along<A, WIDTH, Term, Finish>, blocks_for(results * chunks * lanes), BLOCK_THREADS, s, term, finish,
         results, count, chunk, lanes);
}

/* Neighbouring results' terms do. */
template <class A, int WIDTH, class Term, class Finish>
static void launch_across(cudaStream_t s, Term term, Finish finish, int64_t results, int64_t count, int64_t chunk) {
  int across = 1;
  while (across < TILE_LANES && across * WIDTH < results)
    across *= 2;
  int64_t chunks = count > chunk ? (count + chunk - 1) / chunk : 1;
  int64_t tiles = (results + across * WIDTH - 1) / (across * WIDTH) * chunks;
  launch(fold_across<A, WIDTH, Term, Finish>, tiles < MOST_BLOCKS ? tiles : MOST_BLOCKS, BLOCK_THREADS, s, term, finish,
         results, count, chunk, across);
}

/* partial: room for fold_partials() numbers of eight bytes. */
template <class A, int WIDTH, bool ALONG, class Term, class Finish>
static void run_fold(cudaStream_t s, Term term, Finish finish, int64_t results, int64_t count, void *partial) {
  typedef typename A::Total Total;
  int64_t chunk = chunk_of(results, count, ALONG), chunks = (count + chunk - 1) / chunk;
  auto once = [&](auto end) {
    if constexpr (ALONG)
      launch_along<A, WIDTH>(s, term, end, results, count, chunk);
    else
      launch_across<A, WIDTH>(s, term, end, results, count, chunk);
  };
  if (chunks <= 1) {
    once(finish);
    return;
  }
  once(Store<Total>{(Total *)partial});
  launch_across<A, 1>(s, Partials<A>{(const Total *)partial, results}, finish, results, chunks, chunks);
}

#endif
