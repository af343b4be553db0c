/* Norms and updates of tables whose gradients are rows, on an emulated device: they have the bits of those of whole
 * accumulators, however many rows there are; and joined ones those of each alone. */
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "tests/cuda/emulation.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

#define GIVEN(...)                                                                                                     \
  {                                                                                                                    \
    .present = true, .shape = { __VA_ARGS__ }                                                                          \
  }
#define REAL(attr_name, value)                                                                                         \
  { .name = (attr_name), .kind = ATTR_FLOAT, .f = (value) }
#define INT(attr_name, value)                                                                                          \
  { .name = (attr_name), .kind = ATTR_INT, .i = (value) }

/* A quarter of them empty. */
static CaseInput places(Shape rows, int64_t table) {
  return (CaseInput){
      .present = true, .dtype = I64, .shape = shape_of(2, rows.dim), .fill = FILL_CLASS, .limit = table + 1};
}

typedef struct {
  Shape table;
  int n_groups;
  Shape groups[2]; /* rows, or of the table's rank: an accumulator */
} Gradient;

static const Gradient gradients[] = {
    {{2, {700, 8}}, 1, {{3, {2, 3000, 8}}}}, /* more than a block sorts */
    {{2, {90, 7}}, 1, {{3, {2, 40, 7}}}},
    {{2, {9000, 4}}, 1, {{3, {3, 50, 4}}}}, /* more than a block takes, most of it untouched */
    {{1, {40000}}, 1, {{2, {2, 600}}}},
    {{3, {50, 3, 4}}, 2, {{4, {2, 60, 3, 4}}, {3, {50, 3, 4}}}},
    {{3, {50, 3, 4}}, 2, {{4, {2, 60, 3, 4}}, {4, {2, 9, 3, 4}}}},
    {{2, {3, 2100}}, 2, {{2, {3, 2100}}, {3, {2, 4, 2100}}}},
};

typedef struct {
  OpKind rows, whole;
  int states;
  Attr attrs[CASE_ATTRS];
} Operator;

static const Operator operators[] = {
    {OP_SquaredNormRows, OP_SquaredNorm, -2, {{0}}},
    {OP_SgdUpdateRows, OP_SgdUpdate, 0, {{0}}},
    {OP_SgdUpdateRows, OP_SgdUpdate, 0, {REAL("weight_decay", 0.1)}},
    {OP_SgdUpdateRows, OP_SgdUpdate, 1, {INT("states", 1), REAL("momentum", 0.9), INT("nesterov", 1)}},
    {OP_AdamUpdateRows, OP_AdamUpdate, 2, {INT("states", 2), REAL("weight_decay", 0.1), INT("decoupled", 1)}},
    {OP_AdamUpdateRows, OP_AdamUpdate, 2, {INT("states", 2)}},
};

static OpCase make_case(const Operator *o, const Gradient *g, bool rows) {
  OpCase c = {.op = rows ? o->rows : o->whole, .types = TYPES_FLOAT};
  int n = 0, attrs = 0;
  if (o->states >= 0) {
    c.in[n++] = (CaseInput)GIVEN(g->table.rank, {0});
    c.in[n - 1].shape = g->table;
    c.in[n++] = (CaseInput){.present = true, .dtype = F64, .shape = {1, {5}}, .fill = FILL_SCALARS, .fixed = true};
  }
  for (int i = 0; i < o->states; i++)
    c.in[n++] = (CaseInput){.present = true, .shape = g->table, .fill = FILL_POSITIVE};
  for (int i = 0; i < g->n_groups; i++) {
    bool whole = shape_equal(g->groups[i], g->table);
    c.in[n++] = (CaseInput){.present = true, .shape = rows ? g->groups[i] : g->table};
    if (rows && !whole)
      c.in[n++] = places(g->groups[i], g->table.dim[0]);
  }
  for (; attrs < CASE_ATTRS && o->attrs[attrs].name; attrs++)
    c.attrs[attrs] = o->attrs[attrs];
  c.out[0].present = o->states < 0;
  if (rows && o->states < 0)
    c.attrs[attrs] = (Attr){.name = "shape", .kind = ATTR_INTS, .ints = g->table.dim, .n = g->table.rank};
  return c;
}

/* What a group's rows come to: sums over microbatches of the sums within one. */
#define SPREAD(T)                                                                                                      \
  static void spread_##T(const Tensor *rows, const Tensor *at, const Tensor *whole) {                                  \
    int64_t row = shape_elements(whole->shape) / whole->shape.dim[0];                                                  \
    int64_t microbatches = at->shape.dim[0], n = at->shape.dim[1];                                                     \
    T *sum = whole->data, *part = calloc((size_t)shape_elements(whole->shape), sizeof *part);                          \
    assert_non_null(part);                                                                                             \
    memset(sum, 0, (size_t)shape_elements(whole->shape) * sizeof *sum);                                                \
    for (int64_t m = 0; m < microbatches; m++) {                                                                       \
      memset(part, 0, (size_t)shape_elements(whole->shape) * sizeof *part);                                            \
      for (int64_t i = m * n; i < (m + 1) * n; i++)                                                                    \
        for (int64_t k = 0; k < row && ((const int64_t *)at->data)[i] > 0; k++)                                        \
          part[(((const int64_t *)at->data)[i] - 1) * row + k] += ((const T *)rows->data)[i * row + k];                \
      for (int64_t i = 0; i < shape_elements(whole->shape); i++)                                                       \
        sum[i] += part[i];                                                                                             \
    }                                                                                                                  \
    free(part);                                                                                                        \
  }
SPREAD(float)
SPREAD(double)

static Tensor *input(const CaseGraph *built, int i) {
  return &built->tensor[built->node->in[i]];
}

/* Table and states of which most is zero: nothing was ever looked up there. */
static void clear_states(const CaseGraph *built, int states) {
  for (int i = 2; i < 2 + states; i++) {
    const Tensor *t = input(built, i);
    size_t bytes = (size_t)shape_elements(t->shape) * dtype_bytes(t->dtype);
    memset((char *)t->data + bytes / 4, 0, bytes - bytes / 4);
  }
}

static void check(const Operator *o, const Gradient *g, DType type, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph rows, whole;
  OpCase r = make_case(o, g, true), w = make_case(o, g, false);
  ASSERT_OK(case_build(&r, type, seed, arena, &rows));
  ASSERT_OK(case_build(&w, type, seed, arena, &whole));
  int first = o->states + 2, from = first;
  if (seed % 2)
    clear_states(&rows, o->states);
  for (int i = 0; i < first; i++)
    memcpy(input(&whole, i)->data, input(&rows, i)->data, graph_value_bytes(rows.graph, rows.node->in[i]));
  for (int i = 0; i < g->n_groups; i++, from++) {
    Tensor *to = input(&whole, first + i);
    if (shape_equal(g->groups[i], g->table)) {
      memcpy(to->data, input(&rows, from)->data, graph_value_bytes(whole.graph, whole.node->in[first + i]));
      continue;
    }
    (type == F32 ? spread_float : spread_double)(input(&rows, from), input(&rows, from + 1), to);
    from++;
  }
  emulation_seed(seed);
  ASSERT_OK(case_run(&rows, &backend_cuda, 1, 0, 1));
  ASSERT_OK(case_run(&whole, &backend_cuda, 1, 0, 1));
  for (int i = 0; i < (first ? first : 1); i++) {
    ValueId a = first ? rows.node->in[i] : rows.node->out[0], b = first ? whole.node->in[i] : whole.node->out[0];
    if (memcmp(rows.tensor[a].data, whole.tensor[b].data, graph_value_bytes(rows.graph, a)))
      FAIL_TEST("%s in %s: operand %d has other bits than %s's", case_text(&r), dtype_name(type), i,
                op_def(w.op)->name);
  }
  case_release(&rows);
  case_release(&whole);
  arena_destroy(arena);
}

static void rows_have_the_bits_of_accumulators(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
    for (size_t k = 0; k < sizeof gradients / sizeof *gradients; k++)
      for (uint64_t seed = 0; seed < 2; seed++)
        check(&operators[i], &gradients[k], k % 2 ? F64 : F32, seed + 2 * k);
}

enum { CALLS = 2 * sizeof operators / sizeof *operators * (sizeof gradients / sizeof *gradients) };

/* A case whose operands lie on the device. */
typedef struct {
  CaseGraph alone, built;
  Tensor on_device[2 * CASE_INPUTS];
} Placed;

static size_t bytes_of(const Tensor *t) {
  return (size_t)shape_elements(t->shape) * dtype_bytes(t->dtype);
}

static void place(Placed *p, Stream *stream) {
  const Node *node = p->built.node;
  for (int i = 0; i < node->n_in + node->n_out; i++) {
    const Tensor *t = &p->built.tensor[i < node->n_in ? node->in[i] : node->out[i - node->n_in]];
    p->on_device[i] = *t;
    ASSERT_OK(backend_cuda.alloc(stream, bytes_of(t), &p->on_device[i].data));
    ASSERT_OK(backend_cuda.copy(stream, p->on_device[i].data, t->data, bytes_of(t), COPY_HOST_TO_DEVICE));
  }
}

/* As those that ran alone. */
static void check_placed(Placed *p, Stream *stream) {
  const Node *node = p->built.node;
  for (int i = 0; i < node->n_in + node->n_out; i++) {
    const Tensor *t = &p->built.tensor[i < node->n_in ? node->in[i] : node->out[i - node->n_in]];
    const Tensor *expected = &p->alone.tensor[t - p->built.tensor];
    ASSERT_OK(backend_cuda.copy(stream, t->data, p->on_device[i].data, bytes_of(t), COPY_DEVICE_TO_HOST));
    ASSERT_OK(backend_cuda.stream_wait(stream));
    if (memcmp(t->data, expected->data, bytes_of(t)))
      FAIL_TEST("%s of %s: operand %d has other bits than alone", op_def(node->op)->name, SHAPE_STR(t->shape), i);
    backend_cuda.release(stream, p->on_device[i].data);
  }
}

/* Norms and updates of all kinds and types at once. */
static void joined_calls_have_the_bits_of_each(void **state) {
  (void)state;
  static Placed placed[CALLS];
  JoinedCall calls[CALLS];
  bool taken[CALLS];
  Arena *arena = arena_create();
  Stream *stream;
  NodeKernel kernel;
  ASSERT_OK(backend_cuda.stream_open(0, 1, &stream));
  for (size_t i = 0; i < CALLS; i++) {
    const Gradient *g = &gradients[i / 2 % (sizeof gradients / sizeof *gradients)];
    OpCase c = make_case(&operators[i / 2 / (sizeof gradients / sizeof *gradients)], g, i % 2);
    DType type = i % 4 < 3 ? F32 : F64;
    ASSERT_OK(case_build(&c, type, i, arena, &placed[i].alone));
    ASSERT_OK(case_build(&c, type, i, arena, &placed[i].built));
    ASSERT_OK(case_run(&placed[i].alone, &backend_cuda, 1, 0, 1));
    place(&placed[i], stream);
    calls[i] =
        (JoinedCall){placed[i].built.node, placed[i].on_device, placed[i].on_device + placed[i].built.node->n_in};
  }
  emulation_seed(5);
  ASSERT_OK(backend_cuda.join(stream, calls, CALLS, &kernel, taken));
  for (size_t i = 0; i < CALLS; i++)
    assert_true(taken[i]);
  ASSERT_OK(kernel.run(stream, calls[0].node, NULL, NULL, NULL, kernel.state));
  for (size_t i = 0; i < CALLS; i++) {
    check_placed(&placed[i], stream);
    case_release(&placed[i].alone);
    case_release(&placed[i].built);
  }
  backend_forget(&kernel);
  backend_cuda.stream_close(stream);
  arena_destroy(arena);
}

/* What is no norm or update is left alone. */
static void others_run_by_themselves(void **state) {
  (void)state;
  static const OpCase c = {OP_Neg, TYPES_FLOAT, {GIVEN(1, {3})}, {{true, {1, {3}}}}, {{0}}};
  Arena *arena = arena_create();
  CaseGraph built;
  Stream *stream;
  NodeKernel kernel;
  bool taken = true;
  ASSERT_OK(backend_cuda.stream_open(0, 1, &stream));
  ASSERT_OK(case_build(&c, F32, 1, arena, &built));
  JoinedCall call = {built.node, &built.tensor[built.node->in[0]], &built.tensor[built.node->out[0]]};
  ASSERT_OK(backend_cuda.join(stream, &call, 1, &kernel, &taken));
  assert_false(taken);
  assert_null(kernel.run);
  case_release(&built);
  backend_cuda.stream_close(stream);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_have_the_bits_of_accumulators),
      cmocka_unit_test(joined_calls_have_the_bits_of_each),
      cmocka_unit_test(others_run_by_themselves),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
