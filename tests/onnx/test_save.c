/* Saving: the same file with other weights, for every way in which a file may hold them. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "graph/narrow.h"
#include "tests/onnx/build.h"

/* A weight of initializer i that cannot be there already. */
static float new_weight(int i, size_t at) {
  return (float)i + 0.25f + (float)(at % 1000) / 1024;
}

static bool is_given_anew(const Initializer *initializer) {
  return initializer->trains || initializer->is_buffer;
}

typedef struct {
  const Model *model;
  int last, calls, fail_at;
} Source;

static Status give(void *context, int i, void *data, size_t bytes) {
  Source *source = context;
  const Initializer *initializer = &source->model->initializers[i];
  assert_true(is_given_anew(initializer) && initializer->tied_to < 0);
  assert_true(i > source->last); /* in table order */
  assert_int_equal(bytes, (size_t)shape_elements(initializer->shape) * dtype_bytes(initializer->dtype));
  source->last = i;
  if (source->calls++ == source->fail_at)
    return fail(E_COMM, "rank 2 is gone");
  for (size_t k = 0; k < bytes / dtype_bytes(initializer->dtype); k++)
    if (initializer->dtype == F32)
      ((float *)data)[k] = new_weight(i, k);
    else if (initializer->dtype == F64)
      ((double *)data)[k] = new_weight(i, k);
    else
      ((uint16_t *)data)[k] = (uint16_t)(i * 1000 + (int)(k % 1000));
  return OK;
}

static Source source_of(const Model *model) {
  return (Source){.model = model, .last = -1, .fail_at = -1};
}

static void *contents(const Model *model, int i, size_t *bytes) {
  *bytes = (size_t)shape_elements(model->initializers[i].shape) * dtype_bytes(model->initializers[i].dtype);
  void *data = malloc(*bytes ? *bytes : 1);
  ASSERT_OK(model_read_initializer(model, i, data, *bytes));
  return data;
}

/* `saved` is `model` with the weights of give(). */
static void has_new_weights(const Model *model, const Model *saved) {
  assert_int_equal(saved->n_initializers, model->n_initializers);
  if (model->n_initializers == model->n_file_initializers) /* else it is another structure */
    assert_string_equal(saved->hash, model->hash);
  for (int i = 0; i < model->n_initializers; i++) {
    const Initializer *was = &model->initializers[i], *is = &saved->initializers[i];
    size_t bytes, old_bytes;
    assert_string_equal(was->name, is->name);
    assert_int_equal(was->trains, is->trains);
    assert_int_equal(was->tied_to, is->tied_to);
    void *data = contents(saved, i, &bytes);
    bool is_new = is_given_anew(was);
    assert_int_equal(was->is_buffer, is->is_buffer);
    if (!is_new) {
      void *old = contents(model, i, &old_bytes);
      assert_int_equal(bytes, old_bytes);
      assert_memory_equal(data, old, bytes);
      free(old);
    }
    int owner = was->tied_to < 0 ? i : was->tied_to;
    for (size_t k = 0; is_new && was->dtype == F32 && k < bytes / 4; k++) {
      size_t at = k;
      if (was->tied_transposed) {
        size_t rows = (size_t)was->shape.dim[0], columns = (size_t)was->shape.dim[1];
        at = k % columns * rows + k / columns;
      }
      assert_true(((float *)data)[k] == new_weight(owner, at));
    }
    free(data);
  }
}

static Status give_any(void *context, int i, void *data, size_t bytes) {
  (void)context;
  for (size_t k = 0; k < bytes / sizeof(float); k++)
    ((float *)data)[k] = new_weight(i, k);
  return OK;
}

/* Running statistics do not train, and are what the run left. */
static void buffers_are_saved(void **state) {
  (void)state;
  const char *folder = make_folder(), *path = in_folder(folder, "saved.onnx");
  for (int is_buffer = 0; is_buffer < 2; is_buffer++) {
    Model *model, *saved;
    size_t bytes;
    int i = 0;
    ASSERT_OK(model_open(SOURCE_DIR "/models/gpt2/model.onnx", NULL, &model));
    while (i < model->n_initializers && (model->initializers[i].dtype != F32 || model->initializers[i].shape.rank != 1))
      i++;
    assert_true(i < model->n_initializers);
    model->initializers[i].trains = false;
    model->initializers[i].is_buffer = is_buffer;
    ASSERT_OK(model_save(model, path, NULL, give_any, NULL));
    ASSERT_OK(model_open(path, NULL, &saved));
    float *was = contents(model, i, &bytes), *is = contents(saved, i, &bytes);
    assert_true(bytes >= sizeof(float));
    if (is_buffer)
      assert_true(is[0] == new_weight(i, 0));
    else
      assert_memory_equal(is, was, bytes);
    free(was);
    free(is);
    model_close(saved);
    model_close(model);
  }
  remove_folder(folder);
}

static void reference_models_are_saved(void **state) {
  (void)state;
  const char *folder = make_folder();
  for (int c = 0; c < N_REFERENCE_CASES; c++) {
    Model *model, *saved;
    char path[256];
    snprintf(path, sizeof path, "%s/%s.onnx", folder, reference_cases[c]);
    ASSERT_OK(model_open(reference_path(c, "model.onnx"), NULL, &model));
    for (int round = 0; round < 2; round++) { /* the second time over the first */
      Source source = source_of(model);
      ASSERT_OK(model_save(model, path, NULL, give, &source));
    }
    ASSERT_OK(model_open(path, NULL, &saved));
    has_new_weights(model, saved);
    bool is_external = strcmp(reference_cases[c], "llama") == 0;
    if (!is_external && model->n_initializers == model->n_file_initializers) {
      /* the same length, and the same bytes outside of trained contents */
      assert_int_equal(saved->file_bytes, model->file_bytes);
      uint8_t *masked = malloc(saved->file_bytes), *original = malloc(saved->file_bytes);
      memcpy(masked, saved->file, saved->file_bytes);
      memcpy(original, model->file, saved->file_bytes);
      for (int i = 0; i < model->n_initializers; i++)
        if (is_given_anew(&model->initializers[i]) && model->sources[i].in_file) {
          memset(masked + model->sources[i].offset, 0, model->sources[i].bytes);
          memset(original + model->sources[i].offset, 0, model->sources[i].bytes);
        }
      size_t differ = 0, small = 0;
      for (size_t k = 0; k < saved->file_bytes; k++)
        differ += masked[k] != original[k];
      for (int i = 0; i < model->n_initializers; i++)
        if (is_given_anew(&model->initializers[i]) && !model->sources[i].in_file)
          small += (size_t)shape_elements(model->initializers[i].shape) * 4;
      assert_true(differ <= small);
      free(masked);
      free(original);
    }
    /* the second save's weights have a name of their own, and the first one's are gone */
    assert_int_equal(access(in_folder(folder, "llama.onnx.1.data"), F_OK) == 0, is_external || c > 5);
    assert_int_not_equal(access(in_folder(folder, "llama.onnx.data"), F_OK), 0);
    model_close(saved);
    model_close(model);
  }
  remove_folder(folder);
}

/* onnx.checker and onnxruntime, where a Python that has them is at hand. */
static void others_accept_them(void **state) {
  (void)state;
  const char *python = getenv("ONNXPIPE_TEST_PYTHON");
  char command[1024];
  snprintf(command, sizeof command, "%s -c 'import onnx, onnxruntime' 2>/dev/null", python ? python : "python3");
  if (system(command) != 0) {
    print_message("skipped: no Python with onnx and onnxruntime (ONNXPIPE_TEST_PYTHON names one)\n");
    skip();
  }
  const char *folder = make_folder();
  for (int c = 0; c < N_REFERENCE_CASES; c++) {
    Model *model;
    char path[256];
    snprintf(path, sizeof path, "%s/%s.onnx", folder, reference_cases[c]);
    ASSERT_OK(model_open(reference_path(c, "model.onnx"), NULL, &model));
    Source source = source_of(model);
    ASSERT_OK(model_save(model, path, NULL, give, &source));
    model_close(model);
  }
  snprintf(command, sizeof command, "%s " SOURCE_DIR "/tests/onnx/accept.py %s/*.onnx", python ? python : "python3",
           folder);
  assert_int_equal(system(command), 0);
  remove_folder(folder);
}

static Bytes half_floats(const char *name) {
  Bytes t = tensor(name, 10, 2, (int64_t[]){2, 2}), numbers = {0};
  for (int i = 0; i < 4; i++)
    put_number(&numbers, (uint64_t)(0x3c00 + i));
  put_message(&t, TENSOR_INT32_DATA, numbers);
  put_text(&t, 12, "a doc_string behind the contents");
  return t;
}

static Bytes doubles(const char *name, int64_t n) {
  Bytes t = tensor(name, 11, 1, &n), numbers = {0};
  for (int64_t i = 0; i < n; i++)
    put_raw(&numbers, &(double){(double)i}, 8);
  put_message(&t, TENSOR_DOUBLE_DATA, numbers);
  return t;
}

/* float_data that is not packed: a tag in front of each number. */
static Bytes unpacked_floats(const char *name) {
  Bytes t = tensor(name, 1, 1, (int64_t[]){3});
  for (int i = 0; i < 3; i++) {
    put_number(&t, TENSOR_FLOAT_DATA << 3 | 5);
    put_raw(&t, &(float){7}, 4);
  }
  return t;
}

static Bytes external(const char *name, int64_t n, const char *offset) {
  Bytes t = tensor(name, 1, 1, &n);
  put_message(&t, 13, property("location", "weights"));
  put_message(&t, 13, property("offset", offset));
  put_message(&t, 13, property("checksum", "0123"));
  put_int(&t, 14, 1);
  return t;
}

/* Every encoding, trained and not; external data also in an attribute. */
static Bytes mixed_model(void) {
  Bytes graph = {0}, attribute = {0}, constant = node("k", "Constant", "", "c");
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 4}));
  put_text(&attribute, 1, "value");
  put_message(&attribute, 5, external("in_a_node", 5, "8"));
  put_int(&attribute, 20, 4);
  put_message(&constant, 5, attribute);
  put_message(&graph, 1, constant);
  put_message(&graph, 1, node("a", "Gemm", "x,half,out", "t0"));
  put_message(&graph, 1, node("b", "Gemm", "x,double,float", "t1"));
  put_message(&graph, 1, node("b", "MatMul", "x,raw", "t2"));
  put_message(&graph, 5, half_floats("half"));
  put_message(&graph, 5, doubles("double", 300));
  put_message(&graph, 5, unpacked_floats("float"));
  put_message(&graph, 5, external("out", 20000, "64"));
  put_message(&graph, 5, external("fixed", 6, "0"));
  put_message(&graph, 5, weight("raw", 3, 2, 0, 1));
  put_message(&graph, 5, weight("empty", 0, 0, 0, 1));
  put_message(&graph, 12, value_info("t0", 0, NULL));
  put_text(&graph, 999, "an unknown field stays");
  return model_of(8, 18, graph);
}

static void every_encoding_is_saved(void **state) {
  (void)state;
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx"), *new_path = in_folder(folder, "new.onnx");
  float *weights = malloc(90000);
  for (int i = 0; i < 22500; i++)
    weights[i] = (float)i;
  write_file(in_folder(folder, "weights"), weights, 90000);
  save_bytes(path, mixed_model());
  Model *model, *saved;
  ASSERT_OK(model_open(path, NULL, &model));
  Source source = source_of(model);
  ASSERT_OK(model_save(model, new_path, NULL, give, &source));
  assert_int_equal(source.calls, 5);
  unlink(in_folder(folder, "weights"));
  ASSERT_OK(model_open(new_path, NULL, &saved));
  size_t bytes;
  float *half = contents(saved, 0, &bytes); /* trained in float32, saved as it was */
  assert_int_equal(saved->initializers[0].stored, F16);
  for (int i = 0; i < 4; i++)
    assert_true(half[i] == narrow_value(F16, narrow_bits(F16, new_weight(0, i), true)));
  double *wide = contents(saved, 1, &bytes);
  assert_true(wide[299] == new_weight(1, 299));
  float *narrow = contents(saved, 2, &bytes), *out = contents(saved, 3, &bytes);
  assert_true(narrow[2] == new_weight(2, 2));
  assert_true(out[19999] == new_weight(3, 19999));
  float *fixed = contents(saved, 4, &bytes), *raw = contents(saved, 5, &bytes);
  assert_memory_equal(fixed, weights, 24);
  assert_true(raw[5] == new_weight(5, 5));
  assert_string_equal(saved->sources[3].external, "new.onnx.data");
  assert_int_equal(saved->sources[3].offset % 4096, 0);
  DType dtype;
  Shape shape;
  const void *inside;
  ASSERT_OK(tensor_read(saved, saved->proto->graph->node[0]->attribute[0]->t, saved->arena, &dtype, &shape, &inside));
  assert_memory_equal(inside, weights + 2, 20);
  assert_non_null(memmem(saved->file, saved->file_bytes, "an unknown field stays", 22));
  assert_non_null(memmem(saved->file, saved->file_bytes, "a doc_string behind the contents", 32));
  assert_null(memmem(saved->file, saved->file_bytes, "checksum", 8));
  free(half);
  free(wide);
  free(narrow);
  free(out);
  free(fixed);
  free(raw);
  free(weights);
  model_close(saved);
  model_close(model);
  remove_folder(folder);
}

/* What lies at the path is the old file after any failure, and nothing is left beside it. */
static void failures_leave_the_old_files(void **state) {
  (void)state;
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  char kept[128], command[256];
  snprintf(kept, sizeof kept, "%s/kept.onnx", folder);
  write_file(in_folder(folder, "weights"), (char[90000]){0}, 90000);
  save_bytes(path, mixed_model());
  write_file(kept, "old", 3);
  write_file(in_folder(folder, "kept.onnx.data"), "older", 5);
  Model *model;
  ASSERT_OK(model_open(path, NULL, &model));
  Source source = source_of(model);
  source.fail_at = 2;
  ASSERT_FAILS(E_COMM, "rank 2 is gone", model_save(model, kept, NULL, give, &source));
  source = source_of(model);
  assert_int_equal(truncate(in_folder(folder, "weights"), 10), 0); /* fixed weights became unreadable */
  assert_int_equal(model_save(model, kept, NULL, give, &source), E_MODEL);
  assert_int_equal(truncate(in_folder(folder, "weights"), 90000), 0);
  size_t bytes;
  uint8_t *old = read_file(kept, &bytes), *older = read_file(in_folder(folder, "kept.onnx.data"), &bytes);
  assert_memory_equal(old, "old", 3);
  assert_memory_equal(older, "older", 5);
  free(old);
  free(older);
  source = source_of(model);
  mkdir(in_folder(folder, "d.onnx"), 0700);
  assert_int_equal(model_save(model, in_folder(folder, "d.onnx"), NULL, give, &source), E_IO);
  assert_non_null(strstr(status_message(), "d.onnx: is a directory"));
  assert_int_not_equal(access(in_folder(folder, "d.onnx.data"), F_OK), 0);
  source = source_of(model);
  assert_int_equal(model_save(model, in_folder(folder, "none/m.onnx"), NULL, give, &source), E_IO);
  snprintf(command, sizeof command, "test $(ls %s | wc -l) = 5", folder);
  assert_int_equal(system(command), 0);
  model_close(model);
  remove_folder(folder);
}

/* A model may be saved over the file it was opened from. */
static void a_model_saves_over_itself(void **state) {
  (void)state;
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  write_file(in_folder(folder, "weights"), (char[90000]){0}, 90000);
  save_bytes(path, mixed_model());
  for (int round = 0; round < 3; round++) {
    Model *model;
    ASSERT_OK(model_open(path, NULL, &model));
    Source source = source_of(model);
    ASSERT_OK(model_save(model, path, NULL, give, &source));
    model_close(model);
  }
  Model *model;
  ASSERT_OK(model_open(path, NULL, &model));
  size_t bytes;
  float *out = contents(model, 3, &bytes);
  assert_true(out[7] == new_weight(3, 7));
  free(out);
  model_close(model);
  remove_folder(folder);
}

/* What a save does to names and disks, step by step: the program's own functions, which a test lets end the process
 * before a step, behind it, or fail in its place. */
typedef enum { GO_ON, END_BEFORE, END_BEHIND, FAIL } Fate;
static Fate fate;
static int fated_step, steps_taken;

static bool step_fails(void) {
  bool now = fate != GO_ON && ++steps_taken == fated_step;
  if (now && fate == END_BEFORE)
    _exit(9);
  if (now && fate == FAIL)
    errno = EIO;
  return now && fate == FAIL;
}

static int step_done(int result) {
  if (fate == END_BEHIND && steps_taken == fated_step)
    _exit(9);
  return result;
}

int rename(const char *from, const char *to) {
  return step_fails() ? -1 : step_done(renameat(AT_FDCWD, from, AT_FDCWD, to));
}

int unlink(const char *path) {
  return step_fails() ? -1 : step_done(unlinkat(AT_FDCWD, path, 0));
}

int fsync(int descriptor) {
  return step_fails() ? -1 : step_done(fdatasync(descriptor));
}

enum { OLD_WEIGHT = 7 };

static Status give_old(void *context, int i, void *data, size_t bytes) {
  (void)context;
  (void)i;
  memset(data, OLD_WEIGHT, bytes);
  return OK;
}

/* Whether the model at the path is all new; else it must be all old. */
static bool is_new(const Model *model, const char *path) {
  Model *saved;
  ASSERT_OK(model_open(path, NULL, &saved));
  size_t bytes;
  int i = 0;
  while (!model->initializers[i].trains || model->initializers[i].tied_to >= 0)
    i++;
  unsigned char *data = contents(saved, i, &bytes);
  bool old = data[0] == OLD_WEIGHT && data[1] == OLD_WEIGHT;
  free(data);
  for (; old && i < saved->n_initializers; i++) {
    if (!model->initializers[i].trains)
      continue;
    data = contents(saved, i, &bytes);
    for (size_t k = 0; k < bytes; k++)
      assert_int_equal(data[k], OLD_WEIGHT);
    free(data);
  }
  if (!old)
    has_new_weights(model, saved);
  model_close(saved);
  return !old;
}

/* A save over a model with a file of weights that is killed or fails at any of its steps: there is the old model whole,
 * or the new one. */
static void a_save_that_ends_anywhere_leaves_one_model(void **state) {
  (void)state;
  const char *folder = make_folder();
  char path[256];
  Model *model;
  ASSERT_OK(model_open(SOURCE_DIR "/models/llama/model.onnx", NULL, &model));
  snprintf(path, sizeof path, "%s/m.onnx", folder);
  for (Fate how = END_BEFORE; how <= FAIL; how++) {
    int news = 0, olds = 0;
    bool went_through = false;
    for (int step = 1; !went_through; step++) {
      ASSERT_OK(model_save(model, path, NULL, give_old, NULL));
      assert_false(is_new(model, path));
      int status;
      pid_t child = fork();
      assert_true(child >= 0);
      if (child == 0) {
        Source source = source_of(model);
        fate = how;
        fated_step = step;
        Status saved = model_save(model, path, NULL, give, &source);
        _exit(steps_taken < step ? 0 : saved == OK ? 1 : 2);
      }
      assert_int_equal(waitpid(child, &status, 0), child);
      assert_true(WIFEXITED(status));
      bool new = is_new(model, path);
      went_through = WEXITSTATUS(status) == 0;
      if (WEXITSTATUS(status) < 2) /* said to have worked */
        assert_true(new);
      if (WEXITSTATUS(status) == 2)
        assert_false(new);
      news += new;
      olds += !new;
    }
    assert_true(news >= 1 && olds >= 3);
  }
  model_close(model);
  remove_folder(folder);
}

static int count_files(const char *folder) {
  char command[256];
  int n = -1;
  snprintf(command, sizeof command, "ls %s | wc -l", folder);
  FILE *list = popen(command, "r");
  assert_int_equal(fscanf(list, "%d", &n), 1);
  pclose(list);
  return n;
}

/* A model that is saved over itself goes on reading weights that have lost their name; one that somebody copied keeps
 * its own. */
static void only_weights_that_nobody_needs_go(void **state) {
  (void)state;
  const char *folder = make_folder();
  char path[256], copy[256], command[1024];
  Model *model;
  snprintf(path, sizeof path, "%s/m.onnx", folder);
  snprintf(copy, sizeof copy, "%s/copy.onnx", folder);
  snprintf(command, sizeof command, "cp %s/models/llama/model.onnx %s/m.onnx && cp %s/models/llama/model.onnx.data %s",
           SOURCE_DIR, folder, SOURCE_DIR, folder);
  assert_int_equal(system(command), 0);
  ASSERT_OK(model_open(path, NULL, &model));
  for (int round = 0; round < 3; round++) {
    Source source = source_of(model);
    ASSERT_OK(model_save(model, path, NULL, give, &source));
    assert_true(is_new(model, path));
    assert_int_equal(count_files(folder), 3); /* model.onnx.data is the exporter's */
  }
  model_close(model);
  ASSERT_OK(model_open(path, NULL, &model)); /* its weights are ours now, and are replaced while it reads them */
  for (int round = 0; round < 3; round++) {
    Source source = source_of(model);
    ASSERT_OK(model_save(model, path, NULL, give, &source));
    assert_true(is_new(model, path));
    assert_int_equal(count_files(folder), 3);
  }
  snprintf(command, sizeof command, "cp %s %s", path, copy);
  assert_int_equal(system(command), 0);
  ASSERT_OK(model_save(model, path, NULL, give_old, NULL));
  assert_false(is_new(model, path));
  assert_true(is_new(model, copy));
  model_close(model);
  remove_folder(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reference_models_are_saved),
      cmocka_unit_test(others_accept_them),
      cmocka_unit_test(buffers_are_saved),
      cmocka_unit_test(every_encoding_is_saved),
      cmocka_unit_test(failures_leave_the_old_files),
      cmocka_unit_test(a_model_saves_over_itself),
      cmocka_unit_test(a_save_that_ends_anywhere_leaves_one_model),
      cmocka_unit_test(only_weights_that_nobody_needs_go),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
