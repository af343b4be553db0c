/* Products by plain loops, in the place of backend/cuda/blas.c. */
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "backend/cuda/blas.h"
}
#include "runtime.h"

struct Blas {};

enum { WORKSPACE_BYTES = 1024 };

Status blas_open(Blas **blas) {
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

template <class T>
__attribute__((no_sanitize("address", "undefined"), optimize("O2"))) static void
multiply(const BlasProduct &p, const T *a, const T *b, T *c) {
  for (int64_t batch = 0; batch < p.batches; batch++, a += p.a_step, b += p.b_step)
    for (int64_t i = 0; i < p.m; i++)
      for (int64_t j = 0; j < p.n; j++) {
        double sum = 0;
        for (int64_t l = 0; l < p.k; l++)
          sum += (double)a[p.transpose_a ? l * p.m + i : i * p.k + l] *
                 (double)b[p.transpose_b ? j * p.k + l : l * p.n + j];
        *c++ = (T)(p.alpha * sum);
      }
}

Status blas_run(Blas *blas, cudaStream_t stream, const BlasProduct *product, const void *a, const void *b, void *c,
                void *workspace) {
  BlasProduct p = *product;
  (void)blas;
  emulated_enqueue(stream, [=] {
    memset(workspace, 0xa5, WORKSPACE_BYTES);
    int64_t a_last = (p.batches - 1) * p.a_step + p.m * p.k, b_last = (p.batches - 1) * p.b_step + p.k * p.n;
    memset(c, 0, (size_t)(p.batches * p.m * p.n) * (p.type == F32 ? sizeof(float) : sizeof(double)));
    if (p.type == F32)
      end_of((const float *)a, a_last), end_of((const float *)b, b_last);
    else
      end_of((const double *)a, a_last), end_of((const double *)b, b_last);
    if (p.type == F32)
      multiply(p, (const float *)a, (const float *)b, (float *)c);
    else
      multiply(p, (const double *)a, (const double *)b, (double *)c);
  });
  return OK;
}
