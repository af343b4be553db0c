/* The table of findings, and their collection. */
#include "onnx/remarks/remarks.h"

#include <string.h>

/* Explained in docs/findings.md (tests/house/test_findings.sh compares). */
static const struct {
  const char *id;
  bool wrong;
} table[] = {
    {"fixed_batch", false},
    {"open_dimension", false},
    {"unused_initializer", false},
    {"does_not_bind", true},
    {"mixes_samples", false},
    {"invalid_conv_bias", true},
    {"batch_normalization_inference", false},
    {"batch_normalization_folded", true},
    {"dropout_absent", false},
    {"output_is_probability", true},
    {"integer_weights", true},
    {"tied", false},
    {"ties_unknown", false},
    {"split", false},
    {"restored", false},
    {"frozen_row", false},
    {"padding_row", false},
    {"parameter_absent", false},
    {"folded_with_constant", true},
    {"folded_lookup", true},
    {"unnamed_tensor", true},
    {"nothing_trains", true},
    {"mask_trains", true},
    {"position_table_trains", true},
    {"weights_as_constants", true},
    {"weights_absent", false},
};

Status remark(Remarks *remarks, const char *id, const char *tensor, const char *text) {
  size_t i = 0;
  while (strcmp(table[i].id, id) != 0)
    i++;
  TRY(ARENA_RESERVE(remarks->arena, remarks->list, remarks->n, remarks->capacity, remarks->n + 1));
  Remark *r = &remarks->list[remarks->n];
  *r = (Remark){.id = id, .tensor = arena_string(remarks->arena, tensor), .wrong = table[i].wrong};
  r->text = text ? arena_string(remarks->arena, text) : NULL;
  if (!r->tensor || !r->text)
    return status_code();
  remarks->n++;
  return OK;
}

int64_t look_int(const Onnx__NodeProto *node, const char *name) {
  for (size_t a = 0; a < node->n_attribute; a++)
    if (strcmp(proto_text(node->attribute[a]->name), name) == 0)
      return node->attribute[a]->i;
  return 0;
}

const char *look_name(const Onnx__NodeProto *node) {
  return proto_text(*proto_text(node->name) ? node->name : node->n_output ? node->output[0] : "");
}

static Status note_uses(Look *look, const Onnx__GraphProto *graph) {
  for (size_t i = 0; i < graph->n_output; i++)
    TRY(names_put(&look->used, proto_text(graph->output[i]->name), 1));
  for (size_t i = 0; i < graph->n_node; i++) {
    const Onnx__NodeProto *node = graph->node[i];
    for (size_t k = 0; k < node->n_input; k++)
      TRY(names_put(&look->used, node->input[k], 1));
    for (size_t a = 0; a < node->n_attribute; a++) {
      if (node->attribute[a]->g)
        TRY(note_uses(look, node->attribute[a]->g));
      for (size_t g = 0; g < node->attribute[a]->n_graphs; g++)
        TRY(note_uses(look, node->attribute[a]->graphs[g]));
    }
  }
  return OK;
}

Status remarks_find(Model *model, Remarks *remarks) {
  const Onnx__GraphProto *graph = model->proto->graph;
  Look look = {.model = model, .remarks = remarks};
  TRY(exported_read(model, remarks->arena, &look.exported));
  TRY(reach_find(model, remarks->arena, &look.reach));
  TRY(names_create(remarks->arena, &look.used));
  TRY(names_create(remarks->arena, &look.makers));
  TRY(note_uses(&look, graph));
  for (size_t i = 0; i < graph->n_node; i++)
    for (size_t k = 0; k < graph->node[i]->n_output; k++)
      TRY(names_put(&look.makers, graph->node[i]->output[k], (int)i + 1));
  TRY(look_at_interface(&look));
  TRY(look_at_nodes(&look));
  TRY(look_at_parameters(&look));
  return look_at_weights(&look);
}
