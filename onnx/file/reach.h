/* What the values of a file reach: from this it follows which of its tensors are weights. Nobody outside onnx/ includes
 * this. */
#ifndef ONNX_FILE_REACH_H
#define ONNX_FILE_REACH_H

#include "onnx/file/internal.h"

/* Only through operators that move elements, but for the last. */
enum {
  REACHES_SLOT = 1,        /* an operand that is a layer's weight */
  REACHES_ELEMENTWISE = 2, /* an operand of elementwise arithmetic */
  REACHES_STATISTICS = 4,  /* a batch normalisation's mean or variance */
  REACHES_TABLE = 8,       /* what rows are gathered from: a slot of this kind, … */
  REACHES_PRODUCT = 16,    /* … or of this one */
  REACHES_BEHIND = 32 /* a slot or arithmetic behind other differentiable operators of nothing but it and constants */
};

/* The values of one graph or function and what each reaches, inside those around it. */
typedef struct Reach {
  struct Reach *around;
  NameMap names, roots;
  int *in_branches; /* [initializers]: bits of those that lie in branches */
} Reach;

/* Of the main graph's values. */
Status reach_find(const Model *model, Arena *arena, Reach *reach);

/* The bits of an initializer. */
int reached_initializer(const Model *model, const Reach *reach, int initializer);

/* The bits of a value; 0 where it has no such name. */
int reached(const Reach *reach, const char *name);

/* What input k of a node of the main graph reaches through that node alone. */
int reached_by_use(const Model *model, const Reach *reach, const Onnx__NodeProto *node, size_t k);

#endif
