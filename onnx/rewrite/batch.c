/* Another batch: inputs and outputs say it, and shapes that nodes are told begin with it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "onnx/rewrite/rewrite.h"

typedef struct {
  int64_t from, to; /* samples; to 0: open */
  const char *input;
  const char *rows; /* the value [1] that is the number of samples */
  const char *ends[2];
  bool used; /* somebody reads `rows` */
} Opening;

static void set_dim(Onnx__ValueInfoProto *info, const Opening *b, size_t axis) {
  Onnx__TypeProto *type = info->type;
  Onnx__TensorShapeProto *shape =
      type && type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE ? type->tensor_type->shape : NULL;
  if (!shape || axis >= shape->n_dim)
    return;
  Onnx__TensorShapeProto__Dimension *dim = shape->dim[axis];
  if (b->from ? dim->value_case != ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE || dim->dim_value != b->from
              : dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE)
    return;
  static char open[] = "N";
  dim->value_case = b->to ? ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE
                          : ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
  if (b->to)
    dim->dim_value = b->to;
  else
    dim->dim_param = open;
}

/* Shape(x)[axis : axis + 1], in front of all nodes. */
static Status make_rows(Rewrite *r, Opening *b, int axis) {
  Onnx__NodeProto *node;
  Onnx__TensorProto *tensor;
  int64_t ends[] = {axis, axis + 1};
  const char *names[4] = {rewrite_name(r, "batch_shape"), rewrite_name(r, "batch_from"), rewrite_name(r, "batch_to"),
                          rewrite_name(r, "batch_samples")};
  for (int i = 0; i < 4; i++)
    if (!names[i])
      return status_code();
  for (int i = 0; i < 2; i++)
    TRY(rewrite_tensor(r, names[1 + i], ONNX__TENSOR_PROTO__DATA_TYPE__INT64, (Shape){1, {1}}, &ends[i], 8, &tensor));
  TRY(rewrite_insert(r, 0, "Slice", "batch_slice", names, 3, names[3], &node));
  TRY(rewrite_insert(r, 0, "Shape", "batch_shape", &b->input, 1, names[0], &node));
  b->rows = names[3];
  b->ends[0] = names[1];
  b->ends[1] = names[2];
  return OK;
}

/* Undoes it, where every shape could do without. */
static void drop_rows(Rewrite *r, const Opening *b) {
  size_t kept = 0;
  r->graph->node += 2;
  r->graph->n_node -= 2;
  for (size_t i = 0; i < r->graph->n_initializer; i++) {
    Onnx__TensorProto *tensor = r->graph->initializer[i];
    if (strcmp(proto_text(tensor->name), b->ends[0]) != 0 && strcmp(proto_text(tensor->name), b->ends[1]) != 0)
      r->graph->initializer[kept++] = tensor;
  }
  r->graph->n_initializer = kept;
}

/* The known int64 contents of an operand, of an initializer or a Constant node; NULL where there are none. */
static Status known_shape(Rewrite *r, const char *value, const int64_t **shape, int *n) {
  const Onnx__NodeProto *maker = rewrite_maker(r, value);
  const Onnx__TensorProto *tensor = rewrite_initializer(r, value);
  DType dtype;
  Shape s;
  const void *data;
  *shape = NULL;
  if (maker && strcmp(proto_text(maker->op_type), "Constant") == 0 && maker->n_attribute == 1)
    tensor = maker->attribute[0]->t;
  if (!tensor || tensor->data_type != ONNX__TENSOR_PROTO__DATA_TYPE__INT64 || tensor->n_dims != 1)
    return OK;
  TRY(tensor_read(r->model, tensor, r->arena, &dtype, &s, &data));
  *shape = data;
  *n = (int)s.dim[0];
  return OK;
}

/* A Reshape or Expand to [N, …], or a ConstantOfShape of it, gets the number of samples from the input. */
static Status open_shape(Rewrite *r, Opening *b, size_t *at, int input, int *changed) {
  Onnx__NodeProto *node = r->graph->node[*at], *concat;
  Onnx__TensorProto *tensor;
  const int64_t *shape;
  int n, open = -1;
  TRY(known_shape(r, node->input[input], &shape, &n));
  if (!shape || n < 1 || shape[0] < b->from || shape[0] % b->from)
    return OK;
  for (int i = 0; i < n; i++)
    open = shape[i] == -1 ? i : open;
  bool merged = shape[0] != b->from;
  if (merged && open >= 0)
    return OK; /* [k N, -1]: a number of its own */
  const char *name = rewrite_name(r, arena_format(r->arena, "%s_open", node->input[input]));
  int64_t *rest = arena_copy(r->arena, shape, (size_t)n * sizeof *rest);
  if (!name || !rest)
    return status_code();
  rest[0] = -1;
  ++*changed;
  text_add(r->said, "node '%s' (%s): the %lld in front of its shape is taken for the batch\n", proto_text(node->name),
           node->op_type, (long long)shape[0]);
  if (open < 0 && strcmp(proto_text(node->op_type), "Reshape") == 0) {
    TRY(rewrite_tensor(r, name, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, (Shape){1, {n}}, rest, (size_t)n * 8, &tensor));
    return (node->input[input] = arena_string(r->arena, name)) ? OK : status_code();
  }
  if (merged)
    return fail(E_UNSUPPORTED, "node '%s' (%s) makes a shape that begins with %lld, %lld times the batch",
                proto_text(node->name), node->op_type, (long long)shape[0], (long long)(shape[0] / b->from));
  const char *tail = rewrite_name(r, arena_format(r->arena, "%s_rest", node->input[input]));
  if (!tail)
    return status_code();
  TRY(rewrite_tensor(r, tail, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, (Shape){1, {n - 1}}, rest + 1, (size_t)(n - 1) * 8,
                     &tensor));
  TRY(rewrite_insert(r, *at, "Concat", name, (const char *[]){b->rows, tail}, 2, name, &concat));
  ++*at;
  b->used = true;
  TRY(ARENA_NEW(r->arena, concat->attribute, 1));
  TRY(ARENA_NEW(r->arena, concat->attribute[0], 1));
  onnx__attribute_proto__init(concat->attribute[0]);
  concat->attribute[0]->has_type = concat->attribute[0]->has_i = true;
  concat->attribute[0]->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
  concat->attribute[0]->name = arena_string(r->arena, "axis");
  concat->n_attribute = 1;
  node = r->graph->node[*at];
  node->input[input] = arena_string(r->arena, name);
  return concat->attribute[0]->name && node->input[input] ? OK : status_code();
}

static Status open_shapes(Rewrite *r, Opening *b, int *changed) {
  for (size_t i = 0; i < r->graph->n_node; i++) {
    const Onnx__NodeProto *node = r->graph->node[i];
    const char *op = proto_text(node->op_type);
    bool reshapes = strcmp(op, "Reshape") == 0 && node->n_input == 2 && !rewrite_initializer(r, node->input[0]);
    bool expands = strcmp(op, "Expand") == 0 && node->n_input == 2;
    bool fills = strcmp(op, "ConstantOfShape") == 0 && node->n_input == 1;
    if (reshapes || expands || fills)
      TRY(open_shape(r, b, &i, fills ? 0 : 1, changed));
  }
  return OK;
}

static Status read_batch(const char *text, int64_t *to) {
  char *end;
  *to = 0;
  if (strcmp(text, "dynamic") == 0)
    return OK;
  errno = 0;
  *to = strtoll(text, &end, 10);
  return errno || *end || !*text || *to < 1 || *to > INT32_MAX
             ? fail(E_USAGE, "--set-batch takes `dynamic` or a number of samples, not '%s'", text)
             : OK;
}

Status rewrite_batch(Rewrite *r) {
  const Model *model = r->model;
  Opening b = {.from = model->fixed_batch};
  int axis = -1, changed = 0;
  TRY(read_batch(r->options->set_batch, &b.to));
  for (int i = model->n_inputs - 1; i >= 0; i--)
    if (model->inputs[i].batch_axis >= 0) {
      b.input = model->inputs[i].name;
      axis = model->inputs[i].batch_axis;
    }
  if (axis < 0)
    return fail(E_USAGE, "--set-batch: no input counts samples");
  if (!b.from && !b.to)
    return fail(E_USAGE, "--set-batch dynamic: the batch is open already");
  for (int i = 0; i < model->n_inputs; i++)
    for (size_t k = 0; k < r->graph->n_input && model->inputs[i].batch_axis >= 0; k++)
      if (strcmp(proto_text(r->graph->input[k]->name), model->inputs[i].name) == 0)
        set_dim(r->graph->input[k], &b, (size_t)model->inputs[i].batch_axis);
  for (size_t i = 0; i < r->graph->n_output; i++)
    set_dim(r->graph->output[i], &b, 0);
  rewrite_forget_values(r);
  if (b.from) {
    TRY(make_rows(r, &b, axis));
    TRY(open_shapes(r, &b, &changed));
    if (!b.used)
      drop_rows(r, &b);
  }
  text_add(r->said, "the batch of %lld is %s; %d shape%s inside follow%s it\n", (long long)b.from,
           b.to ? r->options->set_batch : "open", changed, changed == 1 ? "" : "s", changed == 1 ? "s" : "");
  return OK;
}
