/* Pieces of a graph: nodes, tensors, names. Everything lives in the arena. */
#include <stdlib.h>
#include <string.h>

#include "onnx/rewrite/rewrite.h"

const char *rewrite_name(Rewrite *r, const char *base) {
  const char *name = arena_string(r->arena, base);
  for (int i = 2; name && names_find(&r->taken, name) >= 0; i++)
    name = arena_format(r->arena, "%s_%d", base, i);
  return name && names_put(&r->taken, name, 1) == OK ? name : NULL;
}

/* An array of pointers with one more place at `at`. */
static Status widen(Arena *arena, void *array, size_t *n, size_t at) {
  void ***list = array, **wider;
  TRY(ARENA_NEW(arena, wider, *n + 1));
  for (size_t i = 0; i < *n; i++)
    wider[i < at ? i : i + 1] = (*list)[i];
  *list = wider;
  ++*n;
  return OK;
}

Status rewrite_insert(Rewrite *r, size_t at, const char *op, const char *name, const char *const *inputs,
                      size_t n_inputs, const char *output, Onnx__NodeProto **node) {
  TRY(ARENA_NEW(r->arena, *node, 1));
  Onnx__NodeProto *n = *node;
  onnx__node_proto__init(n);
  TRY(ARENA_NEW(r->arena, n->input, n_inputs));
  TRY(ARENA_NEW(r->arena, n->output, 1));
  n->op_type = arena_string(r->arena, op);
  n->name = (char *)rewrite_name(r, name);
  n->output[0] = arena_string(r->arena, output);
  n->n_input = n_inputs;
  n->n_output = 1;
  if (!n->op_type || !n->name || !n->output[0])
    return status_code();
  for (size_t i = 0; i < n_inputs; i++)
    if (!(n->input[i] = arena_string(r->arena, inputs[i])))
      return status_code();
  TRY(widen(r->arena, &r->graph->node, &r->graph->n_node, at));
  r->graph->node[at] = n;
  return OK;
}

Status rewrite_contents(Rewrite *r, Onnx__TensorProto *tensor, Shape shape, const void *data, size_t bytes) {
  Onnx__TensorProto fresh = ONNX__TENSOR_PROTO__INIT;
  fresh.name = tensor->name;
  fresh.has_data_type = true;
  fresh.data_type = tensor->data_type;
  fresh.has_raw_data = true;
  fresh.raw_data.len = bytes;
  fresh.n_dims = (size_t)shape.rank;
  TRY(ARENA_NEW(r->arena, fresh.dims, shape.rank));
  if (!(fresh.raw_data.data = arena_copy(r->arena, data, bytes)))
    return status_code();
  memcpy(fresh.dims, shape.dim, (size_t)shape.rank * sizeof *shape.dim);
  *tensor = fresh;
  return OK;
}

Status rewrite_tensor(Rewrite *r, const char *name, int32_t onnx_type, Shape shape, const void *data, size_t bytes,
                      Onnx__TensorProto **tensor) {
  TRY(ARENA_NEW(r->arena, *tensor, 1));
  onnx__tensor_proto__init(*tensor);
  if (!((*tensor)->name = arena_string(r->arena, name)))
    return status_code();
  (*tensor)->data_type = onnx_type;
  TRY(rewrite_contents(r, *tensor, shape, data, bytes));
  TRY(widen(r->arena, &r->graph->initializer, &r->graph->n_initializer, r->graph->n_initializer));
  r->graph->initializer[r->graph->n_initializer - 1] = *tensor;
  return OK;
}

Onnx__TensorProto *rewrite_initializer(const Rewrite *r, const char *name) {
  for (size_t i = 0; i < r->graph->n_initializer; i++)
    if (strcmp(proto_text(r->graph->initializer[i]->name), name) == 0)
      return r->graph->initializer[i];
  return NULL;
}

Onnx__NodeProto *rewrite_maker(const Rewrite *r, const char *value) {
  for (size_t i = 0; i < r->graph->n_node; i++)
    for (size_t k = 0; k < r->graph->node[i]->n_output && *value; k++)
      if (strcmp(r->graph->node[i]->output[k], value) == 0)
        return r->graph->node[i];
  return NULL;
}

Status rewrite_assignment(Rewrite *r, const char *flag, const char *text, const char **name, double *number) {
  const char *equals = strrchr(text, '=');
  char *end = NULL;
  if (equals)
    *number = strtod(equals + 1, &end);
  if (!equals || equals == text || !equals[1] || *end)
    return fail(E_USAGE, "--%s '%s' is not of the form NAME=NUMBER", flag, text);
  *name = arena_format(r->arena, "%.*s", (int)(equals - text), text);
  return *name ? OK : status_code();
}

void rewrite_forget_values(Rewrite *r) {
  size_t kept = 0;
  for (size_t i = 0; i < r->graph->n_value_info; i++) {
    Onnx__ValueInfoProto *info = r->graph->value_info[i];
    if (rewrite_initializer(r, proto_text(info->name)))
      r->graph->value_info[kept++] = info;
  }
  r->graph->n_value_info = kept;
}
