/* Training: one worker a rank, in step. Inside the room. */
#ifndef RUNTIME_TRAINER_H
#define RUNTIME_TRAINER_H

#include "runtime/denominators.h"
#include "runtime/job.h"
#include "runtime/onnxpipe.h"

/* What rank 0 is told of one step. Squares are those of update nodes, in graph order; negative: another rank's. */
typedef struct {
  double *numbers; /* [1 + n_updates]: the loss (NaN where the rank does not have it), then the squares */
  Ticket *tickets; /* [ranks]: of sending it (rank 0: of receiving into `from`) */
  double **from;   /* rank 0: [ranks] */
  int64_t step;    /* from 0 */
  double learning_rate, seconds;
} StepReport;

/* Training runs of a whole job; shared by the workers of a process, read-only while they run. */
typedef struct {
  Job *job;
  int64_t steps;
  int64_t epoch_length;
  double clip_norm; /* 0: none */
  FILE *metrics;    /* NULL: none; rank 0's */
  FILE *out;        /* NULL: quiet */
  OnnxpipeProgress *progress;
  void *progress_context;
} Training;

/* One rank's. */
typedef struct {
  const Training *training;
  Arena *arena;
  int rank;
  const Link *link; /* NULL with one rank */
  Executor *executor;
  Sampler sampler;
  Feeder feeder;
  Denominators denominators;
  void *targets; /* the batch's, where they decide the denominator; else NULL */
  int n_updates;
  StepReport reports[2]; /* of even and odd steps */
  double *squares;       /* [n_updates] */
} Worker;

/* How a failure that one rank had became known to the others. */
typedef struct {
  bool agreed;    /* all ranks know, and may end in good order */
  bool elsewhere; /* the message is another rank's to print */
} Outcome;

/* What happened everywhere: every rank calls it with its own status; OK when all were. Else every rank gets the code
 * and the message of the lowest rank that failed. */
Status trainer_agree(const Link *link, Status status, Outcome *outcome);

/* Loads this rank's weights and first contents (executor's Load; context: Job). */
Status weights_load(void *job, ValueId value, void *data, size_t bytes);
/* Every trained tensor to rank 0, which writes the model. Collective. */
Status weights_save(Worker *worker, const char *path);
/* The step's gradients to rank 0, which writes them by initializer name. Collective, between run and update. */
Status weights_dump_gradients(Worker *worker, const char *path);

/* Reports of steps (trainer_report.c). */
Status report_create(Worker *worker);
/* Sends this rank's numbers of the step on their way, or keeps them (rank 0). Does not wait for rank 0. */
Status report_post(Worker *worker, int64_t step, double loss, double learning_rate, double seconds);
/* Rank 0: waits for every rank's numbers of the step, then metrics and progress. Others: until theirs were taken. */
Status report_collect(Worker *worker, int64_t step);
/* The global gradient norm of the step at hand, on every rank. Collective. */
Status report_norm(Worker *worker, double *norm);

/* The learning rate of step k, from 0. */
double trainer_learning_rate(const Options *options, int64_t step, int64_t steps);

/* All of it, on a job that job_open will take. */
Status trainer_run(Job *job, FILE *out, OnnxpipeProgress *progress, void *context, Outcome *outcome);

#endif
