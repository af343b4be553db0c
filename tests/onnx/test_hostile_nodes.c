/* No node crashes the importer or a kernel: every row of the tables of lowerings, with inputs and attributes drawn by
 * seed, sensible ones and extreme ones, gives a graph that runs or one error. Sanitizers watch. */
#include "onnx/lower/lower.h"
#include "tests/onnx/build_net.h"

const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

static const Lowering *const tables[] = {
#define TABLE(name) lowerings_##name,
#include "onnx/lower/tables.def"
#undef TABLE
};

static uint64_t next_random(uint64_t *state) {
  *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
  uint64_t z = *state;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static int64_t number(uint64_t *state) {
  static const int64_t small[] = {0, 1, 2, 3, 4, -1, -2, -3}, large[] = {7,
                                                                         8,
                                                                         9,
                                                                         64,
                                                                         -9,
                                                                         1 << 20,
                                                                         INT32_MAX,
                                                                         INT32_MIN,
                                                                         (int64_t)INT32_MAX + 1,
                                                                         INT64_C(1) << 40,
                                                                         INT64_MAX,
                                                                         INT64_MAX - 1,
                                                                         INT64_MIN,
                                                                         INT64_MIN + 1};
  uint64_t r = next_random(state);
  return r % 4 ? small[r / 4 % 8] : large[r / 4 % (sizeof large / sizeof *large)];
}

/* Constants of one kind and shape each; "n…" hold numbers that shapes, axes and counts are drawn from. */
static void add_constants(Net *net, uint64_t *state) {
  static const struct {
    const char *name;
    int type, rank;
    int64_t dims[4];
  } floats[] = {{"f0", 1, 0, {0}},          {"f1", 1, 1, {4}},       {"f2", 1, 2, {3, 4}},      {"f3", 1, 3, {2, 3, 4}},
                {"f4", 1, 4, {1, 4, 2, 2}}, {"empty", 1, 2, {0, 4}}, {"g4", 1, 4, {2, 2, 3, 4}}};
  float values[64];
  for (int i = 0; i < 64; i++)
    values[i] = (float)number(state);
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    Bytes t = tensor(floats[i].name, floats[i].type, floats[i].rank, floats[i].dims);
    size_t n = 1;
    for (int k = 0; k < floats[i].rank; k++)
      n *= (size_t)floats[i].dims[k];
    put_bytes(&t, TENSOR_RAW_DATA, values, n * sizeof *values);
    put_message(&net->graph, 5, t);
  }
  for (int i = 0; i < 6; i++) {
    int64_t list[8];
    char name[8];
    int n = i < 5 ? i : 8;
    for (int k = 0; k < 8; k++)
      list[k] = number(state);
    snprintf(name, sizeof name, "n%d", i);
    net_ints(net, name, n > 0, n ? n : 1, list);
  }
  Bytes t = tensor("i2", 6, 2, (int64_t[]){3, 4});
  int32_t narrow[12];
  uint8_t yes[12];
  for (int i = 0; i < 12; i++) {
    narrow[i] = (int32_t)number(state);
    yes[i] = (uint8_t)(next_random(state) % 2);
  }
  put_bytes(&t, TENSOR_RAW_DATA, narrow, sizeof narrow);
  put_message(&net->graph, 5, t);
  t = tensor("b2", 9, 2, (int64_t[]){3, 4});
  put_bytes(&t, TENSOR_RAW_DATA, yes, sizeof yes);
  put_message(&net->graph, 5, t);
}

static const char *draw_input(uint64_t *state) {
  static const char *const names[] = {"x",  "x",  "x",  "t",  "f0", "f1", "f2", "f3", "f4", "g4", "empty", "n0",
                                      "n0", "n1", "n1", "n2", "n2", "n3", "n4", "n5", "i2", "b2", "seq",   "k"};
  return names[next_random(state) % (sizeof names / sizeof *names)];
}

static void draw_attribute(Bytes *to, const char *name, char kind, uint64_t *state) {
  static const char *const texts[] = {"none",      "tanh",    "constant", "DCR",   "CRD",        "mean", "sum", "edge",
                                      "ij,jk->ik", "...i->i", "i->",      "ii->i", "a,b,c->abc", "-",    ""};
  static const float floats[] = {0, 1, -1, 0.5f, INFINITY, -INFINITY, NAN, 1e38f, 1e-45f};
  uint64_t r = next_random(state);
  if (r % 24 == 0) /* another kind than the table says */
    kind = "ifsI"[r / 24 % 4];
  switch (kind) {
  case 'b':
    put_attribute_int(to, name, r % 8 ? (int64_t)(r / 8 % 2) : number(state));
    return;
  case 'd':
    put_attribute_int(to, name, r % 4 ? (int64_t)(r / 4 % 16) : number(state));
    return;
  case 'i':
    put_attribute_int(to, name, number(state));
    return;
  case 'f':
    put_attribute_float(to, name, floats[r / 24 % (sizeof floats / sizeof *floats)]);
    return;
  case 's':
    put_attribute_text(to, name, texts[r / 24 % (sizeof texts / sizeof *texts)]);
    return;
  case 'I': {
    int64_t list[9];
    int n = (int)(r / 24 % 10);
    for (int i = 0; i < 9; i++)
      list[i] = next_random(state) % 2 ? i : number(state);
    put_attribute_ints(to, name, n, list);
    return;
  }
  case 'F': {
    Bytes a = attribute(name, 6);
    for (uint64_t i = 0; i < r / 24 % 10; i++) {
      put_number(&a, 7 << 3 | 5);
      put_raw(&a, &floats[next_random(state) % (sizeof floats / sizeof *floats)], sizeof *floats);
    }
    put_message(to, 5, a);
    return;
  }
  case 'g': {
    Bytes branch = {0};
    put_message(&branch, 1, node("", "Neg", "x", "inner"));
    net_outputs(&branch, "inner");
    put_attribute_graph(to, name, branch);
    return;
  }
  case 't': {
    Bytes a = attribute(name, 4);
    put_message(&a, 5, weight("", 1, r % 2 ? 0 : 1, 0.5f, 1));
    put_message(to, 5, a);
    return;
  }
  default:
    return;
  }
}

/* "axis:i to:d!" by pieces: each is there more often than not. */
static void draw_attributes(Bytes *node, const char *list, uint64_t *state) {
  for (const char *at = list; *at; at += strcspn(at, " "), at += strspn(at, " ")) {
    char name[32] = "";
    size_t length = strcspn(at, ":");
    memcpy(name, at, length);
    if (next_random(state) % 16 < (at[length + 2] == '!' ? 15 : 9))
      draw_attribute(node, name, at[length + 1], state);
  }
}

static Bytes draw_node(const Lowering *row, int64_t opset, uint64_t *state) {
  char inputs[256] = "", outputs[64] = "y";
  int most = row->max_in < row->min_in + 3 ? row->max_in : row->min_in + 3;
  int n_in = row->min_in + (int)(next_random(state) % (uint64_t)(most - row->min_in + 1));
  n_in += next_random(state) % 32 == 0 ? 1 : next_random(state) % 32 == 0 && n_in ? -1 : 0;
  for (int i = 0; i < n_in; i++) {
    const char *name = next_random(state) % 24 ? draw_input(state) : "";
    if (opset < 11 && (strcmp(name, "seq") == 0 || strcmp(name, "k") == 0))
      name = "f2";
    snprintf(inputs + strlen(inputs), sizeof inputs - strlen(inputs), "%s%s", i ? "," : "", name);
  }
  for (int i = 1; i < row->max_out && next_random(state) % 2 && i < 4; i++)
    snprintf(outputs + strlen(outputs), sizeof outputs - strlen(outputs), ",y%d", i);
  const char *op = strstr(row->op, "::");
  Bytes n = node("n", op ? op + 2 : row->op, inputs, outputs);
  if (op)
    put_text(&n, 7, "ai.onnx.ml");
  draw_attributes(&n, row->attributes, state);
  return n;
}

static void runs(const Bound *b) {
  size_t bytes = 0;
  GraphRun run;
  for (ValueId id = 0; id < b->graph->n_values; id++)
    if (__builtin_add_overflow(bytes, graph_value_bytes(b->graph, id), &bytes) || bytes > 1 << 20)
      return;
  for (size_t i = 0; i < b->graph->n_nodes; i++)
    if (b->graph->nodes[i]->n_in > 64 || b->graph->nodes[i]->n_out > 64)
      return;
  run_begin(&run, b->arena, b->model, b->graph);
  Status status = run_graph_status(&run);
  assert_true(status == OK || status == E_MODEL || status == E_UNSUPPORTED);
}

/* Whether it was bound. */
static bool survives(const Lowering *row, uint64_t seed) {
  uint64_t state = seed;
  int from = row->from > OPSET_FIRST ? row->from : OPSET_FIRST, to = row->to < OPSET_LAST ? row->to : OPSET_LAST;
  if (strstr(row->op, "::")) /* of another domain, which has versions of its own */
    from = to = 18;
  int64_t opset = from + (int64_t)(next_random(&state) % (uint64_t)(to - from + 1));
  Net net = net_of(opset);
  NET_INPUT(&net, "x", -1, 4);
  add_constants(&net, &state);
  net_node(&net, "t", "Tanh", "x", "t");
  if (opset >= 11) {
    NET_INTS(&net, "sizes", 1 << 13, 1 << 13);
    net_node(&net, "k", "ConstantOfShape", "sizes", "k");
    net_node(&net, "seq", "SequenceConstruct", "f2,f2,t", "seq");
  }
  net_add(&net, draw_node(row, opset, &state));
  Bound b = net_bind(&net, "y", 3);
  bool bound = b.status == OK;
  if (bound)
    runs(&b);
  else
    assert_null(strchr(status_message(), '\n'));
  bound_end(&b);
  return bound;
}

static void nodes_drawn(void **state) {
  (void)state;
  const char *asked = getenv("ONNXPIPE_HOSTILE_ROUNDS");
  int rounds = asked ? atoi(asked) : 15, bound = 0, rows = 0;
  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
    for (const Lowering *row = tables[t]; row->op; row++, rows++)
      for (int i = 0; i < rounds; i++)
        bound += survives(row, ((uint64_t)t << 48) + ((uint64_t)(row - tables[t]) << 32) + (uint64_t)i);
  printf("%d of %d nodes were bound\n", bound, rows * rounds);
  assert_true(bound > rows * rounds / 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(nodes_drawn)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
