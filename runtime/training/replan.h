/* --replan: a better cut for a run that goes on. Inside the room. */
#ifndef RUNTIME_TRAINING_REPLAN_H
#define RUNTIME_TRAINING_REPLAN_H

#include "runtime/training/trainer.h"

/* Another plan of the job that runs, and what lies beside it. */
struct NextPlan {
  Arena *arena; /* of all of it */
  Job job;
  Rest *rest;
  Validation validation; /* where the training has one */
  JobCosts costs;        /* rank 0's: what it follows from */
  NextPlan *before;      /* whose place it took */
};

/* What a stage's nodes take in a step of the plan. */
static inline double plan_stage_seconds(const Plan *plan, int stage) {
  const StageReport *r = &plan->reports[stage];
  return plan->microbatches * (r->forward_seconds + r->backward_input_seconds + r->backward_weight_seconds);
}

/* Rank 0: plans anew by the costs of the plan that runs, each stage's nodes times ratios [stages]. Fails as the planner
 * does; the run is left alone. The caller drops it, unless it is taken. */
Status replan_make(const Training *training, const double *ratios, NextPlan **next);
/* Also those before it. NULL is fine. */
void replan_drop(NextPlan *next);
/* Collective: rank 0's next plan to every process. */
Status replan_share(Worker *worker);
/* Once in a process, while none of its workers has anything open: it is the training's from now on, which drops it at
 * its end. */
Status replan_take(Training *training, NextPlan *next);

/* What a rank carries from one plan to the next (carry.c): the contents of what the run changes. */
typedef struct Carried Carried;
/* Collective: what each rank's memory will hold under the worker's next plan, from the ranks that hold it. */
Status carry(Worker *worker, Carried **carried);
void carried_destroy(Carried *carried);
/* Executor's Load; context: the CarriedOf of the graph's job. */
typedef struct {
  const Job *job;
  const Carried *carried;
} CarriedOf;
Status carried_load(void *context, ValueId value, void *data, size_t bytes);

#endif
