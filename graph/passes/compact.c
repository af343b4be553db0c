/* The graph that a caller gets: what the outputs need, without the rest. Invariant: order of nodes, names and
 * attributes are those of the graph that it is made from. */
#include <limits.h>

#include "graph/op.h"
#include "graph/passes/passes.h"

static void mark(const Graph *from, bool *value_needed, bool *node_needed) {
  for (size_t i = 0; i < from->n_outputs; i++)
    value_needed[from->outputs[i]] = true;
  for (size_t i = from->n_nodes; i-- > 0;) {
    const Node *node = from->nodes[i];
    for (int k = 0; k < node->n_out; k++)
      node_needed[i] |= value_needed[node->out[k]];
    for (int k = 0; node_needed[i] && k < node->n_in; k++)
      if (node->in[k] != NO_VALUE)
        value_needed[node->in[k]] = true;
  }
}

/* A value that no node makes. */
static Status copy_source(const Graph *from, ValueId id, Graph *to, ValueId *copy) {
  const Value *v = graph_value(from, id);
  if (v->data) {
    TRY(graph_add_constant(to, v->name, v->dtype, v->shape, v->data, copy));
  } else {
    TRY(graph_add_value(to, v->name, v->dtype, v->shape, v->role, copy));
    graph_value(to, *copy)->initializer = v->initializer;
  }
  graph_value(to, *copy)->batch_axis = v->batch_axis;
  return OK;
}

static Status copy_node(const Graph *from, const Node *node, const bool *value_needed, Graph *to, ValueId *map) {
  ValueId *in;
  const char **names;
  NodeId id;
  bool any_outputs = op_def(node->op)->max_out == INT_MAX; /* only such operators may drop one */
  TRY(ARENA_NEW(from->arena, in, node->n_in));
  TRY(ARENA_NEW(from->arena, names, node->n_out));
  for (int i = 0; i < node->n_in; i++) {
    in[i] = NO_VALUE;
    if (node->in[i] == NO_VALUE)
      continue;
    if (map[node->in[i]] == NO_VALUE)
      TRY(copy_source(from, node->in[i], to, &map[node->in[i]]));
    in[i] = map[node->in[i]];
  }
  for (int i = 0; i < node->n_out; i++)
    names[i] = any_outputs && !value_needed[node->out[i]] ? "" : graph_value(from, node->out[i])->name;
  TRY(graph_add_node(to, node->op, node->name, in, node->n_in, node->attrs, node->n_attrs, names, node->n_out, &id));
  for (int i = 0; i < node->n_out; i++) {
    ValueId made = graph_node(to, id)->out[i];
    map[node->out[i]] = made;
    if (made != NO_VALUE)
      graph_value(to, made)->batch_axis = graph_value(from, node->out[i])->batch_axis;
  }
  return OK;
}

Status graph_compact(const Graph *from, Arena *arena, Graph **to) {
  bool *value_needed, *node_needed;
  ValueId *map;
  TRY(ARENA_NEW(from->arena, value_needed, from->n_values));
  TRY(ARENA_NEW(from->arena, node_needed, from->n_nodes));
  TRY(ARENA_NEW(from->arena, map, from->n_values));
  TRY(graph_create(arena, from->name, to));
  mark(from, value_needed, node_needed);
  for (size_t i = 0; i < from->n_values; i++)
    map[i] = NO_VALUE;
  for (size_t i = 0; i < from->n_inputs; i++) {
    TRY(copy_source(from, from->inputs[i], *to, &map[from->inputs[i]]));
    TRY(graph_add_input(*to, map[from->inputs[i]]));
  }
  for (size_t i = 0; i < from->n_nodes; i++)
    if (node_needed[i])
      TRY(copy_node(from, from->nodes[i], value_needed, *to, map));
  for (size_t i = 0; i < from->n_outputs; i++)
    TRY(graph_add_output(*to, map[from->outputs[i]]));
  return OK;
}
