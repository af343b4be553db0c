/* Reference cases of models/: ten steps straight are five, a checkpoint, and five more on other ranks in another
 * schedule, by losses and saved bytes; with shuffling and a rate that rises and falls, on top of what a case has. With
 * ONNXPIPE_TEST_ALL set, all of them; else a few. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/runtime/reference_case.h"

enum { STEPS = 10, HALF = 5 };

typedef struct {
  const char *ranks, *schedule, *device;
} Way;

static const struct Case {
  const char *name, *microbatches;
  Way first, second;
  bool always;
  const char *optimizer; /* NULL: the case's */
} cases[] = {
    {"nanogpt", "4", {"1", "naive", "cpu"}, {"3", "zb-h1", "cpu"}, true, NULL},
    {"nanogpt", "2", {"4", "1f1b", "cpu"}, {"2", "gpipe", "cpu"}, true, NULL},
    {"branches", "4", {"2", "gpipe", "reference"}, {"4", "zb-v", "reference"}, true, NULL},
    {"dlrm", "2", {"3", "1f1b", "cpu"}, {"1", "naive", "cpu"}, true, NULL},
    {"dlrm", "2", {"1", "naive", "cpu"}, {"3", "zb-h1", "cpu"}, true, "sparse_adam"},
    {"resnet", "1", {"2", "1f1b", "cpu"}, {"3", "gpipe", "cpu"}, true, NULL},
    {"surrogate", "4", {"4", "interleaved-1f1b", "cpu"}, {"1", "naive", "cpu"}, false, NULL},
    {"gpt2", "4", {"2", "zb-h1", "cpu"}, {"4", "1f1b", "cpu"}, false, NULL},
    {"gpt2_default_export", "4", {"4", "gpipe", "cpu"}, {"2", "zb-v", "cpu"}, false, NULL},
    {"gpt2_fixed_batch", "4", {"1", "naive", "cpu"}, {"4", "zb-h2", "cpu"}, false, NULL},
    {"llama", "4", {"3", "1f1b", "cpu"}, {"2", "zb-h1", "cpu"}, false, NULL},
    {"nanogpt_loss", "4", {"2", "gpipe", "cpu"}, {"4", "v-half", "cpu"}, false, NULL},
    {"padded_bag", "4", {"1", "naive", "cpu"}, {"2", "1f1b", "cpu"}, false, NULL},
    {"fresh_gpt2_default", "4", {"4", "1f1b", "cpu"}, {"1", "naive", "cpu"}, false, NULL},
    {"fresh_surrogate_legacy", "4", {"2", "gpipe", "cpu"}, {"3", "v-min", "cpu"}, false, NULL},
    {"unet3d", "2", {"1", "naive", "cpu"}, {"2", "1f1b", "cpu"}, false, NULL},
};

static char folder[64];

static const char *in_folder(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

static void must(OnnxpipeStatus status) {
  if (status != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

static void take(void *context, const OnnxpipeMetrics *m) {
  double *losses = context;
  assert_in_range(m->step, 1, STEPS);
  losses[m->step - 1] = m->loss;
}

static OnnxpipeOptions *options_of(const struct Case *c, Way way) {
  json_t *json = read_case(c->name);
  OnnxpipeOptions *options = case_options(c->name, json);
  json_decref(json);
  set_number(options, "steps", STEPS);
  if (c->optimizer)
    set(options, "optimizer", c->optimizer);
  set(options, "microbatches", c->microbatches);
  set(options, "shuffle", "");
  set(options, "seed", "7");
  set(options, "warmup-steps", "3");
  set(options, "lr-schedule", "cosine");
  set(options, "ranks", way.ranks);
  set(options, "schedule", way.schedule);
  set(options, "device", way.device);
  set(options, "threads", "1");
  return options;
}

static OnnxpipeModel *open_case(const struct Case *c, const OnnxpipeOptions *options) {
  OnnxpipeModel *model;
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", c->name);
  must(onnxpipe_open(path, options, &model));
  return model;
}

/* The saved bytes, which the caller frees. */
static char *train(const struct Case *c, OnnxpipeOptions *options, double *losses, size_t *n) {
  char path[128];
  set(options, "save", in_folder("trained.onnx", path));
  OnnxpipeModel *model = open_case(c, options);
  must(onnxpipe_train(model, NULL, take, losses));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  char *bytes = slurp(path, n);
  remove_saved(path);
  return bytes;
}

static void half(const struct Case *c, const char *checkpoints, double *losses) {
  OnnxpipeOptions *options = options_of(c, c->first);
  set(options, "checkpoint", checkpoints);
  OnnxpipeModel *model = open_case(c, options);
  OnnxpipeSession *session;
  OnnxpipeMetrics m;
  must(onnxpipe_session_open(model, NULL, &session));
  for (int i = 0; i < HALF; i++) {
    must(onnxpipe_session_step(session));
    must(onnxpipe_session_metrics(session, &m));
    take(losses, &m);
  }
  must(onnxpipe_session_checkpoint(session));
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* What determines the run is taken from the checkpoint: only ranks, schedule and device are given anew. */
static void resumed_is_straight(const struct Case *c) {
  double straight[STEPS] = {0}, resumed[STEPS] = {0};
  size_t n, m;
  char checkpoints[128], *expected = train(c, options_of(c, c->first), straight, &n);
  in_folder("checkpoints", checkpoints);
  half(c, checkpoints, resumed);
  OnnxpipeOptions *options = onnxpipe_options_create();
  set(options, "resume", checkpoints);
  set(options, "quiet", "");
  set(options, "ranks", c->second.ranks);
  set(options, "schedule", c->second.schedule);
  set(options, "device", c->second.device);
  char *got = train(c, options, resumed, &m);
  for (int i = 0; i < STEPS; i++)
    if (straight[i] != resumed[i])
      FAIL_TEST("%s: loss %.17g at step %d, %.17g in one run", c->name, resumed[i], i + 1, straight[i]);
  assert_int_equal(n, m);
  if (memcmp(expected, got, n) != 0)
    FAIL_TEST("%s: other weights than in one run", c->name);
  free(expected);
  free(got);
  char command[256];
  snprintf(command, sizeof command, "rm -rf %s", checkpoints);
  assert_int_equal(system(command), 0);
}

static void reference_cases(void **state) {
  (void)state;
  bool all = getenv("ONNXPIPE_TEST_ALL") != NULL;
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-resume-XXXXXX");
  assert_non_null(mkdtemp(folder));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (all || cases[i].always)
      resumed_is_straight(&cases[i]);
  rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(reference_cases)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
