/* The rest's graph and plan. Invariant: nothing here depends on which rank asks; microbatches follow from the samples
 * and from those of a whole batch alone, so that the same command has the same bits on any ranks. */
#include "runtime/training/rest.h"

#include <string.h>

int64_t rest_samples(const Job *job) {
  return strcmp(job->asked.options->last_batch, "exact") == 0 ? job->given.data.samples % job->decided.batch : 0;
}

/* As many microbatches as divide it, at most those of a whole batch. */
static Status settle_size(Rest *rest, const Job *trained) {
  JobDecisions *decided = &rest->job.decided;
  int64_t samples = rest_samples(trained), fixed = model_fixed_batch(trained->given.model);
  if (fixed && samples % fixed)
    return fail(E_USAGE, "they are no multiple of %lld, the batch that %s was exported with: --last-batch drop",
                (long long)fixed, trained->asked.path);
  decided->batch = samples;
  decided->microbatch_size = fixed ? fixed : samples / job_largest_divisor(samples, trained->decided.microbatches);
  decided->microbatches = (int)(samples / decided->microbatch_size);
  return OK;
}

static Status say(const Rest *rest, Job *trained) {
  const JobDecisions *decided = &rest->job.decided;
  char bytes[24], statistics[96] = "";
  size_t most = 0;
  for (int r = 0; r < decided->ranks; r++)
    most = rest->beside[r] > most ? rest->beside[r] : most;
  if (job_coupled(&rest->job))
    snprintf(statistics, sizeof statistics, " (batch normalisation by the statistics of %lld)",
             (long long)decided->microbatch_size);
  return job_decide(
      trained, "last batch",
      "the last %s samples of each epoch, in %d microbatch%s of %lld%s (--last-batch); it takes %s a rank "
      "at most beside a whole one",
      COUNT_STR(decided->batch), decided->microbatches, decided->microbatches == 1 ? "" : "es",
      (long long)decided->microbatch_size, statistics, plan_bytes_text(most, bytes));
}

static Status make(Rest *rest, Job *trained) {
  Job *job = &rest->job;
  JobDecisions *decided = &job->decided;
  TRY(settle_size(rest, trained));
  TRY(job_bind(job));
  TRY(job_differentiate(job));
  TRY(plan_follow(job->arena, decided->graph, &trained->decided.plan, decided->microbatches, decided->microbatch_size,
                  &decided->plan, &rest->beside));
  return job_check_beside(trained, "them", NULL, rest->beside);
}

Status rest_plan(Job *trained, Rest **out) {
  Rest *rest;
  *out = NULL;
  if (!rest_samples(trained))
    return OK;
  TRY(ARENA_NEW(trained->arena, rest, 1));
  rest->job = *trained;
  rest->job.decided.lines = NULL;
  rest->job.decided.n_lines = rest->job.decided.lines_capacity = 0;
  Status status = make(rest, trained);
  if (status != OK) {
    status_context("the last %lld samples of each epoch: ", (long long)rest_samples(trained));
    return status;
  }
  *out = rest;
  return say(rest, trained);
}
