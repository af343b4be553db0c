/* Runs that replan, for tests in process and under mpirun; linked with made_up_times.c. */
#ifndef TESTS_RUNTIME_REPLAN_CASE_H
#define TESTS_RUNTIME_REPLAN_CASE_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/onnxpipe.h"
#include "tests/files.h"
#include "tests/test.h"

enum { REPLAN_STEPS = 60 };

typedef struct {
  const char *model, *options; /* "name=value name=value", beside those that all have */
} ReplanCase;

/* Every step's loss and norm; then what was printed. */
typedef struct {
  double losses[REPLAN_STEPS], norms[REPLAN_STEPS];
  char printed[1 << 16];
  const char *checkpoints; /* not NULL: this folder is away while the checkpoint of step 27 is to be written */
} ReplanRun;

static inline void must(OnnxpipeStatus status) {
  if (status != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

static inline void move_away(const char *folder, bool back) {
  char away[256];
  snprintf(away, sizeof away, "%s.away", folder);
  assert_int_equal(back ? rename(away, folder) : rename(folder, away), 0);
}

static inline void take_step(void *context, const OnnxpipeMetrics *m) {
  ReplanRun *run = context;
  assert_in_range(m->step, 1, REPLAN_STEPS);
  run->losses[m->step - 1] = m->loss;
  run->norms[m->step - 1] = m->gradient_norm;
  if (run->checkpoints && (m->step == 27 || m->step == 28))
    move_away(run->checkpoints, m->step == 28);
}

static inline void set_all(OnnxpipeOptions *options, const char *text) {
  char copy[1024], *rest = NULL;
  snprintf(copy, sizeof copy, "%s", text);
  for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
    char *value = strchr(word, '=');
    if (value)
      *value++ = '\0';
    must(onnxpipe_options_set(options, word, value ? value : ""));
  }
}

/* Trains as the case says, with more options, into the file `save`; progress and print are rank 0's. */
static inline void train(const ReplanCase *c, const char *more, const char *save, ReplanRun *run) {
  char path[256];
  OnnxpipeModel *model;
  OnnxpipeOptions *options = onnxpipe_options_create();
  FILE *out = tmpfile();
  assert_true(options && out);
#ifdef ON_CUDA
  must(onnxpipe_options_set(options, "device", "cuda"));
#endif
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/data.npz", c->model);
  must(onnxpipe_options_set(options, "data", path));
  must(onnxpipe_options_set(options, "save", save));
  set_all(options, "no-measure batch=4 microbatches=2 threads=1");
  set_all(options, c->options);
  set_all(options, more);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", c->model);
  must(onnxpipe_open(path, options, &model));
  must(onnxpipe_train(model, out, take_step, run));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  rewind(out);
  run->printed[fread(run->printed, 1, sizeof run->printed - 1, out)] = '\0';
  fclose(out);
}

static inline int count(const char *text, const char *what) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
    n++;
  return n;
}

/* At least once, for the plan was bad, and not for ever. */
static inline void check_replanned(const ReplanRun *run) {
  int n = count(run->printed, "\nreplanned after step ");
  if (n < 1 || n > 3 || count(run->printed, "\nstages: stage ") < n)
    FAIL_TEST("replanned %d times:\n%s", n, run->printed);
}

static inline void check_same_run(const ReplanRun *a, const ReplanRun *b) {
  for (int i = 0; i < REPLAN_STEPS; i++)
    if (a->losses[i] != b->losses[i] || a->norms[i] != b->norms[i])
      FAIL_TEST("step %d: loss %.17g, norm %.17g; replanned %.17g, %.17g", i + 1, a->losses[i], a->norms[i],
                b->losses[i], b->norms[i]);
}

/* The checkpoint of step 27, when there is a better cut, is lost: that waits for the next one. */
static inline void check_waits(const char *options, const char *checkpoints, const char *save, const char *other,
                               bool looks) {
  static ReplanRun plain, run;
  char more[512];
  const ReplanCase c = {"branches", options};
  plain = run = (ReplanRun){0};
  train(&c, "steps=40", save, &plain);
  run.checkpoints = checkpoints;
  snprintf(more, sizeof more, "steps=40 replan every=9 checkpoint=%s", checkpoints);
  train(&c, more, other, &run);
  if (!looks)
    return;
  if (count(run.printed, "\nreplanned after step ") != 1 || !strstr(run.printed, "\nreplanned after step 36:"))
    FAIL_TEST("%s", run.printed);
  check_same_run(&plain, &run);
  assert_true(same_file(save, other));
}

static const ReplanCase replan_cases[] = {
    {"branches", "steps=60"},
#ifdef ON_CUDA
    {"branches", "steps=60 offload=optimizer"},
#else
    {"gpt2", "steps=60 lr-schedule=cosine warmup-steps=5 clip-norm=1"},
    {"resnet", "steps=60 optimizer=sgd momentum=0.9 shuffle"}, /* statistics */
#endif
};
enum { REPLAN_CASES = sizeof replan_cases / sizeof *replan_cases };

#endif
