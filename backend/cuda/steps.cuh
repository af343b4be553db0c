/* Offsets in strided loops, and the dispatch on types that launches share. */
#ifndef BACKEND_CUDA_STEPS_CUH
#define BACKEND_CUDA_STEPS_CUH

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"

/* The offset of element i in operand `operand`. Division is fast in 32 bits, which nearly all tensors fit. */
DEVICE int64_t step_offset(const Steps &s, int operand, int64_t i) {
  int64_t at = 0;
  if (s.rank == 1)
    return i * s.step[operand][0];
  if (s.n <= UINT32_MAX) {
    uint32_t rest = (uint32_t)i;
    for (int k = s.rank - 1; k > 0; k--) {
      uint32_t next = rest / (uint32_t)s.dim[k];
      at += (int64_t)(rest - next * (uint32_t)s.dim[k]) * s.step[operand][k];
      rest = next;
    }
    return s.rank ? at + (int64_t)rest * s.step[operand][0] : 0;
  }
  for (int k = s.rank - 1; k > 0; k--) {
    at += i % s.dim[k] * s.step[operand][k];
    i /= s.dim[k];
  }
  return at + i * s.step[operand][0];
}

/* What sums and products run in: floats in double, integers wrapping. */
template <class T> using WideOf = typename std::conditional<std::is_floating_point<T>::value, double, uint64_t>::type;

/* Sums, which come out the same in every lane, over `lanes` neighbouring lanes: a power of two. */
DEVICE double sum_lanes(double x, int lanes) {
  for (int half = lanes / 2; half; half /= 2)
    x += shuffle_xor(x, half);
  return x;
}

/* Calls CALL with T as the type. */
#define FOR_FLOATS(dtype, CALL)                                                                                        \
  {                                                                                                                    \
    if (dtype == F32) {                                                                                                \
      typedef float T;                                                                                                 \
      CALL;                                                                                                            \
    } else {                                                                                                           \
      typedef double T;                                                                                                \
      CALL;                                                                                                            \
    }                                                                                                                  \
  }

#define FOR_NUMBERS(dtype, CALL)                                                                                       \
  {                                                                                                                    \
    if (dtype == I64) {                                                                                                \
      typedef int64_t T;                                                                                               \
      CALL;                                                                                                            \
    } else if (dtype == I32) {                                                                                         \
      typedef int32_t T;                                                                                               \
      CALL;                                                                                                            \
    } else                                                                                                             \
      FOR_FLOATS(dtype, CALL)                                                                                          \
  }

#define FOR_SIZES(size, CALL)                                                                                          \
  {                                                                                                                    \
    if (size == 8) {                                                                                                   \
      typedef uint64_t T;                                                                                              \
      CALL;                                                                                                            \
    } else if (size == 4) {                                                                                            \
      typedef uint32_t T;                                                                                              \
      CALL;                                                                                                            \
    } else if (size == 2) {                                                                                            \
      typedef uint16_t T;                                                                                              \
      CALL;                                                                                                            \
    } else {                                                                                                           \
      typedef uint8_t T;                                                                                               \
      CALL;                                                                                                            \
    }                                                                                                                  \
  }

#endif
