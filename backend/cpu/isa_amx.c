/* The loops for AVX-512 with products of bfloat16 on AMX's tiles; the build gives this file its flags. */
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The processor has tiles, and the system lets this process use them: their registers are large. */
static bool runs(void) {
  enum { LEAF = 7, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, REQUEST = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
  unsigned a, b, c, d = 0;
  bool has = __get_cpuid_count(LEAF, 0, &a, &b, &c, &d) && d & AMX_BF16 && d & AMX_TILE &&
             __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bf16");
  return has && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

#define ISA isa_amx
#define ISA_NAME "amx"
#define VECTOR_BYTES 64
#define TILE_ROWS 12
#define PAIRS
#define AMX
#include "backend/cpu/isa.inc"
#else
typedef int NothingHere;
#endif
