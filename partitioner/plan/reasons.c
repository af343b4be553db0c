/* Why the cuts are where they are: what the next places would cost. Invariant: seconds and bytes are those that the
 * partition compares. */
#include "partitioner/plan/internal.h"

typedef struct {
  const PlanSearch *search;
  const Plan *plan;
  int *start; /* [stages + 1]: the first item of each stage */
} Weigher;

static double cut_seconds(const Weigher *w, int cut, int item) {
  const PlanItems *items = &w->search->items;
  const int *rank_of = w->plan->schedule.rank_of_stage;
  if (cut < 0 || cut == w->plan->stages - 1)
    return 0;
  double rate = plan_link_rate(w->search->request, rank_of[cut], rank_of[cut + 1]);
  return rate > 0 ? ((double)items->forward_bytes[item] + (double)items->backward_bytes[item]) / rate : 0;
}

/* Of a stage from one item to another, with what it sends at both ends. */
static double stage_seconds(const Weigher *w, int stage, int from, int to) {
  const double *seconds = w->search->items.seconds[w->plan->schedule.rank_of_stage[stage]];
  double sum = cut_seconds(w, stage - 1, from) + cut_seconds(w, stage, to);
  for (int i = from; i < to; i++)
    sum += seconds[i];
  return sum;
}

/* The cut behind a stage, were it before this item. */
static CutOption option(const Weigher *w, int cut, int item) {
  const PlanItems *items = &w->search->items;
  int here = w->start[cut + 1];
  return (CutOption){.node = graph_node(w->search->graph, items->node[item])->name,
                     .nodes = item < here ? here - item : item - here,
                     .below_seconds = stage_seconds(w, cut, w->start[cut], item),
                     .above_seconds = stage_seconds(w, cut + 1, item, w->start[cut + 2]),
                     .forward_bytes = items->forward_bytes[item],
                     .backward_bytes = items->backward_bytes[item]};
}

Status plan_weigh_cuts(const PlanSearch *search, Arena *arena, Plan *plan) {
  const PlanItems *items = &search->items;
  Weigher w = {.search = search, .plan = plan};
  int stage = 0;
  TRY(ARENA_NEW(search->arena, w.start, plan->stages + 1));
  TRY(ARENA_NEW(arena, plan->cut_reports, plan->stages - 1));
  for (int i = 0; i < items->n; i++)
    while (stage < plan->stage_of[items->node[i]])
      w.start[++stage] = i;
  w.start[plan->stages] = items->n;
  for (int c = 0; c < plan->stages - 1; c++) {
    int earlier = w.start[c + 1] - 1, later = w.start[c + 1] + 1;
    while (earlier > w.start[c] && !items->may_cut[earlier])
      earlier--;
    while (later < w.start[c + 2] && !items->may_cut[later])
      later++;
    plan->cut_reports[c].here = option(&w, c, w.start[c + 1]);
    if (earlier > w.start[c])
      plan->cut_reports[c].earlier = option(&w, c, earlier);
    if (later < w.start[c + 2])
      plan->cut_reports[c].later = option(&w, c, later);
  }
  return OK;
}
