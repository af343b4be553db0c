/* Products with something done to their results while these are in cache. */
#ifndef BACKEND_CPU_PRODUCT_H
#define BACKEND_CPU_PRODUCT_H

#include "backend/cpu/cpu.h"
#include "backend/reference/product.h"

/* What becomes of a result: apply is called for n elements of it that run on, c, when their sums are whole; the first
 * is element number `at` of the result [batches,m,n], as of other tensors of its shape. Every element comes once, from
 * some thread, in runs that shapes and the instruction set decide. */
typedef struct {
  void (*apply)(const void *context, int64_t at, int64_t n, void *c);
  const void *context;
} Epilogue;

/* KernelDef's entries of a node whose product is of inputs `first` and first + 1. */
size_t product_workspace(const Graph *graph, const Node *node, int first);
Status product_prepare(const Node *node, const Tensor *in, void **state); /* in: A and B; the state is a Product */

/* out = A B, or += where it adds. in: A and B; row [n]: NULL, or what each row begins with; epilogue: NULL, or what is
 * done at the end, both of float32 and float64 only; workspace, state: of the above. Fails E_UNSUPPORTED for other
 * types. */
Status product_run(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, bool adds, const void *row,
                   const Epilogue *epilogue, void *workspace, const void *state);

#endif
