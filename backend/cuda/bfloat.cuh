/* bfloat16 as it lies in memory: read as float32, written rounded to the nearest, ties to even. */
#ifndef BACKEND_CUDA_BFLOAT_CUH
#define BACKEND_CUDA_BFLOAT_CUH

#include <string.h>

#include "backend/cuda/steps.cuh"

struct alignas(2) Bfloat {
  uint16_t bits;
  Bfloat() = default;
  /* A NaN stays one. */
  DEVICE explicit Bfloat(float x) {
#ifdef __CUDACC__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    uint32_t wide;
    memcpy(&wide, &x, sizeof wide);
    bits = (uint16_t)(x != x ? 0x7fff : (wide + 0x7fff + (wide >> 16 & 1)) >> 16);
#endif
  }
  DEVICE operator float() const {
#ifdef __CUDACC__
    return __uint_as_float((uint32_t)bits << 16);
#else
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
#endif
  }
};

/* Two of them side by side, the first one low. */
DEVICE uint32_t pack_two(float first, float second) {
#ifdef __CUDACC__
  uint32_t two;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(second), "f"(first));
  return two;
#else
  return Bfloat(first).bits | (uint32_t)Bfloat(second).bits << 16;
#endif
}

/* What an element is computed in. */
template <class T> struct ComputedOf { typedef T Type; };
template <> struct ComputedOf<Bfloat> { typedef float Type; };
template <class T> using Computed = typename ComputedOf<T>::Type;

/* What terms that are made of such elements are added in: of float32, what cancels out is to come out. */
template <class T> using Summed = typename std::conditional<std::is_same<T, float>::value, double, Computed<T>>::type;

/* N elements that one access reads or writes; where they lie at a multiple of their bytes. */
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };

/* N elements that one access reads, as they are computed in. */
template <int N, class T> DEVICE void read_pack(const T *from, Computed<T> *v) {
  Pack<T, N> pack = *(const Pack<T, N> *)from;
  for (int i = 0; i < N; i++)
    v[i] = (Computed<T>)pack.at[i];
}

template <int N, class T> DEVICE void write_pack(const Computed<T> *v, T *to) {
  Pack<T, N> pack;
  for (int i = 0; i < N; i++)
    pack.at[i] = (T)v[i];
  *(Pack<T, N> *)to = pack;
}

/* Calls CALL with T as the type that is stored. */
#define FOR_STORED(dtype, CALL)                                                                                        \
  {                                                                                                                    \
    if (dtype == BF16) {                                                                                               \
      typedef Bfloat T;                                                                                                \
      CALL;                                                                                                            \
    } else                                                                                                             \
      FOR_FLOATS(dtype, CALL)                                                                                          \
  }

/* With A and B as two types that are stored; no float64. */
#define FOR_TWO_STORED(first, second, CALL)                                                                            \
  {                                                                                                                    \
    if (first == BF16 && second == BF16) {                                                                             \
      typedef Bfloat A, B;                                                                                             \
      CALL;                                                                                                            \
    } else if (first == BF16) {                                                                                        \
      typedef Bfloat A;                                                                                                \
      typedef float B;                                                                                                 \
      CALL;                                                                                                            \
    } else if (second == BF16) {                                                                                       \
      typedef float A;                                                                                                 \
      typedef Bfloat B;                                                                                                \
      CALL;                                                                                                            \
    } else {                                                                                                           \
      typedef float A, B;                                                                                              \
      CALL;                                                                                                            \
    }                                                                                                                  \
  }

#endif
