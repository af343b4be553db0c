/* What nodes tell: normalisation folded or at rest, Dropout gone, weights that became integers. */
#include <string.h>
#include <strings.h>

#include "onnx/remarks/remarks.h"

typedef struct {
  Look *look;
  const char *inference_norm; /* the first BatchNormalization that uses its stored statistics */
  const char *integers;       /* the first DequantizeLinear's weight, and how many there are */
  int n_integers, n_dropouts;
  const char *dropped; /* the first name that tells of a Dropout */
} Nodes;

static bool is_inference_norm(const Look *look, const Onnx__NodeProto *node) {
  size_t outputs = 0;
  for (size_t k = 0; k < node->n_output; k++)
    outputs += *node->output[k] != '\0';
  return look->model->opset >= 14 ? look_int(node, "training_mode") != 1 : outputs <= 1;
}

/* A bias-free Conv3d that torch's dynamo exporter wrote without optimizing: its zero bias has shape [C,2]. */
static Status look_at_bias(Look *look, const Onnx__NodeProto *node) {
  int bias = node->n_input > 2 ? model_find_initializer(look->model, node->input[2]) : -1;
  if (bias < 0 || look->model->initializers[bias].shape.rank == 1)
    return OK;
  const Initializer *b = &look->model->initializers[bias];
  return remark(look->remarks, "invalid_conv_bias", b->name,
                LOOK_TEXT(look, "the bias of Conv '%s' has shape %s, a bias has one dimension: the file is invalid%s",
                          proto_text(node->name), SHAPE_STR(b->shape),
                          b->shape.rank == 2 && b->shape.dim[1] == 2
                              ? " (torch's dynamo exporter with optimize=False writes this for a Conv3d without bias: "
                                "export with optimize=True, or give the layer a bias)"
                              : ""));
}

/* TorchScript renames what it folds, "onnx::Conv_33"; the dynamo exporter leaves the call of the normalisation at what
 * became of it. */
static Status look_at_folded_norm(Look *look, const Onnx__NodeProto *node) {
  static const char how[] = "export in training mode (torch.onnx.export(model.train(), …, dynamo=False, "
                            "training=TrainingMode.TRAINING, do_constant_folding=False), or dynamo=True with "
                            "optimize=False)";
  const char *weight = node->n_input > 1 ? node->input[1] : "", *bias = node->n_input > 2 ? node->input[2] : "";
  bool renamed = strncmp(weight, "onnx::Conv", 10) == 0 && strncmp(bias, "onnx::Conv", 10) == 0;
  if (!renamed && !exported_calls(node, "_native_batch_norm_legit_no_training batch_norm native_batch_norm "
                                        "_batch_norm_no_update _native_batch_norm_legit cudnn_batch_norm"))
    return OK;
  return remark(look->remarks, "batch_normalization_folded", weight,
                LOOK_TEXT(look,
                          "a batch normalisation is folded into the weights of %s '%s': they train as a plain "
                          "layer's, without it; %s",
                          node->op_type, look_name(node), how));
}

static bool tells_of_dropout(const char *name) {
  return strcasestr(name, "dropout") || strcasestr(name, "/drop");
}

static void note_dropout(Nodes *n, const Onnx__NodeProto *node) {
  const char *scopes = proto_property(node->metadata_props, node->n_metadata_props, "pkg.torch.onnx.name_scopes");
  n->n_dropouts += strcmp(proto_text(node->op_type), "Dropout") == 0;
  if (!n->dropped && (tells_of_dropout(proto_text(node->name)) || (scopes && tells_of_dropout(scopes))))
    n->dropped = look_name(node);
}

static void note_integers(Nodes *n, const Onnx__NodeProto *node) {
  int i = node->n_input ? model_find_initializer(n->look->model, node->input[0]) : -1;
  if (i < 0 || dtype_is_float(n->look->model->initializers[i].dtype) || n->look->model->initializers[i].shape.rank < 2)
    return;
  if (!n->integers)
    n->integers = node->input[0];
  n->n_integers++;
}

static Status look_at_list(Nodes *n, Onnx__NodeProto *const *nodes, size_t count);

static Status look_at_node(Nodes *n, const Onnx__NodeProto *node) {
  const char *op = *proto_domain(node->domain) ? "" : proto_text(node->op_type);
  note_dropout(n, node);
  if (strcmp(op, "BatchNormalization") == 0 && !n->inference_norm && is_inference_norm(n->look, node))
    n->inference_norm = look_name(node);
  if (strcmp(op, "Conv") == 0)
    TRY(look_at_bias(n->look, node));
  if (strcmp(op, "Conv") == 0 || strcmp(op, "ConvTranspose") == 0 || strcmp(op, "Gemm") == 0)
    TRY(look_at_folded_norm(n->look, node));
  if (strcmp(op, "DequantizeLinear") == 0)
    note_integers(n, node);
  for (size_t a = 0; a < node->n_attribute; a++) {
    const Onnx__AttributeProto *attribute = node->attribute[a];
    if (attribute->g)
      TRY(look_at_list(n, attribute->g->node, attribute->g->n_node));
    for (size_t g = 0; g < attribute->n_graphs; g++)
      TRY(look_at_list(n, attribute->graphs[g]->node, attribute->graphs[g]->n_node));
  }
  return OK;
}

static Status look_at_list(Nodes *n, Onnx__NodeProto *const *nodes, size_t count) {
  for (size_t i = 0; i < count; i++)
    TRY(look_at_node(n, nodes[i]));
  return OK;
}

static Status look_at_dropout(const Nodes *n) {
  if (n->n_dropouts)
    return OK;
  if (n->dropped)
    return remark(n->look->remarks, "dropout_absent", n->dropped,
                  "its name tells of a Dropout, which the exporter left out: export in training mode, or put it back "
                  "(onnxpipe edit --dropout NODE=RATIO)");
  return remark(
      n->look->remarks, "dropout_absent", "",
      "the file has no Dropout: exporters leave it out of a model in evaluation mode. If yours has it, export "
      "in training mode, or put it back (onnxpipe edit --dropout NODE=RATIO)");
}

Status look_at_nodes(Look *look) {
  const Onnx__ModelProto *proto = look->model->proto;
  Nodes n = {.look = look};
  TRY(look_at_list(&n, proto->graph->node, proto->graph->n_node));
  for (size_t i = 0; i < proto->n_functions; i++)
    TRY(look_at_list(&n, proto->functions[i]->node, proto->functions[i]->n_node));
  if (n.inference_norm)
    TRY(remark(
        look->remarks, "batch_normalization_inference", n.inference_norm,
        "batch normalisation was exported for inference: `train` takes a microbatch's statistics all the same, and "
        "keeps running ones (--eval-mode: those of the file, as they are)"));
  if (n.integers)
    TRY(remark(look->remarks, "integer_weights", n.integers,
               LOOK_TEXT(look,
                         "%d weight%s stored as integers, which do not train: export the model before it is "
                         "quantised",
                         n.n_integers, n.n_integers == 1 ? " is" : "s are")));
  return look_at_dropout(&n);
}
