/* cuBLASLt, loaded when the first device is opened: it is large, and programs without a device do not need it.
 * Invariant: which algorithm runs is what cuBLASLt's heuristic puts first for the product and its workspace. */
#include "backend/cuda/blas.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* The library's functions, by their names without the prefix. */
#define FUNCTIONS(VISIT)                                                                                               \
  VISIT(Create)                                                                                                        \
  VISIT(Destroy)                                                                                                       \
  VISIT(MatmulDescInit_internal)                                                                                       \
  VISIT(MatmulDescSetAttribute)                                                                                        \
  VISIT(MatrixLayoutInit_internal)                                                                                     \
  VISIT(MatrixLayoutSetAttribute)                                                                                      \
  VISIT(MatmulPreferenceInit_internal)                                                                                 \
  VISIT(MatmulPreferenceSetAttribute)                                                                                  \
  VISIT(MatmulAlgoGetHeuristic)                                                                                        \
  VISIT(Matmul)

static struct {
#define VISIT(name) __typeof__(&cublasLt##name) name;
  FUNCTIONS(VISIT)
#undef VISIT
  char missing[256]; /* "": all there */
} lt;

static void load_library(void) {
  char name[64];
  snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(lt.missing, sizeof lt.missing, "%s", dlerror());
    return;
  }
#define VISIT(function)                                                                                                \
  *(void **)&lt.function = dlsym(library, "cublasLt" #function);                                                       \
  if (!lt.function)                                                                                                    \
    snprintf(lt.missing, sizeof lt.missing, "%s has no function cublasLt%s", name, #function);
  FUNCTIONS(VISIT)
#undef VISIT
}

/* Algorithms that were found, by product: a ring of the latest. */
enum { REMEMBERED = 256 };

typedef struct {
  BlasProduct product;
  cublasLtMatmulAlgo_t algorithm;
} Choice;

struct Blas {
  cublasLtHandle_t handle;
  Choice choices[REMEMBERED];
  int n, next;
};

static Status check(cublasStatus_t status, const char *what) {
  static const char *const names[] = {
      [CUBLAS_STATUS_NOT_INITIALIZED] = "not initialized",   [CUBLAS_STATUS_ALLOC_FAILED] = "allocation failed",
      [CUBLAS_STATUS_INVALID_VALUE] = "invalid value",       [CUBLAS_STATUS_ARCH_MISMATCH] = "architecture mismatch",
      [CUBLAS_STATUS_EXECUTION_FAILED] = "execution failed", [CUBLAS_STATUS_INTERNAL_ERROR] = "internal error",
      [CUBLAS_STATUS_NOT_SUPPORTED] = "not supported"};
  if (status == CUBLAS_STATUS_SUCCESS)
    return OK;
  const char *name = (size_t)status < sizeof names / sizeof *names ? names[status] : NULL;
  return fail(E_DEVICE, "cuBLASLt: %s: %s (status %d)", what, name ? name : "it failed", (int)status);
}

Status blas_open(Blas **out) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load_library);
  if (lt.missing[0])
    return fail(E_DEVICE, "cuBLASLt cannot be loaded: %s", lt.missing);
  Blas *blas = calloc(1, sizeof *blas);
  if (!blas)
    return fail(E_MEMORY, "out of memory");
  Status status = check(lt.Create(&blas->handle), "opening the library");
  if (status != OK)
    free(blas);
  else
    *out = blas;
  return status;
}

void blas_close(Blas *blas) {
  if (blas)
    lt.Destroy(blas->handle);
  free(blas);
}

/* What cuBLASLt is recommended for large products; small ones split their sums in less. */
size_t blas_workspace_bytes(const BlasProduct *p) {
  double work = (double)p->m * (double)p->n * (double)p->k * (double)p->batches;
  return work < 1 << 24 ? (size_t)1 << 20 : work < 1e9 ? (size_t)4 << 20 : (size_t)32 << 20;
}

/* The row-major product C = A B is the column-major one C' = B' A': B comes first, and what is read transposed stays
 * so.
 */
typedef struct {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t b, a, c;
} Descriptors;

static Status describe_matrix(cublasLtMatrixLayoutOpaque_t *layout, const BlasProduct *p, bool transposed, int64_t rows,
                              int64_t columns, int64_t step) {
  cudaDataType_t type = p->type == F32 ? CUDA_R_32F : CUDA_R_64F;
  int32_t batches = (int32_t)p->batches;
  uint64_t height = (uint64_t)(transposed ? rows : columns), width = (uint64_t)(transposed ? columns : rows);
  TRY(check(lt.MatrixLayoutInit_internal(layout, sizeof *layout, type, height, width, (int64_t)height),
            "describing a matrix"));
  TRY(check(lt.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches),
            "describing a matrix"));
  return check(lt.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step),
               "describing a matrix");
}

static Status describe(const BlasProduct *p, Descriptors *d) {
  cublasComputeType_t compute = p->type == F32 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F;
  cublasOperation_t a = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, b = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  TRY(check(
      lt.MatmulDescInit_internal(&d->product, sizeof d->product, compute, p->type == F32 ? CUDA_R_32F : CUDA_R_64F),
      "describing a product"));
  TRY(check(lt.MatmulDescSetAttribute(&d->product, CUBLASLT_MATMUL_DESC_TRANSA, &b, sizeof b), "describing a product"));
  TRY(check(lt.MatmulDescSetAttribute(&d->product, CUBLASLT_MATMUL_DESC_TRANSB, &a, sizeof a), "describing a product"));
  TRY(describe_matrix(&d->b, p, p->transpose_b, p->k, p->n, p->b_step));
  TRY(describe_matrix(&d->a, p, p->transpose_a, p->m, p->k, p->a_step));
  return describe_matrix(&d->c, p, false, p->m, p->n, p->m * p->n);
}

static bool same(const BlasProduct *a, const BlasProduct *b) {
  return a->type == b->type && a->transpose_a == b->transpose_a && a->transpose_b == b->transpose_b && a->m == b->m &&
         a->n == b->n && a->k == b->k && a->batches == b->batches && a->a_step == b->a_step && a->b_step == b->b_step &&
         a->alignment == b->alignment;
}

static Status choose(Blas *blas, const BlasProduct *p, Descriptors *d, const cublasLtMatmulAlgo_t **algorithm) {
  for (int i = 0; i < blas->n; i++)
    if (same(&blas->choices[i].product, p)) {
      *algorithm = &blas->choices[i].algorithm;
      return OK;
    }
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulHeuristicResult_t found;
  size_t bytes = blas_workspace_bytes(p);
  uint32_t alignment = (uint32_t)p->alignment;
  int count = 0;
  TRY(check(lt.MatmulPreferenceInit_internal(&preference, sizeof preference), "choosing an algorithm"));
  TRY(check(
      lt.MatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
      "choosing an algorithm"));
  static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  for (int i = 0; i < 4; i++)
    TRY(check(lt.MatmulPreferenceSetAttribute(&preference, alignments[i], &alignment, sizeof alignment),
              "choosing an algorithm"));
  TRY(check(
      lt.MatmulAlgoGetHeuristic(blas->handle, &d->product, &d->b, &d->a, &d->c, &d->c, &preference, 1, &found, &count),
      "choosing an algorithm"));
  if (!count)
    return fail(E_DEVICE, "cuBLASLt has no algorithm for a product [%lld,%lld] [%lld,%lld]", (long long)p->m,
                (long long)p->k, (long long)p->k, (long long)p->n);
  Choice *choice = &blas->choices[blas->next];
  blas->next = (blas->next + 1) % REMEMBERED;
  blas->n += blas->n < REMEMBERED;
  *choice = (Choice){*p, found.algo};
  *algorithm = &choice->algorithm;
  return OK;
}

Status blas_run(Blas *blas, cudaStream_t stream, const BlasProduct *p, const void *a, const void *b, void *c,
                void *workspace) {
  Descriptors d;
  const cublasLtMatmulAlgo_t *algorithm;
  float alpha = (float)p->alpha, nothing = 0;
  double wide_nothing = 0;
  bool is_narrow = p->type == F32;
  TRY(describe(p, &d));
  TRY(choose(blas, p, &d, &algorithm));
  return check(lt.Matmul(blas->handle, &d.product, is_narrow ? (const void *)&alpha : &p->alpha, b, &d.b, a, &d.a,
                         is_narrow ? (const void *)&nothing : &wide_nothing, c, &d.c, c, &d.c, algorithm, workspace,
                         blas_workspace_bytes(p), stream),
               "a product");
}
