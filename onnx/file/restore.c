/* What the exporter dropped: a bias of zeros. Invariant: a bias comes back only where the node's own call has it as an
 * argument, the node reads none, and no other tensor is it. */
#include "onnx/file/separate.h"

#include <string.h>

enum { MOST_ARGUMENTS = 16, BIAS = 2 };

/* Operators that lose a bias, the calls that have one, and how long it is. */
static const struct {
  const char *op, *calls;
} losers[] = {
    {"Gemm", "linear addmm"},
    {"Conv", "conv1d conv2d conv3d convolution"},
    {"ConvTranspose", "conv_transpose1d conv_transpose2d conv_transpose3d convolution"},
    {"LayerNormalization", "layer_norm native_layer_norm"},
};

static bool loses_bias(const Onnx__NodeProto *node) {
  if (node->n_input < BIAS || (node->n_input > BIAS && *node->input[BIAS]))
    return false;
  for (size_t i = 0; i < sizeof losers / sizeof *losers; i++)
    if (strcmp(losers[i].op, node->op_type) == 0)
      return !exported_is_call(node) || exported_calls(node, losers[i].calls);
  return false;
}

static const Onnx__AttributeProto *attribute(const Onnx__NodeProto *node, const char *name) {
  for (size_t a = 0; a < node->n_attribute; a++)
    if (strcmp(proto_text(node->attribute[a]->name), name) == 0)
      return node->attribute[a];
  return NULL;
}

/* From the weight beside it; false where that does not say. */
static bool bias_shape(const Onnx__NodeProto *node, Shape weight, Shape *shape) {
  const Onnx__AttributeProto *turned = attribute(node, "transB"), *group = attribute(node, "group"),
                             *beta = attribute(node, "beta");
  int64_t n = 0;
  if (strcmp(node->op_type, "LayerNormalization") == 0) {
    *shape = weight;
    return true;
  }
  if (strcmp(node->op_type, "Gemm") == 0 && weight.rank == 2 && (!beta || beta->f == 1))
    n = weight.dim[turned && turned->i ? 0 : 1];
  else if (strcmp(node->op_type, "Conv") == 0 && weight.rank >= 2)
    n = weight.dim[0];
  else if (strcmp(node->op_type, "ConvTranspose") == 0 && weight.rank >= 2)
    n = weight.dim[1];
  if (group && group->i > 1 && strcmp(node->op_type, "ConvTranspose") == 0 && __builtin_mul_overflow(n, group->i, &n))
    return false;
  *shape = shape_of(1, &n);
  return n > 0;
}

/* Whether some node reads the PARAMETER's tensor, or one that was folded from it. */
static bool is_used(const Separation *s, int p) {
  const Model *model = s->edit.model;
  return s->folded[p] || (s->holder[p] >= 0 && edit_uses(&s->edit, model->initializers[s->holder[p]].name)->live > 0);
}

/* The one that a node lacks: of those without a use the only one, or the one that is called so. */
static int lost_bias(const Separation *s, const int *candidates, int n) {
  int found = -1, count = 0;
  for (int i = 0; i < n; i++)
    if ((!is_used(s, candidates[i]) || s->restored[candidates[i]]) && candidates[i] != found) {
      bool is_bias = strstr(s->exported->names[candidates[i]], "bias");
      if (!count++ || is_bias)
        found = candidates[i];
    }
  return found;
}

static Status restore_at(Separation *s, int n) {
  Model *model = s->edit.model;
  const Onnx__NodeProto *node = model->file_nodes[n];
  int candidates[MOST_ARGUMENTS], count, weight;
  Shape shape;
  if (!loses_bias(node) || (weight = model_find_initializer(model, node->input[1])) < 0 ||
      !bias_shape(node, model->initializers[weight].shape, &shape))
    return OK;
  TRY(separate_candidates(s, node, candidates, MOST_ARGUMENTS, &count));
  int p = lost_bias(s, candidates, count);
  if (p < 0)
    return OK;
  if (s->holder[p] < 0) {
    TRY(edit_restore(&s->edit, s->exported->names[p], shape, weight, &s->holder[p]));
  } else if (!shape_equal(model->initializers[s->holder[p]].shape, shape)) {
    return OK;
  }
  s->restored[p] = true;
  return edit_append(&s->edit, (Use){n, BIAS}, s->holder[p]);
}

Status restore_dropped(Separation *s) {
  for (size_t n = 0; n < s->edit.model->n_file_nodes; n++)
    TRY(restore_at(s, (int)n));
  return OK;
}

/* A node of the module `transformer.wte` that reads the weight `lm_head.weight` tells that transformer.wte.weight is
 * the same tensor under another name: such names go into `names`. */
static Status list_other_names(Separation *s, const Onnx__NodeProto *node, NameMap *names) {
  int candidates[MOST_ARGUMENTS], n = exported_arguments(s->exported, node, candidates, MOST_ARGUMENTS);
  const char *module;
  TRY(exported_module(s->exported, node, &module));
  for (int i = 0; i < n && module; i++) {
    const char *name = s->exported->names[candidates[i]], *dot = strrchr(name, '.');
    const char *other = arena_format(s->edit.arena, "%s.%s", module, dot ? dot + 1 : name);
    TRY(other ? names_put(names, other, 1) : status_code());
    TRY(names_put(&s->called, name, 1));
  }
  return OK;
}

Status list_absent(Separation *s) {
  Model *model = s->edit.model;
  NameMap names;
  TRY(names_create(s->edit.arena, &names));
  TRY(ARENA_NEW(model->arena, model->absent, s->exported->n));
  for (size_t n = 0; n < model->n_file_nodes; n++)
    TRY(list_other_names(s, model->file_nodes[n], &names));
  for (int p = 0; p < s->exported->n; p++) {
    const char *name = s->exported->names[p];
    bool is_called = names_find(&s->called, name) >= 0;
    bool is_here = s->holder[p] >= 0 || s->folded[p] || (!is_called && names_find(&names, name) >= 0);
    if (!is_here && !(model->absent[model->n_absent++] = arena_string(model->arena, name)))
      return status_code();
  }
  return OK;
}
