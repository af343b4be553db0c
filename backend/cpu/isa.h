/* The inner loops of the cpu backend, compiled from one source (isa.inc) for each instruction set. */
#ifndef BACKEND_CPU_ISA_H
#define BACKEND_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

/* y[i] of x[i]; and of d[i] and x[i]. */
typedef void Map(const float *x, float *y, int64_t n);
typedef void Map2(const float *d, const float *x, float *y, int64_t n);

/* C's tile [tile_rows, 2 vectors] (rows `row` elements apart) = or += A's packed strip [k, tile_rows] times B's packed
 * strip [k, 2 vectors]. */
typedef void TileF32(int64_t k, const float *a, const float *b, float *c, int64_t row, bool add);
typedef void TileF64(int64_t k, const double *a, const double *b, double *c, int64_t row, bool add);

/* `n` rows of A, or columns of B, each of k elements, as strips as wide as the tile, k by k; missing ones are zeros.
 * Element (i, j) of the matrix lies at from[i * row + j * column]. */
typedef void PackF32(const float *from, int64_t row, int64_t column, int64_t n, int64_t k, float *to);
typedef void PackF64(const double *from, int64_t row, int64_t column, int64_t n, int64_t k, double *to);

enum { MOST_TILE_ROWS = 12, MOST_VECTOR_BYTES = 64 };

typedef struct {
  const char *name;
  bool (*runs)(void); /* on this processor */
  int tile_rows, vector_bytes;
  TileF32 *tile_f32;
  TileF64 *tile_f64;
  PackF32 *pack_a_f32, *pack_b_f32;
  PackF64 *pack_a_f64, *pack_b_f64;
  Map *exp, *tanh, *sigmoid, *erf, *gelu_erf, *gelu_tanh;
  Map2 *gelu_erf_grad, *gelu_tanh_grad;                                              /* d times the slope at x */
  void (*softmax)(const float *x, float *y, int64_t n);                              /* of one row */
  double (*log_sum_exp)(const float *x, int64_t n);                                  /* of one row */
  void (*scaled_exp)(const float *x, float shift, float scale, float *y, int64_t n); /* scale exp(x - shift) */
} Isa;

/* Best first, NULL at the end. */
extern const Isa *const isas[];

/* The best that runs here. */
const Isa *isa_best(void);

#endif
