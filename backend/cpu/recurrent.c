/* RecurrentSteps and its gradient over threads, in float32: R is packed once, then each step is one product whose tasks
 * also do what follows for their units. Invariant: a task owns rows of samples and a range of units in all gates;
 * nobody else reads what it writes before the step is over. An element of a product is the sum of blocks of K_BLOCK
 * along k, each from left to right. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/ways.h"
#include "backend/reference/recurrent.h"

enum {
  K_BLOCK = 256,
  ROW_TASK = 120, /* samples of a task, a multiple of every tile's rows */
  UNIT_TASKS = 16,
  MOST_UNITS = 128, /* of a task, and a multiple of every strip */
  STRIP = 2 * MOST_VECTOR_BYTES / sizeof(float)
};

typedef struct {
  Steps s;
  const Isa *isa;
  Tensor in[7];
  const Tensor *out;
  bool lstm, after, backward;
  int64_t blocks, k;     /* of R: blocks of `units` columns each, k rows: gates, H forward; 1, gates H backward */
  int64_t strip, padded; /* columns of a strip; units in whole strips */
  int64_t unit_task, across;
  int64_t step; /* number of the step walked; backward it is that behind whose product is added, too */
  float *packed;
} Job;

/* ---- the product of a step ---- */

/* R as strips: block along k, gate, strip. */
static Status pack_task(void *context, int64_t i, void *scratch) {
  const Job *j = context;
  int64_t l = i / j->blocks * K_BLOCK, block = i % j->blocks, H = j->s.units, k = least(j->k - l, K_BLOCK);
  const float *R = j->in[j->backward ? STEPS_GRAD_R : STEPS_R].data;
  float *to = j->packed + j->blocks * j->padded * l + block * j->padded * k;
  (void)scratch;
  if (j->backward) /* (k, unit) is R's (k, unit) */
    j->isa->pack_b_f32(R + l * H, H, 1, H, k, to);
  else
    j->isa->pack_b_f32(R + block * H * H + l, 1, H, H, k, to);
  return OK;
}

/* C [rows, blocks · width] = A [rows, k] R for `width` units from `unit` on, both in whole strips. C has whole tiles.
 */
static void step_product(const Job *j, const float *A, int64_t rows, int64_t unit, int64_t width, float *strips,
                         float *C) {
  int64_t height = j->isa->tile_rows, row = j->blocks * width;
  for (int64_t l = 0; l < j->k; l += K_BLOCK) {
    int64_t k = least(j->k - l, K_BLOCK);
    j->isa->pack_a_f32(A + l, j->k, 1, rows, k, strips);
    for (int64_t b = 0; b < j->blocks; b++) {
      const float *from = j->packed + j->blocks * j->padded * l + b * j->padded * k;
      for (int64_t u = 0; u < width; u += j->strip)
        for (int64_t r = 0; r < rows; r += height)
          j->isa->tile_f32(k, strips + r * k, from + (unit + u) * k, C + r * row + b * width + u, row, l != 0);
    }
  }
}

/* ---- forward ---- */

/* x = p + s + b; b may be NULL. */
WIDE_LOOPS static void gate_sum(const float *p, const float *s, const float *b, float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    x[i] = p[i] + s[i];
  for (int64_t i = 0; b && i < n; i++)
    x[i] += b[i];
}

WIDE_LOOPS static void new_cell(const float *i, const float *f, const float *g, float *before, float *c, int64_t n) {
  for (int64_t u = 0; u < n; u++) {
    before[u] = c[u];
    c[u] = f[u] * c[u] + i[u] * g[u];
  }
}

WIDE_LOOPS static void multiply(const float *a, const float *b, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = a[i] * b[i];
}

/* (1 - z) x + z h */
WIDE_LOOPS static void blend(const float *z, const float *x, const float *h, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = (1 - z[i]) * x[i] + z[i] * h[i];
}

WIDE_LOOPS static void positive(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    x[i] = x[i] > 0 ? x[i] : 0;
}

/* Pointers to the units of one sample, from the task's first on; gates lie H apart, of sums `width`. */
typedef struct {
  int64_t n, H, width; /* units */
  const float *p, *sums, *bias, *before;
  float *saved, *c, *h, *work;
} Row;

static void lstm_row(const Job *j, const Row *r) {
  static const int gates = 4;
  float *gate[4];
  for (int g = 0; g < gates; g++) {
    gate[g] = r->saved + g * r->H;
    gate_sum(r->p + g * r->H, r->sums + g * r->width, r->bias ? r->bias + g * r->H : NULL, gate[g], r->n);
    (g < 3 ? j->isa->sigmoid : j->isa->tanh)(gate[g], gate[g], r->n);
  }
  new_cell(gate[0], gate[2], gate[3], r->saved + 4 * r->H, r->c, r->n);
  j->isa->tanh(r->c, r->work, r->n);
  multiply(gate[1], r->work, r->h, r->n);
}

/* Where the reset comes after. */
static void gru_row(const Job *j, const Row *r) {
  float *z = r->saved, *reset = z + r->H, *candidate = reset + r->H, *linear = candidate + r->H;
  for (int g = 0; g < 2; g++) {
    float *gate = r->saved + g * r->H;
    gate_sum(r->p + g * r->H, r->sums + g * r->width, r->bias ? r->bias + g * r->H : NULL, gate, r->n);
    j->isa->sigmoid(gate, gate, r->n);
  }
  memcpy(linear, r->sums + 2 * r->width, (size_t)r->n * sizeof *linear);
  for (int64_t u = 0; r->bias && u < r->n; u++)
    linear[u] += r->bias[2 * r->H + u];
  multiply(reset, linear, r->work, r->n);
  gate_sum(r->p + 2 * r->H, r->work, r->bias ? r->bias + 3 * r->H : NULL, candidate, r->n);
  j->isa->tanh(candidate, candidate, r->n);
  blend(z, candidate, r->before, r->h, r->n);
}

static void plain_row(const Job *j, const Row *r) {
  gate_sum(r->p, r->sums, r->bias, r->h, r->n);
  if (j->s.r.cell == CELL_RELU)
    positive(r->h, r->n);
  else
    j->isa->tanh(r->h, r->h, r->n);
}

/* Task i: its rows and units, in whole strips. */
static void task_range(const Job *j, int64_t i, int64_t *row, int64_t *rows, int64_t *unit, int64_t *width) {
  *row = i / j->across * ROW_TASK;
  *rows = least(j->s.samples - *row, ROW_TASK);
  *unit = i % j->across * j->unit_task;
  *width = least(j->padded - *unit, j->unit_task);
}

static Status forward_task(void *context, int64_t i, void *scratch) {
  const Job *j = context;
  const Steps *s = &j->s;
  int64_t H = s->units, gates = s->r.gates * H, saves = s->r.saved * H, row, rows, unit, width;
  int64_t t = step_at(s, j->step), next = j->step + 1 < s->steps ? step_at(s, j->step + 1) : -1;
  float *C = scratch, *strips = C + ROW_TASK * s->r.gates * MOST_UNITS, *work = strips + ROW_TASK * K_BLOCK;
  float *Y = j->out[0].data, *last = j->out[1].data, *prev = j->out[2 + j->lstm].data;
  float *saved = saves ? j->out[3 + j->lstm].data : NULL;
  task_range(j, i, &row, &rows, &unit, &width);
  step_product(j, prev + (t * s->samples + row) * H, rows, unit, width, strips, C);
  for (int64_t k = 0; k < rows; k++) {
    int64_t n = row + k, at = t * s->samples + n, units = least(H - unit, width);
    size_t bytes = (size_t)units * sizeof(float);
    Row r = {.n = units, .H = H, .width = width};
    r.p = (const float *)j->in[STEPS_P].data + at * gates + unit;
    r.sums = C + k * s->r.gates * width;
    r.bias = j->in[STEPS_B].data ? (const float *)j->in[STEPS_B].data + unit : NULL;
    r.before = prev + at * H + unit;
    r.saved = saves ? saved + at * saves + unit : NULL;
    r.c = j->lstm ? (float *)j->out[2].data + n * H + unit : NULL;
    r.h = Y + at * H + unit;
    r.work = work;
    float *state = (next < 0 ? last + n * H : prev + (next * s->samples + n) * H) + unit;
    if (step_counts(s, t, n)) {
      (j->lstm ? lstm_row : saves ? gru_row : plain_row)(j, &r);
      memcpy(state, r.h, bytes);
      continue;
    }
    memset(r.h, 0, bytes);
    for (int b = 0; b < s->r.saved; b++)
      memset(r.saved + b * H, 0, bytes);
    memmove(state, r.before, bytes);
  }
  return OK;
}

/* ---- backward ---- */

/* d: the cotangent of the step's state; becomes what goes to the step before beside the product. */
WIDE_LOOPS static void lstm_row_back(int64_t n, int64_t H, const float *saved, const float *cell, float *d, float *dc,
                                     float *dp) {
  const float *i = saved, *o = i + H, *f = o + H, *g = f + H, *before = g + H;
  for (int64_t u = 0; u < n; u++) {
    float at = dc[u] + d[u] * o[u] * (1 - cell[u] * cell[u]);
    dp[u] = at * g[u] * i[u] * (1 - i[u]);
    dp[H + u] = d[u] * cell[u] * o[u] * (1 - o[u]);
    dp[2 * H + u] = at * before[u] * f[u] * (1 - f[u]);
    dp[3 * H + u] = at * i[u] * (1 - g[u] * g[u]);
    dc[u] = at * f[u];
    d[u] = 0;
  }
}

WIDE_LOOPS static void cell_of(int64_t n, int64_t H, const float *saved, float *cell) {
  for (int64_t u = 0; u < n; u++)
    cell[u] = saved[2 * H + u] * saved[4 * H + u] + saved[u] * saved[3 * H + u];
}

WIDE_LOOPS static void gru_row_back(int64_t n, int64_t H, const float *saved, const float *h, float *d, float *dp,
                                    float *ds) {
  const float *z = saved, *r = z + H, *candidate = r + H, *linear = candidate + H;
  for (int64_t u = 0; u < n; u++) {
    float dz = d[u] * (h[u] - candidate[u]) * z[u] * (1 - z[u]);
    float dn = d[u] * (1 - z[u]) * (1 - candidate[u] * candidate[u]), dr = dn * linear[u] * r[u] * (1 - r[u]);
    dp[u] = ds[u] = dz;
    dp[H + u] = ds[H + u] = dr;
    dp[2 * H + u] = dn;
    ds[2 * H + u] = dn * r[u];
    d[u] *= z[u];
  }
}

WIDE_LOOPS static void plain_row_back(bool relu, int64_t n, const float *y, float *d, float *dp) {
  for (int64_t u = 0; u < n; u++) {
    dp[u] = relu ? (y[u] > 0 ? d[u] : 0) : d[u] * (1 - y[u] * y[u]);
    d[u] = 0;
  }
}

WIDE_LOOPS static void add_to(float *y, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] += x[i];
}

static void row_back(const Job *j, int64_t t, int64_t n, int64_t unit, int64_t units, float *work) {
  const Steps *s = &j->s;
  int64_t H = s->units, gates = s->r.gates * H, at = t * s->samples + n;
  const float *saved = j->in[STEPS_GRAD_SAVED].data, *prev = j->in[STEPS_GRAD_PREV].data,
              *dY = j->in[STEPS_GRAD_Y].data;
  float *dh = (float *)j->out[1].data + n * H + unit, *dp = (float *)j->out[0].data + at * gates + unit;
  float *ds = j->after ? (float *)j->out[2].data + at * gates + unit : NULL;
  if (!step_counts(s, t, n)) {
    for (int g = 0; g < s->r.gates; g++) {
      memset(dp + g * H, 0, (size_t)units * sizeof *dp);
      if (ds)
        memset(ds + g * H, 0, (size_t)units * sizeof *ds);
    }
    return;
  }
  if (dY)
    add_to(dh, dY + at * H + unit, units);
  const float *keep = saved + at * (s->r.saved ? s->r.saved : 1) * H + unit;
  if (j->lstm) {
    cell_of(units, H, keep, work);
    j->isa->tanh(work, work, units);
    lstm_row_back(units, H, keep, work, dh, (float *)j->out[2].data + n * H + unit, dp);
  } else if (s->r.saved) {
    gru_row_back(units, H, keep, prev + at * H + unit, dh, dp, ds);
  } else {
    plain_row_back(s->r.cell == CELL_RELU, units, keep, dh, dp);
  }
}

/* What the step behind gives through R, then the step itself; before the first there is only that product. */
static Status backward_task(void *context, int64_t i, void *scratch) {
  const Job *j = context;
  const Steps *s = &j->s;
  int64_t H = s->units, row, rows, unit, width;
  float *C = scratch, *strips = C + ROW_TASK * MOST_UNITS, *work = strips + ROW_TASK * K_BLOCK;
  const float *d = j->out[j->after ? 2 : 0].data;
  task_range(j, i, &row, &rows, &unit, &width);
  int64_t units = least(H - unit, width);
  if (j->step + 1 < s->steps) {
    step_product(j, d + (step_at(s, j->step + 1) * s->samples + row) * j->k, rows, unit, width, strips, C);
    for (int64_t k = 0; k < rows; k++)
      add_to((float *)j->out[1].data + (row + k) * H + unit, C + k * width, units);
  }
  for (int64_t k = 0; k < rows && j->step >= 0; k++)
    row_back(j, step_at(s, j->step), row + k, unit, units, work);
  return OK;
}

/* ---- kernels ---- */

static size_t packed_bytes(const Graph *graph, const Node *node, size_t budget) {
  const Value *R = graph_value(graph, node->in[node->op == OP_RecurrentSteps ? STEPS_R : STEPS_GRAD_R]);
  size_t bytes = (size_t)(R->shape.dim[0] * round_up(R->shape.dim[1], STRIP)) * sizeof(float);
  const KernelDef *plain = node->op == OP_RecurrentSteps ? &reference_RecurrentSteps : &reference_RecurrentStepsGrad;
  size_t other = plain->workspace(graph, node, budget);
  return bytes > other ? bytes : other;
}

static Status job_init(Job *j, Stream *stream, const Node *node, const Tensor *in, const Tensor *out, bool backward,
                       void *workspace) {
  *j = (Job){.isa = stream->isa, .out = out, .backward = backward, .packed = workspace};
  memcpy(j->in, in, (size_t)node->n_in * sizeof *in);
  j->s = steps_of(node, j->in, backward ? in[STEPS_GRAD_PREV].shape : out[0].shape,
                  backward ? STEPS_GRAD_LENGTHS : STEPS_LENGTHS);
  int64_t H = j->s.units;
  j->lstm = j->s.r.cell == CELL_LSTM;
  j->after = j->s.r.cell == CELL_GRU_AFTER;
  j->blocks = backward ? 1 : j->s.r.gates;
  j->k = backward ? j->s.r.gates * H : H;
  j->strip = 2 * stream->isa->vector_bytes / (int64_t)sizeof(float);
  j->padded = round_up(H, j->strip);
  j->unit_task = least(round_up((H + UNIT_TASKS - 1) / UNIT_TASKS, STRIP), MOST_UNITS);
  j->across = (j->padded + j->unit_task - 1) / j->unit_task;
  return pool_run(stream->pool, (j->k + K_BLOCK - 1) / K_BLOCK * j->blocks, pack_task, j);
}

static int64_t tasks_of(const Job *j) {
  return (j->s.samples + ROW_TASK - 1) / ROW_TASK * j->across;
}

/* out = input i, or zeros. */
static void begin(const Job *j, int i, const Tensor *out) {
  size_t bytes = (size_t)shape_elements(out->shape) * sizeof(float);
  if (j->in[i].data)
    memcpy(out->data, j->in[i].data, bytes);
  else
    memset(out->data, 0, bytes);
}

/* Others than float32, and a reset that comes before a product of its own, are the reference's. */
bool recurrent_takes(const Node *node, DType dtype) {
  Recurrent r;
  return dtype == F32 && recurrent_of(node, &r) && r.cell != CELL_GRU;
}

CPU_KERNEL(RecurrentSteps, .accepts = takes_floats, .workspace = packed_bytes) {
  Job j;
  if (!recurrent_takes(node, in->dtype))
    return reference_RecurrentSteps.run(stream, node, in, out, workspace, state);
  TRY(job_init(&j, stream, node, in, out, false, workspace));
  begin(&j, STEPS_H0, &out[1]);
  if (j.lstm)
    begin(&j, STEPS_C0, &out[2]);
  if (!j.s.steps || !j.s.samples)
    return OK;
  Tensor first = {.shape = out[1].shape};
  first.data = (float *)out[2 + j.lstm].data + step_at(&j.s, 0) * j.s.samples * j.s.units;
  begin(&j, STEPS_H0, &first);
  for (j.step = 0; j.step < j.s.steps; j.step++)
    TRY(pool_run(stream->pool, tasks_of(&j), forward_task, &j));
  return OK;
}

CPU_KERNEL(RecurrentStepsGrad, .accepts = takes_floats, .workspace = packed_bytes) {
  Job j;
  if (!recurrent_takes(node, in->dtype))
    return reference_RecurrentStepsGrad.run(stream, node, in, out, workspace, state);
  TRY(job_init(&j, stream, node, in, out, true, workspace));
  begin(&j, STEPS_GRAD_H, &out[1]);
  if (j.lstm)
    begin(&j, STEPS_GRAD_C, &out[2]);
  for (j.step = j.s.steps - 1; j.step >= -1 && j.s.samples; j.step--)
    TRY(pool_run(stream->pool, tasks_of(&j), backward_task, &j));
  return OK;
}
