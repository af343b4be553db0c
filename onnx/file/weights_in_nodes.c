/* Weights that a file does not keep among its main graph's initializers: those of branches, and, where the main graph
 * has no weights at all (paddle2onnx writes so), the tensors of Constant nodes; and lists of numbers in
 * attributes of linear models (skl2onnx). Invariant: each has a name of its own,
 * that of its value where no other tensor has it. */
#include <string.h>

#include "graph/narrow.h"
#include "onnx/file/internal.h"

enum { MODEL_GRAPH = 7, GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, NODE_ATTRIBUTE = 5 };
enum { ATTRIBUTE_TENSOR = 5, ATTRIBUTE_GRAPH = 6, ATTRIBUTE_GRAPHS = 11 };

typedef struct {
  const Model *model;
  Model *listed; /* NULL while counting */
  bool constants;
  int n;
  NameMap truths; /* of the main graph's constants: 0 or 1 */
  WirePath path;
} Walk;

static bool is_weight(const Onnx__TensorProto *proto) {
  return proto->n_dims > 0 && dtype_is_float(dtype_from_onnx(proto->data_type));
}

static Status enter(Walk *w, uint32_t field, size_t index) {
  if (w->path.n + 2 > PATH_STEPS)
    return fail(E_MODEL, "messages are nested more than %d deep", WIRE_NESTING);
  w->path.steps[w->path.n++] = field;
  w->path.steps[w->path.n++] = (uint32_t)index;
  return OK;
}

static void leave(Walk *w) {
  w->path.n -= 2;
}

/* `holder`: the tensor itself, or the attribute whose numbers it stands for. */
static Status list_tensor(Walk *w, Onnx__TensorProto *proto, const void *holder, const char *name) {
  Model *model = w->listed;
  if (!is_weight(proto))
    return OK;
  w->n++;
  if (!model)
    return OK;
  int i = model->n_initializers;
  Initializer *what = &model->initializers[i];
  *what = (Initializer){.name = name,
                        .rule = "not float",
                        .tied_to = -1,
                        .split_from = -1,
                        .in_node = true,
                        .in_attribute = holder != proto};
  for (int k = 2; what->name && (!*what->name || names_find(&model->initializer_names, what->name) >= 0); k++)
    what->name = arena_format(model->arena, "%s.%d", name, k);
  if (!what->name)
    return status_code();
  TRY(tensor_locate(model, proto, model->arena, &model->sources[i]));
  TRY(tensor_describe(proto, &what->stored, &what->shape));
  what->dtype = dtype_computed(what->stored);
  TRY(names_put(&model->initializer_names, what->name, i));
  TRY(map_put(model->in_nodes, &holder, sizeof holder, (void *)((intptr_t)i + 1)));
  model->n_initializers++;
  return map_put(model->paths, w->path.steps, w->path.n * sizeof *w->path.steps, (void *)((intptr_t)i + 1));
}

static Status walk_graph(Walk *w, const Onnx__GraphProto *graph, bool is_main);

/* Whether a branch is never taken, as far as a constant says. */
static bool is_dead(const Walk *w, const Onnx__NodeProto *node, const Onnx__AttributeProto *attribute) {
  int truth =
      strcmp(proto_text(node->op_type), "If") == 0 && node->n_input ? names_find(&w->truths, node->input[0]) : -1;
  return truth >= 0 && strcmp(proto_text(attribute->name), truth ? "else_branch" : "then_branch") == 0;
}

static Status note_truth(Walk *w, const char *name, const Onnx__TensorProto *proto) {
  bool known =
      proto->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__BOOL && (proto->raw_data.len == 1 || proto->n_int32_data == 1);
  if (!known || !*proto_text(name))
    return OK;
  return names_put(&w->truths, name, proto->raw_data.len ? proto->raw_data.data[0] != 0 : proto->int32_data[0] != 0);
}

static Status note_truths(Walk *w, const Onnx__GraphProto *graph) {
  TRY(names_create(w->model->arena, &w->truths));
  for (size_t i = 0; i < graph->n_initializer; i++)
    TRY(note_truth(w, graph->initializer[i]->name, graph->initializer[i]));
  for (size_t i = 0; i < graph->n_node; i++) {
    const Onnx__NodeProto *node = graph->node[i];
    if (strcmp(proto_text(node->op_type), "Constant") == 0 && node->n_output == 1 && node->n_attribute == 1 &&
        node->attribute[0]->t)
      TRY(note_truth(w, node->output[0], node->attribute[0]->t));
  }
  return OK;
}

/* Whether an attribute holds weights of a linear model. */
static bool holds_weights(const Onnx__NodeProto *node, const Onnx__AttributeProto *attribute) {
  const char *op = proto_text(node->op_type), *name = proto_text(attribute->name);
  return strcmp(proto_domain(node->domain), "ai.onnx.ml") == 0 && attribute->n_floats &&
         (strcmp(op, "LinearRegressor") == 0 || strcmp(op, "LinearClassifier") == 0) &&
         (strcmp(name, "coefficients") == 0 || strcmp(name, "intercepts") == 0);
}

/* Its numbers as a tensor: "NODE.coefficients". */
static Status list_numbers(Walk *w, const Onnx__NodeProto *node, size_t index, Onnx__AttributeProto *attribute) {
  Arena *arena = w->model->arena;
  Onnx__TensorProto *proto;
  const char *label = node->name && *node->name ? node->name : arena_format(arena, "%s_%zu", node->op_type, index);
  const char *name = label ? arena_format(arena, "%s.%s", label, attribute->name) : NULL;
  if (!name)
    return status_code();
  TRY(ARENA_NEW(arena, proto, 1));
  onnx__tensor_proto__init(proto);
  TRY(ARENA_NEW(arena, proto->dims, 1));
  proto->dims[0] = (int64_t)attribute->n_floats;
  proto->n_dims = 1;
  proto->has_data_type = true;
  proto->data_type = ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT;
  proto->float_data = attribute->floats;
  proto->n_float_data = attribute->n_floats;
  proto->name = arena_string(arena, name);
  return proto->name ? list_tensor(w, proto, attribute, name) : status_code();
}

static Status walk_attribute(Walk *w, const Onnx__NodeProto *node, size_t index, Onnx__AttributeProto *attribute) {
  if (holds_weights(node, attribute))
    TRY(list_numbers(w, node, index, attribute));
  if (w->constants && attribute->t && node->n_output == 1 && strcmp(proto_text(node->op_type), "Constant") == 0 &&
      strcmp(proto_text(attribute->name), "value") == 0) {
    TRY(enter(w, ATTRIBUTE_TENSOR, 0));
    TRY(list_tensor(w, attribute->t, attribute->t, node->output[0]));
    leave(w);
  }
  if (attribute->g && !is_dead(w, node, attribute)) {
    TRY(enter(w, ATTRIBUTE_GRAPH, 0));
    TRY(walk_graph(w, attribute->g, false));
    leave(w);
  }
  for (size_t g = 0; g < attribute->n_graphs; g++) {
    TRY(enter(w, ATTRIBUTE_GRAPHS, g));
    TRY(walk_graph(w, attribute->graphs[g], false));
    leave(w);
  }
  return OK;
}

static Status walk_graph(Walk *w, const Onnx__GraphProto *graph, bool is_main) {
  for (size_t i = 0; i < graph->n_node; i++) {
    TRY(enter(w, GRAPH_NODE, i));
    for (size_t a = 0; a < graph->node[i]->n_attribute; a++) {
      TRY(enter(w, NODE_ATTRIBUTE, a));
      TRY(walk_attribute(w, graph->node[i], i, graph->node[i]->attribute[a]));
      leave(w);
    }
    leave(w);
  }
  for (size_t i = 0; i < graph->n_initializer && !is_main; i++) {
    TRY(enter(w, GRAPH_INITIALIZER, i));
    TRY(list_tensor(w, graph->initializer[i], graph->initializer[i], proto_text(graph->initializer[i]->name)));
    leave(w);
  }
  return OK;
}

static Status walk(const Model *model, Model *listed, int *n) {
  const Onnx__GraphProto *graph = model->proto->graph;
  Walk w = {.model = model, .listed = listed, .constants = true};
  for (size_t i = 0; i < graph->n_initializer; i++)
    w.constants &= !is_weight(graph->initializer[i]);
  TRY(note_truths(&w, graph));
  TRY(enter(&w, MODEL_GRAPH, 0));
  TRY(walk_graph(&w, graph, true));
  *n = w.n;
  return OK;
}

Status count_weights_in_nodes(const Model *model, int *n) {
  return walk(model, NULL, n);
}

Status list_weights_in_nodes(Model *model) {
  int n;
  TRY(map_create(model->arena, &model->in_nodes));
  TRY(map_create(model->arena, &model->paths));
  return walk(model, model, &n);
}

int initializer_in_node(const Model *model, const Onnx__TensorProto *proto) {
  return (int)(intptr_t)map_find(model->in_nodes, &proto, sizeof proto) - 1;
}

int initializer_in_attribute(const Model *model, const Onnx__AttributeProto *attribute) {
  return (int)(intptr_t)map_find(model->in_nodes, &attribute, sizeof attribute) - 1;
}

int initializer_at_path(const Model *model, const WirePath *path) {
  return (int)(intptr_t)map_find(model->paths, path->steps, path->n * sizeof *path->steps) - 1;
}
