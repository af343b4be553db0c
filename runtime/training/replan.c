/* Another plan for a job that runs, from what its stages take. Invariant: it is made beside the one that runs, and
 * takes its place whole, while no rank computes; the graph is the same, so that its bits are. */
#include "runtime/training/replan.h"

#include <string.h>

#include "graph/op.h"

/* In an arena of its own. */
static Status create(const Training *training, NextPlan **out) {
  Arena *arena = arena_create();
  NextPlan *next = arena ? arena_alloc(arena, 1, sizeof *next) : NULL;
  *out = NULL;
  if (!next) {
    arena_destroy(arena);
    return status_code();
  }
  *next = (NextPlan){.arena = arena, .job = *training->job};
  next->job.arena = arena;
  next->job.decided.lines = NULL;
  next->job.decided.n_lines = next->job.decided.lines_capacity = 0;
  if (training->validation)
    next->validation = *training->validation;
  *out = next;
  return OK;
}

void replan_drop(NextPlan *next) {
  while (next) {
    NextPlan *before = next->before;
    arena_destroy(next->arena);
    next = before;
  }
}

/* What a node takes on a rank as the plan has it. */
static double planned_seconds(const JobDecisions *decided, const JobCosts *costs, int rank, size_t node) {
  return costs->profiles ? costs->profiles[rank].node_seconds[node]
                         : op_seconds(decided->graph, decided->graph->nodes[node], &decided->request.devices[rank]);
}

/* What the rank's stages take by what was planned. */
static double ratio_of_rank(const Plan *plan, const double *ratios, int rank) {
  double took = 0, planned = 0;
  for (int s = 0; s < plan->stages; s++)
    if (plan->schedule.rank_of_stage[s] == rank) {
      took += ratios[s] * plan_stage_seconds(plan, s);
      planned += plan_stage_seconds(plan, s);
    }
  return planned > 0 ? took / planned : 1;
}

/* The costs of the plan that runs, times what nodes turned out to take longer where they lie, and a rank's actions. */
static Status correct(Arena *arena, const Training *training, const double *ratios, JobCosts *corrected) {
  const JobDecisions *decided = &training->job->decided;
  const Plan *plan = &decided->plan;
  const Graph *lies = plan->graph; /* with clones of what runs again */
  size_t n = decided->graph->n_nodes;
  Profile *profiles;
  double *times;
  *corrected = training->planned;
  TRY(ARENA_NEW(arena, profiles, decided->ranks));
  TRY(ARENA_NEW(arena, times, n));
  for (size_t i = 0; i < n; i++)
    times[i] = 1;
  for (size_t i = 0; i < lies->n_nodes; i++)
    if (lies->nodes[i]->phase != PHASE_UPDATE)
      times[graph_plain(lies, (NodeId)i)] = ratios[lies->nodes[i]->stage];
  for (int r = 0; r < decided->ranks; r++) {
    double *seconds;
    TRY(ARENA_NEW(arena, seconds, n));
    for (size_t i = 0; i < n; i++)
      seconds[i] = planned_seconds(decided, &training->planned, r, i) * times[i];
    if (training->planned.profiles)
      profiles[r] = training->planned.profiles[r];
    profiles[r].node_seconds = seconds;
    profiles[r].action_seconds *= ratio_of_rank(plan, ratios, r);
  }
  corrected->profiles = profiles;
  return OK;
}

/* The graph of the plan that runs, anew. */
static Status bind(Job *job) {
  TRY(job_bind(job));
  return job_differentiate(job);
}

static Status plan_beside(const Training *training, NextPlan *next) {
  return trainer_plan_beside(&next->job, training->validation ? &next->validation : NULL, training->every, &next->rest);
}

static Status make(const Training *training, const double *ratios, NextPlan *next) {
  TRY(correct(next->arena, training, ratios, &next->costs));
  TRY(bind(&next->job));
  TRY(job_plan(&next->job, &next->costs));
  return plan_beside(training, next);
}

static Status finish(const Training *training, Status status, NextPlan **next) {
  model_bound(training->job->given.model);
  if (status != OK) {
    replan_drop(*next);
    *next = NULL;
  }
  return status;
}

Status replan_make(const Training *training, const double *ratios, NextPlan **next) {
  TRY(create(training, next));
  return finish(training, make(training, ratios, *next), next);
}

static Status tell(const Worker *w) {
  const char *text;
  uint64_t bytes = 0;
  Status status = plan_to_text(w->next->arena, &w->next->job.decided.plan, &text);
  if (status != OK)
    return link_withdraw(w->link, status);
  bytes = strlen(text) + 1;
  for (int r = 1; r < w->training->job->decided.ranks; r++) {
    TRY(link_send(w->link, r, &bytes, sizeof bytes));
    TRY(link_send(w->link, r, text, bytes));
  }
  return OK;
}

static Status hear(const Worker *w, NextPlan *next) {
  uint64_t bytes;
  TRY(link_receive(w->link, 0, &bytes, sizeof bytes));
  char *text = arena_alloc(next->arena, bytes, 1);
  if (!text)
    return link_withdraw(w->link, status_code());
  TRY(link_receive(w->link, 0, text, bytes));
  TRY(bind(&next->job));
  TRY(job_plan_from(&next->job, text));
  return plan_beside(w->training, next);
}

Status replan_share(Worker *w) {
  const Training *training = w->training;
  if (!training->job->asked.world->mpi)
    return OK;
  if (!w->rank)
    return tell(w);
  TRY(create(training, &w->next));
  return finish(training, hear(w, w->next), &w->next);
}

Status replan_take(Training *training, NextPlan *next) {
  Job *job = training->job;
  JobDecisions before = job->decided;
  job->decided = next->job.decided;
  job->decided.lines = before.lines;
  job->decided.n_lines = before.n_lines;
  job->decided.lines_capacity = before.lines_capacity;
  training->rest = next->rest;
  if (training->validation)
    *training->validation = next->validation;
  training->planned = next->costs;
  next->before = training->replanned;
  training->replanned = next;
  boundaries_close(&training->boundaries);
  return boundaries_open(job->arena, job->decided.devices, training->places, job->decided.ranks, &training->boundaries);
}
