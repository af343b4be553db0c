/* Where the samples lie, asked of random models: `run` gives one answer for any --batch and a training step one loss
 * and one gradient for any number of microbatches, or they are refused in one line; and a refusal is right only where
 * parts of the batch, evaluated each alone in float64, are not the whole, or where the file's batch is a number.
 *
 *   batch_test_batch [SEED [COUNT]]      COUNT models from SEED on; one alone is printed, and kept in
 * $ONNXPIPE_BATCH_KEEP
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/data/data.h"
#include "runtime/onnxpipe.h"
#include "tests/batch/oracle.h"

enum { RIGHT_PERCENT = 2 };
static uint64_t first_seed = 1, count = 500;
static char folder[96];

/* What became of one question. */
typedef enum { ANSWERED, REFUSED_RIGHTLY, REFUSED_NEEDLESSLY, WRONG, NOT_ASKED, OUTCOMES } Outcome;
static const char *const outcome_names[] = {"answered", "refused rightly", "refused needlessly", "WRONG", "not asked"};

typedef struct {
  Draw draw;     /* with an open batch */
  int64_t fixed; /* that the file was exported with; 0: open */
  char path[300], open_path[300];
  Oracle oracle, fixed_oracle;
  uint64_t seed;
  char why[1200]; /* what was wrong, or the first refusal */
} Case;

static const char *inside(const char *name) {
  static char paths[4][300];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void set(OnnxpipeOptions *options, const char *name, const char *value) {
  if (onnxpipe_options_set(options, name, value) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

static void set_number(OnnxpipeOptions *options, const char *name, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%lld", (long long)value);
  set(options, name, text);
}

/* Samples [first, first + count) as a data file; `target` may be NULL. */
static void write_data(const Case *c, const DrawnData *data, int64_t first, int64_t n, const Answer *target,
                       const char *path) {
  Array arrays[MOST_INPUTS + 1];
  void *rooms[MOST_INPUTS];
  int n_arrays = 0;
  for (int i = 0; i < c->draw.n_inputs; i++) {
    const DrawnInput *in = &c->draw.inputs[i];
    int64_t elements = 1;
    for (int k = 0; k < in->rank; k++)
      elements *= in->dim[k] < 0 ? n : in->dim[k];
    double *room = rooms[i] = calloc((size_t)elements + 1, sizeof *room);
    Shape shape = data_take(data, in, data->inputs[i], first, n, room);
    for (int64_t k = 0; k < elements && in->kind == INTEGER; k++)
      ((int64_t *)rooms[i])[k] = (int64_t)room[k];
    arrays[n_arrays++] = (Array){in->name, in->kind == REAL ? F64 : I64, shape, room};
  }
  if (target) {
    Shape shape = target->shape;
    int64_t row = 1;
    for (int k = 1; k < shape.rank; k++)
      row *= shape.dim[k];
    shape.dim[0] = n;
    arrays[n_arrays++] = (Array){"target", F64, shape, target->data + first * row};
  }
  ASSERT_OK(array_file_write(path, arrays, n_arrays));
  for (int i = 0; i < c->draw.n_inputs; i++)
    free(rooms[i]);
}

/* A refusal is one line. */
static bool refused_well(Case *c, const char *what) {
  const char *line = onnxpipe_error();
  bool good = *line && !strchr(line, '\n');
  if (!*c->why || !good)
    snprintf(c->why, sizeof c->why, "%s: %s", what, *line ? line : "no line");
  return good;
}

/* Read from a file of arrays; false where it is not there. */
static bool read_answer(const ArrayFile *file, const char *name, Answer *answer) {
  const Array *array = array_find(file, name);
  if (!array)
    return false;
  int64_t n = shape_elements(array->shape);
  size_t element = dtype_bytes(array->dtype);
  *answer = (Answer){array->dtype, array->shape, calloc((size_t)n + 1, sizeof(double))};
  for (int64_t i = 0; i < n; i++) {
    union {
      double f64;
      float f32;
      int64_t i64;
      uint8_t u8;
    } x = {0};
    memcpy(&x, (const char *)array->data + (size_t)i * element, element);
    answer->data[i] = array->dtype == F64   ? x.f64
                      : array->dtype == F32 ? (double)x.f32
                      : array->dtype == I64 ? (double)x.i64
                                            : (double)x.u8;
  }
  return true;
}

static OnnxpipeOptions *options_of(const Case *c) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  assert_non_null(options);
  set(options, "quiet", "");
  set(options, "threads", "1");
  set(options, "eval-mode", ""); /* no Dropout: the oracle has none */
  if (c->draw.n_trained)
    set(options, "train", "p*");
  if (c->draw.n_constants)
    set(options, "freeze", "c*");
  for (int i = 0; i < c->draw.n_inputs; i++)
    if (c->draw.inputs[i].batch_axis > 0) {
      char text[64];
      snprintf(text, sizeof text, "%s=%d", c->draw.inputs[i].name, c->draw.inputs[i].batch_axis);
      set(options, "batch-axis", text);
    }
  return options;
}

/* ---- run ---- */

static bool compare_file(Case *c, const DrawnData *data, const Answer *whole, const char *what) {
  ArrayFile file;
  ASSERT_OK(array_file_open(inside("out.npz"), &file));
  bool right = true, alone = true;
  for (int i = 0; i < c->draw.n_outputs && right; i++) {
    Answer got;
    double differs = INFINITY;
    if (read_answer(&file, c->draw.outputs[i], &got)) {
      if (c->fixed)
        ASSERT_OK(oracle_accepts(&c->fixed_oracle, data, i, &got, &alone, &differs));
      else
        differs = answers_differ(&got, &whole[i]);
      if (!alone)
        snprintf(c->why, sizeof c->why, "%s: answered, though a sample of '%s' depends on those beside it", what,
                 c->draw.outputs[i]);
      else if (!(differs <= 1e-8))
        snprintf(c->why, sizeof c->why, "%s: output '%s' is %s, of the whole %s, and differs by %.2g", what,
                 c->draw.outputs[i], SHAPE_STR(got.shape), SHAPE_STR(whole[i].shape), differs);
      free(got.data);
    }
    right = differs <= 1e-8;
  }
  array_file_close(&file);
  return right;
}

static bool run_is_separable(Case *c, int64_t samples) {
  for (uint64_t k = 0; k < 2; k++) {
    DrawnData data;
    data_draw(&data, &c->draw, samples, c->seed * 31 + k);
    bool all = true;
    for (int i = 0; i < c->draw.n_outputs && all; i++)
      if (oracle_separable(&c->oracle, &data, i, &all) != OK)
        all = false;
    data_free(&data);
    if (!all)
      return false;
  }
  return true;
}

static Outcome ask_run(Case *c, int64_t samples) {
  static const int batches[] = {1, 2, 3, 5, 0};
  DrawnData data;
  Answer whole[MOST_OUTPUTS];
  Outcome outcome = ANSWERED;
  data_draw(&data, &c->draw, samples, c->seed * 31);
  ASSERT_OK(oracle_run(&c->oracle, &data, 0, samples, whole));
  write_data(c, &data, 0, samples, NULL, inside("run.npz"));
  for (size_t i = 0; i < sizeof batches / sizeof *batches && outcome != WRONG; i++) {
    char what[64];
    if (c->fixed && batches[i])
      continue;
    OnnxpipeOptions *options = options_of(c);
    OnnxpipeModel *model = NULL;
    snprintf(what, sizeof what, "run --batch %d", batches[i] ? batches[i] : (int)samples);
    set(options, "data", inside("run.npz"));
    set(options, "out", inside("out.npz"));
    unlink(inside("out.npz"));
    if (!c->fixed)
      set_number(options, "batch", batches[i] ? batches[i] : samples);
    OnnxpipeStatus status = onnxpipe_open(c->path, options, &model);
    if (status == ONNXPIPE_OK)
      status = onnxpipe_run(model, stdout);
    if (status != ONNXPIPE_OK)
      outcome = refused_well(c, what) ? REFUSED_RIGHTLY : WRONG;
    else if (!compare_file(c, &data, whole, what))
      outcome = WRONG;
    onnxpipe_close(model);
    onnxpipe_options_destroy(options);
  }
  data_free(&data);
  if (outcome == REFUSED_RIGHTLY && !c->fixed && run_is_separable(c, samples))
    outcome = REFUSED_NEEDLESSLY;
  return outcome;
}

/* ---- train ---- */

enum { MOST_GRADIENTS = 64 };

typedef struct {
  OnnxpipeStatus status;
  double loss;
  Answer gradients[MOST_GRADIENTS]; /* in the file's order */
  char names[MOST_GRADIENTS][32];
  int n;
} Step;

static void take_loss(void *context, const OnnxpipeMetrics *m) {
  *(double *)context = m->loss;
}

static void step_free(Step *step) {
  for (int i = 0; i < step->n; i++)
    free(step->gradients[i].data);
  *step = (Step){.status = ONNXPIPE_FAILED};
}

/* microbatches 0: as the program chooses, on two ranks. */
static void train(const Case *c, const char *path, const char *data, int64_t batch, int microbatches, Step *step) {
  OnnxpipeOptions *options = options_of(c);
  OnnxpipeModel *model = NULL;
  *step = (Step){0};
  set(options, "data", data);
  set(options, "steps", "1");
  set(options, "optimizer", "sgd");
  set(options, "lr", "0");
  set(options, "loss", c->draw.first.rank ? "mse" : "model");
  set(options, "dump-gradients", inside("gradients.npz"));
  set_number(options, "batch", batch);
  set_number(options, "ranks", microbatches ? 1 : 2);
  if (microbatches)
    set_number(options, "microbatches", microbatches);
  unlink(inside("gradients.npz"));
  step->status = onnxpipe_open(path, options, &model);
  if (step->status == ONNXPIPE_OK)
    step->status = onnxpipe_train(model, NULL, take_loss, &step->loss);
  if (step->status == ONNXPIPE_OK) {
    ArrayFile file;
    ASSERT_OK(array_file_open(inside("gradients.npz"), &file));
    for (int i = 0; i < file.n_arrays && i < MOST_GRADIENTS; i++) {
      snprintf(step->names[i], sizeof step->names[i], "%s", file.arrays[i].name);
      step->n += read_answer(&file, file.arrays[i].name, &step->gradients[i]);
    }
    array_file_close(&file);
  }
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* No question: there is nothing to train, or not in this way. */
static bool untrainable(void) {
  return strstr(onnxpipe_error(), "nothing in it trains") || strstr(onnxpipe_error(), "no gradient of the loss") ||
         strstr(onnxpipe_error(), "no gradient for");
}

static double steps_differ(const Step *a, const Step *b, const char **where) {
  double worst = fabs(a->loss - b->loss) / fmax(1, fabs(b->loss));
  *where = "the loss";
  if (a->n != b->n)
    return INFINITY;
  double scale = 0;
  for (int i = 0; i < b->n; i++)
    for (int64_t k = 0; k < shape_elements(b->gradients[i].shape); k++)
      scale = fmax(scale, fabs(b->gradients[i].data[k]));
  for (int i = 0; i < b->n; i++) {
    double differs =
        strcmp(a->names[i], b->names[i]) == 0 ? answers_differ(&a->gradients[i], &b->gradients[i]) : INFINITY;
    if (differs > worst) {
      worst = differs;
      *where = b->names[i];
    }
  }
  return isnan(worst) ? INFINITY : worst;
}

static void step_scale(Step *step, int n) {
  step->loss /= n;
  for (int i = 0; i < step->n; i++)
    for (int64_t k = 0; k < shape_elements(step->gradients[i].shape); k++)
      step->gradients[i].data[k] /= n;
}

/* Adds part / n to sum. */
static bool step_add(Step *sum, const Step *part, int n) {
  sum->loss += part->loss / n;
  if (sum->n != part->n)
    return false;
  for (int i = 0; i < sum->n; i++)
    for (int64_t k = 0; k < shape_elements(sum->gradients[i].shape); k++)
      sum->gradients[i].data[k] += part->gradients[i].data[k] / n;
  return true;
}

/* The target of the first output: none where it is the loss. */
static void draw_target(const Answer *first, uint64_t seed, Answer *target) {
  Draw dice = {.seed = seed};
  *target = (Answer){F64, first->shape, calloc((size_t)shape_elements(first->shape) + 1, sizeof(double))};
  for (int64_t i = 0; i < shape_elements(first->shape); i++)
    target->data[i] = -1 + 2.0 * below(&dice, 1 << 20) / (1 << 20);
}

/* What one microbatch of all samples gives is the mean of what its parts give alone. */
static bool train_is_separable(const Case *c, int64_t batch, int parts) {
  for (uint64_t k = 0; k < 2; k++) {
    DrawnData data;
    Answer whole[MOST_OUTPUTS], target = {0};
    Step all, sum, part;
    const char *where;
    data_draw(&data, &c->draw, batch, c->seed * 37 + k);
    if (oracle_run((Oracle *)&c->oracle, &data, 0, batch, whole) != OK)
      return false;
    if (c->draw.first.rank)
      draw_target(&whole[0], c->seed + k, &target);
    write_data(c, &data, 0, batch, target.data ? &target : NULL, inside("part.npz"));
    train(c, c->open_path, inside("part.npz"), batch, 1, &all);
    bool same = all.status == ONNXPIPE_OK;
    for (int p = 0; p < parts && same; p++) {
      int64_t size = batch / parts;
      write_data(c, &data, p * size, size, target.data ? &target : NULL, inside("part.npz"));
      train(c, c->open_path, inside("part.npz"), size, 1, &part);
      same = part.status == ONNXPIPE_OK;
      if (p == 0) {
        sum = part;
        step_scale(&sum, parts);
        continue;
      }
      same = same && step_add(&sum, &part, parts);
      step_free(&part);
    }
    same = same && steps_differ(&sum, &all, &where) < 1e-8;
    step_free(&sum);
    step_free(&all);
    data_free(&data);
    free(target.data);
    if (!same)
      return false;
  }
  return true;
}

/* The loss of the whole batch in float64. */
static double loss_of(const Answer *first, const Answer *target) {
  double sum = 0;
  int64_t n = shape_elements(first->shape);
  if (!target->data)
    return first->data[0];
  for (int64_t i = 0; i < n; i++)
    sum += (first->data[i] - target->data[i]) * (first->data[i] - target->data[i]);
  return sum / (double)n;
}

static Outcome ask_microbatches(Case *c, int64_t batch, int microbatches) {
  DrawnData data;
  Answer whole[MOST_OUTPUTS], target = {0};
  Outcome outcome = ANSWERED;
  Step all, step;
  const char *where;
  char what[64];
  data_draw(&data, &c->draw, batch, c->seed * 37);
  ASSERT_OK(oracle_run(&c->oracle, &data, 0, batch, whole));
  if (c->draw.first.rank)
    draw_target(&whole[0], c->seed, &target);
  write_data(c, &data, 0, batch, target.data ? &target : NULL, inside("train.npz"));
  train(c, c->open_path, inside("train.npz"), batch, 1, &all);
  double loss = loss_of(&whole[0], &target);
  snprintf(what, sizeof what, "train --batch %lld --microbatches %d", (long long)batch, microbatches);
  if (!isfinite(loss)) {
    outcome = NOT_ASKED;
  } else if (all.status != ONNXPIPE_OK) {
    outcome = untrainable()                               ? (refused_well(c, "train"), NOT_ASKED)
              : refused_well(c, "train --microbatches 1") ? REFUSED_NEEDLESSLY
                                                          : WRONG;
  } else if (!(fabs(all.loss - loss) <= 1e-8 * fmax(1, fabs(loss)))) {
    snprintf(c->why, sizeof c->why, "%s: the loss is %.17g, the whole batch's is %.17g", what, all.loss, loss);
    outcome = WRONG;
  } else if (microbatches != 1) {
    train(c, c->path, inside("train.npz"), batch, microbatches, &step);
    if (step.status != ONNXPIPE_OK) {
      outcome = refused_well(c, what) ? REFUSED_RIGHTLY : WRONG;
    } else if (!(steps_differ(&step, &all, &where) <= 1e-7)) {
      snprintf(c->why, sizeof c->why, "%s: loss %.17g, of one microbatch %.17g; %s differs by %.2g", what, step.loss,
               all.loss, where, steps_differ(&step, &all, &where));
      outcome = WRONG;
    }
    step_free(&step);
  }
  step_free(&all);
  data_free(&data);
  free(target.data);
  if (outcome == REFUSED_RIGHTLY && microbatches == 0) /* two ranks may be more than it has nodes */
    outcome = ANSWERED;
  if (outcome == REFUSED_RIGHTLY && train_is_separable(c, batch, microbatches))
    outcome = REFUSED_NEEDLESSLY;
  return outcome;
}

/* Of a file with a fixed batch: the loss and gradient of several runs are their means where it does not matter which
 * samples run together; else there is nothing to compare with, and more than one is to be refused. */
static Outcome ask_fixed(Case *c, int microbatches) {
  int64_t n = c->fixed, batch = n * microbatches, swapped[MOST_SAMPLES];
  DrawnData data, other;
  Answer whole[MOST_OUTPUTS], target = {0}, mixed = {0};
  Step sum = {0}, part, step;
  Outcome outcome = ANSWERED;
  const char *where;
  char what[64];
  double losses[2] = {0};
  data_draw(&data, &c->draw, batch, c->seed * 37);
  ASSERT_OK(oracle_run(&c->oracle, &data, 0, batch, whole));
  if (c->draw.first.rank)
    draw_target(&whole[0], c->seed, &target);
  snprintf(what, sizeof what, "train --batch %lld --microbatches %d", (long long)batch, microbatches);
  for (int64_t i = 0; i < batch; i++) /* a sample of each run in the next one */
    swapped[i] = i % n == 0 ? (i + n) % batch : i;
  data_pick(&other, &c->draw, &data, swapped, batch);
  if (target.data) {
    int64_t row = shape_elements(target.shape) / batch;
    mixed = (Answer){F64, target.shape, calloc((size_t)shape_elements(target.shape) + 1, sizeof(double))};
    for (int64_t i = 0; i < batch; i++)
      memcpy(mixed.data + i * row, target.data + swapped[i] * row, (size_t)row * sizeof(double));
  }
  for (int k = 0; k < 2; k++)
    for (int m = 0; m < microbatches; m++) {
      Answer run[MOST_OUTPUTS], of_run = k ? mixed : target;
      DrawnData chunk;
      int64_t samples[MOST_SAMPLES];
      for (int64_t i = 0; i < n; i++)
        samples[i] = m * n + i;
      data_pick(&chunk, &c->draw, k ? &other : &data, samples, n);
      ASSERT_OK(oracle_run(&c->fixed_oracle, &chunk, 0, n, run));
      data_free(&chunk);
      if (of_run.data)
        of_run.data += m * shape_elements(of_run.shape) / microbatches;
      losses[k] += loss_of(&run[0], &of_run) / microbatches;
    }
  bool alone = fabs(losses[0] - losses[1]) <= 1e-8 * fmax(1, fabs(losses[0]));
  write_data(c, &data, 0, batch, target.data ? &target : NULL, inside("train.npz"));
  train(c, c->path, inside("train.npz"), batch, microbatches, &step);
  if (!isfinite(losses[0])) {
    outcome = NOT_ASKED;
  } else if (step.status != ONNXPIPE_OK) {
    outcome = untrainable()            ? NOT_ASKED
              : !refused_well(c, what) ? WRONG
              : microbatches > 1       ? REFUSED_RIGHTLY
                                       : REFUSED_NEEDLESSLY;
  } else {
    for (int m = 0; m < microbatches; m++) {
      write_data(c, &data, m * n, n, target.data ? &target : NULL, inside("part.npz"));
      train(c, c->path, inside("part.npz"), n, 1, &part);
      if (m == 0) {
        sum = part;
        step_scale(&sum, microbatches);
        continue;
      }
      step_add(&sum, &part, microbatches);
      step_free(&part);
    }
    sum.loss = losses[0];
    bool right = (alone || microbatches == 1) && steps_differ(&step, &sum, &where) <= 1e-7;
    if (!right) { /* a mean over what counts is no mean of the runs' means */
      step_free(&sum);
      train(c, c->open_path, inside("train.npz"), batch, 1, &sum);
      right = sum.status == ONNXPIPE_OK && steps_differ(&step, &sum, &where) <= 1e-7;
    }
    if (!right) {
      snprintf(c->why, sizeof c->why,
               "%s: loss %.17g, of the whole batch %.17g; the loss %s on which samples run together", what, step.loss,
               sum.loss, alone ? "does not depend" : "depends");
      outcome = WRONG;
    }
    step_free(&sum);
  }
  step_free(&step);
  data_free(&data);
  data_free(&other);
  free(target.data);
  free(mixed.data);
  return outcome;
}

static Outcome ask_train(Case *c) {
  static const int microbatches[] = {1, 2, 4, 0};
  const Drawn *first = &c->draw.first;
  Outcome worst = ANSWERED;
  if (first->rank && !dim_is_n(first->dim[0])) {
    snprintf(c->why, sizeof c->why, "the first axis of '%s' is not N", first->name);
    return NOT_ASKED;
  }
  int64_t batch = 4 * (1 + (int64_t)(c->seed % 3));
  for (size_t i = 0; i < sizeof microbatches / sizeof *microbatches && worst != WRONG; i++) {
    int m = microbatches[i];
    if (c->fixed && (m == 0 || m * c->fixed > MOST_SAMPLES))
      continue;
    Outcome outcome = c->fixed ? ask_fixed(c, m) : ask_microbatches(c, batch, m);
    if (outcome == NOT_ASKED)
      return NOT_ASKED;
    worst = outcome > worst ? outcome : worst;
  }
  return worst;
}

/* ---- all ---- */

static void case_close(Case *c) {
  oracle_close(&c->oracle);
  if (c->fixed)
    oracle_close(&c->fixed_oracle);
}

/* A model whose numbers are tame; false where the dice gave none. */
static bool open_case(Case *c, uint64_t seed) {
  Draw fixed = {0};
  DrawnData data;
  Answer whole[MOST_OUTPUTS];
  *c = (Case){.seed = seed};
  bool drawn = draw_model(&c->draw, seed, 0);
  if (!drawn) {
    free(c->draw.graph.data);
    return false;
  }
  c->fixed = chance(&c->draw, 12) ? 2 + (int64_t)below(&c->draw, 3) : 0;
  snprintf(c->open_path, sizeof c->open_path, "%s", inside("open.onnx"));
  save_bytes(c->open_path, draw_finish(&c->draw));
  snprintf(c->path, sizeof c->path, "%s", c->open_path);
  if (c->fixed) {
    assert_true(draw_model(&fixed, seed, c->fixed));
    snprintf(c->path, sizeof c->path, "%s", inside("fixed.onnx"));
    save_bytes(c->path, draw_finish(&fixed));
    ASSERT_OK(oracle_open(&c->fixed_oracle, &c->draw, c->path, c->fixed));
  }
  if (oracle_open(&c->oracle, &c->draw, c->open_path, 0) != OK) {
    snprintf(c->why, sizeof c->why, "not opened: %s", status_message());
    return false;
  }
  data_draw(&data, &c->draw, 12, seed);
  bool tame = oracle_run(&c->oracle, &data, 0, 12, whole) == OK;
  if (!tame)
    snprintf(c->why, sizeof c->why, "not bound: %s", status_message());
  for (int i = 0; i < c->draw.n_outputs && tame; i++)
    for (int64_t k = 0; k < shape_elements(whole[i].shape) && tame; k++)
      tame = fabs(whole[i].data[k]) < 1e6;
  data_free(&data);
  if (!tame)
    case_close(c);
  return tame;
}

static void models_of_all_kinds(void **state) {
  int counts[2][OUTCOMES] = {{0}}, asked = 0, again = 0;
  (void)state;
  for (uint64_t seed = first_seed; asked < (int)count && again < 50 * (int)count; seed++) {
    static Case c;
    if (!open_case(&c, seed)) {
      if (getenv("ONNXPIPE_BATCH_VERBOSE") && *c.why)
        printf("%llu: %s\n%s", (unsigned long long)seed, c.why, c.draw.text);
      again++;
      continue;
    }
    asked++;
    if (count == 1)
      printf("model %llu, opset %d, batch %s%lld\n%s", (unsigned long long)seed, c.draw.opset,
             c.fixed ? "fixed: " : "open ", (long long)c.fixed, c.draw.text);
    for (int k = 0; k < 2; k++) {
      *c.why = '\0';
      Outcome outcome = k ? ask_train(&c)
                          : ask_run(&c, c.fixed ? c.fixed * (1 + (int64_t)(seed % 2)) + (int64_t)(seed % 3 == 0)
                                                : 6 + (int64_t)(seed % 3));
      counts[k][outcome]++;
      if (outcome == WRONG || outcome == REFUSED_NEEDLESSLY || count == 1 || getenv("ONNXPIPE_BATCH_VERBOSE"))
        printf("%llu: %s: %s%s%s\n", (unsigned long long)seed, k ? "train" : "run", outcome_names[outcome],
               *c.why ? ": " : "", c.why);
    }
    fflush(stdout);
    case_close(&c);
  }
  printf("%d models from seed %llu on, and %d that were drawn again\n", asked, (unsigned long long)first_seed, again);
  for (int k = 0; k < 2; k++) {
    printf("%-5s", k ? "train" : "run");
    for (int i = 0; i < OUTCOMES; i++)
      printf("  %s %d", outcome_names[i], counts[k][i]);
    printf("\n");
  }
  for (int k = 0; k < 2; k++) {
    assert_int_equal(counts[k][WRONG], 0);
    assert_true(counts[k][REFUSED_NEEDLESSLY] * 100 <=
                RIGHT_PERCENT * (counts[k][ANSWERED] + counts[k][REFUSED_NEEDLESSLY]));
  }
}

int main(int argc, char **argv) {
  const char *keep = getenv("ONNXPIPE_BATCH_KEEP");
  if (argc > 1)
    first_seed = strtoull(argv[1], NULL, 10);
  if (argc > 2)
    count = strtoull(argv[2], NULL, 10);
  else if (argc > 1)
    count = 1;
  snprintf(folder, sizeof folder, "%s/onnxpipe_batch_XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  if (keep) {
    snprintf(folder, sizeof folder, "%s", keep);
    mkdir(folder, 0777);
  } else if (!mkdtemp(folder)) {
    perror(folder);
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(models_of_all_kinds)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  if (!keep)
    remove_folder(folder);
  return failed;
}
