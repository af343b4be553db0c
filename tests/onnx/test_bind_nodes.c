/* The node tests that the onnx package brings, where a Python that has it is at hand: what binds computes what they
 * say, whether it folds or runs; what does not bind is refused as unsupported. */
#include <math.h>
#include <stdlib.h>

#include "runtime/data/data.h"
#include "tests/onnx/build.h"
#include "tests/onnx/run_graph.h"

enum { LEAST_THAT_AGREE = 2000 };

typedef struct {
  Arena *arena;
  Model *model;
  ArrayFile in, out;
} Opened;

static void close_all(Opened *o) {
  if (o->in.arena)
    array_file_close(&o->in);
  if (o->out.arena)
    array_file_close(&o->out);
  model_close(o->model);
  arena_destroy(o->arena);
}

static double number_at(DType dtype, const void *data, int64_t i) {
  switch (dtype) {
  case F32:
    return ((const float *)data)[i];
  case F64:
    return ((const double *)data)[i];
  case I64:
    return (double)((const int64_t *)data)[i];
  case I32:
    return ((const int32_t *)data)[i];
  case I8:
    return ((const int8_t *)data)[i];
  default:
    return ((const uint8_t *)data)[i];
  }
}

static bool agrees(double got, double expected) {
  return got == expected || (isnan(got) && isnan(expected)) || fabs(got - expected) <= 1e-5 + 1e-3 * fabs(expected);
}

static void compare(const char *path, const Graph *graph, GraphRun *run, Opened *o) {
  for (size_t i = 0; i < graph->n_outputs; i++) {
    const Value *v = graph_value(graph, graph->outputs[i]);
    const Array *expected = array_find(&o->out, v->name);
    assert_non_null(expected);
    if (v->dtype != expected->dtype || !shape_equal(v->shape, expected->shape))
      FAIL_TEST("%s: '%s' is %s %s, not %s %s", path, v->name, dtype_name(v->dtype), SHAPE_STR(v->shape),
                dtype_name(expected->dtype), SHAPE_STR(expected->shape));
    const void *got = run_tensor(run, graph->outputs[i]).data;
    void *wanted = arena_copy(o->arena, expected->data, graph_value_bytes(graph, graph->outputs[i]));
    for (int64_t k = 0; k < shape_elements(v->shape); k++)
      if (!agrees(number_at(v->dtype, got, k), number_at(v->dtype, wanted, k)))
        FAIL_TEST("%s: '%s'[%d] is %g, not %g", path, v->name, (int)k, number_at(v->dtype, got, k),
                  number_at(v->dtype, wanted, k));
  }
}

/* Whether the case bound and could run; a failure other than E_UNSUPPORTED ends the test. */
static bool check_case(const char *folder) {
  Opened o = {.arena = arena_create()};
  BindOptions options = {.evaluate = backend_evaluate};
  Graph *graph;
  GraphRun run;
  const char *path = arena_format(o.arena, "%s/model.onnx", folder);
  Status status = model_open(path, NULL, &o.model);
  if (status == OK)
    status = model_bind(o.model, &options, o.arena, &graph);
  if (status != OK && status != E_UNSUPPORTED)
    FAIL_TEST("%s", status_message());
  if (status == OK) {
    ASSERT_OK(array_file_open(arena_format(o.arena, "%s/in.npz", folder), &o.in));
    ASSERT_OK(array_file_open(arena_format(o.arena, "%s/out.npz", folder), &o.out));
    run_begin(&run, o.arena, o.model, graph);
    for (size_t i = 0; i < graph->n_inputs; i++) {
      const Array *array = array_find(&o.in, graph_value(graph, graph->inputs[i])->name);
      assert_non_null(array);
      memcpy(run_room(&run, graph->inputs[i]), array->data, graph_value_bytes(graph, graph->inputs[i]));
    }
    status = run_graph_status(&run);
    if (status == OK)
      compare(path, graph, &run, &o);
    else if (status != E_UNSUPPORTED)
      FAIL_TEST("%s: %s", path, status_message());
  }
  close_all(&o);
  return status == OK;
}

static void nodes_of_the_onnx_package(void **state) {
  (void)state;
  const char *python = getenv("ONNXPIPE_TEST_PYTHON"), *folder = make_folder();
  char command[512], line[64] = "";
  python = python ? python : "python3";
  snprintf(command, sizeof command, "%s -c 'import onnx.backend.test.case.node' 2>/dev/null", python);
  if (system(command) != 0) {
    print_message("skipped: no Python with onnx (ONNXPIPE_TEST_PYTHON names one)\n");
    remove_folder(folder);
    skip();
  }
  snprintf(command, sizeof command, "%s -W ignore " SOURCE_DIR "/tests/onnx/nodes.py %s", python, folder);
  FILE *pipe = popen(command, "r");
  assert_non_null(pipe);
  while (fgets(line, sizeof line, pipe)) /* the last line says how many */
    ;
  assert_int_equal(pclose(pipe), 0);
  int count = atoi(line), agreed = 0;
  for (int i = 0; i < count; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%d", folder, i);
    agreed += check_case(path);
  }
  remove_folder(folder);
  print_message("%d of %d agree, the others are refused\n", agreed, count);
  assert_true(agreed >= LEAST_THAT_AGREE);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(nodes_of_the_onnx_package)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
