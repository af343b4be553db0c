/* Products of bfloat16 on the cpu backend: each instruction set that runs here, and AMX on a model of its tiles,
 * against sums in double of operands that are rounded; the number of threads changes no bit. With ONNXPIPE_TEST_SAMPLE
 * set, the best instruction set only. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/product_bf16.h"
#include "tests/backend/amx_model.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static uint16_t rounded(double x) {
  float f = (float)x;
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static double value_of(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return (double)f;
}

static double get(const Tensor *t, int64_t i) {
  return t->dtype == BF16 ? value_of(((const uint16_t *)t->data)[i]) : (double)((const float *)t->data)[i];
}

/* A tensor of numbers -1 … 1. */
static Tensor draw(uint64_t *random, DType type, int rank, const int64_t *dim) {
  Tensor t = {.dtype = type, .shape = shape_of(rank, dim)};
  int64_t n = shape_elements(t.shape);
  t.data = aligned_alloc(64, (size_t)round_up(n * 4 + 1, 64));
  assert_non_null(t.data);
  for (int64_t i = 0; i < n; i++) {
    double x = (double)random_below(random, 20001) / 10000 - 1;
    if (type == BF16)
      ((uint16_t *)t.data)[i] = rounded(x);
    else
      ((float *)t.data)[i] = (float)x;
  }
  return t;
}

typedef struct {
  OpKind op;
  int64_t batches, m, n, k;
  bool turned_a, turned_b;   /* Gemm's */
  DType a, b, c, d;          /* d: of Gemm's C; DTYPE_NONE: none */
  int64_t d_rows, d_columns; /* 1 or as many as the product */
  float alpha, beta;
  uint64_t seed;
} ProductCase;

enum { ATTRS = 4 };

static void attributes(const ProductCase *c, Attr attrs[ATTRS]) {
  attrs[0] = (Attr){.name = "transA", .kind = ATTR_INT, .i = c->turned_a};
  attrs[1] = (Attr){.name = "transB", .kind = ATTR_INT, .i = c->turned_b};
  attrs[2] = (Attr){.name = "alpha", .kind = ATTR_FLOAT, .f = (double)c->alpha};
  attrs[3] = (Attr){.name = "beta", .kind = ATTR_FLOAT, .f = (double)c->beta};
}

/* Element (i, j) of product number l, its operands rounded, before it is. */
static double expected(const ProductCase *c, const Tensor *in, const double *before, int64_t l, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t k = 0; k < c->k; k++) {
    double a = get(&in[0], l * c->m * c->k + (c->turned_a ? k * c->m + i : i * c->k + k));
    double b = get(&in[1], l * c->k * c->n + (c->turned_b ? j * c->k + k : k * c->n + j));
    sum += value_of(rounded(a)) * value_of(rounded(b));
  }
  sum *= (double)c->alpha;
  if (c->d)
    sum += (double)c->beta * get(&in[2], (c->d_rows > 1 ? i * c->d_columns : 0) + (c->d_columns > 1 ? j : 0));
  return before ? sum + before[(l * c->m + i) * c->n + j] : sum;
}

static void multiply(const ProductCase *c, const Isa *isa, int threads, const Tensor *in, const Tensor *out) {
  const KernelDef *kernel = backend_cpu.kernels[c->op];
  Attr attrs[ATTRS];
  ValueId ids[4] = {0, 1, 2, 3};
  bool adds = c->op == OP_AccumulateMatMul;
  Node node = {.op = c->op, .name = "n", .in = ids, .out = ids + 3, .n_in = 2 + (adds || c->d), .n_out = !adds};
  Tensor given[3] = {in[0], in[1], in[2]};
  Stream *stream;
  void *state;
  attributes(c, attrs);
  if (c->op == OP_Gemm) {
    node.attrs = attrs;
    node.n_attrs = ATTRS;
  }
  if (adds) {
    given[0] = *out;
    given[1] = in[0];
    given[2] = in[1];
  }
  ASSERT_OK(cpu_stream_open(threads, isa, &stream));
  Product p = product_of(&node, in);
  size_t bytes = product_bf16_workspace(&p, out->dtype);
  void *workspace = aligned_alloc(64, (size_t)round_up((int64_t)bytes + 1, 64));
  ASSERT_OK(kernel->prepare(stream, &node, given, out, bytes, &state));
  ASSERT_OK(kernel->run(stream, &node, given, out, workspace, state));
  kernel->release(state);
  free(workspace);
  backend_cpu.stream_close(stream);
}

static void check(const ProductCase *c, const Isa *isa) {
  uint64_t random = c->seed;
  int rank = c->batches > 1 ? 3 : 2;
  int64_t a[3] = {c->batches, c->turned_a ? c->k : c->m, c->turned_a ? c->m : c->k};
  int64_t b[3] = {c->batches, c->turned_b ? c->n : c->k, c->turned_b ? c->k : c->n};
  int64_t y[3] = {c->batches, c->m, c->n}, d[2] = {c->d_rows, c->d_columns};
  Tensor in[3] = {draw(&random, c->a, rank, a + 3 - rank), draw(&random, c->b, rank, b + 3 - rank)};
  if (c->d)
    in[2] = draw(&random, c->d, 2, d);
  Tensor out[3];
  int64_t n = c->batches * c->m * c->n;
  bool adds = c->op == OP_AccumulateMatMul;
  double *before = calloc((size_t)n + 1, sizeof *before);
  for (int t = 0; t < 3; t++) {
    uint64_t same = c->seed + 1;
    out[t] = draw(&same, c->c, rank, y + 3 - rank);
    for (int64_t i = 0; i < n; i++)
      before[i] = get(&out[t], i);
    multiply(c, isa, t + 1, in, &out[t]);
    if (memcmp(out[0].data, out[t].data, (size_t)n * dtype_bytes(c->c)))
      FAIL_TEST("%s, seed %d: 1 thread and %d differ", isa->name, (int)c->seed, t + 1);
  }
  double step = c->c == BF16 ? 0x1p-8 : 0, sums = 1e-6 * sqrt((double)c->k) + 1e-6;
  for (int64_t i = 0; i < n; i++) {
    double want = expected(c, in, adds ? before : NULL, i / (c->m * c->n), i / c->n % c->m, i % c->n);
    double got = get(&out[0], i);
    if (!(fabs(got - want) <= step * fabs(want) + sums))
      FAIL_TEST("%s, seed %d, op %d, %dx[%d,%d,%d]: element %d is %.9g, not %.9g", isa->name, (int)c->seed, (int)c->op,
                (int)c->batches, (int)c->m, (int)c->n, (int)c->k, (int)i, got, want);
  }
  for (int t = 0; t < 3; t++) {
    free(out[t].data);
    free(in[t].data);
    in[t].data = NULL;
  }
  free(before);
}

static ProductCase draw_case(uint64_t seed) {
  static const int64_t sizes[] = {1, 2, 3, 5, 12, 13, 16, 31, 33, 47, 64, 65, 97, 130};
  static const int64_t depths[] = {0, 1, 2, 3, 7, 31, 32, 33, 64, 65, 100, 257, 1023, 1025, 2050};
  static const OpKind ops[] = {OP_MatMul, OP_Gemm, OP_AccumulateMatMul};
  uint64_t random = seed;
#define ONE_OF(x) x[random_below(&random, sizeof x / sizeof *x)]
  ProductCase c = {.op = ONE_OF(ops), .batches = 1, .m = ONE_OF(sizes), .n = ONE_OF(sizes), .k = ONE_OF(depths)};
  c.seed = seed;
  c.alpha = c.beta = 1;
  c.a = random_below(&random, 3) ? BF16 : F32;
  c.b = c.a == F32 || random_below(&random, 3) ? BF16 : F32;
  c.c = random_below(&random, 3) && c.op != OP_AccumulateMatMul ? BF16 : F32;
  if (c.op != OP_Gemm) {
    c.batches = random_below(&random, 3) ? 1 : 3;
    return c;
  }
  c.turned_a = random_below(&random, 2);
  c.turned_b = random_below(&random, 2);
  if (random_below(&random, 4)) {
    c.d = random_below(&random, 2) ? BF16 : F32;
    c.d_rows = random_below(&random, 2) ? 1 : c.m;
    c.d_columns = random_below(&random, 4) ? c.n : 1;
  }
  if (random_below(&random, 3) == 0) {
    c.alpha = 0.5f;
    c.beta = -1.5f;
  }
  return c;
}

static void random_products_are_sums_of_rounded_operands(void **state) {
  (void)state;
  for (int i = 0; isa_at(i); i++) {
    const Isa *isa = isa_at(i);
    printf("%s %s here\n", isa->name, isa->runs() ? "runs" : "does not run");
    for (uint64_t seed = 1; isa->runs() && seed <= 60; seed++) {
      ProductCase c = draw_case(seed);
      check(&c, isa);
    }
  }
}

/* Sizes beyond blocks and tasks. */
static void large_products_agree(void **state) {
  (void)state;
  static const ProductCase cases[] = {
      {.op = OP_MatMul, .batches = 1, .m = 3, .n = 4200, .k = 40, .a = BF16, .b = BF16, .c = BF16},
      {.op = OP_MatMul, .batches = 1, .m = 20, .n = 2100, .k = 1030, .a = BF16, .b = F32, .c = BF16},
      {.op = OP_MatMul, .batches = 5, .m = 140, .n = 60, .k = 30, .a = BF16, .b = BF16, .c = BF16},
      {.op = OP_MatMul, .batches = 2, .m = 20, .n = 600, .k = 270, .a = BF16, .b = BF16, .c = BF16},
      {.op = OP_MatMul, .batches = 2, .m = 20, .n = 100, .k = 1030, .a = BF16, .b = BF16, .c = BF16},
      {.op = OP_Gemm, .batches = 1, .m = 300, .n = 70, .k = 50, .turned_a = true, .a = BF16, .b = BF16, .c = F32}};
  for (int i = 0; isa_at(i); i++)
    for (size_t k = 0; isa_at(i)->runs() && k < sizeof cases / sizeof *cases; k++) {
      ProductCase c = cases[k];
      c.alpha = c.beta = 1;
      c.seed = 1000 + k;
      check(&c, isa_at(i));
    }
}

static void conversions_round_to_nearest_even(void **state) {
  (void)state;
  enum { COUNT = 37 };
  float x[COUNT], back[COUNT];
  uint16_t y[COUNT];
  for (int i = 0; isa_at(i); i++) {
    const LoopsBf16 *loops = &isa_at(i)->bf16;
    if (!isa_at(i)->runs())
      continue;
    for (int k = 0; k < COUNT; k++)
      x[k] = (1 + (float)k / 512) * (k % 3 ? 1 : -1e-20f);
    x[1] = INFINITY;
    x[2] = -INFINITY;
    x[3] = NAN;
    x[4] = 3.4e38f;
    x[20] = -0.0f;
    loops->narrow(x, y, COUNT);
    loops->widen(y, back, COUNT);
    for (int k = 0; k < COUNT; k++)
      if (k == 3 ? !isnan(back[k]) : y[k] != rounded((double)x[k]) || (double)back[k] != value_of(y[k]))
        FAIL_TEST("%s: %.9g becomes %.9g", isa_at(i)->name, (double)x[k], (double)back[k]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_products_are_sums_of_rounded_operands),
      cmocka_unit_test(large_products_agree),
      cmocka_unit_test(conversions_round_to_nearest_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
