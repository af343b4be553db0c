/* An ONNX file: opened without its weights, bound to a Graph as often as needed, written back with trained ones.
 *
 * Invariant: opening and binding read no weights except small constants that shapes depend on, and a byte string
 * gives a model or one error that names file, node and numbers. */
#ifndef ONNX_MODEL_H
#define ONNX_MODEL_H

#include <jansson.h>

#include "graph/graph.h"

typedef struct Model Model;

/* One initializer of the main graph. */
typedef struct {
  const char *name;
  DType dtype;
  Shape shape;
  bool trains;
  const char *rule; /* which rule decided: "0", "1", "1f", "2", "3", "--train", "--freeze", "not float" */
  int tied_to;      /* index of the initializer whose parameter this one shares, else -1 */
  bool tied_transposed;
} Initializer;

/* Evaluates one node whose inputs are known; handed in because onnx/ knows no backend. */
typedef Status Evaluate(void *context, const Node *node, const Tensor *in, const Tensor *out);

typedef struct {
  const char *name;
  int64_t value;
} DimBinding;

typedef struct {
  int64_t batch;          /* samples of a microbatch; 0: as exported (fails where the file leaves it open) */
  const DimBinding *dims; /* --dim NAME=N, and those that the data's shapes decide */
  int n_dims;
  Evaluate *evaluate;
  void *evaluate_context;
} BindOptions;

typedef struct {
  const char *const *train, *const *freeze; /* globs over initializer names */
  int n_train, n_freeze;
  bool no_tie;
} TrainOptions;

/* Opens a file: skeleton, initializer table, training rules, checks (SSA, acyclic, inputs defined, dims × type =
 * bytes). Local functions are inlined and constant Ifs resolved at bind. Fails E_IO, E_MODEL, E_UNSUPPORTED (IR
 * version) with the path in front. */
Status model_open(const char *path, const TrainOptions *options, Model **model);
void model_close(Model *model);

/* As it was opened. */
const char *model_path(const Model *model);
/* 16 hex digits over the skeleton and the initializers' names, types, shapes; not over weights. */
const char *model_hash(const Model *model);
/* The main graph's, in file order. */
const Initializer *model_initializers(const Model *model, int *count);
/* Whether tensors that the exporter wrote twice could not be told, since weights are absent. */
bool model_ties_unknown(const Model *model);
/* Samples that the file was exported with when its batch is a number; 0 when symbolic. */
int64_t model_fixed_batch(const Model *model);
/* Model inputs: name, dtype, rank, dims (-1 symbolic) and the names of symbolic dimensions (NULL where fixed). */
typedef struct {
  const char *name;
  DType dtype;
  int rank; /* -1 unknown */
  int64_t dim[MAX_RANK];
  const char *dim_name[MAX_RANK];
  int batch_axis; /* 0 or -1 */
} ModelInput;
const ModelInput *model_inputs(const Model *model, int *count);
const ModelInput *model_outputs(const Model *model, int *count);

/* Binds every symbolic dimension, inlines, lowers to canonical operators (graph/ops.def), infers shapes and folds
 * what depends only on constants and shapes. The result lives in `arena`. Values keep the file's names. batch_axis
 * is set on every value. Fails E_UNSUPPORTED naming all unsupported operators at once, E_SHAPE, E_MODEL. */
Status model_bind(Model *model, const BindOptions *options, Arena *arena, Graph **graph);

/* Reads the file's contents of an initializer, `bytes` of them (checked), into memory. Thread-safe. */
Status model_read_initializer(const Model *model, int initializer, void *data, size_t bytes);

/* What `inspect --json` prints: ir_version, opset, producer, hash, fixed_batch (null: open), inputs and outputs (name,
 * dtype, shape with names for open dimensions and null for nameless ones, batch_axis), operators (name → count over
 * graph, subgraphs and functions), unsupported (node, operator, reason), parameters (every float initializer: name,
 * dtype, shape, elements, trains, rule, tied_to or null), trained_tensors, trained_elements, batch_coupled (node,
 * operator), findings (id, tensor, text). With `options` that hold an evaluator it also binds once and reports what
 * fails. The caller decrefs. */
Status model_inspect(Model *model, const BindOptions *options, json_t **report);

/* Contents to write for initializer i (bytes of its dense tensor) into `data`; called in table order, only for
 * initializers that train. */
typedef Status WeightSource(void *context, int initializer, void *data, size_t bytes);

/* Writes the imported file again with the weights that `source` gives, all else byte for byte as it was (external
 * data goes to PATH.data beside it). Written aside, synced, renamed: an existing file is whole at any moment. */
Status model_save(const Model *model, const char *path, WeightSource *source, void *context);

#endif
