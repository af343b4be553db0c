/* Small models for the tests of binding: nodes with attributes, functions, branches, on top of build.h; bound, run on
 * the host and compared. */
#ifndef TESTS_ONNX_BUILD_NET_H
#define TESTS_ONNX_BUILD_NET_H

#include <math.h>

#include "tests/onnx/build.h"
#include "tests/onnx/run_graph.h"

/* A model being written: its graph, and the fields of ModelProto beside it. */
typedef struct {
  int64_t opset;
  Bytes graph, functions;
} Net;

static inline Net net_of(int64_t opset) {
  return (Net){.opset = opset};
}

static inline Bytes attribute(const char *name, int type) {
  Bytes a = {0};
  put_text(&a, 1, name);
  put_int(&a, 20, type);
  return a;
}

static inline void put_attribute_int(Bytes *node, const char *name, int64_t i) {
  Bytes a = attribute(name, 2);
  put_int(&a, 3, i);
  put_message(node, 5, a);
}

static inline void put_attribute_float(Bytes *node, const char *name, float f) {
  Bytes a = attribute(name, 1);
  put_number(&a, 2 << 3 | 5);
  put_raw(&a, &f, sizeof f);
  put_message(node, 5, a);
}

static inline void put_attribute_text(Bytes *node, const char *name, const char *text) {
  Bytes a = attribute(name, 3);
  put_text(&a, 4, text);
  put_message(node, 5, a);
}

static inline void put_attribute_ints(Bytes *node, const char *name, int n, const int64_t *ints) {
  Bytes a = attribute(name, 7);
  for (int i = 0; i < n; i++)
    put_int(&a, 8, ints[i]);
  put_message(node, 5, a);
}
#define PUT_INTS(node, name, ...)                                                                                      \
  put_attribute_ints((node), (name), sizeof((int64_t[]){__VA_ARGS__}) / 8, (const int64_t[]){__VA_ARGS__})

static inline void put_attribute_graph(Bytes *node, const char *name, Bytes graph) {
  Bytes a = attribute(name, 5);
  put_message(&a, 6, graph);
  put_message(node, 5, a);
}

/* What the calling function's attribute `outer` says. */
static inline void put_attribute_reference(Bytes *node, const char *name, int type, const char *outer) {
  Bytes a = attribute(name, type);
  put_text(&a, 21, outer);
  put_message(node, 5, a);
}

/* A node without attributes. */
static inline void net_node(Net *net, const char *name, const char *op, const char *inputs, const char *outputs) {
  put_message(&net->graph, 1, node(name, op, inputs, outputs));
}

static inline void net_add(Net *net, Bytes node) {
  put_message(&net->graph, 1, node);
}

static inline void net_ints(Net *net, const char *name, int rank, int n, const int64_t *values) {
  Bytes t = tensor(name, 7, rank, (int64_t[]){n});
  put_bytes(&t, TENSOR_RAW_DATA, values, (size_t)n * sizeof *values);
  put_message(&net->graph, 5, t);
}
#define NET_INTS(net, name, ...)                                                                                       \
  net_ints((net), (name), 1, sizeof((int64_t[]){__VA_ARGS__}) / 8, (const int64_t[]){__VA_ARGS__})
#define NET_INT(net, name, value) net_ints((net), (name), 0, 1, (const int64_t[]){value})

static inline void net_bool(Net *net, const char *name, bool yes) {
  Bytes t = tensor(name, 9, 0, NULL);
  put_bytes(&t, TENSOR_RAW_DATA, &yes, 1);
  put_message(&net->graph, 5, t);
}

/* -1 is "batch". */
#define NET_INPUT(net, name, ...)                                                                                      \
  put_message(&(net)->graph, 11,                                                                                       \
              value_info((name), sizeof((int64_t[]){__VA_ARGS__}) / 8, (const int64_t[]){__VA_ARGS__}))

static inline void net_outputs(Bytes *graph, const char *names) {
  while (*names) {
    char name[64] = "";
    size_t n = strcspn(names, ",");
    memcpy(name, names, n);
    Bytes info = {0}, type = {0}, dense = {0};
    put_int(&dense, 1, 1);
    put_message(&type, 1, dense);
    put_text(&info, 1, name);
    put_message(&info, 2, type);
    put_message(graph, 12, info);
    names += n + (names[n] == ',');
  }
}

/* A function of domain "test"; nodes are added before net_function gives it away. */
static inline Bytes function(const char *name, const char *inputs, const char *outputs, int64_t opset) {
  Bytes f = {0}, import = {0}, own = {0};
  put_text(&f, 1, name);
  put_names(&f, 4, inputs);
  put_names(&f, 5, outputs);
  put_int(&import, 2, opset);
  put_message(&f, 9, import);
  put_text(&own, 1, "test");
  put_int(&own, 2, 1);
  put_message(&f, 9, own);
  put_text(&f, 10, "test");
  return f;
}

static inline void net_function(Net *net, Bytes f) {
  put_message(&net->functions, 25, f);
}

static inline Bytes call(const char *name, const char *function, const char *inputs, const char *outputs) {
  Bytes n = node(name, function, inputs, outputs);
  put_text(&n, 7, "test");
  return n;
}

/* What a test holds while it looks at one bound model. */
typedef struct {
  Arena *arena;
  Model *model;
  Graph *graph; /* NULL where binding failed */
  Status status;
} Bound;

/* Writes, opens and binds; outputs are named here. */
static inline Bound net_bind_as(Net *net, const char *outputs, BindOptions options) {
  Bound b = {.arena = arena_create()};
  options.evaluate = backend_evaluate;
  const char *folder = make_folder(), *path = in_folder(folder, "net.onnx");
  Bytes import = {0};
  net_outputs(&net->graph, outputs);
  Bytes m = model_of(10, net->opset, net->graph);
  put_text(&import, 1, "test");
  put_int(&import, 2, 1);
  put_message(&m, 8, import);
  import = (Bytes){0};
  put_text(&import, 1, "ai.onnx.ml");
  put_int(&import, 2, 3);
  put_message(&m, 8, import);
  if (net->functions.bytes)
    put_raw(&m, net->functions.data, net->functions.bytes);
  free(net->functions.data);
  save_bytes(path, m);
  ASSERT_OK(model_open(path, NULL, &b.model));
  b.status = model_bind(b.model, &options, b.arena, &b.graph);
  remove_folder(folder);
  return b;
}

static inline Bound net_bind(Net *net, const char *outputs, int64_t batch) {
  return net_bind_as(net, outputs, (BindOptions){.batch = batch});
}

static inline Bound net_bind_ok(Net *net, const char *outputs, int64_t batch) {
  Bound b = net_bind(net, outputs, batch);
  if (b.status != OK)
    FAIL_TEST("%s", status_message());
  return b;
}

static inline void bound_end(Bound *b) {
  model_close(b->model);
  arena_destroy(b->arena);
}

/* Binding fails with this code, and the message ends so (the path in front of it differs from run to run). */
static inline void net_fails(Net *net, const char *outputs, int64_t batch, Status code, const char *message) {
  Bound b = net_bind(net, outputs, batch);
  const char *said = strstr(status_message(), "net.onnx: ");
  assert_int_equal(b.status, code);
  assert_non_null(said);
  assert_string_equal(said + strlen("net.onnx: "), message);
  bound_end(&b);
}

/* Runs on inputs 0, 1, 2, … (each of them) and compares float output `i` with these numbers. */
static inline void bound_gives(const Bound *b, size_t i, int rank, const int64_t *dims, const float *expected) {
  GraphRun run;
  run_begin(&run, b->arena, b->model, b->graph);
  for (size_t k = 0; k < b->graph->n_inputs; k++) {
    ValueId id = b->graph->inputs[k];
    float *data = run_room(&run, id);
    for (int64_t j = 0; j < shape_elements(graph_value(b->graph, id)->shape); j++)
      data[j] = (float)j;
  }
  run_graph(&run);
  ValueId id = b->graph->outputs[i];
  const Value *v = graph_value(b->graph, id);
  const float *got = run_tensor(&run, id).data;
  if (!shape_equal(v->shape, shape_of(rank, dims)))
    FAIL_TEST("'%s' is %s", v->name, SHAPE_STR(v->shape));
  assert_int_equal(v->dtype, F32);
  for (int64_t j = 0; j < shape_elements(v->shape); j++)
    if (!(fabs((double)got[j] - expected[j]) <= 1e-5 * fmax(1, fabs(expected[j]))))
      FAIL_TEST("'%s'[%d] is %g, not %g", v->name, (int)j, got[j], expected[j]);
}
#define GIVES(b, i, dims, ...)                                                                                         \
  do {                                                                                                                 \
    const int64_t dims_[] = BRACED dims;                                                                               \
    const float expected_[] = {__VA_ARGS__};                                                                           \
    assert_int_equal(sizeof expected_ / sizeof *expected_,                                                             \
                     shape_elements(shape_of(sizeof dims_ / sizeof *dims_, dims_)));                                   \
    bound_gives((b), (i), sizeof dims_ / sizeof *dims_, dims_, expected_);                                             \
  } while (0)
#define BRACED(...)                                                                                                    \
  { __VA_ARGS__ }

/* How many nodes of an operator the bound graph has. */
static inline size_t count_nodes(const Graph *graph, OpKind op) {
  size_t n = 0;
  for (size_t i = 0; i < graph->n_nodes; i++)
    n += graph->nodes[i]->op == op;
  return n;
}

#endif
