/* From an opened file to a Graph. */
#ifndef ONNX_LOWER_BIND_H
#define ONNX_LOWER_BIND_H

#include "graph/op.h"
#include "onnx/file/contents.h"

/* Binding looks at contents of initializers of so many bytes at most. */
enum { BIND_READ_BYTES = 16 << 20 };

/* Evaluates one node whose inputs are known; handed in because onnx/ knows no backend. */
typedef Status Evaluate(void *context, const Node *node, const Tensor *in, const Tensor *out);

typedef struct {
  const char *name;
  int64_t value;
} DimBinding;

/* Contents of input i of the model where they are the same whatever the samples are, `data` of this type and shape;
 * *given says whether they are. */
typedef Status InputContents(void *context, int input, DType dtype, Shape shape, void *data, bool *given);

typedef struct {
  int64_t batch;          /* samples of a microbatch; 0: as exported (fails where the file leaves it open) */
  const DimBinding *dims; /* --dim NAME=N, and those that the data's shapes decide */
  int n_dims;
  Evaluate *evaluate;
  void *evaluate_context;
  InputContents *contents; /* asked where structure depends on an input (a shape, axes); NULL: none is given */
  void *contents_context;
  const void *const *replaced; /* [initializers]: dense contents in place of the file's, each NULL where it has its own;
                                  NULL: all have */
  bool no_fuse;                /* leave the passes out that make one node of several */
  Takes *takes;                /* else: what they may make; NULL: whatever they can */
  const void *takes_context;
  bool training; /* batch normalisation by the microbatch's own statistics, and Dropout drops */
  bool updates;  /* then running statistics are buffers, and the graph writes them */
  bool live;     /* running statistics are read when the graph runs: another graph writes them */
} BindOptions;

/* Binds every symbolic dimension, inlines, lowers to canonical operators (graph/ops.def), infers shapes and folds
 * what depends only on constants and shapes. The result lives in `arena`. Values keep the file's names; each says
 * where the samples lie in it, as proved by binding at two other counts (graph/batch.h). Fails E_UNSUPPORTED naming all
 * unsupported operators at once, E_SHAPE, E_MODEL. */
Status model_bind(Model *model, const BindOptions *options, Arena *arena, Graph **graph);

/* Frees what binding keeps in the model for the next time: constants as large as the file's may be among it. */
void model_bound(Model *model);

#endif
