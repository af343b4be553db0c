/* The cpu backend through the operator table: each instruction set that runs here, against the oracles; the number of
 * threads changes no bit. With ONNXPIPE_TEST_SAMPLE set, only the best instruction set gets large and random cases. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "graph/op.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

enum { ISAS = 8, MOST_THREADS = 3 };

static const Isa *chosen;

static bool sample;

/* Which instruction sets a case runs on: all that run here, or, in a sample, the best of them. */
typedef enum { ON_ALL, ON_BEST_IN_SAMPLE } Where;

static bool choose(int i, Where where) {
  const Isa *best;
  ASSERT_OK(isa_choose(&best));
  chosen = isas[i];
  return chosen->runs() && (where == ON_ALL || !sample || chosen == best);
}

/* One stream for each instruction set and number of threads, as in a run: it serves many kernels. */
static Stream *streams[ISAS][MOST_THREADS + 1];

static Status open_chosen(int device, int threads, Stream **stream) {
  (void)device;
  int i = 0;
  while (isas[i] != chosen)
    i++;
  if (!streams[i][threads])
    TRY(cpu_stream_open(threads, chosen, &streams[i][threads]));
  *stream = streams[i][threads];
  return OK;
}

static void keep_open(Stream *stream) {
  (void)stream;
}

static int close_all(void **state) {
  (void)state;
  for (int i = 0; i < ISAS; i++)
    for (int k = 0; k <= MOST_THREADS; k++)
      if (streams[i][k])
        backend_cpu.stream_close(streams[i][k]);
  return 0;
}

/* What the oracle says, once for all instruction sets. */
typedef struct {
  int n;
  double *result[CASE_INPUTS];
} Expected;

static Expected ask_oracle(const OpCase *c, DType type, uint64_t seed, Arena *arena) {
  CaseGraph built;
  Expected expected;
  if (case_build(c, type, seed, arena, &built) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  expected.n = case_oracle(&built, arena, expected.result);
  case_release(&built);
  return expected;
}

/* The case's results on this many threads. */
static void run_case(const OpCase *c, DType type, uint64_t seed, int threads, Arena *arena, CaseGraph *built) {
  Backend backend = backend_cpu;
  backend.stream_open = open_chosen;
  backend.stream_close = keep_open;
  if (case_build(c, type, seed, arena, built) != OK || case_run(built, &backend, threads, 0, 1) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
}

/* On the chosen instruction set. */
static void check_chosen(const OpCase *c, DType type, uint64_t seed, const Expected *expected) {
  Arena *arena = arena_create();
  CaseGraph one, three;
  ValueId value[CASE_INPUTS];
  char where[256];
  run_case(c, type, seed, 1, arena, &one);
  run_case(c, type, seed, 3, arena, &three);
  int n = case_results(one.node, value);
  assert_int_equal(n, expected->n);
  for (int i = 0; i < n; i++) {
    if (!case_close(&one.tensor[value[i]], expected->result[i], case_tolerance(&one), where))
      FAIL_TEST("%s on %s, result %d: %s", case_text(c), chosen->name, i, where);
    if (memcmp(one.tensor[value[i]].data, three.tensor[value[i]].data, graph_value_bytes(one.graph, value[i])))
      FAIL_TEST("%s on %s: one thread and three differ", case_text(c), chosen->name);
  }
  case_release(&one);
  case_release(&three);
  Backend backend = backend_cpu;
  backend.stream_open = open_chosen;
  backend.stream_close = keep_open;
  if (!case_in_place(c, type, seed, &backend, 3, where))
    FAIL_TEST("%s on %s: %s", case_text(c), chosen->name, where);
  arena_destroy(arena);
}

static void check_case(const OpCase *c, DType type, uint64_t seed, Where where) {
  Arena *arena = arena_create();
  Expected expected = ask_oracle(c, type, seed, arena);
  for (int i = 0; isas[i]; i++)
    if (choose(i, where))
      check_chosen(c, type, seed, &expected);
  arena_destroy(arena);
}

static void check_all(const OpCase *c, uint64_t seed, Where where) {
  DType types[DTYPE_COUNT];
  int n = case_types(c, types);
  for (int k = 0; k < n; k++)
    check_case(c, types[k], seed, where);
}

static void rows_agree_with_oracles(void **state) {
  (void)state;
  for (size_t row = 0; row < n_op_cases; row++)
    check_all(&op_cases[row], row, ON_ALL);
}

static void random_cases_agree_with_oracles(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++)
    for (uint64_t seed = 200; seed < 206; seed++) {
      Arena *arena = arena_create();
      OpCase c;
      if (case_random((OpKind)op, seed, arena, &c))
        check_all(&c, seed, ON_BEST_IN_SAMPLE);
      arena_destroy(arena);
    }
}

static void large_tensors_agree(void **state) {
  (void)state;
  for (size_t k = 0; k < n_large_op_cases; k++)
    check_all(&large_op_cases[k], k, ON_BEST_IN_SAMPLE);
}

/* Values that polynomials and tricks with bits could get wrong. */
static void functions_hold_at_their_ends(void **state) {
  (void)state;
  static const float x[] = {0,     -0.0f, 1e-30f, -1e-8f, 0.6249f, 0.6251f, 0.7999f,  0.8001f,  4,
                            -5.5f, 10,    -15,    20,     -40,     88.7f,   -87.5f,   -103,     -104,
                            89,    200,   -200,   1e30f,  NAN,     -1e30f,  INFINITY, -INFINITY};
  enum { COUNT = sizeof x / sizeof *x };
  float y[COUNT], d[COUNT];
  for (int i = 0; isas[i]; i++) {
    if (!isas[i]->runs())
      continue;
    for (int k = 0; k < COUNT; k++)
      d[k] = 1;
#define HOLDS(call, expected, relative, absolute, from, to)                                                            \
  call;                                                                                                                \
  for (int k = 0; k < COUNT; k++) {                                                                                    \
    double v = (double)x[k], e = expected;                                                                             \
    if (isnan(v) ? !isnan(y[k])                                                                                        \
                 : v >= (from) && v <= (to) && !(y[k] == e || fabs(y[k] - e) <= relative * fabs(e) + absolute))        \
      FAIL_TEST("%s, %s of %g is %.9g, not %.9g", isas[i]->name, #call, v, (double)y[k], e);                           \
  }
    HOLDS(isas[i]->exp(x, y, COUNT), v > 88.8 ? INFINITY : exp(v), 3e-7, 2e-45, -INFINITY, INFINITY)
    HOLDS(isas[i]->tanh(x, y, COUNT), tanh(v), 3e-7, 0, -INFINITY, INFINITY)
    HOLDS(isas[i]->sigmoid(x, y, COUNT), 1 / (1 + exp(-v)), 4e-7, 2e-38, -INFINITY, INFINITY)
    HOLDS(isas[i]->erf(x, y, COUNT), erf(v), 3e-7, 0, -INFINITY, INFINITY)
    HOLDS(isas[i]->gelu_erf(x, y, COUNT), v / 2 * erfc(-v / sqrt(2)), 3e-6, 1e-37, -20, 1e30)
    HOLDS(isas[i]->gelu_tanh(x, y, COUNT), v / 2 * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))), 4e-7, 1e-6,
          -1e9, 1e9)
    HOLDS(isas[i]->gelu_erf_grad(d, x, y, COUNT), erfc(-v / sqrt(2)) / 2 + v * exp(-v * v / 2) / sqrt(2 * M_PI), 4e-7,
          1e-6, -1e9, 1e9)
  }
}

/* Sizes beyond blocks and tasks. */
static void large_products_agree(void **state) {
  (void)state;
  static const int64_t sizes[][4] = {{1, 130, 300, 150}, {1, 2, 260, 4200},  {5, 130, 40, 70},
                                     {2, 20, 270, 500},  {1, 1400, 190, 33}, {1, 600, 1024, 70}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    const int64_t *s = sizes[k];
    OpCase c = {.op = OP_MatMul,
                .in = {{.present = true, .shape = shape_of(3, (int64_t[]){s[0], s[1], s[2]})},
                       {.present = true, .shape = shape_of(3, (int64_t[]){s[0], s[2], s[3]})}},
                .out = {{true, shape_of(3, (int64_t[]){s[0], s[1], s[3]})}}};
    check_case(&c, F32, k, ON_BEST_IN_SAMPLE);
  }
}

/* One product and a row: m, k, n; few rows and many, rows that run on or columns. */
static void large_sums_with_rows_agree(void **state) {
  (void)state;
  static const int64_t sizes[][3] = {{250, 200, 70}, {1400, 190, 33}, {60, 1024, 70}, {700, 520, 40}};
  for (size_t k = 0; k < 4 * sizeof sizes / sizeof *sizes; k++) {
    int64_t m = sizes[k / 4][0], l = sizes[k / 4][1], n = sizes[k / 4][2];
    bool ta = k & 1, tb = k & 2;
    OpCase c = {.op = OP_Gemm,
                .in = {{.present = true, .shape = shape_of(2, (int64_t[]){ta ? l : m, ta ? m : l})},
                       {.present = true, .shape = shape_of(2, (int64_t[]){tb ? n : l, tb ? l : n})},
                       {.present = true, .shape = shape_of(1, &n)}},
                .out = {{true, shape_of(2, (int64_t[]){m, n})}},
                .attrs = {attr_int("transA", ta), attr_int("transB", tb)}};
    check_case(&c, F32, k, ON_BEST_IN_SAMPLE);
  }
}

static Status fail_some(void *context, int64_t i, void *scratch) {
  (void)context, (void)scratch;
  return i % 100 == 37 ? fail(E_MODEL, "task %d", (int)i) : OK;
}

static Status mark(void *context, int64_t i, void *scratch) {
  *(char *)scratch = 1;
  ((unsigned char *)context)[i]++;
  return OK;
}

/* Every task once, whatever the pool; of several failures the first. */
static void pools_run_every_task_once(void **state) {
  (void)state;
  for (int threads = 1; threads <= 5; threads++) {
    Pool *pool;
    unsigned char *seen = calloc(1000, 1);
    ASSERT_OK(pool_create(threads, &pool));
    for (int round = 0; round < 50; round++)
      ASSERT_OK(pool_run(pool, 1000 - round, mark, seen));
    for (int i = 0; i < 950; i++)
      assert_int_equal(seen[i], 50);
    ASSERT_FAILS(E_MODEL, "task 37", pool_run(pool, 1000, fail_some, NULL));
    ASSERT_OK(pool_run(pool, 30, fail_some, NULL));
    ASSERT_OK(pool_run(pool, 0, fail_some, NULL));
    pool_destroy(pool);
    free(seen);
  }
}

/* Below a huge page and above; what was written to before, too. */
static void memory_is_zero_and_aligned(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 63, 4096, (2 << 20) - 64, 2 << 20, (5 << 20) + 1};
  for (int round = 0; round < 3; round++)
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
      void *memory;
      ASSERT_OK(backend_cpu.alloc(NULL, sizes[s], &memory));
      assert_int_equal((uintptr_t)memory % 64, 0);
      for (size_t i = 0; i < sizes[s]; i++)
        assert_int_equal(((char *)memory)[i], 0);
      memset(memory, 255, sizes[s]);
      backend_cpu.release(NULL, memory);
    }
  backend_cpu.release(NULL, NULL);
}

static void memory_that_no_machine_has_is_refused(void **state) {
  (void)state;
  static const size_t sizes[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    void *memory = state;
    assert_int_equal(backend_cpu.alloc(NULL, sizes[s], &memory), E_MEMORY);
    assert_non_null(strstr(status_message(), "an arena of "));
    assert_null(memory);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(memory_is_zero_and_aligned),      cmocka_unit_test(memory_that_no_machine_has_is_refused),
      cmocka_unit_test(pools_run_every_task_once),       cmocka_unit_test(rows_agree_with_oracles),
      cmocka_unit_test(random_cases_agree_with_oracles), cmocka_unit_test(large_tensors_agree),
      cmocka_unit_test(functions_hold_at_their_ends),    cmocka_unit_test(large_products_agree),
      cmocka_unit_test(large_sums_with_rows_agree),
  };
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  return cmocka_run_group_tests(tests, NULL, close_all);
}
