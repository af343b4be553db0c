/* Linear models of ai.onnx.ml: weights in attributes train and are saved there. */
#include "tests/onnx/build_net.h"

static void put_floats(Bytes *n, const char *name, int count, const float *floats) {
  Bytes a = attribute(name, 6);
  for (int i = 0; i < count; i++) { /* each by itself, as protobuf's second version writes them */
    put_number(&a, 7 << 3 | 5);
    put_raw(&a, &floats[i], sizeof *floats);
  }
  put_message(n, 5, a);
}

static void open_with(const char *path, Bytes n, Model **model) {
  Bytes graph = {0}, import = {0};
  put_text(&n, 7, "ai.onnx.ml");
  put_message(&graph, 1, n);
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){2, 3}));
  put_message(&graph, 12, value_info("y", 2, (int64_t[]){2, 2}));
  Bytes m = model_of(8, 18, graph);
  put_text(&import, 1, "ai.onnx.ml");
  put_int(&import, 2, 3);
  put_message(&m, 8, import);
  save_bytes(path, m);
  ASSERT_OK(model_open(path, NULL, model));
}

static Bytes regressor(void) {
  Bytes n = node("linear", "LinearRegressor", "x", "y");
  put_attribute_int(&n, "targets", 2);
  put_floats(&n, "coefficients", 6, (float[]){1, 2, 3, 4, 5, 6});
  put_floats(&n, "intercepts", 2, (float[]){10, 20});
  return n;
}

static void bind(Bound *b) {
  BindOptions options = {.evaluate = backend_evaluate};
  b->arena = arena_create();
  ASSERT_OK(model_bind(b->model, &options, b->arena, &b->graph));
}

static Status give(void *context, int i, void *data, size_t bytes) {
  (void)context;
  for (size_t k = 0; k < bytes / sizeof(float); k++)
    ((float *)data)[k] = i ? 1 : 0.5f;
  return OK;
}

static void weights_in_attributes_train(void **state) {
  (void)state;
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx"), *saved = in_folder(folder, "saved.onnx");
  Bound b = {0};
  int n;
  open_with(path, regressor(), &b.model);
  const Initializer *list = model_initializers(b.model, &n);
  assert_int_equal(n, 2);
  assert_string_equal(list[0].name, "linear.coefficients");
  assert_string_equal(list[1].name, "linear.intercepts");
  assert_true(list[0].trains && list[1].trains);
  bind(&b);
  GIVES(&b, 0, (2, 2), 8 + 10, 17 + 20, 26 + 10, 62 + 20);
  ASSERT_OK(model_save(b.model, saved, NULL, give, NULL));
  bound_end(&b);
  ASSERT_OK(model_open(saved, NULL, &b.model));
  bind(&b);
  GIVES(&b, 0, (2, 2), 2.5f, 2.5f, 7, 7);
  bound_end(&b);
  remove_folder(folder);
}

static void texts_as_labels_are_refused(void **state) {
  (void)state;
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  Bytes n = node("c", "LinearClassifier", "x", "y"), labels = attribute("classlabels_strings", 8);
  put_text(&labels, 9, "cat");
  put_text(&labels, 9, "dog");
  put_message(&n, 5, labels);
  put_floats(&n, "coefficients", 6, (float[]){1, 2, 3, 4, 5, 6});
  Bound b = {.arena = arena_create()};
  BindOptions options = {.evaluate = backend_evaluate};
  open_with(path, n, &b.model);
  assert_int_equal(model_bind(b.model, &options, b.arena, &b.graph), E_UNSUPPORTED);
  assert_non_null(strstr(status_message(), "node 'c' (LinearClassifier): labels that are texts"));
  bound_end(&b);
  remove_folder(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(weights_in_attributes_train),
                                     cmocka_unit_test(texts_as_labels_are_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
