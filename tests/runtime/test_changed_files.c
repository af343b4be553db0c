/* Files that are made shorter or rewritten while a session has them open: a line that names the file, and what was
 * trained is saved, in the model or beside it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "onnx/model.h"
#include "runtime/data/data.h"
#include "tests/files.h"
#include "tests/runtime/session_case.h"

static char folder[64];

static const char *in_folder(const char *name) {
  static char paths[8][128];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void copy(const char *from, const char *to) {
  char command[512];
  snprintf(command, sizeof command, "cp %s %s", from, to);
  assert_int_equal(system(command), 0);
}

/* Zeros over all of the file, as somebody writes it who does not know that it is read. */
static void overwrite(const char *path) {
  struct stat info;
  int file = open(path, O_WRONLY);
  assert_true(file >= 0 && fstat(file, &info) == 0);
  char *zeros = calloc(1, (size_t)info.st_size);
  assert_int_equal(write(file, zeros, (size_t)info.st_size), info.st_size);
  const struct timespec later[2] = {{.tv_sec = 2000000000}, {.tv_sec = 2000000000}};
  assert_int_equal(futimens(file, later), 0);
  free(zeros);
  close(file);
}

static void cut(const char *path) {
  assert_int_equal(truncate(path, 3000), 0);
}

typedef struct {
  OnnxpipeOptions *options;
  OnnxpipeModel *model;
  OnnxpipeSession *session;
} Run;

/* A session over a model and data in the folder, two steps on. */
static Run begin(const char *model, const char *data, const char *ranks) {
  Run run = {.options = onnxpipe_options_create()};
  must(onnxpipe_options_set(run.options, "data", in_folder(data)));
  must(onnxpipe_options_set(run.options, "batch", "4"));
  must(onnxpipe_options_set(run.options, "ranks", ranks));
  must(onnxpipe_options_set(run.options, "quiet", ""));
  must(onnxpipe_open(in_folder(model), run.options, &run.model));
  must(onnxpipe_session_open(run.model, NULL, &run.session));
  for (int step = 0; step < 2; step++)
    must(onnxpipe_session_step(run.session));
  return run;
}

static void end(Run *run) {
  must(onnxpipe_session_close(run->session));
  onnxpipe_close(run->model);
  onnxpipe_options_destroy(run->options);
}

static void assert_says(OnnxpipeStatus status, const char *file, const char *what) {
  assert_int_equal(status, ONNXPIPE_FAILED);
  if (!strstr(onnxpipe_error(), file) || !strstr(onnxpipe_error(), what))
    FAIL_TEST("'%s' does not say '%s' and '%s'", onnxpipe_error(), file, what);
}

static void changed_data_ends_the_training_and_loses_nothing(void **state) {
  (void)state;
  for (int kind = 0; kind < 4; kind++) {
    copy(BRANCHES "model.onnx", in_folder("m.onnx"));
    copy(BRANCHES "data.npz", in_folder("d.npz"));
    Run run = begin("m.onnx", "d.npz", kind / 2 ? "2" : "1");
    must(onnxpipe_session_save(run.session, in_folder("expected.onnx")));
    (kind % 2 ? overwrite : cut)(in_folder("d.npz"));
    assert_says(onnxpipe_session_step(run.session), "d.npz: ", "while it was in use");
    assert_says(onnxpipe_session_step(run.session), "d.npz: ", "while it was in use");
    must(onnxpipe_session_save(run.session, in_folder("saved.onnx")));
    assert_true(same_file(in_folder("expected.onnx"), in_folder("saved.onnx")));
    end(&run);
  }
}

typedef struct {
  int64_t at;
  char path[128];
} Sabotage;

static void sabotage(void *context, const OnnxpipeMetrics *m) {
  const Sabotage *how = context;
  if (m->step == how->at)
    cut(how->path);
}

/* The whole of `train`: its line says both. */
static void training_saves_what_it_has(void **state) {
  (void)state;
  for (int ranks = 1; ranks <= 2; ranks++) {
    copy(BRANCHES "data.npz", in_folder("d.npz"));
    OnnxpipeOptions *options = branches_options();
    OnnxpipeModel *model;
    Sabotage how = {.at = 2};
    snprintf(how.path, sizeof how.path, "%s", in_folder("d.npz"));
    unlink(in_folder("saved.onnx"));
    must(onnxpipe_options_set(options, "data", how.path));
    must(onnxpipe_options_set(options, "steps", "5"));
    must(onnxpipe_options_set(options, "ranks", ranks == 1 ? "1" : "2"));
    must(onnxpipe_options_set(options, "save", in_folder("saved.onnx")));
    must(onnxpipe_open(BRANCHES "model.onnx", options, &model));
    OnnxpipeStatus status = onnxpipe_train(model, NULL, sabotage, &how);
    if (ranks == 1) { /* with more, a step may have begun that nothing can undo */
      assert_says(status, "d.npz: ", "steps trained is in ");
      assert_int_equal(access(in_folder("saved.onnx"), R_OK), 0);
    }
    assert_says(status, "d.npz: ", "while it was in use");
    onnxpipe_close(model);
    onnxpipe_options_destroy(options);
  }
}

static void a_small_model_is_saved_whatever_becomes_of_its_file(void **state) {
  (void)state;
  for (int kind = 0; kind < 3; kind++) {
    copy(BRANCHES "model.onnx", in_folder("m.onnx"));
    copy(BRANCHES "data.npz", in_folder("d.npz"));
    Run run = begin("m.onnx", "d.npz", "2");
    must(onnxpipe_session_save(run.session, in_folder("expected.onnx")));
    if (kind == 2)
      unlink(in_folder("m.onnx"));
    else
      (kind ? overwrite : cut)(in_folder("m.onnx"));
    must(onnxpipe_session_save(run.session, in_folder("saved.onnx")));
    assert_true(same_file(in_folder("expected.onnx"), in_folder("saved.onnx")));
    end(&run);
  }
}

/* A tail of bytes that a reader of protobuf passes over: as large as a model that is not copied. */
static void make_large(const char *path) {
  enum { TAIL = 8 << 20 };
  FILE *file = fopen(path, "ab");
  assert_non_null(file);
  const unsigned char tag[] = {0xfa, 0x01, 0x80, 0x80, 0x80, 0x04}; /* field 31, which ONNX does not have: 2²³ bytes */
  assert_int_equal(fwrite(tag, 1, sizeof tag, file), sizeof tag);
  char *zeros = calloc(1, TAIL);
  assert_int_equal(fwrite(zeros, 1, TAIL, file), TAIL);
  free(zeros);
  fclose(file);
}

static void a_large_model_that_changed_is_not_mixed(void **state) {
  (void)state;
  for (int kind = 0; kind < 4; kind++) {
    copy(BRANCHES "model.onnx", in_folder("m.onnx"));
    copy(BRANCHES "data.npz", in_folder("d.npz"));
    make_large(in_folder("m.onnx"));
    Run run = begin("m.onnx", "d.npz", kind / 2 ? "2" : "1");
    must(onnxpipe_session_save(run.session, in_folder("expected.onnx")));
    (kind % 2 ? overwrite : cut)(in_folder("m.onnx"));
    unlink(in_folder("saved.onnx"));
    OnnxpipeStatus status = onnxpipe_session_save(run.session, in_folder("saved.onnx"));
    assert_says(status, "m.onnx: was ", "saved.onnx.npz");
    assert_int_not_equal(access(in_folder("saved.onnx"), F_OK), 0);
    must(onnxpipe_session_close(run.session));
    onnxpipe_close(run.model);
    onnxpipe_options_destroy(run.options);

    Model *expected;
    ArrayFile arrays;
    int n, compared = 0;
    ASSERT_OK(model_open(in_folder("expected.onnx"), NULL, &expected));
    ASSERT_OK(array_file_open(in_folder("saved.onnx.npz"), &arrays));
    const Initializer *table = model_initializers(expected, &n);
    for (int i = 0; i < n; i++) {
      const Array *array = array_find(&arrays, table[i].name);
      assert_true((array != NULL) == table[i].trains);
      if (!array)
        continue;
      size_t bytes;
      ASSERT_OK(shape_bytes(table[i].shape, table[i].dtype, &bytes));
      void *data = malloc(bytes);
      ASSERT_OK(model_read_initializer(expected, i, data, bytes));
      assert_memory_equal(data, array->data, bytes);
      free(data);
      compared++;
    }
    assert_true(compared > 2);
    array_file_close(&arrays);
    model_close(expected);
  }
}

int main(void) {
  strcpy(folder, "/tmp/onnxpipe-changed-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(changed_data_ends_the_training_and_loses_nothing),
      cmocka_unit_test(training_saves_what_it_has),
      cmocka_unit_test(a_small_model_is_saved_whatever_becomes_of_its_file),
      cmocka_unit_test(a_large_model_that_changed_is_not_mixed),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command) || failed;
}
