/* Picking slices by index, and its transpose, adding them by index. Invariant: no index leaves its axis: one that would
 * is reported and picks nothing. */
#include "backend/cuda/fault.cuh"

/* The number of the slice that row i of the indices points to; -1: outside. */
DEVICE int64_t slice_of(const Picks &p, const Reporter &reporter, const void *indices, int64_t i) {
  int64_t at = i / p.rows_per_batch;
  for (int d = 0; d < p.depth; d++) {
    int64_t position = i * p.depth + d, size = p.shape.dim[p.axis + d];
    int64_t index = index_at(p.index_type, indices, position);
    if (index < -size || index >= size) {
      report(reporter, p.axis + d, p.shape, position, index);
      return -1;
    }
    at = at * size + (index < 0 ? index + size : index);
  }
  return at;
}

template <class T> GLOBAL void gather(Picks p, Reporter reporter, const T *data, const void *indices, T *y) {
  int64_t n = p.outer * p.rows * p.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t row = i / p.inner, slice = slice_of(p, reporter, indices, row % p.rows);
    y[i] = slice < 0 ? 0 : data[(row / p.rows * p.slices + slice) * p.inner + i % p.inner];
  }
}

void launch_gather(cudaStream_t s, size_t size, const Picks *picks, Reporter reporter, const void *data,
                   const void *indices, void *y) {
  int64_t n = picks->outer * picks->rows * picks->inner;
  FOR_SIZES(size,
            launch(gather<T>, blocks_for(n), BLOCK_THREADS, s, *picks, reporter, (const T *)data, indices, (T *)y))
}

static GLOBAL void find_slices(Picks p, Reporter reporter, const void *indices, int64_t *keys) {
  for (int64_t i = global_thread(); i < p.rows; i += global_threads())
    keys[i] = slice_of(p, reporter, indices, i);
}

/* Which of the rows first … first+31 have this key: one bit each. All lanes of a warp. */
DEVICE uint32_t alike(const int64_t *keys, int64_t rows, int64_t first, int64_t key) {
  int64_t i = first + thread_index() % WARP_LANES;
  return votes(i < rows && keys[i] == key);
}

/* A warp a row and outer index. The first row of each key adds up all rows of that key, in their order; so a result has
 * one owner, and nothing is sorted. */
template <class T> GLOBAL void scatter_add(Picks p, const int64_t *keys, const T *dy, T *y) {
  int lane = thread_index() % WARP_LANES;
  int64_t warps = global_threads() / WARP_LANES;
  for (int64_t w = global_thread() / WARP_LANES; w < p.rows * p.outer; w += warps) {
    int64_t row = w % p.rows, outer = w / p.rows, key = keys[row];
    bool owner = key >= 0;
    for (int64_t first = 0; owner && first < row; first += WARP_LANES) {
      uint32_t same = alike(keys, row, first, key);
      owner = !same;
    }
    T *to = y + (outer * p.slices + key) * p.inner;
    for (int64_t first = row / WARP_LANES * WARP_LANES; owner && first < p.rows; first += WARP_LANES)
      for (uint32_t same = alike(keys, p.rows, first, key); same; same &= same - 1) {
        const T *from = dy + (outer * p.rows + first + lowest_bit(same)) * p.inner;
        for (int64_t i = lane; i < p.inner; i += WARP_LANES)
          to[i] += from[i];
      }
  }
}

void launch_scatter_add(cudaStream_t s, DType type, const Picks *picks, Reporter reporter, const void *dy,
                        const void *indices, int64_t *keys, void *y) {
  int64_t warps = picks->rows * picks->outer;
  launch(find_slices, blocks_for(picks->rows), BLOCK_THREADS, s, *picks, reporter, indices, keys);
  FOR_FLOATS(type, launch(scatter_add<T>, blocks_for(warps * WARP_LANES), BLOCK_THREADS, s, *picks, keys, (const T *)dy,
                          (T *)y))
}
