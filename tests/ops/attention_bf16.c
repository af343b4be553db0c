#include "tests/ops/attention_bf16.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "graph/narrow.h"
#include "graph/ops/attention.h"
#include "tests/test.h"

void attention_build_narrow(const OpCase *c, uint64_t seed, Arena *arena, CaseGraph *built) {
  bool backward = c->op == OP_AttentionGrad;
  ASSERT_OK(case_build(c, F32, seed, arena, built));
  const Node *n = built->node;
  for (int i = 0; i < n->n_in + n->n_out; i++) {
    ValueId v = i < n->n_in ? n->in[i] : n->out[i - n->n_in];
    bool statistic = backward ? i == ATTENTION_GRAD_MOST || i == ATTENTION_GRAD_LOG_SUM : i > n->n_in;
    bool beside = i < n->n_in && (i == attention_mask_input(n) || i == attention_counter_input(n));
    if (v == NO_VALUE || statistic || beside || built->tensor[v].dtype == BF16)
      continue;
    Tensor *t = &built->tensor[v];
    for (int64_t k = 0; k < shape_elements(t->shape); k++)
      ((uint16_t *)t->data)[k] = bf16_bits(((float *)t->data)[k]);
    t->dtype = graph_value(built->graph, v)->dtype = BF16;
  }
}

int attention_operands(const CaseGraph *built, Tensor in[CASE_INPUTS], Tensor out[CASE_OUTPUTS]) {
  const Node *node = built->node;
  memset(in, 0, CASE_INPUTS * sizeof *in);
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE)
      in[i] = built->tensor[node->in[i]];
  for (int i = 0; i < node->n_out; i++)
    out[i] = built->tensor[node->out[i]];
  return node->n_out;
}

/* Rounding of the results, and now and then a weight that is rounded the other way: a step of what is largest. */
void attention_compare(const OpCase *c, const char *who, const CaseGraph *got, const CaseGraph *wanted) {
  Tensor in[CASE_INPUTS], a[CASE_OUTPUTS], b[CASE_OUTPUTS];
  int n = attention_operands(got, in, a);
  attention_operands(wanted, in, b);
  for (int r = 0; r < n; r++) {
    double most = 0;
    for (int64_t i = 0; i < shape_elements(a[r].shape); i++)
      most = fmax(most, isfinite(mix_number(&b[r], i)) ? fabs(mix_number(&b[r], i)) : 0);
    for (int64_t i = 0; i < shape_elements(a[r].shape); i++) {
      double x = mix_number(&a[r], i), y = mix_number(&b[r], i);
      double within = a[r].dtype == BF16 ? 0x1p-7 * fabs(y) + 0x1p-9 * most : 1e-5 * fmax(1, fabs(y));
      if (x != y && !(fabs(x - y) <= within))
        FAIL_TEST("%s on %s: result %d, element %d is %.9g, not %.9g", case_text(c), who, r, (int)i, x, y);
    }
  }
}
