/* What an ONNX file says, as it was opened: its initializers, inputs and outputs, their contents, and the same file
 * written again with other weights. */
#ifndef ONNX_FILE_CONTENTS_H
#define ONNX_FILE_CONTENTS_H

#include "graph/graph.h"

typedef struct Model Model;

/* One initializer of the main graph. */
typedef struct {
  const char *name;
  DType dtype;  /* of its contents as they are read and trained */
  DType stored; /* of the file's; narrower than dtype where that is float32 for one */
  Shape shape;
  bool trains;
  bool is_buffer;   /* running statistics: saved as the run leaves them, though they do not train */
  const char *rule; /* which rule decided: "0", "1", "1f", "2", "3", "4", "--train", "--freeze", "not float" */
  int tied_to;      /* index of the initializer whose parameter this one shares, else -1 */
  bool tied_transposed;
  bool in_node;      /* it lies in a node or in a branch, not among the main graph's initializers */
  bool in_attribute; /* of a linear model of ai.onnx.ml: then also in_node */
  int split_from;    /* the exporter had merged it into this initializer, else -1 */
  bool restored;     /* the exporter had dropped it: zeros */
  bool constant;     /* the exporter had merged it into a PARAMETER, and it is none */
  int64_t copies;    /* the file has it so many times, one after the other, along leading axes; else 0 */
  Shape file_shape;  /* then the file's shape: these axes are 1 in `shape` */
} Initializer;

typedef struct {
  const char *const *train, *const *freeze; /* globs over initializer names */
  const char *const *freeze_row;            /* "TENSOR=ROW" */
  int n_train, n_freeze, n_freeze_row;
  bool no_tie;
  const char *const *batch_axis; /* "INPUT=A", "INPUT=none": which axis of an input counts samples */
  int n_batch_axis;
} TrainOptions;

/* As it was opened. */
const char *model_path(const Model *model);
/* 16 hex digits over the skeleton and the initializers' names, types, shapes; not over weights. */
const char *model_hash(const Model *model);
/* The main graph's, in file order. */
const Initializer *model_initializers(const Model *model, int *count);
/* A row (along axis 0) of a trained initializer that stays as it is in the file. */
typedef struct {
  int initializer;
  int64_t row;
  const void *contents; /* zeros where the weights are absent */
  size_t bytes;
} FrozenRow;
const FrozenRow *model_frozen_rows(const Model *model, int *count);

/* Parameters that the exporter lists and no node has: dropped for good, unused, or a tied tensor's other name. */
const char *const *model_absent(const Model *model, int *count);
/* Whether tensors that the exporter wrote twice could not be told, since weights are absent. */
bool model_ties_unknown(const Model *model);
/* Samples that the file was exported with when its batch is a number; 0 when symbolic. */
int64_t model_fixed_batch(const Model *model);
/* Model inputs: name, types, rank, dims (-1 symbolic) and the names of symbolic dimensions (NULL where fixed). */
typedef struct {
  const char *name;
  DType dtype, stored; /* in the graph, and as the file declares it: a narrow type is float32 in the graph */
  int rank;            /* -1 unknown */
  int64_t dim[MAX_RANK];
  const char *dim_name[MAX_RANK];
  int batch_axis; /* which counts samples; -1: none */
} ModelInput;
const ModelInput *model_inputs(const Model *model, int *count);
const ModelInput *model_outputs(const Model *model, int *count);

/* Reads the file's contents of an initializer, `bytes` of them (checked), into memory. Thread-safe. */
Status model_read_initializer(const Model *model, int initializer, void *data, size_t bytes);

/* OK while the model file and those of its weights are what they were when it was opened; else E_IO, naming the one
 * that is not. */
Status model_unchanged(const Model *model);

/* Whether contents that another file has under its name may stand for those of an initializer that does not train: not
 * where an exporter made the name up, and not for what may be a size or an axis. */
bool model_takes_contents(const Model *model, int initializer);

/* Contents to write for initializer i (bytes of its dense tensor) into `data`; called in table order, only for
 * initializers that train, buffers, and those that are asked for. */
typedef Status WeightSource(void *context, int initializer, void *data, size_t bytes);

/* Writes the imported file again with the weights that `source` gives, of initializers that do not train where `also`
 * [initializers] (NULL: of none) says so, too, all else byte for byte as it was (external
 * data goes beside it, to PATH.data or PATH.1.data …, the first name that is free). Written aside, synced, renamed, the
 * model last: an existing model is whole at any moment, with its own data, which goes when nothing refers to it. */
Status model_save(const Model *model, const char *path, const bool *also, WeightSource *source, void *context);

#endif
