/* Stages: what crosses the cuts and which nodes are B, against the definitions; contradictions are named. */
#include <stdlib.h>
#include <string.h>

#include "graph/stages.h"
#include "tests/random_graph.h"

static bool reads(const Node *node, ValueId v) {
  for (int k = 0; k < node->n_in; k++)
    if (node->in[k] == v)
      return true;
  return false;
}

static bool backward(const Node *node) {
  return node->phase == PHASE_B || node->phase == PHASE_W;
}

/* By the definition: made on one side, read on the other. */
static bool crosses(const Graph *g, ValueId v, int cut) {
  NodeId producer = graph_value(g, v)->producer;
  if (producer == NO_NODE || graph_node(g, producer)->phase == PHASE_UPDATE)
    return false;
  bool down = backward(graph_node(g, producer));
  if ((graph_node(g, producer)->stage > cut) != down)
    return false;
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase != PHASE_UPDATE && reads(g->nodes[i], v) && (g->nodes[i]->stage > cut) != down)
      return true;
  return false;
}

/* A gradient that leaves the node's stage downwards depends on the node. */
static bool feeds_gradient(const Graph *g, const Node *node) {
  for (int k = 0; k < node->n_out; k++) {
    ValueId v = node->out[k];
    if (v == NO_VALUE)
      continue;
    if (node->stage > 0 && crosses(g, v, node->stage - 1))
      return true;
    for (size_t i = node->id + 1; i < g->n_nodes; i++)
      if (backward(g->nodes[i]) && g->nodes[i]->stage == node->stage && reads(g->nodes[i], v) &&
          feeds_gradient(g, g->nodes[i]))
        return true;
  }
  return false;
}

static void check_cut(const Graph *g, const Stages *s, int c) {
  const Cut *cut = &s->cuts[c];
  int forward = 0, down = 0;
  size_t forward_bytes = 0, backward_bytes = 0;
  for (ValueId v = 0; v < g->n_values; v++) {
    if (!crosses(g, v, c))
      continue;
    if (backward(graph_node(g, graph_value(g, v)->producer))) {
      assert_true(down < cut->n_backward);
      assert_int_equal(cut->backward[down++], v);
      backward_bytes += graph_value_bytes(g, v);
    } else {
      assert_true(forward < cut->n_forward);
      assert_int_equal(cut->forward[forward++], v);
      forward_bytes += graph_value_bytes(g, v);
    }
  }
  assert_int_equal(forward, cut->n_forward);
  assert_int_equal(down, cut->n_backward);
  assert_int_equal(forward_bytes, cut->forward_bytes);
  assert_int_equal(backward_bytes, cut->backward_bytes);
}

static void check_stage(const Graph *g, const Stages *s, int stage) {
  const StageNodes *nodes = &s->stages[stage];
  int n[3] = {0}, both = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->phase == PHASE_UPDATE || node->stage != stage)
      continue;
    if (backward(node)) {
      assert_int_equal(node->phase, feeds_gradient(g, node) ? PHASE_B : PHASE_W);
      assert_int_equal(nodes->backward[both++], i);
    }
    assert_int_equal(nodes->nodes[node->phase][n[node->phase]++], i);
    for (int k = 0; k < node->n_in; k++)
      assert_true(node->in[k] == NO_VALUE || stage_uses(nodes, node->in[k]));
  }
  assert_int_equal(both, nodes->n_backward);
  for (int p = 0; p < 3; p++)
    assert_int_equal(n[p], nodes->n_nodes[p]);
  for (ValueId v = 0; v < g->n_values; v++) /* a parameter brings its accumulators and states along */
    if (graph_value(g, v)->parameter != NO_VALUE)
      assert_int_equal(stage_uses(nodes, v), stage_uses(nodes, graph_value(g, v)->parameter));
}

static void random_graphs_agree_with_the_definitions(void **state) {
  (void)state;
  int relayed = 0, frozen = 0, integers = 0, b_nodes = 0;
  for (uint64_t seed = 1; seed <= 60; seed++) {
    Arena *arena = arena_create();
    uint64_t random = seed;
    Graph *g = random_training(arena, seed, 4 + (int)(seed % 20));
    int *stage_of = calloc(g->n_nodes, sizeof *stage_of);
    for (int round = 0; round < 2; round++) { /* assigning again starts anew */
      Stages s;
      int n = random_cuts(g, &random, 1 + (int)random_below(&random, 5), stage_of);
      ASSERT_OK(stages_assign(g, arena, stage_of, n, &s));
      for (int c = 0; c < n - 1; c++) {
        check_cut(g, &s, c);
        frozen += s.cuts[c].n_backward == 0;
        for (int i = 0; i < s.cuts[c].n_forward; i++) {
          const Value *v = graph_value(g, s.cuts[c].forward[i]);
          integers += v->dtype == I64;
          relayed += graph_node(g, v->producer)->stage < c;
        }
      }
      for (int i = 0; i < n; i++) {
        check_stage(g, &s, i);
        b_nodes += s.stages[i].n_nodes[PHASE_B];
      }
    }
    free(stage_of);
    arena_destroy(arena);
  }
  assert_true(relayed > 0 && frozen > 0 && integers > 0 && b_nodes > 0);
}

/* x ─ MatMul(w) ─ a ─ Relu ─ b ─ MatMul(w) ─ c ─ Add(a) ─ y */
static Graph *residual(Arena *arena) {
  RandomGraph r = {0};
  Shape shape = shape_of(2, (int64_t[]){ROWS, WIDTH}), square = shape_of(2, (int64_t[]){WIDTH, WIDTH});
  ASSERT_OK(graph_create(arena, "residual", &r.g));
  ValueId x = random_value(&r, "x", shape, ROLE_INPUT), w = random_value(&r, "w", square, ROLE_PARAMETER);
  ValueId a = random_node(&r, OP_MatMul, (ValueId[]){x, w}, 2, NULL, 0, 1);
  ValueId b = random_node(&r, OP_Relu, &a, 1, NULL, 0, 1);
  ValueId c = random_node(&r, OP_MatMul, (ValueId[]){b, w}, 2, NULL, 0, 1);
  ValueId y = random_node(&r, OP_Add, (ValueId[]){c, a}, 2, NULL, 0, 1);
  ASSERT_OK(graph_add_input(r.g, x));
  ASSERT_OK(graph_add_output(r.g, y));
  return r.g;
}

static void differentiate(Graph *g) {
  size_t unreached;
  LossSpec loss = {.kind = LOSS_MSE,
                   .output = g->outputs[0],
                   .target_dtype = F32,
                   .target_shape = graph_value(g, g->outputs[0])->shape};
  ASSERT_OK(loss_append(g, &loss));
  ASSERT_OK(autodiff_append(g, &unreached));
}

static void a_residual_is_relayed_both_ways(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = residual(arena);
  differentiate(g);
  int *stage_of = arena_alloc(arena, g->n_nodes, sizeof *stage_of);
  memcpy(stage_of, (int[]){0, 1, 1, 2, 2}, 5 * sizeof *stage_of);
  Stages s;
  ASSERT_OK(stages_assign(g, arena, stage_of, 3, &s));
  size_t bytes = ROWS * WIDTH * 4;
  assert_int_equal(s.cuts[0].forward_bytes, bytes);     /* a */
  assert_int_equal(s.cuts[1].forward_bytes, 2 * bytes); /* a, relayed, and c */
  assert_int_equal(s.cuts[1].backward_bytes, bytes);    /* the cotangent of y serves both summands */
  assert_int_equal(s.cuts[0].backward_bytes, bytes);    /* their sum */
  assert_int_equal(s.stages[0].n_nodes[PHASE_B], 0);
  assert_int_equal(s.stages[1].n_nodes[PHASE_W], 2); /* dw and its Accumulate */
  arena_destroy(arena);
}

static void inference_graphs_have_forward_nodes_only(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = residual(arena);
  Stages s;
  ASSERT_OK(stages_assign(g, arena, (int[]){0, 0, 1, 1}, 2, &s));
  assert_int_equal(s.stages[0].n_nodes[PHASE_F], 2);
  assert_int_equal(s.stages[1].n_nodes[PHASE_F], 2);
  assert_int_equal(s.stages[1].n_backward, 0);
  assert_int_equal(s.cuts[0].n_forward, 2);
  assert_int_equal(s.cuts[0].n_backward, 0);
  assert_true(stage_uses(&s.stages[0], 0) && !stage_uses(&s.stages[1], 0)); /* x */
  assert_true(stage_uses(&s.stages[0], 1) && stage_uses(&s.stages[1], 1));  /* w */
  arena_destroy(arena);
}

static void contradictions_are_named(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = residual(arena);
  Stages s;
  ASSERT_FAILS(E_USAGE,
               "node 'n1' (Relu) in stage 0 reads the value 'n0:MatMul.2' of node 'n0' (MatMul) in stage 1: values go "
               "up only",
               stages_assign(g, arena, (int[]){1, 0, 1, 1}, 2, &s));
  ASSERT_FAILS(E_USAGE, "node 'n3' (Add): stage 2 is outside the 2 stages",
               stages_assign(g, arena, (int[]){0, 0, 1, 2}, 2, &s));
  differentiate(g);
  int *stage_of = arena_alloc(arena, g->n_nodes, sizeof *stage_of);
  ASSERT_FAILS(E_USAGE, "the loss, node 'loss' (MeanSquaredError), lies in stage 0, not in the last, 1",
               stages_assign(g, arena, stage_of, 2, &s));
  g->groups[0].nodes = (NodeId[]){0, 2}; /* both uses of w */
  g->groups[0].n_nodes = 2;
  stage_of[2] = stage_of[3] = stage_of[4] = 1;
  ASSERT_FAILS(E_USAGE,
               "parameter 'w1': its uses by node 'n0' (MatMul) in stage 0 and node 'n2' (MatMul) in stage 1 share one "
               "accumulator and cannot be separated",
               stages_assign(g, arena, stage_of, 2, &s));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_graphs_agree_with_the_definitions),
      cmocka_unit_test(a_residual_is_relayed_both_ways),
      cmocka_unit_test(inference_graphs_have_forward_nodes_only),
      cmocka_unit_test(contradictions_are_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
