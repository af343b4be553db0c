/* Integers as bits, whatever their type: the unsigned type of an integer's size does for all but a sign that moves. */
#include "backend/cuda/map.cuh"

template <class T> struct Bits {
  BitFunction function;
  DEVICE T operator()(T x, T y) const {
    constexpr T bits = 8 * sizeof(T);
    switch (function) {
    case BITS_And:
      return x & y;
    case BITS_Or:
      return x | y;
    case BITS_Xor:
      return x ^ y;
    case BITS_ShiftLeft: /* by all bits or more, which a number below 0 means too: 0 */
      return y < bits ? (T)((uint64_t)x << y) : 0;
    case BITS_ShiftRight:
      return y < bits ? (T)((uint64_t)x >> y) : 0;
    }
    return 0;
  }
};

template <class T> struct SignedShift {
  DEVICE T operator()(T x, T y) const {
    constexpr T bits = 8 * sizeof(T);
    return (T)(x >> (y < 0 || y >= bits ? bits - 1 : y));
  }
};

template <class T> static void shift_signed(cudaStream_t s, const Steps *steps, const void *a, const void *b, void *c) {
  run2(s, SignedShift<T>(), *steps, (const T *)a, (const T *)b, (T *)c);
}

void launch_bits(cudaStream_t s, BitFunction function, DType type, const Steps *steps, const void *a, const void *b,
                 void *c) {
  bool shifts = function == BITS_ShiftRight;
  if (shifts && type == I64)
    shift_signed<int64_t>(s, steps, a, b, c);
  else if (shifts && type == I32)
    shift_signed<int32_t>(s, steps, a, b, c);
  else if (shifts && type == I16)
    shift_signed<int16_t>(s, steps, a, b, c);
  else if (shifts && type == I8)
    shift_signed<int8_t>(s, steps, a, b, c);
  else
    FOR_SIZES(dtype_bytes(type), run2(s, Bits<T>{function}, *steps, (const T *)a, (const T *)b, (T *)c))
}

template <class T> struct Complement {
  DEVICE T operator()(T x) const { return (T)~x; }
};

void launch_bit_not(cudaStream_t s, size_t size, int64_t n, const void *x, void *y) {
  FOR_SIZES(size, run1(s, Complement<T>(), n, (const T *)x, (T *)y))
}
