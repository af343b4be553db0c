/* Attention of which all but statistics and masks is stored in bfloat16. */
#ifndef TESTS_OPS_ATTENTION_BF16_H
#define TESTS_OPS_ATTENTION_BF16_H

#include "tests/ops/mixes.h"

void attention_build_narrow(const OpCase *c, uint64_t seed, Arena *arena, CaseGraph *built);

/* The node's operands and its results; returns how many these are. */
int attention_operands(const CaseGraph *built, Tensor in[CASE_INPUTS], Tensor out[CASE_OUTPUTS]);

/* Fails the test where the results differ by more than they may; who: has `got`. */
void attention_compare(const OpCase *c, const char *who, const CaseGraph *got, const CaseGraph *wanted);

#endif
