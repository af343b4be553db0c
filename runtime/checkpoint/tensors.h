/* Which tensors a checkpoint has, and by which names: those of the job's graph that a run changes, and those that have
 * other contents than the model's file. Invariant: the list
 * is a function of the model and the optimizer; only `owner` knows the plan. */
#ifndef RUNTIME_CHECKPOINT_TENSORS_H
#define RUNTIME_CHECKPOINT_TENSORS_H

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/job/job.h"

typedef struct {
  const char *name; /* of the initializer; of a state with "/" and the optimizer's name for it */
  TensorKind kind;
  int initializer, state; /* as the store knows it */
  int owner;              /* the lowest rank that holds it, which writes it */
  DType dtype;
  Shape shape;
  size_t bytes;
  const void *contents; /* in memory; NULL: in the store */
} KeptTensor;

/* All of the job's graph, in its order, and what is replaced, which rank 0 writes where it is in memory. E_MODEL where
 * a name is there twice or no file can have it. */
Status tensors_list(Arena *arena, const Job *job, KeptTensor **tensors, int *n);

/* "{"metadata": …, "weight_map": …}" of one kind for files of this many ranks, in the arena. */
Status tensors_index(Arena *arena, const KeptTensor *tensors, int n, TensorKind kind, int ranks, const char **text);
/* "model-00001-of-00004.safetensors" into text. */
enum { SHARD_NAME = 64 };
char *tensors_file_name(TensorKind kind, int rank, int ranks, char text[SHARD_NAME]);

/* First contents of a parameter, buffer, state or replaced constant of the job's graph, from a checkpoint; *found: it
 * is one of these. Fails E_MODEL where the checkpoint lacks it or has another type or shape. For several threads at
 * once. */
Status tensors_load(const Job *job, const Checkpoint *checkpoint, ValueId value, void *data, size_t bytes, bool *found);

#endif
