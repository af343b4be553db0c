/* The inner loops of the cpu backend, compiled from one source (isa.inc) for each instruction set. */
#ifndef BACKEND_CPU_ISA_H
#define BACKEND_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* y[i] of x[i]; and of d[i] and x[i]. */
typedef void Map(const float *x, float *y, int64_t n);
typedef void Map2(const float *d, const float *x, float *y, int64_t n);

/* C's tile [tile_rows, 2 vectors] (rows `row` elements apart) = or += A's packed strip [k, tile_rows] times B's packed
 * strip [k, 2 vectors]. */
typedef void TileF32(int64_t k, const float *a, const float *b, float *c, int64_t row, bool add);
typedef void TileF64(int64_t k, const double *a, const double *b, double *c, int64_t row, bool add);

/* Memory that is brought near meanwhile, a cache's line every AHEAD_STEPS steps of k: `run` lines from `at` on, then as
 * many `step` bytes further, and so on. */
enum { LINE_BYTES = 64, AHEAD_STEPS = 8 };
typedef struct {
  const char *at;
  int64_t run, step;
} Ahead;

/* The same of A's rows where they lie, `line` elements apart: C = from + A B, from's rows `from_row` elements apart, or
 * A B where it is NULL. */
typedef void RowsF32(int64_t k, const float *a, int64_t line, const float *b, const float *from, int64_t from_row,
                     float *c, int64_t row, Ahead ahead);
typedef void RowsF64(int64_t k, const double *a, int64_t line, const double *b, const double *from, int64_t from_row,
                     double *c, int64_t row, Ahead ahead);

/* `n` rows of A, or columns of B, each of k elements, as strips as wide as the tile, k by k; missing ones are zeros.
 * Element (i, j) of the matrix lies at from[i * row + j * column]. */
typedef void PackF32(const float *from, int64_t row, int64_t column, int64_t n, int64_t k, float *to);
typedef void PackF64(const double *from, int64_t row, int64_t column, int64_t n, int64_t k, double *to);

enum { MOST_TILE_ROWS = 12, MOST_VECTOR_BYTES = 64, SWEEP_LOOPS = 4 };

/* A nest of loops, the innermost first: A moves by jump[0] after each step, and by jump[i] more after each turn of loop
 * i. */
typedef struct {
  int64_t count[SWEEP_LOOPS], jump[SWEEP_LOOPS];
} Sweep;

/* C's tile [height, 1 or 2 vectors] (rows `row` elements apart) = or += over all steps of the sweep, A's next `height`
 * elements times B's next vectors, which are aligned and lie one behind the other. */
typedef void SweepF32(const Sweep *sweep, const float *a, const float *b, float *c, int64_t row, bool add);
typedef void SweepF64(const Sweep *sweep, const double *a, const double *b, double *c, int64_t row, bool add);

/* The same of A's rows where they lie, `line` elements apart, over k columns of A and as many rows of B. */
typedef void LinesF32(int64_t k, const float *a, int64_t line, const float *b, float *c, int64_t row, bool add);
typedef void LinesF64(int64_t k, const double *a, int64_t line, const double *b, double *c, int64_t row, bool add);

/* Neighbours in a strip that are neighbours in memory: n elements at `from` go to place `to` of the strip. `result` is
 * the caller's. */
typedef struct {
  int64_t from, to, n, result;
} Run;

/* Terms of a convolution's sums, by channel and tap: element i of them lies at
 * i / taps * channel + tap[i % taps] from its run. */
typedef struct {
  const int64_t *tap;
  int64_t taps, channel;
  int64_t width; /* of a strip */
} Terms;

/* Terms first … first + k - 1 of the runs of one strip, `width` wide (vectors), k by k. With `spare`, a vector behind
 * each run may be read, and behind the strip written. */
typedef void LayF32(const Terms *terms, int64_t first, int64_t k, const Run *runs, int64_t n_runs, bool spare,
                    const float *from, float *to);
typedef void LayF64(const Terms *terms, int64_t first, int64_t k, const Run *runs, int64_t n_runs, bool spare,
                    const double *from, double *to);

/* n lines of k elements, `line` and `step` apart, as one strip: to[j * width + i] is element j of line i; lines n …
 * width-1 are zeros. */
typedef void TurnF32(const float *from, int64_t line, int64_t step, int64_t n, int64_t k, int64_t width, float *to);
typedef void TurnF64(const double *from, int64_t line, int64_t step, int64_t n, int64_t k, int64_t width, double *to);

/* Winograd's minimal filtering: along an axis, `tile` results of 3 taps are tile + 2 products of what these make. */
typedef enum {
  TRANSFORM_INPUT,     /* tile + 2 places that a tile reads */
  TRANSFORM_WEIGHTS,   /* 3 taps */
  TRANSFORM_RESULT,    /* from tile + 2 sums of products to the tile's results */
  TRANSFORM_COTANGENT, /* and back: from a tile's cotangents, … */
  TRANSFORM_TAPS       /* … and from sums of products with the input's to those of 3 taps */
} TransformKind;
enum { TRANSFORM_AXES = 3, MOST_TILE_REACH = 7 };

/* Elements of an axis before (0) and behind (1); of an axis with a tile of 1, which has one tap, there is one. */
static inline int64_t transform_size(TransformKind kind, int side, int64_t tile) {
  bool taps = kind == (side ? TRANSFORM_TAPS : TRANSFORM_WEIGHTS);
  bool results = kind == (side ? TRANSFORM_RESULT : TRANSFORM_COTANGENT);
  return tile == 1 ? 1 : taps ? 3 : results ? tile : tile + 2;
}

/* Of tiles of 1, 2, 4 or 5 an axis, of which one at least is not 1: elements of a tile lie `apart`, `lanes` (vectors)
 * tiles side by side. */
typedef void TransformF32(TransformKind kind, const int64_t tile[TRANSFORM_AXES], int64_t lanes, const float *from,
                          int64_t from_apart, float *to, int64_t to_apart);
typedef void TransformF64(TransformKind kind, const int64_t tile[TRANSFORM_AXES], int64_t lanes, const double *from,
                          int64_t from_apart, double *to, int64_t to_apart);

/* TRANSFORM_INPUT or TRANSFORM_COTANGENT of `tiles` neighbours along the last axis, `width` lanes (vectors) of each,
 * which begin `tile` places behind one another: from [lines][row] to places `apart`, tiles `pitch` from one another.
 * TRANSFORM_RESULT goes back, from places to lines. What lies between takes a vector of each tile's places. */
typedef struct {
  int64_t tile[TRANSFORM_AXES], tiles, width, row, pitch, apart; /* row: elements of a line, lanes included */
} TileLine;
typedef void TransformLineF32(TransformKind kind, const TileLine *line, const float *from, float *between, float *to);
typedef void TransformLineF64(TransformKind kind, const TileLine *line, const double *from, double *between,
                              double *to);

/* Loops of attention over strips [n, 2 vectors], of which the second axis are lanes.
 * across: C's tile [tile_rows, 2 vectors] (rows `row` elements apart) += A [tile_rows, k] times B's packed strip, where
 * A's columns are the lanes of strips that lie `strip` elements apart. dot: of n elements, a lane for each of a
 * strip's. forbid: of one key, lanes before `first` and from `end` on are minus infinity (both within 32 bits). most:
 * the largest of each lane, times a scale above 0, and of what is in `most`. weigh: s = exp(s - shift - less), 0 where
 * that is next to nothing; sum += s. scale: s *= factor. add: s += mask, minus infinity where that is. slope: s = p (s
 * - common). */
typedef struct {
  void (*across)(int64_t k, const float *a, int64_t strip, const float *b, float *c, int64_t row);
  float (*dot)(const float *x, const float *y, int64_t n);
  void (*forbid)(float *s, int64_t first, int64_t end);
  void (*most)(const float *s, int64_t n, float scale, float *most);
  void (*weigh)(float *s, int64_t n, const float *shift, const float *less, float *sum);
  void (*scale)(float *s, int64_t n, const float *factor);
  void (*add)(float *s, int64_t n, const float *mask);
  void (*slope)(const float *p, float *s, int64_t n, const float *common);
} AttendF32;
typedef struct {
  void (*across)(int64_t k, const double *a, int64_t strip, const double *b, double *c, int64_t row);
  double (*dot)(const double *x, const double *y, int64_t n);
  void (*forbid)(double *s, int64_t first, int64_t end);
  void (*most)(const double *s, int64_t n, double scale, double *most);
  void (*weigh)(double *s, int64_t n, const double *shift, const double *less, double *sum);
  void (*scale)(double *s, int64_t n, const double *factor);
  void (*add)(double *s, int64_t n, const double *mask);
  void (*slope)(const double *p, double *s, int64_t n, const double *common);
} AttendF64;

/* The same where products are of bfloat16 (LoopsBf16): scores are float32, what is multiplied is packed. Lines: [n, 2
 * vectors] of numbers as packed strips have them, but one behind the other; where strips are float32, lines are a
 * strip. across: A's tile [rows, k] are lines, `strip` of their numbers from one strip's to the next. weigh: B's packed
 * strip `to` = exp(scale s - shift) rounded; sum += what is not. slope: lines p = exp(scale s - shift - less) and lines
 * and B's packed strip `slopes` and `right` = p (d - common), all rounded; `right` is not written where lines are
 * strips. n: whole tiles. */
typedef struct {
  void (*across)(int64_t k, const void *a, int64_t strip, const void *b, float *c, int64_t row);
  float (*dot)(const uint16_t *x, const uint16_t *y, int64_t n);
  void (*weigh)(const float *s, int64_t n, float scale, const float *shift, float *sum, void *to);
  void (*slope)(const float *s, const float *d, int64_t n, float scale, const float *shift, const float *less,
                const float *common, void *p, void *slopes, void *right);
} AttendBf16;

/* Products of bfloat16, summed in float32: C's tile [rows, columns] (rows `row` elements apart) = or += A's packed
 * strip times B's. What packs takes float32, too (`wide`), and rounds it; strips hold k in whole multiples of `depth`,
 * the rest zeros, `bytes` an element. While it sums, a tile may bring near a cache's line every AHEAD_STEPS of k, from
 * `ahead` on; NULL: nothing. */
typedef void TileBf16(int64_t k, const void *a, const void *b, float *c, int64_t row, bool add, const char *ahead);
typedef void PackBf16(bool wide, const void *from, int64_t row, int64_t column, int64_t n, int64_t k, void *to);
enum { MOST_BF16_WIDTH = 32, MOST_BF16_DEPTH = 32 };
typedef struct {
  int rows, columns, depth, bytes;
  void (*begin)(void), (*end)(void); /* around a thread's tiles; NULL: nothing to do */
  TileBf16 *tile;
  PackBf16 *pack_a, *pack_b;
  void (*widen)(const uint16_t *x, float *y, int64_t n);
  void (*narrow)(const float *x, uint16_t *y, int64_t n);
  double (*log_sum_exp)(const uint16_t *x, int64_t n); /* as of float32 */
  void (*scaled_exp)(const uint16_t *x, float shift, float scale, uint16_t *y, int64_t n);
} LoopsBf16;

typedef struct {
  const char *name;
  bool (*runs)(void); /* on this processor */
  int tile_rows, vector_bytes;
  TileF32 *tile_f32;
  TileF64 *tile_f64;
  RowsF32 *rows_f32;
  RowsF64 *rows_f64;
  PackF32 *pack_a_f32, *pack_b_f32;
  PackF64 *pack_a_f64, *pack_b_f64;
  SweepF32 *sweep_f32[MOST_TILE_ROWS][2]; /* by height - 1 (up to tile_rows) and vectors - 1 */
  SweepF64 *sweep_f64[MOST_TILE_ROWS][2];
  LinesF32 *lines_f32[MOST_TILE_ROWS][2];
  LinesF64 *lines_f64[MOST_TILE_ROWS][2];
  LayF32 *lay_f32;
  LayF64 *lay_f64;
  TurnF32 *turn_f32;
  TurnF64 *turn_f64;
  TransformF32 *transform_f32;
  TransformF64 *transform_f64;
  TransformLineF32 *transform_line_f32;
  TransformLineF64 *transform_line_f64;
  AttendF32 attend_f32;
  AttendF64 attend_f64;
  AttendBf16 attend_bf16;
  LoopsBf16 bf16;
  Map *exp, *tanh, *sigmoid, *erf, *gelu_erf, *gelu_tanh;
  Map2 *gelu_erf_grad, *gelu_tanh_grad;                                              /* d times the slope at x */
  void (*softmax)(const float *x, float *y, int64_t n);                              /* of one row */
  double (*log_sum_exp)(const float *x, int64_t n);                                  /* of one row */
  void (*scaled_exp)(const float *x, float shift, float scale, float *y, int64_t n); /* scale exp(x - shift) */
} Isa;

/* Best first, NULL at the end. */
extern const Isa *const isas[];

/* The one that ONNXPIPE_ISA names, else the best that runs here. E_USAGE where this processor lacks what is asked for.
 */
Status isa_choose(const Isa **isa);

#endif
