/* Depthwise convolutions. A row of X meets a row of Y once for each tap of the last axis: result i meets element
 * i * step + shift of the other row. */
#include "backend/cpu/depthwise.h"

#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/reference.h"

enum {
  MOST_TAPS = 64,                                               /* of the last axis */
  MOST_FILTERS = 8,                                             /* of a group: more make a good product */
  LANES = 16,                                                   /* of a dot product */
  MOST_PLANE = POOL_SCRATCH_BYTES / LANES / (int)sizeof(float), /* taps in all */
  TASKS = 32                                                    /* at least, where there are as many samples */
};

typedef struct {
  const Convolution *c;
  const float *x, *w, *dy; /* Y or dY, X or dX */
  float *result;
  double *sums;    /* [parts, groups * filters * k_plane] */
  int64_t parts;   /* of the samples */
  int64_t of_task; /* planes */
} Depthwise;

bool depthwise_takes(const Convolution *c, DType dtype) {
  return dtype == F32 && c->channels == 1 && c->groups > 1 && c->filters <= MOST_FILTERS && c->k[2] <= MOST_TAPS &&
         c->k_plane <= MOST_PLANE && c->x[2] + c->stride[2] <= POOL_SCRATCH_BYTES / (int64_t)sizeof(float) / 2;
}

static int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}

/* Of n results, those that meet one of m elements: *first and the end. */
static int64_t meeting(int64_t n, int64_t m, int64_t step, int64_t shift, int64_t *first) {
  *first = shift < 0 ? (-shift + step - 1) / step : 0;
  int64_t end = shift < m ? (m - 1 - shift) / step + 1 : 0;
  end = least(end, n);
  *first = least(*first, end);
  return end;
}

#define AXPY(step)                                                                                                     \
  for (int64_t i = 0; i < n; i++)                                                                                      \
    y[i] += w * x[(step)*i];

WIDE_LOOPS static void add_tap(const float *x, int64_t step, float w, float *y, int64_t n) {
  if (step == 1)
    AXPY(1)
  else if (step == 2)
    AXPY(2)
  else
    AXPY(step)
}

#define AXPY_3(step)                                                                                                   \
  for (int64_t i = 0; i < n; i++)                                                                                      \
    y[i] = ((y[i] + w[0] * a[(step)*i]) + w[1] * b[(step)*i]) + w[2] * c[(step)*i];

/* Three taps at once, each element as by one after the other. */
WIDE_LOOPS static void add_3_taps(const float *a, const float *b, const float *c, int64_t step, const float w[3],
                                  float *y, int64_t n) {
  if (step == 1)
    AXPY_3(1)
  else if (step == 2)
    AXPY_3(2)
  else
    AXPY_3(step)
}

/* One row of n results: y += the taps of a row of m elements. Tap t meets results first[t] … end[t] - 1, it and the two
 * behind it together first_3[t] … end_3[t] - 1. */
typedef struct {
  int64_t n, m, step;
  int taps;
  int64_t shift[MOST_TAPS], first[MOST_TAPS], end[MOST_TAPS], first_3[MOST_TAPS], end_3[MOST_TAPS];
} RowTaps;

static void measure_taps(RowTaps *r) {
  for (int t = 0; t < r->taps; t++)
    r->end[t] = meeting(r->n, r->m, r->step, r->shift[t], &r->first[t]);
  for (int t = 0; t + 3 <= r->taps; t++) {
    r->first_3[t] = r->first[t];
    r->end_3[t] = r->end[t];
    for (int i = t + 1; i < t + 3; i++) {
      r->first_3[t] = r->first[i] > r->first_3[t] ? r->first[i] : r->first_3[t];
      r->end_3[t] = least(r->end_3[t], r->end[i]);
    }
    if (r->end_3[t] < r->first_3[t])
      r->end_3[t] = r->first_3[t];
  }
}

/* The results from `begin` on that tap t meets, before `stop`: few, or those of a tap that stands alone. */
static void add_one(const RowTaps *r, int t, int64_t begin, int64_t stop, const float *x, float w, float *y) {
  int64_t first = r->first[t] > begin ? r->first[t] : begin, end = least(r->end[t], stop);
  x += r->shift[t];
  if (end - first > 3)
    add_tap(x + first * r->step, r->step, w, y + first, end - first);
  else
    for (int64_t i = first; i < end; i++)
      y[i] += w * x[i * r->step];
}

static void add_row(const RowTaps *r, const float *x, const float *w, float *y) {
  int t = 0;
  for (; t + 3 <= r->taps; t += 3) {
    int64_t first = r->first_3[t], end = r->end_3[t];
    for (int i = t; i < t + 3; i++) {
      add_one(r, i, 0, first, x, w[i], y);
      add_one(r, i, end, r->n, x, w[i], y);
    }
    const float *at = x + first * r->step;
    if (first < end)
      add_3_taps(at + r->shift[t], at + r->shift[t + 1], at + r->shift[t + 2], r->step, w + t, y + first, end - first);
  }
  for (; t < r->taps; t++)
    add_one(r, t, 0, r->n, x, w[t], y);
}

/* Result rows (i, j) of a plane meet X's rows i * stride + a * dilation - pad …: NULL where there is none. */
static const float *row_of_x(const Convolution *c, const float *plane, int64_t i, int64_t j, int64_t a, int64_t b) {
  int64_t z = i * c->stride[0] + a * c->dilation[0] - c->pad[0], y = j * c->stride[1] + b * c->dilation[1] - c->pad[1];
  return z < 0 || z >= c->x[0] || y < 0 || y >= c->x[1] ? NULL : plane + (z * c->x[1] + y) * c->x[2];
}

static RowTaps forward_taps(const Convolution *c) {
  RowTaps r = {.n = c->y[2], .m = c->x[2], .step = c->stride[2], .taps = (int)c->k[2]};
  for (int t = 0; t < r.taps; t++)
    r.shift[t] = t * c->dilation[2] - c->pad[2];
  measure_taps(&r);
  return r;
}

static Status forward_task(void *context, int64_t task, void *scratch) {
  const Depthwise *d = context;
  const Convolution *c = d->c;
  RowTaps taps = forward_taps(c);
  int64_t planes = c->samples * c->groups * c->filters;
  (void)scratch;
  for (int64_t p = task * d->of_task; p < least((task + 1) * d->of_task, planes); p++) {
    const float *w = d->w + p % (c->groups * c->filters) * c->k_plane, *x = d->x + p / c->filters * c->x_plane;
    float *y = d->result + p * c->y_plane;
    memset(y, 0, (size_t)c->y_plane * sizeof *y);
    for (int64_t i = 0; i < c->y[0]; i++)
      for (int64_t j = 0; j < c->y[1]; j++, y += c->y[2])
        for (int64_t a = 0; a < c->k[0]; a++)
          for (int64_t b = 0; b < c->k[1]; b++) {
            const float *row = row_of_x(c, x, i, j, a, b);
            if (row)
              add_row(&taps, row, w + (a * c->k[1] + b) * c->k[2], y);
          }
  }
  return OK;
}

/* The index of dY that X's index meets by a tap, -1 where none. */
static int64_t index_of_y(const Convolution *c, int axis, int64_t at, int64_t tap) {
  int64_t from = at + c->pad[axis] - tap * c->dilation[axis], i = from / c->stride[axis];
  return from < 0 || from % c->stride[axis] || i >= c->y[axis] ? -1 : i;
}

/* Of a row of dX those elements that lie stride apart, from `phase` on, and the taps that reach them. */
typedef struct {
  RowTaps taps;
  int tap[MOST_TAPS]; /* in the kernel */
} InputPhase;

static InputPhase phase_of(const Convolution *c, int64_t phase) {
  InputPhase p = {
      .taps = {.n = phase < c->x[2] ? (c->x[2] - 1 - phase) / c->stride[2] + 1 : 0, .m = c->y[2], .step = 1}};
  for (int64_t t = 0; t < c->k[2]; t++) {
    int64_t from = phase + c->pad[2] - t * c->dilation[2], shift = floor_div(from, c->stride[2]);
    if (from == shift * c->stride[2]) {
      p.tap[p.taps.taps] = (int)t;
      p.taps.shift[p.taps.taps++] = shift;
    }
  }
  measure_taps(&p.taps);
  return p;
}

/* Adds to one phase of a row of dX what the taps' rows of dY bring. */
static void gather_row(const Convolution *c, const InputPhase *p, const float *dy, const float *w, int64_t i, int64_t j,
                       float *row) {
  float picked[MOST_TAPS];
  for (int64_t a = 0; a < c->k[0]; a++) {
    int64_t z = index_of_y(c, 0, i, a);
    for (int64_t b = 0; z >= 0 && b < c->k[1]; b++) {
      int64_t y = index_of_y(c, 1, j, b);
      if (y < 0)
        continue;
      for (int t = 0; t < p->taps.taps; t++)
        picked[t] = w[(a * c->k[1] + b) * c->k[2] + p->tap[t]];
      add_row(&p->taps, dy + (z * c->y[1] + y) * c->y[2], picked, row);
    }
  }
}

static Status grad_input_task(void *context, int64_t task, void *scratch) {
  const Depthwise *d = context;
  const Convolution *c = d->c;
  float *row = scratch;
  for (int64_t phase = 0; phase < c->stride[2]; phase++) {
    InputPhase p = phase_of(c, phase);
    for (int64_t at = task * d->of_task; at < least((task + 1) * d->of_task, c->samples * c->groups); at++)
      for (int64_t line = 0; line < c->x[0] * c->x[1]; line++) {
        memset(row, 0, (size_t)p.taps.n * sizeof *row);
        for (int64_t f = 0; f < c->filters; f++)
          gather_row(c, &p, d->dy + (at * c->filters + f) * c->y_plane,
                     d->w + (at % c->groups * c->filters + f) * c->k_plane, line / c->x[1], line % c->x[1], row);
        float *dx = d->result + at * c->x_plane + line * c->x[2] + phase;
        if (c->stride[2] == 1)
          memcpy(dx, row, (size_t)p.taps.n * sizeof *row);
        else
          for (int64_t i = 0; i < p.taps.n; i++)
            dx[i * c->stride[2]] = row[i];
      }
  }
  return OK;
}

#define DOT(step)                                                                                                      \
  for (; i + LANES <= n; i += LANES)                                                                                   \
    for (int l = 0; l < LANES; l++)                                                                                    \
      sum[l] += dy[i + l] * x[(step) * (i + l)];

/* Adds dY's n elements times X's to the lanes in turn. */
WIDE_LOOPS static void dot(const float *dy, const float *x, int64_t step, int64_t n, float lane[LANES]) {
  float sum[LANES];
  int64_t i = 0;
  memcpy(sum, lane, sizeof sum);
  if (step == 1)
    DOT(1)
  else if (step == 2)
    DOT(2)
  else
    DOT(step)
  memcpy(lane, sum, sizeof sum);
  for (int l = 0; i < n; i++, l++)
    lane[l] += dy[i] * x[step * i];
}

/* The sums of one filter over one sample's plane, in lanes [k_plane, LANES]. */
static void sum_plane(const Convolution *c, const RowTaps *r, const float *dy, const float *x, float *lanes) {
  memset(lanes, 0, (size_t)(c->k_plane * LANES) * sizeof *lanes);
  for (int64_t i = 0; i < c->y[0]; i++)
    for (int64_t j = 0; j < c->y[1]; j++, dy += c->y[2]) {
      float *lane = lanes;
      for (int64_t a = 0; a < c->k[0]; a++)
        for (int64_t b = 0; b < c->k[1]; b++, lane += c->k[2] * LANES) {
          const float *row = row_of_x(c, x, i, j, a, b);
          for (int t = 0; t < r->taps && row; t++)
            if (r->first[t] < r->end[t])
              dot(dy + r->first[t], row + r->first[t] * r->step + r->shift[t], r->step, r->end[t] - r->first[t],
                  lane + t * LANES);
        }
    }
}

/* The sums of one filter over some samples: sum [k_plane]. Lanes meet in pairs. */
static void sum_filter(const Depthwise *d, int64_t filter, int64_t first, int64_t end, float *lanes, double *sum) {
  const Convolution *c = d->c;
  RowTaps r = forward_taps(c);
  memset(sum, 0, (size_t)c->k_plane * sizeof *sum);
  for (int64_t s = first; s < end; s++) {
    sum_plane(c, &r, d->dy + (s * c->groups * c->filters + filter) * c->y_plane,
              d->x + (s * c->groups + filter / c->filters) * c->x_plane, lanes);
    for (int64_t t = 0; t < c->k_plane; t++) {
      float *lane = lanes + t * LANES;
      for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
          lane[l] += lane[l + half];
      sum[t] += (double)lane[0];
    }
  }
}

static int64_t parts_of(const Convolution *c) {
  return least((TASKS + c->groups * c->filters - 1) / (c->groups * c->filters), c->samples);
}

static Status grad_weight_task(void *context, int64_t task, void *scratch) {
  const Depthwise *d = context;
  const Convolution *c = d->c;
  int64_t filters = c->groups * c->filters, part = task / filters, filter = task % filters;
  sum_filter(d, filter, part * c->samples / d->parts, (part + 1) * c->samples / d->parts, scratch,
             d->sums + task * c->k_plane);
  return OK;
}

size_t depthwise_sums(const Convolution *c) {
  return (size_t)(parts_of(c) * c->groups * c->filters * c->k_plane) * sizeof(double);
}

static Status run_planes(Stream *stream, Depthwise *d, int64_t planes, Task *task) {
  d->of_task = items_of_task(planes, d->c->x_plane + d->c->y_plane * d->c->filters);
  return pool_run(stream->pool, (planes + d->of_task - 1) / d->of_task, task, d);
}

Status depthwise_forward(Stream *stream, const Convolution *c, const float *x, const float *w, float *y) {
  Depthwise d = {.c = c, .x = x, .w = w, .result = y};
  return run_planes(stream, &d, c->samples * c->groups * c->filters, forward_task);
}

Status depthwise_grad_input(Stream *stream, const Convolution *c, const float *dy, const float *w, float *dx) {
  Depthwise d = {.c = c, .dy = dy, .w = w, .result = dx};
  return run_planes(stream, &d, c->samples * c->groups, grad_input_task);
}

Status depthwise_grad_weight(Stream *stream, const Convolution *c, const float *dy, const float *x, float *dw,
                             double *sums) {
  Depthwise d = {.c = c, .dy = dy, .x = x, .sums = sums, .parts = parts_of(c)};
  int64_t elements = c->groups * c->filters * c->k_plane;
  TRY(pool_run(stream->pool, d.parts * c->groups * c->filters, grad_weight_task, &d));
  for (int64_t i = 0; i < elements; i++) {
    double sum = sums[i];
    for (int64_t part = 1; part < d.parts; part++)
      sum += sums[part * elements + i];
    dw[i] = (float)sum;
  }
  return OK;
}
