/* What measured costs are made of: kinds of nodes, the line through times of messages, what is kept on disk. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "executor_case.h"
#include "graph/op.h"
#include "runtime/costs/cache.h"
#include "runtime/costs/internal.h"

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
  return g;
}

static void nodes_that_are_alike_are_one_kind(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = products(arena, (int64_t[]){8, 96, 8, 96, 12}, 5);
  Kinds kinds, again;
  ASSERT_OK(kinds_find(arena, g, &kinds));
  assert_int_equal(kinds.n, 3);
  assert_int_equal(kinds.of_node[0], kinds.of_node[2]);
  assert_int_equal(kinds.of_node[1], kinds.of_node[3]);
  assert_int_not_equal(kinds.of_node[0], kinds.of_node[1]);
  assert_int_not_equal(kinds.of_node[0], kinds.of_node[4]);
  g->nodes[2]->precision = PRECISION_BF16;
  ASSERT_OK(kinds_find(arena, g, &again));
  assert_int_equal(again.n, 4);
  assert_true(again.keys[0].high == kinds.keys[0].high && again.keys[0].low == kinds.keys[0].low);
  arena_destroy(arena);
}

static void kinds_of_a_training_graph_agree_in_all_that_a_kernel_sees(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = case_graph(arena, &backend_reference, 3, 30);
  Kinds kinds;
  ASSERT_OK(kinds_find(arena, g, &kinds));
  for (size_t i = 0; i < g->n_nodes; i++) {
    if (op_def(g->nodes[i]->op)->traits & OP_VIEW) {
      assert_int_equal(kinds.of_node[i], -1);
      continue;
    }
    const Node *node = g->nodes[i], *first = graph_node(g, kinds.first[kinds.of_node[i]]);
    assert_int_equal(node->op, first->op);
    assert_int_equal(node->n_attrs, first->n_attrs);
    for (int k = 0; k < node->n_in; k++)
      assert_true(node->in[k] == NO_VALUE ||
                  shape_equal(graph_value(g, node->in[k])->shape, graph_value(g, first->in[k])->shape));
  }
  arena_destroy(arena);
}

static void a_line_through_times_of_messages(void **state) {
  (void)state;
  LinkSample samples[LINK_SAMPLES];
  for (int i = 0; i < LINK_SAMPLES; i++) {
    samples[i].bytes = (size_t)8 << (4 * i);
    samples[i].up_seconds = samples[i].down_seconds = 3e-6 + (double)samples[i].bytes / 5e9;
  }
  LinkSpec link = fit_link(samples, LINK_SAMPLES);
  assert_true(fabs(link.latency_seconds - 3e-6) < 1e-9);
  assert_true(fabs(link.bytes_per_second / 5e9 - 1) < 1e-3);
  for (int i = 0; i < LINK_SAMPLES; i++)
    samples[i].up_seconds = samples[i].down_seconds = 1e-6; /* however large */
  link = fit_link(samples, LINK_SAMPLES);
  assert_true(fabs(link.latency_seconds - 1e-6) < 1e-9 && link.bytes_per_second == 0);
}

static char folder[64];

static void write_over(const char *text) {
  char command[256];
  snprintf(command, sizeof command, "for f in %s/onnxpipe/*.json; do printf '%%s' '%s' > $f; done", folder, text);
  assert_int_equal(system(command), 0);
}

static void what_was_measured_is_kept(void **state) {
  (void)state;
  strcpy(folder, "/tmp/onnxpipe-costs-XXXXXX");
  assert_non_null(mkdtemp(folder));
  setenv("XDG_CACHE_HOME", folder, 1);
  Arena *arena = arena_create();
  Graph *g = products(arena, (int64_t[]){8, 96, 12}, 3);
  Kinds kinds;
  Cached cached, read;
  ASSERT_OK(kinds_find(arena, g, &kinds));
  ASSERT_OK(cache_read(arena, "one machine", &kinds, &cached));
  for (int k = 0; k < 3; k++)
    assert_true(cached.kind_seconds[k] < 0);
  cached.kind_seconds[0] = 0.5;
  cache_write("one machine", &kinds, &cached);
  cached.kind_seconds[0] = -1; /* what is not known leaves what was there */
  cached.kind_seconds[2] = 0.25;
  cached.step_seconds = 1e-5;
  cached.n_links = LINK_SAMPLES;
  for (int i = 0; i < LINK_SAMPLES; i++)
    cached.links[i] = (LinkSample){8, 1e-6, 2e-6};
  cache_write("one machine", &kinds, &cached);
  ASSERT_OK(cache_read(arena, "one machine", &kinds, &read));
  assert_true(read.kind_seconds[0] == 0.5 && read.kind_seconds[1] < 0 && read.kind_seconds[2] == 0.25);
  assert_true(read.action_seconds < 0 && read.step_seconds == 1e-5);
  assert_int_equal(read.n_links, LINK_SAMPLES);
  assert_true(read.links[3].down_seconds == 2e-6);
  ASSERT_OK(cache_read(arena, "another machine", &kinds, &read));
  assert_true(read.kind_seconds[0] < 0 && read.n_links == 0);
  const char *const damaged[] = {"", "{", "[]", "{\"format\": \"onnxpipe costs 1\", \"about\": \"one machine\"}",
                                 "{\"format\": 1, \"about\": \"one machine\", \"kinds\": {}}"};
  for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
    write_over(damaged[i]);
    ASSERT_OK(cache_read(arena, "one machine", &kinds, &read));
    assert_true(read.kind_seconds[0] < 0);
  }
  cached.kind_seconds[0] = 0.75; /* a damaged file is replaced */
  cache_write("one machine", &kinds, &cached);
  ASSERT_OK(cache_read(arena, "one machine", &kinds, &read));
  assert_true(read.kind_seconds[0] == 0.75);
  cache_forget("one machine");
  ASSERT_OK(cache_read(arena, "one machine", &kinds, &read));
  assert_true(read.kind_seconds[0] < 0);
  setenv("XDG_CACHE_HOME", "/proc/nowhere", 1); /* where nothing can be written nobody minds */
  cache_write("one machine", &kinds, &cached);
  ASSERT_OK(cache_read(arena, "one machine", &kinds, &read));
  assert_true(read.kind_seconds[0] < 0);
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", folder);
  assert_int_equal(system(command), 0);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nodes_that_are_alike_are_one_kind),
      cmocka_unit_test(kinds_of_a_training_graph_agree_in_all_that_a_kernel_sees),
      cmocka_unit_test(a_line_through_times_of_messages),
      cmocka_unit_test(what_was_measured_is_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
