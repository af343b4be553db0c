/* One rank's part of writing checkpoints, behind the back of training: a copy in memory, then a thread that writes this
 * rank's files; rank 0's waits for the parts of all others and puts the checkpoint in its place. Invariant: a
 * checkpoint takes its place only when every rank's files are on the disk. */
#ifndef RUNTIME_CHECKPOINT_WRITER_H
#define RUNTIME_CHECKPOINT_WRITER_H

#include "runtime/checkpoint/tensors.h"
#include "runtime/executor/store.h"

/* What a rank did, as numbers that travel with its reports. */
enum {
  PART_STEP,  /* whose files these are; negative: none are done */
  PART_BYTES, /* of each kind of file; 0: it has none of it; negative: it could not write */
  PART_CRC32 = PART_BYTES + TENSOR_KINDS,
  PART_NUMBERS = PART_CRC32 + TENSOR_KINDS
};

typedef struct CheckpointWriter CheckpointWriter;

/* For a job whose plan is known, into a folder that was taken. `about`: the fields of checkpoint.json but step and
 * files,
 * "\"format\": 1, …". Strings outlive it. */
Status writer_open(const Job *job, const char *folder, int keep, const char *about, int rank, Store *store,
                   CheckpointWriter **writer);
/* Ends what goes on without its success. NULL is fine. */
void writer_close(CheckpointWriter *writer);

/* Rank 0, when nothing goes on: a folder for the files of all ranks. E_IO where its file system has not the space. */
Status writer_prepare(CheckpointWriter *writer, int64_t step);
/* Copies what this rank has, when nothing goes on, and has it written. What fails is known from its part. Where room
 * could not be made, `failed`, it has failed at once. `validation` is rank 0's: what it has as the best so far is
 * known as the folder's "best" and kept. */
void writer_begin(CheckpointWriter *writer, int64_t step, bool failed, const CheckpointValidation *validation);
/* What is done of that, without waiting. */
void writer_part(CheckpointWriter *writer, double part[PART_NUMBERS]);
/* Rank 0: another rank's part. What is not of the step at hand, or known, is nothing. */
void writer_take(CheckpointWriter *writer, int rank, const double part[PART_NUMBERS]);
/* Until this rank is done; rank 0 must have all parts by then. OK, or why it was not written: the thread's message. */
Status writer_wait(CheckpointWriter *writer);
/* The same where rank 0 hears of nobody any more: parts that other processes wrote are found by what they left beside
 * them, for a while. */
Status writer_finish(CheckpointWriter *writer);
/* Rank 0, after writer_wait: what else could not be done when it had taken its place; "": nothing. */
const char *writer_note(const CheckpointWriter *writer);

#endif
