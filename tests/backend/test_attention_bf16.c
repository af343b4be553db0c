/* Attention of bfloat16: the reference against a naive one that rounds what the definition says; the cpu backend, with
 * each instruction set that runs here and AMX on a model of its tiles, against the reference; the number of threads
 * changes no bit. With ONNXPIPE_TEST_SAMPLE set, the best instruction set only. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/reference/attention.h"
#include "graph/narrow.h"
#include "tests/backend/amx_model.h"
#include "tests/ops/attention_bf16.h"
#include "tests/test.h"

static double rounded(double x) {
  return (double)bf16_value(bf16_bits((float)x));
}

static void run(const CaseGraph *built, const Isa *isa, int threads) {
  const Node *node = built->node;
  const KernelDef *kernel = backend_cpu.kernels[node->op];
  Tensor in[CASE_INPUTS], out[CASE_OUTPUTS];
  Stream *stream;
  attention_operands(built, in, out);
  size_t bytes = kernel->workspace(built->graph, node, WORKSPACE_BUDGET);
  void *workspace = aligned_alloc(64, (size_t)round_up((int64_t)bytes + 1, 64));
  assert_true(kernel->narrow(node, in, out));
  ASSERT_OK(cpu_stream_open(threads, isa, &stream));
  ASSERT_OK(kernel->run(stream, node, in, out, workspace, NULL));
  backend_cpu.stream_close(stream);
  free(workspace);
}

static void check(const OpCase *c, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph wanted, one, more;
  attention_build_narrow(c, seed, arena, &wanted);
  ASSERT_OK(case_run(&wanted, &backend_reference, 1, 0, 1));
  for (int i = 0; isa_at(i); i++) {
    if (!isa_at(i)->runs())
      continue;
    attention_build_narrow(c, seed, arena, &one);
    attention_build_narrow(c, seed, arena, &more);
    run(&one, isa_at(i), 1);
    run(&more, isa_at(i), 3);
    for (size_t v = 0; v < one.n_tensors; v++)
      if (memcmp(one.tensor[v].data, more.tensor[v].data, graph_value_bytes(one.graph, (ValueId)v)))
        FAIL_TEST("%s on %s: one thread and three differ", case_text(c), isa_at(i)->name);
    attention_compare(c, isa_at(i)->name, &one, &wanted);
    case_release(&one);
    case_release(&more);
  }
  case_release(&wanted);
  arena_destroy(arena);
}

static bool is_attention(OpKind op) {
  return op == OP_Attention || op == OP_AttentionGrad;
}

static void random_attention_agrees(void **state) {
  (void)state;
  for (int i = 0; isa_at(i); i++)
    printf("%s %s here\n", isa_at(i)->name, isa_at(i)->runs() ? "runs" : "does not run");
  for (uint64_t seed = 1; seed <= 200; seed++) {
    Arena *arena = arena_create();
    OpCase c;
    assert_true(case_random(seed % 2 ? OP_Attention : OP_AttentionGrad, seed, arena, &c));
    check(&c, seed);
    arena_destroy(arena);
  }
}

/* Several blocks and tasks; heads of up to 256. */
static void large_attention_agrees(void **state) {
  (void)state;
  for (size_t i = 0; i < n_large_op_cases; i++)
    if (is_attention(large_op_cases[i].op))
      check(&large_op_cases[i], i);
#define OPERAND(...)                                                                                                   \
  { .present = true, .shape = {4, {__VA_ARGS__}}, .fill = FILL_UNIT }
#define STATISTIC(how, ...)                                                                                            \
  { .present = true, .shape = {3, {__VA_ARGS__}}, .fill = how }
  static const int64_t sizes[] = {64, 100, 128, 256};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    int64_t D = sizes[i];
    Attr attrs[] = {{.name = "scale", .kind = ATTR_FLOAT, .f = 1 / sqrt((double)D)},
                    {.name = "right", .kind = ATTR_INT, .i = 0}};
    OpCase forward = {.op = OP_Attention,
                      .types = TYPES_FLOAT,
                      .in = {OPERAND(1, 4, 210, D), OPERAND(1, 2, 210, D), OPERAND(1, 2, 210, D)},
                      .out = {{true, {4, {1, 4, 210, D}}}, {true, {3, {1, 4, 210}}}, {true, {3, {1, 4, 210}}}},
                      .attrs = {attrs[0], attrs[1]}};
    OpCase backward = {.op = OP_AttentionGrad,
                       .types = TYPES_FLOAT,
                       .in = {OPERAND(1, 4, 210, D), OPERAND(1, 2, 210, D), OPERAND(1, 2, 210, D),
                              OPERAND(1, 4, 210, D), STATISTIC(FILL_BEYOND, 1, 4, 210),
                              STATISTIC(FILL_BEYOND, 1, 4, 210), OPERAND(1, 4, 210, D)},
                       .out = {{true, {4, {1, 4, 210, D}}}, {true, {4, {1, 2, 210, D}}}, {true, {4, {1, 2, 210, D}}}},
                       .attrs = {attrs[0], attrs[1]}};
    check(&forward, i);
    check(&backward, i);
  }
}

enum { T = 7, D = 6 };

/* One head of T queries, as the definition has it: result r's element i at expected[r][i]. */
static void naive(const Tensor *in, double scale, bool backward, double expected[3][T * D]) {
  memset(expected, 0, 3 * T * D * sizeof(double));
  for (int t = 0; t < T; t++) {
    double score[T], most = -INFINITY, sum = 0, common = 0;
    for (int j = 0; j < T; j++) {
      score[j] = 0;
      for (int d = 0; d < D; d++)
        score[j] += scale * mix_number(&in[0], t * D + d) * mix_number(&in[1], j * D + d);
      most = fmax(most, score[j]);
    }
    for (int j = 0; j < T; j++)
      sum += exp(score[j] - most);
    for (int d = 0; d < D && backward; d++)
      common += mix_number(&in[ATTENTION_GRAD_DY], t * D + d) * mix_number(&in[ATTENTION_GRAD_Y], t * D + d);
    for (int j = 0; j < T; j++) {
      double weight = exp(score[j] - most), slope = -common;
      if (backward)
        weight = exp(score[j] - mix_number(&in[ATTENTION_GRAD_MOST], t) - mix_number(&in[ATTENTION_GRAD_LOG_SUM], t));
      for (int d = 0; d < D && backward; d++)
        slope += mix_number(&in[ATTENTION_GRAD_DY], t * D + d) * mix_number(&in[2], j * D + d);
      slope = rounded(weight * slope);
      for (int d = 0; d < D; d++)
        if (backward) {
          expected[0][t * D + d] += scale * slope * mix_number(&in[1], j * D + d);
          expected[1][j * D + d] += scale * slope * mix_number(&in[0], t * D + d);
          expected[2][j * D + d] += rounded(weight) * mix_number(&in[ATTENTION_GRAD_DY], t * D + d);
        } else {
          expected[0][t * D + d] += rounded(weight) / sum * mix_number(&in[2], j * D + d);
        }
    }
  }
}

static void weights_and_slopes_are_rounded(void **state) {
  (void)state;
  for (int backward = 0; backward < 2; backward++)
    for (uint64_t seed = 1; seed <= 20; seed++) {
      Arena *arena = arena_create();
      double expected[3][T * D];
      OpCase c = {.op = OP_Attention,
                  .types = TYPES_FLOAT,
                  .in = {OPERAND(1, 1, T, D), OPERAND(1, 1, T, D), OPERAND(1, 1, T, D)},
                  .out = {{true, {4, {1, 1, T, D}}}, {true, {3, {1, 1, T}}}, {true, {3, {1, 1, T}}}},
                  .attrs = {{.name = "scale", .kind = ATTR_FLOAT, .f = 0.4}}};
      if (backward) {
        c.op = OP_AttentionGrad;
        c.in[ATTENTION_GRAD_Y] = c.in[ATTENTION_GRAD_DY] = c.in[0];
        c.in[ATTENTION_GRAD_MOST] = c.in[ATTENTION_GRAD_LOG_SUM] = (CaseInput)STATISTIC(FILL_BEYOND, 1, 1, T);
        c.out[1] = c.out[2] = c.out[0];
      }
      CaseGraph built;
      Tensor in[CASE_INPUTS], result[CASE_OUTPUTS];
      attention_build_narrow(&c, seed, arena, &built);
      naive(built.tensor, node_float(built.node, "scale", 1), backward, expected);
      ASSERT_OK(case_run(&built, &backend_reference, 1, 0, 1));
      attention_operands(&built, in, result);
      for (int r = 0; r < (backward ? 3 : 1); r++)
        for (int i = 0; i < T * D; i++)
          if (fabs(mix_number(&result[r], i) - rounded(expected[r][i])) > 1e-12)
            FAIL_TEST("seed %d, result %d, element %d is %.9g, not %.9g", (int)seed, r, i, mix_number(&result[r], i),
                      expected[r][i]);
      case_release(&built);
      arena_destroy(arena);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(weights_and_slopes_are_rounded),
                                     cmocka_unit_test(random_attention_agrees),
                                     cmocka_unit_test(large_attention_agrees)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
