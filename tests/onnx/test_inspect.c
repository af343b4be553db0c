/* The report: PyTorch's counts for the reference models, and each finding. */
#include <jansson.h>

#include "backend/backend.h"
#include "tests/onnx/build.h"

static json_t *report_of(const char *path) {
  Model *model;
  json_t *report;
  BindOptions options = {.evaluate = backend_evaluate};
  ASSERT_OK(model_open(path, NULL, &model));
  ASSERT_OK(model_inspect(model, &options, &report));
  model_close(model);
  return report;
}

static json_t *report_on(Bytes bytes) {
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  save_bytes(path, bytes);
  json_t *report = report_of(path);
  remove_folder(folder);
  return report;
}

/* The entry of an array whose `key` is `value`, or NULL. */
static json_t *entry(const json_t *report, const char *array, const char *key, const char *value) {
  size_t i;
  json_t *object;
  json_array_foreach(json_object_get(report, array), i, object) {
    const char *text = json_string_value(json_object_get(object, key));
    if (text && strcmp(text, value) == 0)
      return object;
  }
  return NULL;
}

static void reference_models_are_reported(void **state) {
  (void)state;
  for (int c = 0; c < N_REFERENCE_CASES; c++) {
    json_error_t error;
    json_t *expected = json_load_file(reference_path(c, "case.json"), 0, &error);
    json_t *report = report_of(reference_path(c, "model.onnx"));
    assert_int_equal(json_integer_value(json_object_get(report, "trained_tensors")),
                     json_integer_value(json_object_get(expected, "named_parameters")));
    assert_int_equal(json_integer_value(json_object_get(report, "trained_elements")),
                     json_integer_value(json_object_get(expected, "parameters")));
    assert_true(json_equal(json_object_get(report, "operators"), json_object_get(expected, "operators")));
    assert_int_equal(json_array_size(json_object_get(report, "inputs")),
                     json_array_size(json_object_get(expected, "inputs")));
    assert_non_null(entry(report, "outputs", "name", json_string_value(json_object_get(expected, "output"))));
    assert_int_equal(json_array_size(json_object_get(report, "batch_coupled")) > 0,
                     strcmp(reference_cases[c], "resnet") == 0);
    assert_int_equal(entry(report, "findings", "id", "fixed_batch") != NULL,
                     strcmp(reference_cases[c], "gpt2_fixed_batch") == 0);
    json_decref(report);
    json_decref(expected);
  }
}

static void parameters_say_rule_and_tie(void **state) {
  (void)state;
  json_t *report = report_of(SOURCE_DIR "/models/gpt2_default_export/model.onnx");
  json_t *head = entry(report, "parameters", "name", "val_381");
  assert_non_null(head);
  assert_true(json_is_true(json_object_get(head, "trains")));
  assert_string_equal(json_string_value(json_object_get(head, "rule")), "1f");
  assert_string_equal(json_string_value(json_object_get(head, "tied_to")), "m.lm_head.weight");
  assert_int_equal(json_integer_value(json_object_get(head, "elements")), 64 * 96);
  json_t *table = entry(report, "parameters", "name", "m.lm_head.weight");
  assert_true(json_is_null(json_object_get(table, "tied_to")));
  assert_null(entry(report, "parameters", "name", "val_380")); /* integers */
  json_decref(report);
}

/* Conv with the bias that torch's dynamo exporter gives a bias-free Conv3d. */
static void findings_are_named(void **state) {
  (void)state;
  Bytes graph = {0}, outside = tensor("out", 1, 1, (int64_t[]){3});
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 3}));
  put_message(&graph, 12, value_info("y", 2, (int64_t[]){-1, 2}));
  put_message(&graph, 5, weight("w", 3, 2, 0, 0.5f));
  put_message(&graph, 5, weight("zeros", 8, 2, 0, 0));
  put_message(&graph, 5, weight("lonely", 8, 0, 0, 1));
  put_int(&outside, 14, 1);
  put_message(&outside, 13, property("location", "weights"));
  put_message(&graph, 5, outside);
  put_message(&graph, 1, node("mm", "MatMul", "x,w", "y"));
  put_message(&graph, 1, node("conv", "Conv", "x,w,zeros", "c"));
  put_message(&graph, 1, node("norm", "BatchNormalization", "x,w,w,out,w", "n,m,v"));
  put_message(&graph, 1, node("what", "Frobnicate", "x", "f"));
  json_t *report = report_on(model_of(8, 13, graph));
  json_t *finding = entry(report, "findings", "id", "invalid_conv_bias");
  assert_non_null(finding);
  assert_string_equal(json_string_value(json_object_get(finding, "tensor")), "zeros");
  assert_non_null(
      strstr(json_string_value(json_object_get(finding, "text")), "the bias of Conv 'conv' has shape [8,2]"));
  finding = entry(report, "findings", "id", "unused_initializer");
  assert_string_equal(json_string_value(json_object_get(finding, "tensor")), "lonely");
  finding = entry(report, "findings", "id", "weights_absent");
  assert_string_equal(json_string_value(json_object_get(finding, "tensor")), "out");
  assert_non_null(entry(report, "batch_coupled", "node", "norm"));
  json_t *unknown = entry(report, "unsupported", "node", "what");
  assert_non_null(unknown);
  assert_string_equal(json_string_value(json_object_get(unknown, "operator")), "Frobnicate");
  json_decref(report);
}

/* What only binding sees: shapes that do not fit. */
static void what_does_not_bind_is_said(void **state) {
  (void)state;
  Bytes graph = {0};
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 3}));
  put_message(&graph, 12, value_info("y", 2, (int64_t[]){-1, 2}));
  put_message(&graph, 5, weight("w", 4, 2, 0, 0.5f));
  put_message(&graph, 1, node("mm", "MatMul", "x,w", "y"));
  json_t *report = report_on(model_of(8, 18, graph));
  json_t *finding = entry(report, "findings", "id", "does_not_bind");
  assert_non_null(finding);
  assert_non_null(strstr(json_string_value(json_object_get(finding, "text")), "node 'mm' (MatMul): "));
  json_decref(report);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reference_models_are_reported),
      cmocka_unit_test(parameters_say_rule_and_tie),
      cmocka_unit_test(findings_are_named),
      cmocka_unit_test(what_does_not_bind_is_said),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
