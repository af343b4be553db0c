/* Building a graph. Invariant: a failed call leaves the lists as they were. */
#include "graph/graph.h"

#include <limits.h>
#include <string.h>

#include "graph/batch.h"
#include "graph/op.h"

Status graph_create(Arena *arena, const char *name, Graph **graph) {
  Graph *g;
  TRY(ARENA_NEW(arena, g, 1));
  g->arena = arena;
  g->name = arena_string(arena, name);
  if (!g->name)
    return status_code();
  g->counter = g->target = g->loss_sum = g->loss_scale = g->step_scalars = NO_VALUE;
  g->building = PHASE_F;
  g->origin = NO_NODE;
  *graph = g;
  return OK;
}

Status graph_add_value(Graph *graph, const char *name, DType dtype, Shape shape, Role role, ValueId *value) {
  size_t bytes;
  TRY(shape_bytes(shape, dtype, &bytes));
  TRY(ARENA_RESERVE(graph->arena, graph->values, graph->n_values, graph->values_capacity, graph->n_values + 1));
  Value *v;
  TRY(ARENA_NEW(graph->arena, v, 1));
  *v = (Value){.name = arena_string(graph->arena, name),
               .dtype = dtype,
               .shape = shape,
               .producer = NO_NODE,
               .role = role,
               .initializer = -1,
               .parameter = NO_VALUE};
  if (!v->name)
    return status_code();
  *value = (ValueId)graph->n_values;
  graph->values[graph->n_values++] = v;
  return OK;
}

Status graph_add_constant(Graph *graph, const char *name, DType dtype, Shape shape, const void *data, ValueId *value) {
  size_t bytes;
  TRY(shape_bytes(shape, dtype, &bytes));
  void *copy = arena_copy(graph->arena, data, bytes);
  if (!copy)
    return status_code();
  TRY(graph_add_value(graph, name, dtype, shape, ROLE_CONSTANT, value));
  graph_value(graph, *value)->data = copy;
  return OK;
}

Status graph_counter(Graph *graph, ValueId *value) {
  if (graph->counter == NO_VALUE)
    TRY(graph_add_value(graph, "counter", I64, shape_of(1, (int64_t[]){COUNTER_NUMBERS}), ROLE_COUNTER,
                        &graph->counter));
  *value = graph->counter;
  return OK;
}

static Status copy_attrs(Arena *arena, const Attr *attrs, int n, Attr **out) {
  TRY(ARENA_NEW(arena, *out, n));
  for (int i = 0; i < n; i++) {
    Attr a = attrs[i];
    if (!(a.name = arena_string(arena, a.name)) || (a.s && !(a.s = arena_string(arena, a.s))) ||
        (a.ints && !(a.ints = arena_copy(arena, a.ints, (size_t)a.n * sizeof *a.ints))) ||
        (a.floats && !(a.floats = arena_copy(arena, a.floats, (size_t)a.n * sizeof *a.floats))))
      return status_code();
    (*out)[i] = a;
  }
  return OK;
}

/* "takes 2 inputs, has 3", "takes 3 or more inputs, has 1". */
static Status check_count(const char *verb, const char *what, int least, int most, int n) {
  if (n >= least && n <= most)
    return OK;
  if (most == INT_MAX)
    return fail(E_MODEL, "%s %d or more %s, has %d", verb, least, what, n);
  if (most == least)
    return fail(E_MODEL, "%s %d %s, has %d", verb, least, what, n);
  return fail(E_MODEL, "%s %d to %d %s, has %d", verb, least, most, what, n);
}

static Status check_arity(const Graph *graph, const OpDef *def, const ValueId *in, int n_in, int n_out) {
  TRY(check_count("takes", "inputs", def->min_in, def->max_in, n_in));
  TRY(check_count("makes", "outputs", def->min_out, def->max_out, n_out));
  for (int i = 0; i < n_in; i++) {
    if (in[i] == NO_VALUE && (i < def->min_in || def->max_in == INT_MAX))
      return fail(E_MODEL, "input %d is missing", i);
    if (in[i] != NO_VALUE && in[i] >= graph->n_values)
      return fail(E_MODEL, "input %d is not defined", i);
  }
  return OK;
}

static const char *output_name(Graph *graph, const Node *node, const char *const *names, int i) {
  if (names && names[i])
    return names[i];
  return arena_format(graph->arena, "%s:%s.%zu", node->name, op_def(node->op)->name, graph->n_values);
}

static Status build(Graph *graph, Node *node, const char *const *out_names, int n_out) {
  const OpDef *def = op_def(node->op);
  TRY(check_arity(graph, def, node->in, node->n_in, n_out));
  TRY(ARENA_NEW(graph->arena, node->out, n_out));
  for (int i = 0; i < n_out; i++) {
    node->out[i] = NO_VALUE;
    const char *name = output_name(graph, node, out_names, i);
    if (!name)
      return status_code();
    if (*name)
      TRY(graph_add_value(graph, name, DTYPE_NONE, (Shape){0}, ROLE_ACTIVATION, &node->out[i]));
    else if (def->max_out != INT_MAX)
      return fail(E_MODEL, "output %d is missing", i);
  }
  node->n_out = n_out;
  TRY(def->infer_shape(graph, node));
  for (int i = 0; i < n_out; i++)
    if (node->out[i] != NO_VALUE) {
      Value *v = graph_value(graph, node->out[i]);
      size_t bytes;
      TRY(shape_bytes(v->shape, v->dtype, &bytes));
      v->producer = node->id;
    }
  return graph->building == PHASE_F ? batch_infer(graph, node) : OK;
}

Status graph_add_node(Graph *graph, OpKind op, const char *name, const ValueId *in, int n_in, const Attr *attrs,
                      int n_attrs, const char *const *out_names, int n_out, NodeId *id) {
  TRY(ARENA_RESERVE(graph->arena, graph->nodes, graph->n_nodes, graph->nodes_capacity, graph->n_nodes + 1));
  Node *node;
  TRY(ARENA_NEW(graph->arena, node, 1));
  *node = (Node){.id = (NodeId)graph->n_nodes,
                 .op = op,
                 .name = arena_string(graph->arena, name),
                 .n_in = n_in,
                 .n_attrs = n_attrs,
                 .phase = graph->building,
                 .unrolled = graph->unrolling,
                 .stage = -1};
  node->origin = graph->building == PHASE_F ? node->id : graph->building == PHASE_UPDATE ? NO_NODE : graph->origin;
  node->in = arena_copy(graph->arena, in, (size_t)n_in * sizeof *in);
  if (!node->name || !node->in)
    return status_code();
  TRY(copy_attrs(graph->arena, attrs, n_attrs, &node->attrs));
  size_t before = graph->n_values;
  Status status = build(graph, node, out_names, n_out);
  if (status != OK) {
    graph->n_values = before;
    node_context(node);
    return status;
  }
  graph->nodes[graph->n_nodes++] = node;
  *id = node->id;
  return OK;
}

Status graph_emit(Graph *graph, OpKind op, const ValueId *in, int n_in, const Attr *attrs, int n_attrs, ValueId *out) {
  NodeId id;
  const char *name = graph->origin == NO_NODE ? op_def(op)->name : graph_node(graph, graph->origin)->name;
  TRY(graph_add_node(graph, op, name, in, n_in, attrs, n_attrs, NULL, 1, &id));
  *out = graph_node(graph, id)->out[0];
  return OK;
}

int graph_unroll_begin(Graph *graph) {
  int before = graph->unrolling;
  if (!before)
    graph->unrolling = ++graph->n_unrolled;
  return before;
}

void graph_unroll_end(Graph *graph, int before) {
  graph->unrolling = before;
}

Status graph_add_input(Graph *graph, ValueId value) {
  TRY(ARENA_RESERVE(graph->arena, graph->inputs, graph->n_inputs, graph->inputs_capacity, graph->n_inputs + 1));
  graph->inputs[graph->n_inputs++] = value;
  return OK;
}

Status graph_add_output(Graph *graph, ValueId value) {
  TRY(ARENA_RESERVE(graph->arena, graph->outputs, graph->n_outputs, graph->outputs_capacity, graph->n_outputs + 1));
  graph->outputs[graph->n_outputs++] = value;
  return OK;
}

size_t node_workspace_bytes(const Graph *graph, const Node *node, int rank) {
  size_t most = 0;
  for (int i = 0; i < RUN_BACKENDS; i++)
    most = node->workspace_bytes[i] > most ? node->workspace_bytes[i] : most;
  if (rank < 0)
    return most;
  return node->workspace_bytes[graph->backend_of_rank ? graph->backend_of_rank[rank] : 0];
}

size_t graph_value_bytes(const Graph *graph, ValueId id) {
  const Value *v = graph_value(graph, id);
  return (size_t)shape_elements(v->shape) * dtype_bytes(v->dtype);
}

const Attr *node_attr(const Node *node, const char *name) {
  for (int i = 0; i < node->n_attrs; i++)
    if (strcmp(node->attrs[i].name, name) == 0)
      return &node->attrs[i];
  return NULL;
}

bool attr_equal(const Attr *a, const Attr *b) {
  if (strcmp(a->name, b->name) != 0 || a->kind != b->kind || a->n != b->n)
    return false;
  switch (a->kind) {
  case ATTR_INT:
    return a->i == b->i;
  case ATTR_FLOAT:
    return memcmp(&a->f, &b->f, sizeof a->f) == 0;
  case ATTR_STRING:
    return strcmp(a->s, b->s) == 0;
  case ATTR_INTS:
    return a->n == 0 || memcmp(a->ints, b->ints, (size_t)a->n * sizeof *a->ints) == 0;
  case ATTR_FLOATS:
    return a->n == 0 || memcmp(a->floats, b->floats, (size_t)a->n * sizeof *a->floats) == 0;
  }
  return false;
}

int64_t node_int(const Node *node, const char *name, int64_t absent) {
  const Attr *a = node_attr(node, name);
  return a && a->kind == ATTR_INT ? a->i : absent;
}

double node_float(const Node *node, const char *name, double absent) {
  const Attr *a = node_attr(node, name);
  return a && a->kind == ATTR_FLOAT ? a->f : absent;
}

const char *node_string(const Node *node, const char *name, const char *absent) {
  const Attr *a = node_attr(node, name);
  return a && a->kind == ATTR_STRING ? a->s : absent;
}

const int64_t *node_ints(const Node *node, const char *name, int *n) {
  const Attr *a = node_attr(node, name);
  if (!a || a->kind != ATTR_INTS) {
    *n = 0;
    return NULL;
  }
  *n = a->n;
  return a->ints;
}

Attr attr_int(const char *name, int64_t i) {
  return (Attr){.name = name, .kind = ATTR_INT, .i = i};
}

Attr attr_float(const char *name, double f) {
  return (Attr){.name = name, .kind = ATTR_FLOAT, .f = f};
}

Attr attr_string(const char *name, const char *s) {
  return (Attr){.name = name, .kind = ATTR_STRING, .s = s};
}

Attr attr_ints(const char *name, const int64_t *ints, int n) {
  return (Attr){.name = name, .kind = ATTR_INTS, .ints = ints, .n = n};
}

void node_context(const Node *node) {
  status_context("node '%s' (%s): ", node->name, op_def(node->op)->name);
}
