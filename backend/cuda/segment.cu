/* Bags of rows, and their gradient: one column of a bag a thread. Invariant: no row outside the rows is met; a bag that
 * would is reported and has none. */
#include "backend/cuda/fault.cuh"

struct Bag {
  int64_t first, end;
};

DEVICE Bag bag_at(const Bags &b, const Reporter &reporter, const void *offsets, int64_t i) {
  Bag bag = {index_at(b.offset_type, offsets, i), i + 1 < b.bags ? index_at(b.offset_type, offsets, i + 1) : b.rows};
  if (bag.first >= 0 && bag.first <= bag.end && bag.end <= b.rows)
    return bag;
  Shape rows = {2, {bag.end, b.rows}};
  report(reporter, FAULT_BAG, rows, i, bag.first);
  return Bag{0, 0};
}

/* The first of the largest elements of a column. */
template <class T> DEVICE int64_t largest_row(const T *column, int64_t inner, const Bag &bag) {
  int64_t best = bag.first;
  for (int64_t i = bag.first + 1; i < bag.end; i++)
    if (column[i * inner] > column[best * inner])
      best = i;
  return best;
}

template <class T> GLOBAL void segments(Bags b, Reporter reporter, const T *rows, const void *offsets, T *y) {
  for (int64_t i = global_thread(); i < b.bags * b.inner; i += global_threads()) {
    Bag bag = bag_at(b, reporter, offsets, i / b.inner);
    const T *column = rows + i % b.inner;
    double sum = 0;
    if (b.mode == BAG_MAX)
      sum = bag.first < bag.end ? (double)column[largest_row(column, b.inner, bag) * b.inner] : 0;
    for (int64_t k = bag.first; b.mode != BAG_MAX && k < bag.end; k++)
      sum += (double)column[k * b.inner];
    y[i] = (T)(b.mode == BAG_MEAN && bag.first < bag.end ? sum / (double)(bag.end - bag.first) : sum);
  }
}

void launch_segments(cudaStream_t s, DType type, const Bags *bags, Reporter reporter, const void *rows,
                     const void *offsets, void *y) {
  FOR_FLOATS(type, launch(segments<T>, blocks_for(bags->bags * bags->inner), BLOCK_THREADS, s, *bags, reporter,
                          (const T *)rows, offsets, (T *)y))
}

template <class T>
GLOBAL void segments_grad(Bags b, Reporter reporter, const T *dy, const void *offsets, const T *rows, T *drows) {
  for (int64_t i = global_thread(); i < b.bags * b.inner; i += global_threads()) {
    Bag bag = bag_at(b, reporter, offsets, i / b.inner);
    int64_t j = i % b.inner;
    if (b.mode == BAG_MAX && bag.first < bag.end)
      drows[largest_row(rows + j, b.inner, bag) * b.inner + j] = dy[i];
    for (int64_t k = bag.first; b.mode != BAG_MAX && k < bag.end; k++)
      drows[k * b.inner + j] = b.mode == BAG_MEAN ? dy[i] / (T)(bag.end - bag.first) : dy[i];
  }
}

void launch_segments_grad(cudaStream_t s, DType type, const Bags *bags, Reporter reporter, const void *dy,
                          const void *offsets, const void *rows, void *drows) {
  FOR_FLOATS(type, launch(segments_grad<T>, blocks_for(bags->bags * bags->inner), BLOCK_THREADS, s, *bags, reporter,
                          (const T *)dy, offsets, (const T *)rows, (T *)drows))
}
