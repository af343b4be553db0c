/* Where the samples lie: the rules, and their proof at two sample counts. */
#include <string.h>

#include "graph/batch.h"
#include "graph/ops/rule.h"
#include "tests/test.h"

enum { LENGTH = 2, WIDTH = 3 };

/* A small model at one number of samples: x [samples, LENGTH, WIDTH]. */
typedef struct {
  Graph *g;
  int64_t n;
  ValueId x;
} Model;

static ValueId add(Model *m, OpKind op, const ValueId *in, int n_in, const Attr *attrs, int n_attrs) {
  NodeId node;
  ASSERT_OK(graph_add_node(m->g, op, "node", in, n_in, attrs, n_attrs, NULL, 1, &node));
  return graph_node(m->g, node)->out[0];
}

static ValueId constant(Model *m, DType dtype, int rank, const int64_t *dims, const void *data) {
  ValueId id;
  ASSERT_OK(graph_add_constant(m->g, "constant", dtype, shape_of(rank, dims), data, &id));
  return id;
}

static ValueId reshape(Model *m, ValueId v, int rank, const int64_t *dims) {
  Attr shape = attr_ints("shape", dims, rank);
  return add(m, OP_Reshape, &v, 1, &shape, 1);
}

static ValueId transpose(Model *m, ValueId v, int rank, const int64_t *perm) {
  Attr attr = attr_ints("perm", perm, rank);
  return add(m, OP_Transpose, &v, 1, &attr, 1);
}

static ValueId reduce(Model *m, OpKind op, ValueId v, int64_t axis) {
  Attr attrs[] = {attr_ints("axes", &axis, 1), attr_int("keepdims", 1)};
  return add(m, op, &v, 1, attrs, 2);
}

/* 0, 1, … samples - 1, along the first of `rank` axes. */
static ValueId numbers(Model *m, int rank) {
  int64_t each[16], dims[MAX_RANK] = {m->n, 1, 1, 1};
  for (int64_t i = 0; i < m->n; i++)
    each[i] = i;
  return constant(m, I64, rank, dims, each);
}

static ValueId sequence_first(Model *m) {
  ValueId t = transpose(m, m->x, 3, (int64_t[]){1, 0, 2});
  t = reshape(m, t, 2, (int64_t[]){LENGTH * m->n, WIDTH}); /* [L·N, D] */
  return add(m, OP_Exp, &t, 1, NULL, 0);
}

static ValueId merged_and_back(Model *m) {
  ValueId t = sequence_first(m);
  t = reshape(m, t, 3, (int64_t[]){LENGTH, m->n, WIDTH});
  return transpose(m, t, 3, (int64_t[]){1, 0, 2});
}

static ValueId last_step(Model *m) {
  int64_t axis = 1, start = 1, end = 2, step = 1;
  Attr attrs[] = {attr_ints("axes", &axis, 1), attr_ints("starts", &start, 1), attr_ints("ends", &end, 1),
                  attr_ints("steps", &step, 1)};
  return add(m, OP_Slice, &m->x, 1, attrs, 4);
}

static ValueId centred(Model *m) {
  return add(m, OP_Sub, (ValueId[]){m->x, reduce(m, OP_ReduceMean, m->x, 0)}, 2, NULL, 0);
}

static ValueId similarities(Model *m) {
  ValueId flat = reshape(m, m->x, 2, (int64_t[]){m->n, LENGTH * WIDTH});
  Attr turn = attr_int("transB", 1);
  return add(m, OP_MatMul, (ValueId[]){flat, flat}, 2, &turn, 1);
}

static ValueId times_their_number(Model *m) {
  float count = (float)m->n;
  return add(m, OP_Mul, (ValueId[]){m->x, constant(m, F32, 0, NULL, &count)}, 2, NULL, 0);
}

static ValueId plus_own_number(Model *m) {
  Attr to = attr_int("to", F32);
  ValueId own = numbers(m, 3);
  return add(m, OP_Add, (ValueId[]){m->x, add(m, OP_Cast, &own, 1, &to, 1)}, 2, NULL, 0);
}

static ValueId with_a_token(Model *m) {
  float token[WIDTH] = {1, 2, 3};
  ValueId t = constant(m, F32, 1, (int64_t[]){WIDTH}, token);
  Attr shape = attr_ints("shape", (int64_t[]){m->n, 1, WIDTH}, 3), axis = attr_int("axis", 1);
  t = add(m, OP_Expand, &t, 1, &shape, 1);
  return add(m, OP_Concat, (ValueId[]){t, m->x}, 2, &axis, 1);
}

/* The same numbers for each sample, samples first: [N·L, D]. */
static ValueId for_each(Model *m) {
  float table[LENGTH * WIDTH] = {1, 2, 3, 4, 5, 6};
  ValueId t = constant(m, F32, 2, (int64_t[]){LENGTH, WIDTH}, table);
  Attr shape = attr_ints("shape", (int64_t[]){m->n, LENGTH, WIDTH}, 3);
  t = add(m, OP_Expand, &t, 1, &shape, 1);
  return reshape(m, t, 2, (int64_t[]){m->n * LENGTH, WIDTH});
}

static ValueId plus_for_each(Model *m) {
  ValueId flat = reshape(m, m->x, 2, (int64_t[]){m->n * LENGTH, WIDTH});
  return add(m, OP_Add, (ValueId[]){for_each(m), flat}, 2, NULL, 0);
}

static ValueId plus_for_each_elsewhere(Model *m) {
  return add(m, OP_Add, (ValueId[]){sequence_first(m), for_each(m)}, 2, NULL, 0);
}

static ValueId for_each_elsewhere_plus(Model *m) {
  return add(m, OP_Add, (ValueId[]){for_each(m), sequence_first(m)}, 2, NULL, 0);
}

static ValueId times_for_each_elsewhere(Model *m) {
  ValueId t = reshape(m, sequence_first(m), 3, (int64_t[]){LENGTH * m->n, 1, WIDTH});
  ValueId each = reshape(m, for_each(m), 3, (int64_t[]){m->n * LENGTH, WIDTH, 1});
  return add(m, OP_MatMul, (ValueId[]){t, each}, 2, NULL, 0);
}

/* All rows are one, so that it does not matter which are a sample's. */
static ValueId plus_for_all(Model *m) {
  float row[WIDTH] = {1, 2, 3};
  ValueId t = constant(m, F32, 1, (int64_t[]){WIDTH}, row);
  Attr shape = attr_ints("shape", (int64_t[]){m->n * LENGTH, WIDTH}, 2);
  t = add(m, OP_Expand, &t, 1, &shape, 1);
  return add(m, OP_Add, (ValueId[]){t, sequence_first(m)}, 2, NULL, 0);
}

/* x[arange(N), own], as exporters write it. */
static ValueId picked_by_address(Model *m) {
  Attr to = attr_int("to", I64), axis = attr_int("axis", 1);
  ValueId own = reduce(m, OP_ReduceMax, reduce(m, OP_ReduceMax, m->x, 1), 2);
  own = reshape(m, add(m, OP_Cast, &own, 1, &to, 1), 2, (int64_t[]){m->n, 1});
  ValueId address = add(m, OP_Concat, (ValueId[]){numbers(m, 2), own}, 2, &axis, 1);
  return add(m, OP_GatherND, (ValueId[]){m->x, address}, 2, NULL, 0);
}

static ValueId picked_the_other_way(Model *m) {
  Attr to = attr_int("to", I64), axis = attr_int("axis", 1);
  ValueId own = reduce(m, OP_ReduceMax, reduce(m, OP_ReduceMax, m->x, 1), 2);
  own = reshape(m, add(m, OP_Cast, &own, 1, &to, 1), 2, (int64_t[]){m->n, 1});
  ValueId address = add(m, OP_Concat, (ValueId[]){own, numbers(m, 2)}, 2, &axis, 1);
  return add(m, OP_GatherND, (ValueId[]){m->x, address}, 2, NULL, 0);
}

/* Element 1 of every sample, by its place among all. */
static ValueId picked_by_place(Model *m) {
  int64_t places[16], size = LENGTH * WIDTH, axis0 = 0;
  for (int64_t i = 0; i < m->n; i++)
    places[i] = i * size + 1;
  Attr axis = attr_int("axis", axis0);
  ValueId flat = reshape(m, m->x, 1, &(int64_t){m->n * size});
  return add(m, OP_Gather, (ValueId[]){flat, constant(m, I64, 1, &m->n, places)}, 2, &axis, 1);
}

static ValueId attend(Model *m, ValueId q, ValueId k) {
  NodeId node;
  ASSERT_OK(graph_add_node(m->g, OP_Attention, "attention", (ValueId[]){q, k, k}, 3, NULL, 0, NULL, 3, &node));
  return graph_node(m->g, node)->out[0];
}

static ValueId attention(Model *m) {
  ValueId q = reshape(m, m->x, 4, (int64_t[]){m->n, 1, LENGTH, WIDTH});
  return attend(m, q, q);
}

static ValueId attention_of_heads(Model *m) { /* samples in the place of heads */
  ValueId q = reshape(m, m->x, 4, (int64_t[]){1, m->n, LENGTH, WIDTH});
  return attend(m, q, q);
}

static ValueId attention_to_shared_keys(Model *m) {
  float key[WIDTH] = {1, 2, 3};
  ValueId q = reshape(m, m->x, 4, (int64_t[]){1, m->n, LENGTH, WIDTH});
  return attend(m, q, constant(m, F32, 4, (int64_t[]){1, 1, 1, WIDTH}, key));
}

static ValueId attention_between_samples(Model *m) {
  ValueId q = reshape(m, m->x, 4, (int64_t[]){1, 1, m->n, LENGTH * WIDTH});
  return attend(m, q, q);
}

/* Q, K and V beside one another in rows of x. */
static ValueId attend_rows(Model *m, ValueId x) {
  NodeId node;
  int64_t places[3][2] = {{0, 1}, {1, 1}, {2, 1}};
  Attr attrs[] = {attr_int("heads", 1),
                  attr_int("groups", 1),
                  attr_int("size", 1),
                  attr_int("value_size", 1),
                  attr_ints("q_rows", places[0], 2),
                  attr_ints("k_rows", places[1], 2),
                  attr_ints("v_rows", places[2], 2),
                  attr_int("y_rows", 1)};
  ASSERT_OK(
      graph_add_node(m->g, OP_Attention, "attention", (ValueId[]){x, NO_VALUE, NO_VALUE}, 3, attrs, 8, NULL, 3, &node));
  return graph_node(m->g, node)->out[0];
}

static ValueId attention_in_rows(Model *m) {
  return attend_rows(m, m->x);
}

static ValueId attention_in_columns(Model *m) {
  ValueId out;
  ASSERT_OK(emit_transpose(m->g, m->x, (int64_t[]){1, 0, 2}, 3, &out));
  return attend_rows(m, out);
}

static ValueId pairs(Model *m) { /* 2 samples a row, where they are even */
  return m->n % 2 ? m->x : reshape(m, m->x, 2, (int64_t[]){m->n / 2, 2 * LENGTH * WIDTH});
}

typedef struct {
  const char *name;
  ValueId (*make)(Model *m);
  Batch batch;
} Case;

static const Case cases[] = {
    {"sequence first", sequence_first, {.kind = BATCH_AXIS, .axis = 0, .outer = LENGTH, .inner = 1}},
    {"merged and back", merged_and_back, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"last step", last_step, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"with a token", with_a_token, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"plus for each", plus_for_each, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = LENGTH}},
    {"plus for each elsewhere", plus_for_each_elsewhere, {.kind = BATCH_MIXED}},
    {"for each elsewhere plus", for_each_elsewhere_plus, {.kind = BATCH_MIXED}},
    {"times for each elsewhere", times_for_each_elsewhere, {.kind = BATCH_MIXED}},
    {"plus for all", plus_for_all, {.kind = BATCH_AXIS, .axis = 0, .outer = LENGTH, .inner = 1}},
    {"picked by address", picked_by_address, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"picked by place", picked_by_place, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"picked the other way", picked_the_other_way, {.kind = BATCH_MIXED}},
    {"attention", attention, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"attention of heads", attention_of_heads, {.kind = BATCH_AXIS, .axis = 1, .outer = 1, .inner = 1}},
    {"attention in rows", attention_in_rows, {.kind = BATCH_AXIS, .axis = 0, .outer = 1, .inner = 1}},
    {"attention in columns", attention_in_columns, {.kind = BATCH_MIXED}},
    {"attention to shared keys", attention_to_shared_keys, {.kind = BATCH_MIXED}},
    {"attention between samples", attention_between_samples, {.kind = BATCH_MIXED}},
    {"centred", centred, {.kind = BATCH_MIXED}},
    {"similarities", similarities, {.kind = BATCH_MIXED}},
    {"times their number", times_their_number, {.kind = BATCH_MIXED}},
    {"plus own number", plus_own_number, {.kind = BATCH_MIXED}},
};

static Model model_at(Arena *arena, int64_t n, ValueId (*make)(Model *m), ValueId *made) {
  Model m = {.n = n};
  int64_t dims[] = {n, LENGTH, WIDTH};
  ASSERT_OK(graph_create(arena, "m", &m.g));
  m.g->samples = n;
  ASSERT_OK(graph_add_value(m.g, "x", F32, shape_of(3, dims), ROLE_INPUT, &m.x));
  graph_value(m.g, m.x)->batch = batch_along(0);
  *made = make(&m);
  return m;
}

static void check(const char *name, const Graph *g, ValueId made, const Batch *wanted) {
  const Batch *found = &graph_value(g, made)->batch;
  if (found->kind != wanted->kind ||
      (found->kind == BATCH_AXIS &&
       (found->axis != wanted->axis || found->outer != wanted->outer || found->inner != wanted->inner)))
    FAIL_TEST("%s: kind %d, axis %d, outer %d, inner %d, by %s", name, (int)found->kind, found->axis, (int)found->outer,
              (int)found->inner, found->by ? found->by : "nothing");
  assert_true((found->kind == BATCH_MIXED) == (found->by != NULL));
}

/* At two counts, and transferred to 1 and 4 samples. */
static void samples_lie_where_they_do(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    ValueId made, twin, other;
    Model a = model_at(arena, 3, cases[i].make, &made), b = model_at(arena, 5, cases[i].make, &twin);
    ASSERT_OK(batch_prove(a.g, b.g));
    check(cases[i].name, a.g, made, &cases[i].batch);
    for (int64_t n = 1; n <= 4; n += 3) {
      Model m = model_at(arena, n, cases[i].make, &other);
      ASSERT_OK(batch_transfer(a.g, b.g, m.g));
      check(cases[i].name, m.g, other, &cases[i].batch);
    }
    arena_destroy(arena);
  }
}

/* A graph that is another at some number of samples says nothing about that number. */
static void another_graph_is_mixed(void **state) {
  (void)state;
  Arena *arena = arena_create();
  ValueId made, twin, other;
  Model a = model_at(arena, 3, pairs, &made), b = model_at(arena, 5, pairs, &twin);
  ASSERT_OK(batch_prove(a.g, b.g));
  Model m = model_at(arena, 4, pairs, &other);
  ASSERT_OK(batch_transfer(a.g, b.g, m.g));
  check("pairs", m.g, other, &(Batch){.kind = BATCH_MIXED});
  arena_destroy(arena);
}

/* Where the batch is fixed, the rules alone decide. */
static void a_fixed_batch_has_rules_alone(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bool number = cases[i].make == times_their_number; /* a number like any other */
    Batch wanted = number ? batch_along(0) : cases[i].batch;
    if (cases[i].make == plus_for_each) /* after the reshape nobody sees that they repeat */
      wanted = (Batch){.kind = BATCH_MIXED};
    Arena *arena = arena_create();
    ValueId made;
    Model a = model_at(arena, 4, cases[i].make, &made);
    ASSERT_OK(batch_prove(a.g, NULL));
    check(cases[i].name, a.g, made, &wanted);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(samples_lie_where_they_do),
      cmocka_unit_test(another_graph_is_mixed),
      cmocka_unit_test(a_fixed_batch_has_rules_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
