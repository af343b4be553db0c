/* A function of one or two inputs, element by element: what the files of such functions share. */
#ifndef BACKEND_CUDA_MAP_CUH
#define BACKEND_CUDA_MAP_CUH

#include "backend/cuda/steps.cuh"

/* f of one or two inputs at their steps. */
template <class F, class A, class R> GLOBAL void map1(F f, int64_t n, const A *a, R *y) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    y[i] = (R)f(a[i]);
}

template <class F, class A, class B, class R> GLOBAL void map2(F f, Steps s, const A *a, const B *b, R *y) {
  for (int64_t i = global_thread(); i < s.n; i += global_threads())
    y[i] = (R)f(a[step_offset(s, 0, i)], b[step_offset(s, 1, i)]);
}

static inline Steps dense(int64_t n) {
  Steps s = {1, n, {n}, {{1}, {1}, {1}}};
  return s;
}

template <class F, class A, class R> static void run1(cudaStream_t s, F f, int64_t n, const A *a, R *y) {
  launch(map1<F, A, R>, blocks_for(n), BLOCK_THREADS, s, f, n, a, y);
}

template <class F, class A, class B, class R>
static void run2(cudaStream_t s, F f, const Steps &steps, const A *a, const B *b, R *y) {
  launch(map2<F, A, B, R>, blocks_for(steps.n), BLOCK_THREADS, s, f, steps, a, b, y);
}

#endif
