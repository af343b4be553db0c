/* Dropout, sums that were folded, weights in constants, probabilities. */
#include <fnmatch.h>
#include <math.h>
#include <string.h>

#include "onnx/file/exported.h"
#include "onnx/file/reach.h"
#include "onnx/rewrite/rewrite.h"

static const char *node_name(const Onnx__NodeProto *node) {
  return proto_text(*proto_text(node->name) ? node->name : node->n_output ? node->output[0] : "");
}

/* ---- Dropout ---- */

/* The new node writes the value that others read; what makes it writes another. */
static Status drop_after(Rewrite *r, size_t at, double ratio) {
  enum { AS_INPUTS = 12 }; /* the opset from which ratio and mode are inputs */
  Onnx__NodeProto *node = r->graph->node[at], *dropout;
  const char *was = node->output[0], *before = rewrite_name(r, arena_format(r->arena, "%s_kept", was));
  const char *ratio_name = rewrite_name(r, arena_format(r->arena, "%s_ratio", was));
  const char *mode_name = rewrite_name(r, arena_format(r->arena, "%s_training", was));
  const char *name = arena_format(r->arena, "%s_dropout", node_name(node));
  float number = (float)ratio;
  uint8_t yes = 1;
  Onnx__TensorProto *tensor;
  if (!before || !ratio_name || !mode_name || !name)
    return status_code();
  node->output[0] = (char *)before;
  if (r->model->opset >= AS_INPUTS) {
    TRY(rewrite_insert(r, at + 1, "Dropout", name, (const char *[]){before, ratio_name, mode_name}, 3, was, &dropout));
    TRY(rewrite_tensor(r, ratio_name, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, (Shape){0}, &number, 4, &tensor));
    TRY(rewrite_tensor(r, mode_name, ONNX__TENSOR_PROTO__DATA_TYPE__BOOL, (Shape){0}, &yes, 1, &tensor));
  } else {
    TRY(rewrite_insert(r, at + 1, "Dropout", name, &before, 1, was, &dropout));
    TRY(ARENA_NEW(r->arena, dropout->attribute, 1));
    TRY(ARENA_NEW(r->arena, dropout->attribute[0], 1));
    Onnx__AttributeProto *a = dropout->attribute[0];
    onnx__attribute_proto__init(a);
    if (!(a->name = arena_string(r->arena, "ratio")))
      return status_code();
    a->has_type = a->has_f = true;
    a->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
    a->f = number;
    dropout->n_attribute = 1;
  }
  text_add(r->said, "Dropout of %g behind node '%s'\n", ratio, node_name(node));
  return OK;
}

static bool matches(const char *glob, const Onnx__NodeProto *node) {
  return node->n_output && *node->output[0] && strcmp(proto_text(node->op_type), "Constant") != 0 &&
         (fnmatch(glob, node_name(node), 0) == 0 || fnmatch(glob, node->output[0], 0) == 0);
}

Status rewrite_dropout(Rewrite *r) {
  for (int k = 0; k < r->options->n_dropout; k++) {
    const char *glob;
    double ratio;
    int n = 0;
    TRY(rewrite_assignment(r, "dropout", r->options->dropout[k], &glob, &ratio));
    if (!(ratio > 0 && ratio < 1))
      return fail(E_USAGE, "--dropout '%s': a ratio lies between 0 and 1", r->options->dropout[k]);
    for (size_t i = r->graph->n_node; i-- > 0;)
      if (matches(glob, r->graph->node[i])) {
        TRY(drop_after(r, i, ratio));
        n++;
      }
    if (!n)
      return fail(E_USAGE, "--dropout '%s' matches no node", glob);
  }
  return OK;
}

/* ---- sums that were folded ---- */

/* The parameter's own name where the exporter tells it; else one that rules take for a given one. */
static Status parameter_name(Rewrite *r, const char *tensor, const char **name) {
  Exported exported;
  bool folded;
  int n, parameter;
  TRY(exported_read(r->model, r->arena, &exported));
  TRY(exported_sources(&exported, tensor, &folded, &n, &parameter));
  const char *plain = strrchr(tensor, ':');
  *name = n == 1 ? exported.names[parameter] : arena_format(r->arena, "%s.weight", plain ? plain + 1 : tensor);
  *name = *name ? rewrite_name(r, *name) : NULL;
  return *name ? OK : status_code();
}

static Status subtract(Rewrite *r, int initializer, double number, void *data, size_t bytes) {
  const Initializer *what = &r->model->initializers[initializer];
  TRY(model_read_initializer(r->model, initializer, data, bytes));
  for (int64_t i = 0, n = shape_elements(what->shape); i < n; i++) {
    if (what->dtype == F32)
      ((float *)data)[i] -= (float)number;
    else
      ((double *)data)[i] -= number;
  }
  return OK;
}

static Status unfold(Rewrite *r, const char *tensor, double number) {
  int i = model_find_initializer(r->model, tensor);
  Onnx__TensorProto *folded = rewrite_initializer(r, tensor), *scalar;
  const char *name, *constant;
  Onnx__NodeProto *sum;
  size_t bytes;
  void *data;
  if (i < 0 || !folded)
    return fail(E_USAGE, "--unfold '%s' names no initializer", tensor);
  const Initializer *what = &r->model->initializers[i];
  if (what->dtype != F32 && what->dtype != F64)
    return fail(E_USAGE, "--unfold '%s': it is %s, not float32 or float64", tensor, dtype_name(what->dtype));
  TRY(shape_bytes(what->shape, what->dtype, &bytes));
  if (!(data = arena_alloc(r->arena, bytes, 1)))
    return status_code();
  TRY(subtract(r, i, number, data, bytes));
  TRY(parameter_name(r, tensor, &name));
  if (!(constant = rewrite_name(r, arena_format(r->arena, "%s_constant", tensor))))
    return status_code();
  float narrow = (float)number;
  TRY(rewrite_tensor(r, constant, folded->data_type, (Shape){0}, what->dtype == F32 ? (void *)&narrow : (void *)&number,
                     dtype_bytes(what->dtype), &scalar));
  if (!(folded->name = arena_string(r->arena, name)))
    return status_code();
  TRY(rewrite_contents(r, folded, what->shape, data, bytes));
  TRY(rewrite_insert(r, 0, "Add", arena_format(r->arena, "%s_add", name), (const char *[]){name, constant}, 2, tensor,
                     &sum));
  text_add(r->said, "'%s' is the parameter '%s' plus %g\n", tensor, name, number);
  return OK;
}

Status rewrite_unfold(Rewrite *r) {
  for (int k = 0; k < r->options->n_unfold; k++) {
    const char *tensor;
    double number;
    TRY(rewrite_assignment(r, "unfold", r->options->unfold[k], &tensor, &number));
    if (!isfinite(number))
      return fail(E_USAGE, "--unfold '%s': %g is no number to subtract", tensor, number);
    TRY(unfold(r, tensor, number));
  }
  return OK;
}

/* ---- weights in constants ---- */

Status rewrite_constants(Rewrite *r) {
  Reach reach;
  int n = 0;
  size_t kept = 0;
  TRY(reach_find(r->model, r->arena, &reach));
  for (size_t i = 0; i < r->graph->n_node; i++) {
    Onnx__NodeProto *node = r->graph->node[i];
    const Onnx__TensorProto *tensor = node->n_attribute == 1 ? node->attribute[0]->t : NULL;
    bool weight = strcmp(proto_text(node->op_type), "Constant") == 0 && tensor && node->n_output == 1 &&
                  tensor->n_dims > 0 && dtype_is_float(dtype_from_onnx(tensor->data_type)) &&
                  reached(&reach, node->output[0]) & REACHES_SLOT;
    if (!weight) {
      r->graph->node[kept++] = node;
      continue;
    }
    Onnx__TensorProto **list;
    TRY(ARENA_NEW(r->arena, list, r->graph->n_initializer + 1));
    if (r->graph->n_initializer)
      memcpy(list, r->graph->initializer, r->graph->n_initializer * sizeof *list);
    node->attribute[0]->t->name = node->output[0];
    list[r->graph->n_initializer++] = node->attribute[0]->t;
    r->graph->initializer = list;
    n++;
  }
  r->graph->n_node = kept;
  text_add(r->said, "%d weight%s of Constant nodes %s initializers\n", n, n == 1 ? "" : "s", n == 1 ? "is" : "are");
  return n ? OK : fail(E_USAGE, "--constants-train: no Constant node holds the weight of a layer");
}

/* ---- probabilities ---- */

static bool only_moves(const Onnx__NodeProto *node) {
  static const char *const movers[] = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"};
  for (size_t i = 0; i < sizeof movers / sizeof *movers; i++)
    if (strcmp(proto_text(node->op_type), movers[i]) == 0)
      return node->n_input > 0;
  return false;
}

Status rewrite_logits(Rewrite *r) {
  int n = 0;
  for (size_t i = 0; i < r->graph->n_output; i++) {
    Onnx__NodeProto *node = rewrite_maker(r, proto_text(r->graph->output[i]->name));
    for (size_t steps = 0; node && only_moves(node) && steps < r->graph->n_node; steps++)
      node = rewrite_maker(r, node->input[0]);
    if (!node || node->n_input != 1 ||
        (strcmp(proto_text(node->op_type), "Softmax") != 0 && strcmp(proto_text(node->op_type), "Sigmoid") != 0))
      continue;
    text_add(r->said, "output '%s' is what the %s '%s' read\n", r->graph->output[i]->name, node->op_type,
             node_name(node));
    if (!(node->op_type = arena_string(r->arena, "Identity")))
      return status_code();
    node->n_attribute = 0;
    n++;
  }
  return n ? OK : fail(E_USAGE, "--logits: no output comes from a Softmax or a Sigmoid");
}
