/* Products by plain loops, in the place of backend/cuda/blas.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

extern "C" {
#include "backend/cuda/blas.h"
}
#include "runtime.h"

struct Blas {};

enum { WORKSPACE_BYTES = 1024 };

Status blas_open(int device, Blas **blas) {
  (void)device;
  *blas = new Blas();
  return OK;
}

void blas_close(Blas *blas) {
  delete blas;
}

size_t blas_workspace_bytes(const BlasProduct *product) {
  (void)product;
  return WORKSPACE_BYTES;
}

/* The sanitizer is asked about the ends of the matrices, and not about each element again and again. */
template <class T> static T end_of(const T *first, int64_t n) {
  const volatile T *data = first;
  return data[0] + data[n - 1];
}

static double operand(double x, bool) {
  return x;
}

/* Rounded to 10 binary digits where the product is in TF32. */
static double operand(float x, bool is_tf32) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (is_tf32)
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~(uint32_t)0x1fff;
  memcpy(&x, &bits, sizeof bits);
  return (double)x;
}

static double operand(uint16_t x, bool) {
  uint32_t bits = (uint32_t)x << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return (double)wide;
}

/* Sums in double, a row of C at a time. */
template <class T, class R>
__attribute__((no_sanitize("address", "undefined"), optimize("O3"))) static void
multiply(const BlasProduct &p, const T *a, const T *b, R *c) {
  std::vector<double> whole((size_t)(p.k * p.n)), sums((size_t)p.n);
  double *rows = whole.data(), *sum = sums.data();
  for (int64_t batch = 0; batch < p.batches; batch++, a += p.a_step, b += p.b_step) {
    for (int64_t l = 0; l < p.k; l++)
      for (int64_t j = 0; j < p.n; j++)
        rows[l * p.n + j] = operand(b[p.transpose_b ? j * p.k + l : l * p.n + j], p.is_tf32);
    for (int64_t i = 0; i < p.m; i++) {
      memset(sum, 0, (size_t)p.n * sizeof *sum);
      for (int64_t l = 0; l < p.k; l++) {
        double x = operand(a[p.transpose_a ? l * p.m + i : i * p.k + l], p.is_tf32);
        for (int64_t j = 0; j < p.n; j++)
          sum[j] += x * rows[l * p.n + j];
      }
      for (int64_t j = 0; j < p.n; j++)
        *c++ = (R)(p.alpha * sum[j]);
    }
  }
}

template <class T, class R> static void run(const BlasProduct &p, const void *a, const void *b, void *c) {
  memset(c, 0, (size_t)(p.batches * p.m * p.n) * sizeof(R));
  end_of((const T *)a, (p.batches - 1) * p.a_step + p.m * p.k);
  end_of((const T *)b, (p.batches - 1) * p.b_step + p.k * p.n);
  multiply(p, (const T *)a, (const T *)b, (R *)c);
}

static void refuse(bool wrong, const char *what) {
  if (wrong) {
    fprintf(stderr, "emulated device: a product %s\n", what);
    abort();
  }
}

/* What cuBLASLt would refuse, or be slow with, ends the program. */
static void check(const BlasProduct &p, const void *a, const void *b, const void *c, const void *workspace) {
  refuse((uintptr_t)workspace % BLAS_ALIGNMENT, "whose workspace is not aligned");
  refuse(p.batches < 1 || p.batches > BLAS_BATCHES, "of too many batches");
  refuse(p.m < 1 || p.n < 1 || p.k < 1, "of nothing");
  refuse(p.is_tf32 && p.type != F32, "in TF32 of other numbers");
  refuse(((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % p.alignment, "whose operands are not aligned as it says");
}

Status blas_run(Blas *blas, cudaStream_t stream, const BlasProduct *product, const void *a, const void *b, void *c,
                void *workspace) {
  BlasProduct p = *product;
  (void)blas;
  check(p, a, b, c, workspace);
  emulated_enqueue(stream, [=] {
    memset(workspace, 0xa5, WORKSPACE_BYTES);
    if (p.type == BF16)
      run<uint16_t, float>(p, a, b, c);
    else if (p.type == F32)
      run<float, float>(p, a, b, c);
    else
      run<double, double>(p, a, b, c);
  });
  return OK;
}
