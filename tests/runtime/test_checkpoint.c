/* Checkpoints on the disk: what is damaged is named and passed over, folders belong to one run, what contradicts a
 * checkpoint is refused, what cannot be written ends nothing. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/folder.h"
#include "tests/runtime/session_case.h"

static char folder[64], checkpoints[96];

static int setup(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-checkpoint-XXXXXX");
  assert_non_null(mkdtemp(folder));
  snprintf(checkpoints, sizeof checkpoints, "%s/runs/one", folder);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command);
}

static const char *path_of(int step, const char *file) {
  static char paths[4][256];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/step-%09d/%s", checkpoints, step, file);
  return path;
}

static OnnxpipeModel *open_model(const OnnxpipeOptions *options) {
  OnnxpipeModel *model;
  must(onnxpipe_open(BRANCHES "model.onnx", options, &model));
  return model;
}

static void keep(void *context, const OnnxpipeMetrics *m) {
  ((double *)context)[m->step] = m->loss;
}

/* Ten steps on two ranks, with checkpoints after every second one; the losses from losses[1] on. */
static void train_ten(double losses[16]) {
  OnnxpipeOptions *options = branches_options();
  must(onnxpipe_options_set(options, "steps", "10"));
  must(onnxpipe_options_set(options, "ranks", "2"));
  must(onnxpipe_options_set(options, "checkpoint", checkpoints));
  must(onnxpipe_options_set(options, "every", "2"));
  must(onnxpipe_options_set(options, "keep", "3"));
  OnnxpipeModel *model = open_model(options);
  must(onnxpipe_train(model, NULL, keep, losses));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static OnnxpipeOptions *resume_options(void) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  must(onnxpipe_options_set(options, "resume", checkpoints));
  must(onnxpipe_options_set(options, "quiet", ""));
  return options;
}

/* The only steps that are there. */
static void assert_steps(int n, const int *steps) {
  Arena *arena = arena_create();
  int64_t *found;
  int count;
  ASSERT_OK(folder_list(arena, checkpoints, &found, &count));
  assert_int_equal(count, n);
  for (int i = 0; i < n; i++)
    assert_int_equal(found[i], steps[i]);
  arena_destroy(arena);
}

/* What is found, and what is said about what was passed over. */
static int64_t find(const char *passed_over) {
  Arena *arena = arena_create();
  Checkpoint checkpoint;
  Text said = {0};
  ASSERT_OK(checkpoint_find(arena, checkpoints, true, &said, &checkpoint));
  assert_string_equal(said.data ? said.data : "", passed_over);
  int64_t step = checkpoint.step;
  checkpoint_close(&checkpoint);
  text_free(&said);
  arena_destroy(arena);
  return step;
}

static void the_newest_stay(void **state) {
  (void)state;
  double losses[16];
  train_ten(losses);
  assert_steps(3, (int[]){6, 8, 10});
  assert_int_equal(find(""), 10);
}

static void flip_byte(const char *path, long at) {
  FILE *file = fopen(path, "r+b");
  assert_non_null(file);
  fseek(file, at, at < 0 ? SEEK_END : SEEK_SET);
  int byte = fgetc(file);
  fseek(file, at, at < 0 ? SEEK_END : SEEK_SET);
  fputc(byte ^ 1, file);
  fclose(file);
}

static void assert_passed_over(int64_t step, const char *format, ...) {
  char line[512];
  va_list list;
  va_start(list, format);
  vsnprintf(line, sizeof line, format, list);
  va_end(list);
  assert_int_equal(find(line), step);
}

/* Every way in which a file can be wrong: it is named, and the one before is taken. */
static void what_is_damaged_is_named(void **state) {
  (void)state;
  double losses[16];
  static const char shard[] = "optimizer-00002-of-00002.safetensors";
  struct stat info;
  char moved[300];
  train_ten(losses);
  const char *path = path_of(10, shard);
  assert_int_equal(stat(path, &info), 0);
  flip_byte(path, -3);
  char line[512];
  Arena *arena = arena_create();
  Checkpoint c;
  assert_int_equal(checkpoint_find(arena, path_of(10, ""), true, NULL, &c), E_MODEL);
  snprintf(line, sizeof line, "%s\n", status_message());
  assert_non_null(strstr(line, "optimizer-00002-of-00002.safetensors: is damaged: its checksum is "));
  arena_destroy(arena);
  flip_byte(path, -3);
  assert_int_equal(find(""), 10);

  assert_int_equal(truncate(path, info.st_size - 1), 0);
  assert_passed_over(8, "%s: is damaged: it has %lld bytes, not %lld\n", path, (long long)info.st_size - 1,
                     (long long)info.st_size);
  snprintf(moved, sizeof moved, "%s.moved", path);
  assert_int_equal(rename(path, moved), 0);
  assert_passed_over(8, "%s: cannot be opened: No such file or directory\n", path);

  const char *about = path_of(10, "checkpoint.json");
  assert_int_equal(truncate(about, 40), 0);
  assert_int_equal(truncate(about, 0), 0);
  assert_passed_over(8, "%s: is damaged: it does not begin with its checksum\n", about);
  assert_int_equal(unlink(about), 0);
  assert_passed_over(8, "%s: cannot be opened: No such file or directory\n", about);
}

/* Any byte of checkpoint.json. */
static void every_byte_counts(void **state) {
  (void)state;
  double losses[16];
  struct stat info;
  train_ten(losses);
  char about[256];
  snprintf(about, sizeof about, "%s", path_of(10, "checkpoint.json"));
  assert_int_equal(stat(about, &info), 0);
  for (long at = 0; at < info.st_size; at++) {
    Arena *arena = arena_create();
    Checkpoint c;
    flip_byte(about, at);
    if (checkpoint_find(arena, path_of(10, ""), true, NULL, &c) == OK)
      FAIL_TEST("byte %ld changed, and it was read", at);
    flip_byte(about, at);
    arena_destroy(arena);
  }
  assert_int_equal(find(""), 10);
}

/* The newest is damaged: the run goes on from the one before, and what it writes counts. */
static void goes_on_before_what_is_damaged(void **state) {
  (void)state;
  double straight[16] = {0}, again[16] = {0};
  train_ten(straight);
  flip_byte(path_of(10, "model-00001-of-00002.safetensors"), -1);
  flip_byte(path_of(8, "model-00001-of-00002.safetensors"), -1);
  OnnxpipeOptions *options = resume_options();
  must(onnxpipe_options_set(options, "ranks", "3"));
  must(onnxpipe_options_set(options, "every", "1"));
  OnnxpipeModel *model = open_model(options);
  must(onnxpipe_train(model, NULL, keep, again));
  for (int step = 7; step <= 10; step++)
    assert_true(again[step] == straight[step] && again[step] != 0);
  assert_true(again[6] == 0);
  assert_steps(3, (int[]){8, 9, 10});
  assert_int_equal(find(""), 10);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void assert_refused(OnnxpipeOptions *options, const char *format, ...) {
  char line[1024];
  va_list list;
  va_start(list, format);
  vsnprintf(line, sizeof line, format, list);
  va_end(list);
  OnnxpipeModel *model;
  OnnxpipeStatus status = onnxpipe_open(BRANCHES "model.onnx", options, &model);
  if (status == ONNXPIPE_OK)
    status = onnxpipe_train(model, NULL, NULL, NULL);
  assert_int_equal(status, ONNXPIPE_USAGE);
  assert_string_equal(onnxpipe_error(), line);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void what_contradicts_is_refused(void **state) {
  (void)state;
  double losses[16];
  static const struct {
    const char *name, *value, *has;
  } cases[] = {{"lr", "0.5", "0.001"},       {"batch", "4", "8"},        {"seed", "3", NULL},
               {"optimizer", "sgd", "adam"}, {"microbatches", "2", "1"}, {"loss", "mse", "cross_entropy"}};
  train_ten(losses);
  const char *newest = path_of(10, "");
  int length = (int)strlen(newest) - 1;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    OnnxpipeOptions *options = resume_options();
    must(onnxpipe_options_set(options, cases[i].name, cases[i].value));
    if (i == 2) /* it was not given: the default */
      assert_refused(options, "--seed 3 contradicts %.*s, whose run has 0", length, newest);
    else
      assert_refused(options, "--%s %s contradicts %.*s, whose run has %s", cases[i].name, cases[i].value, length,
                     newest, cases[i].has);
  }
  OnnxpipeOptions *options = resume_options();
  must(onnxpipe_options_set(options, "freeze", "*.bias"));
  assert_refused(options, "--freeze *.bias contradicts %.*s, whose run has none", length, newest);
  options = resume_options();
  must(onnxpipe_options_set(options, "lr", "0.001")); /* as it was */
  must(onnxpipe_options_set(options, "steps", "11"));
  OnnxpipeModel *model = open_model(options);
  must(onnxpipe_train(model, NULL, NULL, NULL));
  assert_int_equal(find(""), 11);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void a_folder_is_one_runs(void **state) {
  (void)state;
  double losses[16];
  train_ten(losses);
  OnnxpipeOptions *options = branches_options();
  must(onnxpipe_options_set(options, "checkpoint", checkpoints));
  assert_refused(options,
                 "%s holds checkpoints of another run, up to step 10: --resume %s goes on with it, --checkpoint takes "
                 "another folder",
                 checkpoints, checkpoints);
  OnnxpipeOptions *first = resume_options();
  OnnxpipeModel *model = open_model(first);
  OnnxpipeSession *session;
  must(onnxpipe_session_open(model, NULL, &session));
  char host[128] = "";
  gethostname(host, sizeof host - 1);
  assert_refused(resume_options(), "%s: another run writes its checkpoints there: process %d on %s", checkpoints,
                 (int)getpid(), host);
  must(onnxpipe_session_close(session));
  must(onnxpipe_session_open(model, NULL, &session)); /* the lock went with it */
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(first);

  options = resume_options();
  must(onnxpipe_options_set(options, "resume", path_of(8, "")));
  must(onnxpipe_options_set(options, "checkpoint", checkpoints));
  assert_refused(options, "%s holds checkpoints up to step 10, later than %s: --checkpoint takes another folder",
                 checkpoints, path_of(8, ""));
}

/* A file lies where the checkpoint is to be written: the step counts, the next checkpoint is written. */
static void a_failed_write_ends_nothing(void **state) {
  const char *ranks = *state;
  char line[512], blocked[256], command[300];
  OnnxpipeOptions *options = branches_options();
  must(onnxpipe_options_set(options, "checkpoint", checkpoints));
  must(onnxpipe_options_set(options, "ranks", ranks));
  OnnxpipeModel *model = open_model(options);
  OnnxpipeSession *session;
  OnnxpipeMetrics m;
  must(onnxpipe_session_open(model, NULL, &session));
  snprintf(blocked, sizeof blocked, "%s/.step-%09d.part", checkpoints, 1);
  snprintf(command, sizeof command, "touch %s", blocked);
  assert_int_equal(system(command), 0);
  must(onnxpipe_session_step(session));
  assert_int_equal(onnxpipe_session_checkpoint(session), ONNXPIPE_FAILED);
  snprintf(line, sizeof line, "the checkpoint of step 1 was not written: %s: cannot be removed: Not a directory",
           blocked);
  assert_string_equal(onnxpipe_error(), line);
  must(onnxpipe_session_step(session));
  must(onnxpipe_session_checkpoint(session));
  must(onnxpipe_session_metrics(session, &m));
  check_loss(2, m.loss);
  assert_steps(1, (int[]){2});
  assert_int_equal(find(""), 2);
  must(onnxpipe_session_close(session));
  assert_int_equal(unlink(blocked), 0);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* What an ended run left aside goes when the next one takes the folder. */
static void leftovers_go(void **state) {
  (void)state;
  double losses[16];
  char path[256], command[600];
  struct stat info;
  train_ten(losses);
  snprintf(path, sizeof path, "%s/.step-000000012.part", checkpoints);
  snprintf(command, sizeof command, "mkdir %s && touch %s/model-00001-of-00002.safetensors", path, path);
  assert_int_equal(system(command), 0);
  OnnxpipeOptions *options = resume_options();
  OnnxpipeModel *model = open_model(options);
  must(onnxpipe_train(model, NULL, NULL, NULL));
  assert_int_equal(stat(path, &info), -1);
  assert_steps(3, (int[]){6, 8, 10});
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void nothing_to_resume(void **state) {
  (void)state;
  OnnxpipeOptions *options = resume_options();
  OnnxpipeModel *model;
  char line[256];
  assert_int_equal(onnxpipe_open(BRANCHES "model.onnx", options, &model), ONNXPIPE_FAILED);
  snprintf(line, sizeof line, "%s: cannot be read: No such file or directory", checkpoints);
  assert_string_equal(onnxpipe_error(), line);
  must(onnxpipe_options_set(options, "resume", folder));
  assert_int_equal(onnxpipe_open(BRANCHES "model.onnx", options, &model), ONNXPIPE_FAILED);
  snprintf(line, sizeof line, "%s: holds no checkpoint", folder);
  assert_string_equal(onnxpipe_error(), line);
  onnxpipe_options_destroy(options);
}

#define TEST(name, argument) cmocka_unit_test_prestate_setup_teardown(name, setup, teardown, argument)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(the_newest_stay, NULL),
      TEST(what_is_damaged_is_named, NULL),
      TEST(every_byte_counts, NULL),
      TEST(goes_on_before_what_is_damaged, NULL),
      TEST(what_contradicts_is_refused, NULL),
      TEST(a_folder_is_one_runs, NULL),
      TEST(a_failed_write_ends_nothing, "1"),
      TEST(a_failed_write_ends_nothing, "3"),
      TEST(leftovers_go, NULL),
      TEST(nothing_to_resume, NULL),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
