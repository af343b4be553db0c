/* What a file holds and what becomes of it, as JSON. Invariant: it reports what opening and binding decide, and
 * decides nothing itself. */
#include <stdlib.h>
#include <string.h>

#include "graph/loss.h"
#include "graph/op.h"
#include "onnx/lower/lower.h"
#include "onnx/model.h"
#include "onnx/remarks/remarks.h"

typedef struct {
  Model *model;
  Arena *arena;
  json_t *report, *operators, *coupled;
  Remarks remarks;
  bool path_is_named; /* in the message of a failure */
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

static Status list_ends(json_t *report, const char *key, const ModelInput *ends, int n) {
  json_t *list = json_array();
  TRY(set(report, key, list));
  for (int i = 0; i < n; i++) {
    json_t *shape = ends[i].rank < 0 ? json_null() : json_array();
    for (int k = 0; k < ends[i].rank && shape; k++) {
      const char *name = ends[i].dim_name[k];
      shape = with(shape, !name ? json_integer(ends[i].dim[k]) : *name ? json_string(name) : json_null());
    }
    TRY(append(list, json_pack("{s:s, s:s, s:o, s:i}", "name", ends[i].name, "dtype", dtype_name(ends[i].stored),
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
    json_t *entry = json_pack("{s:s, s:s, s:o, s:I, s:b, s:s, s:s?}", "name", p->name, "dtype", dtype_name(p->stored),
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

/* BatchNormalization mixes samples in training, however the file was exported. */
static Status look_at_norm(Report *r, const Onnx__NodeProto *node) {
  return append(r->coupled, json_pack("{s:s, s:s}", "node", look_name(node), "operator", node->op_type));
}

static Status count_nodes(Report *r, Onnx__NodeProto *const *nodes, size_t n);

static Status count_nodes(Report *r, Onnx__NodeProto *const *nodes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const Onnx__NodeProto *node = nodes[i];
    const char *domain = proto_domain(node->domain);
    const char *op = *domain ? arena_format(r->arena, "%s::%s", domain, node->op_type) : node->op_type;
    if (!op)
      return status_code();
    TRY(set(r->operators, op, json_integer(json_integer_value(json_object_get(r->operators, op)) + 1)));
    if (!*domain && strcmp(op, "BatchNormalization") == 0)
      TRY(look_at_norm(r, node));
    for (size_t a = 0; a < node->n_attribute; a++) {
      const Onnx__AttributeProto *attribute = node->attribute[a];
      if (attribute->g)
        TRY(count_nodes(r, attribute->g->node, attribute->g->n_node));
      for (size_t g = 0; g < attribute->n_graphs; g++)
        TRY(count_nodes(r, attribute->graphs[g]->node, attribute->graphs[g]->n_node));
    }
  }
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

/* What passes made one node of, and how often. */
static Status list_passes(Report *r, const Graph *graph) {
  json_t *passes = json_object();
  TRY(set(r->report, "passes", passes));
  for (size_t i = 0; i < graph->n_passes; i++)
    TRY(set(passes, graph->passes[i].name, json_integer(graph->passes[i].times)));
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
  if (status == OK) {
    TRY(list_passes(r, graph));
    return list_coupled(r, graph);
  }
  if (status == E_USAGE)
    return OK;
  r->path_is_named = status == E_MEMORY || status == E_LIMIT;
  if (r->path_is_named)
    return status;
  return remark(&r->remarks, "does_not_bind", "", status_message());
}

/* What mixes samples is a finding, too. */
static Status list_findings(Report *r) {
  json_t *list = json_array(), *coupled;
  size_t i;
  json_array_foreach(r->coupled, i, coupled)
      TRY(remark(&r->remarks, "mixes_samples", json_string_value(json_object_get(coupled, "node")),
                 "samples of a microbatch meet here: the loss is exact with --microbatches 1, see docs/training.md"));
  TRY(set(r->report, "findings", list));
  for (size_t k = 0; k < r->remarks.n; k++) {
    const Remark *remark = &r->remarks.list[k];
    TRY(append(list, json_pack("{s:s, s:s, s:s, s:b}", "id", remark->id, "tensor", remark->tensor, "text", remark->text,
                               "wrong", remark->wrong)));
  }
  return OK;
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
  TRY(count_nodes(r, proto->graph->node, proto->graph->n_node));
  for (size_t i = 0; i < proto->n_functions; i++)
    TRY(count_nodes(r, proto->functions[i]->node, proto->functions[i]->n_node));
  TRY(remarks_find(model, &r->remarks));
  if (json_array_size(unsupported) == 0 && options && options->evaluate)
    TRY(try_binding(r, options));
  return list_findings(r);
}

Status model_inspect(Model *model, const BindOptions *options, json_t **report) {
  Report r = {.model = model, .arena = arena_create(), .report = json_object()};
  r.remarks.arena = r.arena;
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

Status model_doubts(Model *model, Arena *arena, const char **line) {
  Remarks remarks = {.arena = arena};
  Status status = remarks_find(model, &remarks);
  *line = NULL;
  for (size_t i = 0; i < remarks.n && status == OK; i++) {
    size_t more = 0;
    bool told = !remarks.list[i].wrong;
    for (size_t k = 0; k < remarks.n; k++) {
      bool alike = strcmp(remarks.list[k].id, remarks.list[i].id) == 0;
      told |= alike && k < i;
      more += alike && k > i;
    }
    if (told)
      continue;
    const char *before = *line ? *line : "", *id = remarks.list[i].id, *tensor = remarks.list[i].tensor;
    *line = more ? arena_format(arena, "%s%s%s (%s and %zu more)", before, *before ? ", " : "", id, tensor, more)
                 : arena_format(arena, "%s%s%s (%s)", before, *before ? ", " : "", id, tensor);
    status = *line ? OK : status_code();
  }
  if (status != OK)
    status_context("%s: ", model->path);
  return status;
}
