/* Which convolutions are cuDNN's, on an emulated device whose cuDNN puts wrong engines first: their results are the
 * oracle's, in full and with operands in TF32, and the reference's where activations are stored in bfloat16. */
#include <stdio.h>
#include <string.h>

#include "tests/cuda/emulation.h"
#include "tests/ops/mixes.h"
#include "tests/test.h"

#define TENSOR(...)                                                                                                    \
  {                                                                                                                    \
    .present = true, .shape = { __VA_ARGS__ }                                                                          \
  }
#define INTS(attr_name, count, ...)                                                                                    \
  { .name = (attr_name), .kind = ATTR_INTS, .ints = (const int64_t[]){__VA_ARGS__}, .n = (count) }
#define GROUP(groups)                                                                                                  \
  { .name = "group", .kind = ATTR_INT, .i = (groups) }

/* What has it. */
typedef enum { CUDNN, OWN } Who;

typedef struct {
  Who who;
  OpCase op_case;
} ConvolutionCase;

static const ConvolutionCase cases[] = {
    {CUDNN,
     {OP_Conv, TYPES_FLOAT, {TENSOR(4, {2, 3, 6, 7}), TENSOR(4, {5, 3, 3, 2})}, {{true, {4, {2, 5, 4, 6}}}}, {{0}}}},
    {CUDNN, /* one axis */
     {OP_Conv, TYPES_FLOAT, {TENSOR(3, {2, 3, 9}), TENSOR(3, {4, 3, 3})}, {{true, {3, {2, 4, 7}}}}, {{0}}}},
    {CUDNN, /* pads, strides that do not come out even, groups */
     {OP_Conv,
      TYPES_FLOAT,
      {TENSOR(4, {1, 4, 8, 5}), TENSOR(4, {6, 2, 3, 3})},
      {{true, {4, {1, 6, 4, 3}}}},
      {INTS("strides", 2, 2, 2), INTS("pads", 4, 1, 1, 1, 1), GROUP(2)}}},
    {CUDNN, /* the fallback's engine */
     {OP_Conv,
      TYPES_FLOAT,
      {TENSOR(4, {1, 2, 8, 9}), TENSOR(4, {3, 2, 3, 3})},
      {{true, {4, {1, 3, 4, 5}}}},
      {INTS("dilations", 2, 2, 2)}}},
    {CUDNN,
     {OP_Conv,
      TYPES_FLOAT,
      {TENSOR(5, {1, 2, 4, 5, 4}), TENSOR(5, {3, 2, 2, 3, 2})},
      {{true, {5, {1, 3, 3, 3, 3}}}},
      {{0}}}},
    {OWN, /* there is no engine */
     {OP_Conv,
      TYPES_FLOAT,
      {TENSOR(5, {1, 4, 4, 4, 4}), TENSOR(5, {4, 2, 2, 2, 2})},
      {{true, {5, {1, 4, 3, 3, 3}}}},
      {GROUP(2)}}},
    {OWN, /* there is no graph */
     {OP_Conv, TYPES_FLOAT, {TENSOR(3, {1, 2, 12}), TENSOR(3, {2, 2, 8})}, {{true, {3, {1, 2, 5}}}}, {{0}}}},
    {OWN, /* pads that are not alike */
     {OP_Conv,
      TYPES_FLOAT,
      {TENSOR(3, {1, 2, 6}), TENSOR(3, {2, 2, 3})},
      {{true, {3, {1, 2, 6}}}},
      {INTS("pads", 2, 0, 2)}}},
    {CUDNN, /* depthwise */
     {OP_ConvGradInput,
      TYPES_FLOAT,
      {TENSOR(4, {2, 3, 3, 3}), TENSOR(4, {3, 1, 3, 3})},
      {{true, {4, {2, 3, 7, 8}}}},
      {INTS("strides", 2, 2, 2), GROUP(3), INTS("shape", 4, 2, 3, 7, 8)}}},
    {CUDNN,
     {OP_ConvGradWeight,
      TYPES_FLOAT,
      {TENSOR(4, {2, 5, 4, 6}), TENSOR(4, {2, 3, 6, 7})},
      {{true, {4, {5, 3, 3, 2}}}},
      {INTS("shape", 4, 5, 3, 3, 2)}}},
};

/* Rounds an input to the 10 binary digits of TF32, to the nearest, ties to even. */
static void reduce(const CaseGraph *built) {
  for (int i = 0; i < 2; i++) {
    const Tensor *t = &built->tensor[built->node->in[i]];
    uint32_t *bits = t->data, low = (1u << 13) - 1;
    for (int64_t k = 0; k < shape_elements(t->shape); k++)
      bits[k] = (bits[k] + low / 2 + (bits[k] >> 13 & 1)) & ~low;
  }
}

/* With TF32 the answer is that of operands that were rounded before, where cuDNN has an engine for it. */
static void check_case(const ConvolutionCase *c, DType type, Precision precision, bool is_cudnn, bool rounds) {
  Arena *arena = arena_create();
  CaseGraph given, expected;
  double *result[CASE_INPUTS];
  ValueId value[CASE_INPUTS];
  char where[256];
  ASSERT_OK(case_build(&c->op_case, type, 1, arena, &given));
  ASSERT_OK(case_build(&c->op_case, type, 1, arena, &expected));
  if (rounds)
    reduce(&expected);
  case_oracle(&expected, arena, result);
  case_results(given.node, value);
  given.node->precision = precision;
  int before = emulation_convolutions();
  if (case_run(&given, &backend_cuda, 1, 0, 1) != OK)
    FAIL_TEST("%s: %s", case_text(&c->op_case), status_message());
  if (emulation_convolutions() - before != is_cudnn)
    FAIL_TEST("%s in %s: cuDNN had it %d times", case_text(&c->op_case), dtype_name(type),
              emulation_convolutions() - before);
  if (!case_close(&given.tensor[value[0]], result[0], case_tolerance(&given), where))
    FAIL_TEST("%s in %s, precision %d: %s", case_text(&c->op_case), dtype_name(type), precision, where);
  case_release(&given);
  case_release(&expected);
  arena_destroy(arena);
}

static bool is_dilated(const OpCase *c) {
  return c->attrs[0].name && strcmp(c->attrs[0].name, "dilations") == 0;
}

static void float32_is_cudnns(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_case(&cases[i], F32, PRECISION_FLOAT32, cases[i].who == CUDNN, false);
}

static void float64_is_our_own(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_case(&cases[i], F64, PRECISION_TF32, false, false);
}

/* The fallback's engine has no tensor cores. bf16 rounds no more than TF32. */
static void tf32_rounds_operands(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (Precision precision = PRECISION_TF32; precision <= PRECISION_BF16; precision++)
      check_case(&cases[i], F32, precision, cases[i].who == CUDNN,
                 cases[i].who == CUDNN && !is_dilated(&cases[i].op_case));
}

/* Both activations, and the weight, too; one alone. `narrow`: cuDNN has them as they are, else copies. */
static void check_mix(const ConvolutionCase *c, unsigned mix, bool narrow) {
  Arena *arena = arena_create();
  CaseGraph got, expected;
  char where[256];
  ASSERT_OK(mix_build_narrow(&c->op_case, 1, mix, arena, &got));
  ASSERT_OK(mix_build_rounded(&c->op_case, 1, mix, arena, &expected));
  ASSERT_OK(case_run(&expected, &backend_reference, 1, 0, 1));
  got.node->precision = PRECISION_BF16;
  int all = emulation_convolutions(), before = emulation_narrow_convolutions();
  if (case_run(&got, &backend_cuda, 1, 0, 1) != OK)
    FAIL_TEST("%s, mix %x: %s", case_text(&c->op_case), mix, status_message());
  if (emulation_convolutions() - all != (c->who == CUDNN) || emulation_narrow_convolutions() - before != narrow)
    FAIL_TEST("%s, mix %x: cuDNN had it %d times, %d in bfloat16", case_text(&c->op_case), mix,
              emulation_convolutions() - all, emulation_narrow_convolutions() - before);
  if (mix_differs(&got, &expected, false, where))
    FAIL_TEST("%s, mix %x: %s", case_text(&c->op_case), mix, where);
  case_release(&got);
  case_release(&expected);
  arena_destroy(arena);
}

static void bfloat16_is_cudnns(void **state) {
  (void)state;
  enum { FIRST = 1, SECOND = 2, RESULT = 4 };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const ConvolutionCase *c = &cases[i];
    bool weight = c->op_case.op == OP_ConvGradWeight, narrow = c->who == CUDNN && c->op_case.in[0].shape.rank < 5;
    check_mix(c, weight ? FIRST | SECOND : FIRST | RESULT, narrow);
    check_mix(c, FIRST | SECOND | RESULT, narrow);
    check_mix(c, FIRST, false);
    check_mix(c, SECOND, false);
  }
  ConvolutionCase grouped = {CUDNN,
                             {OP_ConvGradWeight,
                              TYPES_FLOAT,
                              {TENSOR(4, {2, 4, 4, 6}), TENSOR(4, {2, 6, 6, 7})},
                              {{true, {4, {4, 3, 3, 2}}}},
                              {GROUP(2), INTS("shape", 4, 4, 3, 3, 2)}}};
  check_mix(&grouped, FIRST | SECOND, false);
  check_mix(&grouped, FIRST | SECOND | RESULT, true);
}

/* What might be otherwise in the next run chooses no other engine; it is told with the node's name, and leaves nothing
 * behind. */
static void failures_are_told(void **state) {
  (void)state;
  static const char *const calls[][2] = {{"cudnnCreate", "opening the library"},
                                         {"cudnnBackendFinalize", "planning a convolution"},
                                         {"cudnnBackendExecute", "a convolution"}};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    char what[128];
    Arena *arena = arena_create();
    CaseGraph built;
    ASSERT_OK(case_build(&cases[0].op_case, F32, 1, arena, &built));
    emulation_fail(calls[i][0], 0);
    assert_int_equal(case_run(&built, &backend_cuda, 1, 0, 1), E_DEVICE);
    snprintf(what, sizeof what, "(Conv): cuDNN: %s: CUDNN_STATUS", calls[i][1]);
    if (!strstr(status_message(), what) || !strstr(status_message(), "ONNXPIPE_CUDNN=off"))
      FAIL_TEST("%s fails: %s", calls[i][0], status_message());
    assert_int_equal(emulation_allocated(), 0);
    case_release(&built);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(float32_is_cudnns),    cmocka_unit_test(float64_is_our_own),
      cmocka_unit_test(tf32_rounds_operands), cmocka_unit_test(bfloat16_is_cudnns),
      cmocka_unit_test(failures_are_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
