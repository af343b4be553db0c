/* Cases of which some operands are stored in bfloat16, and what they have to give. */
#include "tests/ops/mixes.h"

#include <math.h>
#include <stdio.h>

#include "backend/reference/attention.h"
#include "graph/narrow.h"
#include "graph/op.h"

/* Whether the case's operand number i (inputs, then results) is bfloat16 in this mix. */
static bool chosen(const CaseGraph *built, int i, unsigned mix) {
  const Node *n = built->node;
  unsigned traits = op_def(n->op)->traits;
  ValueId v = i < n->n_in ? n->in[i] : n->out[i - n->n_in];
  bool written = (traits & OP_MUTATES_FIRST && i == 0) || traits & OP_UPDATE;
  return v != NO_VALUE && graph_value(built->graph, v)->dtype == F32 && !written && mix >> i & 1;
}

static void round_all(const Tensor *t) {
  float *x = t->data;
  for (int64_t i = 0; i < shape_elements(t->shape); i++)
    x[i] = bf16_value(bf16_bits(x[i]));
}

/* Whether a product multiplies rounded numbers: operand `first` and the next. */
static bool rounds(const CaseGraph *built, unsigned mix, int *first) {
  unsigned traits = op_def(built->node->op)->traits;
  *first = traits & OP_MUTATES_FIRST ? 1 : 0;
  return traits & OP_PRODUCT && (chosen(built, *first, mix) || chosen(built, *first + 1, mix));
}

Status mix_build_rounded(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, CaseGraph *built) {
  int first;
  TRY(case_build(c, F32, seed, arena, built));
  bool both = rounds(built, mix, &first);
  for (int i = 0; i < built->node->n_in; i++)
    if (chosen(built, i, mix) || (both && (i == first || i == first + 1)))
      round_all(&built->tensor[built->node->in[i]]);
  return OK;
}

Status mix_build_narrow(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, CaseGraph *built) {
  TRY(case_build(c, F32, seed, arena, built));
  const Node *n = built->node;
  bool narrow[CASE_INPUTS + CASE_OUTPUTS];
  for (int i = 0; i < n->n_in + n->n_out; i++)
    narrow[i] = chosen(built, i, mix);
  for (int i = 0; i < n->n_in + n->n_out; i++) {
    ValueId v = i < n->n_in ? n->in[i] : n->out[i - n->n_in];
    if (!narrow[i] || graph_value(built->graph, v)->dtype == BF16)
      continue;
    Tensor *t = &built->tensor[v];
    for (int64_t k = 0; k < shape_elements(t->shape); k++)
      ((uint16_t *)t->data)[k] = bf16_bits(((float *)t->data)[k]);
    t->dtype = graph_value(built->graph, v)->dtype = BF16;
  }
  return OK;
}

double mix_number(const Tensor *t, int64_t i) {
  return t->dtype == BF16 ? bf16_value(((const uint16_t *)t->data)[i]) : tensor_get(t, i);
}

bool mix_differs(const CaseGraph *got, const CaseGraph *expected, bool exact, char where[256]) {
  ValueId value[CASE_INPUTS];
  int n = case_results(got->node, value);
  if (op_def(got->node->op)->traits & OP_MUTATES_FIRST) /* the others are only read */
    n = 1;
  for (int r = 0; r < n; r++) {
    const Tensor *g = &got->tensor[value[r]], *e = &expected->tensor[value[r]];
    for (int64_t i = 0; i < shape_elements(g->shape); i++) {
      double x = mix_number(g, i), y = tensor_get(e, i);
      double wide = g->dtype == BF16 ? bf16_value(bf16_bits((float)y)) : y;
      double within = exact ? 0 : (case_tolerance(expected) + (g->dtype == BF16 ? 0x1p-8 : 0)) * fmax(1, fabs(y));
      if (x == wide || (isnan(x) && isnan(wide)) || (dtype_is_float(g->dtype) && fabs(x - y) <= within))
        continue;
      snprintf(where, 256, "result %d, element %lld is %.9g, expected %.9g", r, (long long)i, x, wide);
      return true;
    }
  }
  return false;
}

bool mix_rounds_inside(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena) {
  CaseGraph built;
  if ((c->op != OP_Attention && c->op != OP_AttentionGrad) || mix_build_narrow(c, seed, mix, arena, &built) != OK)
    return false;
  bool inside = attention_narrow_in(built.graph, built.node);
  case_release(&built);
  return inside;
}

bool mix_fits(const OpCase *c) {
  return c->op != OP_BitCast && (c->types == TYPES_FLOAT || c->types == TYPES_NUMBERS || c->types == TYPES_ALL);
}
