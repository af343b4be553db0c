/* Cuts for one schedule. Invariant: of all that fit by what is known of stages' memory so far the best are laid out;
 * what a layout takes beyond the estimate is known to the next round. */
#include <string.h>

#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"

enum { MOST_ROUNDS = 8, MOST_ROUNDS_AGAIN = 4, ROUNDS_OF_FEW = 3 };

/* What steers the cuts of one schedule. */
typedef struct {
  const PlanSearch *search;
  const int *rank_of_stage;   /* [stages] */
  int *in_flight;             /* [stages] */
  size_t *allowed, *margin;   /* [stages]: what the stage may take; what it took above the estimate */
  const double **seconds;     /* [stages][items] */
  const double **cut_seconds; /* [stages - 1][items + 1] */
  int *cut;
} Steering;

/* What a stage of these items takes at least. What may be computed anew need not be kept, but what it is made of. */
static size_t estimate(const Steering *s, int stage, int from, int to) {
  const PlanSearch *search = s->search;
  if (search->recompute == RECOMPUTE_NONE)
    return plan_window_bytes(search->window, from, to, s->in_flight[stage]);
  return plan_window_bytes(search->window, from, to, 0) +
         search->items.forward_bytes[from] * (size_t)s->in_flight[stage];
}

static bool fits(void *context, int stage, int from, int to) {
  const Steering *s = context;
  if (s->search->wishes && !plan_wishes_allow(s->search->wishes, s->rank_of_stage[stage], from, to))
    return false;
  if (s->allowed[stage] == SIZE_MAX)
    return true;
  size_t bytes = estimate(s, stage, from, to);
  return bytes <= s->allowed[stage] && s->margin[stage] <= s->allowed[stage] - bytes;
}

/* The most microbatches that each stage has between F and the end of its backward. */
static void count_in_flight(const Schedule *schedule, int *in_flight) {
  for (int r = 0; r < schedule->ranks; r++)
    for (int s = 0; s < schedule->stages; s++) {
      int live = 0;
      for (int i = 0; schedule->rank_of_stage[s] == r && i < schedule->lists[r].n_actions; i++) {
        Action action = schedule->lists[r].actions[i];
        if (action.stage != s)
          continue;
        live += action.kind == ACTION_F;
        in_flight[s] = live > in_flight[s] ? live : in_flight[s];
        live -= action.kind == ACTION_W || action.kind == ACTION_BW;
      }
      if (schedule->forward_only && schedule->rank_of_stage[s] == r)
        in_flight[s] = 0;
    }
}

/* Bytes of a stage by itself. */
static size_t own_bytes(const Plan *plan, int stage) {
  const StageMemory *memory = &plan->stage_memory[stage];
  const RankMemory *rank = &plan->rank_memory[plan->schedule.rank_of_stage[stage]];
  size_t bytes = memory->scratch_bytes + rank->window_bytes;
  for (int b = 0; b < memory->n_blocks; b++)
    bytes += memory->blocks[b].bytes * (size_t)rank->blocks[stage][b].slots;
  const StageNodes *nodes = &plan->cuts.stages[stage];
  for (size_t i = 0; i < nodes->n_uses; i++) {
    ValueId v = nodes->uses[i];
    if (memory_is_persistent(plan->graph, v) && !memory_is_offloaded(rank, plan->graph, v))
      bytes += memory_units(graph_value_bytes(plan->graph, v)) +
               (memory_is_rounded(rank, v) ? memory_rounded_bytes(plan->graph, v) : 0);
  }
  return bytes;
}

/* Excludes the stages of ranks over their limit from the next round: their margins become what they really took above
 * the estimate, and a rank with several stages splits its limit as these stand now. `all`: every stage's margin, which
 * comes to an end sooner but leaves out cuts that might have fitted. */
static void tighten(const PlanSearch *search, const Plan *plan, const size_t *limits, bool all, Steering *steering) {
  for (int r = 0; r < plan->ranks; r++) {
    size_t sum = 0;
    bool over = plan->rank_memory[r].total_bytes > limits[r];
    if (!over && !all)
      continue;
    for (int s = 0; s < plan->stages; s++)
      sum += plan->schedule.rank_of_stage[s] == r ? own_bytes(plan, s) : 0;
    for (int s = 0; s < plan->stages; s++) {
      if (plan->schedule.rank_of_stage[s] != r)
        continue;
      size_t own = own_bytes(plan, s);
      size_t least = estimate(steering, s, steering->cut[s], steering->cut[s + 1]);
      size_t margin = own > least ? own - least : 0;
      steering->margin[s] = margin > steering->margin[s] ? margin : steering->margin[s];
      if (over && search->request->chunks > 1)
        steering->allowed[s] = (size_t)((double)limits[r] * ((double)own / (double)sum));
    }
  }
}

Status plan_price_cuts(const PlanSearch *search, const PlanItems *items, Arena *arena, const int *rank_of_stage,
                       const double **seconds) {
  int cuts = search->stages - 1;
  double *rate;
  TRY(ARENA_NEW(arena, rate, cuts));
  for (int c = 0; c < cuts; c++) {
    double *own = NULL;
    rate[c] = plan_link_rate(search->request, rank_of_stage[c], rank_of_stage[c + 1]);
    seconds[c] = NULL;
    for (int k = 0; k < c && !seconds[c]; k++)
      if (rate[k] == rate[c])
        seconds[c] = seconds[k];
    if (seconds[c])
      continue;
    TRY(ARENA_NEW(arena, own, items->n + 1));
    for (int i = 1; i < items->n && rate[c] > 0; i++)
      own[i] = ((double)items->forward_bytes[i] + (double)items->backward_bytes[i]) / rate[c];
    seconds[c] = own;
  }
  return OK;
}

static Status prepare_steering(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate,
                               const size_t *limits, Steering *s) {
  Schedule draft;
  s->search = search;
  TRY(plan_draw(search, arena, candidate, NULL, &draft));
  TRY(ARENA_NEW(arena, s->in_flight, search->stages));
  TRY(ARENA_NEW(arena, s->allowed, search->stages));
  TRY(ARENA_NEW(arena, s->margin, search->stages));
  TRY(ARENA_NEW(arena, s->seconds, search->stages));
  TRY(ARENA_NEW(arena, s->cut, search->stages + 1));
  s->rank_of_stage = draft.rank_of_stage;
  count_in_flight(&draft, s->in_flight);
  for (int i = 0; i < search->stages; i++) {
    s->allowed[i] = limits[draft.rank_of_stage[i]];
    s->seconds[i] = search->items.seconds[draft.rank_of_stage[i]];
  }
  TRY(ARENA_NEW(arena, s->cut_seconds, search->stages));
  return plan_price_cuts(search, &search->items, arena, draft.rank_of_stage, s->cut_seconds);
}

static Status find_free_cuts(const PlanSearch *search, PartitionProblem problem, const int *rank_of_stage,
                             const FreeCuts **free_cuts) {
  size_t bytes = (size_t)search->stages * sizeof *rank_of_stage;
  FreeCuts *found;
  int *cut;
  for (*free_cuts = *search->free_cuts; *free_cuts; *free_cuts = (*free_cuts)->next)
    if (memcmp((*free_cuts)->rank_of_stage, rank_of_stage, bytes) == 0)
      return OK;
  TRY(ARENA_NEW(search->arena, found, 1));
  TRY(ARENA_NEW(search->arena, cut, search->stages + 1));
  if (!(found->rank_of_stage = arena_copy(search->arena, rank_of_stage, bytes)))
    return status_code();
  problem.fits = NULL;
  TRY(partition_solve(&problem, cut, &found->bottleneck));
  found->next = *search->free_cuts;
  found->cut = cut;
  *free_cuts = *search->free_cuts = found;
  return OK;
}

/* The best cuts that fit. */
static Status find_cuts(const PlanSearch *search, PartitionProblem problem, Steering *steering) {
  const FreeCuts *found;
  bool all = true;
  TRY(find_free_cuts(search, problem, steering->rank_of_stage, &found));
  for (int s = 0; s < search->stages && all; s++)
    all = fits(steering, s, found->cut[s], found->cut[s + 1]);
  problem.at_least = found->bottleneck;
  double bottleneck;
  if (!all)
    return partition_solve(&problem, steering->cut, &bottleneck);
  memcpy(steering->cut, found->cut, (size_t)(search->stages + 1) * sizeof *found->cut);
  return OK;
}

/* Cuts, lays out, and cuts again with what was learnt where a rank lacks memory. E_LIMIT without a useful message
 * where that comes to no end. */
static Status steer(const PlanSearch *search, Arena *arena, const size_t *limits, Steering *steering,
                    PlanCandidate *candidate) {
  PartitionProblem problem = {.n_items = search->items.n,
                              .n_stages = search->stages,
                              .seconds = steering->seconds,
                              .cut_seconds = steering->cut_seconds,
                              .may_cut = search->items.may_cut,
                              .fits = fits,
                              .context = steering};
  int rounds = search->recompute == RECOMPUTE_NONE ? MOST_ROUNDS : MOST_ROUNDS_AGAIN; /* which take longer */
  for (int round = 0; round < rounds; round++) {
    Plan plan;
    TRY(find_cuts(search, problem, steering));
    memcpy(candidate->cut, steering->cut, (size_t)(search->stages + 1) * sizeof *candidate->cut);
    candidate->again = NULL;
    TRY(plan_build(search, arena, candidate, &plan));
    plan_judge(&plan, limits, candidate);
    if (search->recompute == RECOMPUTE_FULL || (search->recompute == RECOMPUTE_AUTO && candidate->excess)) {
      TRY(plan_recompute(search, &plan, limits, false, candidate));
      TRY(plan_build(search, arena, candidate, &plan)); /* whose stages are to tighten */
    }
    if (candidate->excess == 0)
      return OK;
    tighten(search, &plan, limits, round >= ROUNDS_OF_FEW, steering);
  }
  return fail(E_LIMIT, "no cut into %d stages fits the memory", search->stages);
}

Status plan_try_schedule(const PlanSearch *search, const char *schedule, const size_t *limits,
                         PlanCandidate *candidate) {
  Arena *arena = arena_create();
  Steering steering;
  if (!arena)
    return status_code();
  candidate->schedule = schedule;
  Status status = prepare_steering(search, arena, candidate, limits, &steering);
  if (status == OK)
    status = steer(search, arena, limits, &steering, candidate);
  arena_destroy(arena);
  return status;
}
