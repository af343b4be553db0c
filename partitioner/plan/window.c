/* The memory of a window of items, kept up while the window slides. Invariant: count[v] is how many times the items in
 * the window touch v, and the sums are over values with a count. */
#include "graph/op.h"
#include "partitioner/plan/internal.h"

/* What one item touches. */
typedef struct {
  int first, n; /* in `touched` */
  size_t peak;  /* outputs that backward does not keep, and workspace, of its greediest node */
} Item;

struct PlanWindow {
  Item *items;
  ValueId *touched; /* persistent values that the item's nodes use, roots of forward values that its backward reads */
  size_t n_touched, capacity;
  bool *persistent; /* [n_values] */
  bool *wanted;     /* [n_values] backward reads the forward value or a view of it */
  size_t *bytes;    /* [n_values]: what a touched value brings along; a parameter its accumulators and states too */
  int *count;       /* [n_values] */
  int from, to;
  size_t held, kept; /* persistent bytes, kept bytes of one microbatch */
  int *peaks;        /* [n] items of the window, each with a smaller peak than the one before */
  int head, tail;
};

static Status touch(Arena *arena, PlanWindow *w, ValueId v) {
  TRY(ARENA_RESERVE(arena, w->touched, w->n_touched, w->capacity, w->n_touched + 1));
  w->touched[w->n_touched++] = v;
  return OK;
}

static Status add_node(Arena *arena, const Graph *g, PlanWindow *w, const ValueId *root, const Node *node, Item *item) {
  size_t peak = memory_units(node_workspace_bytes(g, node, -1));
  for (int k = 0; k < node->n_in; k++) {
    ValueId v = node->in[k];
    if (v == NO_VALUE)
      continue;
    v = root[v]; /* accumulators come with their parameter */
    if (w->persistent[v] ? graph_value(g, v)->role != ROLE_GRADIENT : node->phase != PHASE_F && w->wanted[v])
      TRY(touch(arena, w, v));
  }
  for (int k = 0; k < node->n_out && !(op_def(node->op)->traits & OP_VIEW); k++)
    if (node->out[k] != NO_VALUE && !w->wanted[node->out[k]])
      peak += memory_units(graph_value_bytes(g, node->out[k]));
  item->peak = peak > item->peak ? peak : item->peak;
  return OK;
}

/* Accumulators, states and what update nodes write count with their parameter; states that may lie on the host do not.
 */
static void weigh(const Graph *g, PlanWindow *w) {
  for (ValueId v = 0; v < g->n_values; v++)
    w->bytes[v] += g->offloads && graph_value(g, v)->role == ROLE_STATE ? 0 : memory_units(graph_value_bytes(g, v));
  for (ValueId v = 0; v < g->n_values; v++)
    if (graph_value(g, v)->parameter != NO_VALUE)
      w->bytes[graph_value(g, v)->parameter] += w->bytes[v];
}

static void mark_wanted(const Graph *g, PlanWindow *w, const ValueId *root) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    for (int k = 0; k < node->n_in && (node->phase == PHASE_B || node->phase == PHASE_W); k++) {
      ValueId v = node->in[k] == NO_VALUE ? NO_VALUE : root[node->in[k]];
      if (v == NO_VALUE || w->persistent[v])
        continue;
      NodeId producer = graph_value(g, v)->producer;
      w->wanted[v] |= producer == NO_NODE || graph_node(g, producer)->phase == PHASE_F;
    }
  }
}

/* Nodes of each item, in chains, so that items are filled one after the other. */
static Status fill_items(Arena *arena, const Graph *g, const PlanItems *items, PlanWindow *w, const ValueId *root) {
  NodeId *next, *head;
  TRY(ARENA_NEW(arena, next, g->n_nodes));
  TRY(ARENA_NEW(arena, head, items->n));
  for (int i = 0; i < items->n; i++)
    head[i] = NO_NODE;
  for (size_t i = g->n_nodes; i-- > 0;)
    if (items->item_of[i] >= 0) {
      next[i] = head[items->item_of[i]];
      head[items->item_of[i]] = (NodeId)i;
    }
  for (int i = 0; i < items->n; i++) {
    w->items[i].first = (int)w->n_touched;
    for (NodeId id = head[i]; id != NO_NODE; id = next[id])
      TRY(add_node(arena, g, w, root, graph_node(g, id), &w->items[i]));
    w->items[i].n = (int)w->n_touched - w->items[i].first;
  }
  return OK;
}

Status plan_window_create(Arena *arena, const Graph *graph, const PlanItems *items, PlanWindow **window) {
  PlanWindow *w;
  ValueId *root;
  TRY(ARENA_NEW(arena, w, 1));
  TRY(ARENA_NEW(arena, root, graph->n_values));
  TRY(ARENA_NEW(arena, w->items, items->n));
  TRY(ARENA_NEW(arena, w->persistent, graph->n_values));
  TRY(ARENA_NEW(arena, w->wanted, graph->n_values));
  TRY(ARENA_NEW(arena, w->bytes, graph->n_values));
  TRY(ARENA_NEW(arena, w->count, graph->n_values));
  TRY(ARENA_NEW(arena, w->peaks, items->n));
  for (ValueId v = 0; v < graph->n_values; v++) {
    NodeId producer = graph_value(graph, v)->producer;
    bool view = producer != NO_NODE && (op_def(graph_node(graph, producer)->op)->traits & OP_VIEW);
    root[v] = view ? root[graph_node(graph, producer)->in[0]] : v; /* ids of outputs are above those of inputs */
    w->persistent[v] = memory_is_persistent(graph, v);
  }
  weigh(graph, w);
  mark_wanted(graph, w, root);
  TRY(fill_items(arena, graph, items, w, root));
  *window = w;
  return OK;
}

static void count_item(PlanWindow *w, const Item *item, int change) {
  for (int k = 0; k < item->n; k++) {
    ValueId v = w->touched[item->first + k];
    size_t *sum = w->persistent[v] ? &w->held : &w->kept;
    if (change > 0 && w->count[v]++ == 0)
      *sum += w->bytes[v];
    if (change < 0 && --w->count[v] == 0)
      *sum -= w->bytes[v];
  }
}

static void enter(PlanWindow *w) {
  count_item(w, &w->items[w->to], 1);
  while (w->tail > w->head && w->items[w->peaks[w->tail - 1]].peak <= w->items[w->to].peak)
    w->tail--;
  w->peaks[w->tail++] = w->to++;
}

static void leave(PlanWindow *w) {
  count_item(w, &w->items[w->from], -1);
  if (w->head < w->tail && w->peaks[w->head] == w->from)
    w->head++;
  w->from++;
}

size_t plan_window_bytes(PlanWindow *w, int from, int to, int in_flight) {
  if (from < w->from || to < w->to) { /* anew */
    while (w->from < w->to)
      leave(w);
    w->from = w->to = from;
    w->head = w->tail = 0;
  }
  while (w->to < to)
    enter(w);
  while (w->from < from)
    leave(w);
  size_t peak = w->head < w->tail ? w->items[w->peaks[w->head]].peak : 0;
  return w->held + w->kept * (size_t)in_flight + peak;
}
