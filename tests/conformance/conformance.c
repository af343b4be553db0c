/* Runs many small models on the backends of the host, each on one set of inputs: what tests/conformance.py prepares and
 * judges. Invariant: whatever a case does, the next one starts afresh.
 *
 *   conformance FOLDER FIRST STEP    cases FIRST, FIRST + STEP, … that are there: FOLDER/<n>.onnx, <n>.in
 *
 * With a fourth argument the gradients of each case, in float64, are compared with differences.
 *
 * For each case a line "<n> backend ok|unsupported|failed message" on standard output, and FOLDER/<n>.<backend>, the
 * outputs, where it is ok. A file of tensors: their count, then for each its ONNX type, rank, dimensions, bytes and
 * contents, all numbers int64. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "onnx/file/internal.h"
#include "tests/conformance/conformance.h"

static int64_t take(char **at) {
  int64_t number;
  memcpy(&number, *at, sizeof number);
  *at += sizeof number;
  return number;
}

static Status read_tensors(const char *path, TensorFile *file) {
  FILE *f = fopen(path, "rb");
  if (!f)
    return fail(E_IO, "%s: cannot be opened", path);
  fseek(f, 0, SEEK_END);
  size_t bytes = (size_t)ftell(f);
  rewind(f);
  file->bytes = malloc(bytes + 1);
  bool whole = file->bytes && fread(file->bytes, 1, bytes, f) == bytes;
  fclose(f);
  if (!whole)
    return fail(E_IO, "%s: cannot be read", path);
  char *at = file->bytes;
  file->n = (int)take(&at);
  if (file->n > MOST_TENSORS)
    return fail(E_IO, "%s: %d tensors", path, file->n);
  for (int i = 0; i < file->n; i++) {
    Array *array = &file->arrays[i];
    array->name = "input";
    array->dtype = stored_from_onnx((int32_t)take(&at));
    array->shape.rank = (int)take(&at);
    for (int k = 0; k < array->shape.rank; k++)
      array->shape.dim[k] = take(&at);
    int64_t size = take(&at);
    array->data = at;
    at += size;
  }
  return OK;
}

static int onnx_type_of(DType dtype) {
  int type = 1;
  while (stored_from_onnx(type) != dtype)
    type++;
  return type;
}

static Status write_outputs(const Case *c, const char *path) {
  FILE *f = fopen(path, "wb");
  if (!f)
    return fail(E_IO, "%s: cannot be written", path);
  int64_t n = (int64_t)c->graph->n_outputs;
  fwrite(&n, sizeof n, 1, f);
  int n_declared;
  const ModelInput *declared = model_outputs(c->model, &n_declared);
  for (size_t i = 0; i < c->graph->n_outputs; i++) {
    Tensor *t = &c->tensors[c->graph->outputs[i]];
    Array array = {"output", t->dtype, t->shape, t->data};
    array_store_as(&array, declared[i].stored);
    t->dtype = array.dtype;
    int64_t head[3 + MAX_RANK] = {onnx_type_of(t->dtype), t->shape.rank};
    memcpy(head + 2, t->shape.dim, sizeof t->shape.dim);
    head[2 + t->shape.rank] = shape_elements(t->shape) * (int64_t)dtype_bytes(t->dtype);
    fwrite(head, sizeof *head, (size_t)(3 + t->shape.rank), f);
    fwrite(t->data, 1, (size_t)head[2 + t->shape.rank], f);
  }
  return fclose(f) == 0 ? OK : fail(E_IO, "%s: cannot be written", path);
}

static Status input_contents(void *context, int input, DType dtype, Shape shape, void *data, bool *given) {
  const Case *c = context;
  *given = true;
  return array_convert(&c->in.arrays[input], 0, shape_elements(shape), dtype, data);
}

/* Sizes of open dimensions, by the inputs; the axis of the samples is the microbatch. */
static Status find_dims(Case *c, BindOptions *options) {
  int n, n_dims = 0;
  const ModelInput *inputs = model_inputs(c->model, &n);
  DimBinding *dims;
  TRY(ARENA_NEW(c->arena, dims, n * MAX_RANK));
  if (n != c->in.n)
    return fail(E_MODEL, "%d inputs, %d tensors", n, c->in.n);
  for (int i = 0; i < n; i++)
    for (int k = 0; k < inputs[i].rank && k < c->in.arrays[i].shape.rank; k++) {
      if (inputs[i].dim[k] >= 0)
        continue;
      int64_t size = c->in.arrays[i].shape.dim[k];
      const char *name = inputs[i].dim_name[k];
      if (k == inputs[i].batch_axis)
        options->batch = size;
      else
        dims[n_dims++] = (DimBinding){*name ? name : arena_format(c->arena, "%s.%d", inputs[i].name, k), size};
    }
  options->dims = dims;
  options->n_dims = n_dims;
  return OK;
}

Status case_open(const char *folder, int number, bool no_fuse, Case *c) {
  BindOptions options = {
      .evaluate = backend_evaluate, .contents = input_contents, .contents_context = c, .no_fuse = no_fuse};
  *c = (Case){.arena = arena_create()};
  TRY(model_open(arena_format(c->arena, "%s/%d.onnx", folder, number), NULL, &c->model));
  TRY(read_tensors(arena_format(c->arena, "%s/%d.in", folder, number), &c->in));
  TRY(find_dims(c, &options));
  return model_bind(c->model, &options, c->arena, &c->graph);
}

void case_close(Case *c) {
  if (c->model)
    model_close(c->model);
  free(c->in.bytes);
  arena_destroy(c->arena);
}

Status case_fill(Case *c) {
  const Graph *g = c->graph;
  TRY(ARENA_NEW(c->arena, c->tensors, g->n_values));
  for (size_t i = 0; i < g->n_values; i++) {
    const Value *v = g->values[i];
    size_t bytes = graph_value_bytes(g, (ValueId)i);
    void *data = arena_alloc(c->arena, bytes + 64, 1);
    if (!data)
      return status_code();
    data = (void *)(((uintptr_t)data + 63) & ~(uintptr_t)63);
    c->tensors[i] = tensor_at(v->dtype, v->shape, data);
    memset(data, 0, bytes);
    if (v->data)
      memcpy(data, v->data, bytes);
    else if (v->initializer >= 0)
      TRY(model_read_initializer(c->model, v->initializer, data, bytes));
  }
  for (size_t i = 0; i < g->n_inputs; i++) {
    const Value *v = graph_value(g, g->inputs[i]);
    if (!shape_equal(c->in.arrays[i].shape, v->shape))
      return fail(E_SHAPE, "input %zu is %s, the graph's %s", i, SHAPE_STR(c->in.arrays[i].shape), SHAPE_STR(v->shape));
    TRY(array_convert(&c->in.arrays[i], 0, shape_elements(v->shape), v->dtype, c->tensors[g->inputs[i]].data));
  }
  return OK;
}

static Status run_node(const Case *c, const Backend *backend, Stream *stream, const Node *node) {
  Tensor *in, *out;
  void *workspace;
  NodeKernel kernel;
  TRY(ARENA_NEW(c->arena, in, node->n_in));
  TRY(ARENA_NEW(c->arena, out, node->n_out));
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE)
      in[i] = c->tensors[node->in[i]];
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      out[i] = c->tensors[node->out[i]];
  size_t bytes = backend_workspace_bytes(backend, c->graph, node);
  if (posix_memalign(&workspace, 64, bytes + 1))
    return fail(E_MEMORY, "out of memory");
  Status status = backend_prepare(backend, stream, node, in, out, bytes, &kernel);
  if (status == OK)
    status = kernel.run(stream, node, in, out, workspace, kernel.state);
  backend_forget(&kernel);
  free(workspace);
  if (status != OK)
    node_context(node);
  return status;
}

Status case_run(const Case *c, const Backend *backend, Stream *stream, size_t end) {
  for (size_t i = 0; i < end; i++)
    TRY(run_node(c, backend, stream, c->graph->nodes[i]));
  return OK;
}

static Status run_on(Case *c, const Backend *backend) {
  Stream *stream;
  TRY(backend_check(backend, c->graph));
  TRY(case_fill(c));
  TRY(backend->stream_open(0, 1, &stream));
  Status status = case_run(c, backend, stream, c->graph->n_nodes);
  backend->stream_close(stream);
  return status;
}

static void tell(int number, const char *backend, Status status) {
  printf("%d %s %s %s\n", number, backend,
         status == OK              ? "ok"
         : status == E_UNSUPPORTED ? "unsupported"
                                   : "failed",
         status == OK ? "" : status_message());
  fflush(stdout);
}

static void run_case(const char *folder, int number) {
  Case c;
  const Backend *const host[] = {&backend_reference, &backend_cpu};
  Status status = case_open(folder, number, false, &c);
  if (status != OK)
    tell(number, "bind", status);
  for (int i = 0; i < 2 && status == OK; i++) {
    Status ran = run_on(&c, host[i]);
    if (ran == OK)
      ran = write_outputs(&c, arena_format(c.arena, "%s/%d.%s", folder, number, host[i]->name));
    tell(number, host[i]->name, ran);
  }
  case_close(&c);
}

static void run_gradients(const char *folder, int number) {
  Case c;
  const char *what, *why;
  case_gradients(folder, number, &what, &why, &c);
  printf("%d gradients %s %s\n", number, what, why);
  fflush(stdout);
  case_close(&c);
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 5) {
    fprintf(stderr, "usage: conformance FOLDER FIRST STEP [gradients]\n");
    return 2;
  }
  for (int i = atoi(argv[2]);; i += atoi(argv[3])) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.onnx", argv[1], i);
    FILE *f = fopen(path, "rb");
    if (!f)
      return 0;
    fclose(f);
    (argc > 4 ? run_gradients : run_case)(argv[1], i);
  }
}
