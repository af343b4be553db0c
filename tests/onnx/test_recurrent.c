/* LSTM, GRU and RNN as nodes: both directions, lengths, against numbers of ONNX Runtime 1.32; the same layer as one
 * RecurrentSteps a direction and step by step. */
#include "tests/onnx/build_net.h"

enum { UNITS = 2 };

/* The numbers (5 i mod 11 - 5) / 10. */
static void put_weights(Net *net, const char *name, int rank, const int64_t *dims) {
  Bytes t = tensor(name, 1, rank, dims);
  int64_t n = shape_elements(shape_of(rank, dims));
  float data[64];
  assert_true(n <= 64);
  for (int64_t i = 0; i < n; i++)
    data[i] = (float)(i * 5 % 11 - 5) / 10;
  put_bytes(&t, TENSOR_RAW_DATA, data, (size_t)n * sizeof *data);
  put_message(&net->graph, 5, t);
}

static Net net_of_layer(int64_t gates) {
  Net net = net_of(14);
  Bytes lengths = tensor("lengths", 6, 1, (int64_t[]){2});
  NET_INPUT(&net, "x", 3, 2, 1);
  put_weights(&net, "w", 3, (int64_t[]){2, gates * UNITS, 1});
  put_weights(&net, "r", 3, (int64_t[]){2, gates * UNITS, UNITS});
  put_weights(&net, "b", 2, (int64_t[]){2, 2 * gates * UNITS});
  put_bytes(&lengths, TENSOR_RAW_DATA, (int32_t[]){3, 2}, 8);
  put_message(&net.graph, 5, lengths);
  return net;
}

/* clip: large enough to change nothing, so that steps are nodes; 0: none. */
static Bytes layer_node(const char *op, bool reset_after, float clip) {
  Bytes n = node("layer", op, "x,w,r,b,lengths", "y,h");
  put_attribute_text(&n, "direction", "bidirectional");
  put_attribute_int(&n, "hidden_size", UNITS);
  if (reset_after)
    put_attribute_int(&n, "linear_before_reset", 1);
  if (clip > 0)
    put_attribute_float(&n, "clip", clip);
  return n;
}

typedef struct {
  const char *op;
  int64_t gates;
  bool reset_after;
  float y[24], h[8];
} LayerCase;

static const LayerCase layers[] = {
    {"LSTM",
     4,
     false,
     {0.05410443, 0.01416548,  0.1067589, -0.02622773, -0.2462864, -0.08732393, -0.2420973, 0.02902173,
      0.1684768,  -0.05240455, 0.2003939, -0.09053479, -0.3045303, 0.0673889,   -0.2180916, 0.03223685,
      0.234127,   -0.1095643,  0,         0,           -0.264369,  0.0194815,   0,          0},
     {0.234127, -0.1095643, 0.2003939, -0.09053479, -0.2462864, -0.08732393, -0.2420973, 0.02902173}},
    {"GRU",
     3,
     false,
     {0.2540877, -0.3471746, 0.4786215, -0.4114719, -0.4864616,  -0.2378248, -0.3595903, -0.3313429,
      0.7522925, -0.5716268, 0.8921933, -0.6214576, -0.2757565,  -0.5877431, -0.1346325, -0.4583717,
      0.9650684, -0.7094122, 0,         0,          -0.08420405, -0.5822541, 0,          0},
     {0.9650684, -0.7094122, 0.8921933, -0.6214576, -0.4864616, -0.2378248, -0.3595903, -0.3313429}},
    {"GRU",
     3,
     true,
     {0.2395217, -0.2127158, 0.4709648, -0.2990587, -0.2761502,  -0.2402542, -0.1909241,  -0.3361306,
      0.749346,  -0.4354915, 0.8941792, -0.5136644, -0.1286096,  -0.5923289, -0.05707572, -0.4583717,
      0.9672539, -0.6031052, 0,         0,          -0.02514761, -0.5822541, 0,           0},
     {0.9672539, -0.6031052, 0.8941792, -0.5136644, -0.2761502, -0.2402542, -0.1909241, -0.3361306}},
    {"RNN",
     1,
     false,
     {0,          -0.09966803, -0.4621171, -0.09966803, 0.8103869, -0.1499009, 0.9382358, -0.1076473,
      -0.7615942, -0.0897907,  -0.8535105, -0.3104938,  0.9775722, -0.185631,  0.9757431, -0.6640368,
      -0.9245085, -0.439667,   0,          0,           0.9910074, -0.7162979, 0,         0},
     {-0.9245085, -0.439667, -0.8535105, -0.3104938, 0.8103869, -0.1499009, 0.9382358, -0.1076473}},
};

static void layers_give_what_onnx_says(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
    for (int steps = 0; steps < 2; steps++) {
      const LayerCase *c = &layers[i];
      Net net = net_of_layer(c->gates);
      net_add(&net, layer_node(c->op, c->reset_after, steps ? 1e6f : 0));
      Bound b = net_bind_ok(&net, "y,h", 0);
      assert_int_equal(count_nodes(b.graph, OP_RecurrentSteps), steps ? 0 : 2);
      if (!steps)
        assert_int_equal(count_nodes(b.graph, OP_MatMul), 2); /* the inputs' products, all steps at once */
      bound_gives(&b, 0, 4, (int64_t[]){3, 2, 2, UNITS}, c->y);
      bound_gives(&b, 1, 3, (int64_t[]){2, 2, UNITS}, c->h);
      bound_end(&b);
    }
}

static void samples_lie_second(void **state) {
  (void)state;
  Net net = net_of(14);
  NET_INPUT(&net, "rows", -1, 3, 1);
  put_weights(&net, "w", 3, (int64_t[]){1, 4 * UNITS, 1});
  put_weights(&net, "r", 3, (int64_t[]){1, 4 * UNITS, UNITS});
  Bytes n = node("layer", "LSTM", "rows,w,r", "y,h");
  put_attribute_int(&n, "layout", 1);
  put_attribute_int(&n, "hidden_size", UNITS);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y,h", 4);
  for (size_t i = 0; i < 2; i++) { /* [N,T,D,H] and [N,D,H] */
    const Value *v = graph_value(b.graph, b.graph->outputs[i]);
    assert_int_equal(v->batch.kind, BATCH_AXIS);
    assert_int_equal(v->batch.axis, 0);
    assert_int_equal(v->shape.dim[0], 4);
  }
  bound_end(&b);
}

static void what_is_no_layer_is_refused(void **state) {
  (void)state;
  Net sizes = net_of_layer(3), direction = net_of_layer(1), name = net_of_layer(1);
  net_add(&sizes, layer_node("LSTM", false, 0));
  net_fails(&sizes, "y,h", 0, E_SHAPE, "node 'layer' (LSTM): 'w' is [2,6,1], not [2,8,1]");
  Bytes n = node("layer", "RNN", "x,w,r", "y");
  put_attribute_text(&n, "direction", "sideways");
  net_add(&direction, n);
  net_fails(&direction, "y", 0, E_MODEL, "node 'layer' (RNN): direction is 'sideways'");
  n = node("layer", "RNN", "x,w,r", "y");
  Bytes a = attribute("activations", 8);
  put_text(&a, 9, "Cosine");
  put_message(&n, 5, a);
  put_attribute_text(&n, "direction", "bidirectional");
  net_add(&name, n);
  net_fails(&name, "y", 0, E_MODEL, "node 'layer' (RNN): 1 activations, not 2");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(layers_give_what_onnx_says),
      cmocka_unit_test(samples_lie_second),
      cmocka_unit_test(what_is_no_layer_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
