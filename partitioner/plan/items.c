/* What the partition sees of a graph: costs of items, bytes over every cut, where cuts may be. Invariant: item i is
 * the i-th forward node of the order with all nodes whose origin it is, and position i the cut before it. */
#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "graph/op.h"
#include "partitioner/plan/internal.h"

static double seconds_on(const Graph *g, const Node *node, const DeviceSpec *device) {
  return op_seconds(g, node, device);
}

static Status number_items(Arena *arena, const Graph *g, const NodeId *order, PlanItems *items) {
  TRY(ARENA_NEW(arena, items->node, g->n_nodes));
  TRY(ARENA_NEW(arena, items->item_of, g->n_nodes));
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase == PHASE_F)
      items->node[items->n++] = g->nodes[i]->id;
  if (order)
    memcpy(items->node, order, (size_t)items->n * sizeof *order);
  for (int i = 0; i < items->n; i++)
    items->item_of[items->node[i]] = i;
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase == PHASE_UPDATE)
      items->item_of[i] = -1;
    else if (g->nodes[i]->phase != PHASE_F)
      items->item_of[i] = items->item_of[g->nodes[i]->origin];
  return OK;
}

static bool same_speed(const DeviceSpec *a, const DeviceSpec *b) {
  return a->flops_per_second == b->flops_per_second && a->tf32_flops_per_second == b->tf32_flops_per_second &&
         a->bf16_flops_per_second == b->bf16_flops_per_second &&
         a->narrow_flops_per_second == b->narrow_flops_per_second && a->bytes_per_second == b->bytes_per_second &&
         a->node_overhead_seconds == b->node_overhead_seconds && memcmp(a->reach, b->reach, sizeof a->reach) == 0;
}

static const double *measured_on(const PlanRequest *r, int rank) {
  return r->profiles ? r->profiles[rank].node_seconds : NULL;
}

/* The first rank with the same costs. */
static int like_rank(const PlanRequest *r, int rank) {
  for (int k = 0; k < rank; k++)
    if (same_speed(&r->devices[k], &r->devices[rank]) && measured_on(r, k) == measured_on(r, rank))
      return k;
  return rank;
}

static Status add_costs(Arena *arena, const Graph *g, const PlanRequest *r, PlanItems *items) {
  TRY(ARENA_NEW(arena, items->node_seconds, r->ranks));
  TRY(ARENA_NEW(arena, items->seconds, r->ranks));
  for (int rank = 0; rank < r->ranks; rank++) {
    int like = like_rank(r, rank);
    const double *measured = measured_on(r, rank);
    items->node_seconds[rank] = items->node_seconds[like];
    items->seconds[rank] = items->seconds[like];
    if (like < rank)
      continue;
    TRY(ARENA_NEW(arena, items->node_seconds[rank], g->n_nodes));
    TRY(ARENA_NEW(arena, items->seconds[rank], items->n));
    for (size_t i = 0; i < g->n_nodes; i++) {
      double seconds = measured && measured[i] >= 0 ? measured[i] : seconds_on(g, g->nodes[i], &r->devices[rank]);
      items->node_seconds[rank][i] = seconds;
      if (items->item_of[i] >= 0)
        items->seconds[rank][items->item_of[i]] += seconds;
    }
  }
  return OK;
}

/* The value crosses the cuts at positions low + 1 … high; `bytes` holds differences until they are summed. Sums wrap
 * around on the way but end right, as each position's own sum was checked. */
static void cross(size_t *bytes, int low, int high, size_t size) {
  bytes[low + 1] += size;
  bytes[high + 1] -= size;
}

/* For each value the item of the user that lies farthest from its producer: up for forward values, else down. */
static Status count_crossings(Arena *arena, const Graph *g, PlanItems *items) {
  int *far;
  size_t total = 0;
  TRY(ARENA_NEW(arena, far, g->n_values));
  TRY(ARENA_NEW(arena, items->forward_bytes, items->n + 2));
  TRY(ARENA_NEW(arena, items->backward_bytes, items->n + 2));
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        far[node->out[k]] = items->item_of[i];
    for (int k = 0; items->item_of[i] >= 0 && k < node->n_in; k++) {
      ValueId v = node->in[k];
      if (v == NO_VALUE || graph_value(g, v)->producer == NO_NODE)
        continue;
      bool up = graph_node(g, graph_value(g, v)->producer)->phase == PHASE_F;
      int item = items->item_of[i];
      far[v] = up ? (item > far[v] ? item : far[v]) : (item < far[v] ? item : far[v]);
    }
  }
  for (ValueId v = 0; v < g->n_values; v++) {
    NodeId producer = graph_value(g, v)->producer;
    if (producer == NO_NODE || items->item_of[producer] < 0)
      continue;
    size_t size = graph_value_bytes(g, v);
    if (!checked_add(total, size, &total))
      return fail(E_LIMIT, "the bytes of all values overflow");
    if (graph_node(g, producer)->phase == PHASE_F)
      cross(items->forward_bytes, items->item_of[producer], far[v], size);
    else
      cross(items->backward_bytes, far[v], items->item_of[producer], size);
  }
  for (int i = 1; i <= items->n; i++) {
    items->forward_bytes[i] += items->forward_bytes[i - 1];
    items->backward_bytes[i] += items->backward_bytes[i - 1];
  }
  assert(items->forward_bytes[items->n] == 0 && items->backward_bytes[items->n] == 0);
  return OK;
}

const Node *plan_buffer_source(const Graph *g, const Node *writer) {
  const Node *node = writer;
  for (;;) {
    ValueId from = node->in[node->n_in - 1];
    NodeId producer = from == NO_VALUE ? NO_NODE : graph_value(g, from)->producer;
    if (producer == NO_NODE)
      return node;
    node = graph_node(g, producer);
    if (node->op != OP_Cast && node->op != OP_Reshape)
      return node;
  }
}

/* What writes a buffer stays with what its contents come of: evaluation, up the same stages, needs it there. */
static void keep_writers(const Graph *g, const PlanItems *items, int *inside) {
  for (int i = 0; i < items->n; i++) {
    const Node *node = graph_node(g, items->node[i]);
    if (!(op_def(node->op)->traits & OP_MUTATES_FIRST) || graph_value(g, node->in[0])->role != ROLE_BUFFER)
      continue;
    int source = items->item_of[plan_buffer_source(g, node)->id];
    inside[(source < i ? source : i) + 1]++;
    inside[(source < i ? i : source) + 1]--;
  }
}

/* Groups of uses stay together, each position inside one counted into a difference; the loss lies in the last stage,
 * whatever stands behind it. */
static Status forbid_cuts(Arena *arena, const Graph *g, PlanItems *items) {
  int *inside;
  int loss = g->loss_sum == NO_VALUE ? items->n : items->item_of[graph_value(g, g->loss_sum)->producer];
  TRY(ARENA_NEW(arena, items->may_cut, items->n + 1));
  TRY(ARENA_NEW(arena, inside, items->n + 2));
  for (size_t i = 0; i < g->n_groups; i++) {
    const UseGroup *group = &g->groups[i];
    int low = items->n, high = 0;
    for (int k = 0; k < group->n_nodes; k++) {
      int item = items->item_of[group->nodes[k]];
      low = item < low ? item : low;
      high = item > high ? item : high;
    }
    inside[low + 1]++;
    inside[high + 1]--;
  }
  keep_writers(g, items, inside);
  for (int i = 0, depth = 0; i <= items->n; i++) {
    depth += inside[i];
    items->may_cut[i] = depth == 0 && i <= loss;
  }
  return OK;
}

Status plan_items(Arena *arena, const Graph *graph, const PlanRequest *request, const NodeId *order, PlanItems *items) {
  *items = (PlanItems){0};
  TRY(number_items(arena, graph, order, items));
  TRY(add_costs(arena, graph, request, items));
  TRY(count_crossings(arena, graph, items));
  return forbid_cuts(arena, graph, items);
}
