/* cuBLASLt, loaded when the first device is opened: it is large, and programs without a device do not need it.
 * Invariant: which algorithm runs is what cuBLASLt's heuristic puts first for the product and its workspace, among
 * those that add up parts of a sum, if at all, in the type that they compute in. */
#include "backend/cuda/blas.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/memory.h"

/* The library's functions, by their names without the prefix. */
#define FUNCTIONS(VISIT)                                                                                               \
  VISIT(Create)                                                                                                        \
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

/* By its name, else in the folder where it lay when this was built. */
static void load_library(void) {
  char name[64], path[1024];
  snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
  snprintf(path, sizeof path, CUDA_LIBRARIES "/%s", name);
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(lt.missing, sizeof lt.missing, "%s", dlerror());
    if (!(library = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
      return;
    lt.missing[0] = '\0';
  }
#define VISIT(function)                                                                                                \
  *(void **)&lt.function = dlsym(library, "cublasLt" #function);                                                       \
  if (!lt.function)                                                                                                    \
    snprintf(lt.missing, sizeof lt.missing, "%s has no function cublasLt%s", name, #function);
  FUNCTIONS(VISIT)
#undef VISIT
}

enum { BESIDE_ALIGNMENT = MEMORY_ALIGNMENT }; /* of rows that are added, and matrices beside C */

struct Blas {
  cublasLtHandle_t handle; /* its device's */
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

/* Handles are made once a device and stay: they may be used by many threads, and making one takes its time. */
static Status handle_of(int device, cublasLtHandle_t *handle) {
  enum { DEVICES = 64 };
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static cublasLtHandle_t handles[DEVICES];
  if (device >= DEVICES)
    return fail(E_DEVICE, "cuda:%d: no device beyond cuda:%d is used", device, DEVICES - 1);
  pthread_mutex_lock(&lock);
  Status status = handles[device] ? OK : check(lt.Create(&handles[device]), "opening the library");
  *handle = handles[device];
  pthread_mutex_unlock(&lock);
  return status;
}

Status blas_open(int device, Blas **out) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  cublasLtHandle_t handle;
  pthread_once(&once, load_library);
  if (lt.missing[0])
    return fail(E_DEVICE, "cuBLASLt cannot be loaded: %s", lt.missing);
  TRY(handle_of(device, &handle));
  *out = calloc(1, sizeof **out);
  if (!*out)
    return fail(E_MEMORY, "out of memory");
  (*out)->handle = handle;
  return OK;
}

void blas_close(Blas *blas) {
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

struct BlasPlan {
  BlasProduct product;
  int64_t apart; /* products one after the other, each of this description: 1 where cuBLASLt takes the batches */
  int64_t a_step, b_step; /* from one of these to the next */
  Descriptors descriptors;
  cublasLtMatmulAlgo_t algorithm;
};

static Status describe_matrix(cublasLtMatrixLayoutOpaque_t *layout, const BlasProduct *p, cudaDataType_t type,
                              bool transposed, int64_t rows, int64_t columns, int64_t step) {
  int32_t batches = (int32_t)p->batches;
  uint64_t height = (uint64_t)(transposed ? rows : columns), width = (uint64_t)(transposed ? columns : rows);
  TRY(check(lt.MatrixLayoutInit_internal(layout, sizeof *layout, type, height, width, (int64_t)height),
            "describing a matrix"));
  TRY(check(lt.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches),
            "describing a matrix"));
  return check(lt.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step),
               "describing a matrix");
}

static cudaDataType_t type_of(DType type) {
  return type == F64 ? CUDA_R_64F : type == BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static Status set(Descriptors *d, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes) {
  return check(lt.MatmulDescSetAttribute(&d->product, attribute, value, bytes), "describing a product");
}

static bool has_beside(const BlasProduct *p) {
  return p->behind == BLAS_GELU_SLOPE || p->beside;
}

/* Where the row lies, and the matrix beside C, decides, too; places of the same alignment stand for those to come. */
static Status describe_epilogue(const BlasProduct *p, Descriptors *d) {
  uint32_t gelu = p->beside ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU;
  uint32_t epilogue = p->behind == BLAS_GELU_SLOPE ? CUBLASLT_EPILOGUE_DGELU : p->behind ? gelu : 0;
  const void *somewhere = (const void *)(uintptr_t)BESIDE_ALIGNMENT;
  if (!p->row && !p->behind)
    return OK;
  if (p->row) {
    epilogue |= CUBLASLT_EPILOGUE_BIAS;
    TRY(set(d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &somewhere, sizeof somewhere));
  }
  if (has_beside(p)) {
    TRY(set(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &somewhere, sizeof somewhere));
    TRY(set(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &p->n, sizeof p->n));
  }
  return set(d, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
}

static Status describe(const BlasProduct *p, Descriptors *d) {
  cublasComputeType_t compute = p->type == F64 ? CUBLAS_COMPUTE_64F
                                : p->is_tf32   ? CUBLAS_COMPUTE_32F_FAST_TF32
                                               : CUBLAS_COMPUTE_32F;
  cudaDataType_t scale = p->type == F64 ? CUDA_R_64F : CUDA_R_32F, operand = type_of(p->type);
  cublasOperation_t a = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, b = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  TRY(check(lt.MatmulDescInit_internal(&d->product, sizeof d->product, compute, scale), "describing a product"));
  TRY(set(d, CUBLASLT_MATMUL_DESC_TRANSA, &b, sizeof b));
  TRY(set(d, CUBLASLT_MATMUL_DESC_TRANSB, &a, sizeof a));
  TRY(describe_epilogue(p, d));
  TRY(describe_matrix(&d->b, p, operand, p->transpose_b, p->k, p->n, p->b_step));
  TRY(describe_matrix(&d->a, p, operand, p->transpose_a, p->m, p->k, p->a_step));
  return describe_matrix(&d->c, p, type_of(p->result), false, p->m, p->n, p->m * p->n);
}

static Status prefer(cublasLtMatmulPreferenceOpaque_t *preference, cublasLtMatmulPreferenceAttributes_t attribute,
                     const void *value, size_t bytes) {
  return check(lt.MatmulPreferenceSetAttribute(preference, attribute, value, bytes), "choosing an algorithm");
}

static Status describe_wishes(const BlasProduct *p, cublasLtMatmulPreferenceOpaque_t *preference) {
  uint64_t bytes = p->workspace_bytes;
  uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* or one sum */
  TRY(check(lt.MatmulPreferenceInit_internal(preference, sizeof *preference), "choosing an algorithm"));
  TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes));
  TRY(prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
  static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  for (int i = 0; i < 4; i++) {
    size_t element = dtype_bytes(i < 2 ? p->type : p->result);
    uint32_t alignment = (uint32_t)(p->alignment < element ? element : p->alignment);
    TRY(prefer(preference, alignments[i], &alignment, sizeof alignment));
  }
  return OK;
}

/* The first of the heuristic's; count 0: it has none. */
static Status ask(Blas *blas, const BlasProduct *p, Descriptors *d, cublasLtMatmulHeuristicResult_t *found,
                  int *count) {
  cublasLtMatmulPreferenceOpaque_t preference;
  TRY(describe_wishes(p, &preference));
  cublasStatus_t status =
      lt.MatmulAlgoGetHeuristic(blas->handle, &d->product, &d->b, &d->a, &d->c, &d->c, &preference, 1, found, count);
  if (status == CUBLAS_STATUS_SUCCESS && *count && found->state != CUBLAS_STATUS_SUCCESS)
    *count = 0;
  if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
      (status == CUBLAS_STATUS_INVALID_VALUE && (p->batches > 1 || p->row || p->behind))) {
    *count = 0; /* versions differ in which batches and epilogues they take, and in how they say so */
    return OK;
  }
  return check(status, "choosing an algorithm");
}

/* *found: whether there is an algorithm for plan->product as it is. */
static Status choose(Blas *blas, BlasPlan *plan, bool *found) {
  cublasLtMatmulHeuristicResult_t first;
  int count = 0;
  TRY(describe(&plan->product, &plan->descriptors));
  TRY(ask(blas, &plan->product, &plan->descriptors, &first, &count));
  *found = count > 0;
  if (*found)
    plan->algorithm = first.algo;
  return OK;
}

/* The lowest bit. */
size_t blas_alignment(size_t bytes) {
  bytes |= MEMORY_ALIGNMENT;
  return bytes & -bytes;
}

/* Each of the batches as a product of its own, wherever its matrices begin. */
static void take_apart(BlasPlan *plan) {
  BlasProduct *p = &plan->product;
  plan->apart = p->batches;
  plan->a_step = p->a_step;
  plan->b_step = p->b_step;
  p->batches = 1;
  p->a_step = p->b_step = 0;
  size_t operand = dtype_bytes(p->type), result = dtype_bytes(p->result);
  size_t alignment =
      blas_alignment((size_t)plan->a_step * operand | (size_t)plan->b_step * operand | (size_t)(p->m * p->n) * result);
  p->alignment = alignment < p->alignment ? alignment : p->alignment;
  size_t wish = blas_workspace_bytes(p);
  p->workspace_bytes = wish < p->workspace_bytes ? wish : p->workspace_bytes;
}

static Status prepare(Blas *blas, BlasPlan *plan) {
  bool found;
  TRY(choose(blas, plan, &found));
  if (!found && plan->product.behind) {
    plan->product.behind = BLAS_PLAIN;
    plan->product.beside = false;
    TRY(choose(blas, plan, &found));
  }
  if (!found && plan->product.row) {
    plan->product.row = false;
    TRY(choose(blas, plan, &found));
  }
  if (!found && plan->product.batches > 1) {
    take_apart(plan);
    TRY(choose(blas, plan, &found));
  }
  const BlasProduct *p = &plan->product;
  return found ? OK
               : fail(E_DEVICE, "cuBLASLt has no algorithm for a product [%lld,%lld] [%lld,%lld]", (long long)p->m,
                      (long long)p->k, (long long)p->k, (long long)p->n);
}

/* What was asked before. */
typedef struct {
  cublasLtHandle_t handle;
  BlasProduct product;
  BlasPlan plan;
} Known;

static struct {
  pthread_mutex_t lock;
  Known *known;
  size_t n, capacity;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_same(const BlasProduct *a, const BlasProduct *b) {
  return a->type == b->type && a->result == b->result && a->is_tf32 == b->is_tf32 && a->transpose_a == b->transpose_a &&
         a->transpose_b == b->transpose_b && a->row == b->row && a->behind == b->behind && a->beside == b->beside &&
         a->m == b->m && a->n == b->n && a->k == b->k && a->batches == b->batches && a->a_step == b->a_step &&
         a->b_step == b->b_step && a->alpha == b->alpha && a->alignment == b->alignment &&
         a->workspace_bytes == b->workspace_bytes;
}

/* With all.lock held. */
static Status find_plan(Blas *blas, const BlasProduct *product, BlasPlan *plan) {
  for (size_t i = 0; i < all.n; i++)
    if (all.known[i].handle == blas->handle && is_same(&all.known[i].product, product)) {
      *plan = all.known[i].plan;
      return OK;
    }
  *plan = (BlasPlan){.product = *product, .apart = 1};
  TRY(prepare(blas, plan));
  if (all.n == all.capacity) {
    size_t capacity = all.capacity ? 2 * all.capacity : 64;
    Known *grown = realloc(all.known, capacity * sizeof *grown);
    if (!grown)
      return fail(E_MEMORY, "out of memory");
    all.known = grown;
    all.capacity = capacity;
  }
  all.known[all.n++] = (Known){blas->handle, *product, *plan};
  return OK;
}

Status blas_prepare(Blas *blas, const BlasProduct *product, BlasPlan **out) {
  BlasPlan *plan = malloc(sizeof *plan);
  if (!plan)
    return fail(E_MEMORY, "out of memory");
  pthread_mutex_lock(&all.lock);
  Status status = find_plan(blas, product, plan);
  pthread_mutex_unlock(&all.lock);
  if (status != OK)
    free(plan);
  else
    *out = plan;
  return status;
}

void blas_release(BlasPlan *plan) {
  free(plan);
}

bool blas_adds_row(const BlasPlan *plan) {
  return plan->product.row;
}

bool blas_is_behind(const BlasPlan *plan) {
  return plan->product.behind;
}

Status blas_run(Blas *blas, cudaStream_t stream, const BlasPlan *plan, const void *a, const void *b, const void *added,
                const void *row, void *beside, void *c, void *workspace) {
  const BlasProduct *p = &plan->product;
  Descriptors d = plan->descriptors; /* the library's arguments are not const */
  int64_t operand = (int64_t)dtype_bytes(p->type), result = (int64_t)dtype_bytes(p->result);
  float alpha = (float)p->alpha, kept = added != NULL;
  double wide_kept = added != NULL;
  bool wide = p->type == F64;
  if (p->row)
    TRY(set(&d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &row, sizeof row));
  if (has_beside(p))
    TRY(set(&d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &beside, sizeof beside));
  for (int64_t i = 0; i < plan->apart; i++)
    TRY(check(lt.Matmul(blas->handle, &d.product, wide ? &p->alpha : (const void *)&alpha,
                        (const char *)b + i * plan->b_step * operand, &d.b,
                        (const char *)a + i * plan->a_step * operand, &d.a, wide ? &wide_kept : (const void *)&kept,
                        (const char *)(added ? added : c) + i * p->m * p->n * result, &d.c,
                        (char *)c + i * p->m * p->n * result, &d.c, &plan->algorithm, workspace, p->workspace_bytes,
                        stream),
              "a product"));
  return OK;
}
