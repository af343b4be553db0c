/* What a person wishes of the stages. Invariant: each wish is a set of intervals of the order that no stage may hold,
 * and with an interval all that hold it: so the partition stays exact. */
#include <fnmatch.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"

struct PlanWishes {
  bool *must_cut; /* [n + 1] */
  int *pinned;    /* [n] the rank; -1: any */
  int *last_cut;  /* [n + 1] the last place before or at this one where there must be a cut */
};

static bool names(const char *glob, const PlanItems *items, const Graph *g, int item) {
  return fnmatch(glob, graph_node(g, items->node[item])->name, 0) == 0;
}

static Status no_match(const char *option, const char *glob) {
  return fail(E_USAGE, "--%s %s: no node of the graph has such a name", option, glob);
}

/* Behind the node that makes the tensor. */
static Status wish_cut(const Graph *g, const PlanItems *items, const char *tensor, PlanWishes *w) {
  ValueId v = 0;
  while (v < g->n_values && strcmp(graph_value(g, v)->name, tensor) != 0)
    v++;
  NodeId producer = v < g->n_values ? graph_value(g, v)->producer : NO_NODE;
  int item = producer == NO_NODE ? -1 : items->item_of[producer];
  if (item < 0 || graph_node(g, producer)->phase != PHASE_F)
    return fail(E_USAGE, "--cut %s: no node of the forward pass makes a tensor of this name", tensor);
  if (item + 1 == items->n || !items->may_cut[item + 1])
    return fail(E_USAGE, "--cut %s: behind node '%s' there is no cut: %s", tensor, graph_node(g, producer)->name,
                item + 1 == items->n ? "it is the last" : "uses of a parameter, or the loss, stay together");
  w->must_cut[item + 1] = true;
  return OK;
}

static Status wish_pin(const Graph *g, const PlanItems *items, const PinWish *pin, int ranks, PlanWishes *w) {
  bool any = false;
  if (pin->rank >= ranks)
    return fail(E_USAGE, "--pin %s=%d: the ranks are 0 to %d", pin->glob, pin->rank, ranks - 1);
  for (int i = 0; i < items->n; i++) {
    if (!names(pin->glob, items, g, i))
      continue;
    if (w->pinned[i] >= 0 && w->pinned[i] != pin->rank)
      return fail(E_USAGE, "--pin %s=%d: node '%s' is pinned to rank %d already", pin->glob, pin->rank,
                  graph_node(g, items->node[i])->name, w->pinned[i]);
    w->pinned[i] = pin->rank;
    any = true;
  }
  return any ? OK : no_match("pin", pin->glob);
}

/* No cut from the first of them to the last. */
static Status wish_same(const Graph *g, PlanItems *items, const char *glob, PlanWishes *w) {
  int first = -1, last = -1;
  for (int i = 0; i < items->n; i++)
    if (names(glob, items, g, i)) {
      first = first < 0 ? i : first;
      last = i;
    }
  if (first < 0)
    return no_match("same-stage", glob);
  for (int i = first + 1; i <= last; i++) {
    items->may_cut[i] = false;
    if (w->must_cut[i])
      return fail(E_USAGE, "--same-stage %s: --cut asks for a cut behind node '%s', between node '%s' and node '%s'",
                  glob, graph_node(g, items->node[i - 1])->name, graph_node(g, items->node[first])->name,
                  graph_node(g, items->node[last])->name);
  }
  return OK;
}

/* With one stage a rank, ranks follow the order. */
static Status check_pins(const Graph *g, const PlanItems *items, int chunks, const PlanWishes *w) {
  int before = -1;
  for (int i = 0; i < items->n && chunks == 1; i++) {
    if (w->pinned[i] < 0)
      continue;
    if (before >= 0 && w->pinned[i] < w->pinned[before])
      return fail(E_USAGE, "--pin: node '%s' of rank %d comes before node '%s' of rank %d",
                  graph_node(g, items->node[before])->name, w->pinned[before], graph_node(g, items->node[i])->name,
                  w->pinned[i]);
    before = i;
  }
  return OK;
}

Status plan_wish(Arena *arena, const Graph *graph, const PlanRequest *request, PlanItems *items, PlanWishes **wishes) {
  const StageWishes *r = request->wishes;
  PlanWishes *w;
  *wishes = NULL;
  if (!r || r->n_cuts + r->n_pins + r->n_same == 0)
    return OK;
  TRY(ARENA_NEW(arena, w, 1));
  TRY(ARENA_NEW(arena, w->must_cut, items->n + 1));
  TRY(ARENA_NEW(arena, w->pinned, items->n));
  TRY(ARENA_NEW(arena, w->last_cut, items->n + 1));
  memset(w->pinned, -1, (size_t)items->n * sizeof *w->pinned);
  for (int i = 0; i < r->n_cuts; i++)
    TRY(wish_cut(graph, items, r->cuts[i], w));
  for (int i = 0; i < r->n_pins; i++)
    TRY(wish_pin(graph, items, &r->pins[i], request->ranks, w));
  for (int i = 0; i < r->n_same; i++)
    TRY(wish_same(graph, items, r->same[i], w));
  TRY(check_pins(graph, items, request->chunks, w));
  int cuts = 0, stages = request->ranks * request->chunks;
  for (int i = 1; i <= items->n; i++) {
    cuts += w->must_cut[i];
    w->last_cut[i] = w->must_cut[i] ? i : w->last_cut[i - 1];
  }
  if (cuts > stages - 1)
    return fail(E_USAGE, "--cut names %d places, but %d stages have %d cuts", cuts, stages, stages - 1);
  *wishes = w;
  return OK;
}

bool plan_wishes_allow(const PlanWishes *w, int rank, int from, int to) {
  if (w->last_cut[to - 1] > from)
    return false;
  for (int i = from; i < to; i++)
    if (w->pinned[i] >= 0 && w->pinned[i] != rank)
      return false;
  return true;
}
