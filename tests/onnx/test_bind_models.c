/* Every reference model binds, at several batch sizes, to few nodes, and computes what PyTorch computed. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/data/data.h"
#include "runtime/data/npy.h"
#include "tests/onnx/run_graph.h"

typedef struct {
  const char *name;
  size_t most_nodes; /* what is left when shape arithmetic is gone */
} Case;

static const Case cases[] = {
    {"nanogpt", 260},      {"surrogate", 80},
    {"branches", 25},      {"dlrm", 60},
    {"gpt2", 200},         {"gpt2_default_export", 200},
    {"nanogpt_loss", 100}, {"gpt2_fixed_batch", 120},
    {"llama", 260},
};

typedef struct {
  Arena *arena;
  Model *model;
  ArrayFile data;
  void *expected;
  DType dtype;
  Shape shape;
} Loaded;

static char *path_of(const Case *c, const char *file) {
  static char path[512];
  snprintf(path, sizeof path, "%s/models/%s/%s", SOURCE_DIR, c->name, file);
  return path;
}

static void load_expected(Loaded *l, const char *path) {
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  assert_int_equal(fseek(f, 0, SEEK_END), 0);
  long bytes = ftell(f);
  rewind(f);
  unsigned char *all = arena_alloc(l->arena, (size_t)bytes, 1);
  size_t begin;
  assert_int_equal(fread(all, 1, (size_t)bytes, f), bytes);
  fclose(f);
  ASSERT_OK(npy_read_header(all, (size_t)bytes, (uint64_t)bytes, &l->dtype, &l->shape, &(bool){false}, &begin));
  l->expected = arena_alloc(l->arena, (size_t)bytes, 1);
  memcpy(l->expected, all + begin, (size_t)bytes - begin);
}

static Loaded load(const Case *c) {
  Loaded l = {.arena = arena_create()};
  assert_non_null(l.arena);
  ASSERT_OK(model_open(path_of(c, "model.onnx"), NULL, &l.model));
  ASSERT_OK(array_file_open(path_of(c, "data.npz"), &l.data));
  load_expected(&l, path_of(c, "first_output.npy"));
  return l;
}

static void unload(Loaded *l) {
  array_file_close(&l->data);
  model_close(l->model);
  arena_destroy(l->arena);
}

static Graph *bind(Loaded *l, int64_t batch) {
  BindOptions options = {.batch = batch, .evaluate = backend_evaluate};
  Graph *graph;
  ASSERT_OK(model_bind(l->model, &options, l->arena, &graph));
  return graph;
}

/* Samples first … first+batch-1 against the expected output's. */
static void run_and_compare(Loaded *l, const Graph *graph, int64_t first, int64_t batch) {
  GraphRun run;
  run_begin(&run, l->arena, l->model, graph);
  for (size_t i = 0; i < graph->n_inputs; i++) {
    const Value *v = graph_value(graph, graph->inputs[i]);
    const Array *array = array_find(&l->data, v->name);
    assert_non_null(array);
    int64_t each = shape_elements(v->shape) / batch;
    ASSERT_OK(array_convert(array, first * each, batch * each, v->dtype, run_room(&run, graph->inputs[i])));
  }
  run_graph(&run);
  const Value *out = graph_value(graph, graph->outputs[0]);
  assert_int_equal(out->dtype, F32);
  int64_t n = shape_elements(out->shape), each = n / batch;
  const float *got = run.values[graph->outputs[0]];
  double largest = 0, worst = 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t at = first * each + i;
    double e = l->dtype == F64 ? ((const double *)l->expected)[at] : ((const float *)l->expected)[at];
    largest = fmax(largest, fabs(e));
    worst = fmax(worst, fabs(e - got[i]));
    assert_false(isnan(got[i]));
  }
  if (!(worst <= 2e-5 * largest))
    FAIL_TEST("samples %d…: off by %g, largest %g", (int)first, worst, largest);
}

static void check_graph(const Case *c, const Model *model, const Graph *graph, int64_t batch) {
  int n;
  const Initializer *all = model_initializers(model, &n);
  if (getenv("PRINT_GRAPH"))
    print_graph(graph);
  assert_in_range(graph->n_nodes, 1, c->most_nodes);
  for (size_t i = 0; i < graph->n_inputs; i++)
    assert_int_equal(graph_value(graph, graph->inputs[i])->shape.dim[0], batch);
  const Value *out = graph_value(graph, graph->outputs[0]);
  if (out->shape.rank) {
    assert_int_equal(out->shape.dim[0], batch);
    assert_int_equal(out->batch.kind, BATCH_AXIS);
    assert_int_equal(out->batch.axis, 0);
  }
  for (size_t i = 0; i < graph->n_values; i++) {
    const Value *v = graph->values[i];
    assert_true(v->role != ROLE_ACTIVATION || v->producer != NO_NODE);
    assert_true(v->role != ROLE_CONSTANT || v->data || v->initializer >= 0);
    assert_true(v->role != ROLE_PARAMETER || (v->initializer >= 0 && !v->data));
    if (v->role == ROLE_PARAMETER) /* a tied tensor is the other's parameter */
      assert_true(all[v->initializer].trains && all[v->initializer].tied_to < 0);
  }
}

/* What depends on samples has one axis for them, of their number or a multiple of it. */
static void check_batch_axes(Arena *arena, const Graph *graph, int64_t batch) {
  bool *depends = arena_alloc(arena, graph->n_values, sizeof *depends);
  for (size_t i = 0; i < graph->n_inputs; i++)
    depends[graph->inputs[i]] = true;
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    bool any = false;
    for (int k = 0; k < node->n_in; k++)
      any |= node->in[k] != NO_VALUE && depends[node->in[k]];
    for (int k = 0; k < node->n_out; k++) {
      if (node->out[k] == NO_VALUE)
        continue;
      const Value *v = graph_value(graph, node->out[k]);
      depends[node->out[k]] = any;
      bool has_axis = v->batch.kind == BATCH_AXIS;
      if ((any && !has_axis && v->shape.rank) || (has_axis && !any && !v->batch.uniform) ||
          (has_axis && v->shape.dim[v->batch.axis] != v->batch.outer * batch * v->batch.inner))
        FAIL_TEST("'%s' %s: batch axis %d, by %s", v->name, SHAPE_STR(v->shape), v->batch.axis,
                  v->batch.by ? v->batch.by : "nothing");
    }
  }
}

/* The nodes correspond, whatever the number of samples: plans name them. */
static void check_same_nodes(const Graph *a, const Graph *b) {
  assert_int_equal(a->n_nodes, b->n_nodes);
  for (size_t i = 0; i < a->n_nodes; i++) {
    assert_int_equal(a->nodes[i]->op, b->nodes[i]->op);
    assert_string_equal(a->nodes[i]->name, b->nodes[i]->name);
  }
}

static void bind_and_run(void **state) {
  const Case *c = *state;
  Loaded l = load(c);
  int64_t fixed = model_fixed_batch(l.model), all = l.shape.rank ? l.shape.dim[0] : 8;
  int64_t sizes[] = {all, 1, 3};
  const Graph *before = NULL;
  for (size_t s = 0; s < 3; s++) {
    int64_t batch = fixed ? fixed : sizes[s];
    Graph *graph = bind(&l, batch);
    check_graph(c, l.model, graph, batch);
    check_batch_axes(l.arena, graph, batch);
    if (before)
      check_same_nodes(before, graph);
    before = graph;
    for (int64_t first = 0; first + batch <= all && (l.shape.rank || batch == all); first += batch)
      run_and_compare(&l, graph, first, batch);
    if (fixed)
      break;
  }
  unload(&l);
}

int main(void) {
  enum { N = sizeof cases / sizeof *cases };
  struct CMUnitTest tests[N];
  for (size_t i = 0; i < N; i++)
    tests[i] = (struct CMUnitTest){cases[i].name, bind_and_run, NULL, NULL, (void *)&cases[i]};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
