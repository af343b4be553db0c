/* Owns what-if studies. Invariant: a result's schedule was proved, within its memory limits, and its lower bound is
 * below what it reaches. */
#include "partitioner/report/study.h"

#include <math.h>
#include <string.h>

/* So much more than its limit a rank may hold: what thirds of a microbatch gather in rounding. */
static const double limit_slack = 1 + 1e-9;

/* ---- numbers that make sense ---- */

/* 30,000 years: sums of times stay finite, and differences of one still count. */
static const double most_ms = 1e15;

static Status check_times(const StudyRequest *request, const char *name, const double *milliseconds) {
  for (int rank = 0; rank < request->ranks; rank++)
    if (!(milliseconds[rank] >= 0))
      return fail(E_USAGE, "%s of rank %d is %g: a time is 0 or more", name, rank, milliseconds[rank]);
    else if (milliseconds[rank] > most_ms)
      return fail(E_USAGE, "%s of rank %d is %g: a time is at most %g", name, rank, milliseconds[rank], most_ms);
  return OK;
}

static Status check_request(const StudyRequest *request) {
  if (request->ranks < 1 || request->ranks > SCHEDULE_LIMIT || request->microbatches < 1 ||
      request->microbatches > SCHEDULE_LIMIT || request->chunks < 0)
    return fail(E_USAGE, "%d ranks, %d microbatches, %d stages a rank: too few or too many", request->ranks,
                request->microbatches, request->chunks);
  int chunks = request->chunks ? request->chunks : 2;
  if ((double)request->ranks * chunks * request->microbatches > STUDY_CELLS)
    return fail(E_USAGE,
                "%d ranks with %d stages each and %d microbatches are too many: their product must be at most %d",
                request->ranks, chunks, request->microbatches, STUDY_CELLS);
  TRY(check_times(request, "forward-ms", request->forward_ms));
  TRY(check_times(request, "backward-input-ms", request->backward_input_ms));
  TRY(check_times(request, "backward-weight-ms", request->backward_weight_ms));
  if (!(request->p2p_ms >= 0))
    return fail(E_USAGE, "p2p-ms is %g: a latency is 0 or more", request->p2p_ms);
  if (request->p2p_ms > most_ms)
    return fail(E_USAGE, "p2p-ms is %g: a latency is at most %g", request->p2p_ms, most_ms);
  if (!(request->backward_input_frees >= 0 && request->backward_input_frees <= 1))
    return fail(E_USAGE, "backward-input-frees is %g: a fraction is 0 to 1", request->backward_input_frees);
  double work = 0;
  for (int rank = 0; rank < request->ranks; rank++) {
    work += request->forward_ms[rank] + request->backward_input_ms[rank] + request->backward_weight_ms[rank];
    if (request->memory_limit_microbatches && !(request->memory_limit_microbatches[rank] > 0))
      return fail(E_USAGE, "memory-limit-microbatches of rank %d is %g: must be more than 0", rank,
                  request->memory_limit_microbatches[rank]);
  }
  return work > 0 ? OK : fail(E_USAGE, "every time is 0: there is nothing to schedule");
}

/* ---- times of stages ---- */

/* What a stage is of its rank: one in so many. */
static Status make_timing(Arena *arena, const StudyRequest *request, int stages, const int *rank_of_stage,
                          Timing *timing) {
  double *forward, *input, *weight, *activation;
  int *own; /* [ranks]: stages */
  TRY(ARENA_NEW(arena, own, request->ranks));
  TRY(ARENA_NEW(arena, forward, stages));
  TRY(ARENA_NEW(arena, input, stages));
  TRY(ARENA_NEW(arena, weight, stages));
  TRY(ARENA_NEW(arena, activation, stages));
  for (int stage = 0; stage < stages; stage++)
    own[rank_of_stage[stage]]++;
  for (int stage = 0; stage < stages; stage++) {
    int rank = rank_of_stage[stage];
    activation[stage] = 1.0 / own[rank];
    forward[stage] = request->forward_ms[rank] / 1e3 / own[rank];
    input[stage] = request->backward_input_ms[rank] / 1e3 / own[rank];
    weight[stage] = request->backward_weight_ms[rank] / 1e3 / own[rank];
  }
  *timing = (Timing){.ranks = request->ranks,
                     .stages = stages,
                     .microbatches = request->microbatches,
                     .rank_of_stage = rank_of_stage,
                     .forward_seconds = forward,
                     .backward_input_seconds = input,
                     .backward_weight_seconds = weight,
                     .activation = activation,
                     .backward_input_frees = request->backward_input_frees,
                     .memory_limit = request->memory_limit_microbatches,
                     .link_latency_seconds = request->p2p_ms / 1e3};
  return OK;
}

/* ---- placements that auto chooses from ---- */

typedef struct {
  AutoCandidate items[3];
  int n;
} Candidates;

static Status add_candidate(Arena *arena, const StudyRequest *request, Placement placement, int chunks,
                            Candidates *candidates) {
  Timing *timing;
  int *rank_of_stage;
  TRY(ARENA_NEW(arena, timing, 1));
  TRY(ARENA_NEW(arena, rank_of_stage, request->ranks * chunks));
  placement_ranks(placement, request->ranks, chunks, rank_of_stage);
  TRY(make_timing(arena, request, request->ranks * chunks, rank_of_stage, timing));
  candidates->items[candidates->n++] = (AutoCandidate){.placement = placement, .timing = timing};
  return OK;
}

/* More than one stage a rank in a line is never faster than one, and one rank has nobody to send to. */
static Status list_candidates(Arena *arena, const StudyRequest *request, Candidates *candidates) {
  int chunks = request->chunks ? request->chunks : 2;
  *candidates = (Candidates){0};
  if (request->chunks <= 1)
    TRY(add_candidate(arena, request, PLACE_LINE, 1, candidates));
  if (chunks == 1 || (request->ranks == 1 && !request->chunks))
    return OK;
  if (request->ranks > 1)
    TRY(add_candidate(arena, request, PLACE_LOOP, chunks, candidates));
  return add_candidate(arena, request, PLACE_V, chunks, candidates);
}

/* ---- schedules ---- */

static Status refuse_text(StudyResult *result, Status status) {
  result->refused = status == E_USAGE || status == E_LIMIT;
  return status == E_USAGE ? status_adopt(E_MODEL, status_message()) : status;
}

static Status check_text_fits(const StudyRequest *request, const Schedule *schedule) {
  if (schedule->ranks != request->ranks || schedule->microbatches != request->microbatches)
    return fail(E_USAGE, "the schedule has %d ranks and %d microbatches, not %d and %d", schedule->ranks,
                schedule->microbatches, request->ranks, request->microbatches);
  if (request->chunks && schedule->stages != request->ranks * request->chunks)
    return fail(E_USAGE, "the schedule has %d stages, not %d a rank", schedule->stages, request->chunks);
  if ((double)schedule->stages * schedule->microbatches > STUDY_CELLS)
    return fail(E_USAGE, "the schedule has %d stages and %d microbatches: their product must be at most %d",
                schedule->stages, schedule->microbatches, STUDY_CELLS);
  for (int rank = 0; rank < schedule->ranks; rank++)
    if (schedule->lists[rank].n_actions == 0)
      return fail(E_USAGE, "the schedule has no stage on rank %d", rank);
  return OK;
}

static Status read_schedule(Arena *arena, const StudyRequest *request, StudyResult *result) {
  Schedule *schedule = &result->schedule;
  Status status = schedule_read(arena, request->schedule_text, schedule);
  if (status != OK) /* without a schedule that could be shown */
    return status == E_USAGE ? status_adopt(E_MODEL, status_message()) : status;
  TRY(check_text_fits(request, schedule));
  if (schedule->forward_only)
    return refuse_text(result, fail(E_USAGE, "schedule %s has no backward", schedule->name));
  return refuse_text(result, schedule_complete(arena, NULL, schedule, &result->refused_at));
}

static Status generate(Arena *arena, const StudyRequest *request, Schedule *schedule) {
  int chunks = request->chunks;
  if (strcmp(request->schedule, "forward") == 0)
    return fail(E_USAGE, "schedule forward has no backward");
  if (!chunks)
    TRY(schedule_usual_chunks(request->schedule, &chunks));
  return schedule_generate(arena, request->schedule, request->ranks, chunks, request->microbatches, NULL, schedule);
}

static Status synthesise(Arena *arena, const StudyRequest *request, const Candidates *candidates, Schedule *schedule) {
  AutoReport report;
  AutoRequest wanted = {
      .candidates = candidates->items, .n_candidates = candidates->n, .objective = request->objective};
  return schedule_auto(arena, &wanted, schedule, &report);
}

static Status prove(Arena *arena, const StudyRequest *request, StudyResult *result) {
  double *limit = NULL;
  if (request->memory_limit_microbatches) {
    TRY(ARENA_NEW(arena, limit, request->ranks));
    for (int rank = 0; rank < request->ranks; rank++)
      limit[rank] = request->memory_limit_microbatches[rank] * limit_slack;
  }
  ScheduleLimits limits = {result->timing.activation, request->backward_input_frees, limit};
  Status status = schedule_prove(&result->schedule, NULL, limit ? &limits : NULL, &result->refused_at);
  return status == OK || !request->schedule_text ? status : refuse_text(result, status);
}

/* What rounding makes of 0. */
static double without_dust(double number) {
  return fabs(number) < 1e-12 ? 0 : number;
}

static Status bound(const StudyRequest *request, const Candidates *candidates, StudyResult *result) {
  double least, other;
  TRY(schedule_lower_bound(&result->timing, request->objective, &least));
  for (int i = 0; i < candidates->n; i++) {
    TRY(schedule_lower_bound(candidates->items[i].timing, request->objective, &other));
    least = fmin(least, other);
  }
  const Simulation *simulation = &result->simulation;
  double reached =
      request->objective == OBJECTIVE_SPAN ? simulation->longest_span_seconds : simulation->makespan_seconds;
  result->lower_bound_seconds = least;
  result->gap = least > 0 ? without_dust(reached / least - 1) : 0;
  return OK;
}

Status study_run(Arena *arena, const StudyRequest *request, StudyResult *result) {
  Candidates candidates;
  *result = (StudyResult){.objective = request->objective, .refused_at = {-1, -1}};
  TRY(check_request(request));
  TRY(list_candidates(arena, request, &candidates));
  Schedule *schedule = &result->schedule;
  if (request->schedule_text)
    TRY(read_schedule(arena, request, result));
  else if (strcmp(request->schedule, "auto") == 0)
    TRY(synthesise(arena, request, &candidates, schedule));
  else
    TRY(generate(arena, request, schedule));
  TRY(make_timing(arena, request, schedule->stages, schedule->rank_of_stage, &result->timing));
  TRY(prove(arena, request, result));
  TRY(simulate_schedule(arena, schedule, &result->timing, &result->simulation));
  result->simulation.bubble = without_dust(result->simulation.bubble);
  return bound(request, &candidates, result);
}
