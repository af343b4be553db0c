/* The cpu backend: the reference's table with faster entries, over the threads of a stream. Invariant: tasks and the
 * order of every sum follow from shapes and the instruction set; the number of threads changes no bit. */
#ifndef BACKEND_CPU_CPU_H
#define BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/pool.h"

struct Stream {
  Pool *pool;
  const Isa *isa;
};

#define CPU_KERNEL(op_name)                                                                                            \
  Status cpu_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace)

Kernel cpu_MatMul, cpu_Gemm;

/* A stream that uses these loops: tests compare instruction sets. */
Status cpu_stream_open(int threads, const Isa *isa, Stream **stream);

/* Bytes of workspace, for any instruction set and number of threads. */
size_t cpu_workspace_bytes(const Graph *graph, const Node *node);

#endif
