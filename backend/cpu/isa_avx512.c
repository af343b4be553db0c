/* The loops for AVX-512; the build gives this file its flags. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>

static bool runs(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}

#define ISA isa_avx512
#define ISA_NAME "avx512"
#define VECTOR_BYTES 64
#define TILE_ROWS 12
#include "backend/cpu/isa.inc"
#else
typedef int NothingHere;
#endif
