/* Copies of graphs. Invariant: order of nodes, names and attributes are those of the graph that a copy is made from. */
#include <assert.h>
#include <limits.h>

#include "graph/batch.h"
#include "graph/op.h"
#include "graph/passes/passes.h"

typedef struct {
  const Graph *from;
  const Instead *const *instead;
  Graph *to;
  bool *value_needed, *node_needed, *absorbed;
  ValueId *values; /* of `from`: their copies */
  NodeId *nodes;
  int replaced; /* nodes for which something stands */
} Copy;

static const Instead *instead_of(const Copy *c, size_t i) {
  return c->instead ? c->instead[i] : NULL;
}

static void need(const Copy *c, ValueId id) {
  if (id != NO_VALUE)
    c->value_needed[id] = true;
}

static void mark(const Copy *c) {
  const Graph *from = c->from;
  for (size_t i = 0; i < from->n_nodes; i++)
    for (int k = 0; instead_of(c, i) && k < instead_of(c, i)->n_absorbed; k++)
      c->absorbed[instead_of(c, i)->absorbed[k]] = true;
  for (size_t i = 0; i < from->n_outputs; i++)
    need(c, from->outputs[i]);
  need(c, from->loss_sum);
  for (size_t i = 0; i < from->n_denominators; i++)
    need(c, from->denominators[i].count);
  for (size_t i = from->n_nodes; i-- > 0;) {
    const Node *made = from->nodes[i];
    const Instead *instead = instead_of(c, i);
    int n_in = instead ? instead->n_in : made->n_in;
    if (c->absorbed[i])
      continue;
    c->node_needed[i] = made->n_out == 0 || made->phase == PHASE_UPDATE; /* what it does lies elsewhere */
    for (int k = 0; k < made->n_out; k++)
      c->node_needed[i] |= made->out[k] != NO_VALUE && c->value_needed[made->out[k]];
    for (int k = 0; instead && k < instead->n_gives; k++)
      c->node_needed[i] |= instead->gives[k] != NO_VALUE && c->value_needed[instead->gives[k]];
    for (int k = 0; c->node_needed[i] && k < n_in; k++)
      need(c, instead ? instead->in[k] : made->in[k]);
  }
}

static Status copy_source(Copy *c, ValueId id, ValueId *copy);

/* All that the value is beside what its copy was made with. */
static Status finish_value(Copy *c, ValueId id) {
  const Value *v = graph_value(c->from, id);
  Value *copy = graph_value(c->to, c->values[id]), made = *copy;
  *copy = *v;
  copy->name = made.name;
  copy->data = made.data;
  copy->producer = made.producer;
  TRY(batch_copy(c->to, c->values[id], &v->batch));
  return v->parameter == NO_VALUE ? OK : copy_source(c, v->parameter, &copy->parameter);
}

/* A value that no node makes; NO_VALUE is its own copy. */
static Status copy_source(Copy *c, ValueId id, ValueId *copy) {
  *copy = id;
  if (id == NO_VALUE)
    return OK;
  if (c->values[id] == NO_VALUE) {
    const Value *v = graph_value(c->from, id);
    assert(v->producer == NO_NODE);
    bool copies = v->data && c->to->arena != c->from->arena; /* within one arena contents are shared */
    TRY(copies ? graph_add_constant(c->to, v->name, v->dtype, v->shape, v->data, &c->values[id])
               : graph_add_value(c->to, v->name, v->dtype, v->shape, v->role, &c->values[id]));
    if (!copies)
      graph_value(c->to, c->values[id])->data = v->data;
    TRY(finish_value(c, id));
  }
  *copy = c->values[id];
  return OK;
}

/* Copies of the values that a node reads, or what stands for it. */
static Status copy_inputs(Copy *c, const ValueId *from, int n, ValueId **in) {
  TRY(ARENA_NEW(c->from->arena, *in, n));
  for (int k = 0; k < n; k++)
    TRY(copy_source(c, from[k], &(*in)[k]));
  return OK;
}

/* What takes the place of a value, made by a node from `first` on; or one that was there before. */
static Status give(Copy *c, ValueId id, ValueId copy, size_t first) {
  Value *value = graph_value(c->to, copy);
  c->values[id] = copy;
  if (value->producer == NO_NODE || value->producer < first)
    return OK;
  if (!(value->name = arena_string(c->to->arena, graph_value(c->from, id)->name)))
    return status_code();
  return finish_value(c, id);
}

/* What stands for the node, under its name. */
static Status emit_instead(Copy *c, const Node *made, const Instead *instead) {
  size_t first = c->to->n_nodes;
  ValueId *in, out[1 + MOST_GIVEN];
  TRY(copy_inputs(c, instead->in, instead->n_in, &in));
  if (made->n_out == 0)
    return graph_add_node(c->to, instead->op, made->name, in, instead->n_in, instead->attrs, instead->n_attrs, NULL, 0,
                          &c->nodes[made->id]);
  TRY(instead_emit(c->to, instead, in, out));
  for (size_t i = first; i < c->to->n_nodes; i++)
    if (!(c->to->nodes[i]->name = arena_string(c->to->arena, made->name)))
      return status_code();
  NodeId producer = graph_value(c->to, out[0])->producer;
  if (producer != NO_NODE && producer >= first)
    c->nodes[made->id] = producer;
  for (int k = 0; k < instead->n_absorbed; k++)
    c->nodes[instead->absorbed[k]] = producer;
  for (int k = 0; k <= instead->n_gives; k++)
    TRY(give(c, k ? instead->gives[k - 1] : made->out[0], out[k], first));
  return OK;
}

static Status copy_outputs(Copy *c, const Node *made, NodeId copy) {
  const Node *node = graph_node(c->to, copy);
  c->nodes[made->id] = copy;
  for (int k = 0; k < made->n_out; k++)
    if (node->out[k] != NO_VALUE) {
      c->values[made->out[k]] = node->out[k];
      TRY(finish_value(c, made->out[k]));
    }
  return OK;
}

static Status copy_node(Copy *c, size_t i) {
  const Node *made = c->from->nodes[i];
  const Instead *instead = instead_of(c, i);
  ValueId *in;
  const char **names;
  NodeId copy;
  bool any_outputs = op_def(made->op)->max_out == INT_MAX; /* only such operators may drop one */
  c->to->building = made->phase;
  c->to->unrolling = made->unrolled;
  c->to->origin = made->origin == NO_NODE || made->origin == made->id ? NO_NODE : c->nodes[made->origin];
  c->replaced += instead != NULL;
  if (instead)
    return emit_instead(c, made, instead);
  TRY(copy_inputs(c, made->in, made->n_in, &in));
  TRY(ARENA_NEW(c->from->arena, names, made->n_out));
  for (int k = 0; k < made->n_out; k++)
    names[k] = any_outputs && (made->out[k] == NO_VALUE || !c->value_needed[made->out[k]])
                   ? ""
                   : graph_value(c->from, made->out[k])->name;
  TRY(graph_add_node(c->to, made->op, made->name, in, made->n_in, made->attrs, made->n_attrs, names, made->n_out,
                     &copy));
  return copy_outputs(c, made, copy);
}

static Status copy_groups(Copy *c) {
  const Graph *from = c->from;
  TRY(ARENA_NEW(c->to->arena, c->to->groups, from->n_groups));
  for (size_t i = 0; i < from->n_groups; i++) {
    const UseGroup *group = &from->groups[i];
    UseGroup *copy = &c->to->groups[c->to->n_groups++];
    TRY(copy_source(c, group->parameter, &copy->parameter));
    TRY(copy_source(c, group->gradient, &copy->gradient));
    TRY(copy_source(c, group->places, &copy->places));
    TRY(ARENA_NEW(c->to->arena, copy->nodes, group->n_nodes));
    for (int k = 0; k < group->n_nodes; k++)
      if (c->nodes[group->nodes[k]] != NO_NODE)
        copy->nodes[copy->n_nodes++] = c->nodes[group->nodes[k]];
  }
  c->to->groups_capacity = c->to->n_groups;
  return OK;
}

/* What training adds to a graph. */
static Status copy_training(Copy *c) {
  const Graph *from = c->from;
  Graph *to = c->to;
  TRY(copy_source(c, from->counter, &to->counter));
  TRY(copy_source(c, from->target, &to->target));
  TRY(copy_source(c, from->loss_sum, &to->loss_sum));
  TRY(copy_source(c, from->loss_scale, &to->loss_scale));
  TRY(copy_source(c, from->step_scalars, &to->step_scalars));
  TRY(ARENA_NEW(to->arena, to->denominators, from->n_denominators));
  for (size_t i = 0; i < from->n_denominators; i++) {
    Denominator *copy = &to->denominators[to->n_denominators++];
    TRY(copy_source(c, from->denominators[i].total, &copy->total));
    TRY(copy_source(c, from->denominators[i].count, &copy->count));
  }
  to->denominators_capacity = to->n_denominators;
  to->building = from->building;
  to->unrolling = from->unrolling;
  to->n_unrolled = from->n_unrolled;
  to->origin = from->origin == NO_NODE ? NO_NODE : c->nodes[from->origin];
  return copy_groups(c);
}

/* One that is made no more, from this pass or an earlier one on, stays what it is called and how large it was: nobody
 * asks for it while training. */
static Status copy_output(Copy *c, ValueId id) {
  const Value *v = graph_value(c->from, id);
  bool made = v->producer == NO_NODE ? v->role != ROLE_ACTIVATION : !c->absorbed[v->producer];
  if (c->values[id] == NO_VALUE && !made) {
    TRY(graph_add_value(c->to, v->name, v->dtype, v->shape, v->role, &c->values[id]));
    TRY(finish_value(c, id));
  }
  return c->values[id] == NO_VALUE ? OK : graph_add_output(c->to, c->values[id]);
}

static Status copy_all(Copy *c) {
  const Graph *from = c->from;
  for (size_t i = 0; i < from->n_values; i++)
    c->values[i] = NO_VALUE;
  for (size_t i = 0; i < from->n_nodes; i++)
    c->nodes[i] = NO_NODE;
  mark(c);
  for (size_t i = 0; i < from->n_inputs; i++) {
    ValueId input;
    TRY(copy_source(c, from->inputs[i], &input));
    TRY(graph_add_input(c->to, input));
  }
  for (size_t i = 0; i < from->n_nodes; i++)
    if (c->node_needed[i])
      TRY(copy_node(c, i));
  for (size_t i = 0; i < from->n_outputs; i++)
    TRY(copy_output(c, from->outputs[i]));
  return copy_training(c);
}

/* What earlier passes found, and this one. */
static Status copy_passes(const Copy *c, const char *pass) {
  Graph *to = c->to;
  TRY(ARENA_RESERVE(to->arena, to->passes, 0, to->passes_capacity, c->from->n_passes + 1));
  for (size_t i = 0; i < c->from->n_passes; i++)
    to->passes[to->n_passes++] = c->from->passes[i];
  if (c->replaced)
    to->passes[to->n_passes++] = (PassDone){pass, c->replaced};
  return OK;
}

Status graph_replace(const Graph *from, const char *pass, const Instead *const *instead, Arena *arena, ValueId *map,
                     Graph **to) {
  Copy c = {.from = from, .instead = instead, .values = map};
  TRY(ARENA_NEW(from->arena, c.value_needed, from->n_values));
  TRY(ARENA_NEW(from->arena, c.node_needed, from->n_nodes));
  TRY(ARENA_NEW(from->arena, c.absorbed, from->n_nodes));
  TRY(ARENA_NEW(from->arena, c.nodes, from->n_nodes));
  if (!map)
    TRY(ARENA_NEW(from->arena, c.values, from->n_values));
  TRY(graph_create(arena, from->name, &c.to));
  c.to->samples = from->samples;
  c.to->microbatches = from->microbatches;
  TRY(copy_all(&c));
  TRY(copy_passes(&c, pass));
  *to = c.to;
  return OK;
}

Status graph_copy(const Graph *from, Arena *arena, ValueId *map, Graph **to) {
  return graph_replace(from, NULL, NULL, arena, map, to);
}
