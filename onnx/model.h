/* An ONNX file: opened without its weights, bound to a Graph as often as needed, written back with trained ones.
 *
 * Invariant: opening and binding read no weights except small constants that shapes depend on, and a byte string
 * gives a model or one error that names file, node and numbers. */
#ifndef ONNX_MODEL_H
#define ONNX_MODEL_H

#include <jansson.h>

#include "base/text.h"
#include "onnx/file/contents.h"
#include "onnx/lower/bind.h"

/* Opens a file: skeleton, initializer table, training rules, checks (SSA, acyclic, inputs defined, dims × type =
 * bytes). Local functions are inlined and constant Ifs resolved at bind. Fails E_IO, E_MODEL, E_UNSUPPORTED (IR
 * version) with the path in front. */
Status model_open(const char *path, const TrainOptions *options, Model **model);
void model_close(Model *model);

/* What `inspect --json` prints: ir_version, opset, producer, hash, fixed_batch (null: open), inputs and outputs (name,
 * dtype, shape with names for open dimensions and null for nameless ones, batch_axis), operators (name → count over
 * graph, subgraphs and functions), unsupported (node, operator, reason), parameters (every float initializer: name,
 * dtype, shape, elements, trains, rule, tied_to or null, split_from, restored), trained_tensors, trained_elements,
 * batch_coupled (node, operator), findings (id, tensor, text, wrong: probably not what a person wants). With `options`
 * that hold an evaluator it also binds once and reports what fails. The caller decrefs. */
Status model_inspect(Model *model, const BindOptions *options, json_t **report);

/* What `inspect` finds that is probably not what a person wants, in one line of ids and tensors in `arena`; NULL where
 * there is nothing. */
Status model_doubts(Model *model, Arena *arena, const char **line);

/* What `edit` changes. */
typedef struct {
  const char *set_batch;      /* "dynamic" or a number; NULL: as it is */
  int64_t classes;            /* of the new head; 0: as it is */
  const char *const *dropout; /* "GLOB=RATIO" over names of nodes */
  const char *const *unfold;  /* "TENSOR=C" */
  int n_dropout, n_unfold;
  bool constants_train, logits;
  uint64_t seed; /* of what is drawn */
} RewriteOptions;

/* Writes the file with these changes to `path`, if what comes of them opens and binds; external data is copied beside
 * it where that is another folder. `said` gets a line for each change. Fails E_USAGE where options name what is not
 * there, E_UNSUPPORTED where a shape inside cannot follow the batch. */
Status model_rewrite(Model *model, const RewriteOptions *options, const BindOptions *bind, const char *path,
                     Text *said);

#endif
