/* Attention in its forms, linear attention and what stands around them: gradients against differences, and steps one
 * by one against all at once. What the forms compute is compared with the specification's node tests
 * (test_bind_nodes.c). */
#include "tests/onnx/differences.h"

static Net attention_net(void) {
  Net net = net_of(25);
  NET_DOUBLE(&net, "q", 2, 4, 3, 2);
  NET_DOUBLE(&net, "k", 2, 2, 3, 2);
  NET_DOUBLE(&net, "v", 2, 2, 3, 2);
  return net;
}

static void attention_differentiates(void **state) {
  (void)state;
  Net plain = attention_net();
  Bytes n = node("a", "Attention", "q64,k64,v64", "y");
  put_attribute_float(&n, "softcap", 0.75);
  put_attribute_int(&n, "is_causal", 1);
  net_add(&plain, n);
  gradients_agree(&plain, "y");
  Net past = attention_net();
  NET_DOUBLE(&past, "pk", 2, 2, 2, 2);
  NET_DOUBLE(&past, "pv", 2, 2, 2, 2);
  NET_DOUBLE(&past, "m", 3, 4); /* one key short */
  n = node("a", "Attention", "q64,k64,v64,m64,pk64,pv64", "y,keys,values,p");
  put_attribute_int(&n, "is_causal", 1);
  put_attribute_int(&n, "left_window_size", 2);
  put_attribute_int(&n, "qk_matmul_output_mode", 3);
  net_add(&past, n);
  gradients_agree(&past, "y,keys,values,p");
}

/* A sample without a key, and queries that come before the first one: they give 0, and no gradient that is no number.
 */
static void blind_queries_differentiate(void **state) {
  (void)state;
  Net net = attention_net();
  NET_INTS(&net, "lengths", 0, 2);
  Bytes n = node("a", "Attention", "q64,k64,v64,,,,lengths", "y");
  put_attribute_int(&n, "is_causal", 1);
  net_add(&net, n);
  gradients_agree(&net, "y");
}

static void heads_are_read_from_the_last_axis(void **state) {
  (void)state;
  Net net = net_of(24);
  NET_DOUBLE(&net, "q", 1, 3, 8);
  NET_DOUBLE(&net, "k", 1, 2, 4);
  NET_DOUBLE(&net, "v", 1, 2, 6);
  Bytes n = node("a", "Attention", "q64,k64,v64", "y");
  put_attribute_int(&n, "q_num_heads", 4);
  put_attribute_int(&n, "kv_num_heads", 2);
  net_add(&net, n);
  gradients_agree(&net, "y");
}

static void rotary_positions_differentiate(void **state) {
  (void)state;
  Net net = net_of(23);
  NET_DOUBLE(&net, "x", 1, 2, 3, 6);
  NET_DOUBLE(&net, "c", 5, 2);
  NET_DOUBLE(&net, "s", 5, 2);
  NET_INTS(&net, "flat", 4, 0, 4);
  NET_INTS(&net, "row", 1, 3);
  net_node(&net, "p", "Reshape", "flat,row", "at");
  Bytes n = node("r", "RotaryEmbedding", "x64,c64,s64,at", "y");
  put_attribute_int(&n, "interleaved", 1);
  put_attribute_int(&n, "rotary_embedding_dim", 4);
  net_add(&net, n);
  gradients_agree(&net, "y");
}

/* decay = -softplus(g), beta = sigmoid(b) */
static Bytes linear_attention(Net *net, const char *rule, bool gated, bool delta, const char *inputs,
                              const char *outputs) {
  Bytes n = node("l", "LinearAttention", inputs, outputs);
  put_attribute_int(&n, "q_num_heads", 4);
  put_attribute_int(&n, "kv_num_heads", 2);
  put_attribute_text(&n, "update_rule", rule);
  if (gated) {
    net_node(net, "gs", "Softplus", "g64", "positive");
    net_node(net, "gn", "Neg", "positive", "decay");
  }
  if (delta)
    net_node(net, "bs", "Sigmoid", "b64", "beta");
  return n;
}

static void linear_attention_differentiates(void **state) {
  (void)state;
  static const struct {
    const char *rule;
    int64_t decays, steps;
    bool delta;
  } rules[] = {{"linear", 0, 3, false}, {"gated", 2, 3, false},      {"gated", 4, 9, false},
               {"delta", 0, 9, true},   {"gated_delta", 2, 5, true}, {"gated_delta", 4, 3, true}};
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    int64_t t = rules[i].steps;
    bool gated = rules[i].decays, delta = rules[i].delta;
    char inputs[64];
    Net net = net_of(27);
    NET_DOUBLE(&net, "q", 1, t, 8);
    NET_DOUBLE(&net, "k", 1, t, 4);
    NET_DOUBLE(&net, "v", 1, t, 2);
    NET_DOUBLE(&net, "s", 1, 2, 2, 1);
    if (gated)
      NET_DOUBLE(&net, "g", 1, t, rules[i].decays);
    if (delta)
      NET_DOUBLE(&net, "b", 1, t, 1);
    snprintf(inputs, sizeof inputs, "q64,k64,v64,s64,%s,%s", gated ? "decay" : "", delta ? "beta" : "");
    net_add(&net, linear_attention(&net, rules[i].rule, gated, delta, inputs, "y,z"));
    gradients_agree(&net, "y,z");
  }
}

/* The rule on part 1 or 2 of the sequence, or on all of it: y0, z0. */
static void add_part(Net *net, const char *rule, bool gated, bool delta, int part) {
  static const char *const names[] = {"q64", "k64", "v64", "decay", "beta"};
  static const char *const suffixes[] = {"", "_1", "_2"};
  const char *at = suffixes[part];
  char inputs[128], outputs[32];
  snprintf(inputs, sizeof inputs, "q64%s,k64%s,v64%s,%s,%s%s,%s%s", at, at, at, part == 2 ? "z1" : "",
           gated ? "decay" : "", gated ? at : "", delta ? "beta" : "", delta ? at : "");
  snprintf(outputs, sizeof outputs, "y%d,z%d", part, part);
  Bytes layer = linear_attention(net, rule, gated && !part, delta && !part, inputs, outputs);
  for (int k = 0; part == 1 && k < 5; k++) {
    if ((k == 3 && !gated) || (k == 4 && !delta))
      continue;
    snprintf(inputs, sizeof inputs, "%s,parts", names[k]);
    snprintf(outputs, sizeof outputs, "%s_1,%s_2", names[k], names[k]);
    Bytes split = node(names[k], "Split", inputs, outputs);
    put_attribute_int(&split, "axis", 1);
    net_add(net, split);
  }
  net_add(net, layer);
}

/* What two values differ by, as float. */
static void net_off(Net *net, const char *a_and_b, const char *name) {
  char wide[32];
  snprintf(wide, sizeof wide, "%s64", name);
  net_node(net, wide, "Sub", a_and_b, wide);
  Bytes cast = node(name, "Cast", wide, name);
  put_attribute_int(&cast, "to", 1);
  net_add(net, cast);
}

static void all_are_less(const Bound *b, float bound) {
  GraphRun run;
  run_begin(&run, b->arena, b->model, b->graph);
  for (size_t k = 0; k < b->graph->n_inputs; k++) {
    float *x = run_room(&run, b->graph->inputs[k]);
    for (int64_t j = 0; j < shape_elements(graph_value(b->graph, b->graph->inputs[k])->shape); j++)
      x[j] = (float)sin(1.3 * (double)j + (double)k);
  }
  run_graph(&run);
  for (size_t i = 0; i < b->graph->n_outputs; i++)
    for (int64_t j = 0; j < shape_elements(graph_value(b->graph, b->graph->outputs[i])->shape); j++)
      assert_true(fabsf(((float *)run.values[b->graph->outputs[i]])[j]) < bound);
}

/* 19 steps at once, and as 7 and 12 with the state in between. */
static void a_sequence_is_its_steps(void **state) {
  (void)state;
  static const char *const rules[] = {"linear", "gated", "delta", "gated_delta"};
  for (int i = 0; i < 4; i++) {
    Net net = net_of(27);
    NET_DOUBLE(&net, "q", 1, 19, 8);
    NET_DOUBLE(&net, "k", 1, 19, 4);
    NET_DOUBLE(&net, "v", 1, 19, 2);
    NET_DOUBLE(&net, "g", 1, 19, 2);
    NET_DOUBLE(&net, "b", 1, 19, 2);
    NET_INTS(&net, "parts", 7, 12);
    for (int part = 0; part < 3; part++)
      add_part(&net, rules[i], i % 2, i > 1, part);
    Bytes join = node("j", "Concat", "y1,y2", "joined");
    put_attribute_int(&join, "axis", 1);
    net_add(&net, join);
    net_off(&net, "y0,joined", "y");
    net_off(&net, "z0,z2", "z");
    Bound b = net_bind_ok(&net, "y,z", 0);
    all_are_less(&b, 1e-9f);
    bound_end(&b);
  }
}

static void convolutions_keep_their_past(void **state) {
  (void)state;
  Net net = net_of(28);
  NET_DOUBLE(&net, "x", 1, 2, 4);
  NET_DOUBLE(&net, "w", 2, 1, 3);
  NET_DOUBLE(&net, "b", 2);
  NET_DOUBLE(&net, "p", 1, 2, 2);
  NET_DOUBLE(&net, "gate", 1, 2, 4);
  Bytes n = node("c", "CausalConvWithState", "x64,w64,b64,p64", "y,z"), m = node("g", "SwiGLU", "gate64,y", "u");
  put_attribute_text(&n, "activation", "silu");
  put_attribute_float(&m, "alpha", 1.5);
  net_add(&net, n);
  net_add(&net, m);
  gradients_agree(&net, "u,z");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(attention_differentiates),          cmocka_unit_test(blind_queries_differentiate),
      cmocka_unit_test(heads_are_read_from_the_last_axis), cmocka_unit_test(rotary_positions_differentiate),
      cmocka_unit_test(linear_attention_differentiates),   cmocka_unit_test(a_sequence_is_its_steps),
      cmocka_unit_test(convolutions_keep_their_past),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
