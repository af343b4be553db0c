/* Counting targets. Invariant: memory[v] is set exactly for the values that the counts depend on. */
#include "runtime/training/denominators.h"

#include "backend/backend.h"

static Status need(Denominators *d, Arena *arena, ValueId v) {
  const Value *value = graph_value(d->graph, v);
  if (d->memory[v])
    return OK;
  bool known = value->role == ROLE_CONSTANT && value->data;
  if (value->producer == NO_NODE && value->role != ROLE_INPUT && !known)
    return fail(E_UNSUPPORTED, "the number of targets that count depends on '%s': no input, no known constant",
                value->name);
  if (known)
    d->memory[v] = (void *)value->data; /* read only */
  else
    d->memory[v] = arena_alloc(arena, graph_value_bytes(d->graph, v), 1);
  if (!d->memory[v])
    return status_code();
  if (value->role == ROLE_INPUT)
    d->inputs[d->n_inputs++] = v;
  return OK;
}

static bool is_needed(const Denominators *d, const Node *node) {
  for (int k = 0; k < node->n_out; k++)
    if (node->out[k] != NO_VALUE && d->memory[node->out[k]])
      return true;
  return false;
}

Status denominators_create(Arena *arena, const Graph *graph, Denominators *d) {
  *d = (Denominators){.graph = graph};
  if (!graph->n_denominators)
    return OK;
  TRY(ARENA_NEW(arena, d->nodes, graph->n_nodes));
  TRY(ARENA_NEW(arena, d->inputs, graph->n_values));
  TRY(ARENA_NEW(arena, d->memory, graph->n_values));
  TRY(ARENA_NEW(arena, d->totals, graph->n_denominators));
  for (size_t i = 0; i < graph->n_denominators; i++)
    TRY(need(d, arena, graph->denominators[i].count));
  for (size_t i = graph->n_nodes; i-- > 0;) {
    const Node *node = graph->nodes[i];
    if (!is_needed(d, node))
      continue;
    d->nodes[d->n_nodes++] = node->id;
    for (int k = 0; k < node->n_in; k++)
      if (node->in[k] != NO_VALUE)
        TRY(need(d, arena, node->in[k]));
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        TRY(need(d, arena, node->out[k]));
  }
  for (int i = 0; i < d->n_nodes / 2; i++) {
    NodeId last = d->nodes[d->n_nodes - 1 - i];
    d->nodes[d->n_nodes - 1 - i] = d->nodes[i];
    d->nodes[i] = last;
  }
  return OK;
}

static void fill(const Denominators *d, const ValueId *values, int n, Tensor *tensors) {
  for (int k = 0; k < n; k++) {
    tensors[k] = (Tensor){0};
    if (values[k] != NO_VALUE) {
      const Value *v = graph_value(d->graph, values[k]);
      tensors[k] = (Tensor){.dtype = v->dtype, .shape = v->shape, .data = d->memory[values[k]]};
    }
  }
}

static Status run(const Denominators *d, const Node *node) {
  enum { MOST = 16 };
  Tensor in[MOST], out[MOST];
  if (node->n_in > MOST || node->n_out > MOST)
    return fail(E_UNSUPPORTED, "node '%s': %d inputs on the way to a number of targets", node->name, node->n_in);
  fill(d, node->in, node->n_in, in);
  fill(d, node->out, node->n_out, out);
  return backend_evaluate(NULL, node, in, out);
}

Status denominators_count(Denominators *d, int microbatches, Feed *feed, void *context) {
  const Graph *g = d->graph;
  for (size_t i = 0; i < g->n_denominators; i++)
    d->totals[i] = 0;
  for (int m = 0; g->n_denominators && m < microbatches; m++) {
    for (int i = 0; i < d->n_inputs; i++)
      TRY(feed(context, d->inputs[i], m, d->memory[d->inputs[i]], graph_value_bytes(g, d->inputs[i])));
    for (int i = 0; i < d->n_nodes; i++)
      TRY(run(d, graph_node(g, d->nodes[i])));
    for (size_t i = 0; i < g->n_denominators; i++)
      d->totals[i] += *(const double *)d->memory[g->denominators[i].count];
  }
  for (size_t i = 0; i < g->n_denominators; i++) {
    if (d->totals[i] == 0)
      return fail(E_MODEL, "every target of the batch is ignored");
    d->totals[i] /= microbatches;
  }
  return OK;
}
