/* Owns the choice among placements: each is searched in turn, the promising ones longer. Invariant: the work done is a
 * function of the request alone. */
#include "partitioner/synthesis/internal.h"

#include <math.h>

/* How many operations are placed or timed for a placement, at most, and how often each operation of its problem: less
 * often where they are many, for then what repeats decides, and that is soon found. */
static const double most_effort = 1e7, most_tries = 8000, many_operations = 5e4;
enum { ROUNDS = 4 };

typedef struct {
  Problem problem;
  Search *search;
  bool fits; /* and is searched */
  double most_effort;
} Contest;

void placement_ranks(Placement placement, int ranks, int chunks, int *rank_of_stage) {
  for (int stage = 0; stage < ranks * chunks; stage++) {
    int chunk = stage / ranks, at = stage % ranks;
    rank_of_stage[stage] = placement == PLACE_LINE             ? stage / chunks
                           : placement == PLACE_V && chunk % 2 ? ranks - 1 - at
                                                               : at;
  }
}

static double reached(const Contest *contest) {
  return contest->fits ? search_best(contest->search)->value : INFINITY;
}

/* Index of the best; of those that fit, whose bound the best does not rule out, in `open`. */
static int leader(const Contest *contests, int n) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (reached(&contests[i]) < reached(&contests[best]))
      best = i;
  return best;
}

static bool beats(const AutoRequest *request, double seconds) {
  return request->beat_seconds == 0 || seconds < request->beat_seconds;
}

static Status unbeaten(const AutoRequest *request) {
  return fail(E_LIMIT, "auto: no schedule below %g seconds was found", request->beat_seconds);
}

static double effort(const Contest *contest) {
  double operations = contest->problem.operations;
  return fmin(fmin(contest->most_effort, most_tries * operations), most_effort * many_operations / operations);
}

static bool still_open(const Contest *contests, int i, int best) {
  return contests[i].fits && (i == best || contests[i].problem.bound_seconds < reached(&contests[best]) * (1 - 1e-9));
}

static Status run_contests(Arena *scratch, Contest *contests, int n) {
  for (int i = 0; i < n; i++)
    if (contests[i].fits) {
      TRY(search_rounds(contests[i].search));
      TRY(search_named(contests[i].search, effort(&contests[i])));
    }
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < n; i++) {
      int best = leader(contests, n);
      if (!still_open(contests, i, best))
        continue;
      double share = round == 0 || i == best ? 1 : 0.25;
      search_run(contests[i].search, share * effort(&contests[i]) / ROUNDS);
    }
  for (int i = 0; i < n; i++)
    if (still_open(contests, i, leader(contests, n)))
      TRY(search_polish(scratch, contests[i].search, effort(&contests[i]) * (i == leader(contests, n) ? 1 : 0.1),
                        effort(&contests[i])));
  return OK;
}

static Status make_contests(Arena *scratch, const AutoRequest *request, Contest *contests) {
  bool any = false, hopeless = false;
  for (int i = 0; i < request->n_candidates; i++) {
    TRY(problem_make(scratch, &request->candidates[i], request->objective, &contests[i].problem));
    contests[i].most_effort = request->most_effort > 0 ? request->most_effort : most_effort;
    contests[i].fits = problem_fits(&contests[i].problem) == OK;
    if (contests[i].fits && beats(request, contests[i].problem.bound_seconds)) {
      TRY(search_make(scratch, &contests[i].problem, (uint64_t)i + 1, &contests[i].search));
      any = true;
    } else {
      hopeless |= contests[i].fits;
      contests[i].fits = false;
    }
  }
  if (hopeless && !any)
    return unbeaten(request);
  return any ? OK : E_LIMIT; /* the message is problem_fits' */
}

Status schedule_lower_bound(const Timing *timing, Objective objective, double *seconds) {
  Arena *scratch = arena_create();
  AutoCandidate candidate = {.timing = timing};
  Problem problem = {0};
  Status status = scratch ? problem_make(scratch, &candidate, objective, &problem) : status_code();
  *seconds = problem.bound_seconds;
  arena_destroy(scratch);
  return status;
}

static Status synthesise(Arena *arena, Arena *scratch, const AutoRequest *request, Schedule *schedule,
                         AutoReport *report) {
  Contest *contests;
  TRY(ARENA_NEW(scratch, contests, request->n_candidates));
  TRY(make_contests(scratch, request, contests));
  TRY(run_contests(scratch, contests, request->n_candidates));
  int best = leader(contests, request->n_candidates);
  if (!beats(request, reached(&contests[best])))
    return unbeaten(request);
  *report = (AutoReport){.chosen = best, .lower_bound_seconds = INFINITY};
  for (int i = 0; i < request->n_candidates; i++)
    if (contests[i].fits)
      report->lower_bound_seconds = fmin(report->lower_bound_seconds, contests[i].problem.bound_seconds);
  Schedule computes;
  TRY(order_schedule(arena, &contests[best].problem, search_best(contests[best].search), &computes));
  TRY(schedule_add_transfers(arena, &computes, request->candidates[best].crossings, schedule));
  Simulation simulation;
  TRY(simulate_schedule(scratch, schedule, request->candidates[best].timing, &simulation));
  double value = request->objective == OBJECTIVE_SPAN ? simulation.longest_span_seconds : simulation.makespan_seconds;
  report->gap = report->lower_bound_seconds > 0 ? value / report->lower_bound_seconds - 1 : 0;
  return OK;
}

Status schedule_auto(Arena *arena, const AutoRequest *request, Schedule *schedule, AutoReport *report) {
  if (request->n_candidates < 1)
    return fail(E_USAGE, "auto: there is no placement to choose from");
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = synthesise(arena, scratch, request, schedule, report);
  arena_destroy(scratch);
  return status;
}
