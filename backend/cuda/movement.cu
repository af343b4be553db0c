/* Kernels that move elements, by element size: types do not matter. */
#include "backend/cuda/steps.cuh"

/* Sixteen bytes that lie side by side in source and target. */
struct alignas(16) Sixteen {
  uint64_t half[2];
};

template <class T> GLOBAL void copy(Steps s, const T *from, T *to) {
  UNROLL_BY(4)
  for (int64_t i = global_thread(); i < s.n; i += global_threads())
    to[step_offset(s, 1, i)] = from[step_offset(s, 0, i)];
}

/* A copy whose source runs along rows and whose target along columns, tile by tile through shared memory, so that both
 * are met in whole lines. Tiles of all `outer` loops. */
template <class T> constexpr int TILE = sizeof(T) < 4 ? 64 : 32;

struct Turn {
  Steps outer;
  int64_t rows, columns, row_tiles, column_tiles;
  int64_t from_column; /* the source's step along columns; along rows it is 1 */
  int64_t to_row;      /* the target's step along rows; along columns it is 1 */
};

template <class T> GLOBAL void turn(Turn t, const T *from, T *to) {
  constexpr int SIDE = TILE<T>, STEP = BLOCK_THREADS / SIDE, TURNS = SIDE / STEP;
  SHARED T tile[SIDE][SIDE + 4 / (sizeof(T) < 4 ? sizeof(T) : 4)];
  int x = thread_index() % SIDE, y0 = thread_index() / SIDE;
  int64_t tiles = t.outer.n * t.row_tiles * t.column_tiles;
  for (int64_t i = block_index(); i < tiles; i += grid_size()) {
    int64_t row = i % t.row_tiles * SIDE, column = i / t.row_tiles % t.column_tiles * SIDE;
    int64_t o = i / (t.row_tiles * t.column_tiles);
    const T *source = from + step_offset(t.outer, 0, o) + row + x + (column + y0) * t.from_column;
    T *target = to + step_offset(t.outer, 1, o) + (row + y0) * t.to_row + column + x;
    T own[TURNS];
    for (int k = 0; k < TURNS; k++)
      if (row + x < t.rows && column + y0 + k * STEP < t.columns)
        own[k] = source[k * STEP * t.from_column];
    for (int k = 0; k < TURNS; k++)
      if (row + x < t.rows && column + y0 + k * STEP < t.columns)
        tile[y0 + k * STEP][x] = own[k];
    barrier();
    for (int k = 0; k < TURNS; k++)
      if (row + y0 + k * STEP < t.rows && column + x < t.columns)
        target[k * STEP * t.to_row] = tile[x][y0 + k * STEP];
    barrier();
  }
}

/* The loop in which the source runs on while the target does not; -1 where a plain copy will do. */
static int turned_loop(const Steps &s) {
  constexpr int LEAST = 16;
  int last = s.rank - 1;
  if (s.rank < 2 || s.step[1][last] != 1 || s.step[0][last] == 1 || s.step[0][last] == 0 || s.dim[last] < LEAST)
    return -1;
  for (int i = 0; i < last; i++)
    if (s.step[0][i] == 1 && s.dim[i] >= LEAST)
      return i;
  return -1;
}

template <class T> static void run_copy(cudaStream_t s, const Steps &steps, const T *from, T *to) {
  int rows = turned_loop(steps), last = steps.rank - 1;
  if (rows < 0) {
    launch(copy<T>, blocks_for(steps.n), BLOCK_THREADS, s, steps, from, to);
    return;
  }
  Turn t = {};
  t.rows = steps.dim[rows];
  t.columns = steps.dim[last];
  t.row_tiles = (t.rows + TILE<T> - 1) / TILE<T>;
  t.column_tiles = (t.columns + TILE<T> - 1) / TILE<T>;
  t.from_column = steps.step[0][last];
  t.to_row = steps.step[1][rows];
  t.outer.n = 1;
  for (int i = 0; i < last; i++) {
    if (i == rows)
      continue;
    t.outer.dim[t.outer.rank] = steps.dim[i];
    t.outer.step[0][t.outer.rank] = steps.step[0][i];
    t.outer.step[1][t.outer.rank++] = steps.step[1][i];
    t.outer.n *= steps.dim[i];
  }
  int64_t tiles = t.outer.n * t.row_tiles * t.column_tiles;
  launch(turn<T>, tiles < MOST_BLOCKS ? tiles : MOST_BLOCKS, BLOCK_THREADS, s, t, from, to);
}

/* The same copy of elements `times` as large, where the innermost loop runs on in both; whether there is one. */
static bool widen(Steps *s, int64_t times, const void *from, const void *to, size_t size) {
  int last = s->rank - 1;
  size_t wide = size * (size_t)times;
  if (last < 0 || s->step[0][last] != 1 || s->step[1][last] != 1 || s->dim[last] % times || (uintptr_t)from % wide ||
      (uintptr_t)to % wide)
    return false;
  for (int i = 0; i < last; i++)
    if (s->step[0][i] % times || s->step[1][i] % times)
      return false;
  for (int i = 0; i < last; i++) {
    s->step[0][i] /= times;
    s->step[1][i] /= times;
  }
  s->dim[last] /= times;
  s->n /= times;
  return true;
}

void launch_copy(cudaStream_t s, size_t size, const Steps *steps, const void *from, void *to) {
  Steps wide = *steps;
  for (int64_t times = 16 / (int64_t)size; times > 1; times /= 2)
    if (widen(&wide, times, from, to, size)) {
      size *= (size_t)times;
      break;
    }
  if (size == sizeof(Sixteen))
    launch(copy<Sixteen>, blocks_for(wide.n), BLOCK_THREADS, s, wide, (const Sixteen *)from, (Sixteen *)to);
  else
    FOR_SIZES(size, run_copy(s, wide, (const T *)from, (T *)to))
}

template <class T>
GLOBAL void trilu(bool upper, int64_t k, int64_t rows, int64_t columns, int64_t n, const T *x, T *y) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t distance = i % columns - i / columns % rows;
    y[i] = (upper ? distance >= k : distance <= k) ? x[i] : 0;
  }
}

void launch_trilu(cudaStream_t s, size_t size, bool upper, int64_t k, int64_t rows, int64_t columns, int64_t n,
                  const void *x, void *y) {
  FOR_SIZES(size, launch(trilu<T>, blocks_for(n), BLOCK_THREADS, s, upper, k, rows, columns, n, (const T *)x, (T *)y))
}

template <class T> GLOBAL void range(int64_t n, const T *start, const T *delta, T *y) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    y[i] = (T)((WideOf<T>)*start + (WideOf<T>)i * (WideOf<T>)*delta);
}

void launch_range(cudaStream_t s, DType type, int64_t n, const void *start, const void *delta, void *y) {
  FOR_NUMBERS(type, launch(range<T>, blocks_for(n), BLOCK_THREADS, s, n, (const T *)start, (const T *)delta, (T *)y))
}
