/* The order of samples. Invariant: an epoch's order is a permutation that is computed position by position: it takes no
 * memory, whatever the number of samples. */
#include "runtime/data/sampler.h"

enum { ROUNDS = 8 };

Status sampler_create(Arena *arena, int64_t samples, int64_t epoch_length, int64_t batch, bool even, bool shuffle,
                      uint64_t seed, Sampler *sampler) {
  *sampler = (Sampler){
      .samples = samples, .epoch_length = epoch_length, .batch = batch, .even = even, .shuffle = shuffle, .seed = seed};
  return ARENA_NEW(arena, sampler->indices, batch);
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t mix(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* A Feistel network over 2 * half_bits bits: one of the permutations of these numbers, by the key. (Luby, Rackoff: How
 * to construct pseudorandom permutations, 1988.) */
static uint64_t scramble(uint64_t key, int half_bits, uint64_t number) {
  uint64_t mask = (UINT64_C(1) << half_bits) - 1, left = number >> half_bits, right = number & mask;
  for (uint64_t round = 0; round < ROUNDS; round++) {
    uint64_t next = left ^ (mix(mix(key + round) ^ right) & mask);
    left = right;
    right = next;
  }
  return left << half_bits | right;
}

/* Position `at` of a permutation of 0 … n - 1: numbers beyond are scrambled again, which leads back in. */
static int64_t permute(uint64_t key, int64_t n, int64_t at) {
  int half_bits = 1;
  while (half_bits < 32 && (UINT64_C(1) << 2 * half_bits) < (uint64_t)n)
    half_bits++;
  uint64_t number = (uint64_t)at;
  do
    number = scramble(key, half_bits, number);
  while (number >= (uint64_t)n);
  return (int64_t)number;
}

/* The position with which step k begins; *n: of so many. */
static int64_t first_position(const Sampler *sampler, int64_t step, int64_t *n) {
  int64_t batch = sampler->batch, length = sampler->epoch_length, an_epoch = (length + batch - 1) / batch;
  *n = batch;
  if (sampler->even)
    return step * batch;
  int64_t within = step % an_epoch * batch;
  if (length - within < batch)
    *n = length - within;
  return step / an_epoch * length + within;
}

int64_t sampler_indices(const Sampler *sampler, int64_t step, int64_t *indices) {
  int64_t n, first = first_position(sampler, step, &n);
  for (int64_t i = 0; i < n; i++) {
    int64_t position = first + i, epoch = position / sampler->epoch_length;
    int64_t within = position % sampler->epoch_length;
    uint64_t key = mix(mix(sampler->seed) ^ (uint64_t)epoch);
    indices[i] = sampler->shuffle ? permute(key, sampler->samples, within) : within;
  }
  return n;
}

void sampler_batch(Sampler *sampler, int64_t step) {
  sampler_indices(sampler, step, sampler->indices);
}
