/* The loops for whatever processor the compiler aims at. */
#include <stdbool.h>

static bool runs(void) {
  return true;
}

#define ISA isa_plain
#define ISA_NAME "plain"
#define VECTOR_BYTES 16
#define TILE_ROWS 4
#include "backend/cpu/isa.inc"
