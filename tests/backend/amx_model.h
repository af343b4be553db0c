/* Instruction sets with products of bfloat16, one after the other. */
#ifndef TESTS_BACKEND_AMX_MODEL_H
#define TESTS_BACKEND_AMX_MODEL_H

#include <stdlib.h>

#include "backend/cpu/cpu.h"
#include "tests/test.h"

/* AMX on a model of its tiles: runs everywhere. */
extern const Isa isa_amx_model;

/* All that run here and the model behind them; with ONNXPIPE_TEST_SAMPLE set, the best one only. NULL at the end. */
static inline const Isa *isa_at(int i) {
  const Isa *best;
  int n = 0;
  if (getenv("ONNXPIPE_TEST_SAMPLE")) {
    ASSERT_OK(isa_choose(&best));
    return i ? NULL : best;
  }
  while (isas[n])
    n++;
  return i < n ? isas[i] : i == n ? &isa_amx_model : NULL;
}

#endif
