/* The k largest or smallest along an axis: lines of places, sorted by what stands there. Of equal elements the one
 * before comes first, and no number is larger than what is no number. */
#include "backend/cuda/sort.cuh"

template <class T> struct Best {
  Lines l;
  bool largest;
  const T *x;
  DEVICE uint64_t key(int64_t, int64_t i) const { return (uint64_t)i; }
  DEVICE T at(int64_t line, uint64_t i) const {
    return x[line / l.inner * l.size * l.inner + line % l.inner + (int64_t)i * l.inner];
  }
  DEVICE bool less(int64_t line, uint64_t i, uint64_t j) const {
    T a = at(line, i), b = at(line, j);
    bool is_more = a > b || (a != a && b == b), is_less = a < b || (a == a && b != b);
    return is_more || is_less ? is_more == largest : i < j;
  }
};

/* keys: the sorted places of each line; y, places [outer, k, inner]. */
template <class T> GLOBAL void take_first(Best<T> best, int64_t k, const uint64_t *keys, T *y, int64_t *places) {
  const Lines &l = best.l;
  for (int64_t i = global_thread(); i < l.outer * k * l.inner; i += global_threads()) {
    int64_t line = i / (k * l.inner) * l.inner + i % l.inner;
    uint64_t place = keys[line * l.size + i / l.inner % k];
    y[i] = best.at(line, place);
    places[i] = (int64_t)place;
  }
}

template <class T>
static void top_k(cudaStream_t s, const Best<T> &best, int64_t k, uint64_t *keys, T *y, int64_t *places) {
  const Lines &l = best.l;
  if (l.outer * k * l.inner == 0)
    return;
  const uint64_t *sorted = sort_lines(s, best, l.outer * l.inner, l.size, keys);
  launch(take_first<T>, blocks_for(l.outer * k * l.inner), BLOCK_THREADS, s, best, k, sorted, y, places);
}

void launch_top_k(cudaStream_t s, DType type, Lines lines, int64_t k, bool largest, const void *x, uint64_t *keys,
                  void *y, int64_t *places) {
  FOR_NUMBERS(type, top_k(s, Best<T>{lines, largest, (const T *)x}, k, keys, (T *)y, places))
}
