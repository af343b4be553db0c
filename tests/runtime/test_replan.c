/* --replan in process; with ON_CUDA defined, on emulated devices, which take their time: a bad cut is left for a better
 * one while training goes on, and not a bit of losses, weights and checkpoints knows. */
#include "tests/runtime/replan_case.h"

static char folder[64];

static const char *in_folder(const char *name) {
  static char paths[4][160];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

/* Of whatever case, on so many ranks: with `more` and --replan as without. */
static void compare_runs(const ReplanCase *c, const char *more) {
  static ReplanRun plain, replanned;
  char with[512];
  snprintf(with, sizeof with, "%s replan", more);
  train(c, more, in_folder("plain.onnx"), &plain);
  train(c, with, in_folder("replanned.onnx"), &replanned);
  assert_int_equal(count(plain.printed, "replanned"), 0);
  check_replanned(&replanned);
  check_same_run(&plain, &replanned);
  assert_true(same_file(in_folder("plain.onnx"), in_folder("replanned.onnx")));
}

static void bits_stay(void **state) {
  (void)state;
  for (int i = 0; i < REPLAN_CASES; i++) {
    compare_runs(&replan_cases[i], "ranks=2");
    compare_runs(&replan_cases[i], "ranks=3");
  }
  compare_runs(&replan_cases[0], "ranks=2 chunks=2");
}

/* The lines about validations, alone. */
static void keep_validations(char *printed) {
  char *to = printed;
  for (char *line = printed, *end; (end = strchr(line, '\n')); line = end + 1)
    if (strncmp(line, "validation after", strlen("validation after")) == 0) {
      memmove(to, line, (size_t)(end + 1 - line));
      to += end + 1 - line;
    }
  *to = '\0';
}

/* What lies beside the plan goes with it: validation, an epoch's rest. */
static void what_lies_beside(void **state) {
  (void)state;
  const ReplanCase c = {"branches", "epochs=12 batch=16 microbatches=4 last-batch=exact validation-split=0.1 every=7"};
  static ReplanRun plain, replanned;
  compare_runs(&c, "ranks=2");
  train(&c, "ranks=3", in_folder("plain.onnx"), &plain);
  train(&c, "ranks=3 replan", in_folder("replanned.onnx"), &replanned);
  check_replanned(&replanned);
  keep_validations(plain.printed);
  keep_validations(replanned.printed);
  assert_int_equal(count(plain.printed, "\n"), 9);
  assert_string_equal(plain.printed, replanned.printed);
}

/* At the next checkpoint; what is written later goes on as ever, and what goes on from there replans in its turn. */
static void at_a_checkpoint(void **state) {
  (void)state;
  static ReplanRun plain, run;
  char more[512];
  const ReplanCase c = {replan_cases[1].model, ""};
  train(&c, "ranks=2 steps=60", in_folder("plain.onnx"), &plain);
  snprintf(more, sizeof more, "ranks=3 steps=30 replan every=9 checkpoint=%s", in_folder("checkpoints"));
  train(&c, more, in_folder("first.onnx"), &run);
  check_replanned(&run);
  assert_non_null(strstr(run.printed, "\nreplanned after step 27:"));
  snprintf(more, sizeof more, "ranks=2 steps=60 replan every=9 resume=%s", in_folder("checkpoints"));
  train(&c, more, in_folder("resumed.onnx"), &run);
  check_replanned(&run);
  assert_non_null(strstr(run.printed, "\nreplanned after step 54:"));
  check_same_run(&plain, &run);
  assert_true(same_file(in_folder("plain.onnx"), in_folder("resumed.onnx")));
}

/* A checkpoint that is lost keeps the plan until the next one is written: one under way while training goes on, and one
 * that a program of one's own asked for and waited for. */
static void not_without_a_checkpoint(void **state) {
  (void)state;
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  OnnxpipeSession *session;
  FILE *out = tmpfile();
  static char text[1 << 16];
  const char *folder_of_own = in_folder("kept");
  check_waits("ranks=3", in_folder("waits"), in_folder("plain.onnx"), in_folder("waited.onnx"), true);
  set_all(options, "no-measure batch=4 microbatches=2 threads=1 replan steps=60 ranks=3");
#ifdef ON_CUDA
  set_all(options, "device=cuda");
#endif
  must(onnxpipe_options_set(options, "checkpoint", folder_of_own));
  must(onnxpipe_options_set(options, "data", SOURCE_DIR "/models/branches/data.npz"));
  must(onnxpipe_open(SOURCE_DIR "/models/branches/model.onnx", options, &model));
  must(onnxpipe_session_open(model, out, &session));
  for (int i = 1; i <= 40; i++) {
    must(onnxpipe_session_step(session));
    if (i == 27) {
      move_away(folder_of_own, false);
      assert_int_not_equal(onnxpipe_session_checkpoint(session), ONNXPIPE_OK);
      assert_non_null(strstr(onnxpipe_error(), "the checkpoint of step 27"));
      move_away(folder_of_own, true);
    } else if (i == 36) {
      must(onnxpipe_session_checkpoint(session));
    }
  }
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  rewind(out);
  text[fread(text, 1, sizeof text - 1, out)] = '\0';
  fclose(out);
  if (count(text, "\nreplanned after step ") != 1 || !strstr(text, "\nreplanned after step 36:"))
    FAIL_TEST("%s", text);
}

/* Where a person says the cut there is no other. */
static void wishes_hold(void **state) {
  (void)state;
  static ReplanRun run;
  const ReplanCase c = {"branches", "steps=60 replan ranks=2 chunks=1 cut=add_2"};
  train(&c, "", in_folder("wished.onnx"), &run);
  assert_int_equal(count(run.printed, "\nreplanned"), 0);
  assert_int_equal(count(run.printed, "; no other cut would be faster"), 1);
}

/* Step by step, as a program of one's own does it. Without --replan nobody is told that stated speeds are wrong. */
static void in_the_callers_steps(void **state) {
  (void)state;
  static ReplanRun plain;
  const ReplanCase c = {"branches", "steps=60 ranks=3"};
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  OnnxpipeSession *session;
  OnnxpipeMetrics m;
  FILE *out = tmpfile();
  static char text[1 << 16];
  train(&c, "", in_folder("plain.onnx"), &plain);
  assert_int_equal(count(plain.printed, "\nstages: "), 0);
  set_all(options, "no-measure batch=4 microbatches=2 threads=1 replan steps=60 ranks=3");
#ifdef ON_CUDA
  set_all(options, "device=cuda");
#endif
  must(onnxpipe_options_set(options, "data", SOURCE_DIR "/models/branches/data.npz"));
  must(onnxpipe_open(SOURCE_DIR "/models/branches/model.onnx", options, &model));
  must(onnxpipe_session_open(model, out, &session));
  for (int i = 0; i < REPLAN_STEPS; i++) {
    must(onnxpipe_session_step(session));
    must(onnxpipe_session_metrics(session, &m));
    assert_true(m.step == i + 1 && m.loss == plain.losses[i]);
  }
  must(onnxpipe_session_save(session, in_folder("stepped.onnx")));
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  rewind(out);
  text[fread(text, 1, sizeof text - 1, out)] = '\0';
  fclose(out);
  assert_true(count(text, "\nreplanned after step ") >= 1);
  assert_true(same_file(in_folder("plain.onnx"), in_folder("stepped.onnx")));
}

static int prepare(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-replan-XXXXXX");
  return mkdtemp(folder) ? 0 : 1;
}

static int tidy(void **state) {
  char command[128];
  (void)state;
  snprintf(command, sizeof command, "rm -r %s", folder);
  return system(command);
}

int main(void) {
  setenv("COLUMNS", "500", 1); /* no line is broken */
  const struct CMUnitTest tests[] = {cmocka_unit_test(bits_stay),       cmocka_unit_test(what_lies_beside),
                                     cmocka_unit_test(at_a_checkpoint), cmocka_unit_test(not_without_a_checkpoint),
                                     cmocka_unit_test(wishes_hold),     cmocka_unit_test(in_the_callers_steps)};
  return cmocka_run_group_tests_name("replan", tests, prepare, tidy);
}
