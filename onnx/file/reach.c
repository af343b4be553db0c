/* What each value of a file reaches: weight slots, arithmetic, statistics. Invariant: nodes are walked from the last to
 * the first, so that what a node's outputs reach is known when its inputs ask; functions and bodies are walked where
 * they are called. */
#include "onnx/file/reach.h"

#include <string.h>

#include "graph/op.h"

#define INPUT(i) (1u << (i))
#define ANY_INPUT (~0u)

typedef struct {
  const char *op;
  unsigned slots;       /* inputs that are weights */
  int kind;             /* of slot: REACHES_TABLE, REACHES_PRODUCT */
  unsigned statistics;  /* inputs that never train */
  unsigned through;     /* inputs whose elements the output has */
  unsigned elementwise; /* operands of elementwise arithmetic */
  unsigned scales;      /* inputs that scale and shift the first: what is normalised is still what it was */
  unsigned settings;    /* inputs that are numbers of the operator's own, whatever lies behind it */
} Uses;

static const Uses uses[] = {
    {.op = "MatMul", .slots = ANY_INPUT, .kind = REACHES_PRODUCT},
    {.op = "Gemm", .slots = ANY_INPUT, .kind = REACHES_PRODUCT},
    {.op = "Einsum", .slots = ANY_INPUT, .kind = REACHES_PRODUCT},
    {.op = "Conv", .slots = INPUT(1) | INPUT(2)},
    {.op = "ConvTranspose", .slots = INPUT(1) | INPUT(2)},
    {.op = "CausalConvWithState", .slots = INPUT(1) | INPUT(2)},
    {.op = "DeformConv", .slots = INPUT(1) | INPUT(3)},
    {.op = "LayerNormalization", .slots = INPUT(1) | INPUT(2), .scales = INPUT(1) | INPUT(2)},
    {.op = "RMSNormalization", .slots = INPUT(1), .scales = INPUT(1)},
    {.op = "SimplifiedLayerNormalization", .slots = INPUT(1), .scales = INPUT(1)},
    {.op = "GroupNormalization", .slots = INPUT(1) | INPUT(2)},
    {.op = "InstanceNormalization", .slots = INPUT(1) | INPUT(2)},
    {.op = "BatchNormalization", .slots = INPUT(1) | INPUT(2), .statistics = INPUT(3) | INPUT(4)},
    {.op = "Gather", .slots = INPUT(0), .kind = REACHES_TABLE},
    {.op = "GatherElements", .slots = INPUT(0), .kind = REACHES_TABLE},
    {.op = "GatherND", .slots = INPUT(0), .kind = REACHES_TABLE},
    {.op = "PRelu", .slots = INPUT(1), .elementwise = INPUT(0)},
    {.op = "LSTM", .slots = INPUT(1) | INPUT(2) | INPUT(3)},
    {.op = "GRU", .slots = INPUT(1) | INPUT(2) | INPUT(3)},
    {.op = "RNN", .slots = INPUT(1) | INPUT(2) | INPUT(3)},
    {.op = "Transpose", .through = INPUT(0)},
    {.op = "Reshape", .through = INPUT(0)},
    {.op = "Flatten", .through = INPUT(0)},
    {.op = "Cast", .through = INPUT(0)},
    {.op = "CastLike", .through = INPUT(0)},
    {.op = "Squeeze", .through = INPUT(0)},
    {.op = "Unsqueeze", .through = INPUT(0)},
    {.op = "Slice", .through = INPUT(0)},
    {.op = "Concat", .through = ANY_INPUT},
    {.op = "Expand", .through = INPUT(0)},
    {.op = "Identity", .through = INPUT(0)},
    {.op = "QuantizeLinear", .through = INPUT(0), .settings = INPUT(1) | INPUT(2)},
    {.op = "DequantizeLinear", .through = INPUT(0), .settings = INPUT(1) | INPUT(2)},
    {.op = "Floor"}, /* steps are flat */
    {.op = "Ceil"},
    {.op = "Round"},
    {.op = "Sum", .elementwise = ANY_INPUT},
    {.op = "Mean", .elementwise = ANY_INPUT},
    {.op = "Where", .elementwise = INPUT(1) | INPUT(2)},
    {.op = "Softplus", .elementwise = INPUT(0)},
    {.op = "Swish", .elementwise = INPUT(0)},
    {.op = "SwiGLU", .elementwise = ANY_INPUT},
};

/* Operators whose output carries no gradient to their inputs. */
static const char *const stops[] = {
    "ArgMax", "ArgMin", "Ceil",        "Equal",   "Floor",  "Greater",          "GreaterOrEqual", "IsInf",
    "IsNaN",  "Less",   "LessOrEqual", "NonZero", "Not",    "OneHot",           "RandomUniform",  "Range",
    "Round",  "Shape",  "Sign",        "Size",    "Unique", "RandomNormalLike", "BitShift",       "ConstantOfShape"};

/* What a value is made of: no float tensor, one of them (ONE_TENSOR + its index) or more than that, activations too. */
enum { NO_TENSOR, MIXED, ONE_TENSOR };

/* -1: neither this graph nor those around it have the name. */
static int found(const Reach *reach, const char *name, bool roots) {
  for (; reach; reach = reach->around) {
    int value = names_find(roots ? &reach->roots : &reach->names, name);
    if (value >= 0)
      return value;
  }
  return -1;
}

int reached(const Reach *reach, const char *name) {
  int bits = found(reach, name, false);
  return bits < 0 ? 0 : bits;
}

int reached_initializer(const Model *model, const Reach *reach, int initializer) {
  const Initializer *what = &model->initializers[initializer];
  return reached(reach, what->name) | (what->in_node ? reach->in_branches[initializer] : 0) |
         (what->in_attribute ? REACHES_SLOT | REACHES_PRODUCT : 0);
}

static int root_of(const Reach *reach, const char *name) {
  int root = *name ? found(reach, name, true) : NO_TENSOR;
  return root < 0 ? MIXED : root;
}

static Status mark(Reach *reach, const char *name, int bits) {
  for (; reach; reach = reach->around) {
    int before = names_find(&reach->names, name);
    if (before >= 0)
      return names_put(&reach->names, name, before | bits);
  }
  return OK;
}

/* By its row; an elementwise operator of the graph with a gradient needs none. */
static const Uses *find_uses(const Onnx__NodeProto *node) {
  static const Uses arithmetic = {.elementwise = ANY_INPUT};
  for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
    if (strcmp(uses[i].op, node->op_type) == 0)
      return &uses[i];
  OpKind op = op_find(node->op_type);
  return op < OP_COUNT && op_def(op)->traits & OP_ELEMENTWISE && op_def(op)->gradient ? &arithmetic : NULL;
}

static bool casts_to_integer(const Onnx__NodeProto *node) {
  for (size_t i = 0; i < node->n_attribute && strcmp(node->op_type, "Cast") == 0; i++)
    if (strcmp(proto_text(node->attribute[i]->name), "to") == 0)
      return !dtype_is_float(dtype_from_onnx((int32_t)node->attribute[i]->i));
  return false;
}

static bool passes_gradient(const Onnx__NodeProto *node) {
  for (size_t i = 0; i < sizeof stops / sizeof *stops; i++)
    if (strcmp(stops[i], node->op_type) == 0)
      return false;
  return !casts_to_integer(node);
}

static int node_root(const Reach *reach, const Onnx__NodeProto *node) {
  const Uses *how = find_uses(node);
  int root = NO_TENSOR;
  for (size_t k = 0; k < node->n_input; k++) {
    if (how && how->scales & INPUT(k < 31 ? k : 31))
      continue;
    int input = root_of(reach, node->input[k]);
    root = input == NO_TENSOR || input == root ? root : root == NO_TENSOR ? input : MIXED;
  }
  return root;
}

static bool has_body(const Onnx__NodeProto *node) {
  for (size_t a = 0; a < node->n_attribute; a++)
    if (node->attribute[a]->g || node->attribute[a]->n_graphs)
      return true;
  return false;
}

/* From the first node to the last: what each output is made of. */
static Status find_roots(const Model *model, Onnx__NodeProto *const *nodes, size_t n, Reach *reach) {
  TRY(names_create(reach->names.arena, &reach->roots));
  for (int i = 0; !reach->around && i < model->n_initializers; i++) {
    const Initializer *tensor = &model->initializers[i];
    bool counts = dtype_is_float(tensor->dtype) && tensor->shape.rank > 0;
    TRY(names_put(&reach->roots, tensor->name, counts ? ONE_TENSOR + i : NO_TENSOR));
  }
  for (size_t i = 0; i < n; i++) {
    int root = model_function(model, nodes[i]) || has_body(nodes[i]) ? MIXED : node_root(reach, nodes[i]);
    for (size_t k = 0; k < nodes[i]->n_output; k++)
      if (names_find(&reach->roots, nodes[i]->output[k]) < 0)
        TRY(names_put(&reach->roots, nodes[i]->output[k], root));
  }
  return OK;
}

static Status reach_nodes(const Model *model, Onnx__NodeProto *const *nodes, size_t n, Reach *reach);

static Status declare_outputs(Onnx__NodeProto *const *nodes, size_t n, Reach *reach) {
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < nodes[i]->n_output; k++)
      TRY(names_put(&reach->names, nodes[i]->output[k], 0));
  return OK;
}

static Status reach_call(const Model *model, const Onnx__FunctionProto *function, const Onnx__NodeProto *node,
                         Reach *reach) {
  Reach inside = {0};
  TRY(names_create(reach->names.arena, &inside.names));
  for (size_t i = 0; i < function->n_input; i++)
    TRY(names_put(&inside.names, function->input[i], 0));
  TRY(declare_outputs(function->node, function->n_node, &inside));
  for (size_t i = 0; i < function->n_output && i < node->n_output; i++)
    TRY(mark(&inside, function->output[i], reached(reach, node->output[i])));
  TRY(reach_nodes(model, function->node, function->n_node, &inside));
  for (size_t i = 0; i < function->n_input && i < node->n_input; i++)
    TRY(mark(reach, node->input[i], reached(&inside, function->input[i])));
  return OK;
}

/* Of a tensor in a body: what it reaches is forgotten with the body's names. */
static void keep_bits(const Model *model, const Reach *reach, const Onnx__TensorProto *proto, const char *name) {
  int i = proto ? initializer_in_node(model, proto) : -1;
  if (i >= 0)
    reach->in_branches[i] |= reached(reach, name);
}

/* A body of If, Loop or Scan. Loop's first body output is its condition; its first two inputs are its counter and the
 * condition, as those of the node are. What a Loop carries is followed into its body, not around it. */
static Status reach_body(const Model *model, const Onnx__GraphProto *body, const Onnx__NodeProto *node, Reach *around) {
  Reach reach = {.around = around, .in_branches = around->in_branches};
  size_t shift = strcmp(node->op_type, "Loop") == 0;
  TRY(names_create(around->names.arena, &reach.names));
  for (size_t i = 0; i < body->n_input; i++)
    TRY(names_put(&reach.names, proto_text(body->input[i]->name), 0));
  for (size_t i = 0; i < body->n_initializer; i++)
    TRY(names_put(&reach.names, proto_text(body->initializer[i]->name), 0));
  TRY(declare_outputs(body->node, body->n_node, &reach));
  for (size_t i = shift; i < body->n_output && i - shift < node->n_output; i++)
    TRY(mark(&reach, proto_text(body->output[i]->name), reached(around, node->output[i - shift])));
  TRY(reach_nodes(model, body->node, body->n_node, &reach));
  for (size_t i = 0; i < body->n_initializer; i++)
    keep_bits(model, &reach, body->initializer[i], proto_text(body->initializer[i]->name));
  for (size_t i = 0; i < body->n_node; i++)
    for (size_t a = 0; a < body->node[i]->n_attribute && body->node[i]->n_output; a++)
      keep_bits(model, &reach, body->node[i]->attribute[a]->t, body->node[i]->output[0]);
  if (strcmp(node->op_type, "If") != 0)
    for (size_t i = 0; i < body->n_input && i < node->n_input; i++)
      TRY(mark(around, node->input[i], reached(&reach, proto_text(body->input[i]->name))));
  return OK;
}

static Status reach_bodies(const Model *model, const Onnx__NodeProto *node, Reach *reach) {
  for (size_t a = 0; a < node->n_attribute; a++) {
    const Onnx__AttributeProto *attribute = node->attribute[a];
    if (attribute->g)
      TRY(reach_body(model, attribute->g, node, reach));
    for (size_t g = 0; g < attribute->n_graphs; g++)
      TRY(reach_body(model, attribute->graphs[g], node, reach));
  }
  return OK;
}

/* What of its outputs a node hands on: to tensors that alone decide them, that they reach something behind it. */
static int reached_behind(const Reach *reach, const Onnx__NodeProto *node) {
  int bits = 0;
  if (!passes_gradient(node) || node_root(reach, node) < ONE_TENSOR)
    return 0;
  for (size_t k = 0; k < node->n_output; k++)
    bits |= reached(reach, node->output[k]);
  return bits & (REACHES_SLOT | REACHES_ELEMENTWISE | REACHES_BEHIND) ? REACHES_BEHIND : 0;
}

int reached_by_use(const Model *model, const Reach *reach, const Onnx__NodeProto *node, size_t k) {
  const Uses *how = model_function(model, node) ? NULL : find_uses(node);
  unsigned bit = INPUT(k < 31 ? k : 31);
  if (!how)
    return 0;
  int bits = (how->slots & bit ? REACHES_SLOT | how->kind : 0) | (how->elementwise & bit ? REACHES_ELEMENTWISE : 0) |
             (how->statistics & bit ? REACHES_STATISTICS : 0);
  return how->through & bit && node->n_output && !casts_to_integer(node) ? bits | reached(reach, node->output[0])
                                                                         : bits;
}

static bool is_setting(const Model *model, const Onnx__NodeProto *node, size_t k) {
  const Uses *how = model_function(model, node) ? NULL : find_uses(node);
  return how && how->settings & INPUT(k < 31 ? k : 31);
}

/* From the last node to the first: what a node's outputs reach is known when its inputs ask. */
static Status reach_nodes(const Model *model, Onnx__NodeProto *const *nodes, size_t n, Reach *reach) {
  TRY(find_roots(model, nodes, n, reach));
  for (size_t i = n; i-- > 0;) {
    const Onnx__NodeProto *node = nodes[i];
    const Onnx__FunctionProto *function = model_function(model, node);
    if (function)
      TRY(reach_call(model, function, node, reach));
    else
      TRY(reach_bodies(model, node, reach));
    int behind = function || has_body(node) ? 0 : reached_behind(reach, node);
    for (size_t k = 0; k < node->n_input; k++)
      TRY(mark(reach, node->input[k],
               (is_setting(model, node, k) ? 0 : behind) | reached_by_use(model, reach, node, k)));
  }
  return OK;
}

Status reach_find(const Model *model, Arena *arena, Reach *reach) {
  const Onnx__GraphProto *graph = model->proto->graph;
  *reach = (Reach){0};
  TRY(names_create(arena, &reach->names));
  TRY(ARENA_NEW(arena, reach->in_branches, model->n_initializers));
  for (int i = 0; i < model->n_initializers; i++)
    TRY(names_put(&reach->names, model->initializers[i].name, 0));
  TRY(declare_outputs(graph->node, graph->n_node, reach));
  return reach_nodes(model, graph->node, graph->n_node, reach);
}
