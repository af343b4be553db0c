/* Which tiles of results convolutions of 3 taps an axis are made in. */
#include "backend/cpu/tiles.h"

#include <string.h>

/* About what tiles of these sizes cost, where a sum's product of one element with another costs 1: each place of a tile
 * is laid out and transformed for every channel and row. Weights at all places are written and read. */
static double tiles_cost(const Convolution *c, const int64_t results[AXES], int64_t channels, int64_t rows,
                         const int64_t tile[AXES]) {
  enum { LANES = 16, LAY = 3, TURN = 4, WEIGHT = 20 };
  int64_t tiles = c->samples, places = 1, turns = LAY;
  for (int i = 0; i < AXES; i++) {
    tiles *= (results[i] + tile[i] - 1) / tile[i];
    places *= transform_size(TRANSFORM_INPUT, 0, tile[i]);
    turns += tile[i] > 1 ? TURN : 0;
  }
  double products = (double)channels * (double)rows, both = (double)channels + (double)rows;
  return (double)places * ((double)round_up(tiles, LANES) * (products + (double)turns * both) + WEIGHT * products);
}

/* As much, of a sum over all taps. */
static double taps_cost(const Convolution *c, const int64_t results[AXES], int64_t channels, int64_t rows) {
  enum { LANES = 32, LAY = 3 };
  int64_t n = round_up(c->samples * results[0] * results[1] * results[2], LANES);
  return (double)n * (double)c->k_plane * (double)channels * (double)(rows + LAY);
}

bool tiles_choose(const Convolution *c, const int64_t results[AXES], int64_t channels, int64_t rows,
                  int64_t tile[AXES]) {
  double best = taps_cost(c, results, channels, rows);
  bool found = false;
  for (int i = 0; i < AXES; i++)
    if ((c->k[i] != 1 && c->k[i] != 3) || c->stride[i] != 1 || c->dilation[i] != 1 || results[i] == 0)
      return false;
  if (c->k[2] != 3)
    return false;
  static const int64_t sizes[] = {2, 4, 5};
  /* Along three axes tiles of 4 have 4 times the error of sums over all taps, tiles of 2 no more than these. */
  int n = c->k[0] == 3 && c->k[1] == 3 ? 1 : 3;
  for (int i = 0; i < n * n * n; i++) {
    int at[] = {i / n / n, i / n % n, i % n};
    int64_t size[AXES];
    for (int k = 0; k < AXES; k++)
      size[k] = c->k[k] == 1 ? 1 : sizes[at[k]];
    double cost = tiles_cost(c, results, channels, rows, size);
    if (cost >= best)
      continue;
    best = cost;
    found = true;
    for (int k = 0; k < AXES; k++)
      tile[k] = size[k];
  }
  return found;
}

int64_t tiles_in_scratch(const int64_t tile[AXES], int64_t bytes, int64_t lane_bytes) {
  int64_t size = 1, between = 1;
  for (int i = 0; i < AXES; i++) {
    size *= i < 2 ? transform_size(TRANSFORM_INPUT, 1, tile[i]) : tile[i] + 1;
    between *= transform_size(TRANSFORM_INPUT, 1, tile[i]);
  }
  return (bytes / lane_bytes - 2 * size) / (size + between);
}

#define T float
#define S(name) name##_f32
#include "backend/cpu/tiles.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/cpu/tiles.inc"
#undef T
#undef S
