/* The loops for AVX2; the build gives this file its flags. */
#if defined(__x86_64__)
#include <stdbool.h>

static bool runs(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define ISA isa_avx2
#define ISA_NAME "avx2"
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#include "backend/cpu/isa.inc"
#else
typedef int NothingHere;
#endif
