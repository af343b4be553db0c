/* The attention pass: each way of spelling it, as the smallest graph, becomes one Attention that computes the same; and
 * what is something else stays. */
#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"
#include "tests/random_graph.h"

enum { B = 2, H = 4, G = 2, T = 5, L = 6, D = 3, MOST_BYTES = 4096 };

/* A graph that is being spelled: q [B,H,T,D], k and v [B,H,L,D], inputs. */
typedef struct {
  Graph *g;
  ValueId q, k, v;
} Net;

static ValueId named(Net *n, const char *name, DType dtype, Shape shape, Role role) {
  ValueId id;
  ASSERT_OK(graph_add_value(n->g, name, dtype, shape, role, &id));
  if (role == ROLE_INPUT)
    ASSERT_OK(graph_add_input(n->g, id));
  return id;
}

static ValueId input(Net *n, const char *name, Shape shape) {
  return named(n, name, F32, shape, ROLE_INPUT);
}

static ValueId node(Net *n, OpKind op, const ValueId *in, int n_in, const Attr *attrs, int n_attrs) {
  ValueId out;
  ASSERT_OK(graph_emit(n->g, op, in, n_in, attrs, n_attrs, &out));
  return out;
}

static ValueId two(Net *n, OpKind op, ValueId a, ValueId b) {
  return node(n, op, (ValueId[]){a, b}, 2, NULL, 0);
}

static ValueId where(Net *n, ValueId condition, ValueId a, ValueId b) {
  return node(n, OP_Where, (ValueId[]){condition, a, b}, 3, NULL, 0);
}

static ValueId number(Net *n, double x) {
  ValueId id;
  float value = (float)x;
  ASSERT_OK(graph_add_constant(n->g, "number", F32, (Shape){0}, &value, &id));
  return id;
}

static ValueId reshape(Net *n, ValueId a, int rank, const int64_t *dims) {
  Attr shape = attr_ints("shape", dims, rank);
  return node(n, OP_Reshape, &a, 1, &shape, 1);
}
#define RESHAPE(n, a, ...)                                                                                             \
  reshape(n, a, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

static ValueId expand(Net *n, ValueId a, int rank, const int64_t *dims) {
  Attr shape = attr_ints("shape", dims, rank);
  return node(n, OP_Expand, &a, 1, &shape, 1);
}

static ValueId turn(Net *n, ValueId a, const int64_t *perm, int rank) {
  ValueId out;
  ASSERT_OK(emit_transpose(n->g, a, perm, rank, &out));
  return out;
}

static ValueId product(Net *n, ValueId a, ValueId b, bool turned) {
  ValueId out;
  ASSERT_OK(emit_matmul(n->g, a, false, b, turned, &out));
  return out;
}

static ValueId softmax(Net *n, ValueId a) {
  Attr axis = attr_int("axis", graph_value(n->g, a)->shape.rank - 1);
  return node(n, OP_Softmax, &a, 1, &axis, 1);
}

static ValueId scores(Net *n) {
  return two(n, OP_Mul, product(n, n->q, n->k, true), number(n, 0.5));
}

static ValueId weigh(Net *n, ValueId s) {
  return product(n, softmax(n, s), n->v, false);
}

/* [1,1,T,L] where the query at t sees the keys t - left … t + right, `seen` there and `hidden` elsewhere. */
static ValueId band(Net *n, DType dtype, int left, int right, float seen, float hidden) {
  float x[T * L];
  uint8_t b[T * L];
  ValueId id;
  for (int t = 0; t < T; t++)
    for (int j = 0; j < L; j++) {
      bool sees = j >= t - left && j <= t + right;
      x[t * L + j] = sees ? seen : hidden;
      b[t * L + j] = sees == (seen > hidden);
    }
  ASSERT_OK(graph_add_constant(n->g, "band", dtype, (Shape){4, {1, 1, T, L}}, dtype == BOOL ? (void *)b : x, &id));
  return id;
}

static ValueId bools(Net *n, Shape shape) {
  ValueId x = input(n, "mask", shape);
  return two(n, OP_Greater, x, number(n, 0));
}

/* ---- what becomes Attention ---- */

static ValueId plain(Net *n) {
  return weigh(n, two(n, OP_Div, product(n, n->q, n->k, true), number(n, 1.7)));
}

static ValueId root_on_both(Net *n) {
  ValueId k = input(n, "k2", (Shape){4, {B, L, H, D}}), scale = number(n, 0.7);
  k = turn(n, k, (int64_t[]){0, 2, 3, 1}, 4);
  return weigh(n, product(n, two(n, OP_Mul, n->q, scale), two(n, OP_Mul, k, scale), false));
}

static ValueId keys_across(Net *n) {
  ValueId k = input(n, "k2", (Shape){4, {B, H, D, L}});
  return weigh(n, product(n, n->q, k, false));
}

/* Weights of which some are dropped; *mask: which. */
static ValueId drop(Net *n, ValueId weights, ValueId *mask) {
  Attr attrs[] = {attr_float("ratio", 0.4),  attr_int("node", 2),  attr_int("seed", 0),
                  attr_int("per_sample", 1), attr_int("outer", 1), attr_int("inner", H * T * L)};
  ValueId counter;
  NodeId id;
  ASSERT_OK(graph_counter(n->g, &counter));
  ASSERT_OK(graph_add_node(n->g, OP_Dropout, "", (ValueId[]){weights, counter}, 2, attrs, 6, NULL, 2, &id));
  *mask = graph_node(n->g, id)->out[1];
  return graph_node(n->g, id)->out[0];
}

static ValueId dropped(Net *n) {
  ValueId mask;
  return product(n, drop(n, softmax(n, scores(n)), &mask), n->v, false);
}

static ValueId dropped_and_masked(Net *n) {
  ValueId mask, padding = bools(n, (Shape){4, {B, 1, 1, L}});
  ValueId s = where(n, padding, two(n, OP_Add, scores(n), band(n, F32, 100, 1, 0, -INFINITY)), number(n, -INFINITY));
  ValueId flat = RESHAPE(n, softmax(n, s), B * H, T, L);
  flat = product(n, drop(n, flat, &mask), RESHAPE(n, n->v, B * H, L, D), false);
  return RESHAPE(n, flat, B, H, T, D);
}

static ValueId what_is_dropped_is_read(Net *n) {
  ValueId mask, y = product(n, drop(n, softmax(n, scores(n)), &mask), n->v, false);
  ASSERT_OK(graph_add_output(n->g, y));
  ASSERT_OK(graph_add_output(n->g, mask));
  return y;
}

static ValueId causal_added(Net *n) {
  return weigh(n, two(n, OP_Add, scores(n), band(n, F32, 100, 0, 0, -INFINITY)));
}

static ValueId causal_chosen(Net *n) {
  return weigh(n, where(n, band(n, BOOL, 100, 0, 1, 0), scores(n), number(n, -3.4028234663852886e38)));
}

static ValueId causal_forbidden(Net *n) {
  return weigh(n, where(n, band(n, BOOL, 100, 0, 0, 1), number(n, -INFINITY), scores(n)));
}

static ValueId window(Net *n) {
  return weigh(n, two(n, OP_Add, band(n, F32, 1, 1, 0, -1e9f), scores(n)));
}

static ValueId nothing_masked(Net *n) {
  return weigh(n, two(n, OP_Add, scores(n), band(n, F32, 100, 100, 0, -1)));
}

static ValueId any_constant(Net *n) {
  return weigh(n, two(n, OP_Add, scores(n), band(n, F32, 1, 1, 0.25f, -0.5f)));
}

static ValueId padding_added(Net *n) {
  return weigh(n, two(n, OP_Add, scores(n), input(n, "mask", (Shape){4, {B, 1, 1, L}})));
}

static ValueId padding_subtracted(Net *n) {
  return weigh(n, two(n, OP_Sub, scores(n), input(n, "mask", (Shape){2, {T, L}})));
}

static ValueId padding_and_causal(Net *n) {
  ValueId s = two(n, OP_Add, scores(n), band(n, F32, 100, 0, 0, -INFINITY));
  ValueId p = softmax(n, where(n, bools(n, (Shape){4, {B, 1, 1, L}}), s, number(n, -INFINITY)));
  ValueId equal = two(n, OP_Equal, p, p), wrong = node(n, OP_Not, &equal, 1, NULL, 0);
  return product(n, where(n, wrong, number(n, 0), p), n->v, false);
}

static ValueId filled(Net *n) { /* a row of which all is filled weighs all alike */
  return weigh(n, where(n, bools(n, (Shape){4, {B, 1, T, 1}}), scores(n), number(n, -1e30)));
}

static ValueId chosen_and_added(Net *n) {
  ValueId s = two(n, OP_Add, scores(n), input(n, "bias", (Shape){4, {1, H, T, L}}));
  s = two(n, OP_Add, s, input(n, "bias2", (Shape){4, {B, 1, 1, L}}));
  return weigh(n, where(n, bools(n, (Shape){1, {L}}), s, number(n, -INFINITY)));
}

static ValueId rows_left_out(Net *n) {
  ValueId p = softmax(n, scores(n));
  return product(n, where(n, bools(n, (Shape){4, {B, 1, T, 1}}), number(n, 0), p), n->v, false);
}

/* As fairseq's and PyTorch's older layers do: heads and samples are one axis, but for the mask. */
static ValueId merged(Net *n) {
  ValueId q = RESHAPE(n, n->q, B * H, T, D), k = RESHAPE(n, n->k, B * H, L, D), v = RESHAPE(n, n->v, B * H, L, D);
  ValueId s = two(n, OP_Add, product(n, q, k, true), input(n, "own", (Shape){3, {B * H, 1, L}}));
  s = two(n, OP_Add, RESHAPE(n, s, B, H, T, L), input(n, "mask", (Shape){4, {B, 1, 1, L}}));
  return product(n, softmax(n, RESHAPE(n, s, B * H, T, L)), v, false);
}

static ValueId three_axes(Net *n) {
  ValueId q = RESHAPE(n, n->q, B * H, T, D), k = RESHAPE(n, n->k, B * H, L, D), v = RESHAPE(n, n->v, B * H, L, D);
  ValueId s = two(n, OP_Add, product(n, q, k, true), input(n, "own", (Shape){3, {B * H, T, L}}));
  return product(n, softmax(n, s), v, false);
}

static ValueId two_axes(Net *n) {
  ValueId q = input(n, "q2", (Shape){2, {T, D}}), k = input(n, "k2", (Shape){2, {L, D}});
  return product(n, softmax(n, product(n, q, k, true)), input(n, "v2", (Shape){2, {L, D}}), false);
}

static ValueId repeated(Net *n, const char *name) {
  ValueId k = RESHAPE(n, input(n, name, (Shape){4, {B, G, L, D}}), B, G, 1, L, D);
  k = expand(n, k, 5, (int64_t[]){B, G, H / G, L, D});
  return RESHAPE(n, k, B, H, L, D);
}

static ValueId grouped(Net *n) {
  ValueId k = repeated(n, "k2"), v = repeated(n, "v2");
  return product(n, softmax(n, product(n, n->q, k, true)), v, false);
}

static ValueId tiled(Net *n) { /* as Tile is lowered */
  ValueId k = RESHAPE(n, input(n, "k2", (Shape){4, {B, G, L, D}}), B, G, 1, L * D);
  k = RESHAPE(n, expand(n, k, 4, (int64_t[]){B, G, H / G, L * D}), B, G, H / G, L, D);
  ValueId v = repeated(n, "v2");
  return product(n, softmax(n, product(n, n->q, RESHAPE(n, k, B, H, L, D), true)), v, false);
}

static ValueId one_group(Net *n) {
  ValueId k = input(n, "k2", (Shape){4, {B, 1, L, D}});
  return product(n, softmax(n, product(n, n->q, k, true)), k, false);
}

/* As ONNX's Attention is lowered: queries of a group stand one behind the other. */
static ValueId queries_together(Net *n) {
  ValueId k = input(n, "k2", (Shape){4, {B, G, L, D}}), q = RESHAPE(n, n->q, B, G, H / G * T, D);
  ValueId s = RESHAPE(n, product(n, q, k, true), B, H, T, L);
  s = where(n, band(n, BOOL, 100, 0, 1, 0), s, number(n, -INFINITY));
  return RESHAPE(n, product(n, RESHAPE(n, softmax(n, s), B, G, H / G * T, L), k, false), B, H, T, D);
}

/* ---- what stays ---- */

static ValueId weights_read(Net *n) {
  ValueId p = softmax(n, scores(n));
  ASSERT_OK(graph_add_output(n->g, p));
  return product(n, p, n->v, false);
}

static ValueId trained_bias(Net *n) {
  ValueId bias = named(n, "bias", F32, (Shape){3, {H, T, L}}, ROLE_PARAMETER);
  return weigh(n, two(n, OP_Add, scores(n), two(n, OP_Mul, bias, number(n, 2))));
}

static ValueId over_queries(Net *n) {
  ValueId s = scores(n);
  Attr axis = attr_int("axis", 2);
  return product(n, node(n, OP_Softmax, &s, 1, &axis, 1), n->v, false);
}

static ValueId scaled_mask(Net *n) {
  ValueId s = two(n, OP_Add, product(n, n->q, n->k, true), input(n, "mask", (Shape){2, {T, L}}));
  return weigh(n, two(n, OP_Mul, s, number(n, 0.5)));
}

static ValueId shared_over_samples(Net *n) {
  ValueId k = input(n, "k2", (Shape){4, {1, H, L, D}});
  return product(n, softmax(n, product(n, n->q, k, true)), n->v, false);
}

static ValueId small_fill(Net *n) {
  return weigh(n, where(n, band(n, BOOL, 100, 0, 1, 0), scores(n), number(n, -1)));
}

static ValueId of_a_parameter(Net *n) {
  return product(n, softmax(n, named(n, "w", F32, (Shape){2, {T, L}}, ROLE_PARAMETER)),
                 input(n, "v2", (Shape){2, {L, D}}), false);
}

typedef struct {
  const char *name;
  ValueId (*spell)(Net *n);
  bool taken, masked;
  int64_t left, right; /* -1: without an end */
  int64_t groups;
} Case;

static const Case cases[] = {
    {"plain", plain, true, false, -1, -1, H},
    {"root on both", root_on_both, true, false, -1, -1, H},
    {"keys across", keys_across, true, false, -1, -1, H},
    {"dropped", dropped, true, false, -1, -1, H},
    {"dropped and masked", dropped_and_masked, true, true, -1, 1, H},
    {"what is dropped is read", what_is_dropped_is_read, false, false, -1, -1, H},
    {"causal, added", causal_added, true, false, -1, 0, H},
    {"causal, chosen", causal_chosen, true, false, -1, 0, H},
    {"causal, forbidden", causal_forbidden, true, false, -1, 0, H},
    {"window", window, true, false, 1, 1, H},
    {"nothing masked", nothing_masked, true, false, -1, -1, H},
    {"any constant", any_constant, true, true, -1, -1, H},
    {"padding, added", padding_added, true, true, -1, -1, H},
    {"padding, subtracted", padding_subtracted, true, true, -1, -1, H},
    {"padding and causal", padding_and_causal, true, true, -1, 0, H},
    {"filled", filled, true, true, -1, -1, H},
    {"chosen and added", chosen_and_added, true, true, -1, -1, H},
    {"rows left out", rows_left_out, true, false, -1, -1, H},
    {"merged", merged, true, true, -1, -1, H},
    {"three axes", three_axes, true, true, -1, -1, 1},
    {"two axes", two_axes, true, false, -1, -1, 1},
    {"grouped", grouped, true, false, -1, -1, G},
    {"tiled", tiled, true, false, -1, -1, G},
    {"one group", one_group, true, false, -1, -1, 1},
    {"queries together", queries_together, true, false, -1, 0, G},
    {"weights read", weights_read, false, false, 0, 0, 0},
    {"trained bias", trained_bias, false, false, 0, 0, 0},
    {"over queries", over_queries, false, false, 0, 0, 0},
    {"scaled mask", scaled_mask, false, false, 0, 0, 0},
    {"shared over samples", shared_over_samples, false, false, 0, 0, 0},
    {"small fill", small_fill, false, false, 0, 0, 0},
    {"of a parameter", of_a_parameter, false, false, 0, 0, 0},
};

static void **data_of(Arena *arena, const Graph *g) {
  void **data;
  ASSERT_OK(ARENA_NEW(arena, data, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    assert_non_null(data[v] = arena_alloc(arena, graph_value_bytes(g, v), 1));
    if (graph_value(g, v)->data)
      memcpy(data[v], graph_value(g, v)->data, graph_value_bytes(g, v));
    uint64_t seed = 17; /* the same for a name */
    for (const char *c = graph_value(g, v)->name; *c; c++)
      seed = seed * 31 + (unsigned char)*c;
    for (size_t i = 0; graph_value(g, v)->role == ROLE_INPUT && i < graph_value_bytes(g, v) / sizeof(float); i++)
      ((float *)data[v])[i] = (float)random_below(&seed, 1000) / 250 - 2;
  }
  return data;
}

/* What the first output is. */
static const float *evaluate(Arena *arena, const Graph *g) {
  void **data = data_of(arena, g);
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    Tensor in[5] = {{0}}, out[3];
    for (int k = 0; k < n->n_in; k++)
      if (n->in[k] != NO_VALUE)
        in[k] = tensor_at(graph_value(g, n->in[k])->dtype, graph_value(g, n->in[k])->shape, data[n->in[k]]);
    for (int k = 0; k < n->n_out; k++)
      out[k] = tensor_at(graph_value(g, n->out[k])->dtype, graph_value(g, n->out[k])->shape, data[n->out[k]]);
    ASSERT_OK(backend_evaluate(NULL, n, in, out));
  }
  return data[g->outputs[0]];
}

static const Node *find(const Graph *g, OpKind op) {
  const Node *found = NULL;
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->op == op)
      found = g->nodes[i];
  return found;
}

static void check_attention(const Case *c, const Graph *g) {
  const Node *n = find(g, OP_Attention);
  if (!n || find(g, OP_Softmax))
    FAIL_TEST("%s: there is %s Attention", c->name, n ? "more than" : "no");
  if (rule_has_in(n, 3) != c->masked || node_int(n, "left", -1) != c->left || node_int(n, "right", -1) != c->right ||
      graph_value(g, n->in[1])->shape.dim[1] != c->groups)
    FAIL_TEST("%s: %d inputs, left %d, right %d, K %s", c->name, n->n_in, (int)node_int(n, "left", -1),
              (int)node_int(n, "right", -1), SHAPE_STR(graph_value(g, n->in[1])->shape));
}

static void check_case(const Case *c) {
  Arena *arena = arena_create();
  Net n;
  Graph *to;
  ASSERT_OK(graph_create(arena, c->name, &n.g));
  n.q = input(&n, "q", (Shape){4, {B, H, T, D}});
  n.k = input(&n, "k", (Shape){4, {B, H, L, D}});
  n.v = input(&n, "v", (Shape){4, {B, H, L, D}});
  ValueId y = c->spell(&n);
  ASSERT_OK(graph_add_output(n.g, y));
  ASSERT_OK(graph_rewrite(n.g, &pass_attention, NULL, NULL, arena, NULL, &to));
  if (!c->taken) {
    if (find(to, OP_Attention))
      FAIL_TEST("%s: is no attention", c->name);
    arena_destroy(arena);
    return;
  }
  check_attention(c, to);
  assert_true(shape_equal(graph_value(n.g, y)->shape, graph_value(to, to->outputs[0])->shape));
  const float *before = evaluate(arena, n.g), *after = evaluate(arena, to);
  for (int64_t i = 0; i < shape_elements(graph_value(n.g, y)->shape); i++)
    if (!(fabsf(before[i] - after[i]) <= 1e-5f * fmaxf(1, fabsf(before[i]))))
      FAIL_TEST("%s: element %d is %g, not %g", c->name, (int)i, (double)after[i], (double)before[i]);
  arena_destroy(arena);
}

static void spellings_become_attention(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_case(&cases[i]);
}

static bool no_attention(const void *context, const Graph *graph, const Node *node) {
  (void)context, (void)graph;
  return node->op != OP_AttentionGrad;
}

/* Where a device of the run has no gradient of it, all stays. */
static void devices_without_it_keep_it_spelled(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Net n;
  Graph *to;
  ASSERT_OK(graph_create(arena, "spelled", &n.g));
  n.q = named(&n, "q", F32, (Shape){4, {B, H, T, D}}, ROLE_PARAMETER);
  n.k = input(&n, "k", (Shape){4, {B, H, L, D}});
  n.v = input(&n, "v", (Shape){4, {B, H, L, D}});
  ASSERT_OK(graph_add_output(n.g, plain(&n)));
  ASSERT_OK(graph_rewrite(n.g, &pass_attention, no_attention, NULL, arena, NULL, &to));
  assert_true(!find(to, OP_Attention) && find(to, OP_Softmax));
  ASSERT_OK(graph_rewrite(n.g, &pass_attention, NULL, NULL, arena, NULL, &to));
  assert_true(find(to, OP_Attention) && !find(to, OP_Softmax));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(spellings_become_attention),
      cmocka_unit_test(devices_without_it_keep_it_spelled),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
