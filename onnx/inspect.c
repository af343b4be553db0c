/* What a file holds and what becomes of it, as JSON. Invariant: it reports what opening and binding decide, and
 * decides nothing itself. */
#include <stdlib.h>
#include <string.h>

#include "graph/loss.h"
#include "graph/op.h"
#include "onnx/file/exported.h"
#include "onnx/lower/lower.h"
#include "onnx/model.h"

typedef struct {
  Model *model;
  Arena *arena;
  json_t *report, *operators, *coupled, *findings;
  NameMap used;               /* names that nodes read, anywhere in the graph, and outputs */
  const char *inference_norm; /* the first BatchNormalization that uses its stored statistics */
  bool path_is_named;         /* in the message of a failure */
} Report;

/* Fails where jansson has no memory; takes over `value`. */
static Status set(json_t *object, const char *key, json_t *value) {
  return json_object_set_new(object, key, value) == 0 ? OK : fail(E_MEMORY, "out of memory");
}

static Status append(json_t *array, json_t *value) {
  return json_array_append_new(array, value) == 0 ? OK : fail(E_MEMORY, "out of memory");
}

/* NULL where memory is out for it or for `item`, which it takes over. */
static json_t *with(json_t *array, json_t *item) {
  if (array && json_array_append_new(array, item) == 0)
    return array;
  json_decref(array ? array : item);
  return NULL;
}

static Status find(Report *r, const char *id, const char *tensor, const char *text) {
  if (!text)
    return status_code();
  return append(r->findings, json_pack("{s:s, s:s, s:s}", "id", id, "tensor", tensor, "text", text));
}

static Status list_ends(json_t *report, const char *key, const ModelInput *ends, int n) {
  json_t *list = json_array();
  TRY(set(report, key, list));
  for (int i = 0; i < n; i++) {
    json_t *shape = ends[i].rank < 0 ? json_null() : json_array();
    for (int k = 0; k < ends[i].rank && shape; k++) {
      const char *name = ends[i].dim_name[k];
      shape = with(shape, !name ? json_integer(ends[i].dim[k]) : *name ? json_string(name) : json_null());
    }
    TRY(append(list, json_pack("{s:s, s:s, s:o, s:i}", "name", ends[i].name, "dtype", dtype_name(ends[i].dtype),
                               "shape", shape, "batch_axis", ends[i].batch_axis)));
  }
  return OK;
}

static Status list_parameters(Report *r) {
  const Model *model = r->model;
  json_t *list = json_array();
  int64_t tensors = 0, elements = 0;
  TRY(set(r->report, "parameters", list));
  for (int i = 0; i < model->n_initializers; i++) {
    const Initializer *p = &model->initializers[i];
    if (!dtype_is_float(p->dtype))
      continue;
    json_t *shape = json_array();
    for (int k = 0; k < p->shape.rank && shape; k++)
      shape = with(shape, json_integer(p->shape.dim[k]));
    json_t *entry = json_pack("{s:s, s:s, s:o, s:I, s:b, s:s, s:s?}", "name", p->name, "dtype", dtype_name(p->dtype),
                              "shape", shape, "elements", (json_int_t)shape_elements(p->shape), "trains", p->trains,
                              "rule", p->rule, "tied_to", p->tied_to < 0 ? NULL : model->initializers[p->tied_to].name);
    TRY(append(list, entry));
    if (p->tied_to >= 0)
      TRY(set(entry, "tied_transposed", json_boolean(p->tied_transposed)));
    if (p->split_from >= 0)
      TRY(set(entry, "split_from", json_string(model->initializers[p->split_from].name)));
    if (p->restored)
      TRY(set(entry, "restored", json_true()));
    if (p->trains && p->tied_to < 0) {
      tensors++;
      elements += shape_elements(p->shape);
    }
  }
  TRY(set(r->report, "trained_tensors", json_integer(tensors)));
  return set(r->report, "trained_elements", json_integer(elements));
}

static int64_t int_attribute(const Onnx__NodeProto *node, const char *name) {
  for (size_t a = 0; a < node->n_attribute; a++)
    if (strcmp(proto_text(node->attribute[a]->name), name) == 0)
      return node->attribute[a]->i;
  return 0;
}

/* BatchNormalization mixes samples in training mode: by its attribute, before opset 14 by having more outputs. */
static Status look_at_norm(Report *r, const Onnx__NodeProto *node) {
  size_t outputs = 0;
  for (size_t k = 0; k < node->n_output; k++)
    outputs += *node->output[k] != '\0';
  const char *name = proto_text(*proto_text(node->name) ? node->name : node->n_output ? node->output[0] : "");
  if (r->model->opset >= 14 ? int_attribute(node, "training_mode") == 1 : outputs > 1)
    return append(r->coupled, json_pack("{s:s, s:s}", "node", name, "operator", node->op_type));
  if (!r->inference_norm)
    r->inference_norm = name;
  return OK;
}

/* A bias-free Conv3d that torch's dynamo exporter wrote without optimizing: its zero bias has shape [C,2]. */
static Status look_at_conv(Report *r, const Onnx__NodeProto *node) {
  int bias = node->n_input > 2 ? model_find_initializer(r->model, node->input[2]) : -1;
  if (bias < 0 || r->model->initializers[bias].shape.rank == 1)
    return OK;
  const Initializer *b = &r->model->initializers[bias];
  return find(r, "invalid_conv_bias", b->name,
              arena_format(r->arena,
                           "the bias of Conv '%s' has shape %s, a bias has one dimension: the file is invalid%s",
                           proto_text(node->name), SHAPE_STR(b->shape),
                           b->shape.rank == 2 && b->shape.dim[1] == 2
                               ? " (torch's dynamo exporter with optimize=False writes this for a Conv3d without bias: "
                                 "export with optimize=True, or give the layer a bias)"
                               : ""));
}

static Status look_at_nodes(Report *r, Onnx__NodeProto *const *nodes, size_t n);

static Status look_at_graph(Report *r, const Onnx__GraphProto *graph) {
  for (size_t i = 0; i < graph->n_output; i++)
    TRY(names_put(&r->used, proto_text(graph->output[i]->name), 1));
  return look_at_nodes(r, graph->node, graph->n_node);
}

static Status look_at_nodes(Report *r, Onnx__NodeProto *const *nodes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const Onnx__NodeProto *node = nodes[i];
    const char *domain = proto_domain(node->domain);
    const char *op = *domain ? arena_format(r->arena, "%s::%s", domain, node->op_type) : node->op_type;
    if (!op)
      return status_code();
    TRY(set(r->operators, op, json_integer(json_integer_value(json_object_get(r->operators, op)) + 1)));
    for (size_t k = 0; k < node->n_input; k++)
      TRY(names_put(&r->used, node->input[k], 1));
    if (!*domain && strcmp(op, "BatchNormalization") == 0)
      TRY(look_at_norm(r, node));
    if (!*domain && strcmp(op, "Conv") == 0)
      TRY(look_at_conv(r, node));
    for (size_t a = 0; a < node->n_attribute; a++) {
      const Onnx__AttributeProto *attribute = node->attribute[a];
      if (attribute->g)
        TRY(look_at_graph(r, attribute->g));
      for (size_t g = 0; g < attribute->n_graphs; g++)
        TRY(look_at_graph(r, attribute->graphs[g]));
    }
  }
  return OK;
}

/* What became of tensors that the exporter merged, dropped or wrote twice. */
static Status look_at_parameters(Report *r) {
  const Model *model = r->model;
  for (int i = 0; i < model->n_initializers; i++) {
    const Initializer *p = &model->initializers[i];
    if (p->tied_to >= 0)
      TRY(find(r, "tied", p->name,
               arena_format(r->arena, "the same parameter as '%s'%s, which the exporter wrote twice (--no-tie)",
                            model->initializers[p->tied_to].name, p->tied_transposed ? " transposed" : "")));
    if (p->split_from >= 0)
      TRY(find(r, "split", p->name,
               arena_format(r->arena, "a tensor of its own again: the exporter had merged it into '%s', its equal",
                            model->initializers[p->split_from].name)));
    if (p->restored)
      TRY(find(r, "restored", p->name, "zeros that the exporter had dropped, a parameter again"));
  }
  for (int i = 0; i < model->n_frozen_rows; i++)
    TRY(find(r, "frozen_row", model->initializers[model->frozen_rows[i].initializer].name,
             arena_format(r->arena, "row %lld stays as it is (--freeze-row)", (long long)model->frozen_rows[i].row)));
  for (int i = 0; i < model->n_absent; i++)
    TRY(find(
        r, "parameter_absent", model->absent[i],
        "the exporter lists this parameter, but no node has it: it was dropped or folded for good, is unused, or is a "
        "tied tensor's other name"));
  for (size_t n = 0; n < model->n_file_nodes; n++) {
    const Onnx__NodeProto *node = model->file_nodes[n];
    int64_t row;
    if (strcmp(proto_text(node->op_type), "Gather") == 0 && node->n_input && exported_padding(node, &row))
      TRY(find(r, "padding_row", node->input[0],
               arena_format(r->arena, "row %lld gets no gradient through node '%s' (padding_idx)", (long long)row,
                            proto_text(node->name))));
  }
  return OK;
}

/* Each missing or short file once, with the first tensor that lies in it. */
static Status look_at_weights(Report *r) {
  const Model *model = r->model;
  NameMap known;
  TRY(names_create(r->arena, &known));
  for (int i = 0; i < model->n_initializers; i++) {
    const TensorSource *source = &model->sources[i];
    TensorView view;
    if (!source->external || names_find(&known, source->external) >= 0)
      continue;
    if (tensor_map(model, source, &view) != OK) {
      TRY(find(r, "weights_absent", model->initializers[i].name, arena_string(r->arena, status_message())));
      TRY(names_put(&known, source->external, 1));
    }
    tensor_unmap(&view);
  }
  return OK;
}

static Status look_at_interface(Report *r) {
  const Model *model = r->model;
  if (model->fixed_batch)
    TRY(find(r, "fixed_batch", model->n_inputs ? model->inputs[0].name : "",
             arena_format(r->arena,
                          "exported with a fixed batch of %lld: microbatches have %lld samples, --batch is a multiple",
                          (long long)model->fixed_batch, (long long)model->fixed_batch)));
  for (int i = 0; i < model->n_inputs; i++)
    for (int k = 0; k < model->inputs[i].rank; k++)
      if (model->inputs[i].dim[k] < 0 && k != model->inputs[i].batch_axis)
        TRY(find(r, "open_dimension", model->inputs[i].name,
                 arena_format(r->arena, "dimension %d%s%s%s is open: the data or --dim decides", k,
                              *model->inputs[i].dim_name[k] ? " ('" : "", model->inputs[i].dim_name[k],
                              *model->inputs[i].dim_name[k] ? "')" : "")));
  if (r->inference_norm)
    TRY(find(r, "batch_normalization_inference", r->inference_norm,
             "batch normalisation with stored statistics: exported for inference, the statistics stay as they are"));
  if (model->ties_unknown)
    TRY(find(r, "ties_unknown", "", "ties: unknown, weights of tensors that may be one parameter cannot be read"));
  for (int i = 0; i < model->n_initializers; i++)
    if (!model->initializers[i].in_node && names_find(&r->used, model->initializers[i].name) < 0)
      TRY(find(r, "unused_initializer", model->initializers[i].name, "no node reads it"));
  return OK;
}

/* The nodes that lead to outputs which are neither sample by sample nor, as a loss, a mean over samples. */
static Status mark_coupled(Graph *graph, Arena *arena, bool **marked) {
  size_t n_nodes = graph->n_nodes;
  bool *values;
  TRY(ARENA_NEW(arena, *marked, n_nodes));
  TRY(ARENA_NEW(arena, values, graph->n_values));
  for (size_t i = 0; i < graph->n_outputs; i++) {
    const Value *v = graph_value(graph, graph->outputs[i]);
    LossSpec spec = {.kind = LOSS_MODEL, .output = graph->outputs[i], .microbatches = 1};
    if (v->batch.kind != BATCH_MIXED)
      continue;
    if (dtype_is_float(v->dtype) && shape_elements(v->shape) == 1)
      TRY(loss_append(graph, &spec));
    else
      spec.coupled = v->batch.by;
    values[graph->outputs[i]] = spec.coupled != NULL;
  }
  for (size_t i = n_nodes; i-- > 0;) {
    const Node *node = graph->nodes[i];
    for (int k = 0; k < node->n_out; k++)
      (*marked)[i] |= node->out[k] != NO_VALUE && values[node->out[k]];
    for (int k = 0; k < node->n_in && (*marked)[i]; k++)
      if (node->in[k] != NO_VALUE)
        values[node->in[k]] = true;
  }
  return OK;
}

/* Where samples meet first: nodes with a mixed output and no mixed input that a node makes. */
static Status list_coupled(Report *r, Graph *graph) {
  const char *last = "";
  size_t n_nodes = graph->n_nodes;
  bool *marked;
  TRY(mark_coupled(graph, r->arena, &marked));
  for (size_t i = 0; i < n_nodes; i++) {
    const Node *node = graph->nodes[i];
    bool meets = marked[i] && node->n_out && node->out[0] != NO_VALUE &&
                 graph_value(graph, node->out[0])->batch.kind == BATCH_MIXED;
    for (int k = 0; k < node->n_in && meets; k++)
      meets = node->in[k] == NO_VALUE || graph_value(graph, node->in[k])->producer == NO_NODE ||
              graph_value(graph, node->in[k])->batch.kind != BATCH_MIXED;
    if (!meets || strcmp(last, node->name) == 0)
      continue;
    last = node->name;
    TRY(append(r->coupled, json_pack("{s:s, s:s, s:s}", "node", node->name, "operator", op_def(node->op)->name,
                                     "reason", graph_value(graph, node->out[0])->batch.by)));
  }
  return OK;
}

/* Binds once, with few samples: what fails there would fail any run. Dimensions that only the data knows are no fault
 * of the file. */
static Status try_binding(Report *r, const BindOptions *options) {
  BindOptions bind = *options;
  Graph *graph;
  if (!bind.batch)
    bind.batch = r->model->fixed_batch ? r->model->fixed_batch : 2;
  Status status = model_bind(r->model, &bind, r->arena, &graph);
  if (status == OK)
    return list_coupled(r, graph);
  if (status == E_USAGE)
    return OK;
  r->path_is_named = status == E_MEMORY || status == E_LIMIT;
  if (r->path_is_named)
    return status;
  return find(r, "does_not_bind", "", arena_string(r->arena, status_message()));
}

static Status fill(Report *r, const BindOptions *options) {
  Model *model = r->model;
  const Onnx__ModelProto *proto = model->proto;
  json_t *unsupported;
  TRY(set(r->report, "ir_version", json_integer(proto->ir_version)));
  TRY(set(r->report, "opset", json_integer(model->opset)));
  TRY(set(r->report, "producer", json_string(proto_text(proto->producer_name))));
  TRY(set(r->report, "hash", json_string(model->hash)));
  TRY(set(r->report, "fixed_batch", model->fixed_batch ? json_integer(model->fixed_batch) : json_null()));
  TRY(list_ends(r->report, "inputs", model->inputs, model->n_inputs));
  TRY(list_ends(r->report, "outputs", model->outputs, model->n_outputs));
  TRY(set(r->report, "operators", r->operators = json_object()));
  TRY(set(r->report, "unsupported", unsupported = json_array()));
  TRY(model_unsupported(model, unsupported));
  TRY(list_parameters(r));
  TRY(set(r->report, "batch_coupled", r->coupled = json_array()));
  TRY(set(r->report, "findings", r->findings = json_array()));
  TRY(names_create(r->arena, &r->used));
  TRY(look_at_graph(r, proto->graph));
  for (size_t i = 0; i < proto->n_functions; i++)
    TRY(look_at_nodes(r, proto->functions[i]->node, proto->functions[i]->n_node));
  TRY(look_at_interface(r));
  TRY(look_at_parameters(r));
  TRY(look_at_weights(r));
  return json_array_size(unsupported) || !options || !options->evaluate ? OK : try_binding(r, options);
}

Status model_inspect(Model *model, const BindOptions *options, json_t **report) {
  Report r = {.model = model, .arena = arena_create(), .report = json_object()};
  Status status = !r.arena ? status_code() : r.report ? fill(&r, options) : fail(E_MEMORY, "out of memory");
  arena_destroy(r.arena);
  if (status != OK) {
    json_decref(r.report);
    r.report = NULL;
    if (!r.path_is_named)
      status_context("%s: ", model->path);
  }
  *report = r.report;
  return status;
}
