/* Grids and regions of images. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/lower.h"

/* ---- AffineGrid ---- */

/* Place i of an axis in -1 … 1: corners, or centres of elements. */
static double place(int64_t i, int64_t size, bool corners) {
  if (corners)
    return size > 1 ? 2 * (double)i / (double)(size - 1) - 1 : 0;
  return (2 * (double)i + 1) / (double)size - 1;
}

/* Homogeneous coordinates of every place of the result, [places, axes + 1], the last axis' first. */
static Status base_grid(Op *op, int axes, const int64_t *sizes, bool corners, DType dtype, Term **grid) {
  int64_t places = 1, n;
  double *wide;
  for (int i = 0; i < axes; i++)
    if (sizes[i] < 0 || !checked_mul_i64(places, sizes[i], &places))
      return fail(E_SHAPE, "no size: %lld", (long long)sizes[i]);
  if (!checked_mul_i64(places, axes + 1, &n) || n > INT64_MAX / 16)
    return fail(E_SHAPE, "%lld places of %d axes", (long long)places, axes);
  TRY(budget_need(&op->lower->budget, 16 * (size_t)n, (double)n));
  TRY(ARENA_NEW(op->lower->arena, wide, n));
  for (int64_t p = 0; p < places; p++) {
    int64_t rest = p;
    for (int i = axes - 1; i >= 0; rest /= sizes[i], i--)
      wide[p * (axes + 1) + axes - 1 - i] = place(rest % sizes[i], sizes[i], corners);
    wide[p * (axes + 1) + axes] = 1;
  }
  TRY(term_make(op->lower, NULL, F64, shape_of(2, (int64_t[]){places, axes + 1}), wide, grid));
  return op_cast(op, *grid, dtype, grid);
}

/* theta [N, axes, axes + 1] → [N, sizes…, axes] */
static Status affine_grid(Op *op) {
  Term *theta = op->in[0], *t;
  const int64_t *sizes;
  int n;
  TRY(op_known_ints(op, 1, &sizes, &n));
  Shape s = theta->shape, y = {.rank = n};
  int axes = n - 2;
  if ((axes != 2 && axes != 3) || s.rank != 3 || s.dim[0] != sizes[0] || s.dim[1] != axes || s.dim[2] != axes + 1)
    return fail(E_SHAPE, "theta %s for a size of %d numbers", SHAPE_STR(s), n);
  y.dim[0] = s.dim[0];
  memcpy(y.dim + 1, sizes + 2, (size_t)axes * sizeof *sizes);
  y.dim[n - 1] = axes;
  TRY(base_grid(op, axes, sizes + 2, op_int(op, "align_corners", 0), theta->dtype, &t));
  TRY(op_matmul(op, t, false, theta, true, &t));
  return op_reshape(op, t, y, &op->out[0]);
}

/* ---- NonMaxSuppression ---- */

typedef struct {
  double low[2], high[2]; /* y, x */
} Box;

typedef struct {
  int64_t box;
  double score;
} Candidate;

typedef struct {
  int64_t batches, classes, boxes;
  const double *box;   /* [batches, boxes, 4] */
  const double *score; /* [batches, classes, boxes] */
  bool center;
  double most, overlap, least;
} Suppression;

/* Input i as known floats of this rank, in double. */
static Status known_numbers(Op *op, int i, const double **list) {
  Term *term = op_in(op, i), *wide;
  bool known;
  double *data;
  size_t bytes;
  TRY(term_known(op->lower, term, &known));
  if (!known)
    return fail(E_UNSUPPORTED, "the shape of the result depends on data");
  TRY(shape_bytes(term->shape, F64, &bytes));
  TRY(budget_need(&op->lower->budget, bytes, (double)bytes / 8));
  TRY(op_cast(op, term, F64, &wide));
  if (!wide->constant)
    return fail(E_LIMIT, "input %d ('%s') is too large to be looked through", i, op->proto->input[i]);
  TRY(ARENA_NEW(op->lower->arena, data, bytes / sizeof *data));
  term_write(wide, data);
  *list = data;
  return OK;
}

static Box box_of(const Suppression *s, int64_t i) {
  const double *b = s->box + 4 * i;
  Box box;
  for (int k = 0; k < 2; k++) { /* corners y, x, y, x, or the center's x, y and width, height */
    double one = s->center ? b[1 - k] - b[3 - k] / 2 : b[k], other = s->center ? b[1 - k] + b[3 - k] / 2 : b[2 + k];
    box.low[k] = fmin(one, other);
    box.high[k] = fmax(one, other);
  }
  return box;
}

static double area(const Box *b) {
  return (b->high[0] - b->low[0]) * (b->high[1] - b->low[1]);
}

/* Intersection over union. */
static double overlap_of(const Box *a, const Box *b) {
  double common = 1;
  for (int k = 0; k < 2; k++)
    common *= fmax(0, fmin(a->high[k], b->high[k]) - fmax(a->low[k], b->low[k]));
  double all = area(a) + area(b) - common;
  return common > 0 && all > 0 ? common / all : 0;
}

/* The highest score first; of equals the first box. */
static int by_score(const void *a, const void *b) {
  const Candidate *x = a, *y = b;
  if (x->score != y->score)
    return x->score > y->score ? -1 : 1;
  return (x->box > y->box) - (x->box < y->box);
}

/* One class of one sample: boxes that are kept become rows (batch, class, box). */
static void suppress(const Suppression *s, int64_t batch, int64_t class, Candidate *list, int64_t *rows, int64_t *n) {
  const double *score = s->score + (batch * s->classes + class) * s->boxes;
  int64_t count = 0, kept = 0;
  for (int64_t i = 0; i < s->boxes; i++)
    if (score[i] > s->least)
      list[count++] = (Candidate){i, score[i]};
  qsort(list, (size_t)count, sizeof *list, by_score);
  for (int64_t i = 0; i < count && (double)kept < s->most; i++) {
    Box box = box_of(s, batch * s->boxes + list[i].box);
    bool hidden = false;
    for (int64_t k = 0; k < kept && !hidden; k++) {
      Box other = box_of(s, batch * s->boxes + list[k].box);
      hidden = overlap_of(&box, &other) > s->overlap;
    }
    if (hidden)
      continue;
    list[kept++] = list[i];
    memcpy(rows + 3 * (*n)++, (int64_t[]){batch, class, list[i].box}, 3 * sizeof *rows);
  }
}

static Status number_or(Op *op, int i, double absent, double *number) {
  *number = absent;
  return op_has(op, i) ? op_known_number(op, i, number) : OK;
}

static Status non_max_suppression(Op *op) {
  Shape boxes = op->in[0]->shape, scores = op->in[1]->shape;
  Suppression s = {.center = op_int(op, "center_point_box", 0)};
  Candidate *list;
  int64_t *rows, n = 0, all;
  if (boxes.rank != 3 || scores.rank != 3 || boxes.dim[0] != scores.dim[0] || boxes.dim[1] != scores.dim[2] ||
      boxes.dim[2] != 4)
    return fail(E_SHAPE, "boxes %s, scores %s", SHAPE_STR(boxes), SHAPE_STR(scores));
  TRY(known_numbers(op, 0, &s.box));
  TRY(known_numbers(op, 1, &s.score));
  TRY(number_or(op, 2, 0, &s.most));
  if (!(s.most > 0))
    s.most = 0; /* none are chosen */
  TRY(number_or(op, 3, 0, &s.overlap));
  TRY(number_or(op, 4, -INFINITY, &s.least));
  s.batches = scores.dim[0];
  s.classes = scores.dim[1];
  s.boxes = scores.dim[2];
  all = shape_elements(scores);
  TRY(budget_need(&op->lower->budget, (size_t)all * 3 * sizeof *rows,
                  16 * (double)all * fmin(s.most, (double)s.boxes)));
  TRY(ARENA_NEW(op->lower->arena, list, s.boxes));
  TRY(ARENA_NEW(op->lower->arena, rows, 3 * all));
  for (int64_t b = 0; b < s.batches; b++)
    for (int64_t c = 0; c < s.classes; c++)
      suppress(&s, b, c, list, rows, &n);
  return term_make(op->lower, NULL, I64, shape_of(2, (int64_t[]){n, 3}), rows, &op->out[0]);
}

/* ---- what reads images where data says ---- */

static Status grid_sample(Op *op) {
  const char *mode, *padding;
  Term *in[2] = {op->in[0]};
  TRY(op_string(op, "mode", "linear", &mode));
  TRY(op_string(op, "padding_mode", "zeros", &padding));
  mode = strcmp(mode, "bilinear") == 0 ? "linear" : strcmp(mode, "bicubic") == 0 ? "cubic" : mode;
  TRY(op_cast(op, op->in[1], op->in[0]->dtype, &in[1]));
  Attr attrs[] = {attr_string("mode", mode), attr_string("padding_mode", padding),
                  attr_int("align_corners", op_int(op, "align_corners", 0))};
  return op_emit(op, OP_GridSample, in, 2, attrs, 3, &op->out[0], 1);
}

static Status roi_align(Op *op) {
  const char *mode, *coordinates;
  bool old = op->lowering->to < 16;
  TRY(op_string(op, "mode", "avg", &mode));
  TRY(op_string(op, "coordinate_transformation_mode", old ? "output_half_pixel" : "half_pixel", &coordinates));
  bool half = strcmp(coordinates, "half_pixel") == 0;
  if ((strcmp(mode, "avg") != 0 && strcmp(mode, "max") != 0) ||
      (!half && strcmp(coordinates, "output_half_pixel") != 0))
    return fail(E_UNSUPPORTED, "mode is '%s', coordinate_transformation_mode '%s'", mode, coordinates);
  Attr attrs[] = {attr_string("mode", mode),
                  attr_int("output_height", op_int(op, "output_height", 1)),
                  attr_int("output_width", op_int(op, "output_width", 1)),
                  attr_int("sampling_ratio", op_int(op, "sampling_ratio", 0)),
                  attr_float("spatial_scale", op_float(op, "spatial_scale", 1)),
                  attr_int("half_pixel", half)};
  return op_emit(op, OP_RoiAlign, op->in, 3, attrs, 6, &op->out[0], 1);
}

static Status max_roi_pool(Op *op) {
  const int64_t *pooled;
  int n;
  op_ints(op, "pooled_shape", &pooled, &n);
  if (n != 2)
    return fail(E_SHAPE, "pooled_shape has %d numbers, not 2", n);
  Attr attrs[] = {attr_int("output_height", pooled[0]), attr_int("output_width", pooled[1]),
                  attr_float("spatial_scale", op_float(op, "spatial_scale", 1))};
  return op_emit(op, OP_MaxRoiPool, op->in, 2, attrs, 3, &op->out[0], 1);
}

#define ROI_ALIGN "mode:s output_height:i output_width:i sampling_ratio:i spatial_scale:f"

const Lowering lowerings_vision[] = {
    {"AffineGrid", 20, OPSET_LAST, 2, 2, 1, affine_grid, "align_corners:b"},
    {"NonMaxSuppression", 10, OPSET_LAST, 2, 5, 1, non_max_suppression, "center_point_box:b"},
    {"GridSample", 16, OPSET_LAST, 2, 2, 1, grid_sample, "mode:s padding_mode:s align_corners:b"},
    {"RoiAlign", 10, 15, 3, 3, 1, roi_align, ROI_ALIGN},
    {"RoiAlign", 16, OPSET_LAST, 3, 3, 1, roi_align, ROI_ALIGN " coordinate_transformation_mode:s"},
    {"MaxRoiPool", 1, OPSET_LAST, 2, 2, 1, max_roi_pool, "pooled_shape:I! spatial_scale:f"},
    {0},
};
