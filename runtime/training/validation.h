/* Validation during training: a second graph of the job, as the model evaluates, over the same store of parameters a
 * rank, cut so that each node lies where its parameters are trained. Training's numbers do not change by it: the graph
 * writes nothing that is stored. Inside the room. */
#ifndef RUNTIME_TRAINING_VALIDATION_H
#define RUNTIME_TRAINING_VALIDATION_H

#include "runtime/executor/executor.h"
#include "runtime/job/job.h"
#include "runtime/onnxpipe.h"
#include "runtime/training/tally.h"

/* Shared by the workers of a process, read-only while they run. */
typedef struct {
  bool opened;    /* the data is its own */
  Job job;        /* the data of --validate, bound for evaluation; the plan's microbatches are those of one run */
  ValueId output; /* the prediction */
  Measures measures;
  int64_t runs; /* of the graph's microbatches; the last ones are filled up with the last sample */
  int owner;    /* the rank that gets predictions, or the loss where it is the model's own */
} Validation;

/* Opens the data of --validate as the training job's, or takes that of --validation-split: *validation in the job's
 * arena, NULL without either. The caller ends it with validation_close. */
Status validation_open(Job *trained, Validation **validation);
void validation_close(Validation *validation);
/* Binds and plans it beside the plan of the training job and what is `taken` [ranks] already (NULL: nothing), and adds
 * a line that says so; every: 0 where no steps are taken. Fails E_LIMIT where a rank's memory is not enough for both,
 * with the numbers; E_SHAPE where the targets do not fit the prediction; E_UNSUPPORTED as plan_follow does. */
Status validation_plan(Validation *validation, Job *trained, const size_t *taken, int64_t every);

/* One rank's. */
typedef struct Evaluation Evaluation;
/* Over the store of the training graph; `training` is its executor's spec, but that it loads for this graph. */
Status evaluation_open(Arena *arena, const Validation *validation, const ExecutorSpec *training,
                       Evaluation **evaluation);
void evaluation_close(Evaluation *evaluation);
/* All samples. Collective; the owner gets loss and values [n_metrics], others' are left alone. */
Status evaluation_run(Evaluation *evaluation, double *loss, double *values);

/* What came of it into the history that `result` is: whether it is the best, and how long ago that was. */
void validation_judge(const Validation *validation, int64_t step, double loss, const double *values,
                      OnnxpipeValidation *result);
/* ", \"validation_loss\": 0.5, …" for metrics.jsonl, or "loss 0.5, …" to read. */
void validation_write(const OnnxpipeValidation *result, bool json, Text *text);

#endif
