/* Gradients of reading in places: what was read by several taps gets the sum of what they ask. Invariant: taps are
 * sorted by the element that they read, so that an element's are added in their order, each rounded to the type. */
#ifndef BACKEND_CUDA_TAPS_CUH
#define BACKEND_CUDA_TAPS_CUH

#include "backend/cuda/sort.cuh"

/* Tap number e = place · each + k reads element slots[e] % plane of sample slots[e] / plane, in all channels, with a
 * weight; slots[e] = nowhere: none. Y [samples, channels, places], X [samples, channels, plane]. */
struct TapList {
  int64_t count, each, places, channels, plane;
  uint64_t nowhere; /* samples · plane */
  uint64_t *keys, *slots;
  double *weights;
};

/* room: 24 bytes a tap. */
static TapList taps_in(void *room, int64_t samples, int64_t channels, int64_t plane, int64_t places, int64_t each) {
  int64_t count = samples * places * each;
  uint64_t *keys = (uint64_t *)room;
  return TapList{count,    each,         places,
                 channels, plane,        (uint64_t)(samples * plane),
                 keys,     keys + count, (double *)(keys + 2 * count)};
}

struct BySlot {
  int low_bits;
  const uint64_t *slots;
  DEVICE uint64_t key(int64_t, int64_t e) const { return slots[e] << low_bits | (uint64_t)e; }
  DEVICE bool less(int64_t, uint64_t a, uint64_t b) const { return a < b; }
};

template <class T> GLOBAL void add_taps(TapList t, int low_bits, const uint64_t *keys, const T *dy, T *dx) {
  const uint64_t low = ((uint64_t)1 << low_bits) - 1;
  for (int64_t i = global_thread(); i < t.count * t.channels; i += global_threads()) {
    int64_t at = i % t.count, channel = i / t.count;
    uint64_t slot = keys[at] >> low_bits;
    if (slot == t.nowhere || !begins_run(keys, at, low_bits))
      continue;
    int64_t row = (int64_t)slot / t.plane * t.channels + channel, end = end_of_run(keys, at, t.count, low_bits);
    T sum = 0;
    for (int64_t k = at; k < end; k++) {
      int64_t e = (int64_t)(keys[k] & low);
      sum += (T)(t.weights[e] * (double)dy[row * t.places + e / t.each % t.places]);
    }
    dx[row * t.plane + (int64_t)slot % t.plane] = sum;
  }
}

/* slots and weights were found; slots lie where the sort's second half is, which its first round reads. */
template <class T> static void run_taps(cudaStream_t s, const TapList &t, const T *dy, T *dx) {
  int low_bits = bits_for(t.count);
  const uint64_t *sorted = sort_lines(s, BySlot{low_bits, t.slots}, 1, t.count, t.keys);
  launch(add_taps<T>, blocks_for(t.count * t.channels), BLOCK_THREADS, s, t, low_bits, sorted, dy, dx);
}

#endif
