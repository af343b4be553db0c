/* Winograd's tiles of results. Invariant: which ones a convolution has follows from the shape. */
#ifndef BACKEND_CPU_TILES_H
#define BACKEND_CPU_TILES_H

#include "backend/cpu/frame.h"

/* The tiles of results, made of `channels` by `rows`, that cost least, where tiles pay: 3 taps, met one by one. Along
 * an axis of one tap a tile is 1. */
bool tiles_choose(const Convolution *c, const int64_t results[AXES], int64_t channels, int64_t rows,
                  int64_t tile[AXES]);

#endif
