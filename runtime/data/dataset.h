/* The samples that a run works through: the arrays of a data file checked against the model's inputs, and the order in
 * which they are taken. Shared by the ranks of a process; each has its own Sampler. */
#ifndef RUNTIME_DATA_DATASET_H
#define RUNTIME_DATA_DATASET_H

#include "onnx/model.h"
#include "runtime/data/data.h"

typedef struct {
  ArrayFile file;
  int64_t samples;
  const Array *target; /* NULL: there is none */
  int target_axis;     /* that counts samples */
  /* For model input i (model_inputs): its array and which of its axes counts samples; -1: none. */
  const Array **arrays;
  int *axis;
  int n_inputs;
  DimBinding *dims; /* symbolic dimensions, batch apart, whose sizes the arrays tell */
  int n_dims;
} Dataset;

/* Opens the file and checks it, the target's samples along target_axis: an array for every model input, of a type that
 * converts and a shape that fits, perhaps `target`, nothing else, the same number of samples in all. Fails E_IO,
 * E_MODEL, E_SHAPE, E_USAGE with the file and both names in one line. */
Status dataset_open(const char *path, const Model *model, int target_axis, Dataset *data);
/* Fails E_SHAPE where there is no target. */
Status dataset_need_target(const Dataset *data);
void dataset_close(Dataset *data);

/* The array's shape with this many samples along the axis that counts them. */
Shape dataset_shape(const Array *array, int axis, int64_t samples);

/* Which samples each batch has: position p of the stream is sample p modulo the epoch's length, or a permutation of
 * each epoch's own where shuffled. */
typedef struct {
  int64_t samples, epoch_length, batch;
  bool shuffle;
  uint64_t seed;
  int64_t epoch;    /* that `order` belongs to; -1: none */
  int64_t *order;   /* [samples] */
  int64_t *indices; /* [batch]: of the batch at hand */
} Sampler;

/* `epoch_length` samples of each epoch are used: all of them where the data wraps, else a multiple of the batch. */
Status sampler_create(Arena *arena, int64_t samples, int64_t epoch_length, int64_t batch, bool shuffle, uint64_t seed,
                      Sampler *sampler);
/* Sets indices to those of step k, from 0. */
void sampler_batch(Sampler *sampler, int64_t step);

/* `count` samples along the axis of the array, those of indices, converted to dtype, into data. */
Status dataset_gather(const Array *array, int axis, const int64_t *indices, int64_t count, DType dtype, void *data);

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

#endif
