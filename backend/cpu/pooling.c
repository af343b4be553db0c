/* Pooling of float32 over threads, a tap of a whole row of windows at a time. Invariant: a plane belongs to one task;
 * its windows are treated in order, so that the answers are the reference's. */
#include <math.h>
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/reference.h"
#include "graph/window.h"

typedef struct {
  Window w;
  int64_t planes, of_task, from, to; /* elements of a plane of X and of Y */
  int64_t divisor;
  const float *x, *dy;
  float *y, *dx;
} Pooling;

/* A row of windows is one of X's rows, shifted by a tap: window `first` … `end` - 1 meet x[0], x[step], … */
typedef struct {
  int64_t first, end, at, step;
} Meeting;

/* Tap `tap` of the last axis with the row of X that begins at `row`. */
static Meeting meeting(const Window *w, int64_t row, int64_t tap) {
  int64_t stride = w->stride[2], start = tap * w->dilation[2] - w->begin[2], behind = w->in[2] - start;
  Meeting m = {.first = start < 0 ? (-start + stride - 1) / stride : 0, .step = stride};
  m.end = behind <= 0 ? 0 : least((behind - 1) / stride + 1, w->out[2]);
  m.at = row + start + m.first * stride;
  return m;
}

/* Calls `visit` for every meeting of the row of windows (i, j), in order of the taps. */
typedef void Visit(const Meeting *m, void *context);

static void each_meeting(const Window *w, int64_t i, int64_t j, Visit *visit, void *context) {
  Taps a = window_taps(w, 0, i), b = window_taps(w, 1, j);
  int64_t first = window_taps(w, 2, w->out[2] - 1).first, end = window_taps(w, 2, 0).end; /* of any window */
  for (int64_t d = a.first; d < a.end; d++)
    for (int64_t e = b.first; e < b.end; e++)
      for (int64_t f = first; f < end; f++) {
        int64_t row = ((a.start + d * w->dilation[0]) * w->in[1] + b.start + e * w->dilation[1]) * w->in[2];
        Meeting m = meeting(w, row, f);
        if (m.first < m.end)
          visit(&m, context);
      }
}

/* What a row of windows is worked out in. */
typedef struct {
  const float *x; /* a plane */
  float *y, *dx;  /* a row of Y; a plane */
  int32_t *best;  /* where the largest element lies, -1 at first */
  double *sum;
  const float *share;
} Row;

/* Of numbers the first of the largest, of others the last: as the reference. */
#define LARGER(x, y) ((x) > (y) || (x) != (x))

WIDE_LOOPS static void larger(const float *x, int64_t step, float *y, int64_t n) {
  if (step == 1)
    for (int64_t i = 0; i < n; i++)
      y[i] = LARGER(x[i], y[i]) ? x[i] : y[i];
  else if (step == 2)
    for (int64_t i = 0; i < n; i++)
      y[i] = LARGER(x[2 * i], y[i]) ? x[2 * i] : y[i];
  else
    for (int64_t i = 0; i < n; i++)
      y[i] = LARGER(x[step * i], y[i]) ? x[step * i] : y[i];
}

static void visit_larger(const Meeting *m, void *context) {
  Row *row = context;
  larger(row->x + m->at, m->step, row->y + m->first, m->end - m->first);
}

WIDE_LOOPS static void largest_at(const float *x, int32_t at, int32_t step, float *y, int32_t *best, int32_t n) {
  if (step == 2)
    for (int32_t i = 0; i < n; i++) {
      bool takes = best[i] < 0 || LARGER(x[2 * i], y[i]);
      y[i] = takes ? x[2 * i] : y[i];
      best[i] = takes ? at + 2 * i : best[i];
    }
  else
    for (int32_t i = 0; i < n; i++) {
      float t = x[(int64_t)step * i];
      bool takes = best[i] < 0 || LARGER(t, y[i]);
      y[i] = takes ? t : y[i];
      best[i] = takes ? at + step * i : best[i];
    }
}

static void visit_largest(const Meeting *m, void *context) {
  Row *row = context;
  largest_at(row->x + m->at, (int32_t)m->at, (int32_t)m->step, row->y + m->first, row->best + m->first,
             (int32_t)(m->end - m->first));
}

WIDE_LOOPS static void add_row(const float *x, int64_t step, double *sum, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    sum[i] += (double)x[step * i];
}

static void visit_sum(const Meeting *m, void *context) {
  Row *row = context;
  add_row(row->x + m->at, m->step, row->sum + m->first, m->end - m->first);
}

static void visit_share(const Meeting *m, void *context) {
  Row *row = context;
  for (int64_t i = 0; i < m->end - m->first; i++)
    row->dx[m->at + i * m->step] += row->share[m->first + i];
}

static void max_pool(const Pooling *p, int64_t plane) {
  const Window *w = &p->w;
  Row row = {.x = p->x + plane * p->from, .y = p->y + plane * p->to};
  for (int64_t i = 0; i < w->out[0]; i++)
    for (int64_t j = 0; j < w->out[1]; j++, row.y += w->out[2]) {
      for (int64_t k = 0; k < w->out[2]; k++)
        row.y[k] = -INFINITY;
      each_meeting(w, i, j, visit_larger, &row);
    }
}

static void max_pool_grad(const Pooling *p, int64_t plane, void *scratch) {
  const Window *w = &p->w;
  const float *dy = p->dy + plane * p->to;
  float *dx = p->dx + plane * p->from;
  Row row = {.x = p->x + plane * p->from, .y = scratch};
  row.best = (int32_t *)(row.y + w->out[2]);
  memset(dx, 0, (size_t)p->from * sizeof *dx);
  for (int64_t i = 0; i < w->out[0]; i++)
    for (int64_t j = 0; j < w->out[1]; j++, dy += w->out[2]) {
      memset(row.best, -1, (size_t)w->out[2] * sizeof *row.best);
      each_meeting(w, i, j, visit_largest, &row);
      for (int64_t k = 0; k < w->out[2]; k++)
        if (row.best[k] >= 0)
          dx[row.best[k]] += dy[k];
    }
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
  Row row = {.x = p->x + plane * p->from, .y = p->y + plane * p->to, .sum = scratch};
  for (int64_t i = 0; i < w->out[0]; i++)
    for (int64_t j = 0; j < w->out[1]; j++, row.y += w->out[2]) {
      memset(row.sum, 0, (size_t)w->out[2] * sizeof *row.sum);
      each_meeting(w, i, j, visit_sum, &row);
      for (int64_t k = 0; k < w->out[2]; k++)
        row.y[k] = (float)(row.sum[k] / divisor_of(p, i, j, k));
    }
}

static void average_pool_grad(const Pooling *p, int64_t plane, void *scratch) {
  const Window *w = &p->w;
  const float *dy = p->dy + plane * p->to;
  float *share = scratch;
  Row row = {.dx = p->dx + plane * p->from, .share = share};
  memset(row.dx, 0, (size_t)p->from * sizeof *row.dx);
  for (int64_t i = 0; i < w->out[0]; i++)
    for (int64_t j = 0; j < w->out[1]; j++, dy += w->out[2]) {
      for (int64_t k = 0; k < w->out[2]; k++)
        share[k] = (float)((double)dy[k] / divisor_of(p, i, j, k));
      each_meeting(w, i, j, visit_share, &row);
    }
}

#define PLANES(name, ...)                                                                                              \
  static Status name##_task(void *context, int64_t i, void *scratch) {                                                 \
    const Pooling *p = context;                                                                                        \
    (void)scratch;                                                                                                     \
    for (int64_t plane = i * p->of_task; plane < least((i + 1) * p->of_task, p->planes); plane++)                      \
      name(p, plane __VA_ARGS__);                                                                                      \
    return OK;                                                                                                         \
  }
PLANES(max_pool)
PLANES(max_pool_grad, , scratch)
PLANES(average_pool, , scratch)
PLANES(average_pool_grad, , scratch)

/* Whether a row of windows fits the scratch, and places of a plane int32. */
static bool fits(const Pooling *p) {
  return p->w.out[2] <= POOL_SCRATCH_BYTES / 8 && p->from <= INT32_MAX && p->w.stride[2] <= INT32_MAX &&
         p->w.kernel[2] <= INT32_MAX;
}

/* x: X's shape. */
static Status pooling_of(const Node *node, Shape x, Pooling *p) {
  TRY(window_of(node, x, &p->w));
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
  if (in->dtype != F32 || !fits(&p))
    return split_leading(stream, node, in, out, 2, reference_MaxPool.run);
  return run_planes(stream, &p, max_pool_task);
}

CPU_KERNEL(MaxPoolGrad, .accepts = takes_floats) {
  CPU_UNUSED;
  Pooling p = {.dy = in[0].data, .x = in[1].data, .dx = out->data};
  TRY(pooling_of(node, in[1].shape, &p));
  if (in->dtype != F32 || !fits(&p))
    return split_leading(stream, node, in, out, 2, reference_MaxPoolGrad.run);
  return run_planes(stream, &p, max_pool_grad_task);
}

CPU_KERNEL(AveragePool, .accepts = takes_floats) {
  CPU_UNUSED;
  Pooling p = {.x = in->data, .y = out->data};
  TRY(pooling_of(node, in->shape, &p));
  if (in->dtype != F32 || !fits(&p))
    return split_leading(stream, node, in, out, 2, reference_AveragePool.run);
  return run_planes(stream, &p, average_pool_task);
}

CPU_KERNEL(AveragePoolGrad, .accepts = takes_floats) {
  CPU_UNUSED;
  Pooling p = {.dy = in->data, .dx = out->data};
  TRY(pooling_of(node, out->shape, &p));
  if (in->dtype != F32 || !fits(&p))
    return split_leading(stream, node, in, out, 2, reference_AveragePoolGrad.run);
  return run_planes(stream, &p, average_pool_grad_task);
}
