/* Whether stages take what the plan says, and which cut would be better. Invariant: the run goes on as it was planned,
 * whatever is found or fails here. */
#include <math.h>
#include <string.h>

#include "partitioner/schedule/simulate.h"
#include "runtime/costs/cache.h"
#include "runtime/training/trainer.h"

/* So many steps, and seconds of them, tell at first; so much is a difference, and an improvement worth a word. */
enum { STEPS = 20 };
static const double SECONDS = 1, DIFFERENCE = 0.1, IMPROVEMENT = 0.05;

Status compare_create(Worker *w) {
  StageLook *look = &w->look;
  int stages = w->training->job->decided.plan.stages;
  look->wanted = STEPS;
  look->steps = -1; /* the first step has what comes once */
  TRY(ARENA_NEW(w->arena, look->seconds, stages));
  TRY(ARENA_NEW(w->arena, look->since, stages));
  TRY(ARENA_NEW(w->arena, look->ratios, stages));
  TRY(ARENA_NEW(w->arena, look->told, stages));
  for (int s = 0; s < stages; s++)
    look->told[s] = -1;
  return OK;
}

/* What a stage's nodes take in a step of the plan. */
static double planned_seconds(const Plan *plan, int stage) {
  const StageReport *r = &plan->reports[stage];
  return plan->microbatches * (r->forward_seconds + r->backward_input_seconds + r->backward_weight_seconds);
}

/* What a step of the plan takes where its stages take so many times what was planned. */
static Status predict(Arena *arena, const Plan *plan, const double *ratios, double *seconds) {
  Plan measured = *plan;
  Timing timing;
  Simulation simulation;
  TRY(ARENA_NEW(arena, measured.reports, plan->stages));
  for (int s = 0; s < plan->stages; s++) {
    StageReport *r = &measured.reports[s];
    *r = plan->reports[s];
    r->forward_seconds *= ratios[s];
    r->backward_input_seconds *= ratios[s];
    r->backward_weight_seconds *= ratios[s];
  }
  TRY(plan_timing(arena, &measured, &timing));
  TRY(simulate_schedule(arena, &plan->schedule, &timing, &simulation));
  *seconds = plan->update_seconds +
             (plan->objective == OBJECTIVE_SPAN ? simulation.longest_span_seconds : simulation.makespan_seconds);
  return OK;
}

/* What a rank's stages take by what was planned. */
static double ratio_of_rank(const Plan *plan, const double *ratios, int rank) {
  double took = 0, planned = 0;
  for (int s = 0; s < plan->stages; s++)
    if (plan->schedule.rank_of_stage[s] == rank) {
      took += ratios[s] * planned_seconds(plan, s);
      planned += planned_seconds(plan, s);
    }
  return planned > 0 ? took / planned : 1;
}

/* The costs as they are, times what nodes turned out to take longer where they lie, and a rank's actions. */
static Status correct(Arena *arena, const Job *job, const JobCosts *costs, const double *ratios, JobCosts *corrected) {
  const JobDecisions *decided = &job->decided;
  const Plan *plan = &decided->plan;
  const Graph *lies = plan->graph; /* with clones of what runs again */
  size_t n = decided->graph->n_nodes;
  Profile *profiles;
  double *times;
  *corrected = *costs;
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
      seconds[i] = costs->profiles[r].node_seconds[i] * times[i];
    profiles[r] = costs->profiles[r];
    profiles[r].node_seconds = seconds;
    profiles[r].action_seconds *= ratio_of_rank(plan, ratios, r);
  }
  corrected->profiles = profiles;
  return OK;
}

/* The plan that these costs make of another graph of the model: the one that runs is left alone. */
static Status plan_again(Arena *arena, const Job *job, const JobCosts *costs, Job *trial) {
  *trial = *job;
  trial->arena = arena;
  trial->decided.lines = NULL;
  trial->decided.n_lines = trial->decided.lines_capacity = 0;
  TRY(job_bind(trial));
  TRY(job_differentiate(trial));
  Status status = job_plan(trial, costs);
  model_bound(job->given.model);
  return status;
}

static bool same_cut(const Plan *a, const Plan *b) {
  bool same = a->stages == b->stages;
  for (int s = 0; same && s < a->stages; s++)
    same = a->reports[s].last == b->reports[s].last;
  return same;
}

/* Whether this cut was told last; from now on it was. */
static bool tell(StageLook *look, const Plan *plan) {
  bool new = false;
  for (int s = 0; s < plan->stages; s++) {
    new |= look->told[s] != plan->reports[s].last;
    look->told[s] = plan->reports[s].last;
  }
  return new;
}

static void print(Worker *w, Text *text) {
  Text wrapped = {0};
  const char *whole = text_whole(text);
  if (whole)
    text_add_prose(&wrapped, whole, job_columns(), 0, 2);
  whole = text_whole(&wrapped);
  uint64_t place = watch_leave(w->watch);
  if (whole)
    fputs(whole, w->training->out);
  fflush(w->training->out);
  watch_return(w->watch, place);
  text_free(&wrapped);
}

/* Which stages differ: a line's beginning, "" where none does. */
static void compare(const Plan *plan, StageLook *look, Text *text) {
  for (int s = 0; s < plan->stages; s++) {
    double took = (look->seconds[s] - look->since[s]) / (double)look->steps, planned = planned_seconds(plan, s);
    look->ratios[s] = look->seconds[s] >= 0 && planned > 0 ? took / planned : 1;
    if (fabs(look->ratios[s] - 1) > DIFFERENCE)
      text_add(text, "%s stage %d computes %.3g ms a step, planned were %.3g", text->length ? "," : "stages:", s,
               1e3 * took, 1e3 * planned);
  }
}

/* Whether there is something new to tell, in the text. */
static bool find_better(Worker *w, Arena *arena, Text *text) {
  const Job *job = w->training->job;
  StageLook *look = &w->look;
  bool new = !look->said;
  JobCosts corrected;
  Job trial;
  double seconds;
  look->said = true;
  if (job->decided.ranks == 1 || job->asked.schedule ||
      predict(arena, &job->decided.plan, look->ratios, &seconds) != OK ||
      correct(arena, job, &w->training->costs->planned, look->ratios, &corrected) != OK ||
      plan_again(arena, job, &corrected, &trial) != OK)
    return new;
  const Plan *plan = &trial.decided.plan;
  if (plan->step_seconds > seconds * (1 - IMPROVEMENT) || same_cut(plan, &job->decided.plan)) {
    text_add(text, "; no other cut would be faster");
    return new;
  }
  text_add(text, "; a step would take %.3g ms, not %.3g, where stages end with ", 1e3 * plan->step_seconds,
           1e3 * seconds);
  for (int s = 0; s + 1 < plan->stages; s++)
    text_add(text, "%s%s", s ? ", " : "", plan->reports[s].last_node);
  return tell(look, plan);
}

static void look_at(Worker *w) {
  const Training *training = w->training;
  Text text = {0};
  compare(&training->job->decided.plan, &w->look, &text);
  Arena *arena = text.length && training->out ? arena_create() : NULL;
  for (int i = 0; text.length && i < training->costs->n_devices; i++)
    cache_forget(training->costs->of_devices[i].about);
  if (arena && find_better(w, arena, &text))
    print(w, &text);
  arena_destroy(arena);
  text_free(&text);
}

void compare_stages(Worker *w, const StepReport *report) {
  const Training *training = w->training;
  const Plan *plan = &training->job->decided.plan;
  StageLook *look = &w->look;
  bool shared = plan->capacity > 0 && plan->capacity < plan->ranks; /* what ranks take depends on the others */
  if (!training->costs || shared)
    return;
  for (int s = 0; s < plan->stages; s++) {
    int rank = plan->schedule.rank_of_stage[s];
    look->seconds[s] = (rank ? report->from[rank] : report->numbers)[REPORT_SQUARES + w->n_updates + s];
  }
  if (++look->steps > 0) {
    look->run_seconds += report->seconds;
    if (look->steps < look->wanted || look->run_seconds < SECONDS)
      return;
    look_at(w);
    look->wanted *= 2;
  }
  memcpy(look->since, look->seconds, (size_t)plan->stages * sizeof *look->since);
  look->steps = 0;
  look->run_seconds = 0;
}
