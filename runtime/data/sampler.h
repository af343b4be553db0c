/* Which samples each batch has. A batch is a function of the seed and the step alone: whoever asks, and whatever was
 * asked before. */
#ifndef RUNTIME_DATA_SAMPLER_H
#define RUNTIME_DATA_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"

/* Position p of the stream is sample p modulo the epoch's length, or a permutation of each epoch's own where shuffled.
 * Where batches are even, step k begins at position k · batch; else an epoch's last one has what is left of it. */
typedef struct {
  int64_t samples, epoch_length, batch;
  bool even, shuffle;
  uint64_t seed;
  int64_t *indices; /* [batch]: of the batch at hand */
} Sampler;

/* `epoch_length` samples of each epoch are used: all of them where the data wraps or batches are uneven, else a
 * multiple of the batch. */
Status sampler_create(Arena *arena, int64_t samples, int64_t epoch_length, int64_t batch, bool even, bool shuffle,
                      uint64_t seed, Sampler *sampler);
/* Sets indices to those of step k, from 0. */
void sampler_batch(Sampler *sampler, int64_t step);
/* The same into `indices` [batch]; how many there are. */
int64_t sampler_indices(const Sampler *sampler, int64_t step, int64_t *indices);

#endif
