/* Random training graphs for tests of stages, memory and plans: matrix products with parameters of their own and tied
 * ones, residuals, skips over many nodes, views, broadcasting, normalisations, an integer tensor computed early and
 * used late, a frozen beginning. Every value is [ROWS, WIDTH] or a view or a broadcast of it. */
#ifndef TESTS_RANDOM_GRAPH_H
#define TESTS_RANDOM_GRAPH_H

#include <stdio.h>

#include "graph/autodiff.h"
#include "graph/loss.h"
#include "graph/op.h"
#include "graph/optimizer.h"
#include "graph/recompute.h"
#include "tests/test.h"

enum { ROWS = 3, WIDTH = 5 };

static inline unsigned random_below(uint64_t *seed, unsigned n) {
  *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
  return (unsigned)((*seed >> 33) % n);
}

typedef struct {
  Graph *g;
  uint64_t seed;
  ValueId flow[64]; /* float values of [ROWS, WIDTH] so far */
  int n_flow;
  ValueId tied, integers;
  bool roles; /* buffers and a counter, too */
  int n_nodes;
} RandomGraph;

static inline ValueId random_value(RandomGraph *r, const char *what, Shape shape, Role role) {
  char name[40];
  ValueId v;
  snprintf(name, sizeof name, "%s%zu", what, r->g->n_values);
  ASSERT_OK(graph_add_value(r->g, name, F32, shape, role, &v));
  graph_value(r->g, v)->initializer = role == ROLE_PARAMETER || role == ROLE_BUFFER ? (int)v : -1;
  return v;
}

static inline ValueId random_node(RandomGraph *r, OpKind op, const ValueId *in, int n_in, const Attr *attrs,
                                  int n_attrs, int n_out) {
  char name[40];
  NodeId id;
  snprintf(name, sizeof name, "n%d", r->n_nodes++);
  ASSERT_OK(graph_add_node(r->g, op, name, in, n_in, attrs, n_attrs, NULL, n_out, &id));
  return graph_node(r->g, id)->out[0];
}

/* One of the last few values mostly, any earlier one at times. */
static inline ValueId random_pick(RandomGraph *r) {
  int reach = random_below(&r->seed, 4) ? 3 : r->n_flow;
  return r->flow[r->n_flow - 1 - (int)random_below(&r->seed, (unsigned)(reach < r->n_flow ? reach : r->n_flow))];
}

/* x minus a buffer, to which the microbatch's mean was added; or x plus the sum of the counter's numbers. */
static inline ValueId random_role(RandomGraph *r, ValueId x) {
  char name[40];
  NodeId id;
  ValueId counter, number;
  float small = 0.01f;
  if (random_below(&r->seed, 2)) {
    Attr attrs[] = {attr_ints("axes", (int64_t[]){0}, 1), attr_int("keepdims", 0)};
    ValueId buffer = random_value(r, "buffer", shape_of(1, (int64_t[]){WIDTH}), ROLE_BUFFER);
    ValueId mean = random_node(r, OP_ReduceMean, &x, 1, attrs, 2, 1);
    snprintf(name, sizeof name, "n%d", r->n_nodes++);
    ASSERT_OK(graph_add_node(r->g, OP_Accumulate, name, (ValueId[]){buffer, mean}, 2, NULL, 0, NULL, 0, &id));
    return random_node(r, OP_Sub, (ValueId[]){x, buffer}, 2, NULL, 0, 1);
  }
  ASSERT_OK(graph_counter(r->g, &counter));
  ASSERT_OK(graph_add_constant(r->g, "small", F32, (Shape){0}, &small, &number));
  Attr to = attr_int("to", F32), sum[] = {attr_ints("axes", (int64_t[]){0}, 1), attr_int("keepdims", 0)};
  counter = random_node(r, OP_Cast, &counter, 1, &to, 1, 1);
  counter = random_node(r, OP_ReduceSum, &counter, 1, sum, 2, 1);
  counter = random_node(r, OP_Mul, (ValueId[]){counter, number}, 2, NULL, 0, 1);
  return random_node(r, OP_Add, (ValueId[]){x, counter}, 2, NULL, 0, 1);
}

static inline ValueId random_step(RandomGraph *r) {
  Shape square = shape_of(2, (int64_t[]){WIDTH, WIDTH}), row = shape_of(1, (int64_t[]){WIDTH});
  ValueId x = random_pick(r);
  if (r->roles && random_below(&r->seed, 4) == 0)
    return random_role(r, x);
  switch (random_below(&r->seed, 10)) {
  case 0: /* the tied parameter */
    return random_node(r, OP_MatMul, (ValueId[]){x, r->tied}, 2, NULL, 0, 1);
  case 1: {
    ValueId scale = random_value(r, "scale", row, ROLE_PARAMETER), bias = random_value(r, "bias", row, ROLE_PARAMETER);
    Attr attrs[] = {attr_int("axis", 1), attr_float("epsilon", 1e-5)};
    return random_node(r, OP_LayerNormalization, (ValueId[]){x, scale, bias}, 3, attrs, 2, 3);
  }
  case 2: { /* through a view and back */
    Attr flat = attr_ints("shape", (int64_t[]){ROWS * WIDTH}, 1),
         back = attr_ints("shape", (int64_t[]){ROWS, WIDTH}, 2);
    x = random_node(r, OP_Reshape, &x, 1, &flat, 1, 1);
    if (random_below(&r->seed, 2))
      x = random_node(r, OP_Tanh, &x, 1, NULL, 0, 1);
    return random_node(r, OP_Reshape, &x, 1, &back, 1, 1);
  }
  case 3:
    return random_node(r, OP_Add, (ValueId[]){x, random_value(r, "bias", row, ROLE_PARAMETER)}, 2, NULL, 0, 1);
  case 4:
    return random_node(r, OP_Relu, &x, 1, NULL, 0, 1);
  case 5: { /* the integers come late */
    Attr to = attr_int("to", F32);
    ValueId mask = random_node(r, OP_Cast, &r->integers, 1, &to, 1, 1);
    return random_node(r, OP_Mul, (ValueId[]){x, mask}, 2, NULL, 0, 1);
  }
  case 6:
    return random_node(r, OP_Mul, (ValueId[]){x, random_pick(r)}, 2, NULL, 0, 1);
  case 7:
    return random_node(r, OP_Add, (ValueId[]){x, random_pick(r)}, 2, NULL, 0, 1);
  case 8: /* W multiplies the gradient that B sends on, and may do so in its place only when it has left */
    return random_node(r, OP_Mul, (ValueId[]){x, random_value(r, "scale", row, ROLE_PARAMETER)}, 2, NULL, 0, 1);
  default:
    return random_node(r, OP_MatMul, (ValueId[]){x, random_value(r, "w", square, ROLE_PARAMETER)}, 2, NULL, 0, 1);
  }
}

/* `steps` random steps (at most 60); the beginning is frozen where `seed` says so. Forward nodes only. */
static inline RandomGraph random_forward_of(Arena *arena, uint64_t seed, int steps, bool roles) {
  RandomGraph r = {.seed = seed * 2 + 1, .roles = roles};
  ASSERT_OK(graph_create(arena, "random", &r.g));
  Shape shape = shape_of(2, (int64_t[]){ROWS, WIDTH}), square = shape_of(2, (int64_t[]){WIDTH, WIDTH});
  random_below(&r.seed, 2);
  ValueId x = random_value(&r, "x", shape, ROLE_INPUT), limit = random_value(&r, "limit", shape, ROLE_INPUT);
  ASSERT_OK(graph_add_input(r.g, x));
  ASSERT_OK(graph_add_input(r.g, limit));
  r.tied = random_value(&r, "tied", square, ROLE_PARAMETER);
  Attr to = attr_int("to", I64);
  r.integers = random_node(&r, OP_Cast, &limit, 1, &to, 1, 1);
  r.flow[r.n_flow++] = x;
  for (int frozen = (int)random_below(&r.seed, 4); frozen > 0; frozen--)
    r.flow[r.n_flow] = random_node(&r, OP_Tanh, &r.flow[r.n_flow - 1], 1, NULL, 0, 1), r.n_flow++;
  for (int i = 0; i < steps; i++)
    r.flow[r.n_flow] = random_step(&r), r.n_flow++;
  ValueId last = random_value(&r, "last", square, ROLE_PARAMETER); /* so that something trains */
  ValueId y = random_node(&r, OP_MatMul, (ValueId[]){r.flow[r.n_flow - 1], last}, 2, NULL, 0, 1);
  ASSERT_OK(graph_add_output(r.g, y));
  return r;
}

static inline RandomGraph random_forward(Arena *arena, uint64_t seed, int steps) {
  return random_forward_of(arena, seed, steps, false);
}

/* Appends an error's loss of the value, which is the output, gradients and AdamW. */
static inline Graph *random_train(RandomGraph *r, ValueId output) {
  size_t unreached;
  LossSpec loss = {
      .kind = LOSS_MSE, .output = output, .target_dtype = F32, .target_shape = graph_value(r->g, output)->shape};
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_ADAMW);
  if (!r->g->n_outputs)
    ASSERT_OK(graph_add_output(r->g, output));
  ASSERT_OK(loss_append(r->g, &loss));
  ASSERT_OK(autodiff_append(r->g, &unreached));
  ASSERT_OK(optimizer_append(r->g, &optimizer));
  return r->g;
}

static inline Graph *random_training_of(Arena *arena, uint64_t seed, int steps, bool roles) {
  RandomGraph r = random_forward_of(arena, seed, steps, roles);
  return random_train(&r, r.g->outputs[0]);
}

static inline Graph *random_training(Arena *arena, uint64_t seed, int steps) {
  return random_training_of(arena, seed, steps, false);
}

/* Forward nodes of a graph: they stand in front. */
static inline int random_n_forward(const Graph *g) {
  int n = 0;
  while (n < (int)g->n_nodes && g->nodes[n]->phase == PHASE_F)
    n++;
  return n;
}

/* Random cuts that separate no group of uses, none of which leaves a stage empty; fewer stages where there is no room.
 * stage_of has g->n_nodes elements. Returns the number of stages. */
static inline int random_cuts(const Graph *g, uint64_t *seed, int stages, int *stage_of) {
  int n = random_n_forward(g), may[512] = {0}, count = 0;
  for (int at = 1; at < n; at++) {
    bool inside = false;
    for (size_t i = 0; i < g->n_groups; i++)
      inside |= (int)g->groups[i].nodes[0] < at && (int)g->groups[i].nodes[g->groups[i].n_nodes - 1] >= at;
    if (!inside)
      may[count++] = at;
  }
  while (count > stages - 1) {
    int drop = (int)random_below(seed, (unsigned)count--);
    for (int k = drop; k < count; k++)
      may[k] = may[k + 1];
  }
  for (int i = 0, stage = 0; i < n; i++) {
    while (stage < count && may[stage] <= i)
      stage++;
    stage_of[i] = stage;
  }
  return count + 1;
}

/* Some of the forward nodes that may run again, into again [n_nodes]. */
static inline void random_again(const Graph *g, uint64_t *seed, bool *again) {
  for (size_t i = 0; i < g->n_nodes; i++)
    again[i] = recompute_may(g, g->nodes[i]) && random_below(seed, 3) > 0;
}

#endif
