/* Whether stages take what the plan says, and which cut would be better: said once, when that is known. Invariant: the
 * run goes on as it was planned, whatever is found or fails here. */
#include <math.h>
#include <string.h>

#include "runtime/costs/cache.h"
#include "runtime/training/trainer.h"

/* So many steps, and seconds of them, tell; so much is a difference, and an improvement worth a word. */
enum { STEPS = 10 };
static const double SECONDS = 1, DIFFERENCE = 0.1, IMPROVEMENT = 0.03;

/* What a rank's nodes and its update take in a step of the plan. */
static double planned_seconds(const Plan *plan, int rank) {
  double seconds = plan->update_seconds;
  for (int s = 0; s < plan->stages; s++) {
    const StageReport *r = &plan->reports[s];
    if (plan->schedule.rank_of_stage[s] == rank)
      seconds += plan->microbatches * (r->forward_seconds + r->backward_input_seconds + r->backward_weight_seconds);
  }
  return seconds;
}

/* The costs as they are, times what nodes turned out to take longer where they lie: ratios [ranks]. */
static Status correct(Arena *arena, const Job *job, const JobCosts *costs, const double *ratios, JobCosts *corrected) {
  const JobDecisions *decided = &job->decided;
  const Graph *g = decided->graph;
  Profile *profiles;
  *corrected = *costs;
  TRY(ARENA_NEW(arena, profiles, decided->ranks));
  corrected->profiles = profiles;
  for (int r = 0; r < decided->ranks; r++) {
    double *seconds;
    TRY(ARENA_NEW(arena, seconds, g->n_nodes));
    for (size_t i = 0; i < g->n_nodes; i++) {
      int stage = g->nodes[i]->stage;
      seconds[i] =
          costs->profiles[r].node_seconds[i] * (stage < 0 ? 1 : ratios[decided->plan.schedule.rank_of_stage[stage]]);
    }
    profiles[r] = costs->profiles[r];
    profiles[r].node_seconds = seconds;
  }
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

static void tell_better(Worker *w, Arena *arena, const double *ratios, double step_seconds, Text *text) {
  const Job *job = w->training->job;
  JobCosts corrected;
  Job trial;
  if (job->decided.ranks == 1 || job->asked.schedule ||
      correct(arena, job, &w->training->costs->planned, ratios, &corrected) != OK ||
      plan_again(arena, job, &corrected, &trial) != OK)
    return;
  const Plan *plan = &trial.decided.plan;
  if (plan->step_seconds > step_seconds * (1 - IMPROVEMENT) || same_cut(plan, &job->decided.plan)) {
    text_add(text, "; no other cut would be faster");
    return;
  }
  text_add(text, "; a step would take %.3g ms, not %.3g, where stages end with ", 1e3 * plan->step_seconds,
           1e3 * step_seconds);
  for (int s = 0; s + 1 < plan->stages; s++)
    text_add(text, "%s%s", s ? ", " : "", plan->reports[s].last_node);
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

static void compare(Worker *w, Arena *arena, double *ratios) {
  const Training *training = w->training;
  const Plan *plan = &training->job->decided.plan;
  double steps = (double)(w->n_measured - 1);
  Text text = {0};
  bool differs = false;
  for (int r = 0; r < plan->ranks; r++) {
    double took = (w->busy[r] - w->first_busy[r]) / steps, planned = planned_seconds(plan, r);
    ratios[r] = w->busy[r] >= 0 && planned > 0 ? took / planned : 1;
    if (fabs(ratios[r] - 1) <= DIFFERENCE)
      continue;
    text_add(&text, "%s rank %d computes %.3g ms a step, planned were %.3g", differs ? "," : "stages:", r, 1e3 * took,
             1e3 * planned);
    differs = true;
  }
  for (int i = 0; differs && i < training->costs->n_devices; i++)
    cache_forget(training->costs->of_devices[i].about);
  if (differs && training->out) {
    tell_better(w, arena, ratios, w->measured_seconds / steps, &text);
    print(w, &text);
  }
  text_free(&text);
}

void compare_stages(Worker *w) {
  const Plan *plan = &w->training->job->decided.plan;
  bool shared = plan->capacity > 0 && plan->capacity < plan->ranks; /* what ranks take depends on the others */
  if (w->compared || !w->training->costs || w->n_measured <= STEPS || w->measured_seconds < SECONDS || shared)
    return;
  w->compared = true;
  Arena *arena = arena_create();
  double *ratios = arena ? arena_alloc(arena, (size_t)plan->ranks, sizeof *ratios) : NULL;
  if (ratios)
    compare(w, arena, ratios);
  arena_destroy(arena);
}
