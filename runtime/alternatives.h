/* Many plans of one model beside each other: `plan --what-if`. Inside the room. */
#ifndef RUNTIME_ALTERNATIVES_H
#define RUNTIME_ALTERNATIVES_H

#include "runtime/job/job.h"

/* One way to train the model. */
typedef struct {
  int ranks, chunks, microbatches;
  int64_t microbatch_size;
  const char *device, *precision, *schedule;
  const char *reason; /* why there is no plan; NULL: there is one */
  double step_seconds, samples_per_second, bubble;
  size_t memory_bytes; /* of the rank that needs most */
  /* What the model's products take (three times those of the forward pass, but once where there is no gradient to
   * compute) by what all ranks' devices could do of such products in a step. */
  double utilisation;
} Alternative;

typedef struct {
  Alternative *rows; /* the fastest first; those without a plan behind them */
  size_t n, n_fit, capacity;
  double model_flops; /* of one step */
} Alternatives;

/* Plans every combination of what the options list, or of usual values; prints the table to `out` (NULL: nothing), or
 * one JSON object with the option "json", and writes the first one's plan and page where the options say. E_LIMIT as
 * the first row where there is none with a plan. The caller has set the job as for job_open. */
Status alternatives_run(Job *job, FILE *out);

/* The table, no line wider than `columns`; the same for programs. */
Status alternatives_print(const Alternatives *alternatives, FILE *file, int columns);
Status alternatives_json(const Job *job, const Alternatives *alternatives, FILE *file);

#endif
