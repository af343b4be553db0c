/* Transforms, windows and quantised numbers, with numbers worked out by hand. tests/onnx/nodes.py asks more, where the
 * onnx package is at hand. */
#include "tests/onnx/build_net.h"

static Bound one_node(Net *net, Bytes n) {
  net_add(net, n);
  return net_bind_ok(net, "y", 0);
}

/* Of 0, 1, 2, 3: 6, -2 + 2i, -2. */
static void one_sided_spectra(void **state) {
  (void)state;
  Net net = net_of(20);
  NET_INPUT(&net, "x", 1, 4, 1);
  Bytes there = node("f", "DFT", "x", "s"), back = node("i", "DFT", "s", "y");
  put_attribute_int(&there, "onesided", 1);
  put_attribute_int(&back, "onesided", 1);
  put_attribute_int(&back, "inverse", 1);
  net_add(&net, there);
  net_add(&net, back);
  Bound b = net_bind_ok(&net, "s,y", 0);
  GIVES(&b, 0, (1, 3, 2), 6, 0, -2, 2, -2, 0);
  GIVES(&b, 1, (1, 4, 1), 0, 1, 2, 3);
  bound_end(&b);
}

/* Up to opset 19 the axis is an attribute; what lies behind the length is not read. */
static void signals_are_cut(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 1, 5, 2);
  NET_INTS(&net, "two", 2);
  net_node(&net, "s", "Squeeze", "two", "length");
  Bound b = one_node(&net, node("f", "DFT", "x,length", "y"));
  GIVES(&b, 0, (1, 2, 2), 2, 4, -2, -2);
  bound_end(&b);
}

static void complex_numbers_have_no_one_side(void **state) {
  (void)state;
  Net net = net_of(20);
  NET_INPUT(&net, "x", 1, 4, 2);
  Bytes n = node("f", "DFT", "x", "y");
  put_attribute_int(&n, "onesided", 1);
  net_add(&net, n);
  net_fails(&net, "y", 0, E_SHAPE,
            "node 'f' (DFT): a one-sided transform of 2 parts a number: it goes from real numbers to complex ones or, "
            "inverse, back");
}

/* Frames 0 1, 2 3: sums and differences. */
static void frames_are_transformed(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 1, 5, 1);
  NET_INTS(&net, "two", 2);
  net_node(&net, "s", "Squeeze", "two", "n");
  Bound b = one_node(&net, node("f", "STFT", "x,n,,n", "y"));
  GIVES(&b, 0, (1, 2, 2, 2), 1, 0, -1, 0, 5, 0, -1, 0);
  bound_end(&b);
}

static void windows_have_two_forms(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INTS(&net, "three", 3);
  net_node(&net, "s", "Squeeze", "three", "n");
  Bytes hann = node("w", "HannWindow", "n", "y");
  put_attribute_int(&hann, "periodic", 0);
  net_add(&net, hann);
  net_node(&net, "b", "BlackmanWindow", "n", "b");
  Bound b = net_bind_ok(&net, "y,b", 0);
  GIVES(&b, 0, (3), 0, 1, 0);
  GIVES(&b, 1, (3), 0, 0.63f, 0.63f);
  bound_end(&b);
  net = net_of(17); /* of one number, as torch.hann_window and SciPy have it */
  NET_INTS(&net, "one", 1);
  net_node(&net, "s", "Squeeze", "one", "n");
  Bytes alone = node("w", "HannWindow", "n", "y");
  put_attribute_int(&alone, "periodic", 0);
  net_add(&net, alone);
  b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (1), 1);
  bound_end(&b);
}

/* round(x / 0.5) + 1 within a byte, and back; to even. */
static void numbers_are_quantised_and_restored(void **state) {
  (void)state;
  Net net = net_of(13);
  NET_INPUT(&net, "x", 1, 3);
  put_message(&net.graph, 5, weight("half", 1, 1, 0.25f, 0));
  put_message(&net.graph, 5, weight("scale", 1, 1, 0.5f, 0));
  net_node(&net, "m", "Mul", "x,half", "h"); /* 0, 0.25, 0.5 */
  NET_INTS(&net, "shape", 1);
  net_node(&net, "r", "Reshape", "scale,shape", "one");
  NET_INTS(&net, "zeros", 1);
  Bytes cast = node("c", "Cast", "zeros", "zero");
  put_attribute_int(&cast, "to", 3); /* int8 */
  net_add(&net, cast);
  net_node(&net, "q", "QuantizeLinear", "h,one,zero", "q");
  net_node(&net, "d", "DequantizeLinear", "q,one,zero", "y");
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (1, 3), 0, 0, 0.5f);
  size_t through = 0;
  for (size_t i = 0; i < b.graph->n_nodes; i++)
    through += b.graph->nodes[i]->op == OP_Round && node_int(b.graph->nodes[i], "straight_through", 0);
  assert_int_equal(through, 1);
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_sided_spectra),
      cmocka_unit_test(signals_are_cut),
      cmocka_unit_test(complex_numbers_have_no_one_side),
      cmocka_unit_test(frames_are_transformed),
      cmocka_unit_test(windows_have_two_forms),
      cmocka_unit_test(numbers_are_quantised_and_restored),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
