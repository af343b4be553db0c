/* What the host's half of the CUDA backend shares. Invariant: a kernel function only enqueues; what a device kernel
 * finds wrong stays in stream->fault until the host waits. */
#ifndef BACKEND_CUDA_CUDA_H
#define BACKEND_CUDA_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/blas.h"
#include "backend/cuda/kernels.h"

struct Stream {
  int device;
  cudaStream_t cuda;
  Blas *blas;
  Fault *fault; /* pinned */
  int *claimed; /* on the device: whether someone writes the fault */
};

#define OP(name) Kernel cuda_##name;
#include "graph/ops.def"
#undef OP

/* What a node's kernel takes beside its operands. */
size_t cuda_workspace_bytes(const Graph *graph, const Node *node);

/* E_DEVICE: "cuda:0: what: out of memory (cudaErrorMemoryAllocation)"; OK for cudaSuccess. */
Status cuda_check(int device, cudaError_t error, const char *what);

/* Makes the stream's device the calling thread's. */
Status cuda_enter(const Stream *stream);

/* What every kernel function returns: whether its launches were accepted. */
Status cuda_launched(const Stream *stream, const Node *node);

static inline Reporter cuda_reporter(const Stream *stream, const Node *node) {
  return (Reporter){stream->claimed, stream->fault, node};
}

#define KERNEL(op_name)                                                                                                \
  Status cuda_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace)

#define UNUSED (void)stream, (void)node, (void)in, (void)out, (void)workspace

/* Fails E_UNSUPPORTED for a type of in[0] that is not among these. */
#define TAKES(type, ok)                                                                                                \
  do {                                                                                                                 \
    if (!(ok))                                                                                                         \
      return unsupported_type(node, type);                                                                             \
  } while (0)

static inline bool is_float(DType type) {
  return type == F32 || type == F64;
}

static inline bool is_number(DType type) {
  return is_float(type) || type == I64 || type == I32;
}

#endif
