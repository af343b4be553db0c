/* The samples that a run works through: the arrays of its data checked against the model's inputs. Shared by the ranks
 * of a process. */
#ifndef RUNTIME_DATA_DATASET_H
#define RUNTIME_DATA_DATASET_H

#include "onnx/model.h"
#include "runtime/data/column.h"
#include "runtime/data/tokens.h"

typedef struct {
  Source source; /* of a view: none */
  const char *path;
  int64_t samples;
  const Column *target;  /* NULL: there is none */
  const Column *columns; /* [n_inputs]: of model input i (model_inputs) */
  int n_inputs;
  DimBinding *dims; /* symbolic dimensions, batch apart, whose sizes the arrays tell */
  int n_dims;
} Dataset;

/* Opens what path names (source_open) and checks it, the target's samples along target_axis: in every shard an array
 * for every model input, of a type that converts and a shape that fits, perhaps `target`, nothing else, the same number
 * of samples in all; from shard to shard the same types and shapes, samples apart. The shards' samples follow each
 * other. Fails E_IO, E_MODEL, E_SHAPE, E_USAGE with the file and both names in one line. */
Status dataset_open(const char *path, const Model *model, int target_axis, Dataset *data);
/* The same of tokens (tokens_open). */
Status dataset_open_tokens(const TokenSpec *spec, const Model *model, Dataset *data);
/* Samples `first` to first + samples - 1 of the data, as a Dataset in the arena: it reads what `data` has open, and
 * needs no closing. */
Status dataset_view(const Dataset *data, int64_t first, int64_t samples, Arena *arena, Dataset *view);
/* Takes the last `samples` samples away from the data: *rest, a view. */
Status dataset_split(Dataset *data, int64_t samples, Dataset *rest);
/* Fails E_SHAPE where there is no target. */
Status dataset_need_target(const Dataset *data);
/* All processes of this run have opened it: what they share is no longer to be found by others. */
void dataset_settle(Dataset *data);
/* OK while all files are what they were, else E_IO with the file in front. */
Status dataset_unchanged(const Dataset *data);
void dataset_close(Dataset *data);

/* What feeds a graph's inputs (executor's Feed; context: a Feeder): microbatch m gets the samples of indices from
 * m · microbatch_size on. */
typedef struct {
  const Dataset *data;
  const Model *model;
  const Graph *graph;
  int64_t microbatch_size;
  const int64_t *indices;
} Feeder;
Status dataset_feed(void *feeder, ValueId input, int microbatch, void *data, size_t bytes);
/* The column that feeds a graph's input; NULL: none does. */
const Column *dataset_column(const Feeder *feeder, ValueId input);

#endif
