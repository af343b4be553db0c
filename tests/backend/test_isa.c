/* ONNXPIPE_ISA. Instruction sets that this processor lacks are named in the output: nothing runs them here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static void the_best_is_taken(void **state) {
  (void)state;
  const Isa *isa;
  int i = 0;
  while (!isas[i]->runs())
    i++;
  unsetenv("ONNXPIPE_ISA");
  ASSERT_OK(isa_choose(&isa));
  assert_ptr_equal(isa, isas[i]);
  setenv("ONNXPIPE_ISA", "", 1);
  ASSERT_OK(isa_choose(&isa));
  assert_ptr_equal(isa, isas[i]);
}

/* "ONNXPIPE_ISA: WHY 'ASKED'; it has avx2, plain" */
static const char *refusal(const char *why, const char *asked) {
  static char line[256];
  size_t at = (size_t)snprintf(line, sizeof line, "ONNXPIPE_ISA: %s '%s'; it has", why, asked);
  const char *between = " ";
  for (int i = 0; isas[i]; i++)
    if (isas[i]->runs()) {
      at += (size_t)snprintf(line + at, sizeof line - at, "%s%s", between, isas[i]->name);
      between = ", ";
    }
  return line;
}

static void each_can_be_forced(void **state) {
  (void)state;
  for (int i = 0; isas[i]; i++) {
    const Isa *isa;
    DeviceSpec spec;
    setenv("ONNXPIPE_ISA", isas[i]->name, 1);
    if (isas[i]->runs()) {
      ASSERT_OK(isa_choose(&isa));
      assert_ptr_equal(isa, isas[i]);
      ASSERT_OK(backend_cpu.describe(0, &spec));
      printf("%s runs here\n", isas[i]->name);
    } else {
      ASSERT_FAILS(E_USAGE, refusal("this processor lacks", isas[i]->name), backend_cpu.describe(0, &spec));
      printf("%s does not run here\n", isas[i]->name);
    }
  }
}

static void what_nobody_knows_is_refused(void **state) {
  (void)state;
  Stream *stream;
  setenv("ONNXPIPE_ISA", "sse9", 1);
  ASSERT_FAILS(E_USAGE, refusal("this build knows no instruction set", "sse9"), backend_cpu.stream_open(0, 1, &stream));
  unsetenv("ONNXPIPE_ISA");
}

/* What people are told of a graph of one node. */
static void check_ways(const Backend *backend, const OpCase *c, const char *expected) {
  Arena *arena = arena_create();
  CaseGraph built;
  const char *text;
  ASSERT_OK(case_build(c, F32, 0, arena, &built));
  ASSERT_OK(backend_kernels_text(backend, built.graph, arena, &text));
  assert_string_equal(text, expected);
  case_release(&built);
  arena_destroy(arena);
}

static OpCase of_matrices(OpKind op, int64_t n, int n_in) {
  CaseInput matrix = {.present = true, .shape = shape_of(2, (int64_t[]){n, n})};
  OpCase c = {.op = op, .out = {{true, matrix.shape}}};
  for (int i = 0; i < n_in; i++)
    c.in[i] = matrix;
  return c;
}

static void kernels_are_named(void **state) {
  (void)state;
  OpCase product = of_matrices(OP_MatMul, 3, 2), sum = of_matrices(OP_Add, 3, 2), all = of_matrices(OP_Tanh, 3, 1);
  for (int i = 0; isas[i]; i++) {
    char line[128];
    if (!isas[i]->runs())
      continue;
    setenv("ONNXPIPE_ISA", isas[i]->name, 1);
    snprintf(line, sizeof line, "packed tiles %d x %d, %s: MatMul 1", isas[i]->tile_rows, isas[i]->vector_bytes / 2,
             isas[i]->name);
    check_ways(&backend_cpu, &product, line);
    snprintf(line, sizeof line, "functions, %s: Tanh 1", isas[i]->name);
    check_ways(&backend_cpu, &all, line);
  }
  unsetenv("ONNXPIPE_ISA");
  check_ways(&backend_cpu, &sum, "shared by threads: Add 1");
  check_ways(&backend_reference, &product, "reference: MatMul 1");
}

/* Far out a GELU is its argument or nothing, and its slope 1 or 0. */
static void functions_end_well(void **state) {
  (void)state;
  static const float sizes[] = {20, 2e13f, 1e19f, 3e38f};
  enum { N = 2 * sizeof sizes / sizeof *sizes };
  float x[N], ones[N], y[N];
  for (int i = 0; i < N; i++) {
    x[i] = i % 2 ? -sizes[i / 2] : sizes[i / 2];
    ones[i] = 1;
  }
  for (int i = 0; isas[i]; i++) {
    const Isa *isa = isas[i];
    for (int k = 0; k < 2 && isa->runs(); k++) {
      (k ? isa->gelu_tanh : isa->gelu_erf)(x, y, N);
      for (int j = 0; j < N; j++)
        assert_float_equal(y[j], (j % 2 ? 0 : x[j]), 1e-6);
      (k ? isa->gelu_tanh_grad : isa->gelu_erf_grad)(ones, x, y, N);
      for (int j = 0; j < N; j++)
        assert_float_equal(y[j], (j % 2 ? 0 : 1), 1e-6);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_best_is_taken),
      cmocka_unit_test(each_can_be_forced),
      cmocka_unit_test(what_nobody_knows_is_refused),
      cmocka_unit_test(kernels_are_named),
      cmocka_unit_test(functions_end_well),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
