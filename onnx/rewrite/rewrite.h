/* `onnxpipe edit`: a file with other nodes, written as another file. What the findings advise, one source file a kind
 * of change. Invariant: the file that is edited is only read; the new one opens and binds, or is not written. */
#ifndef ONNX_REWRITE_REWRITE_H
#define ONNX_REWRITE_REWRITE_H

#include "onnx/file/internal.h"
#include "onnx/model.h"

/* The file being changed: all of it, weights included, in the arena. */
typedef struct {
  Model *model; /* as it was opened */
  const RewriteOptions *options;
  Arena *arena;
  Onnx__ModelProto *proto;
  Onnx__GraphProto *graph;
  NameMap taken; /* names of values and nodes */
  Text *said;    /* a line for each change */
} Rewrite;

/* Each does what its options ask, or fails naming what it did not find. */
Status rewrite_batch(Rewrite *r);
Status rewrite_head(Rewrite *r);
Status rewrite_dropout(Rewrite *r);
Status rewrite_unfold(Rewrite *r);
Status rewrite_constants(Rewrite *r);
Status rewrite_logits(Rewrite *r);

/* ---- parts.c: pieces of a graph ---- */

/* `base`, or `base` and a number where that is taken; NULL as arena_format. It is taken from then on. */
const char *rewrite_name(Rewrite *r, const char *base);
/* Puts a new node before node `at` (n_node: behind all). Texts are copied. */
Status rewrite_insert(Rewrite *r, size_t at, const char *op, const char *name, const char *const *inputs,
                      size_t n_inputs, const char *output, Onnx__NodeProto **node);
/* A new initializer, with a copy of the contents. */
Status rewrite_tensor(Rewrite *r, const char *name, int32_t onnx_type, Shape shape, const void *data, size_t bytes,
                      Onnx__TensorProto **tensor);
/* Other contents, of another shape, for a tensor. */
Status rewrite_contents(Rewrite *r, Onnx__TensorProto *tensor, Shape shape, const void *data, size_t bytes);
/* The initializer with this name, or NULL. */
Onnx__TensorProto *rewrite_initializer(const Rewrite *r, const char *name);
/* The node of the main graph that makes a value, or NULL. */
Onnx__NodeProto *rewrite_maker(const Rewrite *r, const char *value);
/* "GLOB=REST" apart; E_USAGE where there is no "=" or the rest is no number. */
Status rewrite_assignment(Rewrite *r, const char *flag, const char *text, const char **name, double *number);
/* Forgets what the file says of the types of values that nodes make: they may be others now. */
void rewrite_forget_values(Rewrite *r);

#endif
