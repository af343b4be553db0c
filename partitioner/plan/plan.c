/* Makes plans: tries schedules, cuts for each, and takes the fastest that fits. Invariant: what is returned was laid
 * out and proved as a whole; estimates only steer the search. */
#include "partitioner/plan/plan.h"

#include <math.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"

enum { FEW_ROUNDS = 8, FEW_TRIALS = 3 };

Status plan_draw(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate, const Crossings *crossings,
                 Schedule *schedule) {
  const PlanRequest *r = search->request;
  const Schedule *given = candidate->synthesis ? candidate->synthesis : r->given;
  if (!given)
    return (crossings ? schedule_generate : schedule_computes)(arena, candidate->schedule, r->ranks, r->chunks,
                                                               r->microbatches, crossings, schedule);
  TRY(schedule_copy(arena, given, schedule));
  if (!crossings)
    return OK;
  Status status = schedule_complete(arena, crossings, schedule, NULL);
  if (status == OK)
    status = schedule_check(schedule, crossings);
  return status == E_USAGE ? status_adopt(E_MODEL, status_message()) : status;
}

Status plan_build(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate, Plan *plan) {
  const PlanRequest *r = search->request;
  const int *cut = candidate->cut;
  Crossings crossings;
  *plan = (Plan){.graph = search->graph,
                 .ranks = r->ranks,
                 .chunks = r->chunks,
                 .stages = search->stages,
                 .microbatches = r->microbatches,
                 .microbatch_size = r->microbatch_size,
                 .objective = r->objective,
                 .link = r->link,
                 .capacity = r->capacity,
                 .recompute = r->recompute};
  plan->model_hash = arena_string(arena, r->model_hash);
  plan->loss = r->loss;
  plan->optimizer = r->optimizer;
  plan->device = r->device;
  plan->precision = r->precision;
  plan->offload = r->offload;
  TRY(plan_copy_ties(arena, r->ties, &plan->ties));
  TRY(ARENA_NEW(arena, plan->stage_of, search->graph->n_nodes));
  for (int s = 0; s < search->stages; s++)
    for (int i = cut[s]; i < cut[s + 1]; i++)
      plan->stage_of[search->items.node[i]] = s;
  plan->memory_limits = arena_copy(arena, search->limits, (size_t)r->ranks * sizeof *search->limits);
  if (!plan->memory_limits || !plan->model_hash)
    return status_code();
  if (candidate->again &&
      !(plan->again = arena_copy(arena, candidate->again, search->graph->n_nodes * sizeof *plan->again)))
    return status_code();
  TRY(plan_cut(arena, plan));
  TRY(plan_crossings(arena, plan, &crossings));
  TRY(plan_draw(search, arena, candidate, &crossings, &plan->schedule));
  TRY(plan_finish(arena, plan));
  TRY(plan_time(&search->items, r, plan));
  return plan_predict(plan);
}

void plan_judge(const Plan *plan, const size_t *limits, PlanCandidate *candidate) {
  candidate->step_seconds = plan->step_seconds;
  candidate->excess = candidate->largest = 0;
  for (int r = 0; r < plan->ranks; r++) {
    size_t total = plan->rank_memory[r].total_bytes;
    candidate->largest = total > candidate->largest ? total : candidate->largest;
    if (total > limits[r] && total - limits[r] > candidate->excess) {
      candidate->excess = total - limits[r];
      candidate->rank = r;
      candidate->needs = total;
    }
  }
}

/* Faster, or as fast (to one in a thousand) with less memory; where only memory counts, smaller. */
static bool is_better(const PlanCandidate *a, const PlanCandidate *b, bool by_memory) {
  if (by_memory)
    return a->largest < b->largest;
  if (a->step_seconds < b->step_seconds * (1 - 1e-3))
    return true;
  return a->step_seconds <= b->step_seconds * (1 + 1e-3) && a->largest < b->largest;
}

static void take(const PlanSearch *search, const PlanCandidate *candidate, PlanCandidate *best) {
  int *cut = best->cut;
  *best = *candidate;
  best->cut = memcpy(cut, candidate->cut, (size_t)(search->stages + 1) * sizeof *cut);
}

/* As plan_try_schedule, but only what so many microbatches let expect of them all: what a further one takes, in time
 * and memory, is the same every time, and rounds of all stages are whole. */
static Status foresee(const PlanSearch *search, const char *schedule, const size_t *limits, PlanCandidate *candidate) {
  PlanRequest request = *search->request;
  PlanSearch fewer = *search;
  PlanCandidate first = *candidate;
  int all = request.microbatches, step = FEW_ROUNDS * search->stages, few = step + all % search->stages;
  fewer.request = &request;
  request.microbatches = few;
  TRY(ARENA_NEW(search->arena, first.cut, search->stages + 1));
  TRY(plan_try_schedule(&fewer, schedule, limits, &first));
  request.microbatches = few + step;
  TRY(plan_try_schedule(&fewer, schedule, limits, candidate));
  double times = (double)(all - few - step) / step;
  double growth = candidate->largest > first.largest ? (double)(candidate->largest - first.largest) : 0;
  candidate->step_seconds += times * (candidate->step_seconds - first.step_seconds);
  candidate->largest = (size_t)fmin((double)candidate->largest + times * growth, 9e18);
  return OK;
}

/* One schedule after the other. With many microbatches only the few that promise most. */
typedef struct {
  const char *const *names;
  bool many, by_memory;
  PlanCandidate *promises; /* [names] */
  Status *status;          /* [names] of the promises, then of the plans */
  int n;
} Trials;

static Status list_trials(const PlanSearch *search, const size_t *limits, Trials *t) {
  while (t->names[t->n])
    t->n++;
  t->many = t->n > 1 && search->request->microbatches > 4 * FEW_ROUNDS * search->stages;
  TRY(ARENA_NEW(search->arena, t->promises, t->n));
  TRY(ARENA_NEW(search->arena, t->status, t->n));
  for (int i = 0; i < t->n && t->many; i++) {
    TRY(ARENA_NEW(search->arena, t->promises[i].cut, search->stages + 1));
    t->status[i] = foresee(search, t->names[i], limits, &t->promises[i]);
    if (t->status[i] == E_MEMORY)
      return E_MEMORY;
  }
  return OK;
}

/* The most promising of those that are left; -1: none. */
static int next_trial(const Trials *t, const bool *tried) {
  int next = -1;
  for (int i = 0; i < t->n; i++)
    if (!tried[i] && t->status[i] == OK &&
        (next < 0 || (t->many && is_better(&t->promises[i], &t->promises[next], t->by_memory))))
      next = i;
  return next;
}

/* The best of the schedules that the request allows. Where none can be, E_LIMIT if memory hindered one, else as the
 * last one failed. */
static Status try_schedules(const PlanSearch *search, const size_t *limits, bool by_memory, PlanCandidate *best) {
  const char *one[] = {search->request->given ? search->request->given->name : search->request->schedule, NULL};
  Trials trials = {.names = one, .by_memory = by_memory};
  PlanCandidate candidate = {0};
  Status status = OK;
  int found = 0;
  bool short_of_memory = false, *tried;
  bool open = !search->request->given && strcmp(one[0], "auto") == 0;
  if (open && search->graph->loss_sum == NO_VALUE)
    one[0] = "forward";
  else if (open && by_memory && search->recompute != RECOMPUTE_NONE) /* many plans, each of which takes long */
    one[0] = search->request->chunks > 1 ? "interleaved-1f1b" : "1f1b";
  else if (open)
    trials.names = schedule_names;
  TRY(ARENA_NEW(search->arena, candidate.cut, search->stages + 1));
  TRY(list_trials(search, limits, &trials));
  TRY(ARENA_NEW(search->arena, tried, trials.n));
  for (int i; (i = next_trial(&trials, tried)) >= 0 && !(trials.many && found == FEW_TRIALS);) {
    tried[i] = true;
    status = trials.status[i] = plan_try_schedule(search, trials.names[i], limits, &candidate);
    if (status == E_MEMORY)
      return status;
    if (status != OK)
      continue;
    if (found++ == 0 || is_better(&candidate, best, by_memory))
      take(search, &candidate, best);
  }
  if (found)
    return OK;
  for (int i = 0; i < trials.n; i++) {
    short_of_memory |= trials.status[i] == E_LIMIT;
    status = trials.status[i];
  }
  if (short_of_memory && status_last() != E_LIMIT)
    return fail(E_LIMIT, "no cut into %d stages fits the memory", search->stages);
  return short_of_memory ? E_LIMIT : status;
}

char *plan_bytes_text(size_t bytes, char *text) {
  static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = (double)bytes;
  int u = 0;
  for (; value >= 1024 && u < 6; u++)
    value /= 1024;
  snprintf(text, 24, u ? "%.1f %s" : "%.0f %s", value, unit[u]);
  return text;
}

/* The best plan with every limit raised by so much, judged by the limits as they are. */
static Status try_raised(const PlanSearch *search, size_t by, PlanCandidate *best) {
  Arena *arena = arena_create();
  size_t *raised = arena ? arena_alloc(arena, (size_t)search->request->ranks, sizeof *raised) : NULL;
  Plan plan;
  Status status = raised ? OK : status_code();
  for (int r = 0; raised && r < search->request->ranks; r++)
    raised[r] = search->limits[r] < SIZE_MAX - by ? search->limits[r] + by : SIZE_MAX;
  if (status == OK)
    status = try_schedules(search, raised, true, best);
  if (status == OK)
    status = plan_build(search, arena, best, &plan);
  if (status == OK)
    plan_judge(&plan, search->limits, best);
  arena_destroy(arena);
  return status;
}

/* Bisects for the least amount by which all limits must rise; 0 where *best, a plan that then fits, shows that none
 * must. */
static Status find_shortage(const PlanSearch *search, PlanCandidate *best, size_t *amount) {
  size_t low = 0, high;
  int rounds = (double)search->items.n * search->stages > 1e5 || search->recompute != RECOMPUTE_NONE ? 10 : 40;
  PlanCandidate trial = {0};
  TRY(ARENA_NEW(search->arena, trial.cut, search->stages + 1));
  TRY(try_raised(search, SIZE_MAX / 2, best)); /* no limits */
  high = best->excess;
  while (rounds-- > 0 && high > low + MEMORY_ALIGNMENT) {
    size_t middle = low + (high - low) / 2;
    Status status = try_raised(search, middle, &trial);
    if (status == E_LIMIT) {
      low = middle;
      continue;
    }
    TRY(status);
    high = trial.excess; /* at most middle */
    int *cut = best->cut;
    *best = trial;
    trial.cut = cut;
  }
  *amount = high;
  /* Cuts are steered by estimates, so what one plan takes as its limit need not lead to that plan again. */
  while (*amount) {
    Status status = try_raised(search, *amount, &trial);
    if (status != E_LIMIT)
      return status;
    *amount += *amount / 16 + MEMORY_ALIGNMENT;
  }
  return OK;
}

/* Says which rank lacks how much, for which stages, and what would do. OK where the search for that comes upon a plan
 * that fits, *best: one that the limits' own estimates had led away from. */
static Status explain_shortage(const PlanSearch *search, PlanCandidate *best) {
  size_t amount = 0;
  bool uniform = true, brief = search->request->brief;
  if (brief)
    TRY(try_raised(search, SIZE_MAX / 2, best));
  else
    TRY(find_shortage(search, best, &amount));
  if (brief ? best->excess == 0 : amount == 0)
    return OK;
  for (int i = 0; i < search->request->ranks; i++)
    uniform &= search->limits[i] == search->limits[0];
  Plan plan;
  TRY(plan_build(search, search->arena, best, &plan));
  char lacks[24], needs[24], limit[24], rank[96];
  plan_rank_text(&plan, best->rank, rank);
  plan_bytes_text(best->excess, lacks);
  plan_bytes_text(best->needs, needs);
  plan_bytes_text(search->limits[best->rank], limit);
  if (brief)
    return fail(E_LIMIT, "%s lacks %s: it needs %s, its limit is %s", rank, lacks, needs, limit);
  if (uniform)
    return fail(E_LIMIT, "%s lacks %s: it needs %s, the limit is %s; a limit of %zu would do", rank, lacks, needs,
                limit, search->limits[0] + amount);
  return fail(E_LIMIT, "%s lacks %s: it needs %s, its limit is %s; all limits raised by %zu bytes would do", rank,
              lacks, needs, limit, amount);
}

typedef struct {
  const PlanWishes *wishes;
  const int *rank_of_stage;
} Wished;

static bool is_wished(void *context, int stage, int from, int to) {
  const Wished *w = context;
  return plan_wishes_allow(w->wishes, w->rank_of_stage[stage], from, to);
}

/* Whether any placement can have what is wished, whatever memory it takes. */
static Status check_wishes(const PlanSearch *search) {
  const PlanRequest *r = search->request;
  int *rank_of_stage, *cut;
  double bottleneck, *nothing;
  const double **seconds;
  TRY(ARENA_NEW(search->arena, rank_of_stage, search->stages));
  TRY(ARENA_NEW(search->arena, cut, search->stages + 1));
  TRY(ARENA_NEW(search->arena, seconds, search->stages));
  TRY(ARENA_NEW(search->arena, nothing, search->items.n + 1));
  for (int s = 0; s < search->stages; s++)
    seconds[s] = nothing;
  Wished wished = {search->wishes, rank_of_stage};
  PartitionProblem problem = {.n_items = search->items.n,
                              .n_stages = search->stages,
                              .seconds = seconds,
                              .cut_seconds = seconds,
                              .may_cut = search->items.may_cut,
                              .fits = is_wished,
                              .context = &wished};
  for (Placement placement = PLACE_LINE; placement <= PLACE_V; placement++) {
    placement_ranks(placement, r->ranks, r->chunks, rank_of_stage);
    Status status = partition_solve(&problem, cut, &bottleneck);
    if (status != E_LIMIT)
      return status;
  }
  return fail(E_USAGE, "no cut into %d stages has all that --cut, --pin and --same-stage ask for", search->stages);
}

static Status prepare(PlanSearch *search) {
  const PlanRequest *r = search->request;
  size_t *limits;
  search->stages = r->ranks * r->chunks;
  NodeId *order = NULL;
  TRY(plan_items(search->arena, search->graph, r, NULL, &search->items));
  TRY(plan_wish(search->arena, search->graph, r, &search->items, &search->wishes));
  if (!search->wishes) /* they speak of the graph's order */
    TRY(plan_order(search, &order));
  if (order)
    TRY(plan_items(search->arena, search->graph, r, order, &search->items));
  TRY(partition_check_cuts(search->items.may_cut, search->items.n, search->stages)); /* before schedules are drawn */
  if (search->wishes)
    TRY(check_wishes(search));
  TRY(ARENA_NEW(search->arena, search->free_cuts, 1));
  TRY(plan_window_create(search->arena, search->graph, &search->items, &search->window));
  TRY(plan_limits(search->arena, r, r->ranks, &limits));
  search->limits = limits;
  return OK;
}

/* What a step takes without the wishes; 0: it does not fit. */
static Status try_freely(const PlanSearch *search, double *seconds) {
  PlanRequest request = *search->request;
  PlanSearch freely = {.arena = search->arena, .graph = search->graph, .request = &request};
  PlanCandidate best = {0};
  *seconds = 0;
  request.wishes = NULL;
  TRY(prepare(&freely));
  TRY(ARENA_NEW(search->arena, best.cut, freely.stages + 1));
  Status status = try_schedules(&freely, freely.limits, false, &best);
  if (status == OK)
    *seconds = best.step_seconds;
  return status == E_LIMIT ? OK : status;
}

/* Whether a schedule made for the stages is asked for. */
static bool is_open(const PlanSearch *search) {
  const PlanRequest *r = search->request;
  return r->synthesize && !r->given && strcmp(r->schedule, "auto") == 0 && search->graph->loss_sum != NO_VALUE;
}

/* The fastest plan by name. Where none fits as it is, one that computes as little anew as it must. */
static Status find_named(PlanSearch *search, PlanCandidate *best) {
  Recomputation asked = search->graph->loss_sum == NO_VALUE ? RECOMPUTE_NONE : search->request->recompute;
  search->recompute = asked == RECOMPUTE_AUTO ? RECOMPUTE_NONE : asked;
  Status status = try_schedules(search, search->limits, false, best);
  if (status == E_LIMIT && asked == RECOMPUTE_AUTO) {
    search->recompute = asked;
    status = try_schedules(search, search->limits, false, best);
  }
  if (status == E_LIMIT && asked == RECOMPUTE_AUTO && search->request->brief) /* what lacks at best */
    search->recompute = RECOMPUTE_FULL;
  return status == E_LIMIT ? explain_shortage(search, best) : status;
}

/* The plan of the same candidate that computes nothing anew. */
static Status build_plain(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate, Plan *plan) {
  PlanCandidate plain = *candidate;
  plain.again = NULL;
  return plan_build(search, arena, &plain, plan);
}

/* Now that it is chosen, with as little as will do. */
static Status relax(const PlanSearch *search, PlanCandidate *best) {
  Plan plain;
  PlanCandidate trial = *best;
  if (search->recompute != RECOMPUTE_AUTO || !best->again)
    return OK;
  TRY(build_plain(search, search->arena, best, &plain));
  TRY(plan_recompute(search, &plain, search->limits, true, &trial));
  if (trial.excess == 0 && trial.step_seconds < best->step_seconds)
    *best = trial;
  return OK;
}

static Status count_spared(const PlanSearch *search, Arena *arena, const PlanCandidate *best, Plan *plan) {
  Plan plain;
  TRY(ARENA_NEW(arena, plan->spared_bytes, plan->ranks));
  TRY(build_plain(search, search->arena, best, &plain));
  for (int r = 0; r < plan->ranks; r++) {
    size_t without = plain.rank_memory[r].total_bytes, with = plan->rank_memory[r].total_bytes;
    plan->spared_bytes[r] = without > with ? without - with : 0;
  }
  return OK;
}

static Status make(PlanSearch *search, Arena *arena, Plan *plan) {
  PlanCandidate best = {0};
  double free_step_seconds = 0;
  TRY(prepare(search));
  if (search->wishes)
    TRY(try_freely(search, &free_step_seconds));
  TRY(ARENA_NEW(search->arena, best.cut, search->stages + 1));
  TRY(find_named(search, &best));
  TRY(relax(search, &best));
  const char *named = best.schedule;
  double named_step_seconds = best.step_seconds;
  PlanSynthesis synthesis = {0};
  if (is_open(search))
    TRY(plan_synthesise(search, &best, &synthesis));
  TRY(plan_build(search, arena, &best, plan));
  TRY(plan_weigh_cuts(search, arena, plan));
  TRY(plan_price_skips(search->request, plan));
  if (search->wishes) {
    plan->wished_step_seconds = named_step_seconds;
    plan->free_step_seconds = free_step_seconds;
  }
  if (is_open(search)) {
    plan->named = named;
    plan->named_step_seconds = named_step_seconds;
    plan->lower_bound_seconds = synthesis.lower_bound_seconds;
  }
  return plan->again ? count_spared(search, arena, &best, plan) : OK;
}

Status plan_make(Arena *arena, Graph *graph, const PlanRequest *request, Plan *plan) {
  PlanSearch search = {.arena = arena_create(), .graph = graph, .request = request};
  if (!search.arena)
    return status_code();
  Status status = make(&search, arena, plan);
  arena_destroy(search.arena);
  return status;
}
