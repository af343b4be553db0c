/* The initializers of the main graph. Invariant: names are unique, and every shape and type was checked against the
 * bytes that are there. */
#include <stdlib.h>
#include <string.h>

#include "graph/narrow.h"
#include "onnx/file/internal.h"

/* How large the file is, for the budget of its import. */
static Status measure(Model *model) {
  NameMap known;
  TRY(names_create(model->arena, &known));
  model->data_bytes = model->file_bytes;
  for (int i = 0; i < model->n_initializers; i++) {
    const TensorSource *source = &model->sources[i];
    const Initializer *what = &model->initializers[i];
    model->weight_bytes += (double)shape_elements(what->shape) * (double)dtype_bytes(what->dtype);
    if (!source->external || names_find(&known, source->external) >= 0)
      continue;
    TRY(names_put(&known, source->external, 0));
    TRY(model_note_external(model, source));
    if (__builtin_add_overflow(model->data_bytes, tensor_external_bytes(model, source), &model->data_bytes))
      model->data_bytes = SIZE_MAX / 2;
  }
  return OK;
}

Status model_list_initializers(Model *model) {
  const Onnx__GraphProto *graph = model->proto->graph;
  if (graph->n_sparse_initializer)
    return fail(E_UNSUPPORTED, "sparse initializers are not supported: '%s'%s",
                graph->sparse_initializer[0]->values ? proto_text(graph->sparse_initializer[0]->values->name) : "",
                graph->n_sparse_initializer > 1 ? " and others" : "");
  int in_nodes;
  TRY(count_weights_in_nodes(model, &in_nodes));
  size_t room = graph->n_initializer + (size_t)in_nodes;
  model->n_initializers = (int)graph->n_initializer;
  TRY(ARENA_NEW(model->arena, model->initializers, room));
  TRY(ARENA_NEW(model->arena, model->sources, room));
  TRY(names_create(model->arena, &model->initializer_names));
  for (int i = 0; i < model->n_initializers; i++) {
    const Onnx__TensorProto *proto = graph->initializer[i];
    Initializer *initializer = &model->initializers[i];
    *initializer = (Initializer){.name = proto_text(proto->name), .rule = "not float", .tied_to = -1, .split_from = -1};
    if (!*initializer->name)
      return fail(E_MODEL, "initializer #%d has no name", i);
    if (names_find(&model->initializer_names, initializer->name) >= 0)
      return fail(E_MODEL, "two initializers are called '%s'", initializer->name);
    TRY(names_put(&model->initializer_names, initializer->name, i));
    TRY(tensor_locate(model, proto, model->arena, &model->sources[i]));
    TRY(tensor_describe(proto, &initializer->stored, &initializer->shape));
    initializer->dtype = dtype_computed(initializer->stored);
  }
  TRY(list_weights_in_nodes(model));
  model->n_file_initializers = model->n_initializers;
  return measure(model);
}

const Initializer *model_initializers(const Model *model, int *count) {
  *count = model->n_initializers;
  return model->initializers;
}

int model_find_initializer(const Model *model, const char *name) {
  return names_find(&model->initializer_names, name);
}

size_t initializer_file_bytes(const Model *model, int i) {
  const Initializer *what = &model->initializers[i];
  size_t bytes = (size_t)shape_elements(what->shape) * dtype_bytes(what->stored);
  return what->copies ? (size_t)what->copies * bytes : bytes;
}

Status initializer_read(const Model *model, int initializer, void *data) {
  const Initializer *what = &model->initializers[initializer];
  size_t all = initializer_file_bytes(model, initializer);
  bool as_stored = what->stored == what->dtype;
  if (as_stored && !what->copies)
    return tensor_source_read(model, &model->sources[initializer], data, all);
  void *whole = malloc(all ? all : 1);
  if (!whole)
    return fail(E_MEMORY, "out of memory: %zu bytes", all);
  Status status = tensor_source_read(model, &model->sources[initializer], whole, all);
  int64_t n = shape_elements(what->shape); /* of the copies that the file has, the first */
  if (status == OK && as_stored)
    memcpy(data, whole, (size_t)n * dtype_bytes(what->stored));
  else if (status == OK)
    narrow_read(what->stored, whole, n, data);
  free(whole);
  return status;
}

Status model_read_initializer(const Model *model, int initializer, void *data, size_t bytes) {
  const Initializer *what = &model->initializers[initializer];
  size_t size;
  TRY(shape_bytes(what->shape, what->dtype, &size));
  if (bytes != size)
    return fail(E_SHAPE, "%s: initializer '%s' has %zu bytes, not %zu", model->path, what->name, size, bytes);
  Status status = initializer_read(model, initializer, data);
  if (status != OK)
    status_context("%s: ", model->path);
  return status;
}

const char *const *model_absent(const Model *model, int *count) {
  *count = model->n_absent;
  return model->absent;
}
