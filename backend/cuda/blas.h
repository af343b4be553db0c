/* Matrix products. cuBLASLt does them; the emulation puts loops in its place. */
#ifndef BACKEND_CUDA_BLAS_H
#define BACKEND_CUDA_BLAS_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "graph/tensor.h"

typedef struct Blas Blas;

/* C [m,n] = alpha A [m,k] B [k,n], row-major and dense, read transposed where it says so; `batches` times, the matrices
 * a_step, b_step, m n elements apart (0: the same one). k is not 0. */
typedef struct {
  DType type; /* F32, F64 */
  bool transpose_a, transpose_b;
  int64_t m, n, k, batches, a_step, b_step;
  double alpha;
  size_t alignment; /* of where A, B and C begin, bytes */
} BlasProduct;

/* For the calling thread's device. Fails E_DEVICE where the library is missing. */
Status blas_open(Blas **blas);
void blas_close(Blas *blas);

size_t blas_workspace_bytes(const BlasProduct *product);

/* Enqueues. Which algorithm runs depends on the product alone. */
Status blas_run(Blas *blas, cudaStream_t stream, const BlasProduct *product, const void *a, const void *b, void *c,
                void *workspace);

#endif
