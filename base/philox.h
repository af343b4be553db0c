/* Random numbers that are a function of where they stand, and not of what was drawn before: Philox4x32 with 10 rounds,
 * of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11), section 3.3. */
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stdint.h>

#include "base/portable.h"

typedef struct {
  uint32_t word[4];
} Philox;

/* The four words of a counter under a key. */
PORTABLE Philox philox(Philox counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * counter.word[0], b = (uint64_t)0xCD9E8D57u * counter.word[2];
    Philox next = {{(uint32_t)(b >> 32) ^ counter.word[1] ^ key0, (uint32_t)b,
                    (uint32_t)(a >> 32) ^ counter.word[3] ^ key1, (uint32_t)a}};
    counter = next;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

#endif
