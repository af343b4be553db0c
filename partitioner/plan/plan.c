/* Makes plans: tries schedules, cuts for each, and takes the fastest that fits. Invariant: what is returned was laid
 * out and proved as a whole; estimates only steer the search. */
#include "partitioner/plan/plan.h"

#include <math.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"

enum { MOST_ROUNDS = 8, MOST_ROUNDS_AGAIN = 4, ROUNDS_OF_FEW = 3, FEW_ROUNDS = 8, FEW_TRIALS = 3 };

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

/* The candidate's schedule for a plan whose cuts are known; NULL: not yet, it may lack transfers. */
static Status draw(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate, const Crossings *crossings,
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
  TRY(draw(search, arena, candidate, &crossings, &plan->schedule));
  TRY(plan_finish(arena, plan));
  TRY(plan_time(&search->items, r, plan));
  return plan_predict(plan);
}

/* Bytes of a stage by itself. */
static size_t own_bytes(const Plan *plan, int stage) {
  const StageMemory *memory = &plan->stage_memory[stage];
  const RankMemory *rank = &plan->rank_memory[plan->schedule.rank_of_stage[stage]];
  size_t bytes = memory->scratch_bytes + rank->window_bytes;
  for (int b = 0; b < memory->n_blocks; b++)
    bytes += memory->blocks[b].bytes * (size_t)rank->blocks[stage][b].slots;
  for (ValueId v = 0; v < plan->graph->n_values; v++)
    if (plan->cuts.stages[stage].uses[v] && memory_is_persistent(plan->graph, v) &&
        !memory_is_offloaded(rank, plan->graph, v))
      bytes += memory_units(graph_value_bytes(plan->graph, v)) +
               (rank->rounded[v] ? memory_rounded_bytes(plan->graph, v) : 0);
  return bytes;
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
  TRY(draw(search, arena, candidate, NULL, &draft));
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
    double bottleneck;
    Plan plan;
    TRY(partition_solve(&problem, steering->cut, &bottleneck));
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
