/* Kernels that move elements, by element size: types do not matter. */
#include "backend/cuda/steps.cuh"

template <class T> GLOBAL void copy(Steps s, const T *from, T *to) {
  for (int64_t i = global_thread(); i < s.n; i += global_threads())
    to[step_offset(s, 1, i)] = from[step_offset(s, 0, i)];
}

/* A copy whose source runs along rows and whose target along columns, tile by tile through shared memory, so that both
 * are met in whole lines. Tiles of all `outer` loops. */
constexpr int TILE = 32;

struct Turn {
  Steps outer;
  int64_t rows, columns, row_tiles, column_tiles;
  int64_t from_column; /* the source's step along columns; along rows it is 1 */
  int64_t to_row;      /* the target's step along rows; along columns it is 1 */
};

template <class T> GLOBAL void turn(Turn t, const T *from, T *to) {
  SHARED T tile[TILE][TILE + 1];
  int x = thread_index() % TILE, y0 = thread_index() / TILE, step = block_size() / TILE;
  int64_t tiles = t.outer.n * t.row_tiles * t.column_tiles;
  for (int64_t i = block_index(); i < tiles; i += grid_size()) {
    int64_t row = i % t.row_tiles * TILE, column = i / t.row_tiles % t.column_tiles * TILE;
    int64_t o = i / (t.row_tiles * t.column_tiles);
    const T *source = from + step_offset(t.outer, 0, o);
    T *target = to + step_offset(t.outer, 1, o);
    for (int y = y0; y < TILE; y += step)
      if (row + x < t.rows && column + y < t.columns)
        tile[y][x] = source[row + x + (column + y) * t.from_column];
    barrier();
    for (int y = y0; y < TILE; y += step)
      if (row + y < t.rows && column + x < t.columns)
        target[(row + y) * t.to_row + column + x] = tile[x][y];
    barrier();
  }
}

/* The loop in which the source runs on while the target does not; -1 where a plain copy will do. */
static int turned_loop(const Steps &s) {
  int last = s.rank - 1;
  if (s.rank < 2 || s.step[1][last] != 1 || s.step[0][last] == 1 || s.step[0][last] == 0 || s.dim[last] < TILE / 2)
    return -1;
  for (int i = 0; i < last; i++)
    if (s.step[0][i] == 1 && s.dim[i] >= TILE / 2)
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
  t.row_tiles = (t.rows + TILE - 1) / TILE;
  t.column_tiles = (t.columns + TILE - 1) / TILE;
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

void launch_copy(cudaStream_t s, size_t size, const Steps *steps, const void *from, void *to) {
  FOR_SIZES(size, run_copy(s, *steps, (const T *)from, (T *)to))
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
