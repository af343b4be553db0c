/* Kernels over what is stored in bfloat16, in any mix with float32: the reference gives what its float32 kernels give
 * of rounded operands, rounded; cpu the same within a rounding, and the same bits on any number of threads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/isa.h"
#include "backend/reference/attention.h"
#include "graph/narrow.h"
#include "graph/op.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

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

/* The same inputs in float32, rounded where the other case's are. */
static Status build_rounded(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, CaseGraph *built) {
  int first;
  TRY(case_build(c, F32, seed, arena, built));
  bool both = rounds(built, mix, &first);
  for (int i = 0; i < built->node->n_in; i++)
    if (chosen(built, i, mix) || (both && (i == first || i == first + 1)))
      round_all(&built->tensor[built->node->in[i]]);
  return OK;
}

static Status build_narrow(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, CaseGraph *built) {
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

static double number(const Tensor *t, int64_t i) {
  return t->dtype == BF16 ? bf16_value(((const uint16_t *)t->data)[i]) : tensor_get(t, i);
}

/* Where the results part, as text; false where they do not. exact: bit for bit, after rounding. */
static bool differ(const CaseGraph *got, const CaseGraph *expected, bool exact, char where[256]) {
  ValueId value[CASE_INPUTS];
  int n = case_results(got->node, value);
  if (op_def(got->node->op)->traits & OP_MUTATES_FIRST) /* the others are only read */
    n = 1;
  for (int r = 0; r < n; r++) {
    const Tensor *g = &got->tensor[value[r]], *e = &expected->tensor[value[r]];
    for (int64_t i = 0; i < shape_elements(g->shape); i++) {
      double x = number(g, i), y = tensor_get(e, i);
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

/* Whether it rounds what it computes on the way: tests/backend/test_attention_bf16.c has these. */
static bool rounds_inside(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena) {
  CaseGraph built;
  if (c->op != OP_Attention && c->op != OP_AttentionGrad)
    return false;
  ASSERT_OK(build_narrow(c, seed, mix, arena, &built));
  bool inside = attention_narrow_in(built.graph, built.node);
  case_release(&built);
  return inside;
}

static void check(const OpCase *c, uint64_t seed, unsigned mix) {
  Arena *arena = arena_create();
  CaseGraph expected, got, more;
  char where[256];
  if (rounds_inside(c, seed, mix, arena)) {
    arena_destroy(arena);
    return;
  }
  ASSERT_OK(build_rounded(c, seed, mix, arena, &expected));
  ASSERT_OK(case_run(&expected, &backend_reference, 1, 0, 1));
  for (int b = 0; backends[b]; b++) {
    bool reference = backends[b] == &backend_reference;
    if (!backends[b]->is_host)
      continue;
    ASSERT_OK(build_narrow(c, seed, mix, arena, &got));
    ASSERT_OK(build_narrow(c, seed, mix, arena, &more));
    if (!backend_accepts(backends[b], got.graph, got.node))
      FAIL_TEST("%s, mix %x: %s does not take it", case_text(c), mix, backends[b]->name);
    if (case_run(&got, backends[b], 1, 0, 1) != OK || case_run(&more, backends[b], 3, 0, 1) != OK)
      FAIL_TEST("%s, mix %x on %s: %s", case_text(c), mix, backends[b]->name, status_message());
    if (differ(&got, &expected, reference, where))
      FAIL_TEST("%s, mix %x on %s: %s", case_text(c), mix, backends[b]->name, where);
    for (size_t v = 0; v < got.n_tensors; v++)
      if (memcmp(got.tensor[v].data, more.tensor[v].data, graph_value_bytes(got.graph, (ValueId)v)))
        FAIL_TEST("%s, mix %x on %s: one thread and three differ", case_text(c), mix, backends[b]->name);
    case_release(&got);
    case_release(&more);
  }
  case_release(&expected);
  arena_destroy(arena);
}

static bool has_floats(const OpCase *c) {
  return c->types == TYPES_FLOAT || c->types == TYPES_NUMBERS || c->types == TYPES_ALL;
}

static void check_mixes(void) {
  for (size_t i = 0; i < n_op_cases; i++) {
    uint64_t random = i;
    if (!has_floats(&op_cases[i]) || op_cases[i].op == OP_BitCast) /* of other bits */
      continue;
    check(&op_cases[i], i, ~0u);
    for (int k = 0; k < 3; k++)
      check(&op_cases[i], i, (unsigned)random_next(&random));
  }
}

/* With each instruction set that runs here. */
static void mixes_are_rounded_once(void **state) {
  (void)state;
  for (int i = 0; isas[i]; i++) {
    printf("%s %s here\n", isas[i]->name, isas[i]->runs() ? "runs" : "does not run");
    setenv("ONNXPIPE_ISA", isas[i]->name, 1);
    if (isas[i]->runs())
      check_mixes();
  }
  unsetenv("ONNXPIPE_ISA");
}

/* Of several tasks and blocks. */
static void large_tensors_agree(void **state) {
  (void)state;
  for (size_t i = 0; i < n_large_op_cases; i++) {
    uint64_t random = i;
    if (!has_floats(&large_op_cases[i]) || large_op_cases[i].op == OP_BitCast)
      continue;
    check(&large_op_cases[i], i, ~0u);
    check(&large_op_cases[i], i, (unsigned)random_next(&random));
  }
}

/* Larger than a block, and broadcast across its border. */
static void blocks_fit_together(void **state) {
  (void)state;
  static const struct {
    Shape a, b, y;
  } shapes[] = {{{1, {200000}}, {0}, {1, {200000}}},
                {{3, {3, 70, 1000}}, {1, {1000}}, {3, {3, 70, 1000}}},
                {{3, {5, 1, 33000}}, {3, {1, 3, 1}}, {3, {5, 3, 33000}}},
                {{2, {2, 70001}}, {2, {2, 1}}, {2, {2, 70001}}}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (unsigned mix = 1; mix < 8; mix++) {
      OpCase c = {.op = OP_Mul,
                  .types = TYPES_FLOAT,
                  .in = {{.present = true, .shape = shapes[i].a}, {.present = true, .shape = shapes[i].b}},
                  .out = {{true, shapes[i].y}}};
      check(&c, mix, mix);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(mixes_are_rounded_once), cmocka_unit_test(large_tensors_agree),
                                     cmocka_unit_test(blocks_fit_together)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
