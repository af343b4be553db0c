/* The order of the items. Invariant: it is a topological one, stage by stage of a partition of the graph, and as in the
 * graph within a stage; it is taken only where the cuts of the order are better than those of the graph's own. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"
#include "partitioner/plan/partition_graph.h"

/* Of the search for an order: some hundredths of a second, for many plans are made before one is taken. */
static const size_t MOST_IDEALS = 3000, MOST_WORDS = 200000;
static const double MOST_PAIRS = 2e5;
/* What is less than this much faster is not worth another order. */
static const double WORTH = 1e-3;

typedef struct {
  const PlanSearch *search;
  const PlanItems *items;
  Arena *arena;
  int *from, *to;
  size_t n_edges, from_room, to_room;
  int *rank_of_stage;
} Order;

static Status add_edge(Order *o, int from, int to) {
  if (from == to)
    return OK;
  TRY(ARENA_RESERVE(o->arena, o->from, o->n_edges, o->from_room, o->n_edges + 1));
  TRY(ARENA_RESERVE(o->arena, o->to, o->n_edges, o->to_room, o->n_edges + 1));
  o->from[o->n_edges] = from;
  o->to[o->n_edges++] = to;
  return OK;
}

static Status add_both(Order *o, int a, int b) {
  TRY(add_edge(o, a, b));
  return add_edge(o, b, a);
}

/* Forward values go up and cotangents down. */
static Status add_values(Order *o, const Graph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    int item = o->items->item_of[i];
    for (int k = 0; item >= 0 && k < node->n_in; k++) {
      NodeId producer = node->in[k] == NO_VALUE ? NO_NODE : graph_value(g, node->in[k])->producer;
      if (producer == NO_NODE || o->items->item_of[producer] < 0)
        continue;
      bool up = graph_node(g, producer)->phase == PHASE_F;
      int other = o->items->item_of[producer];
      TRY(up ? add_edge(o, other, item) : add_edge(o, item, other));
    }
  }
  return OK;
}

/* Groups of uses, and what writes a buffer with what its contents come of, stay together; the loss lies in the last
 * stage. */
static Status add_ties(Order *o, const Graph *g) {
  const int *item_of = o->items->item_of;
  for (size_t i = 0; i < g->n_groups; i++)
    for (int k = 1; k < g->groups[i].n_nodes; k++)
      TRY(add_both(o, item_of[g->groups[i].nodes[k - 1]], item_of[g->groups[i].nodes[k]]));
  for (int i = 0; i < o->items->n; i++) {
    const Node *node = graph_node(g, o->items->node[i]);
    if (op_def(node->op)->traits & OP_MUTATES_FIRST && graph_value(g, node->in[0])->role == ROLE_BUFFER)
      TRY(add_both(o, item_of[plan_buffer_source(g, node)->id], i));
  }
  int loss = g->loss_sum == NO_VALUE ? -1 : item_of[graph_value(g, g->loss_sum)->producer];
  for (int i = 0; i < o->items->n && loss >= 0; i++)
    TRY(add_edge(o, i, loss));
  return OK;
}

/* Every value with its producer and users; its bytes are its seconds, links' rates are the relays'. */
static Status add_tensors(Order *o, const Graph *g, PartitionGraph *p) {
  int *first, *item = NULL, *fill;
  double *bytes;
  TRY(ARENA_NEW(o->arena, first, g->n_values + 1));
  TRY(ARENA_NEW(o->arena, fill, g->n_values));
  TRY(ARENA_NEW(o->arena, bytes, g->n_values));
  for (int pass = 0; pass < 2; pass++) { /* counts, then fills */
    for (size_t i = 0; i < g->n_nodes; i++) {
      const Node *node = g->nodes[i];
      for (int k = 0; o->items->item_of[i] >= 0 && k < node->n_in + node->n_out; k++) {
        ValueId v = k < node->n_in ? node->in[k] : node->out[k - node->n_in];
        NodeId producer = v == NO_VALUE ? NO_NODE : graph_value(g, v)->producer;
        if (producer == NO_NODE || o->items->item_of[producer] < 0)
          continue;
        if (pass)
          item[first[v] + fill[v]++] = o->items->item_of[i];
        else
          first[v + 1]++;
      }
    }
    for (ValueId v = 0; v < g->n_values && pass == 0; v++) {
      first[v + 1] += first[v];
      bytes[v] = (double)graph_value_bytes(g, v);
    }
    if (pass == 0)
      TRY(ARENA_NEW(o->arena, item, first[g->n_values]));
  }
  p->n_tensors = (int)g->n_values;
  p->tensor_first = first;
  p->tensor_item = item;
  p->tensor_seconds = bytes;
  return OK;
}

/* Stages one behind the other whose ranks are alike are devices of one kind. */
static Status add_devices(Order *o, PartitionGraph *p) {
  const PlanSearch *search = o->search;
  DeviceKind *kinds;
  double *relay;
  TRY(ARENA_NEW(o->arena, kinds, search->stages));
  TRY(ARENA_NEW(o->arena, relay, search->stages));
  for (int s = 0; s < search->stages; s++) {
    const double *seconds = o->items->seconds[o->rank_of_stage[s]];
    if (p->n_kinds == 0 || kinds[p->n_kinds - 1].seconds != seconds)
      kinds[p->n_kinds++] = (DeviceKind){.seconds = seconds, .capacity_bytes = INFINITY};
    kinds[p->n_kinds - 1].count++;
    double rate =
        s < search->stages - 1 ? plan_link_rate(search->request, o->rank_of_stage[s], o->rank_of_stage[s + 1]) : 0;
    relay[s] = rate > 0 ? 1 / rate : 0;
  }
  p->kinds = kinds;
  p->relay = relay;
  return OK;
}

/* The bottleneck of the best cuts of these items, whatever memory they take. */
static Status find_bottleneck(const Order *o, const PlanItems *items, double *bottleneck) {
  int stages = o->search->stages, *cut;
  const double **seconds, **cut_seconds;
  TRY(ARENA_NEW(o->arena, seconds, stages));
  TRY(ARENA_NEW(o->arena, cut_seconds, stages));
  TRY(ARENA_NEW(o->arena, cut, stages + 1));
  for (int s = 0; s < stages; s++)
    seconds[s] = items->seconds[o->rank_of_stage[s]];
  TRY(plan_price_cuts(o->search, items, o->arena, o->rank_of_stage, cut_seconds));
  PartitionProblem problem = {.n_items = items->n,
                              .n_stages = stages,
                              .seconds = seconds,
                              .cut_seconds = cut_seconds,
                              .may_cut = items->may_cut};
  return partition_solve(&problem, cut, bottleneck);
}

static Status compare(Order *o, const int *stage, NodeId **found) {
  const PlanSearch *search = o->search;
  PlanItems items;
  NodeId *order;
  double given, other;
  int n = 0;
  TRY(ARENA_NEW(search->arena, order, o->items->n));
  for (int s = 0; s < search->stages; s++)
    for (int i = 0; i < o->items->n; i++)
      if (stage[i] == s)
        order[n++] = o->items->node[i];
  if (memcmp(order, o->items->node, (size_t)n * sizeof *order) == 0)
    return OK;
  TRY(plan_items(o->arena, search->graph, search->request, order, &items));
  Status status = find_bottleneck(o, o->items, &given);
  if (status != OK && status != E_USAGE) /* the graph's own order may have too few cuts */
    return status;
  bool possible = status == OK;
  TRY(find_bottleneck(o, &items, &other));
  if (!possible || other < given * (1 - WORTH))
    *found = order;
  return OK;
}

static Status find_order(Order *o, NodeId **found) {
  const PlanSearch *search = o->search;
  PartitionGraph p = {.n_items = o->items->n};
  GraphPartition partition = {0};
  TRY(ARENA_NEW(o->arena, o->rank_of_stage, search->stages));
  TRY(ARENA_NEW(o->arena, partition.device, p.n_items));
  placement_ranks(search->request->chunks > 1 ? PLACE_LOOP : PLACE_LINE, search->request->ranks,
                  search->request->chunks, o->rank_of_stage);
  TRY(add_values(o, search->graph));
  TRY(add_ties(o, search->graph));
  TRY(add_tensors(o, search->graph, &p));
  TRY(add_devices(o, &p));
  p.n_edges = (int)o->n_edges;
  p.from = o->from;
  p.to = o->to;
  size_t words = (size_t)p.n_items / 64 + 1;
  size_t most = MOST_WORDS / words < MOST_IDEALS ? MOST_WORDS / words : MOST_IDEALS;
  Status status = partition_graph(&p, most, MOST_PAIRS, &partition);
  return status == OK ? compare(o, partition.device, found) : status == E_LIMIT ? OK : status;
}

Status plan_order(const PlanSearch *search, NodeId **order) {
  Order o = {.search = search, .items = &search->items, .arena = arena_create()};
  *order = NULL;
  if (!o.arena)
    return status_code();
  Status status = search->stages > 1 ? find_order(&o, order) : OK;
  arena_destroy(o.arena);
  return status;
}
