/* Stages of nodes and what crosses the cuts between them. Invariant: a value lies in consecutive stages, from its
 * producer's up (forward) or down (backward) to its last user's; it crosses exactly the cuts between these. */
#include "graph/stages.h"

#include <assert.h>

#include "base/checked.h"
#include "graph/op.h"

static bool is_backward(const Node *node) {
  return node->phase == PHASE_B || node->phase == PHASE_W;
}

static Status place_nodes(Graph *g, const int *stage_of, int n_stages) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    Node *node = g->nodes[i];
    if (node->phase == PHASE_UPDATE)
      continue;
    node->stage = stage_of[node->origin];
    if (node->stage < 0 || node->stage >= n_stages) {
      Status status = fail(E_USAGE, "stage %d is outside the %d stages", node->stage, n_stages);
      node_context(node);
      return status;
    }
    if (is_backward(node))
      node->phase = PHASE_W;
  }
  return OK;
}

static Status check_edge(const Graph *g, const Node *user, ValueId v) {
  const Value *value = graph_value(g, v);
  if (value->producer == NO_NODE)
    return OK;
  const Node *from = graph_node(g, value->producer);
  bool backward = is_backward(from);
  if (backward ? user->stage <= from->stage : user->stage >= from->stage)
    return OK;
  return fail(E_USAGE, "node '%s' (%s) in stage %d reads %s '%s' of node '%s' (%s) in stage %d: %s go %s only",
              user->name, op_def(user->op)->name, user->stage, backward ? "the gradient" : "the value", value->name,
              from->name, op_def(from->op)->name, from->stage, backward ? "gradients" : "values",
              backward ? "down" : "up");
}

static Status check_groups(const Graph *g) {
  for (size_t i = 0; i < g->n_groups; i++) {
    const Node *first = graph_node(g, g->groups[i].nodes[0]);
    for (int k = 1; k < g->groups[i].n_nodes; k++) {
      const Node *node = graph_node(g, g->groups[i].nodes[k]);
      if (node->stage != first->stage)
        return fail(E_USAGE,
                    "parameter '%s': its uses by node '%s' (%s) in stage %d and node '%s' (%s) in stage %d share one "
                    "accumulator and cannot be separated",
                    graph_value(g, g->groups[i].parameter)->name, first->name, op_def(first->op)->name, first->stage,
                    node->name, op_def(node->op)->name, node->stage);
    }
  }
  return OK;
}

/* What a forward node writes in the order of microbatches means nothing in another stage's, nor in backward. */
static Status check_buffer(const Graph *g, const Node *writer) {
  ValueId buffer = writer->in[0];
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    for (int k = 0; k < node->n_in; k++)
      if (node->in[k] == buffer && (node->phase != PHASE_F || node->stage != writer->stage))
        return fail(E_USAGE,
                    "buffer '%s': node '%s' (%s) in stage %d writes it, node '%s' (%s) %s stage %d cannot have it",
                    graph_value(g, buffer)->name, writer->name, op_def(writer->op)->name, writer->stage, node->name,
                    op_def(node->op)->name, node->phase == PHASE_F ? "in" : "in the backward pass of", node->stage);
  }
  return OK;
}

static Status check_buffers(const Graph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (op_def(node->op)->traits & OP_MUTATES_FIRST && graph_value(g, node->in[0])->role == ROLE_BUFFER)
      TRY(check_buffer(g, node));
  }
  return OK;
}

static Status check_loss(const Graph *g, int n_stages) {
  if (g->loss_sum == NO_VALUE)
    return OK;
  const Node *loss = graph_node(g, graph_value(g, g->loss_sum)->producer);
  if (loss->stage != n_stages - 1)
    return fail(E_USAGE, "the loss, node '%s' (%s), lies in stage %d, not in the last, %d", loss->name,
                op_def(loss->op)->name, loss->stage, n_stages - 1);
  return OK;
}

/* far[v]: the stage of the user that lies farthest from the producer, up or down; the producer's own without users. */
static Status find_extents(const Graph *g, int *far) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->phase == PHASE_UPDATE)
      continue;
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        far[node->out[k]] = node->stage;
    for (int k = 0; k < node->n_in; k++) {
      ValueId v = node->in[k];
      if (v == NO_VALUE || graph_value(g, v)->producer == NO_NODE)
        continue;
      TRY(check_edge(g, node, v));
      bool backward = is_backward(graph_node(g, graph_value(g, v)->producer));
      if (backward ? node->stage < far[v] : node->stage > far[v])
        far[v] = node->stage;
    }
  }
  return OK;
}

/* B where an output leaves the stage downwards or a B node of the stage reads it; users come after producers. */
static Status mark_phases(Graph *g, Arena *arena, const int *far) {
  bool *wanted; /* a B node of the producer's stage reads the value */
  TRY(ARENA_NEW(arena, wanted, g->n_values));
  for (size_t i = g->n_nodes; i-- > 0;) {
    Node *node = g->nodes[i];
    if (!is_backward(node))
      continue;
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE && (wanted[node->out[k]] || far[node->out[k]] < node->stage))
        node->phase = PHASE_B;
    for (int k = 0; node->phase == PHASE_B && k < node->n_in; k++) {
      ValueId v = node->in[k];
      if (v != NO_VALUE && graph_value(g, v)->producer != NO_NODE &&
          graph_node(g, graph_value(g, v)->producer)->stage == node->stage)
        wanted[v] = true;
    }
  }
  return OK;
}

static Status list_nodes(const Graph *g, Arena *arena, Stages *s) {
  for (int pass = 0; pass < 2; pass++) { /* counts, then fills */
    for (int i = 0; i < s->n_stages; i++) {
      StageNodes *stage = &s->stages[i];
      for (int p = 0; pass && p < 3; p++) {
        TRY(ARENA_NEW(arena, stage->nodes[p], stage->n_nodes[p]));
        stage->n_nodes[p] = 0;
      }
      if (pass)
        TRY(ARENA_NEW(arena, stage->backward, stage->n_backward));
      stage->n_backward = 0;
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
      const Node *node = g->nodes[i];
      if (node->phase == PHASE_UPDATE)
        continue;
      StageNodes *stage = &s->stages[node->stage];
      if (pass)
        stage->nodes[node->phase][stage->n_nodes[node->phase]] = node->id;
      if (pass && is_backward(node))
        stage->backward[stage->n_backward] = node->id;
      stage->n_nodes[node->phase]++;
      stage->n_backward += is_backward(node);
    }
  }
  return OK;
}

/* The parameter that the operand belongs to; NO_VALUE: none. */
static ValueId parameter_of(const Graph *g, ValueId v) {
  const Value *value = v == NO_VALUE ? NULL : graph_value(g, v);
  return !value ? NO_VALUE : value->role == ROLE_PARAMETER ? v : value->parameter;
}

/* Whether an operand before this one is of the same parameter. */
static bool is_repeated(const Graph *g, const Node *node, int operand) {
  for (int k = 0; k < operand; k++)
    if (parameter_of(g, node->in[k]) == parameter_of(g, node->in[operand]))
      return true;
  return false;
}

static Status list_updates(const Graph *g, Arena *arena, Stages *s) {
  size_t *fill = NULL;
  TRY(ARENA_NEW(arena, s->first_update, g->n_values + 1));
  for (int pass = 0; pass < 2; pass++) { /* counts, then fills */
    for (size_t i = 0; i < g->n_nodes; i++) {
      const Node *node = g->nodes[i];
      for (int k = 0; node->phase == PHASE_UPDATE && k < node->n_in; k++) {
        ValueId parameter = parameter_of(g, node->in[k]);
        if (parameter == NO_VALUE || is_repeated(g, node, k))
          continue;
        if (pass)
          s->updates[fill[parameter]++] = node->id;
        else
          s->first_update[parameter + 1]++;
      }
    }
    if (pass)
      break;
    for (ValueId v = 0; v < g->n_values; v++)
      s->first_update[v + 1] += s->first_update[v];
    TRY(ARENA_NEW(arena, s->updates, s->first_update[g->n_values]));
    if (!(fill = arena_copy(arena, s->first_update, g->n_values * sizeof *fill)))
      return status_code();
  }
  return OK;
}

/* Values with the stages that use them, each pair once, stage by stage. */
typedef struct {
  const Graph *graph;
  Arena *arena;
  ValueId *values;
  int *stages;
  size_t n, values_room, stages_room;
  int *seen; /* [n_values]: the last stage that was found to use the value, + 1 */
} Uses;

static Status add_use(Uses *u, ValueId v, int stage) {
  if (v == NO_VALUE || u->seen[v] == stage + 1)
    return OK;
  u->seen[v] = stage + 1;
  TRY(ARENA_RESERVE(u->arena, u->values, u->n, u->values_room, u->n + 1));
  TRY(ARENA_RESERVE(u->arena, u->stages, u->n, u->stages_room, u->n + 1));
  u->values[u->n] = v;
  u->stages[u->n++] = stage;
  return OK;
}

static Status add_touched(Uses *u, NodeId id, int stage) {
  const Node *node = graph_node(u->graph, id);
  for (int k = 0; k < node->n_in; k++)
    TRY(add_use(u, node->in[k], stage));
  for (int k = 0; k < node->n_out; k++)
    TRY(add_use(u, node->out[k], stage));
  return OK;
}

static Status find_uses(Uses *u, const Stages *s, int stage) {
  const Graph *g = u->graph;
  const StageNodes *nodes = &s->stages[stage];
  size_t first = u->n;
  for (int p = 0; p < 3; p++)
    for (int i = 0; i < nodes->n_nodes[p]; i++)
      TRY(add_touched(u, nodes->nodes[p][i], stage));
  for (size_t i = first; i < u->n; i++) { /* what updates touch, too */
    ValueId v = u->values[i];
    for (size_t k = s->first_update[v]; k < s->first_update[v + 1]; k++)
      TRY(add_touched(u, s->updates[k], stage));
  }
  for (size_t i = 0; i < g->n_outputs && g->loss_sum == NO_VALUE && stage == s->n_stages - 1; i++)
    if (graph_value(g, g->outputs[i])->producer == NO_NODE)
      TRY(add_use(u, g->outputs[i], stage));
  return OK;
}

/* Every stage's by id: the pairs are put in the order of their values, then each stage takes its own. */
static Status sort_uses(Uses *u, Arena *arena, Stages *s) {
  size_t *first, *order;
  TRY(ARENA_NEW(u->arena, first, u->graph->n_values + 1));
  TRY(ARENA_NEW(u->arena, order, u->n));
  for (size_t i = 0; i < u->n; i++) {
    first[u->values[i] + 1]++;
    s->stages[u->stages[i]].n_uses++;
  }
  for (size_t v = 0; v < u->graph->n_values; v++)
    first[v + 1] += first[v];
  for (size_t i = 0; i < u->n; i++)
    order[first[u->values[i]]++] = i;
  for (int i = 0; i < s->n_stages; i++) {
    TRY(ARENA_NEW(arena, s->stages[i].uses, s->stages[i].n_uses));
    s->stages[i].n_uses = 0;
  }
  for (size_t i = 0; i < u->n; i++) {
    StageNodes *stage = &s->stages[u->stages[order[i]]];
    stage->uses[stage->n_uses++] = u->values[order[i]];
  }
  return OK;
}

static Status list_uses(const Graph *g, Arena *arena, Arena *scratch, Stages *s) {
  Uses uses = {.graph = g, .arena = scratch};
  TRY(ARENA_NEW(scratch, uses.seen, g->n_values));
  for (int i = 0; i < s->n_stages; i++)
    TRY(find_uses(&uses, s, i));
  return sort_uses(&uses, arena, s);
}

size_t stages_find(const ValueId *values, size_t n, ValueId value) {
  size_t low = 0, high = n;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (values[middle] < value)
      low = middle + 1;
    else
      high = middle;
  }
  return low < n && values[low] == value ? low : n;
}

Status stages_list(const Graph *graph, Arena *arena, Stages *stages) {
  TRY(ARENA_NEW(arena, stages->stages, stages->n_stages));
  TRY(list_nodes(graph, arena, stages));
  TRY(list_updates(graph, arena, stages));
  Arena *scratch = arena_create();
  Status status = scratch ? list_uses(graph, arena, scratch, stages) : status_code();
  arena_destroy(scratch);
  return status;
}

/* Appends the value to the cut's list; without lists yet, counts. */
static Status cross(const Graph *g, ValueId v, bool backward, Cut *cut) {
  ValueId *list = backward ? cut->backward : cut->forward;
  int *n = backward ? &cut->n_backward : &cut->n_forward;
  size_t *bytes = backward ? &cut->backward_bytes : &cut->forward_bytes;
  if (list)
    list[*n] = v;
  else if (!checked_add(*bytes, graph_value_bytes(g, v), bytes))
    return fail(E_LIMIT, "the bytes of the values that cross a cut overflow");
  ++*n;
  return OK;
}

static Status list_cuts(const Graph *g, Arena *arena, const int *far, Stages *s) {
  for (int pass = 0; pass < 2; pass++) { /* counts, then fills */
    for (int c = 0; pass && c < s->n_stages - 1; c++) {
      TRY(ARENA_NEW(arena, s->cuts[c].forward, s->cuts[c].n_forward));
      TRY(ARENA_NEW(arena, s->cuts[c].backward, s->cuts[c].n_backward));
      s->cuts[c].n_forward = s->cuts[c].n_backward = 0;
    }
    for (ValueId v = 0; v < g->n_values; v++) {
      if (graph_value(g, v)->producer == NO_NODE)
        continue;
      const Node *from = graph_node(g, graph_value(g, v)->producer);
      if (from->phase == PHASE_UPDATE)
        continue;
      bool backward = is_backward(from);
      int low = backward ? far[v] : from->stage, high = backward ? from->stage : far[v];
      for (int c = low; c < high; c++)
        TRY(cross(g, v, backward, &s->cuts[c]));
    }
  }
  return OK;
}

Status stages_assign(Graph *graph, Arena *arena, const int *stage_of, int n_stages, Stages *stages) {
  assert(n_stages > 0);
  int *far; /* [n_values] */
  *stages = (Stages){.n_stages = n_stages};
  TRY(ARENA_NEW(arena, stages->cuts, n_stages - 1));
  TRY(ARENA_NEW(arena, far, graph->n_values));
  TRY(place_nodes(graph, stage_of, n_stages));
  TRY(check_buffers(graph));
  TRY(check_groups(graph));
  TRY(check_loss(graph, n_stages));
  TRY(find_extents(graph, far));
  TRY(mark_phases(graph, arena, far));
  TRY(stages_list(graph, arena, stages));
  return list_cuts(graph, arena, far, stages);
}
