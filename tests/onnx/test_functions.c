/* What the operators of functions.c compute, with numbers worked out by hand. tests/onnx/nodes.py asks more, where the
 * onnx package is at hand. */
#include "tests/onnx/build_net.h"

static Bound one_node(Net *net, Bytes n) {
  net_add(net, n);
  return net_bind_ok(net, "y", 0);
}

/* Of three axes of one letter, and of two that end up in a sum. */
static void diagonals_have_a_letter_twice(void **state) {
  (void)state;
  static const struct {
    const char *equation;
    float expected[2];
  } forms[] = {{"iii->i", {0, 7}}, {"iij->j", {6, 8}}, {"iji->j", {5, 9}}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    Net net = net_of(17);
    NET_INPUT(&net, "x", 2, 2, 2);
    Bytes n = node("e", "Einsum", "x", "y");
    put_attribute_text(&n, "equation", forms[i].equation);
    Bound b = one_node(&net, n);
    GIVES(&b, 0, (2), forms[i].expected[0], forms[i].expected[1]);
    bound_end(&b);
  }
}

/* The first of equal ones, and over all that lies behind the axis up to opset 12. */
static void hardmax_marks_one(void **state) {
  (void)state;
  Net net = net_of(13), old = net_of(11);
  NET_INPUT(&net, "x", 2, 3);
  NET_INTS(&net, "one", 1);
  net_node(&net, "min", "Min", "x,limit", "low");
  put_message(&net.graph, 5, weight("limit", 1, 1, 0, 1));
  Bytes n = node("h", "Hardmax", "low", "y");
  Bound b = one_node(&net, n);
  GIVES(&b, 0, (2, 3), 1, 0, 0, 1, 0, 0);
  bound_end(&b);
  NET_INPUT(&old, "x", 2, 2, 2);
  b = one_node(&old, node("h", "Hardmax", "x", "y"));
  GIVES(&b, 0, (2, 2, 2), 0, 0, 0, 1, 0, 0, 0, 1);
  bound_end(&b);
}

static void shrink_moves_towards_zero(void **state) {
  (void)state;
  Net net = net_of(9);
  NET_INPUT(&net, "x", 1, 4);
  Bytes n = node("s", "Shrink", "x", "y");
  put_attribute_float(&n, "lambd", 1);
  put_attribute_float(&n, "bias", 0.5);
  Bound b = one_node(&net, n);
  GIVES(&b, 0, (1, 4), 0, 0, 1.5f, 2.5f);
  bound_end(&b);
}

static void only_the_infinities_that_count(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    Net net = net_of(20);
    NET_INPUT(&net, "x", 2);
    net_node(&net, "log", "Log", "x", "l"); /* -inf, 0 */
    Bytes n = node("i", "IsInf", "l", "is"), cast = node("c", "Cast", "is", "y");
    put_attribute_int(&n, "detect_positive", i & 1);
    put_attribute_int(&n, "detect_negative", i >> 1);
    put_attribute_int(&cast, "to", 1);
    net_add(&net, n);
    Bound b = one_node(&net, cast);
    GIVES(&b, 0, (2), (float)(i >> 1), 0);
    bound_end(&b);
  }
}

static void products_of_axes(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", 2, 2, 3);
  NET_INTS(&net, "axes", 0, 2);
  net_node(&net, "p", "ReduceProd", "x,axes", "p");
  net_node(&net, "all", "ReduceProd", "x", "y");
  Bound b = net_bind_ok(&net, "p,y", 0);
  GIVES(&b, 0, (1, 2, 1), 0, 3 * 4 * 5 * 9 * 10 * 11);
  GIVES(&b, 1, (1, 1, 1), 0);
  bound_end(&b);
}

static void directions_are_known(void **state) {
  (void)state;
  Net net = net_of(11);
  NET_INTS(&net, "a", 1, 2);
  Bytes n = node("s", "BitShift", "a,a", "y");
  put_attribute_text(&n, "direction", "UP");
  net_add(&net, n);
  net_fails(&net, "y", 0, E_MODEL, "node 's' (BitShift): direction is 'UP'");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(diagonals_have_a_letter_twice),
      cmocka_unit_test(hardmax_marks_one),
      cmocka_unit_test(shrink_moves_towards_zero),
      cmocka_unit_test(only_the_infinities_that_count),
      cmocka_unit_test(products_of_axes),
      cmocka_unit_test(directions_are_known),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
