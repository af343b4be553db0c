/* A file that opens binds, for one sample count and another, and is differentiated, or is refused in one line; what
 * comes of it has shapes with sizes. Constants are computed by the reference kernels. */
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "graph/autodiff.h"
#include "graph/loss.h"
#include "graph/op.h"
#include "onnx/model.h"
#include "tests/fuzz/fuzz.h"

static void check_line(const char *path) {
  fuzz_check(strncmp(status_message(), path, strlen(path)) == 0, "a message does not begin with the file");
  fuzz_check(strchr(status_message(), '\n') == NULL, "a message has two lines");
}

/* Of the first output's difference from anything, as one microbatch. */
static void differentiate(Graph *graph) {
  const Value *v = graph_value(graph, graph->outputs[0]);
  LossSpec spec = {.kind = LOSS_MSE,
                   .output = graph->outputs[0],
                   .target_dtype = v->dtype,
                   .target_shape = v->shape,
                   .microbatches = 1,
                   .class_axis = -1,
                   .coupled = "fuzzing"};
  size_t unreached;
  if (dtype_is_float(v->dtype) && loss_append(graph, &spec) == OK)
    autodiff_append(graph, &unreached);
}

static void check_sizes(const Graph *graph) {
  for (size_t i = 0; i < graph->n_values; i++) {
    size_t bytes;
    const Value *v = graph_value(graph, (ValueId)i);
    fuzz_check(shape_bytes(v->shape, v->dtype, &bytes) == OK, "a value has a shape without a size");
  }
  for (size_t i = 0; i < graph->n_nodes; i++)
    op_cost(graph, graph->nodes[i]);
}

static void bind(Model *model, const char *path, int64_t batch) {
  Arena *arena = arena_create();
  BindOptions options = {.batch = batch, .evaluate = backend_evaluate};
  Graph *graph;
  if (!arena)
    return;
  if (model_bind(model, &options, arena, &graph) != OK) {
    check_line(path);
  } else {
    if (graph->n_outputs)
      differentiate(graph);
    check_sizes(graph);
  }
  model_bound(model);
  arena_destroy(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  char path[FUZZ_PATH];
  int file = fuzz_file(data, bytes, path);
  Model *model;
  if (model_open(path, NULL, &model) == OK) {
    int64_t fixed = model_fixed_batch(model);
    bind(model, path, fixed ? fixed : 2);
    if (!fixed)
      bind(model, path, 3);
    model_close(model);
  }
  close(file);
  return 0;
}
