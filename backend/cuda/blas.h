/* Matrix products, by cuBLASLt. */
#ifndef BACKEND_CUDA_BLAS_H
#define BACKEND_CUDA_BLAS_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "graph/tensor.h"

typedef struct Blas Blas;

/* Where workspaces begin, and how many products a call does: more than cuBLASLt and the grids of its kernels take. */
enum { BLAS_ALIGNMENT = 256, BLAS_BATCHES = 32768 };

/* What becomes of a product's sums, with the row: GELU by tanh, or they times its slope at a matrix like C. */
typedef enum { BLAS_PLAIN, BLAS_GELU, BLAS_GELU_SLOPE } BlasBehind;

/* C [m,n] = or += alpha A [m,k] B [k,n], row-major and dense, read transposed where it says so; `batches` (at most
 * BLAS_BATCHES) times, the matrices a_step, b_step, m n elements apart (0: the same one). m, n, k, batches are not 0.
 */
typedef struct {
  DType type;   /* of A and B: F32, F64, BF16 */
  DType result; /* C's: F64 where theirs is, else F32, or BF16 where theirs is */
  bool is_tf32; /* operands in F32 are rounded to TF32 */
  bool transpose_a, transpose_b;
  bool row;          /* a row of n, in C's type, is added to C's rows; not in F64 */
  BlasBehind behind; /* of one product whose n is a multiple of 8 */
  bool beside;       /* of BLAS_GELU: the sums go to a matrix like C */
  int64_t m, n, k, batches, a_step, b_step;
  double alpha;
  size_t alignment;       /* of where A, B and C begin, bytes */
  size_t workspace_bytes; /* what cuBLASLt may use beside them */
} BlasProduct;

/* A product made ready: descriptions and algorithm. */
typedef struct BlasPlan BlasPlan;

/* For the calling thread's device, by its number. Fails E_DEVICE where the library is missing. */
Status blas_open(int device, Blas **blas);
void blas_close(Blas *blas);

/* What cuBLASLt should have beside the operands. */
size_t blas_workspace_bytes(const BlasProduct *product);

/* What a matrix of so many bytes keeps of the alignment of a tensor, when others lie before it. */
size_t blas_alignment(size_t bytes);

/* Which algorithm is chosen depends on the product alone. Equal products are asked about once in a process. Fails
 * E_DEVICE where there is none. */
Status blas_prepare(Blas *blas, const BlasProduct *product, BlasPlan **plan);
void blas_release(BlasPlan *plan); /* NULL: nothing */

/* Whether it adds the row, and does what is behind: cuBLASLt does not for all products. */
bool blas_adds_row(const BlasPlan *plan);
bool blas_is_behind(const BlasPlan *plan);

/* Enqueues. added: what is like C, or C itself, is added first; NULL: nothing. row: at a multiple of 64 bytes; where
 * the plan does not add one it is not read. beside: the sums, or what the slope is at, at a multiple of 64 bytes, where
 * there is such a matrix. workspace: at a multiple of BLAS_ALIGNMENT. */
Status blas_run(Blas *blas, cudaStream_t stream, const BlasPlan *plan, const void *a, const void *b, const void *added,
                const void *row, void *beside, void *c, void *workspace);

#endif
