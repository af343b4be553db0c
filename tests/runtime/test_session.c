/* Sessions in process: what steps, metrics, saving and closing promise, next to onnxpipe_train. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/data/data.h"
#include "tests/files.h"
#include "tests/runtime/session_case.h"

enum { MOST = 64 };
static char folder[64];

static const char *in_folder(const char *name) {
  static char paths[4][128];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void keep(void *context, const OnnxpipeMetrics *m) {
  ((OnnxpipeMetrics *)context)[m->step - 1] = *m;
}

static OnnxpipeModel *open_model(const OnnxpipeOptions *options) {
  OnnxpipeModel *model;
  must(onnxpipe_open(BRANCHES "model.onnx", options, &model));
  return model;
}

/* Step by step, with and without a look at the metrics in between, is onnxpipe_train. */
static void steps_are_training(void **state) {
  const char *ranks = *state;
  OnnxpipeOptions *options = branches_options();
  OnnxpipeMetrics expected[MOST] = {0}, m;
  must(onnxpipe_options_set(options, "save", in_folder("trained.onnx")));
  OnnxpipeModel *model = open_model(options);
  must(onnxpipe_train(model, NULL, keep, expected));
  must(onnxpipe_options_set(options, "ranks", ranks));
  must(onnxpipe_options_set(options, "metrics", in_folder("metrics.jsonl")));
  OnnxpipeSession *session;
  must(onnxpipe_session_open(model, NULL, &session));
  must(onnxpipe_session_metrics(session, &m));
  assert_true(m.step == 0 && m.steps == expected[0].steps && m.loss == 0);
  while (m.step < m.steps) {
    must(onnxpipe_session_step(session));
    if (m.step % 3 == 1 && m.step + 2 <= m.steps)
      must(onnxpipe_session_step(session));
    must(onnxpipe_session_metrics(session, &m));
    check_loss(m.step, m.loss);
    assert_true(m.loss == expected[m.step - 1].loss && m.gradient_norm == expected[m.step - 1].gradient_norm);
    OnnxpipeMetrics again;
    must(onnxpipe_session_metrics(session, &again));
    assert_memory_equal(&again, &m, sizeof m);
  }
  must(onnxpipe_session_save(session, in_folder("stepped.onnx")));
  must(onnxpipe_session_close(session));
  assert_true(same_file(in_folder("trained.onnx"), in_folder("stepped.onnx")));
  size_t n;
  int64_t lines = 0;
  char *text = read_whole(in_folder("metrics.jsonl"), &n);
  for (size_t i = 0; i < n; i++)
    lines += text[i] == '\n';
  assert_int_equal(lines, m.steps);
  free(text);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* Saving changes nothing, steps past the last go on, and closing writes what was not asked for. */
static void saving_in_between_and_going_on(void **state) {
  (void)state;
  OnnxpipeOptions *options = branches_options();
  OnnxpipeMetrics expected[MOST] = {0}, m;
  OnnxpipeModel *model = open_model(options);
  must(onnxpipe_train(model, NULL, keep, expected));
  must(onnxpipe_options_set(options, "steps", "2"));
  must(onnxpipe_options_set(options, "ranks", "3"));
  must(onnxpipe_options_set(options, "metrics", in_folder("metrics.jsonl")));
  OnnxpipeSession *session;
  must(onnxpipe_session_open(model, NULL, &session));
  for (int step = 1; step <= 4; step++) {
    must(onnxpipe_session_step(session));
    must(onnxpipe_session_save(session, in_folder("between.onnx")));
  }
  must(onnxpipe_session_metrics(session, &m));
  assert_true(m.step == 4 && m.steps == 2 && m.loss == expected[3].loss);
  must(onnxpipe_session_step(session));
  must(onnxpipe_session_close(session));
  size_t n;
  char *text = read_whole(in_folder("metrics.jsonl"), &n);
  text[n] = '\0';
  assert_non_null(strstr(text, "{\"step\": 5,"));
  free(text);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* At any time, of the weights as they are; training goes on as without. */
static void validating_in_between(void **state) {
  OnnxpipeOptions *options = branches_options();
  OnnxpipeMetrics expected[MOST] = {0}, m;
  OnnxpipeModel *model = open_model(options);
  OnnxpipeSession *session;
  OnnxpipeValidation first, again, v;
  must(onnxpipe_session_open(model, NULL, &session));
  assert_int_equal(onnxpipe_session_validate(session, &v), ONNXPIPE_USAGE);
  assert_string_equal(onnxpipe_error(), "there is nothing to validate with: --validate FILE or --validation-split");
  must(onnxpipe_session_step(session)); /* as good as before */
  must(onnxpipe_session_close(session));
  must(onnxpipe_train(model, NULL, keep, expected));
  must(onnxpipe_options_set(options, "validate", BRANCHES "data.npz"));
  must(onnxpipe_options_set(options, "ranks", *state));
  must(onnxpipe_session_open(model, NULL, &session));
  must(onnxpipe_session_validate(session, &first));
  assert_true(first.step == 0 && isfinite(first.loss) && first.n_metrics > 0);
  must(onnxpipe_session_validate(session, &again));
  assert_true(again.loss == first.loss && again.values[0] == first.values[0]);
  for (int step = 1; step <= 3; step++) {
    must(onnxpipe_session_step(session));
    must(onnxpipe_session_metrics(session, &m));
    assert_true(m.loss == expected[step - 1].loss);
    must(onnxpipe_session_validate(session, &v));
    assert_true(v.step == step && v.loss != first.loss && v.best_loss <= v.loss);
  }
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void note_hang(void *context, const char *line) {
  (void)line;
  atomic_store((atomic_bool *)context, true);
}

/* A rate that makes the loss infinite: the step fails, and so does all that follows, with the same line. It may stay
 * open for longer than the timeout. */
static void a_failed_session_only_closes(void **state) {
  OnnxpipeOptions *options = branches_options();
  must(onnxpipe_options_set(options, "optimizer", "sgd"));
  must(onnxpipe_options_set(options, "lr", "1e30"));
  must(onnxpipe_options_set(options, "ranks", *state));
  must(onnxpipe_options_set(options, "timeout", "1"));
  OnnxpipeModel *model = open_model(options);
  OnnxpipeSession *session;
  atomic_bool hung = false;
  onnxpipe_on_hang(note_hang, &hung);
  must(onnxpipe_session_open(model, NULL, &session));
  OnnxpipeStatus status = ONNXPIPE_OK;
  for (int step = 1; step <= 8 && status == ONNXPIPE_OK; step++)
    status = onnxpipe_session_step(session);
  assert_int_equal(status, ONNXPIPE_FAILED);
  char line[512];
  snprintf(line, sizeof line, "%s", onnxpipe_error());
  assert_memory_equal(line, "step ", 5);
  OnnxpipeMetrics m;
  assert_int_equal(onnxpipe_session_step(session), ONNXPIPE_FAILED);
  assert_int_equal(onnxpipe_session_metrics(session, &m), ONNXPIPE_FAILED);
  assert_int_equal(onnxpipe_session_save(session, in_folder("never.onnx")), ONNXPIPE_FAILED);
  assert_string_equal(onnxpipe_error(), line);
  sleep(2);
  assert_false(atomic_load(&hung));
  onnxpipe_on_hang(NULL, NULL);
  must(onnxpipe_session_close(session));
  assert_string_equal(onnxpipe_error(), line);
  assert_int_equal(access(in_folder("never.onnx"), F_OK), -1);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* The line belongs to the last call. */
static void a_call_that_succeeds_has_no_line(void **state) {
  (void)state;
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  assert_string_equal(onnxpipe_error(), "");
  assert_int_equal(onnxpipe_options_set(options, "shuffle", "maybe"), ONNXPIPE_USAGE);
  assert_string_equal(onnxpipe_error(), "--shuffle is a flag: it takes no 'maybe'");
  must(onnxpipe_options_set(options, "shuffle", NULL));
  assert_string_equal(onnxpipe_error(), "");
  assert_int_equal(onnxpipe_open(in_folder("absent.onnx"), options, &model), ONNXPIPE_FAILED);
  assert_non_null(strstr(onnxpipe_error(), "absent.onnx"));
  must(onnxpipe_open(BRANCHES "model.onnx", options, &model));
  assert_string_equal(onnxpipe_error(), "");
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void what_cannot_open_or_be_saved(void **state) {
  (void)state;
  OnnxpipeOptions *options = branches_options();
  must(onnxpipe_options_set(options, "ranks", "2"));
  OnnxpipeModel *model = open_model(options);
  OnnxpipeSession *session;
  must(onnxpipe_session_open(model, NULL, &session));
  must(onnxpipe_session_step(session));
  assert_int_equal(onnxpipe_session_save(session, in_folder("no/such/folder.onnx")), ONNXPIPE_FAILED);
  assert_non_null(strstr(onnxpipe_error(), "no/such/folder.onnx"));
  must(onnxpipe_session_step(session)); /* as good as before */
  must(onnxpipe_session_save(session, in_folder("after.onnx")));
  must(onnxpipe_session_close(session));
  must(onnxpipe_options_set(options, "microbatches", "7"));
  assert_int_equal(onnxpipe_session_open(model, NULL, &session), ONNXPIPE_USAGE);
  assert_null(session);
  must(onnxpipe_session_close(session));
  /* one that nobody steps */
  must(onnxpipe_options_set(options, "microbatches", "auto"));
  must(onnxpipe_session_open(model, NULL, &session));
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

int main(void) {
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-session-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(steps_are_training, "1"),
      cmocka_unit_test_prestate(steps_are_training, "3"),
      cmocka_unit_test(saving_in_between_and_going_on),
      cmocka_unit_test_prestate(validating_in_between, "1"),
      cmocka_unit_test_prestate(validating_in_between, "3"),
      cmocka_unit_test_prestate(a_failed_session_only_closes, "1"),
      cmocka_unit_test_prestate(a_failed_session_only_closes, "3"),
      cmocka_unit_test(what_cannot_open_or_be_saved),
      cmocka_unit_test(a_call_that_succeeds_has_no_line),
  };
  int failed = cmocka_run_group_tests_name("session", tests, NULL, NULL);
  for (const char **name = (const char *[]){"trained.onnx", "stepped.onnx", "between.onnx", "metrics.jsonl", NULL};
       *name; name++)
    unlink(in_folder(*name));
  rmdir(folder);
  return failed;
}
