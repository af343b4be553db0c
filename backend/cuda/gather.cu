/* Picking slices by index, and the transpose, putting them there by index. Invariant: no index leaves its axis: one
 * that would is reported and picks nothing. What goes to one slice goes there in the order of the indices: they are
 * sorted first, each with its row, so that the rows of a slice lie side by side. */
#include "backend/cuda/fault.cuh"
#include "backend/cuda/sort.cuh"

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

/* A slice's number, and the row that points to it in the low bits: rows that point nowhere come last. */
struct Slices {
  Picks p;
  Reporter reporter;
  int row_bits;
  const void *indices;
  DEVICE uint64_t key(int64_t, int64_t row) const {
    int64_t slice = slice_of(p, reporter, indices, row);
    return (uint64_t)(slice < 0 ? p.slices : slice) << row_bits | (uint64_t)row;
  }
  DEVICE bool less(int64_t, uint64_t a, uint64_t b) const { return a < b; }
};

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
    if (slice == (uint64_t)p.slices || !begins_run(keys, at, row_bits))
      continue;
    const T *from = updates + outer * p.rows * p.inner + column;
    T *to = y + (outer * p.slices + (int64_t)slice) * p.inner + column;
    int64_t end = end_of_run(keys, at, p.rows, row_bits);
    T all = put == PUT_SUM ? 0 : *to;
    for (int64_t k = put == PUT_LAST ? end - 1 : at; k < end; k++)
      all = put_onto(put, all, from[(int64_t)(keys[k] & low) * p.inner]);
    *to = all;
  }
}

void launch_scatter(cudaStream_t s, PutFunction put, DType type, const Picks *picks, Reporter reporter,
                    const void *updates, const void *indices, uint64_t *keys, void *y) {
  int64_t rows = picks->rows, blocks = blocks_for(picks->outer * rows * picks->inner);
  int row_bits = bits_for(rows);
  Slices slices = {*picks, reporter, row_bits, indices};
  const uint64_t *sorted = sort_lines(s, slices, 1, rows, keys);
#define PUT(T)                                                                                                         \
  launch(put_slices<T>, blocks, BLOCK_THREADS, s, put, *picks, row_bits, sorted, (const T *)updates, (T *)y)
  if (put == PUT_LAST)
    FOR_SIZES(dtype_bytes(type), PUT(T))
  else
    FOR_NUMBERS(type, PUT(T))
#undef PUT
}
