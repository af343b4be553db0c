/* Whether stages take what the plan says, and which cut would be better. Invariant: whatever is found or fails here,
 * the step at hand goes on as it was planned. */
#include <math.h>
#include <string.h>

#include "partitioner/schedule/simulate.h"
#include "runtime/costs/cache.h"
#include "runtime/training/replan.h"

/* So many steps, and seconds of them, tell at first; so much is a difference, and an improvement worth a word. */
enum { STEPS = 20 };
static const double SECONDS = 1, DIFFERENCE = 0.1, IMPROVEMENT = 0.05;

Status compare_create(Worker *w) {
  StageLook *look = &w->look;
  int stages = w->training->job->decided.plan.stages;
  TRY(ARENA_NEW(w->arena, look->seconds, stages));
  TRY(ARENA_NEW(w->arena, look->since, stages));
  TRY(ARENA_NEW(w->arena, look->ratios, stages));
  TRY(ARENA_NEW(w->arena, look->told, stages));
  TRY(ARENA_NEW(w->arena, look->had, (MOST_REPLANS + 1) * stages));
  compare_begin(w);
  return OK;
}

static int *cut_had(const Worker *w, int i) {
  return w->look.had + (ptrdiff_t)i * w->training->job->decided.plan.stages;
}

void compare_begin(Worker *w) {
  StageLook *look = &w->look;
  const Plan *plan = &w->training->job->decided.plan;
  look->wanted = STEPS;
  look->steps = -1; /* the first step has what comes once */
  look->run_seconds = 0;
  look->said = false;
  for (int s = 0; s < plan->stages; s++) {
    look->told[s] = -1;
    cut_had(w, look->n_had)[s] = plan->reports[s].last;
  }
  look->n_had++;
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

static bool same_cut(const Plan *plan, const int *last) {
  bool same = true;
  for (int s = 0; s < plan->stages; s++)
    same &= plan->reports[s].last == last[s];
  return same;
}

static void keep_cut(const Plan *plan, int *last) {
  for (int s = 0; s < plan->stages; s++)
    last[s] = plan->reports[s].last;
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
    double took = (look->seconds[s] - look->since[s]) / (double)look->steps, planned = plan_stage_seconds(plan, s);
    look->ratios[s] = look->seconds[s] >= 0 && planned > 0 ? took / planned : 1;
    if (fabs(look->ratios[s] - 1) > DIFFERENCE)
      text_add(text, "%s stage %d computes %.3g ms a step, planned were %.3g", text->length ? "," : "stages:", s,
               1e3 * took, 1e3 * planned);
  }
}

/* Whether the run may go on with it: never with a cut that it had before. */
static bool may_take(const Worker *w, const Plan *plan) {
  bool had = w->look.n_had > MOST_REPLANS;
  for (int i = 0; i < w->look.n_had && !had; i++)
    had = same_cut(plan, cut_had(w, i));
  return w->training->job->asked.options->replan && !had;
}

/* Whether there is something new to tell, in the text; the better plan is the worker's where it is to be taken. */
static bool find_better(Worker *w, Arena *arena, Text *text) {
  const Job *job = w->training->job;
  const Plan *plan = &job->decided.plan;
  StageLook *look = &w->look;
  bool new = !look->said;
  NextPlan *next;
  double seconds;
  look->said = true;
  if (job->decided.ranks == 1 || job->asked.schedule || predict(arena, plan, look->ratios, &seconds) != OK ||
      replan_make(w->training, look->ratios, &next) != OK)
    return new;
  const Plan *better = &next->job.decided.plan;
  if (better->step_seconds > seconds * (1 - IMPROVEMENT) || same_cut(better, cut_had(w, look->n_had - 1))) {
    text_add(text, "; no other cut would be faster");
    replan_drop(next);
    return new;
  }
  text_add(text, "; a step would take %.3g ms, not %.3g, where stages end with ", 1e3 * better->step_seconds,
           1e3 * seconds);
  for (int s = 0; s + 1 < better->stages; s++)
    text_add(text, "%s%s", s ? ", " : "", better->reports[s].last_node);
  new = !same_cut(better, look->told);
  keep_cut(better, look->told);
  if (may_take(w, better)) {
    text_add(text, "; --replan takes it");
    w->next = next;
    return true;
  }
  replan_drop(next);
  return new;
}

static void look_at(Worker *w) {
  const Training *training = w->training;
  Text text = {0};
  compare(&training->job->decided.plan, &w->look, &text);
  bool asks = training->out || training->job->asked.options->replan;
  Arena *arena = text.length && asks ? arena_create() : NULL;
  for (int i = 0; text.length && training->costs && i < training->costs->n_devices; i++)
    cache_forget(training->costs->of_devices[i].about);
  if (arena && find_better(w, arena, &text) && training->out)
    print(w, &text);
  arena_destroy(arena);
  text_free(&text);
}

/* Whether there is something to compare with. What ranks that share cores take depends on the others. */
static bool compares(const Worker *w) {
  const Training *training = w->training;
  const Plan *plan = &training->job->decided.plan;
  bool shared = plan->capacity > 0 && plan->capacity < plan->ranks;
  return !shared && !w->next && (training->costs || training->job->asked.options->replan);
}

void compare_stages(Worker *w, const StepReport *report) {
  const Training *training = w->training;
  const Plan *plan = &training->job->decided.plan;
  StageLook *look = &w->look;
  if (!compares(w))
    return;
  for (int s = 0; s < plan->stages; s++) {
    int rank = plan->schedule.rank_of_stage[s];
    look->seconds[s] = (rank ? report->from[rank] : report->numbers)[REPORT_SQUARES + w->n_updates + s];
  }
  if (++look->steps > 0) {
    look->run_seconds += report->seconds;
    if (look->steps < look->wanted || (look->run_seconds < SECONDS && !training->job->asked.options->replan))
      return;
    look_at(w);
    look->wanted *= 2;
  }
  memcpy(look->since, look->seconds, (size_t)plan->stages * sizeof *look->since);
  look->steps = 0;
  look->run_seconds = 0;
}
