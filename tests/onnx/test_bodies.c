/* The functions of ONNX's specification: each is there under its operator and opset, and serves what has no row. */
#include "onnx/lower/lower.h"
#include "tests/onnx/build_net.h"

static Net windows(const char *attribute) {
  Net net = net_of(17);
  Bytes n = node("w", "HannWindow", "size", "window");
  if (attribute)
    put_attribute_int(&n, attribute, 1);
  NET_INPUT(&net, "x", -1, 4);
  NET_INT(&net, "size", 4);
  net_add(&net, n);
  net_node(&net, "sum", "Add", "x,window", "y");
  return net;
}

static void a_window(void **state) {
  (void)state;
  Net net = windows("periodic");
  Bound b = net_bind_ok(&net, "y", 1);
  bound_gives(&b, 0, 2, (int64_t[]){1, 4}, (float[]){0, 1.5f, 3, 3.5f});
  bound_end(&b);
}

static void an_attribute_that_none_has(void **state) {
  (void)state;
  Net net = windows("colour");
  net_fails(&net, "y", 1, E_UNSUPPORTED, "not supported: node 'w' (HannWindow): attribute 'colour'");
}

/* At every opset an operator has a row or the newest function that holds there. */
static void each_is_found(void **state) {
  (void)state;
  Net net = windows(NULL);
  Bound b = net_bind_ok(&net, "y", 1);
  const Onnx__FunctionProto *f;
  Onnx__NodeProto node = ONNX__NODE_PROTO__INIT;
  node.op_type = "NoSuchOperator";
  ASSERT_OK(body_find(b.model, &node, 17, &f));
  assert_null(f);
  for (size_t i = 0; i < b.model->bodies->n_functions; i++) {
    Onnx__FunctionProto *body = b.model->bodies->functions[i];
    int64_t from = atoll(body->overload);
    node.op_type = body->name;
    ASSERT_OK(body_find(b.model, &node, from, &f));
    assert_true(operator_has_row(&node, from) ? !f : f == body);
    assert_true(from >= 1 && from <= OPSET_LAST && body->n_node && body->n_output);
  }
  bound_end(&b);
}

/* A file's function that has an operator's name is none of the specification's: else this one would call itself. */
static void names_within_are_the_specifications(void **state) {
  (void)state;
  Net net = windows(NULL);
  Bytes own = {0}, import = {0};
  put_text(&own, 1, "Cos");
  put_names(&own, 4, "a");
  put_names(&own, 5, "b");
  put_message(&own, 7, node("inner", "HannWindow", "a", "b"));
  put_int(&import, 2, 17);
  put_message(&own, 9, import);
  net_function(&net, own);
  Bound b = net_bind_ok(&net, "y", 1);
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_window),
      cmocka_unit_test(an_attribute_that_none_has),
      cmocka_unit_test(each_is_found),
      cmocka_unit_test(names_within_are_the_specifications),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
