/* Resize and Upsample. Invariant: axes are resized one after the other, each by places and weights that are worked out
 * here, in double, from the numbers of the file; nothing of the modes reaches the graph.
 *
 * Coordinates and weights as ONNX's specification of Resize defines them. What decides between two neighbours (nearest,
 * and whether a place lies outside) goes by the coordinate in float32, as other runtimes do: scales are float32, and a
 * coordinate that is a whole number but for their rounding is meant to be whole. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/lower.h"

typedef struct {
  const char *mode, *coordinates, *nearest, *policy;
  bool antialias, exclude_outside;
  double a, extrapolation;
} Modes;

/* One axis: its sizes, how many times larger it becomes, and the region that tf_crop_and_resize reads. */
typedef struct {
  int64_t in, out;
  double scale, from, to;
} Line;

typedef struct {
  Modes modes;
  int rank, n_axes;
  int64_t axes[MAX_RANK];
  Line line[MAX_RANK]; /* by axis */
} Resize;

static bool is(const char *text, const char *word) {
  return strcmp(text, word) == 0;
}

static Status one_of(const char *what, const char *text, const char *words) {
  size_t n = strlen(text);
  for (const char *at = words; n && (at = strstr(at, text)); at += n)
    if ((at == words || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
      return OK;
  return fail(E_UNSUPPORTED, "%s is '%s'", what, text);
}

static Status modes_of(Op *op, Modes *m) {
  TRY(op_string(op, "mode", "nearest", &m->mode));
  TRY(op_string(op, "coordinate_transformation_mode", "half_pixel", &m->coordinates));
  TRY(op_string(op, "nearest_mode", "round_prefer_floor", &m->nearest));
  TRY(op_string(op, "keep_aspect_ratio_policy", "stretch", &m->policy));
  TRY(one_of("mode", m->mode, "nearest linear cubic"));
  TRY(one_of("coordinate_transformation_mode", m->coordinates,
             "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric tf_half_pixel_for_nn "
             "tf_crop_and_resize"));
  TRY(one_of("nearest_mode", m->nearest, "round_prefer_floor round_prefer_ceil floor ceil"));
  TRY(one_of("keep_aspect_ratio_policy", m->policy, "stretch not_larger not_smaller"));
  m->antialias = op_int(op, "antialias", 0);
  m->exclude_outside = op_int(op, "exclude_outside", 0);
  m->a = op_float(op, "cubic_coeff_a", -0.75);
  m->extrapolation = op_float(op, "extrapolation_value", 0);
  if (m->antialias && is(m->mode, "nearest"))
    return fail(E_MODEL, "antialias is for linear and cubic, the mode is nearest");
  return OK;
}

/* ---- sizes ---- */

static bool is_given(const Op *op, int i) {
  return op_has(op, i) && shape_elements(op_in(op, i)->shape) > 0;
}

/* Input i as n known floats. */
static Status known_floats(Op *op, int i, int n, double *list) {
  Term *term = op_in(op, i);
  bool known;
  float narrow[2 * MAX_RANK];
  if (shape_elements(term->shape) != n)
    return fail(E_SHAPE, "input %d ('%s') has %lld numbers, not %d", i, op->proto->input[i],
                (long long)shape_elements(term->shape), n);
  TRY(term_given(op->lower, term, &known));
  if (!known)
    return fail(E_UNSUPPORTED, "input %d ('%s') is not known before the model runs", i, op->proto->input[i]);
  if (term->dtype == F64) {
    term_write(term, list);
    return OK;
  }
  if (term->dtype != F32)
    return fail(E_MODEL, "input %d ('%s') is %s, not float32", i, op->proto->input[i], dtype_name(term->dtype));
  term_write(term, narrow);
  for (int k = 0; k < n; k++)
    list[k] = narrow[k];
  return OK;
}

/* The size of an axis is rounded down in float32, as shape inference does. */
static Status set_scale(Line *l, double scale) {
  float size = floorf((float)l->in * (float)scale);
  if (!(scale > 0) || !(size < 1e12F))
    return fail(E_SHAPE, "an axis of %lld cannot become %g times larger", (long long)l->in, scale);
  l->scale = scale;
  l->out = (int64_t)size;
  return OK;
}

static Status scales_of(Resize *r, const double *scales) {
  for (int i = 0; i < r->n_axes; i++)
    TRY(set_scale(&r->line[r->axes[i]], scales[i]));
  return OK;
}

static Status sizes_of(Op *op, int input, Resize *r) {
  const int64_t *sizes;
  int n;
  double common = 0;
  TRY(op_known_ints(op, input, &sizes, &n));
  if (n != r->n_axes)
    return fail(E_SHAPE, "%d sizes for %d axes", n, r->n_axes);
  for (int i = 0; i < n; i++) {
    Line *l = &r->line[r->axes[i]];
    if (sizes[i] < 0 || (l->in == 0 && sizes[i] != 0))
      return fail(E_SHAPE, "an axis of %lld cannot become %lld", (long long)l->in, (long long)sizes[i]);
    l->out = sizes[i];
    l->scale = l->in ? (double)sizes[i] / (double)l->in : 1;
    if (i == 0 || (is(r->modes.policy, "not_larger") ? l->scale < common : l->scale > common))
      common = l->scale;
  }
  for (int i = 0; i < n && !is(r->modes.policy, "stretch"); i++) {
    Line *l = &r->line[r->axes[i]];
    double size = floor(common * (double)l->in + 0.5);
    if (!(size < 1e12))
      return fail(E_SHAPE, "an axis of %lld cannot become %g times larger", (long long)l->in, common);
    l->scale = common;
    l->out = (int64_t)size;
  }
  return OK;
}

static Status axes_of(Op *op, Resize *r) {
  Shape x = op->in[0]->shape;
  const int64_t *given;
  int n = x.rank, sorted;
  int64_t check[MAX_RANK];
  r->rank = x.rank;
  op_ints(op, "axes", &given, &n);
  TRY(op_axes(op, "axes", MANY, x.rank, check, &sorted)); /* within the rank, none twice */
  r->n_axes = sorted < 0 ? x.rank : n;
  for (int i = 0; i < r->n_axes; i++)
    r->axes[i] = sorted < 0 ? i : axis_normalize(given[i], x.rank);
  for (int i = 0; i < x.rank; i++)
    r->line[i] = (Line){x.dim[i], x.dim[i], 1, 0, 1};
  return OK;
}

static Status region_of(Op *op, int input, Resize *r) {
  double roi[2 * MAX_RANK];
  if (!is(r->modes.coordinates, "tf_crop_and_resize"))
    return OK;
  if (!is_given(op, input))
    return fail(E_MODEL, "tf_crop_and_resize without a region of interest");
  TRY(known_floats(op, input, 2 * r->n_axes, roi));
  for (int i = 0; i < r->n_axes; i++) {
    r->line[r->axes[i]].from = roi[i];
    r->line[r->axes[i]].to = roi[r->n_axes + i];
  }
  return OK;
}

/* ---- coordinates ---- */

/* Where place i of the result lies in the axis, by the sizes before rounding. */
static double coordinate(const Modes *m, const Line *l, int64_t i) {
  double x = (double)i, in = (double)l->in, width = l->scale * in;
  if (is(m->coordinates, "align_corners"))
    return width == 1 ? 0 : x * (in - 1) / (width - 1);
  if (is(m->coordinates, "asymmetric"))
    return x / l->scale;
  if (is(m->coordinates, "tf_crop_and_resize"))
    return l->from * (in - 1) +
           (width == 1 ? (l->to - l->from) * (in - 1) / 2 : x * (l->to - l->from) * (in - 1) / (width - 1));
  if (is(m->coordinates, "tf_half_pixel_for_nn"))
    return (x + 0.5) / l->scale;
  if (is(m->coordinates, "pytorch_half_pixel") && width == 1)
    return -0.5;
  if (is(m->coordinates, "half_pixel_symmetric"))
    return in / 2 * (1 - (double)l->out / width) + (x + 0.5) / l->scale - 0.5;
  return (x + 0.5) / l->scale - 0.5;
}

/* The coordinate within what can be an index; what is no number is 0. */
static double bounded(double x) {
  return x > 1e15 ? 1e15 : x > -1e15 ? x : x <= -1e15 ? -1e15 : 0;
}

static int64_t into(int64_t i, int64_t size) {
  return i < 0 ? 0 : i >= size ? size - 1 : i;
}

static int64_t nearest(const Modes *m, const Line *l, int64_t i) {
  double x = (double)(float)bounded(coordinate(m, l, i)), down = floor(x), rest = x - down;
  bool up = is(m->nearest, "ceil")                ? rest > 0
            : is(m->nearest, "round_prefer_ceil") ? rest >= 0.5
            : is(m->nearest, "floor")             ? false
                                                  : rest > 0.5;
  return into((int64_t)down + up, l->in);
}

/* The weight of a neighbour at this distance (R. Keys, Cubic convolution interpolation for digital image processing,
 * 1981). */
static double weight(const Modes *m, double distance) {
  double d = fabs(distance), a = m->a;
  if (is(m->mode, "linear"))
    return d < 1 ? 1 - d : 0;
  if (d <= 1)
    return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

/* Neighbours of a place: `n` of them, the first one `first` from the one at or before the coordinate; `shrink` narrows
 * distances, so that all elements count where the axis gets smaller. */
typedef struct {
  int64_t n, first;
  double shrink;
} Footprint;

static Footprint footprint(const Modes *m, const Line *l) {
  double reach = is(m->mode, "linear") ? 1 : 2;
  Footprint f = {.shrink = m->antialias && l->scale < 1 ? l->scale : 1};
  f.first = (int64_t)floor(-reach / f.shrink) + 1;
  f.n = 2 - 2 * f.first;
  return f;
}

/* A coordinate that is whole belongs to the interval in front of it. */
static void place(const Modes *m, const Line *l, const Footprint *f, int64_t i, int64_t *indices, double *weights) {
  double x = bounded(coordinate(m, l, i)), down = ceil(x) - 1, ratio = x - down, sum = 0;
  for (int64_t k = 0; k < f->n; k++) {
    int64_t at = (int64_t)down + f->first + k;
    bool counts = !m->exclude_outside || (at >= 0 && at < l->in);
    indices[k] = into(at, l->in);
    weights[k] = counts ? weight(m, f->shrink * ((double)(f->first + k) - ratio)) : 0;
    sum += weights[k];
  }
  for (int64_t k = 0; k < f->n && (m->antialias || m->exclude_outside); k++)
    weights[k] /= sum != 0 ? sum : 1;
}

/* ---- nodes ---- */

static Status lists(Op *op, int64_t places, int64_t taps, int64_t **indices, double **weights) {
  int64_t n;
  if (!checked_mul_i64(places, taps, &n) || n > INT64_MAX / 16)
    return fail(E_SHAPE, "%lld places of %lld neighbours", (long long)places, (long long)taps);
  TRY(budget_need(&op->lower->budget, 16 * (size_t)n, 16 * (double)n));
  TRY(ARENA_NEW(op->lower->arena, *indices, n));
  return weights ? ARENA_NEW(op->lower->arena, *weights, n) : OK;
}

static Status resample(Op *op, const Modes *m, const Line *l, int axis, Term *x, Term **out) {
  Footprint f = footprint(m, l);
  Shape shape = shape_of(2, (int64_t[]){l->out, f.n});
  Attr attr = attr_int("axis", axis);
  Term *in[3] = {x};
  int64_t *indices;
  double *weights;
  TRY(lists(op, l->out, f.n, &indices, &weights));
  for (int64_t i = 0; i < l->out; i++)
    place(m, l, &f, i, indices + i * f.n, weights + i * f.n);
  TRY(term_make(op->lower, NULL, I64, shape, indices, &in[1]));
  TRY(term_make(op->lower, NULL, F64, shape, weights, &in[2]));
  return op_emit(op, OP_Resample, in, 3, &attr, 1, out, 1);
}

/* How often every element of the axis is repeated by these places; 0: not all as often. */
static int64_t repeated(const int64_t *indices, const Line *l) {
  int64_t times = l->out % l->in ? 0 : l->out / l->in;
  for (int64_t i = 0; i < l->out && times; i++)
    times = indices[i] == i / times ? times : 0;
  return times;
}

/* Picks places of the axis; where each element is repeated as often, only says how often. */
static Status pick(Op *op, const Modes *m, const Line *l, int axis, Term **x, int64_t *times) {
  int64_t *indices;
  Attr attr = attr_int("axis", axis);
  Term *in[2] = {*x};
  TRY(lists(op, l->out, 1, &indices, NULL));
  for (int64_t i = 0; i < l->out; i++)
    indices[i] = nearest(m, l, i);
  *times = repeated(indices, l);
  if (*times)
    return OK;
  *times = 1;
  TRY(term_make(op->lower, NULL, I64, shape_of(1, &l->out), indices, &in[1]));
  return op_emit(op, OP_Gather, in, 2, &attr, 1, x, 1);
}

/* Elements of every axis repeated so often: [.., d, ..] seen as [.., d, 1, ..], which expands. */
static Status repeat(Op *op, Term *x, const int64_t *times, Term **out) {
  Shape whole = x->shape, ones = {.rank = 0}, wide;
  for (int i = 0; i < whole.rank; i++) {
    ones.dim[ones.rank++] = whole.dim[i];
    if (times[i] > 1)
      ones.dim[ones.rank++] = 1;
  }
  wide = ones;
  for (int i = 0, k = 0; i < whole.rank; i++, k++)
    if (times[i] > 1)
      wide.dim[++k] = times[i];
  for (int i = 0; i < whole.rank; i++)
    if (!checked_mul_i64(whole.dim[i], times[i], &whole.dim[i]))
      return fail(E_SHAPE, "%lld repeats of axis %d", (long long)times[i], i);
  TRY(op_reshape(op, x, ones, &x));
  TRY(op_expand(op, x, wide, &x));
  return op_reshape(op, x, whole, out);
}

static Status repeat_some(Op *op, Term *x, int64_t *times, Term **out) {
  *out = x;
  for (int first = 0; first < x->shape.rank;) { /* as many axes at a time as there is rank for */
    int64_t now[MAX_RANK];
    int room = MAX_RANK - x->shape.rank, n = 0;
    for (int i = 0; i < x->shape.rank; i++)
      now[i] = 1;
    for (; first < x->shape.rank && (n < room || times[first] == 1); first++) {
      n += times[first] > 1;
      now[first] = times[first];
    }
    if (n == 0 && first < x->shape.rank)
      return fail(E_UNSUPPORTED, "rank %d is above %d", x->shape.rank + 1, MAX_RANK);
    if (n)
      TRY(repeat(op, *out, now, out));
  }
  return OK;
}

/* Places outside of what tf_crop_and_resize reads have a value of their own. */
static Status extrapolate(Op *op, const Resize *r, int axis, Term **x) {
  const Line *l = &r->line[axis];
  Shape shape = {.rank = r->rank};
  uint8_t *outside;
  int64_t n = 0;
  Term *mask, *value;
  TRY(ARENA_NEW(op->lower->arena, outside, l->out));
  for (int64_t i = 0; i < l->out; i++) {
    float at = (float)coordinate(&r->modes, l, i);
    outside[i] = at < 0 || at > (float)(l->in - 1);
    n += outside[i];
  }
  if (n == 0)
    return OK;
  for (int i = 0; i < r->rank; i++)
    shape.dim[i] = i == axis ? l->out : 1;
  TRY(term_make(op->lower, NULL, BOOL, shape, outside, &mask));
  TRY(op_scalar(op, *x, r->modes.extrapolation, &value));
  return op_where(op, mask, value, *x, x);
}

/* Whether nothing is done to an axis. */
static bool rests(const Modes *m, const Line *l) {
  return l->in == l->out && l->scale == 1 && !is(m->coordinates, "tf_crop_and_resize") &&
         !is(m->coordinates, "tf_half_pixel_for_nn");
}

static Status emit(Op *op, const Resize *r) {
  const Modes *m = &r->modes;
  int64_t times[MAX_RANK];
  Term *x = op->in[0];
  for (int axis = 0; axis < r->rank; axis++) {
    const Line *l = &r->line[axis];
    times[axis] = 1;
    if (rests(m, l))
      continue;
    if (l->out == 0)
      TRY(op_slice(op, x, axis, 0, 0, &x));
    else if (l->in == 0)
      return fail(E_SHAPE, "an axis of nothing cannot become %lld", (long long)l->out);
    else if (is(m->mode, "nearest"))
      TRY(pick(op, m, l, axis, &x, &times[axis]));
    else
      TRY(resample(op, m, l, axis, x, &x));
  }
  TRY(repeat_some(op, x, times, &x));
  for (int i = 0; i < r->n_axes && is(m->coordinates, "tf_crop_and_resize"); i++)
    TRY(extrapolate(op, r, (int)r->axes[i], &x));
  op->out[0] = x;
  return OK;
}

static Status resize(Op *op) {
  Resize r;
  double scales[MAX_RANK];
  TRY(modes_of(op, &r.modes));
  TRY(axes_of(op, &r));
  TRY(region_of(op, 1, &r));
  if (is_given(op, 2) == is_given(op, 3))
    return fail(E_MODEL, "%s", is_given(op, 2) ? "scales and sizes are given" : "no scales and no sizes");
  if (is_given(op, 3)) {
    TRY(sizes_of(op, 3, &r));
  } else {
    TRY(known_floats(op, 2, r.n_axes, scales));
    TRY(scales_of(&r, scales));
  }
  return emit(op, &r);
}

/* Resize before opset 11, and Upsample: every axis is scaled from its first corner, by attribute or input 1. */
static Status upsample(Op *op) {
  Resize r = {.modes = {.coordinates = "asymmetric", .nearest = "floor", .policy = "stretch"}};
  double scales[MAX_RANK];
  const Onnx__AttributeProto *given = op_attribute(op, "scales");
  TRY(op_string(op, "mode", "nearest", &r.modes.mode));
  if (is(r.modes.mode, "bilinear"))
    r.modes.mode = "linear";
  TRY(one_of("mode", r.modes.mode, "nearest linear"));
  TRY(axes_of(op, &r));
  if (given && given->n_floats != (size_t)r.rank)
    return fail(E_SHAPE, "%zu scales for %s", given->n_floats, SHAPE_STR(op->in[0]->shape));
  for (int i = 0; given && i < r.rank; i++)
    scales[i] = given->floats[i];
  if (!given)
    TRY(known_floats(op, 1, r.rank, scales));
  TRY(scales_of(&r, scales));
  return emit(op, &r);
}

#define MODES                                                                                                          \
  "mode:s coordinate_transformation_mode:s nearest_mode:s cubic_coeff_a:f exclude_outside:b extrapolation_value:f"

const Lowering lowerings_resize[] = {
    {"Upsample", 7, 8, 1, 1, 1, upsample, "scales:F! mode:s"},
    {"Upsample", 9, OPSET_LAST, 2, 2, 1, upsample, "mode:s"},
    {"Resize", 10, 10, 2, 2, 1, upsample, "mode:s"},
    {"Resize", 11, 17, 1, 4, 1, resize, MODES},
    {"Resize", 18, OPSET_LAST, 1, 4, 1, resize, MODES " antialias:b axes:I keep_aspect_ratio_policy:s"},
    {0},
};
