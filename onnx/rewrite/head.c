/* Another number of classes: the last layer gets new weights. Invariant: what is drawn depends on the seed and the
 * tensor's place alone. */
#include <math.h>
#include <string.h>

#include "onnx/rewrite/rewrite.h"

/* The last layer: its weight, where the classes lie in it, and its bias. */
typedef struct {
  Onnx__NodeProto *node;
  const char *weight, *bias; /* initializers; no bias: NULL */
  int axis;                  /* of the weight */
  int64_t classes, fan_in;
} Head;

static bool passes(const char *op) {
  static const char *const through[] = {"Identity", "Cast",       "Reshape", "Squeeze", "Flatten",
                                        "Softmax",  "LogSoftmax", "Sigmoid", "Dropout", "Unsqueeze"};
  for (size_t i = 0; i < sizeof through / sizeof *through; i++)
    if (strcmp(op, through[i]) == 0)
      return true;
  return false;
}

/* The initializer that an operand is, through a transpose; *swapped is turned where there is one. */
static const char *weight_of(const Rewrite *r, const char *value, bool *swapped) {
  for (int steps = 0; steps < 4; steps++) {
    int i = model_find_initializer(r->model, value);
    if (i >= 0)
      return dtype_is_float(r->model->initializers[i].dtype) ? value : NULL;
    const Onnx__NodeProto *node = rewrite_maker(r, value);
    bool turns = node && strcmp(proto_text(node->op_type), "Transpose") == 0;
    if (!node || !node->n_input || (!turns && strcmp(proto_text(node->op_type), "Identity") != 0))
      return NULL;
    *swapped ^= turns;
    value = node->input[0];
  }
  return NULL;
}

static int64_t int_of(const Onnx__NodeProto *node, const char *name) {
  for (size_t a = 0; a < node->n_attribute; a++)
    if (strcmp(proto_text(node->attribute[a]->name), name) == 0)
      return node->attribute[a]->i;
  return 0;
}

static Status no_head(const Rewrite *r, const Onnx__NodeProto *node) {
  return fail(E_USAGE, "--replace-head: output '%s' comes from %s '%s', no layer whose weight is an initializer",
              r->graph->output[0]->name, node ? proto_text(node->op_type) : "input",
              node ? proto_text(node->name) : "");
}

static Status take_weight(Rewrite *r, Head *head, const Onnx__NodeProto *node, bool swapped, const char *op) {
  head->weight = node->n_input > 1 ? weight_of(r, node->input[1], &swapped) : NULL;
  if (!head->weight)
    return no_head(r, node);
  const Initializer *w = &r->model->initializers[model_find_initializer(r->model, head->weight)];
  bool convolution = strcmp(op, "Conv") == 0;
  if (convolution ? w->shape.rank < 3 : w->shape.rank != 2)
    return fail(E_USAGE, "--replace-head: the weight '%s' of the last layer is %s", w->name, SHAPE_STR(w->shape));
  head->axis = convolution || swapped ? 0 : 1;
  head->classes = w->shape.dim[head->axis];
  head->fan_in = head->classes ? shape_elements(w->shape) / head->classes : 0;
  return OK;
}

/* Back from the first output to the layer that makes it. */
static Status find_head(Rewrite *r, Head *head) {
  Onnx__NodeProto *node = rewrite_maker(r, proto_text(r->graph->output[0]->name));
  for (size_t steps = 0; node && steps <= r->graph->n_node; steps++) {
    const char *op = proto_text(node->op_type);
    if (strcmp(op, "Add") == 0 && node->n_input == 2 && !head->bias) {
      int constant = model_find_initializer(r->model, node->input[0]) >= 0 ? 0 : 1;
      if (model_find_initializer(r->model, node->input[constant]) < 0)
        return no_head(r, node);
      head->bias = node->input[constant];
      node = rewrite_maker(r, node->input[1 - constant]);
    } else if (strcmp(op, "Gemm") == 0 || strcmp(op, "MatMul") == 0 || strcmp(op, "Conv") == 0) {
      head->node = node;
      if (node->n_input > 2 && *node->input[2])
        head->bias = node->input[2];
      return take_weight(r, head, node, strcmp(op, "Gemm") == 0 && int_of(node, "transB"), op);
    } else if (passes(op) && node->n_input) {
      node = rewrite_maker(r, node->input[0]);
    } else {
      return no_head(r, node);
    }
  }
  return no_head(r, NULL);
}

/* As PyTorch draws a Linear's: even between -1/√inputs and 1/√inputs. */
static Status draw(Rewrite *r, const char *name, int axis, int64_t fan_in, uint64_t stream) {
  int i = model_find_initializer(r->model, name);
  const Initializer *what = &r->model->initializers[i];
  Onnx__TensorProto *tensor = rewrite_initializer(r, name);
  Shape shape = what->shape;
  uint64_t state = r->options->seed * 0x9e3779b97f4a7c15u + stream;
  double bound = 1 / sqrt((double)(fan_in > 0 ? fan_in : 1));
  size_t bytes;
  shape.dim[axis] = r->options->classes;
  if (!tensor || (what->dtype != F32 && what->dtype != F64))
    return fail(E_USAGE, "--replace-head: '%s' is %s, not a float32 or float64 initializer", name,
                dtype_name(what->dtype));
  TRY(shape_bytes(shape, what->dtype, &bytes));
  char *data = arena_alloc(r->arena, bytes, 1);
  if (!data)
    return status_code();
  for (int64_t k = 0, n = shape_elements(shape); k < n; k++) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    double number = bound * ((double)((z ^ z >> 31) >> 11) * 0x1p-52 - 1);
    if (what->dtype == F32)
      ((float *)data)[k] = (float)number;
    else
      ((double *)data)[k] = number;
  }
  return rewrite_contents(r, tensor, shape, data, bytes);
}

/* What outputs say of their classes. */
static void set_classes(Rewrite *r, int64_t was) {
  for (size_t i = 0; i < r->graph->n_output; i++) {
    Onnx__TypeProto *type = r->graph->output[i]->type;
    Onnx__TensorShapeProto *shape =
        type && type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE ? type->tensor_type->shape : NULL;
    for (size_t k = 1; shape && k < shape->n_dim; k++)
      if (shape->dim[k]->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE &&
          shape->dim[k]->dim_value == was)
        shape->dim[k]->dim_value = r->options->classes;
  }
}

/* Whether another node reads the initializer: a head that is tied to a table cannot be replaced alone. */
static bool is_shared(const Rewrite *r, const char *name) {
  int n = 0;
  for (size_t i = 0; i < r->graph->n_node; i++)
    for (size_t k = 0; k < r->graph->node[i]->n_input; k++)
      n += strcmp(r->graph->node[i]->input[k], name) == 0;
  return n > 1;
}

Status rewrite_head(Rewrite *r) {
  Head head = {0};
  TRY(find_head(r, &head));
  if (is_shared(r, head.weight))
    return fail(E_USAGE, "--replace-head: other nodes read the weight '%s' of the last layer, too", head.weight);
  TRY(draw(r, head.weight, head.axis, head.fan_in, 1));
  if (head.bias) {
    int b = model_find_initializer(r->model, head.bias);
    Shape shape = b >= 0 ? r->model->initializers[b].shape : (Shape){0};
    int axis = -1;
    for (int k = 0; k < shape.rank; k++)
      axis = shape.dim[k] == head.classes ? k : axis;
    if (axis < 0 || shape_elements(shape) != head.classes || is_shared(r, head.bias))
      return fail(E_USAGE, "--replace-head: the bias '%s' of the last layer is %s, and not its own for %lld classes",
                  head.bias, SHAPE_STR(shape), (long long)head.classes);
    TRY(draw(r, head.bias, axis, head.fan_in, 2));
  }
  set_classes(r, head.classes);
  rewrite_forget_values(r);
  text_add(r->said, "the last layer, %s '%s', has %lld classes in place of %lld: '%s'%s%s%s drawn anew\n",
           head.node->op_type, proto_text(head.node->name), (long long)r->options->classes, (long long)head.classes,
           head.weight, head.bias ? " and '" : "", head.bias ? head.bias : "", head.bias ? "' are" : " is");
  return OK;
}
