/* A product and the cross entropy of its rows, a few rows at a time. */
#include "backend/head.h"

#include "backend/reference/kernel.h"

HEAD_FUNCTIONS(backend_reference)

KERNEL(ProductCrossEntropy, HEAD_FIELDS) {
  return head_run(&backend_reference, stream, node, in, out, workspace, state);
}
