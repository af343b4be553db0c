/* Moves what is not differentiated to where it is needed. Invariant: a node that moves stands before an anchor, a node
 * that stays; nodes of one anchor keep their order, and no node's anchor is before one of its producers'. */
#include "graph/order.h"

#include <assert.h>

typedef struct {
  Graph *graph;
  bool *reached;    /* [n_nodes] by a parameter */
  bool *free_value; /* [n_values] made from inputs and constants by nodes that are not reached */
  int *users;       /* [n_values] */
  NodeId *anchor;   /* [n_nodes] a node that stays is its own */
  NodeId *first;    /* [n_values] the first anchor of its users that were decided; NO_NODE: none */
  NodeId *last;     /* [n_values] the last one */
} Order;

static void mark(Order *o) {
  const Graph *g = o->graph;
  for (ValueId v = 0; v < g->n_values; v++) {
    Role role = graph_value(g, v)->role;
    o->free_value[v] = graph_value(g, v)->producer == NO_NODE && role != ROLE_PARAMETER && role != ROLE_BUFFER;
    o->first[v] = o->last[v] = NO_NODE;
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    bool all_free = true;
    assert(node->phase == PHASE_F);
    for (int k = 0; k < node->n_in; k++) {
      ValueId v = node->in[k];
      if (v == NO_VALUE)
        continue;
      NodeId producer = graph_value(g, v)->producer;
      Role role = graph_value(g, v)->role; /* what touches a buffer stays in its place, too */
      o->reached[i] |= producer == NO_NODE ? role == ROLE_PARAMETER || role == ROLE_BUFFER : o->reached[producer];
      all_free &= o->free_value[v];
      o->users[v]++;
    }
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        o->free_value[node->out[k]] = all_free;
  }
}

/* Bytes that would live on up to the anchor only because the node moves there. */
static double bytes_drawn_along(const Order *o, const Node *node, NodeId anchor) {
  const Graph *g = o->graph;
  double bytes = 0;
  for (int k = 0; k < node->n_in; k++) {
    ValueId v = node->in[k];
    if (v == NO_VALUE || graph_value(g, v)->producer == NO_NODE)
      continue;
    bool lives_anyway = o->last[v] != NO_NODE && o->last[v] >= anchor;
    bool moves_too = o->free_value[v] && o->users[v] == 1;
    if (!lives_anyway && !moves_too)
      bytes += (double)graph_value_bytes(g, v);
  }
  return bytes;
}

/* Users are decided before their producers. */
static void choose_anchor(Order *o, const Node *node) {
  const Graph *g = o->graph;
  NodeId anchor = NO_NODE;
  double made = 0;
  for (int k = 0; k < node->n_out; k++) {
    ValueId v = node->out[k];
    if (v == NO_VALUE)
      continue;
    made += (double)graph_value_bytes(g, v);
    if (o->first[v] < anchor) /* NO_NODE is above all */
      anchor = o->first[v];
  }
  bool moves = !o->reached[node->id] && anchor != NO_NODE && made >= bytes_drawn_along(o, node, anchor);
  o->anchor[node->id] = anchor = moves ? anchor : node->id;
  for (int k = 0; k < node->n_in; k++) {
    ValueId v = node->in[k];
    if (v == NO_VALUE)
      continue;
    if (o->first[v] == NO_NODE || anchor < o->first[v])
      o->first[v] = anchor;
    if (o->last[v] == NO_NODE || anchor > o->last[v])
      o->last[v] = anchor;
  }
}

/* For each anchor the nodes before it in their order, then itself: a counting sort by anchor, where the anchor, which
 * comes after all that wait for it, is the last of its kind. */
static Status renumber(Order *o) {
  Graph *g = o->graph;
  Node **sorted;
  size_t *at;
  TRY(ARENA_NEW(g->arena, sorted, g->n_nodes));
  TRY(ARENA_NEW(g->arena, at, g->n_nodes + 1));
  for (size_t i = 0; i < g->n_nodes; i++)
    at[o->anchor[i] + 1]++;
  for (size_t i = 0; i < g->n_nodes; i++)
    at[i + 1] += at[i];
  for (size_t i = 0; i < g->n_nodes; i++)
    sorted[at[o->anchor[i]]++] = g->nodes[i];
  for (size_t i = 0; i < g->n_nodes; i++) {
    Node *node = g->nodes[i] = sorted[i];
    node->id = node->origin = (NodeId)i;
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        graph_value(g, node->out[k])->producer = node->id;
  }
  return OK;
}

Status graph_order_for_cuts(Graph *graph) {
  Order o = {.graph = graph};
  TRY(ARENA_NEW(graph->arena, o.reached, graph->n_nodes));
  TRY(ARENA_NEW(graph->arena, o.free_value, graph->n_values));
  TRY(ARENA_NEW(graph->arena, o.users, graph->n_values));
  TRY(ARENA_NEW(graph->arena, o.anchor, graph->n_nodes));
  TRY(ARENA_NEW(graph->arena, o.first, graph->n_values));
  TRY(ARENA_NEW(graph->arena, o.last, graph->n_values));
  mark(&o);
  for (size_t i = graph->n_nodes; i-- > 0;)
    choose_anchor(&o, graph->nodes[i]);
  return renumber(&o);
}
