/* A schedule made for the stages of a plan. Invariant: it is taken only where the whole plan, laid out and proved, is
 * faster than the fastest by name and fits; what steers the synthesis are estimates of its memory. */
#include <math.h>
#include <string.h>

#include "partitioner/plan/internal.h"

/* Operations that synthesis may place or time: some tenths of a second. */
static const double EFFORT = 1e6;
/* What is less than this much faster is not worth another schedule. */
static const double WORTH = 1e-3;

enum { PLACEMENTS = 3, MOST_CONTENDERS = 5, MOST_ROUNDS = 8, MOST_MICROBATCHES = 1024 };

/* Stages of one placement, cut for a named schedule that has it. */
typedef struct {
  PlanCandidate named;
  Placement placement;
  Crossings crossings;
  Timing timing;     /* memory in bytes of what backward keeps, B and W split */
  double *fixed;     /* [ranks]: bytes of everything else */
  double *limits;    /* [ranks]: timing's */
  size_t *taken;     /* [ranks]: bytes with the named schedule */
  size_t *least;     /* [ranks]: bytes beside what backward keeps, with any schedule */
  double most_freed; /* the largest fraction of what a stage keeps that its B frees */
  double update_seconds;
} Contender;

typedef struct {
  const PlanSearch *search;
  Arena *arena;
  Contender contenders[MOST_CONTENDERS];
  int n;
} Synthesis;

/* The first that the plan has; PLACE_V is what is left. */
static Status find_placement(Arena *arena, const Plan *plan, Placement *placement) {
  int *rank_of_stage;
  TRY(ARENA_NEW(arena, rank_of_stage, plan->stages));
  for (*placement = 0; *placement < PLACE_V; ++*placement) {
    placement_ranks(*placement, plan->ranks, plan->chunks, rank_of_stage);
    if (memcmp(rank_of_stage, plan->schedule.rank_of_stage, (size_t)plan->stages * sizeof(int)) == 0)
      break;
  }
  return OK;
}

/* Whether the block is what Timing.activation counts: made by F at the latest, kept for backward. */
static bool is_kept(const Block *block) {
  return block->born <= POINT_F && block->dies > POINT_F;
}

/* Beside what backward keeps a rank holds each other block once, what lies in no block, and what is there for the whole
 * run. Of two layouts of the same stages the smaller counts. */
static void note_least(const Plan *plan, Contender *c) {
  for (int r = 0; r < plan->ranks; r++) {
    const RankMemory *rank = &plan->rank_memory[r];
    size_t bytes = rank->total_bytes - rank->activation_bytes;
    for (int s = 0; s < plan->stages; s++)
      for (int b = 0; plan->schedule.rank_of_stage[s] == r && b < plan->stage_memory[s].n_blocks; b++)
        bytes += is_kept(&plan->stage_memory[s].blocks[b]) ? 0 : plan->stage_memory[s].blocks[b].bytes;
    c->least[r] = bytes < c->least[r] ? bytes : c->least[r];
  }
}

static Status join_and_note(Plan plan, Contender *c) {
  Arena *arena = arena_create();
  plan.schedule.joined = true; /* B and W in the lists count as one */
  Status status = arena ? plan_memory(arena, &plan) : status_code();
  if (status == OK)
    note_least(&plan, c);
  arena_destroy(arena);
  return status;
}

/* The layouts with B and W joined and apart; the plan is left with the latter. */
static Status lay_out(Arena *arena, Arena *scratch, Plan *plan, Contender *c) {
  TRY(ARENA_NEW(arena, c->least, plan->ranks));
  for (int r = 0; r < plan->ranks; r++)
    c->least[r] = SIZE_MAX;
  if (plan->schedule.joined) {
    note_least(plan, c);
    plan->schedule.joined = false; /* a BW in the lists counts as both */
    TRY(plan_memory(scratch, plan));
  } else {
    TRY(join_and_note(*plan, c));
  }
  note_least(plan, c);
  return OK;
}

/* Activations with B and W apart, what B frees less what it leaves for W, and the rest of each rank's memory. */
static Status weigh(Arena *arena, Arena *scratch, Plan *plan, Contender *c) {
  double *activation, all = 0, freed = 0;
  TRY(lay_out(arena, scratch, plan, c));
  TRY(ARENA_NEW(arena, activation, plan->stages));
  TRY(ARENA_NEW(arena, c->fixed, plan->ranks));
  for (int r = 0; r < plan->ranks; r++)
    c->fixed[r] = (double)plan->rank_memory[r].total_bytes;
  for (int s = 0; s < plan->stages; s++) {
    const StageMemory *memory = &plan->stage_memory[s];
    int rank = plan->schedule.rank_of_stage[s];
    double goes = 0;
    for (int b = 0; b < memory->n_blocks; b++) {
      const Block *block = &memory->blocks[b];
      double bytes = (double)block->bytes;
      if (is_kept(block)) {
        activation[s] += bytes;
        goes += block->dies == POINT_W ? 0 : bytes;
        c->fixed[rank] -= bytes * plan->rank_memory[rank].blocks[s][b].slots;
      } else if (block->born > POINT_F && block->dies == POINT_W) {
        freed -= bytes;
        c->fixed[rank] -= bytes * plan->rank_memory[rank].blocks[s][b].slots;
      }
    }
    all += activation[s];
    freed += goes;
    c->most_freed = fmax(c->most_freed, activation[s] > 0 ? goes / activation[s] : 0);
  }
  c->timing.activation = activation;
  c->timing.backward_input_frees = all > 0 ? fmax(0, freed / all) : 0;
  return OK;
}

/* What the synthesis needs of the named plan, which itself lives in `scratch`. */
static Status contend(Synthesis *s, Arena *scratch, const PlanCandidate *named, bool seen[PLACEMENTS]) {
  Contender *c = &s->contenders[s->n++];
  Plan plan;
  TRY(plan_build(s->search, scratch, named, &plan));
  *c = (Contender){.named = *named, .update_seconds = plan.update_seconds};
  TRY(find_placement(scratch, &plan, &c->placement));
  seen[c->placement] = true;
  TRY(ARENA_NEW(s->arena, c->limits, plan.ranks));
  TRY(ARENA_NEW(s->arena, c->taken, plan.ranks));
  for (int r = 0; r < plan.ranks; r++)
    c->taken[r] = plan.rank_memory[r].total_bytes;
  TRY(plan_timing(s->arena, &plan, &c->timing));
  c->timing.rank_of_stage =
      arena_copy(s->arena, plan.schedule.rank_of_stage, (size_t)plan.stages * sizeof *plan.schedule.rank_of_stage);
  if (!c->timing.rank_of_stage)
    return status_code();
  TRY(plan_crossings(s->arena, &plan, &c->crossings));
  TRY(weigh(s->arena, scratch, &plan, c));
  c->timing.memory_limit = c->limits;
  return OK;
}

static Status prepare(Synthesis *s, const PlanCandidate *named, bool seen[PLACEMENTS]) {
  Arena *scratch = arena_create();
  Status status = scratch ? contend(s, scratch, named, seen) : status_code();
  arena_destroy(scratch);
  return status;
}

/* The stages of `best`, first; then other placements, with the cuts of a named schedule that has them and fits, and
 * with those of `best`. */
static Status list_contenders(Synthesis *s, const PlanCandidate *best) {
  static const char *const names[] = {"interleaved-1f1b", "zb-v", "v-half", "v-min"};
  const PlanRequest *r = s->search->request;
  size_t bytes = (size_t)(s->search->stages + 1) * sizeof *best->cut;
  bool seen[PLACEMENTS] = {false};
  TRY(prepare(s, best, seen));
  if (r->microbatches > MOST_MICROBATCHES) /* the steady state decides, and that is work alone */
    return OK;
  for (size_t i = 0; r->chunks > 1 && i < sizeof names / sizeof *names; i++) {
    PlanCandidate other = {0};
    TRY(ARENA_NEW(s->arena, other.cut, s->search->stages + 1));
    if (seen[i == 0 ? PLACE_LOOP : PLACE_V])
      continue;
    Status status = plan_try_schedule(s->search, names[i], s->search->limits, &other);
    if (status == E_MEMORY)
      return status;
    if (status != OK)
      continue;
    TRY(prepare(s, &other, seen));
    if (memcmp(other.cut, best->cut, bytes) == 0 || s->search->wishes) /* of other ranks */
      continue;
    PlanCandidate same = {.schedule = names[i], .cut = best->cut, .again = best->again};
    TRY(prepare(s, &same, seen));
  }
  return OK;
}

/* Of all schedules of the contenders' stages that fit the memory: they hold what backward keeps of each microbatch from
 * its F on, at least the part of it that no stage's B frees until W, and beside it no less than `least`. The bound
 * knows no cut that nothing crosses: 0 where there is one. */
static Status bound(const Synthesis *s, double *least) {
  double *limit;
  TRY(ARENA_NEW(s->arena, limit, s->search->request->ranks));
  *least = INFINITY;
  for (int i = 0; i < s->n; i++) {
    Timing timing = s->contenders[i].timing;
    const size_t *limits = s->search->limits, *beside = s->contenders[i].least;
    for (int r = 0; r < timing.ranks; r++) /* without room no schedule fits, and nothing is to be proved */
      limit[r] = limits[r] == SIZE_MAX || limits[r] <= beside[r] ? INFINITY : (double)(limits[r] - beside[r]);
    timing.memory_limit = limit;
    timing.backward_input_frees = s->contenders[i].most_freed;
    for (int c = 0; c < timing.stages - 1; c++)
      if (!s->contenders[i].crossings.forward_crosses[c] || !s->contenders[i].crossings.backward_crosses[c]) {
        *least = 0;
        return OK;
      }
    double seconds;
    TRY(schedule_lower_bound(&timing, s->search->request->objective, &seconds));
    *least = fmin(*least, seconds);
  }
  return OK;
}

static void set_limits(Synthesis *s, const size_t *limits) {
  for (int i = 0; i < s->n; i++)
    for (int r = 0; r < s->search->request->ranks; r++) {
      Contender *c = &s->contenders[i];
      double left = limits[r] == SIZE_MAX ? INFINITY : (double)limits[r] - c->fixed[r];
      c->limits[r] = fmax(left, 1);
    }
}

/* The candidate's plan, judged: how much memory each rank takes of it. */
static Status measure(const Synthesis *s, const size_t *limits, PlanCandidate *found, size_t *total) {
  Arena *scratch = arena_create();
  Plan plan;
  Status status = scratch ? plan_build(s->search, scratch, found, &plan) : status_code();
  if (status == OK)
    plan_judge(&plan, limits, found);
  for (int rank = 0; status == OK && rank < plan.ranks; rank++)
    total[rank] = plan.rank_memory[rank].total_bytes;
  arena_destroy(scratch);
  return status;
}

/* Ranks over their limit may keep less from now on, by as much as they lack, as many times as it takes until this order
 * would be too much for one of them. */
static Status tighten(Synthesis *s, const Schedule *schedule, const size_t *total, const size_t *limits,
                      Contender *chosen) {
  double *peak, times = INFINITY;
  ScheduleLimits kept = {chosen->timing.activation, chosen->timing.backward_input_frees, NULL};
  TRY(ARENA_NEW(s->arena, peak, schedule->ranks));
  schedule_peaks(schedule, &chosen->crossings, &kept, peak);
  for (int rank = 0; rank < schedule->ranks; rank++)
    if (total[rank] > limits[rank])
      times = fmin(times, 1 + floor(fmax(0, chosen->limits[rank] - peak[rank]) / (double)(total[rank] - limits[rank])));
  for (int rank = 0; rank < schedule->ranks; rank++)
    if (total[rank] > limits[rank])
      chosen->limits[rank] = fmax(chosen->limits[rank] - times * (double)(total[rank] - limits[rank]), 1);
  return OK;
}

/* Synthesises, lays out, and does so again with less where a rank lacks memory. E_LIMIT where that comes to no end, or
 * to nothing faster than `beat_seconds`. */
static Status synthesise(Synthesis *s, const size_t *limits, double beat_seconds, PlanCandidate *found) {
  const PlanRequest *r = s->search->request;
  AutoCandidate candidates[MOST_CONTENDERS];
  for (int i = 0; i < s->n; i++)
    candidates[i] = (AutoCandidate){s->contenders[i].placement, &s->contenders[i].timing, &s->contenders[i].crossings};
  AutoRequest request = {.candidates = candidates,
                         .n_candidates = s->n,
                         .objective = r->objective,
                         .most_effort = EFFORT,
                         .beat_seconds = beat_seconds};
  size_t *total;
  TRY(ARENA_NEW(s->arena, total, r->ranks));
  set_limits(s, limits);
  for (int round = 0; round < MOST_ROUNDS; round++) {
    Schedule *schedule;
    AutoReport report;
    TRY(ARENA_NEW(s->arena, schedule, 1));
    TRY(schedule_auto(s->arena, &request, schedule, &report));
    Contender *chosen = &s->contenders[report.chosen];
    *found = (PlanCandidate){
        .schedule = schedule->name, .synthesis = schedule, .cut = chosen->named.cut, .again = chosen->named.again};
    TRY(measure(s, limits, found, total));
    if (found->excess == 0)
      return OK;
    TRY(tighten(s, schedule, total, limits, chosen));
  }
  return fail(E_LIMIT, "no synthesised schedule fits the memory");
}

/* First with no more memory than the named schedule takes, so that none is spent where no time is won. */
static Status search_schedule(Synthesis *s, PlanCandidate *best, PlanSynthesis *result) {
  TRY(list_contenders(s, best));
  double update_seconds = INFINITY;
  for (int i = 0; i < s->n; i++)
    update_seconds = fmin(update_seconds, s->contenders[i].update_seconds);
  TRY(bound(s, &result->lower_bound_seconds));
  double least = result->lower_bound_seconds + update_seconds;
  double useful = s->search->request->beat_seconds > 0 ? s->search->request->beat_seconds : INFINITY;
  const size_t *limits[] = {s->contenders[0].taken, s->search->limits};
  for (int i = 0; i < 2; i++) {
    double beat_seconds = fmin(best->step_seconds * (1 - WORTH), useful);
    if (beat_seconds <= least)
      break;
    PlanCandidate found;
    Status status = synthesise(s, limits[i], beat_seconds - update_seconds, &found);
    if (status != OK && status != E_LIMIT)
      return status;
    if (status != OK || found.step_seconds >= best->step_seconds * (1 - WORTH))
      continue;
    *best = found; /* its cut is a contender's */
    result->taken = true;
  }
  return OK;
}

Status plan_synthesise(const PlanSearch *search, PlanCandidate *best, PlanSynthesis *result) {
  Synthesis s = {.search = search, .arena = search->arena};
  *result = (PlanSynthesis){0};
  return search->request->ranks > 1 ? search_schedule(&s, best, result) : OK;
}
