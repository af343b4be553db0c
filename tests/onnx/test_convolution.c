/* Convolutions of a file: pads that auto_pad and output_shape stand for, and what is refused. Numbers by hand;
 * tests/onnx/nodes.py asks more, where the onnx package is at hand. */
#include "tests/onnx/build_net.h"

/* One node of x [1,1,n] 0, 1, 2, … and a kernel of three taps 1, 2, 3. */
static Net line_net(int64_t n) {
  Net net = net_of(22);
  Bytes w = tensor("w", 1, 3, (int64_t[]){1, 1, 3});
  put_bytes(&w, TENSOR_RAW_DATA, (float[]){1, 2, 3}, 3 * sizeof(float));
  NET_INPUT(&net, "x", 1, 1, n);
  put_message(&net.graph, 5, w);
  return net;
}

static void same_pads_lie_behind_or_in_front(void **state) {
  (void)state;
  for (int upper = 0; upper < 2; upper++) {
    Net net = line_net(4);
    Bytes n = node("c", "Conv", "x,w", "y");
    put_attribute_text(&n, "auto_pad", upper ? "SAME_UPPER" : "SAME_LOWER");
    PUT_INTS(&n, "strides", 2);
    net_add(&net, n);
    Bound b = net_bind_ok(&net, "y", 0);
    if (upper)
      GIVES(&b, 0, (1, 1, 2), 8, 8);
    else
      GIVES(&b, 0, (1, 1, 2), 3, 14);
    bound_end(&b);
  }
}

static void a_bias_is_added(void **state) {
  (void)state;
  Net net = line_net(3);
  put_message(&net.graph, 5, weight("b", 1, 0, 10, 0));
  net_node(&net, "c", "Conv", "x,w,b", "y");
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (1, 1, 1), 18);
  bound_end(&b);
}

/* Taps of 1, 2, 3 at places 0 and 2 apart; what is asked beyond them is zeros. */
static void transposed_ones_spread(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t value;
  } forms[] = {{NULL, 0}, {"output_padding", 1}, {"output_shape", 4}, {"output_shape", 9}};
  for (int i = 0; i < 4; i++) {
    Net net = line_net(2);
    Bytes n = node("c", "ConvTranspose", "x,w", "y");
    PUT_INTS(&n, "strides", 2);
    if (forms[i].name)
      put_attribute_ints(&n, forms[i].name, 1, &forms[i].value);
    net_add(&net, n);
    Bound b = net_bind_ok(&net, "y", 0);
    assert_int_equal(count_nodes(b.graph, OP_ConvGradInput), 1);
    if (i == 0)
      GIVES(&b, 0, (1, 1, 5), 0, 0, 1, 2, 3);
    if (i == 1)
      GIVES(&b, 0, (1, 1, 6), 0, 0, 1, 2, 3, 0);
    if (i == 2)
      GIVES(&b, 0, (1, 1, 4), 0, 1, 2, 3);
    if (i == 3)
      GIVES(&b, 0, (1, 1, 9), 0, 0, 1, 2, 3, 0, 0, 0, 0);
    bound_end(&b);
  }
}

static void refused(const char *kind, const char *name, int64_t value, Status code, const char *text) {
  Net net = line_net(4);
  Bytes n = node("c", kind, "x,w", "y");
  char message[200];
  put_attribute_ints(&n, name, 1, &value);
  net_add(&net, n);
  snprintf(message, sizeof message, "node 'c' (%s): %s", kind, text);
  net_fails(&net, "y", 0, code, message);
}

static void numbers_without_meaning_are_refused(void **state) {
  (void)state;
  refused("Conv", "strides", 0, E_SHAPE, "strides has 0");
  refused("Conv", "dilations", 1LL << 40, E_SHAPE, "dilations has 1099511627776");
  refused("Conv", "dilations", 2, E_SHAPE,
          "the kernel is larger than the padded input along axis 2: X [1,1,4], W [1,1,3]");
  refused("Conv", "pads", 1, E_SHAPE, "pads has 1 entries, not 2");
  refused("Conv", "kernel_shape", 2, E_SHAPE, "kernel_shape[0] is 2 for W [1,1,3]");
  refused("ConvTranspose", "output_padding", -1, E_SHAPE, "output_padding has -1");
  refused("ConvTranspose", "output_shape", 0, E_SHAPE, "output_shape has 0");
}

/* As torch's dynamo exporter writes a Conv3d without bias. */
static void a_bias_of_two_axes_is_refused(void **state) {
  (void)state;
  Net net = line_net(4);
  put_message(&net.graph, 5, weight("b", 1, 2, 0, 0));
  net_node(&net, "c", "Conv", "x,w,b", "y");
  net_fails(
      &net, "y", 0, E_MODEL,
      "node 'c' (Conv): the bias 'b' is [1,2], not [1] (torch's dynamo exporter with optimize=False writes this for "
      "a Conv3d without bias: export with optimize=True)");
}

/* Blocks of two places, one apart, of an image of three with a place of padding in front: what overlaps adds up. */
static void blocks_add_up(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", 1, 2, 3);
  NET_INTS(&net, "image", 3);
  NET_INTS(&net, "block", 2);
  Bytes n = node("c", "Col2Im", "x,image,block", "y");
  PUT_INTS(&n, "pads", 1, 0);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (1, 1, 3), 3 + 1, 4 + 2, 5);
  bound_end(&b);
}

static void integers_lose_their_zero_points(void **state) {
  (void)state;
  Net net = net_of(18);
  Bytes zeros = tensor("zeros", 2, 1, (int64_t[]){2}), n = node("u", "Cast", "x", "u");
  put_bytes(&zeros, TENSOR_RAW_DATA, (uint8_t[]){1, 2}, 2);
  put_message(&net.graph, 5, zeros);
  NET_INPUT(&net, "x", 2, 2);
  put_attribute_int(&n, "to", 2);
  net_add(&net, n);
  net_node(&net, "m", "MatMulInteger", "u,u,zeros,zeros", "p"); /* of A's rows, of B's columns */
  n = node("f", "Cast", "p", "y");
  put_attribute_int(&n, "to", 1);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (2, 2), 1, 1, 1, 1);
  bound_end(&b);
}

/* (x - 1) 170 / 68, ties to even, plus 3. */
static void quantized_results_are_rounded(void **state) {
  (void)state;
  Net net = net_of(18);
  Bytes n = node("u", "Cast", "x", "u"), w = tensor("w", 2, 3, (int64_t[]){1, 1, 1});
  Bytes one = tensor("one", 2, 0, NULL), none = tensor("none", 2, 0, NULL), three = tensor("three", 2, 0, NULL);
  put_bytes(&w, TENSOR_RAW_DATA, (uint8_t[]){170}, 1);
  put_bytes(&one, TENSOR_RAW_DATA, (uint8_t[]){1}, 1);
  put_bytes(&none, TENSOR_RAW_DATA, (uint8_t[]){0}, 1);
  put_bytes(&three, TENSOR_RAW_DATA, (uint8_t[]){3}, 1);
  put_message(&net.graph, 5, w);
  put_message(&net.graph, 5, one);
  put_message(&net.graph, 5, none);
  put_message(&net.graph, 5, three);
  put_message(&net.graph, 5, weight("scale", 1, 0, 1, 0));
  put_message(&net.graph, 5, weight("halves", 1, 0, 68, 0));
  NET_INPUT(&net, "x", 1, 1, 4);
  put_attribute_int(&n, "to", 2);
  net_add(&net, n);
  net_node(&net, "c", "QLinearConv", "u,scale,one,w,scale,none,halves,three", "q");
  n = node("f", "Cast", "q", "y");
  put_attribute_int(&n, "to", 1);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (1, 1, 4), 1, 3, 5, 8); /* -2.5, 0, 2.5, 5 beside the zero point */
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(same_pads_lie_behind_or_in_front), cmocka_unit_test(a_bias_is_added),
      cmocka_unit_test(transposed_ones_spread),           cmocka_unit_test(numbers_without_meaning_are_refused),
      cmocka_unit_test(a_bias_of_two_axes_is_refused),    cmocka_unit_test(blocks_add_up),
      cmocka_unit_test(integers_lose_their_zero_points),  cmocka_unit_test(quantized_results_are_rounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
