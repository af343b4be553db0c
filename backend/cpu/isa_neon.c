/* The loops for 64-bit ARM, whose every processor has these vectors: 32 registers hold a tile of 8 rows, its column
 * of A and its row of B. */
#if defined(__aarch64__)
#include <stdbool.h>

static bool runs(void) {
  return true;
}

#define ISA isa_neon
#define ISA_NAME "neon"
#define VECTOR_BYTES 16
#define TILE_ROWS 8
#include "backend/cpu/isa.inc"
#else
typedef int NothingHere;
#endif
