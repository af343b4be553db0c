/* Sorting lines of keys: tiles within a block, then runs merged into runs of twice as many, all lines at once.
 * Invariant: no two keys of a line are alike, so that there is one order, whatever runs first.
 *
 * An Order has key(line, i), the key that starts at place i, and less(line, a, b). */
#ifndef BACKEND_CUDA_SORT_CUH
#define BACKEND_CUDA_SORT_CUH

#include "backend/cuda/steps.cuh"

template <class Order> GLOBAL void sort_tiles(Order order, int64_t lines, int64_t n, uint64_t *to) {
  SHARED uint64_t tile[BLOCK_THREADS];
  int own = thread_index();
  int64_t tiles = (n + BLOCK_THREADS - 1) / BLOCK_THREADS;
  for (int64_t t = block_index(); t < lines * tiles; t += grid_size()) {
    int64_t line = t / tiles, first = t % tiles * BLOCK_THREADS;
    int count = (int)(n - first < BLOCK_THREADS ? n - first : BLOCK_THREADS), before = 0;
    uint64_t key = own < count ? order.key(line, first + own) : 0;
    tile[own] = key;
    barrier();
    for (int k = 0; own < count && k < count; k++)
      before += order.less(line, tile[k], key);
    if (own < count)
      to[line * n + first + before] = key;
    barrier();
  }
}

/* How many of the sorted keys from[0 … n-1] are less. */
template <class Order>
DEVICE int64_t count_less(const Order &order, int64_t line, const uint64_t *from, int64_t n, uint64_t key) {
  int64_t low = 0;
  while (low < n) {
    int64_t middle = low + (n - low) / 2;
    if (order.less(line, from[middle], key))
      low = middle + 1;
    else
      n = middle;
  }
  return low;
}

/* Each key goes to where those of both runs that are less end. */
template <class Order>
GLOBAL void merge_runs(Order order, int64_t lines, int64_t n, int64_t width, const uint64_t *all_from,
                       uint64_t *all_to) {
  for (int64_t at = global_thread(); at < lines * n; at += global_threads()) {
    int64_t line = at / n, i = at % n;
    const uint64_t *from = all_from + line * n;
    int64_t left = i / (2 * width) * (2 * width), right = left + width < n ? left + width : n;
    int64_t end = right + width < n ? right + width : n;
    bool is_left = i < right;
    int64_t others = is_left ? count_less(order, line, from + right, end - right, from[i])
                             : count_less(order, line, from + left, width, from[i]);
    all_to[line * n + left + (i - (is_left ? left : right)) + others] = from[i];
  }
}

/* keys: room for 2 lines n numbers. Returns where the sorted ones are. */
template <class Order>
static uint64_t *sort_lines(cudaStream_t s, const Order &order, int64_t lines, int64_t n, uint64_t *keys) {
  uint64_t *from = keys, *to = keys + lines * n;
  int64_t tiles = lines * ((n + BLOCK_THREADS - 1) / BLOCK_THREADS);
  launch(sort_tiles<Order>, tiles < MOST_BLOCKS ? tiles : MOST_BLOCKS, BLOCK_THREADS, s, order, lines, n, from);
  for (int64_t width = BLOCK_THREADS; width < n; width *= 2) {
    launch(merge_runs<Order>, blocks_for(lines * n), BLOCK_THREADS, s, order, lines, n, width, from, to);
    uint64_t *sorted = to;
    to = from;
    from = sorted;
  }
  return from;
}

/* ---- keys of a place in the high bits, and a number in the low ones that are needed for n numbers ---- */

static inline int bits_for(int64_t n) {
  int bits = 0;
  while (n > 1 && ((uint64_t)n - 1) >> bits)
    bits++;
  return bits;
}

struct Plain {
  DEVICE bool less(int64_t, uint64_t a, uint64_t b) const { return a < b; }
};

DEVICE bool begins_run(const uint64_t *keys, int64_t at, int low_bits) {
  return at == 0 || keys[at - 1] >> low_bits != keys[at] >> low_bits;
}

/* Behind the last key with the place of key `at`. */
DEVICE int64_t end_of_run(const uint64_t *keys, int64_t at, int64_t n, int low_bits) {
  uint64_t place = keys[at] >> low_bits;
  int64_t end = at + 1;
  if (end < n && keys[end] >> low_bits == place)
    end += count_less(Plain(), 0, keys + end, n - end, (place + 1) << low_bits);
  return end;
}

#endif
