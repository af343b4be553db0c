/* What contents tell: masks and fixed tables that would train, weights among the constants. Invariant: contents are
 * looked at where they lie, of tensors up to LARGEST elements, and only where the exporter did not say what they are.
 */
#include <math.h>
#include <string.h>

#include "onnx/remarks/remarks.h"

enum { LARGEST = 1 << 22 };

/* Each missing or short file once, with the first tensor that lies in it. */
static Status look_at_files(Look *look) {
  const Model *model = look->model;
  NameMap known;
  TRY(names_create(look->remarks->arena, &known));
  for (int i = 0; i < model->n_initializers; i++) {
    const TensorSource *source = &model->sources[i];
    TensorView view;
    if (!source->external || names_find(&known, source->external) >= 0)
      continue;
    if (tensor_map(model, source, &view) != OK) {
      TRY(remark(look->remarks, "weights_absent", model->initializers[i].name, status_message()));
      TRY(names_put(&known, source->external, 1));
    }
    tensor_unmap(&view);
  }
  return OK;
}

/* Contents lie in the file at any address. */
static float number_at(const void *contents, int64_t i) {
  float x;
  memcpy(&x, (const char *)contents + (size_t)i * sizeof x, sizeof x);
  return x;
}

/* Zeros and ones, or zeros and what no score stands against: two values, both there. */
static bool is_mask(const void *contents, int64_t n) {
  bool zero = false, other = false;
  float value = 0;
  for (int64_t i = 0; i < n; i++) {
    float x = number_at(contents, i);
    if (x == 0) {
      zero = true;
    } else if (!other) {
      value = x;
      other = true;
    } else if (x != value) {
      return false;
    }
  }
  return zero && other && (value == 1 || value <= -1e4f);
}

/* Rows [n, width]: sines and cosines, of position 0 first: 0 1 0 1 … or 0 … 0 1 … 1, or the other way round. */
static bool is_position_table(const void *contents, int64_t n, int64_t width) {
  if (n < 3 || width < 4 || width % 2)
    return false;
  int64_t zeros = 0, ones = 0;
  for (int64_t i = 0; i < width; i++) {
    zeros += number_at(contents, i) == 0;
    ones += number_at(contents, i) == 1;
  }
  if (zeros != width / 2 || ones != width / 2)
    return false;
  for (int64_t i = 0; i < n; i++) {
    double squares = 0; /* sin² + cos² of each pair is 1 */
    for (int64_t k = 0; k < width; k++) {
      double x = number_at(contents, i * width + k);
      squares += x * x;
    }
    if (fabs(squares - (double)width / 2) > 1e-3 * (double)width)
      return false;
  }
  return true;
}

static Status look_at_contents(Look *look, const Initializer *p, const void *x) {
  int64_t n = shape_elements(p->shape), width = p->shape.dim[p->shape.rank - 1];
  if (p->shape.rank >= 2 && is_mask(x, n))
    TRY(remark(look->remarks, "mask_trains", p->name,
               LOOK_TEXT(look, "%s of two values, as a mask has them, would train: --freeze '%s'", SHAPE_STR(p->shape),
                         p->name)));
  else if (p->shape.rank >= 2 && is_position_table(x, n / width, width))
    TRY(remark(look->remarks, "position_table_trains", p->name,
               LOOK_TEXT(look,
                         "%s of sines and cosines, as a fixed table of positions has them, would train: --freeze '%s'",
                         SHAPE_STR(p->shape), p->name)));
  return OK;
}

static Status look_at_trained(Look *look) {
  const Model *model = look->model;
  for (int i = 0; i < model->n_initializers; i++) {
    const Initializer *p = &model->initializers[i];
    int64_t n = shape_elements(p->shape);
    TensorView view;
    bool told = *p->rule == '1' || *p->rule == '-';
    if (!p->trains || told || p->dtype != F32 || p->shape.rank < 1 || n < 2 || n > LARGEST || p->restored)
      continue;
    if (tensor_map(model, &model->sources[i], &view) != OK)
      continue; /* weights_absent says it */
    Status status = view.data ? look_at_contents(look, p, view.data) : OK;
    tensor_unmap(&view);
    TRY(status);
  }
  return OK;
}

/* Of the main graph; weights_in_nodes.c takes them where the file has no others. */
static Status look_at_constants(Look *look) {
  const Model *model = look->model;
  const Onnx__GraphProto *graph = model->proto->graph;
  for (size_t i = 0; i < graph->n_node; i++) {
    const Onnx__NodeProto *node = graph->node[i];
    const Onnx__TensorProto *tensor = node->n_attribute == 1 ? node->attribute[0]->t : NULL;
    DType dtype;
    Shape shape;
    if (strcmp(proto_text(node->op_type), "Constant") != 0 || !tensor || node->n_output != 1 ||
        initializer_in_node(model, tensor) >= 0 || tensor_describe(tensor, &dtype, &shape) != OK)
      continue;
    if (dtype_is_float(dtype) && shape.rank >= 2 && shape_elements(shape) > 1 &&
        reached(&look->reach, node->output[0]) & REACHES_SLOT)
      TRY(remark(look->remarks, "weights_as_constants", node->output[0],
                 LOOK_TEXT(look,
                           "%s, the weight of a layer, lies in a Constant node beside initializers: it does not train "
                           "(onnxpipe edit --constants-train makes initializers of such)",
                           SHAPE_STR(shape))));
  }
  for (int i = 0; i < model->n_file_initializers; i++) {
    const Initializer *p = &model->initializers[i];
    const char *kind = exported_kind(&look->exported, p->name);
    if (!p->trains && kind && strcmp(kind, "CONSTANT_TENSOR") == 0 && p->shape.rank >= 2 &&
        reached_initializer(model, &look->reach, i) & REACHES_SLOT)
      TRY(remark(look->remarks, "weights_as_constants", p->name,
                 LOOK_TEXT(look,
                           "%s, the weight of a layer, was no parameter in PyTorch: it does not train (--train '%s')",
                           SHAPE_STR(p->shape), p->name)));
  }
  return OK;
}

Status look_at_weights(Look *look) {
  TRY(look_at_files(look));
  TRY(look_at_trained(look));
  return look_at_constants(look);
}
