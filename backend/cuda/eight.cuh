/* Eight neighbouring elements a thread, in accesses of 16 bytes: memory is the limit of what runs element by element.
 */
#ifndef BACKEND_CUDA_EIGHT_CUH
#define BACKEND_CUDA_EIGHT_CUH

#include "backend/cuda/bfloat.cuh"

template <class T> struct Eight { T at[8]; };

/* What one access has of them. */
template <class T> using Access = Pack<T, 8 * sizeof(T) < 16 ? 8 : 16 / sizeof(T)>;

/* Whether all of Eight that begin a multiple of eight elements from here can be read and written so. */
template <class T> bool eights_at(const T *base) {
  return (uintptr_t)base % sizeof(Access<T>) == 0;
}

template <class T> DEVICE Eight<T> load_eight(const T *from) {
  constexpr int each = sizeof(Access<T>) / sizeof(T);
  Eight<T> eight;
  for (int i = 0; i < 8 / each; i++) {
    Access<T> part = ((const Access<T> *)from)[i];
    for (int k = 0; k < each; k++)
      eight.at[i * each + k] = part.at[k];
  }
  return eight;
}

template <class T> DEVICE void store_eight(T *to, const Eight<T> &eight) {
  constexpr int each = sizeof(Access<T>) / sizeof(T);
  for (int i = 0; i < 8 / each; i++) {
    Access<T> part;
    for (int k = 0; k < each; k++)
      part.at[k] = eight.at[i * each + k];
    ((Access<T> *)to)[i] = part;
  }
}

#endif
