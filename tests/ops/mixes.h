/* Cases of which some operands are stored in bfloat16: bit i of a mix says whether operand number i (inputs, then
 * results) is, where it may be. */
#ifndef TESTS_OPS_MIXES_H
#define TESTS_OPS_MIXES_H

#include "tests/ops/cases.h"

/* Whether the case has floats that may be; BitCast has other bits then. */
bool mix_fits(const OpCase *c);
/* Whether it rounds what it computes on the way: tests/backend/test_attention_bf16.c has these. */
bool mix_rounds_inside(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena);

Status mix_build_narrow(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, CaseGraph *built);
/* The same inputs in float32, rounded where the other case's are. */
Status mix_build_rounded(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, CaseGraph *built);

/* An element; of bfloat16, its number. */
double mix_number(const Tensor *t, int64_t i);

/* Where the results part, as text; false where they do not. exact: bit for bit, after rounding. */
bool mix_differs(const CaseGraph *got, const CaseGraph *expected, bool exact, char where[256]);

#endif
