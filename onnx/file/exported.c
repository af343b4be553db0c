/* What torch's exporters record. Invariant: what is not written as they write it counts as not recorded. */
#include "onnx/file/exported.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define KIND_KEY "pkg.torch.export.graph_signature.InputSpec.kind"
#define FOLDED_KEY "pkg.onnxscript.optimizer.folded_from"
#define SIGNATURE_KEY "pkg.torch.export.ExportedProgram.graph_signature"
#define CALL_KEY "pkg.torch.onnx.fx_node"
#define SCOPES_KEY "pkg.torch.onnx.name_scopes"

/* How far into a call's arguments is looked; a buffer or a constant among the program's inputs. */
enum { MOST_TEXT = 4096, MOST_NAME = 256, IS_CONSTANT = -2 };

/* Lines of the signature read "p_wte_weight: PARAMETER target='wte.weight'". */
static Status read_line(Exported *e, char *line) {
  char *kind = strstr(line, ": "), *target = strstr(line, " target='"), *end;
  if (!kind)
    return OK;
  bool is_parameter = strncmp(kind + 2, "PARAMETER", 9) == 0;
  bool is_constant = strncmp(kind + 2, "BUFFER", 6) == 0 || strncmp(kind + 2, "CONSTANT", 8) == 0;
  *kind = '\0';
  if (target && (end = strchr(target + 9, '\'')))
    *end = '\0';
  else
    target = NULL;
  if (is_parameter)
    e->names[e->n++] = target ? target + 9 : line;
  int number = is_parameter ? e->n : is_constant ? IS_CONSTANT : 0;
  TRY(names_put(&e->inputs, line, number));
  return target ? names_put(&e->inputs, target + 9, number) : OK;
}

int exported_parameter(const Exported *exported, const char *name) {
  int number = names_find(&exported->inputs, name);
  return number > 0 ? number - 1 : -1;
}

static const char *recorded(const Exported *exported, const char *name, const char *key) {
  const Onnx__GraphProto *graph = exported->model->proto->graph;
  int at = names_find(&exported->infos, name);
  return at < 0 ? NULL
                : proto_property(graph->value_info[at]->metadata_props, graph->value_info[at]->n_metadata_props, key);
}

const char *exported_kind(const Exported *exported, const char *name) {
  return recorded(exported, name, KIND_KEY);
}

/* The record is a list: "['a', \"b\"]". `marks` may be NULL. */
static Status read_sources(const Exported *exported, const char *name, bool *marks, bool *folded, int *count,
                           int *last) {
  const char *list = recorded(exported, name, FOLDED_KEY);
  char *text = list ? arena_string(exported->arena, list) : NULL;
  *folded = list;
  *count = 0;
  *last = -1;
  if (list && !text)
    return status_code();
  for (char *at = text; at && (at = strpbrk(at, "'\""));) {
    char quote = *at++, *end = strchr(at, quote);
    if (!end)
      break;
    *end = '\0';
    int number = exported_parameter(exported, at);
    if (number >= 0 && number != *last) {
      ++*count;
      *last = number;
    }
    if (number >= 0 && marks)
      marks[number] = true;
    at = end + 1;
  }
  return OK;
}

Status exported_sources(const Exported *exported, const char *name, bool *folded, int *count, int *parameter) {
  return read_sources(exported, name, NULL, folded, count, parameter);
}

Status exported_mark_sources(const Exported *exported, const char *name, bool *marks) {
  bool folded;
  int count, last;
  return read_sources(exported, name, marks, &folded, &count, &last);
}

static const char *node_record(const Onnx__NodeProto *node, const char *key) {
  return proto_property(node->metadata_props, node->n_metadata_props, key);
}

/* "%addmm : … call_function[target=torch.ops.aten.addmm.default](args = (%p_bias, %x, %p_weight), kwargs = {})" */
static const char *call_arguments(const Onnx__NodeProto *node) {
  const char *call = node_record(node, CALL_KEY);
  return call ? strstr(call, "(args = (") : NULL;
}

/* The next argument that is a tensor, "" where its name is too long; false at the end. */
static bool next_argument(const char *begin, const char **at, char name[MOST_NAME]) {
  size_t length = 0;
  if (!begin || !(*at = strchr(*at, '%')) || *at - begin >= MOST_TEXT)
    return false;
  for (++*at; isalnum((unsigned char)(*at)[length]) || (*at)[length] == '_';)
    length++;
  size_t kept = length < MOST_NAME ? length : 0;
  memcpy(name, *at, kept);
  name[kept] = '\0';
  *at += length;
  return true;
}

int exported_arguments(const Exported *exported, const Onnx__NodeProto *node, int *parameters, int most) {
  const char *begin = call_arguments(node), *at = begin;
  char name[MOST_NAME];
  int n = 0;
  while (n < most && next_argument(begin, &at, name)) {
    int number = exported_parameter(exported, name);
    if (number >= 0)
      parameters[n++] = number;
  }
  return n;
}

/* "ones_1": the result of a call that makes a tensor of nothing. */
static bool is_made(const char *name) {
  static const char *const makers[] = {"ones",       "zeros",           "full",          "ones_like",
                                       "zeros_like", "full_like",       "new_ones",      "new_zeros",
                                       "new_full",   "lift_fresh_copy", "scalar_tensor", NULL};
  for (const char *const *maker = makers; *maker; maker++) {
    size_t n = strlen(*maker);
    if (strncmp(name, *maker, n) == 0 &&
        (!name[n] || (name[n] == '_' && strspn(name + n + 1, "0123456789") == strlen(name + n + 1))))
      return true;
  }
  return false;
}

int exported_computed(const Exported *exported, const Onnx__NodeProto *node) {
  const char *begin = call_arguments(node), *at = begin;
  char name[MOST_NAME];
  int n = 0;
  while (next_argument(begin, &at, name)) {
    int number = names_find(&exported->inputs, name);
    n += number <= 0 && number != IS_CONSTANT && !is_made(name);
  }
  return n;
}

bool exported_is_call(const Onnx__NodeProto *node) {
  return call_arguments(node);
}

bool exported_calls(const Onnx__NodeProto *node, const char *operators) {
  static const char target[] = "target=torch.ops.aten.";
  const char *call = node_record(node, CALL_KEY), *at = call ? strstr(call, target) : NULL;
  size_t length = at ? strcspn(at += sizeof target - 1, ".]") : 0;
  for (; length && *operators; operators += strspn(operators, " ")) {
    size_t n = strcspn(operators, " ");
    if (n == length && strncmp(operators, at, n) == 0)
      return true;
    operators += n;
  }
  return false;
}

/* The element before the last of "['', 'm', 'm.wte', 'embedding']": the last one is the call. A module that is called
 * again has "@1" behind its path. */
static Status innermost_scope(const char *scopes, Arena *arena, const char **module) {
  const char *begin[2] = {NULL, NULL}, *end[2] = {NULL, NULL};
  for (const char *at = scopes; (at = strpbrk(at, "'\""));) {
    const char *close = strchr(at + 1, *at);
    if (!close)
      break;
    begin[0] = begin[1];
    end[0] = end[1];
    begin[1] = at + 1;
    end[1] = close;
    at = close + 1;
  }
  if (!begin[0])
    return OK;
  const char *again = memchr(begin[0], '@', (size_t)(end[0] - begin[0]));
  char *text = arena_format(arena, "%.*s", (int)((again ? again : end[0]) - begin[0]), begin[0]);
  *module = text;
  return text ? OK : status_code();
}

/* "/layer.0/norm/Add" is of /layer.0/norm. */
static Status named_scope(const Onnx__NodeProto *node, Arena *arena, char **module) {
  const char *name = proto_text(node->name), *slash = strrchr(name, '/');
  *module = *name == '/' ? arena_format(arena, "%.*s", (int)(slash - name), name) : NULL;
  return *module || *name != '/' ? OK : status_code();
}

/* Nodes of the second call of /layer.0/norm are of /layer.0/norm_1. */
static void strip_call(const Exported *exported, char *module) {
  char *number = strrchr(module, '_');
  if (!number || !number[1] || strspn(number + 1, "0123456789") != strlen(number + 1) || strchr(number, '/'))
    return;
  *number = '\0';
  if (names_find(&exported->modules, module) < 0)
    *number = '_';
}

static Status list_modules(Exported *exported) {
  const Onnx__GraphProto *graph = exported->model->proto->graph;
  TRY(names_create(exported->arena, &exported->modules));
  for (size_t i = 0; i < graph->n_node; i++) {
    char *module;
    TRY(named_scope(graph->node[i], exported->arena, &module));
    if (module)
      TRY(names_put(&exported->modules, module, 1));
  }
  return OK;
}

Status exported_module(const Exported *exported, const Onnx__NodeProto *node, const char **module) {
  const char *scopes = node_record(node, SCOPES_KEY);
  char *name;
  *module = NULL;
  if (scopes)
    return innermost_scope(scopes, exported->arena, module);
  TRY(named_scope(node, exported->arena, &name));
  if (name)
    strip_call(exported, name);
  *module = name;
  return OK;
}

Status exported_read(const Model *model, Arena *arena, Exported *exported) {
  const Onnx__GraphProto *graph = model->proto->graph;
  const char *signature = proto_property(graph->metadata_props, graph->n_metadata_props, SIGNATURE_KEY);
  char *text = signature ? arena_string(arena, signature) : NULL, *rest = NULL;
  size_t lines = 1;
  if (signature && !text)
    return status_code();
  *exported = (Exported){.model = model, .arena = arena};
  TRY(names_create(arena, &exported->infos));
  TRY(names_create(arena, &exported->inputs));
  for (size_t i = 0; i < graph->n_value_info; i++)
    TRY(names_put(&exported->infos, proto_text(graph->value_info[i]->name), (int)i));
  for (const char *at = text; at && (at = strchr(at, '\n')); at++)
    lines++;
  TRY(ARENA_NEW(arena, exported->names, lines));
  for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest))
    TRY(read_line(exported, line));
  return list_modules(exported);
}

bool exported_padding(const Onnx__NodeProto *node, int64_t *row) {
  const char *call = node_record(node, CALL_KEY), *at = call_arguments(node);
  if (!at || !strstr(call, "target=torch.ops.aten.embedding."))
    return false;
  for (int comma = 0; comma < 2; comma++)
    if (!(at = strchr(at + 1, ',')))
      return false;
  char *end;
  *row = strtoll(at + 1, &end, 10);
  return end != at + 1 && (*end == ',' || *end == ')') && *row >= 0;
}
