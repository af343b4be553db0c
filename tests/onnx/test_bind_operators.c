/* Operators that become several: what they compute, with numbers worked out by hand. tests/onnx/nodes.py asks more,
 * where the onnx package is at hand. */
#include "tests/onnx/build_net.h"

static Bound one_node(Net *net, Bytes n) {
  net_add(net, n);
  return net_bind_ok(net, "y", 0);
}

static void einsum_products(void **state) {
  (void)state;
  static const struct {
    const char *equation;
    size_t products, transposes;
  } forms[] = {{"bij,bjk->bik", 1, 0}, {"bij,bkj->bik", 1, 0}, {"bji,bjk->bik", 1, 0}, {"bij,bjk->bki", 1, 1}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    Net net = net_of(17);
    NET_INPUT(&net, "a", 2, 2, 2);
    NET_INPUT(&net, "b", 2, 2, 2);
    Bytes n = node("e", "Einsum", "a,b", "y");
    put_attribute_text(&n, "equation", forms[i].equation);
    Bound b = one_node(&net, n);
    assert_int_equal(count_nodes(b.graph, OP_MatMul), forms[i].products);
    assert_int_equal(count_nodes(b.graph, OP_Transpose), forms[i].transposes);
    if (i == 0)
      GIVES(&b, 0, (2, 2, 2), 2, 3, 6, 11, 46, 55, 66, 79);
    if (i == 1)
      GIVES(&b, 0, (2, 2, 2), 1, 3, 3, 13, 41, 59, 59, 85);
    if (i == 3)
      GIVES(&b, 0, (2, 2, 2), 2, 6, 3, 11, 46, 66, 55, 79);
    bound_end(&b);
  }
}

static void einsum_sums_and_outer_products(void **state) {
  (void)state;
  Net net = net_of(17), outer = net_of(17);
  NET_INPUT(&net, "a", 2, 3);
  Bytes n = node("e", "Einsum", "a", "y"), m = node("e", "Einsum", "a,b", "y");
  put_attribute_text(&n, "equation", "ij->j");
  Bound b = one_node(&net, n);
  GIVES(&b, 0, (3), 3, 5, 7);
  bound_end(&b);
  NET_INPUT(&outer, "a", 2);
  NET_INPUT(&outer, "b", 3);
  put_attribute_text(&m, "equation", "i,j");
  b = one_node(&outer, m);
  GIVES(&b, 0, (2, 3), 0, 0, 0, 0, 1, 2);
  bound_end(&b);
}

static void elements_are_gathered(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 2, 3);
  NET_INTS(&net, "flat", 2, -3, 1, 1);
  NET_INTS(&net, "two", 2, 2);
  net_node(&net, "r", "Reshape", "flat,two", "at");
  Bytes n = node("g", "GatherElements", "x,at", "y");
  put_attribute_int(&n, "axis", 1);
  Bound b = one_node(&net, n);
  assert_int_equal(b.graph->n_nodes, 1);
  GIVES(&b, 0, (2, 2), 2, 0, 4, 4);
  bound_end(&b);
}

static void tiles_and_pads(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 1, 2);
  NET_INTS(&net, "twice", 2, 2);
  NET_INTS(&net, "pads", 1, 0, 0, -1);
  net_node(&net, "t", "Tile", "x,twice", "t");
  net_node(&net, "p", "Pad", "t,pads", "p");
  Bound b = net_bind_ok(&net, "t,p", 0);
  GIVES(&b, 0, (2, 4), 0, 1, 0, 1, 0, 1, 0, 1);
  GIVES(&b, 1, (3, 3), 0, 0, 0, 0, 1, 0, 0, 1, 0);
  bound_end(&b);
}

static void clip_passes_its_bounds(void **state) {
  (void)state;
  Net net = net_of(9);
  NET_INPUT(&net, "x", 1, 5);
  Bytes n = node("c", "Clip", "x", "y");
  put_attribute_float(&n, "min", 1);
  put_attribute_float(&n, "max", 3);
  Bound b = one_node(&net, n);
  assert_int_equal(count_nodes(b.graph, OP_Clip), 1);
  GIVES(&b, 0, (1, 5), 1, 1, 2, 3, 3);
  bound_end(&b);
  net = net_of(13); /* a bound that is no known number */
  NET_INPUT(&net, "x", 1, 5);
  NET_INPUT(&net, "low");
  b = one_node(&net, node("c", "Clip", "x,low", "y"));
  assert_int_equal(count_nodes(b.graph, OP_Where), 1); /* no Max: its gradient would halve at a bound */
  GIVES(&b, 0, (1, 5), 0, 1, 2, 3, 4);
  bound_end(&b);
}

/* Two queries see one key and two: softmax of (0), and of (0, 1) / sqrt(1). */
static void attention_is_causal(void **state) {
  (void)state;
  Net net = net_of(23);
  NET_INPUT(&net, "q", 1, 1, 2, 1);
  Bytes n = node("a", "Attention", "q,q,q", "y");
  put_attribute_int(&n, "is_causal", 1);
  Bound b = one_node(&net, n);
  GIVES(&b, 0, (1, 1, 2, 1), 0, 0.7310586f);
  bound_end(&b);
}

static void losses_divide_by_what_counts(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 3, 2);
  NET_INTS(&net, "labels", 1, -100, 0);
  Bytes n = node("loss", "SoftmaxCrossEntropyLoss", "x,labels", "y");
  put_attribute_int(&n, "ignore_index", -100);
  Bound b = one_node(&net, n);
  assert_int_equal(count_nodes(b.graph, OP_CrossEntropy), 1);
  float expected = (0.3132617f + 1.3132617f) / 2;
  bound_gives(&b, 0, 0, NULL, &expected);
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(einsum_products),
      cmocka_unit_test(einsum_sums_and_outer_products),
      cmocka_unit_test(elements_are_gathered),
      cmocka_unit_test(tiles_and_pads),
      cmocka_unit_test(clip_passes_its_bounds),
      cmocka_unit_test(attention_is_causal),
      cmocka_unit_test(losses_divide_by_what_counts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
