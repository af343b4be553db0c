/* The oracle. It knows no rule of where samples lie: it tries every layout that the sizes allow. */
#include "tests/batch/oracle.h"

#include <math.h>

static void all_arrays(const Draw *draw, int64_t samples, int64_t counts[MOST_INPUTS]) {
  for (int i = 0; i < draw->n_inputs; i++) {
    counts[i] = 1;
    for (int k = 0; k < draw->inputs[i].rank; k++)
      counts[i] *= draw->inputs[i].dim[k] < 0 ? samples : draw->inputs[i].dim[k];
  }
}

void data_draw(DrawnData *data, const Draw *draw, int64_t samples, uint64_t seed) {
  Draw dice = {.seed = seed};
  int64_t counts[MOST_INPUTS];
  *data = (DrawnData){.samples = samples};
  all_arrays(draw, samples, counts);
  for (int i = 0; i < draw->n_inputs; i++) {
    const DrawnInput *in = &draw->inputs[i];
    data->inputs[i] = calloc((size_t)counts[i] + 1, sizeof(double));
    for (int64_t k = 0; k < counts[i]; k++)
      data->inputs[i][k] =
          in->kind == REAL ? -1.5 + 3.0 * below(&dice, 1 << 20) / (1 << 20) : below(&dice, (unsigned)in->below);
  }
}

void data_free(DrawnData *data) {
  for (int i = 0; i < MOST_INPUTS; i++)
    free(data->inputs[i]);
}

Shape data_take(const DrawnData *data, const DrawnInput *in, const double *from, int64_t first, int64_t count,
                double *to) {
  Shape shape = {.rank = in->rank};
  int64_t outer = 1, inner = 1;
  for (int k = 0; k < in->rank; k++) {
    shape.dim[k] = in->dim[k] < 0 ? count : in->dim[k];
    *(k < in->batch_axis ? &outer : &inner) *= k == in->batch_axis ? 1 : shape.dim[k];
  }
  if (in->batch_axis < 0) {
    memcpy(to, from, (size_t)shape_elements(shape) * sizeof *to);
    return shape;
  }
  for (int64_t o = 0; o < outer; o++)
    memcpy(to + o * count * inner, from + (o * data->samples + first) * inner, (size_t)(count * inner) * sizeof *to);
  return shape;
}

void data_pick(DrawnData *data, const Draw *draw, const DrawnData *from, const int64_t *samples, int64_t n) {
  int64_t counts[MOST_INPUTS];
  *data = (DrawnData){.samples = n};
  all_arrays(draw, n, counts);
  for (int i = 0; i < draw->n_inputs; i++) {
    const DrawnInput *in = &draw->inputs[i];
    int64_t inner = 1, outer = 1;
    data->inputs[i] = calloc((size_t)counts[i] + 1, sizeof(double));
    if (in->batch_axis < 0) {
      memcpy(data->inputs[i], from->inputs[i], (size_t)counts[i] * sizeof(double));
      continue;
    }
    for (int k = 0; k < in->rank; k++)
      *(k < in->batch_axis ? &outer : &inner) *= k == in->batch_axis ? 1 : in->dim[k];
    for (int64_t o = 0; o < outer; o++)
      for (int64_t k = 0; k < n; k++)
        memcpy(data->inputs[i] + (o * n + k) * inner, from->inputs[i] + (o * from->samples + samples[k]) * inner,
               (size_t)inner * sizeof(double));
  }
}

Status oracle_open(Oracle *oracle, const Draw *draw, const char *path, int64_t fixed) {
  char axes[MOST_INPUTS][32];
  const char *given[MOST_INPUTS];
  int n = 0;
  for (int i = 0; i < draw->n_inputs; i++)
    if (draw->inputs[i].batch_axis > 0) {
      snprintf(axes[n], sizeof axes[n], "%s=%d", draw->inputs[i].name, draw->inputs[i].batch_axis);
      given[n] = axes[n];
      n++;
    }
  TrainOptions options = {.batch_axis = given, .n_batch_axis = n};
  *oracle = (Oracle){.arena = arena_create(), .draw = draw, .fixed = fixed};
  return model_open(path, &options, &oracle->model);
}

void oracle_close(Oracle *oracle) {
  model_close(oracle->model);
  arena_destroy(oracle->arena);
}

static Status graph_for(Oracle *oracle, int64_t samples, Graph **graph) {
  DimBinding n = {"N", samples};
  BindOptions options = {.batch = samples, .dims = &n, .n_dims = oracle->fixed ? 0 : 1, .evaluate = backend_evaluate};
  if (!oracle->graphs[samples])
    TRY(model_bind(oracle->model, &options, oracle->arena, &oracle->graphs[samples]));
  *graph = oracle->graphs[samples];
  return OK;
}

static double number_at(DType dtype, const void *data, int64_t i) {
  return dtype == F64   ? ((const double *)data)[i]
         : dtype == F32 ? (double)((const float *)data)[i]
         : dtype == I64 ? (double)((const int64_t *)data)[i]
         : dtype == I32 ? (double)((const int32_t *)data)[i]
                        : (double)((const uint8_t *)data)[i];
}

Status oracle_run(Oracle *oracle, const DrawnData *data, int64_t first, int64_t count, Answer *answers) {
  Graph *graph;
  GraphRun run;
  TRY(graph_for(oracle, count, &graph));
  run_begin(&run, oracle->arena, oracle->model, graph);
  for (int i = 0; i < oracle->draw->n_inputs; i++) {
    const DrawnInput *in = &oracle->draw->inputs[i];
    ValueId id = graph->inputs[i];
    double *room = run_room(&run, id);
    Shape shape = data_take(data, in, data->inputs[i], first, count, room);
    if (!shape_equal(shape, graph_value(graph, id)->shape))
      return fail(E_SHAPE, "the oracle feeds %s, the graph wants %s", SHAPE_STR(shape),
                  SHAPE_STR(graph_value(graph, id)->shape));
    for (int64_t k = 0; k < shape_elements(shape) && in->kind == INTEGER; k++)
      ((int64_t *)room)[k] = (int64_t)room[k];
  }
  TRY(run_graph_status(&run));
  for (size_t i = 0; i < graph->n_outputs; i++) {
    Tensor t = run_tensor(&run, graph->outputs[i]);
    answers[i] = (Answer){.dtype = t.dtype, .shape = t.shape};
    int64_t n = shape_elements(t.shape);
    TRY(ARENA_NEW(oracle->arena, answers[i].data, n));
    for (int64_t k = 0; k < n; k++)
      answers[i].data[k] = number_at(t.dtype, t.data, k);
  }
  return OK;
}

double answers_differ(const Answer *a, const Answer *b) {
  double scale = 1, worst = 0;
  int64_t n = shape_elements(a->shape);
  if (a->dtype != b->dtype || !shape_equal(a->shape, b->shape))
    return INFINITY;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(b->data[i]))
      scale = fmax(scale, fabs(b->data[i]));
  for (int64_t i = 0; i < n; i++) {
    double x = a->data[i], y = b->data[i];
    if (x == y || (isnan(x) && isnan(y)))
      continue;
    if (!isfinite(x) || !isfinite(y))
      return INFINITY;
    worst = fmax(worst, fabs(x - y) / scale);
  }
  return worst;
}

/* One way to part the samples: sizes[0 … n - 1]. */
typedef struct {
  int n;
  int64_t sizes[MOST_SAMPLES];
} Parting;

/* The whole from its parts where the axis counts `outer` times the samples, each `inner` elements long. */
static bool joins(const Answer *whole, const Answer *parts, const Parting *parting, int64_t samples, int axis,
                  int64_t outer, int64_t inner) {
  Answer made = *whole;
  int64_t n = shape_elements(whole->shape), before = outer, behind = inner, first = 0;
  if (axis < 0) { /* the same for all samples */
    for (int p = 0; p < parting->n; p++)
      if (answers_differ(&parts[p], whole) > 1e-8)
        return false;
    return true;
  }
  for (int i = 0; i < whole->shape.rank; i++)
    *(i < axis ? &before : &behind) *= i == axis ? 1 : whole->shape.dim[i];
  double *room = calloc((size_t)n + 1, sizeof *room);
  bool fits = true;
  for (int p = 0; p < parting->n && fits; p++) {
    int64_t size = parting->sizes[p];
    Shape shape = whole->shape;
    shape.dim[axis] = outer * inner * size;
    fits = shape_equal(parts[p].shape, shape);
    for (int64_t b = 0; b < before && fits; b++)
      memcpy(room + (b * samples + first) * behind, parts[p].data + b * size * behind,
             (size_t)(size * behind) * sizeof *room);
    first += size;
  }
  made.data = room;
  fits = fits && answers_differ(&made, whole) <= 1e-8;
  free(room);
  return fits;
}

/* One layout for all partings. */
static bool one_layout(const Answer *whole, Answer (*parts)[MOST_SAMPLES], const Parting *partings, int n,
                       int64_t samples, int axis, int64_t outer, int64_t inner) {
  for (int i = 0; i < n; i++)
    if (!joins(whole, parts[i], &partings[i], samples, axis, outer, inner))
      return false;
  return true;
}

Status oracle_separable(Oracle *oracle, const DrawnData *data, int output, bool *separable) {
  int64_t s = data->samples;
  Parting partings[] = {{.n = 0}, {2, {s - 1, 1}}, {2, {s / 2, s - s / 2}}, {3, {1, 2, s - 3}}};
  enum { PARTINGS = sizeof partings / sizeof *partings };
  static Answer parts[PARTINGS][MOST_SAMPLES];
  Answer whole[MOST_OUTPUTS], answers[MOST_OUTPUTS];
  for (int64_t i = 0; i < s; i++)
    partings[0].sizes[partings[0].n++] = 1;
  *separable = false;
  TRY(oracle_run(oracle, data, 0, s, whole));
  for (int i = 0; i < PARTINGS; i++) {
    int64_t first = 0;
    for (int p = 0; p < partings[i].n; p++) {
      if (oracle_run(oracle, data, first, partings[i].sizes[p], answers) != OK)
        return OK; /* a part has no answer */
      parts[i][p] = answers[output];
      first += partings[i].sizes[p];
    }
  }
  const Answer *w = &whole[output];
  *separable = one_layout(w, parts, partings, PARTINGS, s, -1, 1, 1);
  for (int axis = 0; axis < w->shape.rank && !*separable; axis++) {
    if (w->shape.dim[axis] % s)
      continue;
    int64_t each = w->shape.dim[axis] / s;
    for (int64_t outer = 1; outer <= each && !*separable; outer++)
      if (each % outer == 0)
        *separable = one_layout(w, parts, partings, PARTINGS, s, axis, outer, each / outer);
  }
  return OK;
}

/* Whether each sample's part of output a, at its place in `of_a`, is what it has in b, at its place in `of_b`. */
static bool places_agree(const Answer *a, const Answer *b, const int64_t *of_a, const int64_t *of_b, int64_t n,
                         int axis, int64_t outer, int64_t inner) {
  int64_t before = outer, behind = inner;
  for (int i = 0; i < a->shape.rank; i++)
    *(i < axis ? &before : &behind) *= i == axis ? 1 : a->shape.dim[i];
  double scale = 1;
  for (int64_t i = 0; i < shape_elements(a->shape); i++)
    scale = fmax(scale, fabs(a->data[i]));
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < n; k++)
      for (int64_t e = 0; e < before * behind && of_a[i] == of_b[k]; e++) {
        int64_t o = e / behind, at = e % behind;
        double x = a->data[(o * n + i) * behind + at], y = b->data[(o * n + k) * behind + at];
        if (!(x == y || fabs(x - y) <= 1e-8 * scale))
          return false;
      }
  return true;
}

/* Four ways to fill a run of the file from twice as many samples. */
enum { FILLINGS = 4 };
static void fill_run(int64_t n, int64_t fillings[FILLINGS][MOST_SAMPLES]) {
  for (int64_t i = 0; i < n; i++) {
    fillings[0][i] = i;
    fillings[1][i] = n - 1 - i;
    fillings[2][i] = (i + 1) % (n + 1);
    fillings[3][i] = i == n - 1 ? i : n + i;
  }
}

static bool layout_holds(Answer (*runs)[MOST_OUTPUTS], int output, int64_t fillings[FILLINGS][MOST_SAMPLES], int64_t n,
                         int axis, int64_t outer, int64_t inner) {
  for (int a = 0; a < FILLINGS; a++)
    for (int b = 0; b < FILLINGS; b++) {
      const Answer *x = &runs[a][output], *y = &runs[b][output];
      if (axis < 0 ? answers_differ(x, y) > 1e-8 : !places_agree(x, y, fillings[a], fillings[b], n, axis, outer, inner))
        return false;
    }
  return true;
}

/* Runs of the file, one after the other; past the last sample that one again. */
static Status join_runs(Oracle *oracle, const DrawnData *data, int output, int axis, int64_t outer, int64_t inner,
                        Answer *joined) {
  int64_t n = oracle->fixed, all = data->samples, before = outer, behind = inner;
  *joined = (Answer){0};
  for (int64_t first = 0; first < all; first += n) {
    int64_t samples[MOST_SAMPLES];
    Answer run[MOST_OUTPUTS] = {{0}};
    DrawnData part;
    for (int64_t i = 0; i < n; i++)
      samples[i] = first + i < all ? first + i : all - 1;
    data_pick(&part, oracle->draw, data, samples, n);
    Status status = oracle_run(oracle, &part, 0, n, run);
    data_free(&part);
    TRY(status);
    if (first == 0) {
      *joined = run[output];
      if (axis < 0)
        return OK;
      for (int i = 0; i < run[output].shape.rank; i++)
        *(i < axis ? &before : &behind) *= i == axis ? 1 : run[output].shape.dim[i];
      joined->shape.dim[axis] = outer * inner * all;
      TRY(ARENA_NEW(oracle->arena, joined->data, shape_elements(joined->shape)));
    }
    for (int64_t o = 0; o < before; o++)
      for (int64_t i = 0; i < n && first + i < all; i++)
        memcpy(joined->data + (o * all + first + i) * behind, run[output].data + (o * n + i) * behind,
               (size_t)behind * sizeof(double));
  }
  return OK;
}

Status oracle_accepts(Oracle *oracle, const DrawnData *data, int output, const Answer *got, bool *alone,
                      double *differs) {
  int64_t n = oracle->fixed, fillings[FILLINGS][MOST_SAMPLES];
  static Answer runs[FILLINGS][MOST_OUTPUTS];
  Answer joined[MOST_OUTPUTS] = {{0}};
  DrawnData twice, part;
  *alone = false;
  *differs = INFINITY;
  if (data->samples == n) {
    *alone = true;
    TRY(oracle_run(oracle, data, 0, n, joined));
    *differs = answers_differ(got, &joined[output]);
    return OK;
  }
  data_draw(&twice, oracle->draw, 2 * n, 4711);
  fill_run(n, fillings);
  for (int f = 0; f < FILLINGS; f++) {
    data_pick(&part, oracle->draw, &twice, fillings[f], n);
    Status status = oracle_run(oracle, &part, 0, n, runs[f]);
    data_free(&part);
    if (status != OK) {
      data_free(&twice);
      return status;
    }
  }
  data_free(&twice);
  const Shape *shape = &runs[0][output].shape;
  for (int axis = -1; axis < shape->rank; axis++) {
    int64_t each = axis < 0 ? 1 : shape->dim[axis] / n;
    for (int64_t outer = 1; outer <= each && (axis < 0 || shape->dim[axis] % n == 0); outer++) {
      if (each % outer || !layout_holds(runs, output, fillings, n, axis, outer, each / outer))
        continue;
      *alone = true;
      TRY(join_runs(oracle, data, output, axis, outer, each / outer, joined));
      *differs = fmin(*differs, answers_differ(got, joined));
    }
  }
  return OK;
}
