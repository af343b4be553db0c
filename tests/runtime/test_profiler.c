/* Measured seconds of nodes: a number for each kind, none where there is no time or the contents do not do. */
#include "runtime/job/profiler.h"

#include "executor_case.h"
#include "graph/op.h"

static Graph *products(Arena *arena, const int64_t *sizes, int n) {
  Graph *g;
  NodeId node;
  ASSERT_OK(graph_create(arena, "products", &g));
  for (int i = 0; i < n; i++) {
    Shape square = shape_of(2, (int64_t[]){sizes[i], sizes[i]});
    ValueId a, b;
    ASSERT_OK(graph_add_value(g, "a", F32, square, ROLE_INPUT, &a));
    ASSERT_OK(graph_add_value(g, "b", F32, square, ROLE_INPUT, &b));
    ASSERT_OK(graph_add_node(g, OP_MatMul, "product", (ValueId[]){a, b}, 2, NULL, 0, NULL, 1, &node));
  }
  case_set_workspaces(g, &backend_reference);
  return g;
}

static void nodes_of_a_kind_share_a_number(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = products(arena, (int64_t[]){8, 96, 8, 96}, 4);
  double seconds[4];
  ASSERT_OK(profile_nodes(g, &backend_reference, 0, 1, 10, seconds));
  assert_true(seconds[0] > 0 && seconds[0] == seconds[2]);
  assert_true(seconds[1] == seconds[3]);
  assert_true(seconds[1] > 10 * seconds[0]); /* 1728 times the work */
  arena_destroy(arena);
}

static void every_node_of_a_training_graph_is_measured(void **state) {
  (void)state;
  for (int device = 0; device < 2; device++)
    for (uint64_t seed = 0; seed < 4; seed++) {
      Backend backend = backend_reference;
      backend.is_host = !device;
      Arena *arena = arena_create();
      Graph *g = case_graph(arena, &backend, seed, 30);
      double *seconds;
      ASSERT_OK(ARENA_NEW(arena, seconds, g->n_nodes));
      ASSERT_OK(profile_nodes(g, &backend, 0, 1, 10, seconds));
      for (size_t i = 0; i < g->n_nodes; i++) {
        assert_true(seconds[i] >= 0);
        if (op_def(g->nodes[i]->op)->traits & OP_VIEW)
          assert_true(seconds[i] == 0);
      }
      arena_destroy(arena);
    }
}

static void no_time_leaves_all_unknown(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = products(arena, (int64_t[]){8, 16}, 2);
  double seconds[2] = {1, 1};
  ASSERT_OK(profile_nodes(g, &backend_reference, 0, 1, 0, seconds));
  assert_true(seconds[0] < 0 && seconds[1] < 0);
  arena_destroy(arena);
}

static Status fails(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                    void *state) {
  (void)stream, (void)node, (void)in, (void)out, (void)workspace, (void)state;
  return fail(E_MODEL, "never");
}

static void kernel_that_fails_is_unknown(void **state) {
  (void)state;
  const KernelDef *kernels[OP_COUNT];
  KernelDef product = *backend_reference.kernels[OP_MatMul];
  Backend backend = backend_reference;
  memcpy(kernels, backend.kernels, sizeof kernels);
  product.run = fails;
  kernels[OP_MatMul] = &product;
  backend.kernels = kernels;
  Arena *arena = arena_create();
  Graph *g = products(arena, (int64_t[]){8}, 1);
  double seconds;
  ASSERT_OK(profile_nodes(g, &backend, 0, 1, 1, &seconds));
  assert_true(seconds < 0);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nodes_of_a_kind_share_a_number),
      cmocka_unit_test(every_node_of_a_training_graph_is_measured),
      cmocka_unit_test(no_time_leaves_all_unknown),
      cmocka_unit_test(kernel_that_fails_is_unknown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
