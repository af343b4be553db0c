/* Winograd's tiles of results. Invariant: which ones a convolution has follows from the shape. */
#ifndef BACKEND_CPU_TILES_H
#define BACKEND_CPU_TILES_H

#include "backend/cpu/frame.h"
#include "backend/cpu/isa.h"

/* The tiles of results, made of `channels` by `rows`, that cost least, where tiles pay: 3 taps, met one by one. Along
 * an axis of one tap a tile is 1. */
bool tiles_choose(const Convolution *c, const int64_t results[AXES], int64_t channels, int64_t rows,
                  int64_t tile[AXES]);

/* Places first … end - 1 of one line of a frame, of n channels side by side, `width` wide; their planes lie at `from`,
 * `plane` apart. */
void tiles_lay_line_f32(const Isa *isa, const Frame *f, int64_t slice, int64_t line, int64_t first, int64_t end,
                        const float *from, int64_t plane, int64_t n, int64_t width, float *to);
void tiles_lay_line_f64(const Isa *isa, const Frame *f, int64_t slice, int64_t line, int64_t first, int64_t end,
                        const double *from, int64_t plane, int64_t n, int64_t width, double *to);

/* The places of tiles `tile` … of a frame's line of them: l says how many, and where they go; its rows are laid out
 * here, of n channels side by side, in `scratch`, which tiles_in_scratch bounds. */
void tiles_turn_f32(const Isa *isa, TransformKind kind, const Frame *f, const TileLine *l, int64_t slice, int64_t row,
                    int64_t tile, const float *from, int64_t plane, int64_t n, float *scratch, float *to);
void tiles_turn_f64(const Isa *isa, TransformKind kind, const Frame *f, const TileLine *l, int64_t slice, int64_t row,
                    int64_t tile, const double *from, int64_t plane, int64_t n, double *scratch, double *to);

/* How many tiles of a line `bytes` of scratch hold, before and between transforms, `lane_bytes` of each place. */
int64_t tiles_in_scratch(const int64_t tile[AXES], int64_t bytes, int64_t lane_bytes);

#endif
