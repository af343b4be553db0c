/* Kernels over what is stored in bfloat16, in any mix with float32: the reference gives what its float32 kernels give
 * of rounded operands, rounded; cpu the same within a rounding, and the same bits on any number of threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/isa.h"
#include "graph/op.h"
#include "tests/ops/mixes.h"
#include "tests/test.h"

static void check(const OpCase *c, uint64_t seed, unsigned mix) {
  Arena *arena = arena_create();
  CaseGraph expected, got, more;
  char where[256];
  if (mix_rounds_inside(c, seed, mix, arena)) {
    arena_destroy(arena);
    return;
  }
  ASSERT_OK(mix_build_rounded(c, seed, mix, arena, &expected));
  ASSERT_OK(case_run(&expected, &backend_reference, 1, 0, 1));
  for (int b = 0; backends[b]; b++) {
    bool reference = backends[b] == &backend_reference;
    if (!backends[b]->is_host)
      continue;
    ASSERT_OK(mix_build_narrow(c, seed, mix, arena, &got));
    ASSERT_OK(mix_build_narrow(c, seed, mix, arena, &more));
    if (!backend_accepts(backends[b], got.graph, got.node))
      FAIL_TEST("%s, mix %x: %s does not take it", case_text(c), mix, backends[b]->name);
    if (case_run(&got, backends[b], 1, 0, 1) != OK || case_run(&more, backends[b], 3, 0, 1) != OK)
      FAIL_TEST("%s, mix %x on %s: %s", case_text(c), mix, backends[b]->name, status_message());
    if (mix_differs(&got, &expected, reference, where))
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

static void check_mixes(void) {
  for (size_t i = 0; i < n_op_cases; i++) {
    uint64_t random = i;
    if (!mix_fits(&op_cases[i]))
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
    if (!mix_fits(&large_op_cases[i]))
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

/* People are told which operators run on copies: all whose kernels know float32 only, and not what moves bits. */
static void copies_are_named(void **state) {
  (void)state;
  int named = 0, others = 0;
  for (size_t i = 0; i < n_op_cases; i++) {
    const OpCase *c = &op_cases[i];
    const KernelDef *kernel = backend_cpu.kernels[c->op];
    Arena *arena = arena_create();
    CaseGraph built;
    const char *text;
    if (!mix_fits(c)) {
      arena_destroy(arena);
      continue;
    }
    ASSERT_OK(mix_build_narrow(c, i, ~0u, arena, &built));
    ASSERT_OK(backend_kernels_text(&backend_cpu, built.graph, arena, &text));
    bool copied = strstr(text, "cpu, on copies in float32: "), narrow = false;
    for (size_t v = 0; v < built.n_tensors; v++)
      narrow |= built.tensor[v].dtype == BF16;
    if (narrow && !kernel->narrow && !(op_def(c->op)->traits & (OP_ANY_TYPE | OP_VIEW)) && !copied)
      FAIL_TEST("%s: %s", case_text(c), text);
    named += copied;
    others += !copied;
    case_release(&built);
    arena_destroy(arena);
  }
  assert_true(named > 0 && others > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(mixes_are_rounded_once), cmocka_unit_test(large_tensors_agree),
                                     cmocka_unit_test(blocks_fit_together), cmocka_unit_test(copies_are_named)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
