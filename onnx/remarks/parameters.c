/* What became of parameters: merged, dropped, written twice, folded, or under a name that tells nothing. */
#include <ctype.h>
#include <string.h>

#include "onnx/remarks/remarks.h"

static Status look_at_copies(Look *look) {
  const Model *model = look->model;
  for (int i = 0; i < model->n_initializers; i++) {
    const Initializer *p = &model->initializers[i];
    if (p->tied_to >= 0)
      TRY(remark(look->remarks, "tied", p->name,
                 LOOK_TEXT(look, "the same parameter as '%s'%s, which the exporter wrote twice (--no-tie)",
                           model->initializers[p->tied_to].name, p->tied_transposed ? " transposed" : "")));
    if (p->split_from >= 0)
      TRY(remark(look->remarks, "split", p->name,
                 LOOK_TEXT(look, "a tensor of its own again: the exporter had merged it into '%s', its equal",
                           model->initializers[p->split_from].name)));
    if (p->restored)
      TRY(remark(look->remarks, "restored", p->name, "zeros that the exporter had dropped, a parameter again"));
  }
  if (model->ties_unknown)
    TRY(remark(look->remarks, "ties_unknown", "",
               "ties: unknown, weights of tensors that may be one parameter cannot be read"));
  return OK;
}

static Status look_at_rows(Look *look) {
  const Model *model = look->model;
  for (int i = 0; i < model->n_frozen_rows; i++)
    TRY(remark(look->remarks, "frozen_row", model->initializers[model->frozen_rows[i].initializer].name,
               LOOK_TEXT(look, "row %lld stays as it is (--freeze-row)", (long long)model->frozen_rows[i].row)));
  for (size_t n = 0; n < model->n_file_nodes; n++) {
    const Onnx__NodeProto *node = model->file_nodes[n];
    int64_t row;
    if (strcmp(proto_text(node->op_type), "Gather") == 0 && node->n_input && exported_padding(node, &row))
      TRY(remark(look->remarks, "padding_row", node->input[0],
                 LOOK_TEXT(look, "row %lld gets no gradient through node '%s' (padding_idx)", (long long)row,
                           proto_text(node->name))));
  }
  return OK;
}

static Status look_at_absent(Look *look) {
  for (int i = 0; i < look->model->n_absent; i++)
    TRY(remark(
        look->remarks, "parameter_absent", look->model->absent[i],
        "the exporter lists this parameter, but no node has it: it was dropped or folded for good, is unused, or "
        "is a tied tensor's other name"));
  return OK;
}

/* The dynamo exporter names a value after the call that made it: add_1, embedding, _to_copy_3. */
static bool is_called(const char *name, const char *const *calls) {
  size_t length = strlen(name);
  while (length && isdigit((unsigned char)name[length - 1]))
    length--;
  if (length && name[length - 1] == '_' && name[length])
    length--;
  else
    length = strlen(name);
  for (; *calls; calls++)
    if (strlen(*calls) == length && strncmp(name, *calls, length) == 0)
      return true;
  return false;
}

/* A parameter that the exporter computed with: of 1 + w the sum trains, and decay pulls it to 0, not to 1. */
static Status look_at_folded(Look *look) {
  static const char *const arithmetic[] = {"add",     "sub", "rsub",  "mul",     "div",   "pow",        "exp",
                                           "log",     "neg", "abs",   "sigmoid", "tanh",  "softplus",   "clamp",
                                           "softmax", "cat", "sqrt",  "rsqrt",   "outer", "reciprocal", "matmul",
                                           "mm",      "bmm", "where", NULL};
  static const char *const lookups[] = {"embedding", "index", "index_select", "gather", "select", "slice", NULL};
  for (int i = 0; i < look->model->n_file_initializers; i++) {
    const Initializer *p = &look->model->initializers[i];
    if (!p->trains || strcmp(p->rule, "1f") != 0)
      continue;
    if (is_called(p->name, arithmetic))
      TRY(remark(
          look->remarks, "folded_with_constant", p->name,
          "the exporter computed this from a parameter and constants, as 1 + weight: it trains in that form, and "
          "weight decay pulls it elsewhere (export with optimize=False; where it is weight + C, onnxpipe edit "
          "--unfold NAME=C)"));
    if (is_called(p->name, lookups))
      TRY(remark(look->remarks, "folded_lookup", p->name,
                 "the exporter looked these rows up in a learned table: they train, the rest of the table is gone "
                 "(export with optimize=False)"));
  }
  return OK;
}

/* Rule 3: what is only added or multiplied trains under a given name alone. */
static Status look_at_unnamed(Look *look) {
  const Model *model = look->model;
  for (int i = 0; i < model->n_file_initializers; i++) {
    const Initializer *p = &model->initializers[i];
    bool folded = strncmp(p->name, "onnx::", 6) == 0 && dtype_is_float(p->dtype) && !p->trains &&
                  strcmp(p->rule, "3") == 0 && p->shape.rank > 0 && shape_elements(p->shape) > 1;
    if (folded && reached_initializer(model, &look->reach, i) & REACHES_ELEMENTWISE)
      TRY(remark(
          look->remarks, "unnamed_tensor", p->name,
          LOOK_TEXT(look,
                    "%s, computed by the exporter, under a name that does not tell from what: it does not train. "
                    "If a parameter is in it, as 1 + weight: --train '%s', or export with "
                    "do_constant_folding=False",
                    SHAPE_STR(p->shape), p->name)));
  }
  return OK;
}

static Status look_at_trained(Look *look) {
  const Model *model = look->model;
  int floats = 0;
  for (int i = 0; i < model->n_initializers; i++) {
    if (model->initializers[i].trains)
      return OK;
    floats += dtype_is_float(model->initializers[i].dtype) && model->initializers[i].shape.rank > 0;
  }
  return remark(
      look->remarks, "nothing_trains", "",
      LOOK_TEXT(look, "no tensor trains; the file has %d of floats: --train 'GLOB' names those that should", floats));
}

Status look_at_parameters(Look *look) {
  TRY(look_at_copies(look));
  TRY(look_at_rows(look));
  TRY(look_at_absent(look));
  TRY(look_at_folded(look));
  TRY(look_at_unnamed(look));
  TRY(look_at_trained(look));
  for (int i = 0; i < look->model->n_initializers; i++)
    if (!look->model->initializers[i].in_node && names_find(&look->used, look->model->initializers[i].name) < 0)
      TRY(remark(look->remarks, "unused_initializer", look->model->initializers[i].name, "no node reads it"));
  return OK;
}
