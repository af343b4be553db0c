/* Memory of single stages, in numbers: what shares bytes, what becomes a block, what is persistent. That nothing
 * overlaps in whole plans is verified in partitioner/test_plan_memory. */
#include <string.h>

#include "graph/memory.h"
#include "graph/rounded.h"
#include "tests/random_graph.h"

static const size_t UNIT = MEMORY_ALIGNMENT; /* [3,5] floats are 60 bytes: one unit */

static Shape square(void) {
  return shape_of(2, (int64_t[]){ROWS, WIDTH});
}

static StageMemory plan_single(Arena *arena, Graph *g, bool joined, Stages *stages) {
  StageMemory memory;
  int *stage_of = arena_alloc(arena, g->n_nodes, sizeof *stage_of);
  StageSetting setting = {.joined = joined};
  ASSERT_OK(stages_assign(g, arena, stage_of, 1, stages));
  ASSERT_OK(memory_plan_stage(arena, g, stages, &setting, &memory));
  return memory;
}

/* x → Tanh → a → Tanh → … */
static RandomGraph chain(Arena *arena, int n) {
  RandomGraph r = {0};
  ASSERT_OK(graph_create(arena, "chain", &r.g));
  ValueId v = random_value(&r, "x", square(), ROLE_INPUT);
  ASSERT_OK(graph_add_input(r.g, v));
  for (int i = 0; i < n; i++)
    v = random_node(&r, OP_Tanh, &v, 1, NULL, 0, 1);
  ASSERT_OK(graph_add_output(r.g, v));
  return r;
}

static void a_chain_lives_in_two_places(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Stages stages;
  StageMemory m = plan_single(arena, chain(arena, 10).g, false, &stages);
  assert_int_equal(m.n_blocks, 0);
  assert_int_equal(m.scratch_bytes, 2 * UNIT);
  arena_destroy(arena);
}

/* Two results of one node take the places of two inputs that die there, never of one. */
static void two_results_take_two_places(void **state) {
  (void)state;
  for (int alike = 0; alike < 2; alike++) {
    Arena *arena = arena_create();
    RandomGraph r = chain(arena, 1);
    Stages stages;
    NodeId grad;
    ValueId x = r.g->outputs[0], a = random_node(&r, OP_Tanh, &x, 1, NULL, 0, 1);
    ValueId b = alike ? a : random_node(&r, OP_Exp, &x, 1, NULL, 0, 1);
    ValueId d = alike ? a : random_node(&r, OP_Sigmoid, &x, 1, NULL, 0, 1);
    r.g->n_outputs = 0;
    ASSERT_OK(graph_add_node(r.g, OP_SwiGLUGrad, "grad", (ValueId[]){d, a, b}, 3, NULL, 0, NULL, 2, &grad));
    const ValueId *out = graph_node(r.g, grad)->out;
    ASSERT_OK(graph_add_output(r.g, random_node(&r, OP_Add, out, 2, NULL, 0, 1)));
    StageMemory m = plan_single(arena, r.g, false, &stages);
    assert_int_equal(m.scratch_bytes, (alike ? 2 : 3) * UNIT);
    assert_int_equal(memory_place(&m, out[0]).offset, memory_place(&m, d).offset);
    assert_int_not_equal(memory_place(&m, out[1]).offset, memory_place(&m, out[0]).offset);
    if (!alike)
      assert_int_equal(memory_place(&m, out[1]).offset, memory_place(&m, a).offset);
    arena_destroy(arena);
  }
}

static void workspaces_share_what_is_free(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Stages stages;
  Graph *g = chain(arena, 10).g;
  g->nodes[3]->workspace_bytes[0] = 5 * UNIT - 7;
  g->nodes[7]->workspace_bytes[0] = 3 * UNIT;
  StageMemory m = plan_single(arena, g, false, &stages);
  assert_int_equal(m.scratch_bytes, 6 * UNIT);
  assert_int_equal(memory_workspace(&m, 3), memory_workspace(&m, 7));
  arena_destroy(arena);
}

static bool lie_alike(const StageMemory *m, ValueId v, ValueId w) {
  Place a = memory_place(m, v), b = memory_place(m, w);
  return a.kind == b.kind && a.block == b.block && a.offset == b.offset;
}

static void views_lie_where_their_root_does(void **state) {
  (void)state;
  Arena *arena = arena_create();
  RandomGraph r = {0};
  Stages stages;
  Attr flat = attr_ints("shape", (int64_t[]){ROWS * WIDTH}, 1);
  ASSERT_OK(graph_create(arena, "views", &r.g));
  ValueId x = random_value(&r, "x", square(), ROLE_INPUT), p = random_value(&r, "p", square(), ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(r.g, x));
  ValueId a = random_node(&r, OP_Reshape, &x, 1, &flat, 1, 1), b = random_node(&r, OP_Reshape, &a, 1, &flat, 1, 1);
  ValueId q = random_node(&r, OP_Reshape, &p, 1, &flat, 1, 1);
  ValueId y = random_node(&r, OP_Add, (ValueId[]){b, q}, 2, NULL, 0, 1);
  ASSERT_OK(graph_add_output(r.g, y));
  StageMemory m = plan_single(arena, r.g, false, &stages);
  assert_int_equal(m.scratch_bytes, 2 * UNIT);
  assert_true(lie_alike(&m, a, x));
  assert_true(lie_alike(&m, b, x));
  assert_int_equal(memory_place(&m, q).kind, PLACE_PERSISTENT);
  RankMemory rank;
  bool here = true;
  int slots[1][MAX_BLOCKS] = {{0}};
  ASSERT_OK(memory_plan_rank(arena, r.g, &stages, &m, 0, &here, slots, &rank));
  assert_int_equal(rank.persistent_bytes, UNIT);
  assert_int_equal(memory_persistent_offset(&rank, q), memory_persistent_offset(&rank, p));
  arena_destroy(arena);
}

static void joined_backwards_keep_no_gradients(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Stages stages;
  for (uint64_t seed = 1; seed < 20; seed++) {
    StageMemory m = plan_single(arena, random_training(arena, seed, 10), true, &stages);
    assert_true(m.n_blocks <= 1);
    for (int b = 0; b < m.n_blocks; b++)
      assert_true(m.blocks[b].born == POINT_F && m.blocks[b].dies == POINT_W && !m.blocks[b].sent);
  }
  arena_destroy(arena);
}

/* Two stages that tie a parameter: on ranks of their own both hold it, its states and the other's accumulator. */
static void a_tied_parameter_lies_on_both_ranks(void **state) {
  (void)state;
  Arena *arena = arena_create();
  RandomGraph r = {0};
  size_t unreached;
  ASSERT_OK(graph_create(arena, "tied", &r.g));
  Shape weight = shape_of(2, (int64_t[]){WIDTH, WIDTH});
  ValueId x = random_value(&r, "x", square(), ROLE_INPUT), w = random_value(&r, "w", weight, ROLE_PARAMETER);
  ValueId own = random_value(&r, "own", weight, ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(r.g, x));
  ValueId a = random_node(&r, OP_MatMul, (ValueId[]){x, w}, 2, NULL, 0, 1);
  ValueId b = random_node(&r, OP_MatMul, (ValueId[]){a, own}, 2, NULL, 0, 1);
  ValueId y = random_node(&r, OP_MatMul, (ValueId[]){b, w}, 2, NULL, 0, 1);
  ASSERT_OK(graph_add_output(r.g, y));
  LossSpec loss = {.kind = LOSS_MSE, .output = y, .target_dtype = F32, .target_shape = square()};
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_ADAM);
  ASSERT_OK(loss_append(r.g, &loss));
  ASSERT_OK(autodiff_append(r.g, &unreached));
  ASSERT_OK(optimizer_append(r.g, &optimizer));
  int *stage_of = arena_alloc(arena, r.g->n_nodes, sizeof *stage_of);
  stage_of[1] = stage_of[2] = stage_of[3] = 1;
  Stages stages;
  StageMemory m[2];
  RankMemory rank[2];
  ASSERT_OK(stages_assign(r.g, arena, stage_of, 2, &stages));
  for (int i = 0; i < 2; i++) {
    StageSetting setting = {.stage = i};
    ASSERT_OK(memory_plan_stage(arena, r.g, &stages, &setting, &m[i]));
  }
  for (int i = 0; i < 2; i++) {
    bool here[2] = {i == 0, i == 1};
    int slots[2][MAX_BLOCKS] = {{0}};
    ASSERT_OK(memory_plan_rank(arena, r.g, &stages, m, i, here, slots, &rank[i]));
  }
  assert_int_equal(rank[0].parameter_bytes, 2 * UNIT); /* w is 100 bytes: two units */
  assert_int_equal(rank[0].gradient_bytes, 4 * UNIT);
  assert_int_equal(rank[0].state_bytes, 4 * UNIT);
  assert_int_equal(rank[1].parameter_bytes, 4 * UNIT);
  assert_int_equal(rank[1].gradient_bytes, 6 * UNIT);
  assert_int_equal(rank[1].state_bytes, 8 * UNIT);
  for (size_t i = 0; i < r.g->n_nodes; i++) /* of what only the second rank updates */
    if (r.g->nodes[i]->op == OP_AdamUpdate && r.g->nodes[i]->in[0] == own)
      r.g->nodes[i]->workspace_bytes[0] = 50 * UNIT - 1;
  for (int i = 0; i < 2; i++) {
    bool here[2] = {i == 0, i == 1};
    int slots[2][MAX_BLOCKS] = {{0}};
    ASSERT_OK(memory_plan_rank(arena, r.g, &stages, m, i, here, slots, &rank[i]));
    assert_true(i == 0 ? rank[0].scratch_bytes < 50 * UNIT : rank[1].scratch_bytes == 50 * UNIT);
  }
  int updates[2] = {0};
  for (size_t i = 0; i < r.g->n_nodes; i++)
    for (int k = 0; k < 2; k++)
      updates[k] += r.g->nodes[i]->op == OP_AdamUpdate && memory_updates(&rank[k], r.g, r.g->nodes[i]);
  assert_int_equal(updates[0], 1);
  assert_int_equal(updates[1], 2);
  arena_destroy(arena);
}

/* A node takes what it needs where it runs, whatever it would need elsewhere. */
static void workspaces_are_those_of_the_ranks_backend(void **state) {
  (void)state;
  static const uint8_t backends[] = {0, 1, 0};
  Arena *arena = arena_create();
  Graph *g = chain(arena, 3).g;
  Stages stages;
  StageMemory m = plan_single(arena, g, false, &stages);
  size_t without = m.scratch_bytes;
  g->backend_of_rank = backends;
  g->nodes[1]->workspace_bytes[0] = UNIT;
  g->nodes[1]->workspace_bytes[1] = 100 * UNIT;
  assert_int_equal(node_workspace_bytes(g, g->nodes[1], -1), 100 * UNIT);
  for (int rank = 0; rank < 3; rank++) {
    StageSetting setting = {.rank = rank};
    ASSERT_OK(memory_plan_stage(arena, g, &stages, &setting, &m));
    assert_true(rank == 1 ? m.scratch_bytes >= 100 * UNIT : m.scratch_bytes <= without + UNIT);
  }
  arena_destroy(arena);
}

/* A weight that is multiplied as bfloat16 numbers is kept rounded, too, where the rank's backend wants it so and a
 * product of its stages reads it: not where it is only looked up. */
static void weights_are_kept_rounded(void **state) {
  (void)state;
  static const uint8_t backends[] = {0, 1};
  Arena *arena = arena_create();
  RandomGraph r = {0};
  Stages stages;
  StageMemory m[2];
  RankMemory rank[2];
  Attr across = attr_int("transB", 1), flat = attr_ints("shape", (int64_t[]){ROWS, WIDTH}, 2);
  ASSERT_OK(graph_create(arena, "rounded", &r.g));
  Graph *g = r.g;
  ValueId x = random_value(&r, "x", square(), ROLE_INPUT), w = random_value(&r, "w", square(), ROLE_PARAMETER);
  ValueId seen = random_value(&r, "seen", square(), ROLE_PARAMETER),
          own = random_value(&r, "own", square(), ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(g, x));
  ValueId y = random_node(&r, OP_Add, (ValueId[]){x, w}, 2, NULL, 0, 1);
  y = random_node(&r, OP_Add, (ValueId[]){y, own}, 2, NULL, 0, 1);
  size_t first = g->n_nodes;
  ValueId view = random_node(&r, OP_Reshape, &seen, 1, &flat, 1, 1);
  ValueId a = random_node(&r, OP_MatMul, (ValueId[]){y, w}, 2, &across, 1, 1);
  ValueId b = random_node(&r, OP_MatMul, (ValueId[]){y, view}, 2, &across, 1, 1);
  ASSERT_OK(graph_add_output(g, random_node(&r, OP_Add, (ValueId[]){a, b}, 2, NULL, 0, 1)));
  int stage_of[8] = {0};
  for (size_t i = 0; i < g->n_nodes; i++) {
    stage_of[i] = i >= first;
    g->nodes[i]->precision = PRECISION_BF16;
  }
  g->backend_of_rank = backends;
  graph_keep_rounded(g, 1);
  assert_true(graph_is_rounded(g, w, 1) && !graph_is_rounded(g, w, 0) && graph_is_rounded(g, seen, 1) &&
              graph_is_rounded(g, view, 1) && !graph_is_rounded(g, own, 1));
  ASSERT_OK(stages_assign(g, arena, stage_of, 2, &stages));
  for (int i = 0; i < 2; i++) {
    StageSetting setting = {.stage = i, .rank = i};
    ASSERT_OK(memory_plan_stage(arena, g, &stages, &setting, &m[i]));
  }
  for (int swapped = 0; swapped < 2; swapped++) /* the rank with the products has the backend that keeps, or not */
    for (int i = 0; i < 2; i++) {
      bool here[2] = {i == swapped, i != swapped};
      int slots[2][MAX_BLOCKS] = {{0}};
      bool keeps = i == 1 && !swapped;
      ASSERT_OK(memory_plan_rank(arena, g, &stages, m, i, here, slots, &rank[i]));
      assert_true(memory_is_rounded(&rank[i], w) == keeps && memory_is_rounded(&rank[i], seen) == keeps &&
                  !memory_is_rounded(&rank[i], own) && !memory_is_rounded(&rank[i], view));
      assert_int_equal(rank[i].parameter_bytes, (keeps ? 4 : 2) * UNIT);
      assert_int_equal(rank[i].stored_bytes, rank[i].parameter_bytes);
    }
  arena_destroy(arena);
}

static void sizes_that_overflow_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = chain(arena, 3).g;
  Stages stages;
  StageMemory m = plan_single(arena, g, false, &stages);
  StageSetting setting = {0};
  g->nodes[1]->workspace_bytes[0] = SIZE_MAX - 3;
  ASSERT_FAILS(E_LIMIT, "memory of stage 0: sizes overflow", memory_plan_stage(arena, g, &stages, &setting, &m));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_chain_lives_in_two_places),
      cmocka_unit_test(two_results_take_two_places),
      cmocka_unit_test(workspaces_share_what_is_free),
      cmocka_unit_test(views_lie_where_their_root_does),
      cmocka_unit_test(joined_backwards_keep_no_gradients),
      cmocka_unit_test(workspaces_are_those_of_the_ranks_backend),
      cmocka_unit_test(a_tied_parameter_lies_on_both_ranks),
      cmocka_unit_test(weights_are_kept_rounded),
      cmocka_unit_test(sizes_that_overflow_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
