/* Which initializers train: the file does not say, so rules that were checked against PyTorch's exporters decide.
 * Invariant: every initializer gets exactly one rule, and a float tensor that none of them picks is a constant. */
#include <fnmatch.h>
#include <string.h>

#include "onnx/file/internal.h"

#define KIND_KEY "pkg.torch.export.graph_signature.InputSpec.kind"
#define FOLDED_KEY "pkg.onnxscript.optimizer.folded_from"
#define SIGNATURE_KEY "pkg.torch.export.ExportedProgram.graph_signature"

/* What a value reaches, only through operators that move elements. */
enum { REACHES_SLOT = 1, REACHES_ELEMENTWISE = 2, REACHES_STATISTICS = 4 };

#define INPUT(i) (1u << (i))
#define ANY_INPUT (~0u)

typedef struct {
  const char *op;
  unsigned slots;       /* inputs that are weights */
  unsigned statistics;  /* inputs that never train */
  unsigned through;     /* inputs whose elements the output has */
  unsigned elementwise; /* operands of elementwise arithmetic */
} Uses;

static const Uses uses[] = {
    {.op = "MatMul", .slots = ANY_INPUT},
    {.op = "Gemm", .slots = ANY_INPUT},
    {.op = "Einsum", .slots = ANY_INPUT},
    {.op = "Conv", .slots = INPUT(1) | INPUT(2)},
    {.op = "ConvTranspose", .slots = INPUT(1) | INPUT(2)},
    {.op = "LayerNormalization", .slots = INPUT(1) | INPUT(2)},
    {.op = "RMSNormalization", .slots = INPUT(1)},
    {.op = "SimplifiedLayerNormalization", .slots = INPUT(1)},
    {.op = "GroupNormalization", .slots = INPUT(1) | INPUT(2)},
    {.op = "InstanceNormalization", .slots = INPUT(1) | INPUT(2)},
    {.op = "BatchNormalization", .slots = INPUT(1) | INPUT(2), .statistics = INPUT(3) | INPUT(4)},
    {.op = "Gather", .slots = INPUT(0)},
    {.op = "GatherElements", .slots = INPUT(0)},
    {.op = "GatherND", .slots = INPUT(0)},
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
    {.op = "Add", .elementwise = ANY_INPUT},
    {.op = "Sub", .elementwise = ANY_INPUT},
    {.op = "Mul", .elementwise = ANY_INPUT},
    {.op = "Div", .elementwise = ANY_INPUT},
    {.op = "Pow", .elementwise = ANY_INPUT},
    {.op = "Max", .elementwise = ANY_INPUT},
    {.op = "Min", .elementwise = ANY_INPUT},
    {.op = "Sum", .elementwise = ANY_INPUT},
    {.op = "Mean", .elementwise = ANY_INPUT},
    {.op = "Where", .elementwise = INPUT(1) | INPUT(2)},
    {.op = "Neg", .elementwise = INPUT(0)},
    {.op = "Abs", .elementwise = INPUT(0)},
    {.op = "Exp", .elementwise = INPUT(0)},
    {.op = "Log", .elementwise = INPUT(0)},
    {.op = "Sqrt", .elementwise = INPUT(0)},
    {.op = "Reciprocal", .elementwise = INPUT(0)},
    {.op = "Sigmoid", .elementwise = INPUT(0)},
    {.op = "Tanh", .elementwise = INPUT(0)},
    {.op = "Relu", .elementwise = INPUT(0)},
    {.op = "Softplus", .elementwise = INPUT(0)},
    {.op = "Sin", .elementwise = INPUT(0)},
    {.op = "Cos", .elementwise = INPUT(0)},
};

/* The values of one graph or function and what each reaches, inside those around it. */
typedef struct Reach {
  struct Reach *around;
  NameMap names;
} Reach;

static int reached(const Reach *reach, const char *name) {
  for (; reach; reach = reach->around) {
    int bits = names_find(&reach->names, name);
    if (bits >= 0)
      return bits;
  }
  return 0;
}

static Status mark(Reach *reach, const char *name, int bits) {
  for (; reach; reach = reach->around) {
    int before = names_find(&reach->names, name);
    if (before >= 0)
      return names_put(&reach->names, name, before | bits);
  }
  return OK;
}

static const Uses *find_uses(const Onnx__NodeProto *node) {
  for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
    if (strcmp(uses[i].op, node->op_type) == 0)
      return &uses[i];
  return NULL;
}

static bool casts_to_integer(const Onnx__NodeProto *node) {
  for (size_t i = 0; i < node->n_attribute && strcmp(node->op_type, "Cast") == 0; i++)
    if (strcmp(proto_text(node->attribute[i]->name), "to") == 0)
      return !dtype_is_float(dtype_from_onnx((int32_t)node->attribute[i]->i));
  return false;
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

/* A body of If, Loop or Scan. Loop's first body output is its condition; its first two inputs are its counter and the
 * condition, as those of the node are. What a Loop carries is followed into its body, not around it. */
static Status reach_body(const Model *model, const Onnx__GraphProto *body, const Onnx__NodeProto *node, Reach *around) {
  Reach reach = {.around = around};
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

/* From the last node to the first: what a node's outputs reach is known when its inputs ask. */
static Status reach_nodes(const Model *model, Onnx__NodeProto *const *nodes, size_t n, Reach *reach) {
  for (size_t i = n; i-- > 0;) {
    const Onnx__NodeProto *node = nodes[i];
    const Onnx__FunctionProto *function = model_function(model, node);
    const Uses *how = function ? NULL : find_uses(node);
    if (function)
      TRY(reach_call(model, function, node, reach));
    else
      TRY(reach_bodies(model, node, reach));
    for (size_t k = 0; how && k < node->n_input; k++) {
      unsigned bit = INPUT(k < 31 ? k : 31);
      int bits = (how->slots & bit ? REACHES_SLOT : 0) | (how->elementwise & bit ? REACHES_ELEMENTWISE : 0) |
                 (how->statistics & bit ? REACHES_STATISTICS : 0);
      if (how->through & bit && node->n_output && !casts_to_integer(node))
        bits |= reached(reach, node->output[0]);
      TRY(mark(reach, node->input[k], bits));
    }
  }
  return OK;
}

static bool is_digits(const char *text) {
  return *text && strspn(text, "0123456789") == strlen(text);
}

/* The dynamo exporter records kinds, and calls what it makes up val_<n>. */
static bool is_dynamo_file(const Onnx__GraphProto *graph) {
  for (size_t i = 0; i < graph->n_value_info; i++)
    if (proto_property(graph->value_info[i]->metadata_props, graph->value_info[i]->n_metadata_props, KIND_KEY))
      return true;
  for (size_t i = 0; i < graph->n_node; i++)
    for (size_t k = 0; k < graph->node[i]->n_output; k++)
      if (strncmp(graph->node[i]->output[k], "val_", 4) == 0 && is_digits(graph->node[i]->output[k] + 4))
        return true;
  return false;
}

bool name_is_given(const Model *model, const char *name) {
  static const char output[] = "_output_";
  if (!*name || is_digits(name) || strstr(name, "::") || *name == '/')
    return false;
  for (const char *at = strstr(name, output); at; at = strstr(at + 1, output))
    if (is_digits(at + sizeof output - 1))
      return false;
  return !model->is_dynamo || strchr(name, '.');
}

/* Names to 1 where the exported program's signature calls them PARAMETER, else 0. Its lines read
 * "p_wte_weight: PARAMETER target='wte.weight'"; either name stands for the tensor. */
static Status read_signature(const Onnx__GraphProto *graph, Arena *arena, NameMap *kinds) {
  TRY(names_create(arena, kinds));
  const char *signature = proto_property(graph->metadata_props, graph->n_metadata_props, SIGNATURE_KEY);
  char *text = signature ? arena_string(arena, signature) : NULL, *rest = NULL;
  if (signature && !text)
    return status_code();
  for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
    char *kind = strstr(line, ": "), *target = strstr(line, " target='"), *end;
    if (!kind)
      continue;
    int is_parameter = strncmp(kind + 2, "PARAMETER", 9) == 0;
    *kind = '\0';
    TRY(names_put(kinds, line, is_parameter));
    if (target && (end = strchr(target + 9, '\''))) {
      *end = '\0';
      TRY(names_put(kinds, target + 9, is_parameter));
    }
  }
  return OK;
}

/* Whether a PARAMETER is among the names of "['a', \"b\"]". */
static Status folds_parameter(const NameMap *kinds, const char *list, bool *found) {
  char *text = arena_string(kinds->arena, list);
  if (!text)
    return status_code();
  *found = false;
  for (char *at = text; (at = strpbrk(at, "'\""));) {
    char quote = *at++, *end = strchr(at, quote);
    if (!end)
      break;
    *end = '\0';
    *found |= names_find(kinds, at) == 1;
    at = end + 1;
  }
  return OK;
}

/* What decisions are taken from. */
typedef struct {
  const Model *model;
  Reach reach;   /* of the main graph */
  NameMap infos; /* value_info by name */
  NameMap kinds; /* of the signature, where there is one */
  bool has_signature;
} Evidence;

static Status decide(const Evidence *evidence, Initializer *initializer) {
  const Onnx__GraphProto *graph = evidence->model->proto->graph;
  int bits = reached(&evidence->reach, initializer->name), at = names_find(&evidence->infos, initializer->name);
  const Onnx__ValueInfoProto *info = at < 0 ? NULL : graph->value_info[at];
  const char *kind = info ? proto_property(info->metadata_props, info->n_metadata_props, KIND_KEY) : NULL;
  const char *folded = info ? proto_property(info->metadata_props, info->n_metadata_props, FOLDED_KEY) : NULL;
  if (!dtype_is_float(initializer->dtype)) {
    initializer->rule = "not float";
  } else if (bits & REACHES_STATISTICS) {
    initializer->rule = "0";
  } else if (kind) {
    initializer->rule = "1";
    initializer->trains = strcmp(kind, "PARAMETER") == 0;
  } else if (folded && evidence->has_signature) {
    initializer->rule = "1f";
    return folds_parameter(&evidence->kinds, folded, &initializer->trains);
  } else if (initializer->shape.rank >= 1 && bits & REACHES_SLOT) {
    initializer->rule = "2";
    initializer->trains = true;
  } else {
    initializer->rule = "3";
    initializer->trains = bits & REACHES_ELEMENTWISE && name_is_given(evidence->model, initializer->name);
  }
  return OK;
}

static Status gather(Model *model, Arena *arena, Evidence *evidence) {
  const Onnx__GraphProto *graph = model->proto->graph;
  evidence->model = model;
  TRY(names_create(arena, &evidence->reach.names));
  for (int i = 0; i < model->n_initializers; i++)
    TRY(names_put(&evidence->reach.names, model->initializers[i].name, 0));
  TRY(declare_outputs(graph->node, graph->n_node, &evidence->reach));
  TRY(reach_nodes(model, graph->node, graph->n_node, &evidence->reach));
  TRY(names_create(arena, &evidence->infos));
  for (size_t i = 0; i < graph->n_value_info; i++)
    TRY(names_put(&evidence->infos, proto_text(graph->value_info[i]->name), (int)i));
  evidence->has_signature = proto_property(graph->metadata_props, graph->n_metadata_props, SIGNATURE_KEY);
  return read_signature(graph, arena, &evidence->kinds);
}

/* --train and --freeze, which override what the rules say of float tensors; statistics stay what they are. */
static Status apply_globs(Model *model, const char *flag, const char *const *globs, int n, bool trains) {
  for (int g = 0; g < n; g++) {
    int matches = 0;
    for (int i = 0; i < model->n_initializers; i++) {
      Initializer *initializer = &model->initializers[i];
      if (fnmatch(globs[g], initializer->name, 0) != 0)
        continue;
      matches++;
      if (dtype_is_float(initializer->dtype) && strcmp(initializer->rule, "0") != 0) {
        initializer->trains = trains;
        initializer->rule = flag;
      }
    }
    if (!matches)
      return fail(E_USAGE, "%s '%s' matches no initializer of %s", flag, globs[g], model->path);
  }
  return OK;
}

Status train_rules_apply(Model *model, const TrainOptions *options) {
  Evidence evidence = {0};
  model->is_dynamo = is_dynamo_file(model->proto->graph);
  Arena *arena = arena_create();
  Status status = arena ? gather(model, arena, &evidence) : status_code();
  for (int i = 0; i < model->n_initializers && status == OK; i++)
    status = decide(&evidence, &model->initializers[i]);
  arena_destroy(arena);
  if (status != OK || !options)
    return status;
  TRY(apply_globs(model, "--train", options->train, options->n_train, true));
  return apply_globs(model, "--freeze", options->freeze, options->n_freeze, false);
}
