/* A product and the cross entropy of its rows, a few rows at a time. */
#include "backend/head.h"

#include "backend/cpu/cpu.h"
#include "backend/reference/reference.h"

HEAD_FUNCTIONS(backend_cpu)

CPU_KERNEL(ProductCrossEntropy, HEAD_FIELDS) {
  return head_run(&backend_cpu, stream, node, in, out, workspace, state);
}
