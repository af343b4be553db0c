/* An epoch's rest: the samples that make no whole batch, as a smaller batch of their own (--last-batch exact). A second
 * training graph of the job over the same store of parameters, accumulators and optimizer states a rank, cut as the
 * first one is; it computes in the first one's memory, as far as that goes. Inside the room. */
#ifndef RUNTIME_TRAINING_REST_H
#define RUNTIME_TRAINING_REST_H

#include "runtime/job/job.h"

/* Shared by the workers of a process, read-only while they run. */
typedef struct {
  Job job;        /* the training job's data, bound for the rest's microbatches; batch: its samples */
  size_t *beside; /* [ranks]: bytes beside those of the training job's plan */
} Rest;

/* Samples of an epoch that make no whole batch and are trained on; 0: none, or --last-batch drops them. */
int64_t rest_samples(const Job *job);
/* Binds, differentiates and plans it beside the plan of the training job, and adds a line that says so: *rest in the
 * job's arena, NULL where there is none. Fails E_USAGE where a model takes no such batch, E_LIMIT where a rank's memory
 * is not enough for both, as job_differentiate, and as plan_follow; with the numbers. */
Status rest_plan(Job *trained, Rest **rest);

#endif
