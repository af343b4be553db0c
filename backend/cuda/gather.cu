/* Picking slices by index, and the transpose, putting them there by index. Invariant: no index leaves its axis: one
 * that would is reported and picks nothing. What goes to one slice goes there in the order of the indices: they are
 * sorted first, each with its row, so that the rows of a slice lie side by side. */
#include "backend/cuda/bfloat.cuh"
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
  int64_t at = p.rows == p.rows_per_batch ? 0 : i / p.rows_per_batch;
  for (int d = 0; d < p.depth; d++) {
    int64_t index = checked_index(p, reporter, indices, i * p.depth + d, p.axis + d);
    if (index < 0)
      return -1;
    at = at * p.shape.dim[p.axis + d] + index;
  }
  return at;
}

/* Lanes for a slice, a power of two: each WIDTH elements, at most a warp. */
static int lanes_of(int64_t inner, int width) {
  int lanes = 1;
  while (lanes < WARP_LANES && (int64_t)lanes * width < inner)
    lanes *= 2;
  return lanes;
}

/* A slice is picked by a group of lanes. */
template <class A, class B, int WIDTH>
GLOBAL void gather(Picks p, Reporter reporter, int lanes, const A *data, const void *indices, B *y) {
  int lane = thread_index() % lanes;
  for (int64_t row = global_thread() / lanes; row < p.outer * p.rows; row += global_threads() / lanes) {
    int64_t outer = p.outer == 1 ? 0 : row / p.rows, slice = slice_of(p, reporter, indices, row - outer * p.rows);
    const A *from = data + (outer * p.slices + slice) * p.inner;
    B *to = y + row * p.inner;
    UNROLL_BY(4)
    for (int64_t i = lane * WIDTH; i < p.inner; i += lanes * WIDTH) {
      Computed<A> v[WIDTH] = {};
      if (slice >= 0)
        read_pack<WIDTH>(from + i, v);
      write_pack<WIDTH>(v, to + i);
    }
  }
}

template <class A, class B, int WIDTH>
static void run_gather(cudaStream_t s, const Picks &p, Reporter reporter, const void *data, const void *indices,
                       void *y) {
  int lanes = lanes_of(p.inner, WIDTH);
  launch(gather<A, B, WIDTH>, p.inner ? blocks_for(p.outer * p.rows * lanes) : 0, BLOCK_THREADS, s, p, reporter, lanes,
         (const A *)data, indices, (B *)y);
}

void launch_gather(cudaStream_t s, DType from, DType to, const Picks *picks, Reporter reporter, const void *data,
                   const void *indices, void *y) {
  constexpr int WIDTH = 8;
  bool packs = picks->inner % WIDTH == 0;
  if (from != to && packs)
    FOR_TWO_STORED(from, to, (run_gather<A, B, WIDTH>(s, *picks, reporter, data, indices, y)))
  else if (from != to)
    FOR_TWO_STORED(from, to, (run_gather<A, B, 1>(s, *picks, reporter, data, indices, y)))
  else if (packs)
    FOR_SIZES(dtype_bytes(from), (run_gather<T, T, WIDTH>(s, *picks, reporter, data, indices, y)))
  else
    FOR_SIZES(dtype_bytes(from), (run_gather<T, T, 1>(s, *picks, reporter, data, indices, y)))
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

/* What is put there, one by one, by the first key of each slice: so many columns a group of lanes. Several rows are
 * read before they are added. */
template <class U, class Y, int WIDTH>
GLOBAL void put_slices(PutFunction put, Picks p, int row_bits, int lanes, const uint64_t *keys, const U *updates,
                       Y *y) {
  typedef Computed<Y> C;
  constexpr int AT_ONCE = 8;
  const uint64_t low = ((uint64_t)1 << row_bits) - 1;
  int64_t parts = (p.inner + lanes * WIDTH - 1) / (lanes * WIDTH), groups = p.outer * p.rows * parts;
  for (int64_t g = global_thread() / lanes; g < groups; g += global_threads() / lanes) {
    int64_t row = parts == 1 ? g : g / parts, outer = p.outer == 1 ? 0 : row / p.rows, at = row - outer * p.rows;
    int64_t column = ((g - row * parts) * lanes + thread_index() % lanes) * WIDTH;
    uint64_t slice = keys[at] >> row_bits;
    if (column >= p.inner || slice == (uint64_t)p.slices || !begins_run(keys, at, row_bits))
      continue;
    const U *from = updates + outer * p.rows * p.inner + column;
    Y *to = y + (outer * p.slices + (int64_t)slice) * p.inner + column;
    int64_t end = end_of_run(keys, at, p.rows, row_bits);
    C all[WIDTH] = {};
    if (put != PUT_SUM && put != PUT_LAST)
      read_pack<WIDTH>(to, all);
    for (int64_t k = put == PUT_LAST ? end - 1 : at; k < end; k += AT_ONCE) {
      C v[AT_ONCE][WIDTH];
      for (int n = 0; n < AT_ONCE; n++)
        if (k + n < end)
          read_pack<WIDTH>(from + (int64_t)(keys[k + n] & low) * p.inner, v[n]);
      for (int n = 0; n < AT_ONCE; n++)
        for (int i = 0; i < WIDTH; i++)
          if (k + n < end)
            all[i] = put_onto(put, all[i], v[n][i]);
    }
    write_pack<WIDTH>(all, to);
  }
}

template <class U, class Y>
static void put_sorted(cudaStream_t s, PutFunction put, const Picks &p, int row_bits, const uint64_t *keys,
                       const void *updates, void *y) {
  constexpr int WIDTH = 8;
  bool packs = p.inner % WIDTH == 0;
  int lanes = lanes_of(p.inner, packs ? WIDTH : 1), columns = lanes * (packs ? WIDTH : 1);
  int64_t blocks = blocks_for(p.outer * p.rows * ((p.inner + columns - 1) / columns) * lanes);
  launch(packs ? put_slices<U, Y, WIDTH> : put_slices<U, Y, 1>, blocks, BLOCK_THREADS, s, put, p, row_bits, lanes, keys,
         (const U *)updates, (Y *)y);
}

void launch_scatter(cudaStream_t s, PutFunction put, DType from, DType to, const Picks *picks, Reporter reporter,
                    const void *updates, const void *indices, uint64_t *keys, void *y) {
  int row_bits = bits_for(picks->rows);
  Slices slices = {*picks, reporter, row_bits, indices};
  const uint64_t *sorted = sort_lines(s, slices, 1, picks->rows, keys);
  if (put == PUT_LAST)
    FOR_SIZES(dtype_bytes(to), (put_sorted<T, T>(s, put, *picks, row_bits, sorted, updates, y)))
  else if (from == BF16 || to == BF16)
    FOR_TWO_STORED(from, to, (put_sorted<A, B>(s, put, *picks, row_bits, sorted, updates, y)))
  else
    FOR_NUMBERS(to, (put_sorted<T, T>(s, put, *picks, row_bits, sorted, updates, y)))
}
