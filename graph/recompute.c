#include "graph/recompute.h"

#include <assert.h>

#include "graph/op.h"

typedef struct {
  const Graph *from;
  Arena *arena;
  const bool *again; /* [n_nodes] */
  bool *dead;        /* [n_values]: forward values that are not kept for their stage's backward pass */
  NodeId *place;     /* [n_nodes], of forward nodes: the backward node before which the clone stands; NO_NODE: none */
  bool *for_b;       /* [n_nodes], of them: a B node needs the clone */
  ValueId *clone;    /* [n_values]: of a dead value that is wanted */
  Graph *to;
  NodeId *plain; /* to->plain */
} Recompute;

bool recompute_may(const Graph *graph, const Node *node) {
  bool may = node->phase == PHASE_F && !(op_def(node->op)->traits & OP_MUTATES_FIRST);
  for (int k = 0; k < node->n_in; k++)
    may &= node->in[k] == NO_VALUE || graph_value(graph, node->in[k])->role != ROLE_BUFFER;
  return may;
}

/* Views follow what they view. */
static void mark_dead(Recompute *r) {
  for (size_t i = 0; i < r->from->n_nodes; i++) {
    const Node *node = r->from->nodes[i];
    bool view = op_def(node->op)->traits & OP_VIEW;
    assert(node->phase != PHASE_F || view || !r->again[i] || recompute_may(r->from, node));
    for (int k = 0; k < node->n_out && node->phase == PHASE_F; k++)
      if (node->out[k] != NO_VALUE)
        r->dead[node->out[k]] = view ? r->dead[node->in[0]] : r->again[i];
  }
}

/* The node of whose clone an operand in this stage comes; NO_NODE: it is there. */
static NodeId cloned_for(const Recompute *r, int stage, ValueId v) {
  if (v == NO_VALUE || !r->dead[v])
    return NO_NODE;
  NodeId producer = graph_value(r->from, v)->producer;
  return graph_node(r->from, producer)->stage == stage ? producer : NO_NODE;
}

static void want(Recompute *r, const Node *user, NodeId before, bool for_b) {
  for (int k = 0; k < user->n_in; k++) {
    NodeId id = cloned_for(r, user->stage, user->in[k]);
    if (id == NO_NODE)
      continue;
    r->place[id] = before < r->place[id] ? before : r->place[id]; /* NO_NODE is above all */
    r->for_b[id] |= for_b;
  }
}

/* Forward nodes come before backward ones; users' places are known before their operands'. */
static void find_places(Recompute *r) {
  const Graph *g = r->from;
  for (size_t i = g->n_nodes; i-- > 0;) {
    const Node *node = g->nodes[i];
    if (node->phase == PHASE_B || node->phase == PHASE_W)
      want(r, node, node->id, node->phase == PHASE_B);
    else if (node->phase == PHASE_F && r->place[i] != NO_NODE)
      want(r, node, r->place[i], r->for_b[i]);
  }
}

/* Operands, those of dead values their clones'. */
static Status replace_inputs(Recompute *r, Node *node) {
  ValueId *in;
  bool any = false;
  for (int k = 0; k < node->n_in; k++)
    any |= cloned_for(r, node->stage, node->in[k]) != NO_NODE;
  if (!any)
    return OK;
  TRY(ARENA_NEW(r->arena, in, node->n_in));
  for (int k = 0; k < node->n_in; k++)
    in[k] = cloned_for(r, node->stage, node->in[k]) == NO_NODE ? node->in[k] : r->clone[node->in[k]];
  node->in = in;
  return OK;
}

static Status copy_value(Recompute *r, ValueId v, NodeId producer, ValueId at) {
  Value *value;
  TRY(ARENA_NEW(r->arena, value, 1));
  *value = *graph_value(r->from, v);
  value->producer = producer;
  r->to->values[at] = value;
  return OK;
}

/* The next node of the copy. */
static Status add(Recompute *r, const Node *node, Node **added) {
  TRY(ARENA_NEW(r->arena, *added, 1));
  **added = *node;
  (*added)->id = (NodeId)r->to->n_nodes;
  r->plain[r->to->n_nodes] = node->id;
  r->to->nodes[r->to->n_nodes++] = *added;
  return OK;
}

static Status add_clone(Recompute *r, const Node *node) {
  Node *clone;
  TRY(add(r, node, &clone));
  clone->again = true;
  clone->phase = r->for_b[node->id] ? PHASE_B : PHASE_W;
  TRY(replace_inputs(r, clone));
  TRY(ARENA_NEW(r->arena, clone->out, node->n_out));
  for (int k = 0; k < node->n_out; k++) {
    clone->out[k] = node->out[k];
    if (node->out[k] == NO_VALUE)
      continue;
    clone->out[k] = r->clone[node->out[k]] = (ValueId)r->to->n_values++;
    TRY(copy_value(r, node->out[k], clone->id, clone->out[k]));
  }
  return OK;
}

static Status add_moved(Recompute *r, const Node *node) {
  Node *moved;
  TRY(add(r, node, &moved));
  for (int k = 0; k < node->n_out; k++)
    if (node->out[k] != NO_VALUE)
      TRY(copy_value(r, node->out[k], moved->id, node->out[k]));
  return replace_inputs(r, moved);
}

/* Forward nodes in chains by the node before which their clones stand, each in graph order. */
static Status chain(const Recompute *r, NodeId **head, NodeId **next) {
  TRY(ARENA_NEW(r->arena, *head, r->from->n_nodes));
  TRY(ARENA_NEW(r->arena, *next, r->from->n_nodes));
  for (size_t i = 0; i < r->from->n_nodes; i++)
    (*head)[i] = (*next)[i] = NO_NODE;
  for (size_t i = r->from->n_nodes; i-- > 0;) {
    NodeId place = r->place[i];
    if (place == NO_NODE)
      continue;
    (*next)[i] = (*head)[place];
    (*head)[place] = (NodeId)i;
  }
  return OK;
}

static Status build(Recompute *r) {
  const Graph *g = r->from;
  NodeId *head, *next;
  size_t n_clones = 0, n_values = 0;
  for (size_t i = 0; i < g->n_nodes; i++)
    if (r->place[i] != NO_NODE) {
      n_clones++;
      n_values += (size_t)g->nodes[i]->n_out;
    }
  TRY(ARENA_NEW(r->arena, r->to, 1));
  *r->to = *g;
  r->to->arena = r->arena;
  r->to->n_nodes = 0;
  r->to->nodes_capacity = g->n_nodes + n_clones;
  r->to->values_capacity = g->n_values + n_values;
  TRY(ARENA_NEW(r->arena, r->to->nodes, r->to->nodes_capacity));
  TRY(ARENA_NEW(r->arena, r->plain, r->to->nodes_capacity));
  r->to->plain = r->plain;
  TRY(ARENA_NEW(r->arena, r->to->values, r->to->values_capacity));
  for (ValueId v = 0; v < g->n_values; v++)
    r->to->values[v] = g->values[v];
  TRY(chain(r, &head, &next));
  for (size_t i = 0; i < g->n_nodes; i++) {
    Node *node;
    for (NodeId id = head[i]; id != NO_NODE; id = next[id])
      TRY(add_clone(r, graph_node(g, id)));
    TRY(g->nodes[i]->phase == PHASE_F ? add(r, g->nodes[i], &node) : add_moved(r, g->nodes[i]));
    assert(g->nodes[i]->phase != PHASE_F || node->id == i);
  }
  return OK;
}

Status recompute_graph(Arena *arena, const Graph *graph, const bool *again, Stages *stages, Graph **copy) {
  Recompute r = {.from = graph, .arena = arena, .again = again};
  TRY(ARENA_NEW(arena, r.dead, graph->n_values));
  TRY(ARENA_NEW(arena, r.place, graph->n_nodes));
  TRY(ARENA_NEW(arena, r.for_b, graph->n_nodes));
  TRY(ARENA_NEW(arena, r.clone, graph->n_values));
  for (size_t i = 0; i < graph->n_nodes; i++)
    r.place[i] = NO_NODE;
  mark_dead(&r);
  find_places(&r);
  TRY(build(&r));
  *copy = r.to;
  return stages_list(r.to, arena, stages);
}
