/* What a file takes and gives. */
#include <string.h>

#include "onnx/remarks/remarks.h"

static Status look_at_inputs(Look *look) {
  const Model *model = look->model;
  if (model->fixed_batch)
    TRY(remark(look->remarks, "fixed_batch", model->n_inputs ? model->inputs[0].name : "",
               LOOK_TEXT(look,
                         "exported with a fixed batch of %lld: microbatches have %lld samples, --batch is a multiple "
                         "(export with a dynamic first axis, or onnxpipe edit --set-batch dynamic)",
                         (long long)model->fixed_batch, (long long)model->fixed_batch)));
  for (int i = 0; i < model->n_inputs; i++)
    for (int k = 0; k < model->inputs[i].rank; k++) {
      const ModelInput *input = &model->inputs[i];
      const char *name = input->dim[k] < 0 && k != input->batch_axis ? input->dim_name[k] : NULL;
      if (name)
        TRY(remark(look->remarks, "open_dimension", input->name,
                   LOOK_TEXT(look, "dimension %d%s%s%s is open: the data or --dim decides", k, *name ? " ('" : "", name,
                             *name ? "')" : "")));
    }
  return OK;
}

static bool only_moves(const char *op) {
  static const char *const movers[] = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"};
  for (size_t i = 0; i < sizeof movers / sizeof *movers; i++)
    if (strcmp(op, movers[i]) == 0)
      return true;
  return false;
}

/* The node of the main graph that makes a value, through those that only move it; NULL: none. */
static const Onnx__NodeProto *maker_of(const Look *look, const char *value) {
  const Onnx__GraphProto *graph = look->model->proto->graph;
  for (size_t steps = 0; steps <= graph->n_node; steps++) {
    int i = names_find(&look->makers, value);
    const Onnx__NodeProto *node = i > 0 ? graph->node[i - 1] : NULL;
    if (!node || !node->n_input || !only_moves(proto_text(node->op_type)))
      return node;
    value = node->input[0];
  }
  return NULL;
}

/* Losses want logits: of probabilities a cross entropy trains, slowly and to something else. */
static Status look_at_outputs(Look *look) {
  const Model *model = look->model;
  for (int i = 0; i < model->n_outputs; i++) {
    const Onnx__NodeProto *node = maker_of(look, model->outputs[i].name);
    const char *op = node ? proto_text(node->op_type) : "";
    if (node && node->n_input && (strcmp(op, "Softmax") == 0 || strcmp(op, "Sigmoid") == 0))
      TRY(remark(look->remarks, "output_is_probability", model->outputs[i].name,
                 LOOK_TEXT(look,
                           "comes from the %s '%s', and --loss %s wants what it reads, '%s' (onnxpipe edit --logits "
                           "makes that the output; --loss mse takes probabilities)",
                           op, look_name(node), strcmp(op, "Softmax") == 0 ? "cross_entropy" : "bce_with_logits",
                           node->input[0])));
  }
  return OK;
}

Status look_at_interface(Look *look) {
  TRY(look_at_inputs(look));
  return look_at_outputs(look);
}
