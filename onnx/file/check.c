/* What ONNX demands of the names in a file. Invariant: after model_check every value has one definition, which stands
 * before its uses, in the graph, in its subgraphs and in functions, and no function reaches itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnx/file/internal.h"

/* Nodes that inlining all functions may make: so many, and some for each node of the file. A doubling chain of calls
 * would exceed any memory. */
enum { INLINED_NODES = 1 << 13, INLINED_FOR_EACH = 16, INLINED_MOST = 1 << 22 };

/* The names that a graph can see: its own and those around it. */
typedef struct Scope {
  const struct Scope *around;
  NameMap names;
} Scope;

static bool is_visible(const Scope *scope, const char *name) {
  for (; scope; scope = scope->around)
    if (names_find(&scope->names, name) >= 0)
      return true;
  return false;
}

static Status define(Scope *scope, const char *name, const char *what) {
  if (!*name)
    return fail(E_MODEL, "%s has no name", what);
  if (is_visible(scope, name))
    return fail(E_MODEL, "%s '%s': another value has that name already", what, name);
  return names_put(&scope->names, name, 0);
}

/* The node that makes this value, or n. */
static size_t find_producer(Onnx__NodeProto *const *nodes, size_t n, const char *name) {
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < nodes[i]->n_output; k++)
      if (strcmp(nodes[i]->output[k], name) == 0)
        return i;
  return n;
}

/* "'a' -> 'b' -> 'a'": from node i along `user` (1 + the node that uses it) back to node i. */
static Status fail_cycle(Onnx__NodeProto *const *nodes, size_t i, const size_t *user) {
  char text[1024];
  size_t at = i, used = 0;
  do {
    used += (size_t)snprintf(text + used, sizeof text - used, "'%.100s' -> ", proto_text(nodes[at]->name));
    at = user[at] - 1;
  } while (at != i && used < sizeof text - 200);
  return fail(E_MODEL, "the nodes form a cycle: %s%s'%.100s'", text, at == i ? "" : "... -> ",
              proto_text(nodes[i]->name));
}

/* Node i uses `name`, which is not defined before it: says whether nobody makes it, or a later node does, which then
 * depends on node i, for the nodes are sorted: the walk goes back from the later node through all that is made at or
 * behind node i. */
static Status diagnose(Arena *arena, Onnx__NodeProto *const *nodes, size_t n, size_t i, const char *name) {
  size_t maker = find_producer(nodes, n, name), pending = 0, *stack, *user;
  if (maker == n)
    return fail(E_MODEL, "input '%s' is not defined by any input, initializer or node", name);
  NameMap makers;
  TRY(names_create(arena, &makers));
  for (size_t j = i; j < n; j++)
    for (size_t k = 0; k < nodes[j]->n_output; k++)
      if (*nodes[j]->output[k])
        TRY(names_put(&makers, nodes[j]->output[k], (int)j));
  TRY(ARENA_NEW(arena, stack, n));
  TRY(ARENA_NEW(arena, user, n));
  stack[pending++] = maker;
  user[maker] = i + 1;
  while (pending) {
    size_t at = stack[--pending];
    if (at == i)
      return fail_cycle(nodes, i, user);
    for (size_t k = 0; k < nodes[at]->n_input; k++) {
      int from = names_find(&makers, nodes[at]->input[k]);
      if (from >= 0 && !user[from]) {
        user[from] = at + 1;
        stack[pending++] = (size_t)from;
      }
    }
  }
  return fail(E_MODEL, "the nodes form a cycle: input '%s' is made by node '%s', which needs this one", name,
              proto_text(nodes[maker]->name));
}

static Status check_graph(Arena *arena, const Onnx__GraphProto *graph, const Scope *around);

static Status check_node(Arena *arena, Onnx__NodeProto *const *nodes, size_t n, size_t i, Scope *scope) {
  const Onnx__NodeProto *node = nodes[i];
  if (!*proto_text(node->op_type))
    return fail(E_MODEL, "it names no operator");
  for (size_t k = 0; k < node->n_input; k++)
    if (*node->input[k] && !is_visible(scope, node->input[k]))
      return diagnose(arena, nodes, n, i, node->input[k]);
  for (size_t a = 0; a < node->n_attribute; a++) {
    const Onnx__AttributeProto *attribute = node->attribute[a];
    if (attribute->g)
      TRY(check_graph(arena, attribute->g, scope));
    for (size_t g = 0; g < attribute->n_graphs; g++)
      TRY(check_graph(arena, attribute->graphs[g], scope));
  }
  for (size_t k = 0; k < node->n_output; k++)
    if (*node->output[k])
      TRY(define(scope, node->output[k], "output"));
  return OK;
}

static Status check_nodes(Arena *arena, Onnx__NodeProto *const *nodes, size_t n, Scope *scope) {
  for (size_t i = 0; i < n; i++) {
    Status status = check_node(arena, nodes, n, i, scope);
    if (status != OK) {
      proto_node_context(nodes[i], i);
      return status;
    }
  }
  return OK;
}

static Status check_graph(Arena *arena, const Onnx__GraphProto *graph, const Scope *around) {
  Scope scope = {.around = around};
  TRY(names_create(arena, &scope.names));
  for (size_t i = 0; i < graph->n_input; i++)
    TRY(define(&scope, proto_text(graph->input[i]->name), "graph input"));
  for (size_t i = 0; i < graph->n_initializer; i++) {
    const char *name = proto_text(graph->initializer[i]->name);
    int known = names_find(&scope.names, name);
    if (known == 1)
      return fail(E_MODEL, "two initializers are called '%s'", name);
    if (known < 0)
      TRY(define(&scope, name, "initializer"));
    TRY(names_put(&scope.names, name, 1));
  }
  TRY(nodes_sort(arena, graph->node, graph->n_node));
  TRY(check_nodes(arena, graph->node, graph->n_node, &scope));
  for (size_t i = 0; i < graph->n_output; i++)
    if (!is_visible(&scope, proto_text(graph->output[i]->name)))
      return fail(E_MODEL, "output '%s' is not made by any node", proto_text(graph->output[i]->name));
  return OK;
}

static int compare_functions(const void *a, const void *b) {
  const Onnx__FunctionProto *f = *(const Onnx__FunctionProto *const *)a, *g = *(const Onnx__FunctionProto *const *)b;
  int order = strcmp(proto_text(f->name), proto_text(g->name));
  if (!order)
    order = strcmp(proto_domain(f->domain), proto_domain(g->domain));
  return order ? order : strcmp(proto_text(f->overload), proto_text(g->overload));
}

static const Onnx__FunctionProto **find_function(const Model *model, const Onnx__NodeProto *node) {
  Onnx__FunctionProto key = {.name = node->op_type, .domain = node->domain, .overload = node->overload};
  const Onnx__FunctionProto *wanted = &key;
  return model->proto->n_functions ? bsearch(&wanted, model->functions, model->proto->n_functions,
                                             sizeof *model->functions, compare_functions)
                                   : NULL;
}

const Onnx__FunctionProto *model_function(const Model *model, const Onnx__NodeProto *node) {
  const Onnx__FunctionProto **found = find_function(model, node);
  return found ? *found : NULL;
}

/* Per function: 0 not looked at, -1 being looked at, else 1 + the nodes it expands to. */
static Status count_nodes(const Model *model, Onnx__NodeProto *const *nodes, size_t n, int *expanded, int depth,
                          int64_t *count);

static Status count_call(const Model *model, size_t f, int *expanded, int depth, int64_t *count) {
  const Onnx__FunctionProto *function = model->functions[f];
  const char *name = proto_text(function->name);
  if (expanded[f] < 0)
    return fail(E_MODEL, "function '%s' calls itself", name);
  if (depth > WIRE_NESTING)
    return fail(E_UNSUPPORTED, "functions call each other more than %d deep, at '%s'", WIRE_NESTING, name);
  if (!expanded[f]) {
    int64_t inside = 0;
    expanded[f] = -1;
    TRY(count_nodes(model, function->node, function->n_node, expanded, depth, &inside));
    expanded[f] = (int)inside + 1;
  }
  *count += expanded[f] - 1;
  return OK;
}

static Status count_nodes(const Model *model, Onnx__NodeProto *const *nodes, size_t n, int *expanded, int depth,
                          int64_t *count) {
  for (size_t i = 0; i < n; i++) {
    const Onnx__FunctionProto **function = find_function(model, nodes[i]);
    ++*count;
    if (function)
      TRY(count_call(model, (size_t)(function - model->functions), expanded, depth + 1, count));
    for (size_t a = 0; a < nodes[i]->n_attribute; a++) {
      const Onnx__AttributeProto *attribute = nodes[i]->attribute[a];
      if (attribute->g)
        TRY(count_nodes(model, attribute->g->node, attribute->g->n_node, expanded, depth + 1, count));
      for (size_t g = 0; g < attribute->n_graphs; g++)
        TRY(count_nodes(model, attribute->graphs[g]->node, attribute->graphs[g]->n_node, expanded, depth + 1, count));
    }
    if (*count > model->n_inlined)
      return fail(E_LIMIT, "inlining its functions would make more than %lld nodes, of %lld in the file",
                  (long long)model->n_inlined, (long long)(model->n_inlined - INLINED_NODES) / INLINED_FOR_EACH);
  }
  return OK;
}

/* As they stand in the file, those of branches included. */
static int64_t nodes_written(Onnx__NodeProto *const *nodes, size_t n) {
  int64_t count = (int64_t)n;
  for (size_t i = 0; i < n; i++)
    for (size_t a = 0; a < nodes[i]->n_attribute; a++) {
      const Onnx__AttributeProto *attribute = nodes[i]->attribute[a];
      if (attribute->g)
        count += nodes_written(attribute->g->node, attribute->g->n_node);
      for (size_t g = 0; g < attribute->n_graphs; g++)
        count += nodes_written(attribute->graphs[g]->node, attribute->graphs[g]->n_node);
    }
  return count;
}

static int64_t nodes_of_file(const Onnx__ModelProto *proto) {
  int64_t n = nodes_written(proto->graph->node, proto->graph->n_node);
  for (size_t i = 0; i < proto->n_functions; i++)
    n += nodes_written(proto->functions[i]->node, proto->functions[i]->n_node);
  return n;
}

static Status check_functions(Model *model) {
  const Onnx__ModelProto *proto = model->proto;
  size_t n = proto->n_functions;
  int *expanded;
  int64_t count = 0;
  TRY(ARENA_NEW(model->arena, model->functions, n));
  TRY(ARENA_NEW(model->arena, expanded, n));
  for (size_t i = 0; i < n; i++)
    model->functions[i] = proto->functions[i];
  if (n)
    qsort(model->functions, n, sizeof *model->functions, compare_functions);
  for (size_t i = 1; i < n; i++)
    if (compare_functions(&model->functions[i - 1], &model->functions[i]) == 0)
      return fail(E_MODEL, "two functions are called '%s' in domain '%s'", proto_text(model->functions[i]->name),
                  proto_domain(model->functions[i]->domain));
  model->n_inlined = INLINED_NODES + INLINED_FOR_EACH * nodes_of_file(proto);
  if (model->n_inlined > INLINED_MOST)
    model->n_inlined = INLINED_MOST;
  for (size_t i = 0; i < n; i++, count = 0)
    TRY(count_call(model, i, expanded, 1, &count));
  TRY(count_nodes(model, proto->graph->node, proto->graph->n_node, expanded, 0, &count));
  model->n_inlined = count;
  return OK;
}

static Status check_function(Arena *arena, const Onnx__FunctionProto *function) {
  Scope scope = {0};
  TRY(names_create(arena, &scope.names));
  for (size_t i = 0; i < function->n_input; i++)
    TRY(define(&scope, function->input[i], "input"));
  TRY(nodes_sort(arena, function->node, function->n_node));
  TRY(check_nodes(arena, function->node, function->n_node, &scope));
  for (size_t i = 0; i < function->n_output; i++)
    if (!is_visible(&scope, function->output[i]))
      return fail(E_MODEL, "output '%s' is not made by any node", function->output[i]);
  return OK;
}

/* The scopes' tables are needed only here. */
static Status check_names(const Onnx__ModelProto *proto, Arena *arena) {
  TRY(check_graph(arena, proto->graph, NULL));
  for (size_t i = 0; i < proto->n_functions; i++) {
    Status status = check_function(arena, proto->functions[i]);
    if (status != OK) {
      status_context("function '%s': ", proto_text(proto->functions[i]->name));
      return status;
    }
  }
  return OK;
}

Status model_check(Model *model) {
  Arena *arena = arena_create();
  Status status = arena ? check_names(model->proto, arena) : status_code();
  arena_destroy(arena);
  return status == OK ? check_functions(model) : status;
}
