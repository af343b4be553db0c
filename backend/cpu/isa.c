/* Which instruction set's loops run. */
#include "backend/cpu/isa.h"

#include <stdlib.h>
#include <string.h>

extern const Isa isa_plain;
#if defined(__x86_64__)
extern const Isa isa_amx, isa_avx512_bf16, isa_avx512, isa_avx2;
const Isa *const isas[] = {&isa_amx, &isa_avx512_bf16, &isa_avx512, &isa_avx2, &isa_plain, NULL};
#elif defined(__aarch64__)
extern const Isa isa_neon;
const Isa *const isas[] = {&isa_neon, &isa_plain, NULL};
#else
const Isa *const isas[] = {&isa_plain, NULL};
#endif

static Status refuse(const char *asked, const char *why) {
  char have[128] = "";
  for (int i = 0; isas[i]; i++)
    if (isas[i]->runs()) {
      strncat(have, *have ? ", " : "", sizeof have - strlen(have) - 1);
      strncat(have, isas[i]->name, sizeof have - strlen(have) - 1);
    }
  return fail(E_USAGE, "ONNXPIPE_ISA: %s '%s'; it has %s", why, asked, have);
}

Status isa_choose(const Isa **isa) {
  const char *asked = getenv("ONNXPIPE_ISA");
  for (int i = 0; isas[i]; i++) {
    bool fits = !asked || !*asked || strcmp(asked, isas[i]->name) == 0, runs = fits && isas[i]->runs();
    *isa = isas[i];
    if (runs)
      return OK;
    if (fits && asked && *asked)
      return refuse(asked, "this processor lacks");
  }
  return refuse(asked, "this build knows no instruction set");
}
