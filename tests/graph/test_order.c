/* The order for cuts: what moves, what must not, and that graphs stay whole. */
#include <string.h>

#include "graph/order.h"
#include "tests/random_graph.h"

static int position(const Graph *g, const char *name) {
  for (size_t i = 0; i < g->n_nodes; i++)
    if (strcmp(g->nodes[i]->name, name) == 0)
      return (int)i;
  FAIL_TEST("no node '%s'", name);
  return -1;
}

/* Bytes over all cuts. */
static size_t carried(const Graph *g) {
  size_t bytes = 0;
  for (ValueId v = 0; v < g->n_values; v++) {
    NodeId last = graph_value(g, v)->producer;
    if (last == NO_NODE)
      continue;
    for (size_t i = 0; i < g->n_nodes; i++)
      for (int k = 0; k < g->nodes[i]->n_in; k++)
        last = g->nodes[i]->in[k] == v && i > last ? (NodeId)i : last;
    bytes += (last - graph_value(g, v)->producer) * graph_value_bytes(g, v);
  }
  return bytes;
}

static bool is_reached(const Graph *g, const Node *node) {
  for (int k = 0; k < node->n_in; k++) {
    ValueId v = node->in[k];
    NodeId p = v == NO_VALUE ? NO_NODE : graph_value(g, v)->producer;
    if (v != NO_VALUE && (graph_value(g, v)->role == ROLE_PARAMETER || (p != NO_NODE && is_reached(g, g->nodes[p]))))
      return true;
  }
  return false;
}

static void graphs_stay_whole(void **state) {
  (void)state;
  size_t before_all = 0, after_all = 0;
  for (uint64_t seed = 1; seed <= 60; seed++) {
    Arena *arena = arena_create();
    Graph *g = random_forward(arena, seed, 4 + (int)(seed % 30)).g;
    const char *reached[200];
    int n_reached = 0, at = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
      if (is_reached(g, g->nodes[i]))
        reached[n_reached++] = g->nodes[i]->name;
    size_t n = g->n_nodes;
    before_all += carried(g);
    ASSERT_OK(graph_order_for_cuts(g));
    after_all += carried(g);
    assert_int_equal(g->n_nodes, n);
    for (size_t i = 0; i < n; i++) {
      const Node *node = g->nodes[i];
      assert_int_equal(node->id, i);
      assert_int_equal(node->origin, i);
      for (int k = 0; k < node->n_out; k++)
        assert_int_equal(graph_value(g, node->out[k])->producer, i);
      for (int k = 0; k < node->n_in; k++)
        assert_true(graph_value(g, node->in[k])->producer == NO_NODE || graph_value(g, node->in[k])->producer < i);
      if (is_reached(g, node))
        assert_string_equal(node->name, reached[at++]);
    }
    arena_destroy(arena);
  }
  assert_true(after_all < before_all);
}

/* A mask made at the beginning from an input, in two steps, used at the end; a position made of a big value. */
static void masks_move_to_their_use(void **state) {
  (void)state;
  Arena *arena = arena_create();
  RandomGraph r = {0};
  Shape shape = shape_of(2, (int64_t[]){ROWS, WIDTH}), square = shape_of(2, (int64_t[]){WIDTH, WIDTH});
  ASSERT_OK(graph_create(arena, "mask", &r.g));
  ValueId x = random_value(&r, "x", shape, ROLE_INPUT), z = random_value(&r, "z", shape, ROLE_INPUT);
  Attr wide = attr_int("to", F64), back = attr_int("to", F32),
       axes[] = {attr_ints("axes", (int64_t[]){0, 1}, 2), attr_int("keepdims", 1)};
  ValueId a = random_node(&r, OP_Cast, &z, 1, &wide, 1, 1);            /* n0: free, moves */
  ValueId mask = random_node(&r, OP_Cast, &a, 1, &back, 1, 1);         /* n1: moves */
  ValueId frozen = random_node(&r, OP_Tanh, &x, 1, NULL, 0, 1);        /* n2: used at once */
  ValueId sum = random_node(&r, OP_ReduceSum, &frozen, 1, axes, 2, 1); /* n3: small, of a shared value: stays */
  ValueId y = random_node(&r, OP_MatMul, (ValueId[]){frozen, random_value(&r, "w", square, ROLE_PARAMETER)}, 2, NULL, 0,
                          1);                                       /* n4 */
  y = random_node(&r, OP_Relu, &y, 1, NULL, 0, 1);                  /* n5 */
  y = random_node(&r, OP_Mul, (ValueId[]){y, mask}, 2, NULL, 0, 1); /* n6 */
  y = random_node(&r, OP_Add, (ValueId[]){y, sum}, 2, NULL, 0, 1);  /* n7 */
  ASSERT_OK(graph_add_output(r.g, y));
  ASSERT_OK(graph_order_for_cuts(r.g));
  const char *expected[] = {"n2", "n3", "n4", "n5", "n0", "n1", "n6", "n7"};
  for (int i = 0; i < 8; i++)
    assert_int_equal(position(r.g, expected[i]), i);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(graphs_stay_whole),
      cmocka_unit_test(masks_move_to_their_use),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
