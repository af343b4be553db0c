/* The options of a run that goes on from a checkpoint: what is not given is taken from it, what contradicts it is
 * refused. Invariant: whatever determines losses and weights is what it was; ranks, schedule and machine are free. */
#ifndef RUNTIME_CHECKPOINT_RESUME_H
#define RUNTIME_CHECKPOINT_RESUME_H

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/job/job.h"

/* *options: those given, completed by the checkpoint's; the caller destroys them. `alone`: no launcher says how many
 * ranks there are. E_USAGE where they contradict each other, naming both. */
Status resume_options(const Options *given, const Checkpoint *checkpoint, bool alone, Options **options);

/* The fields of checkpoint.json that say what the job is, in its arena: format, model, data, device, ranks, options.
 * The job's plan is known. */
Status resume_about(const Job *job, int64_t epoch_length, const char **about);

/* What else must be the checkpoint's: E_USAGE where the model is another one, or the data have other samples. */
Status resume_check(const Job *job, const Checkpoint *checkpoint, int64_t epoch_length);

/* Adds a line where the devices have other bits than those of the checkpoint's run. */
Status resume_tell_bits(Job *job, const Checkpoint *checkpoint);

#endif
