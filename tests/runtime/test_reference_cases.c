/* PyTorch's losses and gradients, through the public functions, on threads of one process: every case of models/ that
 * names neither its own loss nor operators that are not there yet, on 1 to 4 ranks, with every schedule here and 1, 2
 * and 4 microbatches. For one number of microbatches, losses and saved files are the same bytes however it was cut.
 *
 * With ONNXPIPE_TEST_SAMPLE set, only some of the combinations run: what a sanitizer build has time for. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/data.h"
#include "runtime/onnxpipe.h"
#include "tests/test.h"

static const char *const cases[] = {"nanogpt", "surrogate", "branches", "dlrm"};
static const char *const schedules[] = {"naive", "gpipe", "1f1b"};
enum { MOST_STEPS = 16, MOST_RANKS = 4 };

static bool sample;
static char folder[64];

typedef struct {
  double losses[MOST_STEPS];
  int n;
} Losses;

static void take_loss(void *context, const OnnxpipeMetrics *m) {
  Losses *losses = context;
  assert_in_range(m->step, 1, MOST_STEPS);
  assert_int_equal(m->step, losses->n + 1);
  assert_true(m->gradient_norm > 0 && m->seconds > 0);
  losses->losses[losses->n++] = m->loss;
}

static void set(OnnxpipeOptions *options, const char *name, const char *value) {
  if (onnxpipe_options_set(options, name, value) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

static void set_number(OnnxpipeOptions *options, const char *name, double value) {
  char text[32];
  snprintf(text, sizeof text, "%.17g", value);
  set(options, name, text);
}

static const char *in_folder(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

static json_t *read_case(const char *name) {
  char path[256];
  json_error_t error;
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/case.json", name);
  json_t *json = json_load_file(path, 0, &error);
  assert_non_null(json);
  return json;
}

/* The optimizer's numbers have the names of options. */
static OnnxpipeOptions *case_options(const char *name, const json_t *json) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  char path[256];
  assert_non_null(options);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/data.npz", name);
  set(options, "data", path);
  set(options, "quiet", "");
  set(options, "loss", json_string_value(json_object_get(json, "loss")));
  set_number(options, "batch", json_number_value(json_object_get(json, "batch_size")));
  set_number(options, "steps", json_number_value(json_object_get(json, "steps")));
  const char *key;
  json_t *value;
  json_object_foreach(json_object_get(json, "optimizer"), key, value) {
    char option[32];
    snprintf(option, sizeof option, "%s", strcmp(key, "name") == 0 ? "optimizer" : key);
    for (char *c = option; *c; c++)
      if (*c == '_')
        *c = '-';
    if (json_is_string(value))
      set(options, option, json_string_value(value));
    else
      set_number(options, option, json_number_value(value));
  }
  return options;
}

static void check_losses(const json_t *json, const Losses *got, const char *what) {
  const json_t *expected = json_object_get(json, "losses_float64");
  double tolerance = json_number_value(json_object_get(json, "relative_tolerance"));
  assert_int_equal(got->n, (int)json_array_size(expected));
  for (int i = 0; i < got->n; i++) {
    double loss = json_number_value(json_array_get(expected, (size_t)i));
    if (!(fabs(got->losses[i] - loss) <= tolerance * fabs(loss)))
      FAIL_TEST("%s: loss %.9g at step %d, PyTorch has %.9g", what, got->losses[i], i + 1, loss);
  }
}

/* Every trained tensor's, within 1e-5 of its largest element, or 1e-8. (What PyTorch uses under two names is one.) */
static void check_gradients(const char *name, const json_t *json, const char *path, const char *what) {
  ArrayFile expected, got;
  char reference[256];
  snprintf(reference, sizeof reference, SOURCE_DIR "/models/%s/first_gradients.npz", name);
  ASSERT_OK(array_file_open(reference, &expected));
  ASSERT_OK(array_file_open(path, &got));
  assert_int_equal(got.n_arrays, (int)json_integer_value(json_object_get(json, "named_parameters")));
  for (int i = 0; i < got.n_arrays; i++) {
    const Array *g = &got.arrays[i], *e = array_find(&expected, g->name);
    if (!e)
      FAIL_TEST("%s: PyTorch has no gradient for '%s'", what, g->name);
    assert_true(shape_equal(e->shape, g->shape));
    int64_t n = shape_elements(e->shape);
    double *want = malloc((size_t)n * 2 * sizeof(double)), *have = want + n, largest = 0;
    ASSERT_OK(array_convert(e, 0, n, F64, want));
    ASSERT_OK(array_convert(g, 0, n, F64, have));
    for (int64_t k = 0; k < n; k++)
      largest = fmax(largest, fabs(want[k]));
    double tolerance = fmax(1e-5 * largest, 1e-8);
    for (int64_t k = 0; k < n; k++)
      if (!(fabs(want[k] - have[k]) <= tolerance))
        FAIL_TEST("%s: gradient of '%s' differs by %g at %lld, its largest element is %g", what, e->name,
                  want[k] - have[k], (long long)k, largest);
    free(want);
  }
  array_file_close(&expected);
  array_file_close(&got);
}

static char *slurp(const char *path, size_t *n) {
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  fseek(file, 0, SEEK_END);
  *n = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*n + 1);
  assert_int_equal(fread(bytes, 1, *n, file), *n);
  fclose(file);
  return bytes;
}

/* What the first combination of a number of microbatches gave. */
typedef struct {
  Losses losses;
  char *file;
  size_t bytes;
} First;

static void run_combination(const char *name, const json_t *json, OnnxpipeModel *model, OnnxpipeOptions *options,
                            int ranks, int microbatches, const char *schedule, First *first) {
  char what[128], save[128], gradients[128];
  snprintf(what, sizeof what, "%s, %d ranks, %s, %d microbatches", name, ranks, schedule, microbatches);
  set_number(options, "ranks", ranks);
  set_number(options, "microbatches", microbatches);
  set(options, "schedule", schedule);
  set(options, "save", in_folder("saved.onnx", save));
  set(options, "dump-gradients", in_folder("gradients.npz", gradients));
  Losses losses = {0};
  if (onnxpipe_train(model, stdout, take_loss, &losses) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", what, onnxpipe_error());
  check_losses(json, &losses, what);
  check_gradients(name, json, gradients, what);
  size_t bytes;
  char *file = slurp(save, &bytes);
  if (!first->file) {
    *first = (First){losses, file, bytes};
    return;
  }
  if (memcmp(losses.losses, first->losses.losses, sizeof losses.losses) != 0)
    FAIL_TEST("%s: other losses than with 1 rank", what);
  if (bytes != first->bytes || memcmp(file, first->file, bytes) != 0)
    FAIL_TEST("%s: other weights than with 1 rank", what);
  free(file);
}

static void run_case(const char *name) {
  json_t *json = read_case(name);
  OnnxpipeOptions *options = case_options(name, json);
  OnnxpipeModel *model;
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", name);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  for (int microbatches = 1; microbatches <= 4; microbatches *= 2) {
    First first = {0};
    for (int ranks = 1; ranks <= MOST_RANKS; ranks++)
      for (int s = 0; s < 3; s++)
        if (!sample || (microbatches == 4 && (ranks == 1 || ranks == 3) && s == 2))
          run_combination(name, json, model, options, ranks, microbatches, schedules[s], &first);
    free(first.file);
  }
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  json_decref(json);
}

static void reproduces_pytorch(void **state) {
  run_case(*state);
}

int main(void) {
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-cases-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  enum { CASES = sizeof cases / sizeof *cases };
  struct CMUnitTest tests[CASES];
  for (int i = 0; i < CASES; i++)
    tests[i] =
        (struct CMUnitTest){.name = cases[i], .test_func = reproduces_pytorch, .initial_state = (void *)cases[i]};
  int failed = cmocka_run_group_tests_name("reference cases", tests, NULL, NULL);
  char path[128];
  unlink(in_folder("saved.onnx", path));
  unlink(in_folder("gradients.npz", path));
  rmdir(folder);
  return failed;
}
