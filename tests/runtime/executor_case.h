/* Plans of random training graphs with random cuts, and what training them must give: an interpreter that knows nothing
 * of stages, slots and ranks runs the graph node by node. */
#ifndef TESTS_RUNTIME_EXECUTOR_CASE_H
#define TESTS_RUNTIME_EXECUTOR_CASE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "runtime/executor/executor.h"
#include "tests/random_graph.h"

enum { STEPS = 3, MOST_RANKS = 4, MOST_NORMS = 64, TALL = 48 /* rows of the largest parameter, of WIDTH */ };

static inline float case_number(ValueId value, int step, int microbatch, size_t i) {
  uint64_t seed = value * 1000003u + (uint64_t)step * 10007u + (uint64_t)microbatch * 101u + i;
  random_below(&seed, 2);
  random_below(&seed, 2);
  return (float)((int)random_below(&seed, 2001) - 1000) / 1000.0f;
}

/* What a rank is given. */
typedef struct {
  const Graph *graph;
  int step;
} CaseData;

static inline Status case_fill(const CaseData *data, ValueId value, int step, int microbatch, void *to, size_t bytes) {
  assert_int_equal(graph_value(data->graph, value)->dtype, F32);
  assert_int_equal(bytes, graph_value_bytes(data->graph, value));
  for (size_t i = 0; i < bytes / sizeof(float); i++)
    ((float *)to)[i] = case_number(value, step, microbatch, i);
  return OK;
}

static inline Status case_load(void *context, ValueId value, void *to, size_t bytes) {
  return case_fill(context, value, -1, 0, to, bytes);
}

static inline Status case_feed(void *context, ValueId value, int microbatch, void *to, size_t bytes) {
  const CaseData *data = context;
  return case_fill(data, value, data->step, microbatch, to, bytes);
}

/* What training gives: the loss and the sum of squared norms of each step, the persistent values at the end. */
typedef struct {
  double losses[STEPS], squares[STEPS];
  void **values; /* [n_values]: parameters, states and buffers, else NULL */
} CaseResult;

static inline bool case_is_result(const Graph *g, ValueId v) {
  Role role = graph_value(g, v)->role;
  return role == ROLE_PARAMETER || role == ROLE_STATE || role == ROLE_BUFFER;
}

static inline void case_scalars(int step, double scalars[STEP_SCALARS]) {
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_ADAMW);
  optimizer_scalars(&optimizer, step + 1, 0.01 / (1 + step), 0.5, scalars);
}

static inline double case_loss_scale(int microbatches) {
  return 1.0 / (microbatches * ROWS * WIDTH);
}

static inline void case_interpret_node(const Graph *g, const Node *node, void **data) {
  Tensor in[16] = {{0}}, out[8] = {{0}};
  for (int i = 0; i < node->n_in + node->n_out; i++) {
    ValueId v = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
    if (v != NO_VALUE)
      *(i < node->n_in ? &in[i] : &out[i - node->n_in]) =
          tensor_at(graph_value(g, v)->dtype, graph_value(g, v)->shape, data[v]);
  }
  ASSERT_OK(backend_evaluate(NULL, node, in, out));
}

static inline void case_interpret_step(const Graph *g, int step, int microbatches, void **data, CaseResult *result) {
  CaseData given = {g, step};
  double total = 0, scale = case_loss_scale(microbatches);
  memcpy(data[g->loss_scale], &scale, sizeof scale);
  for (int m = 0; m < microbatches; m++) {
    for (size_t i = 0; i < g->n_inputs; i++)
      case_feed(&given, g->inputs[i], m, data[g->inputs[i]], graph_value_bytes(g, g->inputs[i]));
    if (g->counter != NO_VALUE)
      memcpy(data[g->counter], (int64_t[]){7, step, m * ROWS}, COUNTER_NUMBERS * sizeof(int64_t));
    case_feed(&given, g->target, m, data[g->target], graph_value_bytes(g, g->target));
    for (size_t i = 0; i < g->n_nodes; i++)
      if (g->nodes[i]->phase != PHASE_UPDATE)
        case_interpret_node(g, g->nodes[i], data);
    total += *(double *)data[g->loss_sum];
  }
  result->losses[step] = total * scale;
  result->squares[step] = 0;
  case_scalars(step, data[g->step_scalars]);
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase == PHASE_UPDATE) {
      case_interpret_node(g, g->nodes[i], data);
      if (optimizer_is_norm(g->nodes[i]))
        result->squares[step] += *(double *)data[g->nodes[i]->out[0]];
    }
  for (ValueId v = 0; v < g->n_values; v++)
    if (graph_value(g, v)->role == ROLE_GRADIENT)
      memset(data[v], 0, graph_value_bytes(g, v));
}

/* What the backend wants, before a plan is made for it. */
static inline void case_set_workspaces(Graph *g, const Backend *backend) {
  for (size_t i = 0; i < g->n_nodes; i++)
    g->nodes[i]->workspace_bytes[0] = backend_workspace_bytes(backend, g, g->nodes[i]);
}

static inline Graph *case_graph_of(Arena *arena, const Backend *backend, uint64_t seed, int steps, bool roles) {
  Graph *g = random_training_of(arena, seed, steps, roles);
  case_set_workspaces(g, backend);
  return g;
}

static inline Graph *case_graph(Arena *arena, const Backend *backend, uint64_t seed, int steps) {
  return case_graph_of(arena, backend, seed, steps, false);
}

/* Room for all values, with what they have before the first step. */
static inline void **case_values(Arena *arena, const Graph *g) {
  CaseData given = {.graph = g};
  void **values;
  ASSERT_OK(ARENA_NEW(arena, values, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    size_t bytes = graph_value_bytes(g, v);
    assert_non_null(values[v] = arena_alloc(arena, bytes, 1));
    if (value->data)
      memcpy(values[v], value->data, bytes);
    else if (value->role == ROLE_PARAMETER || value->role == ROLE_BUFFER)
      case_load(&given, v, values[v], bytes);
  }
  return values;
}

/* The oracle. The result lives in the arena. */
static inline CaseResult case_interpret(Arena *arena, const Graph *g, int microbatches) {
  CaseResult result = {.values = case_values(arena, g)};
  for (int step = 0; step < STEPS; step++)
    case_interpret_step(g, step, microbatches, result.values, &result);
  for (ValueId v = 0; v < g->n_values; v++)
    if (!case_is_result(g, v))
      result.values[v] = NULL;
  return result;
}

/* A plan with random cuts, in which, by turns, some forward nodes run again. False where the graph has too few or the
 * schedule has no such number of chunks. */
static inline bool case_plan(Arena *arena, Graph *g, const char *schedule, int ranks, int chunks, int microbatches,
                             uint64_t seed, Plan *plan) {
  int *stage_of = arena_alloc(arena, g->n_nodes, sizeof *stage_of), stages = ranks * chunks;
  bool forward[64], backward[64], *again = arena_alloc(arena, g->n_nodes, sizeof *again);
  Crossings crossings = {forward, backward};
  if (random_cuts(g, &seed, stages, stage_of) != stages)
    return false;
  *plan = (Plan){.graph = g,
                 .ranks = ranks,
                 .chunks = chunks,
                 .stages = stages,
                 .microbatches = microbatches,
                 .stage_of = stage_of};
  random_again(g, &seed, again);
  plan->again = random_below(&seed, 2) ? again : NULL;
  ASSERT_OK(plan_cut(arena, plan));
  for (int c = 0; c < stages - 1; c++) {
    forward[c] = plan->cuts.cuts[c].n_forward > 0;
    backward[c] = plan->cuts.cuts[c].n_backward > 0;
  }
  Status status = schedule_generate(arena, schedule, ranks, chunks, microbatches, &crossings, &plan->schedule);
  if (status == E_USAGE && strstr(status_message(), "stages a rank"))
    return false;
  ASSERT_OK(status);
  ASSERT_OK(schedule_check(&plan->schedule, &crossings));
  ASSERT_OK(plan_memory(arena, plan));
  return true;
}

/* The planner's own cuts and, by turns, recomputation. False where the graph has too few. */
static inline bool case_planned(Arena *arena, Graph *g, const char *schedule, int ranks, int chunks, int microbatches,
                                Plan *plan) {
  DeviceSpec devices[MOST_RANKS];
  PlanRequest request = {.model_hash = "case",
                         .ranks = ranks,
                         .chunks = chunks,
                         .microbatches = microbatches,
                         .microbatch_size = ROWS,
                         .schedule = schedule,
                         .devices = devices,
                         .recompute = (ranks + chunks + microbatches) % 2 ? RECOMPUTE_FULL : RECOMPUTE_NONE,
                         .link = {.latency_seconds = 1e-6, .bytes_per_second = 1e9}};
  for (int r = 0; r < ranks; r++)
    ASSERT_OK(backend_reference.describe(0, &devices[r]));
  Status status = plan_make(arena, g, &request, plan);
  if (status == E_USAGE)
    return false;
  ASSERT_OK(status);
  return true;
}

/* One rank's training. */
typedef struct {
  const Plan *plan;
  int rank;
  const Backend *backend;
  const Link *link; /* NULL: alone */
  const CaseResult *expected;
  double squares[STEPS][MOST_NORMS]; /* what executor_squares gave; -1 where another rank answers */
} CaseRun;

static inline Status case_step(CaseRun *run, Executor *executor, CaseData *given, int step) {
  double loss, scalars[STEP_SCALARS];
  StepWork work = {.loss_scale = case_loss_scale(run->plan->microbatches),
                   .counter = {7, step, 0},
                   .samples = ROWS,
                   .feed = case_feed,
                   .context = given};
  given->step = step;
  for (int i = 0; i < MOST_NORMS; i++)
    run->squares[step][i] = -1;
  case_scalars(step, scalars);
  TRY(executor_run(executor, &work, &loss));
  if (loss != (executor_has_loss(executor) ? run->expected->losses[step] : 0))
    return fail(E_MODEL, "step %d: loss %.17g, not %.17g", step, loss, run->expected->losses[step]);
  executor_squares(executor, run->squares[step]);
  return executor_update(executor, scalars);
}

/* Trains STEPS steps on a store; compares what the rank knows with the oracle. Fails as the executor does, or naming
 * what differs. */
static inline Status case_train_on(CaseRun *run, Store *store) {
  const Graph *g = run->plan->graph;
  CaseData given = {.graph = g};
  ExecutorSpec spec = {.plan = run->plan,
                       .rank = run->rank,
                       .store = store,
                       .transport = run->link ? run->link->transport : NULL,
                       .endpoint = run->link ? run->link->endpoints[CHANNEL_DATA] : NULL,
                       .load = case_load,
                       .load_context = &given};
  Executor *executor;
  TRY(executor_open(&spec, &executor));
  Status status = OK;
  for (int step = 0; step < STEPS && status == OK; step++)
    status = case_step(run, executor, &given, step);
  for (ValueId v = 0; v < g->n_values && status == OK; v++) {
    char data[TALL * WIDTH * sizeof(float)];
    size_t bytes = graph_value_bytes(g, v);
    if (!case_is_result(g, v) || !executor_holds(executor, v))
      continue;
    assert_true(bytes <= sizeof data);
    status = executor_read(executor, v, data, bytes);
    if (status == OK && memcmp(data, run->expected->values[v], bytes) != 0)
      status = fail(E_MODEL, "'%s' differs", graph_value(g, v)->name);
  }
  executor_close(executor);
  return status;
}

static inline Status case_train(CaseRun *run) {
  Store *store;
  TRY(store_open(run->backend, 0, 1, &store));
  Status status = case_train_on(run, store);
  store_close(store);
  return status;
}

#endif
