/* Several neighbouring elements a thread, in accesses of 16 bytes: memory is the limit of what runs element by element.
 */
#ifndef BACKEND_CUDA_MANY_CUH
#define BACKEND_CUDA_MANY_CUH

#include "backend/cuda/bfloat.cuh"

template <class T, int N> struct Many { T at[N]; };

/* What one access has of N elements. */
template <class T, int N> using Access = Pack<T, N * sizeof(T) < 16 ? N : 16 / sizeof(T)>;

/* Whether N elements that begin a multiple of N from here can be read and written so. */
template <int N, class T> bool many_at(const T *base) {
  return (uintptr_t)base % sizeof(Access<T, N>) == 0;
}

template <int N, class T> DEVICE Many<T, N> load_many(const T *from) {
  constexpr int each = sizeof(Access<T, N>) / sizeof(T);
  Many<T, N> many;
  UNROLL
  for (int i = 0; i < N / each; i++) {
    Access<T, N> part = ((const Access<T, N> *)from)[i];
    UNROLL
    for (int k = 0; k < each; k++)
      many.at[i * each + k] = part.at[k];
  }
  return many;
}

template <int N, class T> DEVICE void store_many(T *to, const Many<T, N> &many) {
  constexpr int each = sizeof(Access<T, N>) / sizeof(T);
  UNROLL
  for (int i = 0; i < N / each; i++) {
    Access<T, N> part;
    UNROLL
    for (int k = 0; k < each; k++)
      part.at[k] = many.at[i * each + k];
    ((Access<T, N> *)to)[i] = part;
  }
}

#endif
