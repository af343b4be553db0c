/* A checkpoint as it lies on the disk, read.
 *
 *     DIR/step-000000010/
 *       checkpoint.json                     step, seed, model, options of the job; bytes and CRC-32 of all other files
 *       model.safetensors.index.json        which file has which tensor, as the Hugging Face layout has it
 *       model-00001-of-00004.safetensors    trained tensors and buffers, by initializer; one file a rank that has any
 *       optimizer.safetensors.index.json
 *       optimizer-00001-of-00004.safetensors   states, by initializer and the optimizer's name: "wte.weight/m"
 *
 *     DIR/best                              a link to the one of the best validation, where there is one
 *
 * Nothing in it depends on the ranks that wrote it but into which of the files a tensor went. The first line of
 * checkpoint.json is the CRC-32 of its other lines. */
#ifndef RUNTIME_CHECKPOINT_CHECKPOINT_H
#define RUNTIME_CHECKPOINT_CHECKPOINT_H

#include <jansson.h>

#include "base/text.h"
#include "runtime/data/data.h"

/* Parameters and buffers; states of the optimizer. */
typedef enum { TENSOR_MODEL, TENSOR_STATE, TENSOR_KINDS } TensorKind;

/* "model", "optimizer": how names of files begin. */
extern const char *const checkpoint_kinds[TENSOR_KINDS];

/* What validations had said by then. */
typedef struct {
  int64_t step; /* of the last one; 0: there was none */
  int64_t best_step, stalled;
  double best_loss, reference_loss; /* as OnnxpipeValidation has them */
  bool is_best;                     /* the last one's, and of the weights that the checkpoint holds */
} CheckpointValidation;

typedef struct {
  const char *name; /* within the checkpoint's folder */
  int64_t bytes;
  uint32_t crc32;
} CheckpointFile;

typedef struct Checkpoint {
  Arena *arena;     /* of what this has, but for the shards, which have their own */
  const char *path; /* of its own folder */
  int64_t step;
  const char *model_path, *model_hash; /* the path absolute, as it was when it was written */
  const char *device;                  /* as a plan names it */
  const char *bits;                    /* devices_bits of its run */
  int64_t ranks, samples, epoch_length;
  CheckpointValidation validation;
  json_t *replaced; /* names of tensors that do not train, and have other contents than the model's file; NULL: none */
  json_t *options;  /* option → text, or a list of texts: what determined the run */
  CheckpointFile *files;
  int n_files;
  ArrayFile *shards; /* once mapped */
  int n_shards;
  const Array **tensors[TENSOR_KINDS]; /* by name */
  size_t n_tensors[TENSOR_KINDS];
} Checkpoint;

/* Finds the checkpoint that `path` means: itself, or, of a folder of checkpoints, the newest whole one. What was passed
 * over is named in `said` (may be NULL), a line each, without what follows from it. `verify`: sizes and checksums of
 * all files are compared, else those of checkpoint.json alone. Fails E_IO, E_MODEL naming the path, where there is
 * none. Not for two threads at once. */
Status checkpoint_find(Arena *arena, const char *path, bool verify, Text *said, Checkpoint *checkpoint);

/* Opens the files that have tensors. Not for two threads at once. */
Status checkpoint_map(Checkpoint *checkpoint);
/* NULL where it has none of that name. */
const Array *checkpoint_tensor(const Checkpoint *checkpoint, TensorKind kind, const char *name);
/* OK while the files are what they were. */
Status checkpoint_unchanged(const Checkpoint *checkpoint);

/* Lets go of the files: no tensor is there any more. */
void checkpoint_unmap(Checkpoint *checkpoint);
void checkpoint_close(Checkpoint *checkpoint);

#endif
