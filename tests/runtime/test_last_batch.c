/* An epoch's rest as a batch of its own (--last-batch exact): sessions on any ranks in any schedule take the same steps
 * bit for bit, from a checkpoint, too. */
#include "tests/runtime/reference_case.h"

enum { EPOCHS = 2 };

typedef struct {
  const char *ranks, *schedule;
} Way;

/* Samples are cut by --validation-split, so that batches leave a rest. */
static const struct Case {
  const char *name, *split, *batch, *microbatches;
  int steps; /* of an epoch */
  Way ways[4];
} cases[] = {
    /* 78 samples: the rest of 14 is 2 microbatches of 7 */
    {"nanogpt", "0.025", "32", "4", 3, {{"2", "1f1b"}, {"3", "zb-h1"}, {"2", "zb-v"}, {"4", "auto"}}},
    /* 72: 8 is 4 of 2 */
    {"branches", "0.1", "32", "4", 3, {{"2", "gpipe"}, {"3", "1f1b"}, {"2", "interleaved-1f1b"}, {"4", "zb-h2"}}},
    {"nanogpt_loss", "0.025", "32", "4", 3, {{"2", "zb-h1"}, {"3", "gpipe"}, {"1", "gpipe"}, {"4", "v-half"}}},
};

static char folder[64];

static void must(OnnxpipeStatus status) {
  if (status != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

static const char *in_folder(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

static OnnxpipeOptions *options_of(const struct Case *c, Way way) {
  char path[256];
  OnnxpipeOptions *options = onnxpipe_options_create();
  assert_non_null(options);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/data.npz", c->name);
  set(options, "data", path);
  set(options, "quiet", "");
  set(options, "lr", "0.01");
  set_number(options, "epochs", EPOCHS);
  set(options, "last-batch", "exact");
  set(options, "validation-split", c->split);
  set(options, "batch", c->batch);
  set(options, "microbatches", c->microbatches);
  set(options, "shuffle", "");
  set(options, "clip-norm", "0.5");
  set(options, "ranks", way.ranks);
  set(options, "schedule", way.schedule);
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

/* Metrics of all steps from `first` on, from 0; the saved bytes, which the caller frees. */
static char *finish(const struct Case *c, OnnxpipeOptions *options, int first, OnnxpipeMetrics *metrics, size_t *n) {
  char path[128];
  OnnxpipeModel *model = open_case(c, options);
  OnnxpipeSession *session;
  must(onnxpipe_session_open(model, NULL, &session));
  for (int i = first; i < EPOCHS * c->steps; i++) {
    must(onnxpipe_session_step(session));
    must(onnxpipe_session_metrics(session, &metrics[i]));
    assert_int_equal(metrics[i].step, i + 1);
    assert_int_equal(metrics[i].steps, EPOCHS * c->steps);
  }
  must(onnxpipe_session_save(session, in_folder("trained.onnx", path)));
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  char *bytes = slurp(path, n);
  remove_saved(path);
  return bytes;
}

static void compare(const struct Case *c, Way way, const OnnxpipeMetrics *a, const OnnxpipeMetrics *b) {
  for (int i = 0; i < EPOCHS * c->steps; i++)
    if (a[i].loss != b[i].loss || a[i].gradient_norm != b[i].gradient_norm)
      FAIL_TEST("%s, %s ranks, %s: loss %.17g and norm %.17g at step %d, %.17g and %.17g on one rank", c->name,
                way.ranks, way.schedule, b[i].loss, b[i].gradient_norm, i + 1, a[i].loss, a[i].gradient_norm);
}

static void any_ranks_and_schedules_take_the_same_steps(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct Case *c = &cases[i];
    OnnxpipeMetrics expected[MOST_STEPS], metrics[MOST_STEPS];
    size_t n, m;
    char *alone = finish(c, options_of(c, (Way){"1", "naive"}), 0, expected, &n);
    for (size_t k = 0; k < sizeof c->ways / sizeof *c->ways; k++) {
      char *bytes = finish(c, options_of(c, c->ways[k]), 0, metrics, &m);
      compare(c, c->ways[k], expected, metrics);
      assert_int_equal(n, m);
      assert_memory_equal(alone, bytes, n);
      free(bytes);
    }
    free(alone);
  }
}

/* A checkpoint before, of and behind the first epoch's rest; what comes after is another way's. */
static void a_checkpoint_lies_anywhere_in_an_epoch(void **state) {
  (void)state;
  const struct Case *c = &cases[0];
  char checkpoints[128], command[256];
  OnnxpipeMetrics expected[MOST_STEPS];
  size_t n, m;
  snprintf(command, sizeof command, "rm -rf %s", in_folder("checkpoints", checkpoints));
  char *straight = finish(c, options_of(c, (Way){"1", "naive"}), 0, expected, &n);
  for (int done = 2; done <= 4; done++) {
    OnnxpipeMetrics metrics[MOST_STEPS];
    OnnxpipeOptions *options = options_of(c, c->ways[0]);
    set(options, "checkpoint", checkpoints);
    OnnxpipeModel *model = open_case(c, options);
    OnnxpipeSession *session;
    must(onnxpipe_session_open(model, NULL, &session));
    for (int i = 0; i < done; i++) {
      must(onnxpipe_session_step(session));
      must(onnxpipe_session_metrics(session, &metrics[i]));
    }
    must(onnxpipe_session_checkpoint(session));
    must(onnxpipe_session_close(session));
    onnxpipe_close(model);
    onnxpipe_options_destroy(options);
    options = onnxpipe_options_create();
    set(options, "resume", checkpoints);
    set(options, "quiet", "");
    set(options, "ranks", c->ways[1].ranks);
    set(options, "schedule", c->ways[1].schedule);
    char *bytes = finish(c, options, done, metrics, &m);
    compare(c, c->ways[1], expected, metrics);
    assert_int_equal(n, m);
    assert_memory_equal(straight, bytes, n);
    free(bytes);
    assert_int_equal(system(command), 0);
  }
  free(straight);
}

int main(void) {
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-last-batch-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(any_ranks_and_schedules_take_the_same_steps),
                                     cmocka_unit_test(a_checkpoint_lies_anywhere_in_an_epoch)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  rmdir(folder);
  return failed;
}
