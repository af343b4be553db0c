/* The words that elements are drawn by. Elements are [outer, samples, inner], those of a sample numbered in this order.
 */
#ifndef BACKEND_CUDA_DRAW_CUH
#define BACKEND_CUDA_DRAW_CUH

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"
#include "base/philox.h"

/* Where element i stands: its sample's number from 1 on, 0 where a draw is for all, and its own within the sample. */
struct Standing {
  uint64_t sample, number;
};

DEVICE Standing standing_of(const Drawing &d, const int64_t *counter, int64_t i) {
  int64_t row = i / d.inner;
  return Standing{d.per_sample ? (uint64_t)counter[COUNTER_SAMPLE] + 1 + (uint64_t)(row % d.samples) : 0,
                  (uint64_t)(row / d.samples * d.inner + i % d.inner)};
}

DEVICE Philox words_of(const Drawing &d, const int64_t *counter, uint64_t sample, uint64_t block) {
  uint64_t key =
      (uint64_t)counter[COUNTER_SEED] + d.seed * 0x9E3779B97F4A7C15u + ((uint64_t)counter[COUNTER_STEP] >> 32);
  Philox at = {
      {(uint32_t)block, d.node ^ (uint32_t)(block >> 32) << 24, (uint32_t)sample, (uint32_t)counter[COUNTER_STEP]}};
  return philox(at, (uint32_t)key, (uint32_t)(key >> 32) ^ (uint32_t)(sample >> 32));
}

/* Whether a Dropout of this drawing keeps element i. */
DEVICE bool is_kept(const Drawing &d, const int64_t *counter, int64_t i) {
  Standing at = standing_of(d, counter, i);
  return words_of(d, counter, at.sample, at.number / 4).word[at.number % 4] >= d.threshold;
}

#endif
