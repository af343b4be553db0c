/* cuBLASLt by plain loops, as its documentation has it: matrices are column-major. Invariant: what the library would
 * refuse, or may do wrong on a device, is refused here, most of it by ending the program. Batches whose matrices are
 * one and the same have no algorithm where their number is odd, nor has a vector that is added to one column, nor a
 * GELU of 1003, as some versions have none. The epilogues' GELU is the one by tanh, as the library's is (PyTorch, pull
 * request 104061). */
#include <cublasLt.h>

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "linked.h"
#include "runtime.h"

struct Product { /* lies in a cublasLtMatmulDescOpaque_t */
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t a, b;
  uint32_t epilogue;
  const void *bias;
  void *beside; /* the auxiliary matrix: GELU's argument */
  int64_t beside_leading;
};

enum { ADDS_BIAS = 4, GELU = 32, GELU_SLOPE = 64, HAS_BESIDE = 128 }; /* bits of an epilogue */

struct Layout { /* in a cublasLtMatrixLayoutOpaque_t */
  uint64_t rows, columns;
  int64_t leading, step;
  cudaDataType_t type;
  int32_t batches;
};

struct Preference { /* in a cublasLtMatmulPreferenceOpaque_t */
  uint64_t workspace;
  uint32_t alignment[4], schemes;
};

/* In a cublasLtMatmulAlgo_t: good for this problem, these addresses and so much workspace. */
struct Algorithm {
  uint64_t problem, workspace;
  uint32_t alignment[4], bias_alignment, beside_alignment;
};

static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t) &&
                  sizeof(Product) <= sizeof(cublasLtMatmulDescOpaque_t) &&
                  sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t) &&
                  sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t),
              "opaque structs are large enough");

enum { WORKSPACE_BYTES = 1024 };

static void refuse(bool wrong, const char *what) {
  if (wrong) {
    fprintf(stderr, "emulated cuBLASLt: %s\n", what);
    abort();
  }
}

template <class T, class Opaque> static T get(const Opaque *opaque) {
  T value;
  memcpy(&value, opaque, sizeof value);
  return value;
}

template <class T, class Opaque> static cublasStatus_t put(Opaque *opaque, const T &value) {
  memcpy(opaque, &value, sizeof value);
  return CUBLAS_STATUS_SUCCESS;
}

template <class V> static void take(V &field, const void *value, size_t bytes) {
  refuse(bytes != sizeof field, "an attribute of another size");
  memcpy(&field, value, bytes);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  static char context;
  *handle = (cublasLtHandle_t)(void *)&context;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t size, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  refuse(size != sizeof *desc, "a descriptor of another size");
  return put(desc, Product{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL, NULL, 0});
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
  Product p = get<Product>(desc);
  if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE)
    take(p.epilogue, value, bytes);
  else if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER)
    take(p.bias, value, bytes);
  else if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER)
    take(p.beside, value, bytes);
  else if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD)
    take(p.beside_leading, value, bytes);
  else
    take(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? p.a : p.b, value, bytes);
  return put(desc, p);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size, cudaDataType_t type,
                                                 uint64_t rows, uint64_t columns, int64_t leading) {
  refuse(size != sizeof *layout, "a layout of another size");
  refuse(leading < (int64_t)rows || rows < 1 || columns < 1, "a matrix without elements, or longer than its columns");
  return put(layout, Layout{rows, columns, leading, 0, type, 1});
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes) {
  Layout l = get<Layout>(layout);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
    take(l.batches, value, bytes);
  else
    take(l.step, value, bytes);
  return put(layout, l);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t size) {
  refuse(size != sizeof *preference, "a preference of another size");
  return put(preference, Preference{0, {256, 256, 256, 256}, CUBLASLT_REDUCTION_SCHEME_MASK});
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
  Preference p = get<Preference>(preference);
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    take(p.workspace, value, bytes);
  else if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    take(p.schemes, value, bytes);
  else
    take(p.alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  return put(preference, p);
}

static size_t size_of(cudaDataType_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

/* A number that stands for all that an algorithm is chosen by. */
static uint64_t problem_of(const Product &p, const Layout &a, const Layout &b, const Layout &d) {
  const uint64_t parts[] = {
      (uint64_t)p.compute, (uint64_t)p.a, (uint64_t)p.b, p.epilogue,       (uint64_t)a.type, a.rows, a.columns,
      (uint64_t)a.step,    b.rows,        b.columns,     (uint64_t)b.step, (uint64_t)d.type, d.rows, d.columns,
      (uint64_t)d.batches};
  uint64_t hash = 14695981039346656037u;
  for (uint64_t part : parts)
    hash = (hash ^ part) * 1099511628211u;
  return hash;
}

static void check(const Product &p, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
  bool wide = p.compute == CUBLAS_COMPUTE_64F, ta = p.a == CUBLAS_OP_T, tb = p.b == CUBLAS_OP_T;
  uint64_t inner = ta ? a.rows : a.columns;
  refuse((ta ? a.columns : a.rows) != d.rows || (tb ? b.rows : b.columns) != d.columns ||
             inner != (tb ? b.columns : b.rows),
         "matrices that do not fit each other");
  refuse(memcmp(&c, &d, sizeof c) != 0, "C is not laid out as D");
  refuse(a.batches != d.batches || b.batches != d.batches || d.batches < 1, "unlike numbers of batches");
  refuse(d.batches > 65535, "more batches than a grid has layers");
  refuse(d.batches > 1 && d.step < (int64_t)(d.rows * d.columns), "results lie in each other");
  refuse(a.type != b.type || p.scale != (wide ? CUDA_R_64F : CUDA_R_32F), "types that do not go together");
  refuse(a.type != d.type && !(a.type == CUDA_R_16BF && d.type == CUDA_R_32F), "a result of another type");
  refuse((a.type == CUDA_R_64F) != wide || (a.type == CUDA_R_16BF && p.compute != CUBLAS_COMPUTE_32F),
         "operands of another type");
  static const uint32_t epilogues[] = {
      CUBLASLT_EPILOGUE_DEFAULT,  CUBLASLT_EPILOGUE_BIAS,          CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS,
      CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU};
  bool known = std::find(std::begin(epilogues), std::end(epilogues), p.epilogue) != std::end(epilogues);
  refuse(!known || (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && (wide || d.batches > 1)),
         "an epilogue that the product does not have");
  refuse(p.epilogue & HAS_BESIDE && (p.beside_leading % 8 || p.beside_leading < (int64_t)d.rows),
         "an auxiliary matrix whose columns are no multiple of 8, or shorter than the result's");
}

/* What a place has. */
static uint32_t alignment_of(const void *place) {
  return (uint32_t)((uintptr_t)place | 256) & (0 - (uint32_t)((uintptr_t)place | 256));
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
  Product p = get<Product>(desc);
  Layout la = get<Layout>(a), lb = get<Layout>(b), ld = get<Layout>(d);
  Preference wish = get<Preference>(preference);
  check(p, la, lb, get<Layout>(c), ld);
  *found = 0;
  if (ld.batches % 2 == 1 && ld.batches > 1 && (!la.step || !lb.step))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if ((p.epilogue & ADDS_BIAS && ld.columns == 1) || (p.epilogue & (GELU | GELU_SLOPE) && ld.columns == 1003))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  refuse(wish.schemes & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, "sums that are rounded on the way");
  Algorithm algorithm = {problem_of(p, la, lb, ld),
                         std::min((uint64_t)WORKSPACE_BYTES, wish.workspace),
                         {},
                         alignment_of(p.bias),
                         alignment_of(p.beside)};
  memcpy(algorithm.alignment, wish.alignment, sizeof wish.alignment);
  put(&results->algo, algorithm);
  results->workspaceSize = algorithm.workspace;
  results->state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

static double number(double x, bool) {
  return x;
}

/* Rounded to 10 binary digits where the product is in TF32. */
static double number(float x, bool is_tf32) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (is_tf32)
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~(uint32_t)0x1fff;
  memcpy(&x, &bits, sizeof bits);
  return (double)x;
}

static double number(uint16_t x, bool) {
  uint32_t bits = (uint32_t)x << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return (double)wide;
}

template <class R> static void put_number(R *to, double x) {
  *to = (R)x;
}

/* To the nearest bfloat16, ties to even. */
static void put_number(uint16_t *to, double x) {
  float wide = (float)x;
  uint32_t bits;
  memcpy(&bits, &wide, sizeof bits);
  *to = (uint16_t)(wide != wide ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The sanitizer is asked about the ends of all matrices, and not about each element again and again. */
template <class T> static T end_of(const T *first, const Layout &l) {
  const volatile T *data = first;
  return data[0] + data[(l.batches - 1) * l.step + (int64_t)(l.columns - 1) * l.leading + (int64_t)l.rows - 1];
}

static double gelu_gate(double x) {
  return tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
}

/* What the epilogue makes of a sum with its bias, of whose matrix's kind the auxiliary one is. */
template <class R> static double put_behind(const Product &p, double x, R *beside) {
  if (p.epilogue & GELU) {
    if (p.epilogue & HAS_BESIDE)
      put_number(beside, x);
    return 0.5 * x * (1 + gelu_gate(x));
  }
  if (!(p.epilogue & GELU_SLOPE))
    return x;
  double v = number(*beside, false), t = gelu_gate(v);
  return x * (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * v * v));
}

/* C over D. */
static void lay(const void *c, void *d, const Layout &l) {
  for (int64_t batch = 0; batch < l.batches; batch++)
    for (uint64_t j = 0; j < l.columns; j++) {
      size_t at = (size_t)(batch * l.step + (int64_t)j * l.leading) * size_of(l.type);
      memcpy((char *)d + at, (const char *)c + at, l.rows * size_of(l.type));
    }
}

/* Sums in double, a column of D at a time. */
template <class T, class R>
__attribute__((no_sanitize("address", "undefined"), optimize("O3"))) static void
multiply(const Product &p, double alpha, double beta, const T *a, const Layout &la, const T *b, const Layout &lb, R *d,
         const Layout &ld) {
  bool tf32 = p.compute == CUBLAS_COMPUTE_32F_FAST_TF32, ta = p.a == CUBLAS_OP_T, tb = p.b == CUBLAS_OP_T;
  int64_t m = (int64_t)ld.rows, n = (int64_t)ld.columns, k = (int64_t)(ta ? la.rows : la.columns);
  const R *bias = p.epilogue & ADDS_BIAS ? (const R *)p.bias : NULL;
  R *beside = (R *)p.beside;
  std::vector<double> whole((size_t)(k * m)), sums((size_t)m);
  double *rows = whole.data(), *sum = sums.data();
  for (int64_t batch = 0; batch < ld.batches; batch++, a += la.step, b += lb.step, d += ld.step) {
    for (int64_t l = 0; l < k; l++)
      for (int64_t i = 0; i < m; i++)
        rows[l * m + i] = number(a[ta ? l + i * la.leading : i + l * la.leading], tf32);
    for (int64_t j = 0; j < n; j++) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t l = 0; l < k; l++) {
        double x = number(b[tb ? j + l * lb.leading : l + j * lb.leading], tf32);
        for (int64_t i = 0; i < m; i++)
          sum[i] += rows[l * m + i] * x;
      }
      for (int64_t i = 0; i < m; i++) {
        R *to = d + i + j * ld.leading;
        double x = alpha * sum[i] + (beta != 0 ? beta * number(*to, false) : 0) + (bias ? number(bias[i], false) : 0);
        put_number(to, put_behind(p, x, beside + (p.epilogue & HAS_BESIDE ? i + j * p.beside_leading : 0)));
      }
    }
  }
}

template <class T, class R>
static void run(const Product &p, double alpha, double beta, const void *a, const Layout &la, const void *b,
                const Layout &lb, void *d, const Layout &ld) {
  end_of((const T *)a, la);
  end_of((const T *)b, lb);
  end_of((const R *)d, ld);
  if (p.epilogue & ADDS_BIAS)
    end_of((const R *)p.bias, Layout{ld.rows, 1, (int64_t)ld.rows, 0, ld.type, 1});
  if (p.epilogue & HAS_BESIDE)
    end_of((const R *)p.beside, Layout{ld.rows, ld.columns, p.beside_leading, 0, ld.type, 1});
  multiply(p, alpha, beta, (const T *)a, la, (const T *)b, lb, (R *)d, ld);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  Product p = get<Product>(desc);
  Layout la = get<Layout>(a_layout), lb = get<Layout>(b_layout), ld = get<Layout>(d_layout);
  Algorithm algorithm = get<Algorithm>(algo);
  check(p, la, lb, get<Layout>(c_layout), ld);
  refuse(algorithm.problem != problem_of(p, la, lb, ld), "an algorithm of another problem");
  refuse(workspace_bytes < algorithm.workspace, "less workspace than the algorithm wants");
  refuse((uintptr_t)workspace % 256 != 0, "a workspace that is not aligned");
  const void *matrices[] = {a, b, c, d};
  for (int i = 0; i < 4; i++)
    refuse((uintptr_t)matrices[i] % algorithm.alignment[i] ||
               algorithm.alignment[i] < size_of(i < 2 ? la.type : ld.type),
           "matrices that are not aligned as was said");
  refuse(p.epilogue & ADDS_BIAS &&
             (!p.bias || (uintptr_t)p.bias % std::max(algorithm.bias_alignment, (uint32_t)size_of(ld.type))),
         "a vector that is not aligned as was said");
  refuse(p.epilogue & HAS_BESIDE &&
             (!p.beside || p.beside == d || (uintptr_t)p.beside % std::max(algorithm.beside_alignment, 16u)),
         "an auxiliary matrix that is not aligned as was said");
  double factor = p.scale == CUDA_R_64F ? *(const double *)alpha : (double)*(const float *)alpha;
  double kept = p.scale == CUDA_R_64F ? *(const double *)beta : (double)*(const float *)beta;
  refuse(kept != 0 && kept != 1, "beta is neither 0 nor 1");
  uint64_t uses = algorithm.workspace;
  emulated_enqueue(stream, [=] {
    memset(workspace, 0xa5, uses);
    if (kept != 0 && c != d)
      lay(c, d, ld);
    if (la.type == CUDA_R_16BF && ld.type == CUDA_R_16BF)
      run<uint16_t, uint16_t>(p, factor, kept, a, la, b, lb, d, ld);
    else if (la.type == CUDA_R_16BF)
      run<uint16_t, float>(p, factor, kept, a, la, b, lb, d, ld);
    else if (la.type == CUDA_R_32F)
      run<float, float>(p, factor, kept, a, la, b, lb, d, ld);
    else
      run<double, double>(p, factor, kept, a, la, b, lb, d, ld);
  });
  return CUBLAS_STATUS_SUCCESS;
}

void *emulated_cublaslt(const char *name) {
#define FUNCTION(f)                                                                                                    \
  if (strcmp(name, #f) == 0)                                                                                           \
    return (void *)&f;
  FUNCTION(cublasLtCreate)
  FUNCTION(cublasLtMatmulDescInit_internal)
  FUNCTION(cublasLtMatmulDescSetAttribute)
  FUNCTION(cublasLtMatrixLayoutInit_internal)
  FUNCTION(cublasLtMatrixLayoutSetAttribute)
  FUNCTION(cublasLtMatmulPreferenceInit_internal)
  FUNCTION(cublasLtMatmulPreferenceSetAttribute)
  FUNCTION(cublasLtMatmulAlgoGetHeuristic)
  FUNCTION(cublasLtMatmul)
  return NULL;
}
