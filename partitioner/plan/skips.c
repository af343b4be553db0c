/* What is sent past stages that do not use it. Every cut on a value's way carries it (stages.h), and is priced so; here
 * stands what that costs beside the other way: each stage that uses a value gets it from the nearest one that has it,
 * by itself, whatever lies between. Invariant: both prices are of the same cut, and the second is never for less bytes
 * than the stages need. */
#include "partitioner/plan/internal.h"

typedef struct {
  const Plan *plan;
  const PlanRequest *request;
  int *from;                /* [n_values]: the last stage on the way that has the value by itself; -1: not sent yet */
  double *relayed, *direct; /* [ranks]: seconds of sending and receiving one microbatch */
} Skips;

/* A transfer takes both ranks the same time. */
static void charge(const Skips *s, double *seconds, int from, int to, size_t bytes) {
  int sender = s->plan->schedule.rank_of_stage[from], receiver = s->plan->schedule.rank_of_stage[to];
  double rate = plan_link_rate(s->request, sender, receiver);
  if (sender == receiver || !(rate > 0))
    return;
  seconds[sender] += (double)bytes / rate;
  seconds[receiver] += (double)bytes / rate;
}

/* Over the cut between two stages; returns the bytes that the sending one has only to pass on. */
static size_t cross(const Skips *s, const ValueId *values, int n, int from, int to) {
  size_t passed = 0;
  for (int i = 0; i < n; i++) {
    ValueId v = values[i];
    size_t bytes = graph_value_bytes(s->plan->graph, v);
    if (s->from[v] < 0)
      s->from[v] = from;
    passed += s->from[v] == from ? 0 : bytes;
    charge(s, s->relayed, from, to, bytes);
    if (!stage_uses(&s->plan->cuts.stages[to], v))
      continue;
    charge(s, s->direct, s->from[v], to, bytes);
    s->from[v] = to;
  }
  return passed;
}

static double largest(const double *seconds, int ranks) {
  double most = 0;
  for (int r = 0; r < ranks; r++)
    most = seconds[r] > most ? seconds[r] : most;
  return most;
}

static Status price(Arena *arena, const PlanRequest *request, Plan *plan) {
  Skips s = {.plan = plan, .request = request};
  TRY(ARENA_NEW(arena, s.from, plan->graph->n_values));
  TRY(ARENA_NEW(arena, s.relayed, plan->ranks));
  TRY(ARENA_NEW(arena, s.direct, plan->ranks));
  for (ValueId v = 0; v < plan->graph->n_values; v++)
    s.from[v] = -1;
  plan->skips = (SkipReport){0};
  for (int c = 0; c < plan->stages - 1; c++)
    plan->skips.passed_bytes += cross(&s, plan->cuts.cuts[c].forward, plan->cuts.cuts[c].n_forward, c, c + 1);
  for (int c = plan->stages - 2; c >= 0; c--)
    plan->skips.passed_bytes += cross(&s, plan->cuts.cuts[c].backward, plan->cuts.cuts[c].n_backward, c + 1, c);
  plan->skips.relayed_seconds = largest(s.relayed, plan->ranks);
  plan->skips.direct_seconds = largest(s.direct, plan->ranks);
  return OK;
}

Status plan_price_skips(const PlanRequest *request, Plan *plan) {
  Arena *arena = arena_create();
  Status status = arena ? price(arena, request, plan) : status_code();
  arena_destroy(arena);
  return status;
}
