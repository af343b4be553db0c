/* Accumulation, squared norms and optimizer updates. Invariant: a parameter is cut into runs of elements, of which each
 * thread of a block takes packs in turn; so the order of a sum depends on the number of elements alone, and elements
 * whose rows were never looked up count as zeros. */
#include "backend/cuda/parameter.cuh"

constexpr int RUN = 16384; /* elements of a block */

template <class T, class S> GLOBAL void accumulate(int64_t n, const S *term, T *sum) {
  constexpr int N = PACKED<T>;
  for (int64_t at = global_thread() * N; at < n; at += global_threads() * N) {
    int count = n - at < N ? (int)(n - at) : N;
    Pack<S, N> x = read_pack<S, N>(term + at, count);
    Pack<T, N> y = read_pack<T, N>(sum + at, count);
    for (int i = 0; i < N; i++)
      y.at[i] += (T)x.at[i];
    write_pack<T, N>(sum + at, y, (1u << count) - 1);
  }
}

void launch_accumulate(cudaStream_t s, DType type, DType term_type, int64_t n, const void *term, void *sum) {
  if (term_type == BF16)
    launch(accumulate<float, Bfloat>, blocks_for((n + 3) / 4), BLOCK_THREADS, s, n, (const Bfloat *)term, (float *)sum);
  else
    FOR_FLOATS(type, launch(accumulate<T, T>, blocks_for((n + PACKED<T> - 1) / PACKED<T>), BLOCK_THREADS, s, n,
                            (const T *)term, (T *)sum))
}

/* ---- parts of a parameter ---- */

static int packed(const ParameterWork *w) {
  return 16 / (int)dtype_bytes(w->type);
}

/* 0: no rows; else what packs of a row may be. */
static int width_of(const ParameterWork *w) {
  return !w->lookups ? 0 : w->row % packed(w) ? 1 : packed(w);
}

int parameter_class(const ParameterWork *w) {
  return ((int)w->kind * DTYPE_COUNT + (int)w->type) * 8 + width_of(w);
}

int64_t parameter_parts(Parts parts, const ParameterWork *w) {
  switch (parts) {
  case PARTS_OF_SORT:
    return (w->lookups + SORT_TILE - 1) / SORT_TILE;
  case PARTS_OF_LOOKUPS:
    return w->lookups ? (w->lookups * (w->row / width_of(w)) + BLOCK_THREADS - 1) / BLOCK_THREADS : 0;
  default:
    return w->elements > RUN ? (w->elements + RUN - 1) / RUN : 1;
  }
}

void parameter_sorts(ParameterWork *w, uint64_t *keys) {
  int merges = 0;
  for (int64_t width = SORT_TILE; width < w->lookups; width *= 2)
    merges++;
  w->number_bits = bits_for(w->lookups);
  w->keys = keys;
  w->sorted = keys + (merges % 2 ? w->lookups : 0);
}

/* ---- norms ---- */

/* The number of one run, or where it is to be added to others'. WIDTH: of rows
 * that some groups have; 0: none. */
template <class T, int WIDTH> GLOBAL void norm_runs(Table t) {
  constexpr int N = PACKED<T>;
  SHARED ParameterWork w;
  SHARED int64_t range[2];
  SHARED double sums[BLOCK_THREADS / WARP_LANES];
  int64_t run = take_parameter(t, &w), first = run * RUN, end = first + RUN < w.elements ? first + RUN : w.elements;
  Sorted s = {};
  double total = 0;
  if (WIDTH && first < end)
    s = lookups_between(w, first, end, range);
  constexpr int STEP = BLOCK_THREADS * N;
  if (!WIDTH || w.has_whole || s.begin < s.end)
    for (int64_t at = first + thread_index() * N; at < end; at += 2 * STEP) {
      Pack<T, N> g[2] = {}; /* read together */
      for (int k = 0; k < 2; k++)
        if (int64_t own = at + k * STEP; own < end) {
          int count = end - own < N ? (int)(end - own) : N;
          if constexpr (WIDTH > 0)
            g[k] = sparse_gradient<T, N, WIDTH>(w, s, own, count);
          else
            g[k] = dense_gradient<T, N>(w, own, count);
        }
      for (int k = 0; k < 2; k++)
        for (int i = 0; i < N; i++)
          total += (double)g[k].at[i] * (double)g[k].at[i];
    }
  total = sum_lanes(total, WARP_LANES);
  if (thread_index() % WARP_LANES == 0)
    sums[thread_index() / WARP_LANES] = total;
  barrier();
  if (thread_index() == 0) {
    for (int i = 1; i < BLOCK_THREADS / WARP_LANES; i++)
      total += sums[i];
    (w.elements > RUN ? w.partial + run : w.y)[0] = total;
  }
}

/* A block a parameter that has several runs. */
GLOBAL void norm_totals(Table t) {
  SHARED ParameterWork w;
  SHARED double sums[BLOCK_THREADS / WARP_LANES];
  take_parameter(t, &w);
  int64_t runs = (w.elements + RUN - 1) / RUN;
  double total = 0;
  for (int64_t run = thread_index(); runs > 1 && run < runs; run += BLOCK_THREADS)
    total += w.partial[run];
  total = sum_lanes(total, WARP_LANES);
  if (thread_index() % WARP_LANES == 0)
    sums[thread_index() / WARP_LANES] = total;
  barrier();
  if (thread_index() == 0 && runs > 1) {
    for (int i = 1; i < BLOCK_THREADS / WARP_LANES; i++)
      total += sums[i];
    w.y[0] = total;
  }
}

static void launch_totals(cudaStream_t s, const Parameters &p) {
  Table table = table_of(p, PARTS_OF_ELEMENTS);
  bool wanted = false;
  table.parts = NULL;
  for (int i = 0; i < p.n; i++)
    wanted |= p.works[i].elements > RUN;
  if (wanted)
    launch(norm_totals, p.n, BLOCK_THREADS, s, table);
}

/* ---- updates ---- */

template <class T, int N> DEVICE bool are_zeros(const Pack<T, N> &pack) {
  bool zeros = true;
  for (int i = 0; i < N; i++)
    zeros &= pack.at[i] == 0 && !signbit(pack.at[i]);
  return zeros;
}

/* Elements from `at` on of a parameter, and what they round to. */
template <class T, int N>
DEVICE void write_parameter(const ParameterWork &w, int64_t at, const Pack<T, N> &x, unsigned which) {
  write_pack((T *)w.parameter + at, x, which);
  if (!w.rounded)
    return;
  Pack<Bfloat, N> narrow;
  for (int i = 0; i < N; i++)
    narrow.at[i] = Bfloat((float)x.at[i]);
  write_pack((Bfloat *)w.rounded + at, narrow, which);
}

/* Of a parameter, but for rows of it that were looked up. Where some groups have rows and none an accumulator, states
 * stay as they are where nothing was ever looked up. */
template <class Rule, int WIDTH> GLOBAL void update_runs(Table t) {
  typedef typename Rule::T T;
  constexpr int N = PACKED<T>;
  SHARED ParameterWork w;
  SHARED int64_t range[2];
  int64_t first = take_parameter(t, &w) * RUN, end = first + RUN < w.elements ? first + RUN : w.elements;
  const Rule rule(w);
  T factor = (T)w.scalars[SCALAR_GRADIENT_FACTOR], kept = 1;
  Sorted s = {};
  bool rests = false;
  if constexpr (WIDTH > 0) {
    if (first < end)
      s = lookups_between(w, first, end, range);
    rests = rule.rests(&kept) && !w.has_whole && factor * 0 == 0;
  }
  for (int64_t at = first + thread_index() * N; at < end; at += BLOCK_THREADS * N) {
    int count = end - at < N ? (int)(end - at) : N;
    unsigned which = (1u << count) - 1;
    T *parameter = (T *)w.parameter + at, *momentum = (T *)w.momentum + at, *variance = (T *)w.variance + at;
    if constexpr (WIDTH > 0)
      if (s.begin < s.end && !(which = untouched<N, WIDTH>(w, s, at, count)))
        continue;
    Pack<T, N> x = read_pack<T, N>(parameter, count), m = {}, v = {}, g;
    if (Rule::STATES > 0)
      m = read_pack<T, N>(momentum, count);
    if (Rule::STATES > 1)
      v = read_pack<T, N>(variance, count);
    g = dense_gradient<T, N>(w, at, count);
    if (rests && are_zeros(m) && are_zeros(v)) {
      for (int i = 0; i < N; i++)
        x.at[i] *= kept;
      if (kept != 1)
        write_parameter(w, at, x, which);
      continue;
    }
    for (int i = 0; i < N; i++)
      rule.step(g.at[i] * factor, x.at[i], m.at[i], v.at[i]);
    write_parameter(w, at, x, which);
    if (Rule::STATES > 0)
      write_pack(momentum, m, which);
    if (Rule::STATES > 1)
      write_pack(variance, v, which);
  }
}

/* Elements at … at + N - 1 of a row whose lookups begin at key k. */
template <class Rule, int N>
DEVICE void update_in_row(const ParameterWork &w, const Sorted &s, uint64_t row, int64_t at, int64_t k) {
  typedef typename Rule::T T;
  const Rule rule(w);
  T *parameter = (T *)w.parameter + at, *momentum = (T *)w.momentum + at, *variance = (T *)w.variance + at;
  Pack<T, N> g, x = read_pack<T, N>(parameter, N), m = {}, v = {};
  T factor = (T)w.scalars[SCALAR_GRADIENT_FACTOR];
  if (Rule::STATES > 0)
    m = read_pack<T, N>(momentum, N);
  if (Rule::STATES > 1)
    v = read_pack<T, N>(variance, N);
  gradient_of_row<T, N>(w, s, row, at, k, g.at);
  for (int i = 0; i < N; i++)
    rule.step(g.at[i] * factor, x.at[i], m.at[i], v.at[i]);
  write_parameter(w, at, x, (1u << N) - 1);
  if (Rule::STATES > 0)
    write_pack(momentum, m, (1u << N) - 1);
  if (Rule::STATES > 1)
    write_pack(variance, v, (1u << N) - 1);
}

/* Of the rows that were looked up: a thread takes a pack of a row, and there is work for one at the row's first lookup.
 */
template <class Rule, int WIDTH> GLOBAL void update_rows(Table t) {
  SHARED ParameterWork w;
  int64_t item = take_parameter(t, &w) * BLOCK_THREADS + thread_index();
  int64_t packs = w.row / WIDTH, k = packs ? quotient(item, packs) : w.lookups;
  if (k >= w.lookups || !begins_run(w.sorted, k, w.number_bits))
    return;
  Sorted s = {w.sorted, 0, w.lookups, w.number_bits};
  uint64_t row = w.sorted[k] >> w.number_bits;
  int64_t at = (int64_t)row * w.row + (item - k * packs) * WIDTH;
  if (row < (uint64_t)w.rows)
    update_in_row<Rule, WIDTH>(w, s, row, at, k);
}

/* ---- launches ---- */

typedef void Kernel(Table);
typedef struct {
  Kernel *runs, *rows; /* NULL: nothing is left to do */
} Kernels;

template <class Rule> static Kernels kernels_of(int width) {
  constexpr int N = PACKED<typename Rule::T>;
  return width == 0   ? Kernels{update_runs<Rule, 0>, NULL}
         : width == 1 ? Kernels{update_runs<Rule, 1>, update_rows<Rule, 1>}
                      : Kernels{update_runs<Rule, N>, update_rows<Rule, N>};
}

template <class Rule> static Kernels rows_alone(int width) {
  constexpr int N = PACKED<typename Rule::T>;
  return {NULL, width == 0 ? NULL : width == 1 ? update_rows<Rule, 1> : update_rows<Rule, N>};
}

template <class T> static Kernels kernels_for(ParameterKind kind, int width) {
  switch (kind) {
  case PARAMETER_SGD:
    return kernels_of<Sgd<T, 0>>(width);
  case PARAMETER_MOMENTUM:
    return kernels_of<Sgd<T, 1>>(width);
  case PARAMETER_ADAM:
    return kernels_of<Adam<T>>(width);
  case PARAMETER_SGD_ROWS:
    return rows_alone<Sgd<T, 0>>(width);
  case PARAMETER_SPARSE_ADAM_ROWS:
    return rows_alone<SparseAdam<T>>(width);
  default:
    return {width == 0 ? norm_runs<T, 0> : width == 1 ? norm_runs<T, 1> : norm_runs<T, PACKED<T>>, NULL};
  }
}

void launch_parameters(cudaStream_t s, const Parameters *p) {
  const ParameterWork *first = p->works;
  int width = width_of(first);
  Kernels kernels =
      first->type == F32 ? kernels_for<float>(first->kind, width) : kernels_for<double>(first->kind, width);
  if (width)
    launch_sort_lookups(s, p);
  if (kernels.rows)
    launch(kernels.rows, blocks_of(*p, PARTS_OF_LOOKUPS), BLOCK_THREADS, s, table_of(*p, PARTS_OF_LOOKUPS));
  if (kernels.runs)
    launch(kernels.runs, blocks_of(*p, PARTS_OF_ELEMENTS), BLOCK_THREADS, s, table_of(*p, PARTS_OF_ELEMENTS));
  if (first->kind == PARAMETER_NORM)
    launch_totals(s, *p);
}
