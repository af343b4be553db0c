/* Picking slices by index, and the transpose, putting them there by index. Invariant: no index leaves its axis: one
 * that would is reported and picks nothing. What goes to one slice goes there in the order of the indices: they are
 * sorted first, each with its row, so that the rows of a slice lie side by side. */
#include "backend/cuda/fault.cuh"

/* An index from 0 on; -1: outside axis `axis`. */
DEVICE int64_t checked_index(const Picks &p, const Reporter &reporter, const void *indices, int64_t position,
                             int axis) {
  int64_t size = p.shape.dim[axis], index = index_at(p.index_type, indices, position);
  if (index >= -size && index < size)
    return index < 0 ? index + size : index;
  report(reporter, axis, p.shape, position, index);
  return -1;
}

/* The element that element i of the indices points to: where i stands, but for the axis. */
DEVICE int64_t element_of(const Picks &p, const Reporter &reporter, const void *indices, int64_t i) {
  int64_t index = checked_index(p, reporter, indices, i, p.axis), at = 0, step = 1;
  for (int k = p.points.rank - 1; k >= 0; k--) {
    at += (k == p.axis ? index : i % p.points.dim[k]) * step;
    step *= p.shape.dim[k];
    i /= p.points.dim[k];
  }
  return index < 0 ? -1 : at;
}

/* The number of the slice that row i of the indices points to; -1: outside. */
DEVICE int64_t slice_of(const Picks &p, const Reporter &reporter, const void *indices, int64_t i) {
  if (p.points.rank)
    return element_of(p, reporter, indices, i);
  int64_t at = i / p.rows_per_batch;
  for (int d = 0; d < p.depth; d++) {
    int64_t index = checked_index(p, reporter, indices, i * p.depth + d, p.axis + d);
    if (index < 0)
      return -1;
    at = at * p.shape.dim[p.axis + d] + index;
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

/* What is sorted: a slice's number, and the row that points to it in the low bits. No two are alike, and rows that
 * point nowhere come last. */
static GLOBAL void sort_tiles(Picks p, Reporter reporter, int row_bits, const void *indices, uint64_t *to) {
  SHARED uint64_t tile[BLOCK_THREADS];
  int own = thread_index();
  for (int64_t first = (int64_t)block_index() * BLOCK_THREADS; first < p.rows;
       first += (int64_t)grid_size() * BLOCK_THREADS) {
    int n = (int)(p.rows - first < BLOCK_THREADS ? p.rows - first : BLOCK_THREADS), before = 0;
    int64_t row = first + own, slice = own < n ? slice_of(p, reporter, indices, row) : 0;
    uint64_t key = (uint64_t)(slice < 0 ? p.slices : slice) << row_bits | (uint64_t)row;
    tile[own] = key;
    barrier();
    for (int k = 0; k < n; k++)
      before += tile[k] < key;
    if (own < n)
      to[first + before] = key;
    barrier();
  }
}

/* How many of the sorted keys from[0 … n-1] are less. */
DEVICE int64_t count_less(const uint64_t *from, int64_t n, uint64_t key) {
  int64_t low = 0;
  while (low < n) {
    int64_t middle = low + (n - low) / 2;
    if (from[middle] < key)
      low = middle + 1;
    else
      n = middle;
  }
  return low;
}

/* Sorted runs of `width` keys become runs of twice as many: each key goes to where those of both runs that are less
 * end.
 */
static GLOBAL void merge_runs(int64_t rows, int64_t width, const uint64_t *from, uint64_t *to) {
  for (int64_t i = global_thread(); i < rows; i += global_threads()) {
    int64_t left = i / (2 * width) * (2 * width), right = left + width < rows ? left + width : rows;
    int64_t end = right + width < rows ? right + width : rows;
    bool is_left = i < right;
    int64_t others = is_left ? count_less(from + right, end - right, from[i]) : count_less(from + left, width, from[i]);
    to[left + (i - (is_left ? left : right)) + others] = from[i];
  }
}

/* What becomes of x where y is put. Integers wrap. */
template <class T> DEVICE T put_onto(PutFunction put, T x, T y) {
  typedef typename std::conditional<std::is_floating_point<T>::value, T, uint64_t>::type Wide;
  switch (put) {
  case PUT_LAST:
    return y;
  case PUT_SUM:
  case PUT_ADD:
    return (T)((Wide)x + (Wide)y);
  case PUT_MULTIPLY:
    return (T)((Wide)x * (Wide)y);
  case PUT_MAX:
    return y > x || y != y ? y : x;
  case PUT_MIN:
    return y < x || y != y ? y : x;
  }
  return y;
}

/* The first key of each slice puts there what all that follow bring: a thread each element. */
template <class T>
GLOBAL void put_slices(PutFunction put, Picks p, int row_bits, const uint64_t *keys, const T *updates, T *y) {
  const uint64_t low = ((uint64_t)1 << row_bits) - 1;
  int64_t n = p.outer * p.rows * p.inner;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t column = i % p.inner, at = i / p.inner % p.rows, outer = i / p.inner / p.rows;
    uint64_t slice = keys[at] >> row_bits;
    if (slice == (uint64_t)p.slices || (at > 0 && keys[at - 1] >> row_bits == slice))
      continue;
    const T *from = updates + outer * p.rows * p.inner + column;
    T *to = y + (outer * p.slices + (int64_t)slice) * p.inner + column;
    int64_t end = at + 1; /* known before the loop, loads need not wait for each other */
    if (end < p.rows && keys[end] >> row_bits == slice)
      end += count_less(keys + end, p.rows - end, (slice + 1) << row_bits);
    T all = put == PUT_SUM ? 0 : *to;
    for (int64_t k = put == PUT_LAST ? end - 1 : at; k < end; k++)
      all = put_onto(put, all, from[(int64_t)(keys[k] & low) * p.inner]);
    *to = all;
  }
}

void launch_scatter(cudaStream_t s, PutFunction put, DType type, const Picks *picks, Reporter reporter,
                    const void *updates, const void *indices, uint64_t *keys, void *y) {
  int64_t rows = picks->rows, blocks = blocks_for(picks->outer * rows * picks->inner);
  uint64_t *from = keys, *to = keys + rows;
  int row_bits = 0;
  if (!rows)
    return;
  while (((uint64_t)rows - 1) >> row_bits)
    row_bits++;
  launch(sort_tiles, blocks_for(rows), BLOCK_THREADS, s, *picks, reporter, row_bits, indices, from);
  for (int64_t width = BLOCK_THREADS; width < rows; width *= 2) {
    launch(merge_runs, blocks_for(rows), BLOCK_THREADS, s, rows, width, from, to);
    uint64_t *sorted = to;
    to = from;
    from = sorted;
  }
#define PUT(T) launch(put_slices<T>, blocks, BLOCK_THREADS, s, put, *picks, row_bits, from, (const T *)updates, (T *)y)
  if (put == PUT_LAST)
    FOR_SIZES(dtype_bytes(type), PUT(T))
  else
    FOR_NUMBERS(type, PUT(T))
#undef PUT
}
