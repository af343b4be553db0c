/* A session over a reference case, for tests in process and under mpirun. */
#ifndef TESTS_RUNTIME_SESSION_CASE_H
#define TESTS_RUNTIME_SESSION_CASE_H

#include <jansson.h>
#include <math.h>

#include "runtime/onnxpipe.h"
#include "tests/test.h"

#define BRANCHES SOURCE_DIR "/models/branches/"

static inline void must(OnnxpipeStatus status) {
  if (status != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

/* `branches` as PyTorch trained it. */
static inline OnnxpipeOptions *branches_options(void) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  assert_non_null(options);
  must(onnxpipe_options_set(options, "data", BRANCHES "data.npz"));
  must(onnxpipe_options_set(options, "quiet", ""));
  must(onnxpipe_options_set(options, "no-measure", "")); /* stages are the same everywhere, every time */
  json_t *json = json_load_file(BRANCHES "case.json", 0, NULL);
  assert_non_null(json);
  char text[64];
  snprintf(text, sizeof text, "%lld", (long long)json_integer_value(json_object_get(json, "batch_size")));
  must(onnxpipe_options_set(options, "batch", text));
  snprintf(text, sizeof text, "%lld", (long long)json_integer_value(json_object_get(json, "steps")));
  must(onnxpipe_options_set(options, "steps", text));
  const json_t *optimizer = json_object_get(json, "optimizer");
  must(onnxpipe_options_set(options, "optimizer", json_string_value(json_object_get(optimizer, "name"))));
  snprintf(text, sizeof text, "%.17g", json_number_value(json_object_get(optimizer, "lr")));
  must(onnxpipe_options_set(options, "lr", text));
  json_decref(json);
  return options;
}

/* The loss of step k, from 1, is PyTorch's. */
static inline void check_loss(int64_t step, double loss) {
  json_t *json = json_load_file(BRANCHES "case.json", 0, NULL);
  double tolerance = json_number_value(json_object_get(json, "relative_tolerance"));
  double expected = json_number_value(json_array_get(json_object_get(json, "losses_float64"), (size_t)(step - 1)));
  json_decref(json);
  if (!(fabs(loss - expected) <= tolerance * fabs(expected)))
    FAIL_TEST("loss %.9g at step %lld, PyTorch has %.9g", loss, (long long)step, expected);
}

#endif
