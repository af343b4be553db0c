/* GELUs as exporters spell them become one node that computes the same; what only looks like one stays as it is. */
#include "tests/onnx/build_net.h"

/* Nodes as "Operator inputs output", x to y; a number among the inputs is a constant. */
typedef struct {
  const char *nodes[9];
  const char *approximate; /* NULL: no GELU */
} Form;

static const Form forms[] = {
    /* Hugging Face's gelu_new, dynamo */
    {{"Mul x,0.5 h", "Pow x,3 p", "Mul p,0.044715 q", "Add x,q s", "Mul s,0.7978845608 u", "Tanh u t", "Add t,1 g",
      "Mul h,g y"},
     "tanh"},
    /* nanoGPT, torchscript */
    {{"Mul x,x a", "Mul x,a b", "Mul 0.044715,b c", "Add x,c s", "Mul 0.7978846,s u", "Tanh u t", "Add 1,t g",
      "Mul x,g m", "Mul 0.5,m y"},
     "tanh"},
    /* Hugging Face's gelu_fast */
    {{"Mul x,0.5 h", "Mul x,0.7978845608 k", "Mul x,0.044715 c", "Mul c,x q", "Add q,1.0 s", "Mul k,s u", "Tanh u t",
      "Add t,1 g", "Mul h,g y"},
     "tanh"},
    /* PyTorch's before opset 20 */
    {{"Div x,1.41421354 d", "Erf d e", "Add e,1 g", "Mul x,g m", "Mul m,0.5 y"}, "none"},
    {{"Mul x,0.707106769 d", "Erf d e", "Add 1,e g", "Mul 0.5,x h", "Mul g,h y"}, "none"},
    /* x is a product itself */
    {{"Mul x,x z", "Div z,1.41421354 d", "Erf d e", "Add e,1 g", "Mul z,g m", "Mul m,0.5 y"}, "none"},
    /* a number inside x leaves the half what it is; one more, and no half at all, beside one */
    {{"Mul x,2 z", "Div z,1.41421354 d", "Erf d e", "Add e,1 g", "Mul z,g m", "Mul m,0.5 y"}, "none"},
    {{"Mul x,2 z", "Div z,1.41421354 d", "Erf d e", "Add e,1 g", "Mul z,g m", "Mul m,0.25 y"}, NULL},
    {{"Div x,2 z", "Div z,1.41421354 d", "Erf d e", "Add e,1 g", "Mul z,g y"}, NULL},
    {{"Div x,2 z", "Mul z,z a", "Mul z,a b", "Mul 0.044715,b c", "Add z,c s", "Mul 0.7978846,s u", "Tanh u t",
      "Add 1,t g", "Mul z,g y"},
     NULL},
    /* another root, another half, another x, another one, no gate at all */
    {{"Div x,1.5 d", "Erf d e", "Add e,1 g", "Mul x,g m", "Mul m,0.5 y"}, NULL},
    {{"Div x,1.41421354 d", "Erf d e", "Add e,1 g", "Mul x,g m", "Mul m,0.25 y"}, NULL},
    {{"Mul x,2 z", "Div z,1.41421354 d", "Erf d e", "Add e,1 g", "Mul x,g m", "Mul m,0.5 y"}, NULL},
    {{"Div x,1.41421354 d", "Erf d e", "Add e,2 g", "Mul x,g m", "Mul m,0.5 y"}, NULL},
    {{"Pow x,2 p", "Mul p,0.044715 q", "Add x,q s", "Mul s,0.7978845608 u", "Tanh u t", "Add t,1 g", "Mul x,g m",
      "Mul m,0.5 y"},
     NULL},
    {{"Tanh x t", "Add t,1 g", "Mul x,g m", "Mul m,0.5 y"}, NULL},
};
enum { ELEMENTS = 4 };

/* Makes a Constant of every number among the inputs, named as it is written. */
static void add_numbers(Net *net, const char *inputs) {
  char name[64], text[80];
  while (*inputs) {
    size_t n = strcspn(inputs, ",");
    char *end;
    memcpy(name, inputs, n);
    name[n] = 0;
    float number = strtof(name, &end);
    if (end == name + n) {
      snprintf(text, sizeof text, "constant %s", name);
      Bytes constant = node(text, "Constant", "", name);
      put_attribute_float(&constant, "value_float", number);
      net_add(net, constant);
    }
    inputs += n + (inputs[n] == ',');
  }
}

static Bound bind_form(const Form *form, bool no_fuse) {
  Net net = net_of(17);
  NET_INPUT(&net, "x", ELEMENTS);
  char op[16], inputs[64], output[16];
  for (int i = 0; i < 9 && form->nodes[i]; i++) {
    assert_int_equal(sscanf(form->nodes[i], "%15s %63s %15s", op, inputs, output), 3);
    add_numbers(&net, inputs);
    net_node(&net, form->nodes[i], op, inputs, output);
  }
  Bound b = net_bind_as(&net, "y", (BindOptions){.no_fuse = no_fuse});
  ASSERT_OK(b.status);
  return b;
}

static double gelu(double x, bool erf_form) {
  return 0.5 * x * (1 + (erf_form ? erf(x / sqrt(2)) : tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))));
}

static void gelus_become_one_node(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    const char *approximate = forms[i].approximate;
    Bound b = bind_form(&forms[i], false);
    if (count_nodes(b.graph, OP_Gelu) != (approximate != NULL))
      FAIL_TEST("form %zu: %zu Gelu nodes", i, count_nodes(b.graph, OP_Gelu));
    if (approximate) {
      const Node *last = b.graph->nodes[b.graph->n_nodes - 1];
      bool product = last->in[0] != b.graph->inputs[0];
      float expected[ELEMENTS];
      assert_int_equal(b.graph->n_nodes, product ? 2 : 1);
      assert_string_equal(node_string(last, "approximate", ""), approximate);
      const Node *first = b.graph->nodes[0];
      for (int j = 0; j < ELEMENTS; j++)
        expected[j] = (float)gelu(!product                       ? j
                                  : first->in[0] == first->in[1] ? j * j
                                                                 : 2 * j,
                                  strcmp(approximate, "none") == 0);
      bound_gives(&b, 0, 1, (int64_t[]){ELEMENTS}, expected);
    }
    bound_end(&b);
  }
}

/* --no-fuse */
static void nodes_stay_as_they_are(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    size_t n = 0;
    while (n < 9 && forms[i].nodes[n])
      n++;
    Bound b = bind_form(&forms[i], true);
    assert_int_equal(b.graph->n_nodes, n);
    assert_int_equal(count_nodes(b.graph, OP_Gelu), 0);
    bound_end(&b);
  }
}

/* A chain of products longer than any that is looked through. */
static void long_chains_are_left(void **state) {
  (void)state;
  Net net = net_of(17);
  char in[16] = "x", out[16];
  NET_INPUT(&net, "x", ELEMENTS);
  for (int i = 0; i < 3000; i++) {
    snprintf(out, sizeof out, i == 2999 ? "y" : "v%d", i);
    char inputs[40];
    snprintf(inputs, sizeof inputs, "%s,%s", in, in);
    net_node(&net, out, "Mul", inputs, out);
    strcpy(in, out);
  }
  Bound b = net_bind_ok(&net, "y", 0);
  assert_int_equal(count_nodes(b.graph, OP_Mul), 3000);
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gelus_become_one_node),
      cmocka_unit_test(nodes_stay_as_they_are),
      cmocka_unit_test(long_chains_are_left),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
