/* Pooling of float32 over threads, a row of windows at a time. A row of X is laid out by phases: every stride-th of its
 * elements lies together, between its pads, so that a tap of all windows of a row is a run of neighbours. Gradients are
 * gathered, a row of X at a time, from what windows say of themselves: which tap was the largest, or what each tap's
 * share is. Invariant: a plane belongs to one task; an element of a gradient sums its windows in order, so that the
 * answers are the reference's. */
#include <math.h>
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/reference.h"
#include "graph/window.h"

typedef struct {
  Window w;                          /* the axis in front is not 1, where there are several */
  int64_t planes, of_task, from, to; /* elements of a plane of X and of Y */
  int64_t divisor;
  int64_t phases, phase,
      covered;    /* of a row as it is laid out: elements of a phase, and how much of X's row is in it */
  int64_t slices; /* of X, whose gradients are gathered at once */
  const float *x, *dy;
  float *y, *dx;
} Pooling;

/* Where a tap of the last axis begins in a row that is laid out. */
static inline int64_t tap_at(const Pooling *p, int64_t f) {
  int64_t at = f * p->w.dilation[2], stride = p->w.stride[2];
  return at % stride * p->phase + at / stride;
}

/* The row's elements i, i + stride, … lie in this phase from there on; NULL where no tap meets them. */
static inline float *phase_of(const Pooling *p, int64_t i, float *laid) {
  int64_t at = i + p->w.begin[2], phase = at % p->w.stride[2];
  return phase < p->phases ? laid + phase * p->phase + at / p->w.stride[2] : NULL;
}

WIDE_LOOPS static void every(const float *x, int64_t step, float *y, int64_t n) {
  if (step == 1)
    for (int64_t i = 0; i < n; i++)
      y[i] = x[i];
  else if (step == 2)
    for (int64_t i = 0; i < n; i++)
      y[i] = x[2 * i];
  else
    for (int64_t i = 0; i < n; i++)
      y[i] = x[step * i];
}

WIDE_LOOPS static void interleave(const float *a, const float *b, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    y[2 * i] = a[i];
    y[2 * i + 1] = b[i];
  }
}

/* Between pads, which are there already. */
static void lay_row(const Pooling *p, const float *row, float *laid) {
  int64_t stride = p->w.stride[2];
  for (int64_t i = 0; i < least(stride, p->covered); i++) {
    float *to = phase_of(p, i, laid);
    if (to)
      every(row + i, stride, to, (p->covered - i + stride - 1) / stride);
  }
}

static void put_row(const Pooling *p, float *laid, float *row) {
  int64_t stride = p->w.stride[2];
  memset(row + p->covered, 0, (size_t)(p->w.in[2] - p->covered) * sizeof *row);
  if (stride == 1)
    memcpy(row, phase_of(p, 0, laid), (size_t)p->covered * sizeof *row);
  else if (stride == 2 && p->phases == 2) {
    interleave(phase_of(p, 0, laid), phase_of(p, 1, laid), row, p->covered / 2);
    if (p->covered % 2)
      row[p->covered - 1] = phase_of(p, 0, laid)[p->covered / 2];
  } else
    for (int64_t i = 0; i < p->covered; i++) {
      const float *from = phase_of(p, i, laid);
      row[i] = from ? *from : 0;
    }
}

/* Visits the rows that the row of windows (i, j) meets, in order of the taps, as they are laid out. */
typedef void Visit(const Pooling *p, const float *laid, int64_t first_tap, void *context);

static void each_row(const Pooling *p, const float *x, int64_t i, int64_t j, float *laid, Visit *visit, void *context) {
  const Window *w = &p->w;
  Taps a = window_taps(w, 0, i), b = window_taps(w, 1, j);
  for (int64_t d = a.first; d < a.end; d++)
    for (int64_t e = b.first; e < b.end; e++) {
      lay_row(p, x + ((a.start + d * w->dilation[0]) * w->in[1] + b.start + e * w->dilation[1]) * w->in[2], laid);
      visit(p, laid, (d * w->kernel[1] + e) * w->kernel[2], context);
    }
}

static void fill(float *x, int64_t n, float value) {
  for (int64_t i = 0; i < n; i++)
    x[i] = value;
}

/* Of numbers the first of the largest, of others the last: as the reference. */
#define LARGER(x, y) ((x) > (y) || (x) != (x))

WIDE_LOOPS static void larger(const float *x, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = LARGER(x[i], y[i]) ? x[i] : y[i];
}

static void visit_larger(const Pooling *p, const float *laid, int64_t first_tap, void *context) {
  (void)first_tap;
  for (int64_t f = 0; f < p->w.kernel[2]; f++)
    larger(laid + tap_at(p, f), context, p->w.out[2]);
}

/* What a row of windows is worked out in: the largest elements and their taps, or sums. */
typedef struct {
  float *y;
  int32_t *best;
  double *sum;
} Row;

WIDE_LOOPS static void largest_at(const float *x, int32_t tap, float *y, int32_t *best, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    bool takes = LARGER(x[i], y[i]);
    y[i] = takes ? x[i] : y[i];
    best[i] = takes ? tap : best[i];
  }
}

static void visit_largest(const Pooling *p, const float *laid, int64_t first_tap, void *context) {
  Row *row = context;
  for (int64_t f = 0; f < p->w.kernel[2]; f++)
    largest_at(laid + tap_at(p, f), (int32_t)(first_tap + f), row->y, row->best, p->w.out[2]);
}

WIDE_LOOPS static void add_row(const float *x, double *sum, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    sum[i] += (double)x[i];
}

static void visit_sum(const Pooling *p, const float *laid, int64_t first_tap, void *context) {
  (void)first_tap;
  Row *row = context;
  for (int64_t f = 0; f < p->w.kernel[2]; f++)
    add_row(laid + tap_at(p, f), row->sum, p->w.out[2]);
}

static void max_pool(const Pooling *p, int64_t plane, void *scratch) {
  const Window *w = &p->w;
  float *laid = scratch, *y = p->y + plane * p->to;
  fill(laid, p->phases * p->phase, -INFINITY);
  for (int64_t i = 0; i < w->out[0]; i++)
    for (int64_t j = 0; j < w->out[1]; j++, y += w->out[2]) {
      fill(y, w->out[2], -INFINITY);
      each_row(p, p->x + plane * p->from, i, j, laid, visit_larger, y);
    }
}

/* Where nothing is larger than minus infinity, the first tap that is none of the padding; -1 where there is none. */
static int32_t first_tap(const Window *w, int64_t i, int64_t j, int64_t k) {
  Taps a = window_taps(w, 0, i), b = window_taps(w, 1, j), c = window_taps(w, 2, k);
  if (a.first >= a.end || b.first >= b.end || c.first >= c.end)
    return -1;
  return (int32_t)((a.first * w->kernel[1] + b.first) * w->kernel[2] + c.first);
}

/* By what the sum over window (i, j, k) is divided: 0 nothing, 1 the elements of X in it, 2 those of the padding too.
 */
static double divisor_of(const Pooling *p, int64_t i, int64_t j, int64_t k) {
  int64_t at[] = {i, j, k};
  double n = 1;
  for (int a = 0; p->divisor && a < WINDOW_AXES; a++) {
    Taps t = window_taps(&p->w, a, at[a]);
    n *= (double)(p->divisor == 2 ? t.padded : t.end > t.first ? t.end - t.first : 0);
  }
  return n > 0 ? n : 1;
}

static void average_pool(const Pooling *p, int64_t plane, void *scratch) {
  const Window *w = &p->w;
  float *laid = scratch, *y = p->y + plane * p->to;
  Row row = {.sum = (double *)(laid + round_up(p->phases * p->phase, 16))};
  memset(laid, 0, (size_t)(p->phases * p->phase) * sizeof *laid);
  for (int64_t i = 0; i < w->out[0]; i++)
    for (int64_t j = 0; j < w->out[1]; j++, y += w->out[2]) {
      memset(row.sum, 0, (size_t)w->out[2] * sizeof *row.sum);
      each_row(p, p->x + plane * p->from, i, j, laid, visit_sum, &row);
      for (int64_t k = 0; k < w->out[2]; k++)
        y[k] = (float)(row.sum[k] / divisor_of(p, i, j, k));
    }
}

/* What the rows of windows of slice i say of themselves, [rows][windows]. */
typedef void Say(const Pooling *p, int64_t plane, int64_t i, float *laid, void *said);

static void say_largest(const Pooling *p, int64_t plane, int64_t i, float *laid, void *said) {
  const Window *w = &p->w;
  Row row = {.y = laid + p->phases * p->phase, .best = said};
  fill(laid, p->phases * p->phase, -INFINITY);
  for (int64_t j = 0; j < w->out[1]; j++, row.best += w->out[2]) {
    fill(row.y, w->out[2], -INFINITY);
    memset(row.best, -1, (size_t)w->out[2] * sizeof *row.best);
    each_row(p, p->x + plane * p->from, i, j, laid, visit_largest, &row);
    for (int64_t k = 0; k < w->out[2]; k++)
      if (row.best[k] < 0)
        row.best[k] = first_tap(w, i, j, k);
  }
}

static void say_share(const Pooling *p, int64_t plane, int64_t i, float *laid, void *said) {
  (void)laid;
  const Window *w = &p->w;
  const float *dy = p->dy + plane * p->to + i * w->out[1] * w->out[2];
  float *share = said;
  for (int64_t j = 0; j < w->out[1]; j++)
    for (int64_t k = 0; k < w->out[2]; k++)
      *share++ = (float)((double)*dy++ / divisor_of(p, i, j, k));
}

/* To a row of X as it is laid out, what a row of windows has for it through these taps: the last ones first, whose
 * windows come first. */
typedef void Give(const Pooling *p, const void *said, const float *dy, int64_t first_tap, float *laid);

WIDE_LOOPS static void add_chosen(const int32_t *best, int32_t tap, const float *dy, float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    x[i] = best[i] == tap ? x[i] + dy[i] : x[i];
}

static void give_largest(const Pooling *p, const void *said, const float *dy, int64_t first_tap, float *laid) {
  for (int64_t f = p->w.kernel[2] - 1; f >= 0; f--)
    add_chosen(said, (int32_t)(first_tap + f), dy, laid + tap_at(p, f), p->w.out[2]);
}

WIDE_LOOPS static void add_all(const float *share, float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    x[i] += share[i];
}

static void give_share(const Pooling *p, const void *said, const float *dy, int64_t first_tap, float *laid) {
  (void)dy, (void)first_tap;
  for (int64_t f = p->w.kernel[2] - 1; f >= 0; f--)
    add_all(said, laid + tap_at(p, f), p->w.out[2]);
}

/* The windows along an axis that may meet place `at`: first … end - 1; those of which `tap` is a tap do. */
static int64_t first_window(const Window *w, int axis, int64_t at) {
  int64_t behind = at + w->begin[axis] - (w->kernel[axis] - 1) * w->dilation[axis];
  return behind <= 0 ? 0 : (behind - 1) / w->stride[axis] + 1;
}

static int64_t end_window(const Window *w, int axis, int64_t at) {
  return least((at + w->begin[axis]) / w->stride[axis] + 1, w->out[axis]);
}

static int64_t tap_of(const Window *w, int axis, int64_t at, int64_t window) {
  int64_t behind = at + w->begin[axis] - window * w->stride[axis];
  return behind % w->dilation[axis] ? -1 : behind / w->dilation[axis];
}

static void gather_row(const Pooling *p, int64_t plane, int64_t slice, int64_t row, const float *said, int64_t first,
                       Give *give, float *laid) {
  const Window *w = &p->w;
  const int64_t windows = w->out[1] * w->out[2];
  const float *dy = p->dy + plane * p->to;
  memset(laid, 0, (size_t)(p->phases * p->phase) * sizeof *laid);
  for (int64_t i = first_window(w, 0, slice); i < end_window(w, 0, slice); i++)
    for (int64_t j = first_window(w, 1, row); j < end_window(w, 1, row); j++) {
      int64_t d = tap_of(w, 0, slice, i), e = tap_of(w, 1, row, j);
      if (d >= 0 && e >= 0)
        give(p, said + (i - first) * windows + j * w->out[2], dy + i * windows + j * w->out[2],
             (d * w->kernel[1] + e) * w->kernel[2], laid);
    }
  put_row(p, laid, p->dx + plane * p->from + (slice * w->in[1] + row) * w->in[2]);
}

static void gather(const Pooling *p, int64_t plane, void *scratch, Say *say, Give *give) {
  const Window *w = &p->w;
  float *laid = scratch, *said = laid + p->phases * p->phase + w->out[2];
  for (int64_t slice = 0; slice < w->in[0]; slice += p->slices) {
    int64_t end = least(slice + p->slices, w->in[0]), first = first_window(w, 0, slice);
    for (int64_t i = first; i < end_window(w, 0, end - 1); i++)
      say(p, plane, i, laid, said + (i - first) * w->out[1] * w->out[2]);
    for (int64_t at = slice; at < end; at++)
      for (int64_t row = 0; row < w->in[1]; row++)
        gather_row(p, plane, at, row, said, first, give, laid);
  }
}

static void max_pool_grad(const Pooling *p, int64_t plane, void *scratch) {
  gather(p, plane, scratch, say_largest, give_largest);
}

static void average_pool_grad(const Pooling *p, int64_t plane, void *scratch) {
  gather(p, plane, scratch, say_share, give_share);
}

#define PLANES(name)                                                                                                   \
  static Status name##_task(void *context, int64_t i, void *scratch) {                                                 \
    const Pooling *p = context;                                                                                        \
    for (int64_t plane = i * p->of_task; plane < least((i + 1) * p->of_task, p->planes); plane++)                      \
      name(p, plane, scratch);                                                                                         \
    return OK;                                                                                                         \
  }
PLANES(max_pool)
PLANES(max_pool_grad)
PLANES(average_pool)
PLANES(average_pool_grad)

/* Of two axes the first lies in front, which slices cut. */
static void turn_axes(Window *w) {
  if (w->in[0] != 1 || w->out[0] != 1 || w->kernel[0] != 1 || w->begin[0] != 0 || w->end[0] != 0)
    return;
  int64_t *axes[] = {w->in, w->out, w->kernel, w->stride, w->dilation, w->begin, w->end};
  for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
    int64_t first = axes[i][0];
    axes[i][0] = axes[i][1];
    axes[i][1] = first;
  }
}

/* Whether a task's rows fit its scratch, with what windows say where there is a gradient, and taps an int32. */
static bool fits(Pooling *p, bool grad) {
  enum { ELEMENTS = POOL_SCRATCH_BYTES / (int)sizeof(float) };
  const Window *w = &p->w;
  double reach = (double)(w->kernel[2] - 1) * (double)w->dilation[2], before = (double)w->begin[2];
  if ((double)w->kernel[0] * (double)w->kernel[1] * (double)w->kernel[2] > INT32_MAX || w->out[2] > ELEMENTS / 8 ||
      reach > ELEMENTS || before > ELEMENTS)
    return false;
  int64_t last = (w->kernel[2] - 1) * w->dilation[2];
  p->phases = least(w->stride[2], last + 1);
  p->phase = w->out[2] + last / w->stride[2];
  int64_t covered = (w->out[2] - 1) * w->stride[2] + last + 1 - w->begin[2];
  p->covered = covered < 0 ? 0 : least(covered, w->in[2]);
  if (p->phases > ELEMENTS / 2 / p->phase)
    return false;
  int64_t left = ELEMENTS - p->phases * p->phase - w->out[2];
  int64_t windows = left / w->out[2] / w->out[1];
  p->slices = windows * least(w->stride[0], w->in[0]) - (w->kernel[0] - 1) * w->dilation[0];
  return !grad || p->slices > 0;
}

/* x: X's shape. */
static Status pooling_of(const Node *node, Shape x, Pooling *p) {
  TRY(window_of(node, x, &p->w));
  turn_axes(&p->w);
  p->planes = x.dim[0] * x.dim[1];
  p->from = p->w.in[0] * p->w.in[1] * p->w.in[2];
  p->to = p->w.out[0] * p->w.out[1] * p->w.out[2];
  p->divisor = node_int(node, "divisor", 1);
  p->of_task = items_of_task(p->planes, p->from + p->to);
  return OK;
}

static Status run_planes(Stream *stream, Pooling *p, Task *task) {
  return p->planes ? pool_run(stream->pool, (p->planes + p->of_task - 1) / p->of_task, task, p) : OK;
}

CPU_KERNEL(MaxPool, .accepts = takes_pooled) {
  Pooling p = {.x = in->data, .y = out->data};
  TRY(pooling_of(node, in->shape, &p));
  if (node->n_out > 1 && out[1].data)
    return reference_MaxPool.run(stream, node, in, out, workspace, state);
  if (in->dtype != F32 || !fits(&p, false))
    return split_leading(stream, node, in, out, 2, reference_MaxPool.run);
  return run_planes(stream, &p, max_pool_task);
}

CPU_KERNEL(MaxPoolGrad, .accepts = takes_floats) {
  CPU_UNUSED;
  Pooling p = {.dy = in[0].data, .x = in[1].data, .dx = out->data};
  TRY(pooling_of(node, in[1].shape, &p));
  if (in->dtype != F32 || !fits(&p, true))
    return split_leading(stream, node, in, out, 2, reference_MaxPoolGrad.run);
  return run_planes(stream, &p, max_pool_grad_task);
}

CPU_KERNEL(AveragePool, .accepts = takes_floats) {
  CPU_UNUSED;
  Pooling p = {.x = in->data, .y = out->data};
  TRY(pooling_of(node, in->shape, &p));
  if (in->dtype != F32 || !fits(&p, false))
    return split_leading(stream, node, in, out, 2, reference_AveragePool.run);
  return run_planes(stream, &p, average_pool_task);
}

CPU_KERNEL(AveragePoolGrad, .accepts = takes_floats) {
  CPU_UNUSED;
  Pooling p = {.dy = in->data, .dx = out->data};
  TRY(pooling_of(node, out->shape, &p));
  if (in->dtype != F32 || !fits(&p, true))
    return split_leading(stream, node, in, out, 2, reference_AveragePoolGrad.run);
  return run_planes(stream, &p, average_pool_grad_task);
}
