/* Training and inference over threads: whatever the cuts, ranks, chunks and schedule, bit for bit what the interpreter
 * gives. With ONNXPIPE_TEST_SAMPLE set, a third of the plans by turns: each schedule on each number of ranks and stages
 * still, but not for every graph and number of microbatches. */
#include "executor_case.h"

#include <pthread.h>

static int part = 1; /* of so many plans one is trained */

typedef struct {
  pthread_t thread;
  CaseRun run;
  Status status;
  char message[512];
} Job;

static void *work(void *argument) {
  Job *job = argument;
  job->status = case_train(&job->run);
  if (job->status != OK)
    snprintf(job->message, sizeof job->message, "%s", status_message());
  if (job->status != OK && job->run.link) /* it may be the comparison that failed */
    job->run.link->transport->withdraw(job->run.link->endpoints[CHANNEL_DATA], job->message);
  return NULL;
}

/* All ranks at once; the outcome of each in jobs. */
static void train(const Plan *plan, const Backend *backend, const CaseResult *expected, Job *jobs) {
  Link links[MOST_RANKS];
  if (plan->ranks > 1)
    ASSERT_OK(transport_local_open(plan->ranks, links));
  for (int r = 0; r < plan->ranks; r++) {
    jobs[r].run = (CaseRun){
        .plan = plan, .rank = r, .backend = backend, .link = plan->ranks > 1 ? &links[r] : NULL, .expected = expected};
    assert_int_equal(pthread_create(&jobs[r].thread, NULL, work, &jobs[r]), 0);
  }
  for (int r = 0; r < plan->ranks; r++)
    pthread_join(jobs[r].thread, NULL);
  if (plan->ranks > 1)
    transport_local_close(plan->ranks, links);
}

/* Each norm is one rank's; added up in graph order they are the oracle's. */
static void check_squares(const Job *jobs, int ranks, const CaseResult *expected) {
  for (int step = 0; step < STEPS; step++) {
    double sum = 0;
    for (int i = 0; i < MOST_NORMS; i++) {
      int owners = 0;
      for (int r = 0; r < ranks; r++)
        if (jobs[r].run.squares[step][i] >= 0) {
          sum += jobs[r].run.squares[step][i];
          owners++;
        }
      assert_true(owners <= 1);
    }
    assert_true(sum == expected->squares[step]);
  }
}

/* What the plans had to deal with, so that none of it goes untested unseen. */
typedef struct {
  int plans, several, integers, relays, shared, same_rank;
} Seen;

static void look(const Plan *plan, Seen *seen) {
  const Graph *g = plan->graph;
  seen->plans++;
  for (int c = 0; c < plan->stages - 1; c++) {
    const Cut *cut = &plan->cuts.cuts[c];
    seen->several += cut->n_forward > 1 && cut->n_backward > 1;
    seen->same_rank += plan->schedule.rank_of_stage[c] == plan->schedule.rank_of_stage[c + 1];
    for (int i = 0; i < cut->n_forward; i++) {
      seen->integers += graph_value(g, cut->forward[i])->dtype == I64;
      seen->relays += graph_node(g, graph_value(g, cut->forward[i])->producer)->stage < c;
    }
  }
  for (ValueId v = 0; v < g->n_values; v++) {
    int holders = 0;
    for (int r = 0; r < plan->ranks; r++)
      holders += graph_value(g, v)->role == ROLE_GRADIENT && memory_holds(&plan->rank_memory[r], v);
    seen->shared += holders > 1;
  }
}

static void check(const Plan *plan, const Backend *backend, uint64_t seed, const CaseResult *expected) {
  Job jobs[MOST_RANKS];
  bool failed = false;
  train(plan, backend, expected, jobs);
  for (int r = 0; r < plan->ranks; r++) {
    failed |= jobs[r].status != OK;
    if (jobs[r].status != OK && jobs[r].status != E_COMM)
      FAIL_TEST("%s, %d ranks of %d stages, %d microbatches, seed %d: rank %d: %s", plan->schedule.name, plan->ranks,
                plan->chunks, plan->microbatches, (int)seed, r, jobs[r].message);
  }
  assert_false(failed);
  check_squares(jobs, plan->ranks, expected);
}

/* Random cuts and the planner's, over every schedule, for ranks and stages a rank as there is room. */
static void check_against(Graph *g, const CaseResult *expected, int microbatches, uint64_t seed, Seen *seen) {
  for (int s = 0; schedule_names[s]; s++)
    for (int ranks = 1; ranks <= MOST_RANKS; ranks++)
      for (int chunks = 1; chunks <= 3; chunks++) {
        if ((s + ranks + chunks + microbatches + (int)seed) % part)
          continue;
        Plan plan;
        Arena *scratch = arena_create();
        if (case_plan(scratch, g, schedule_names[s], ranks, chunks, microbatches, seed + 10 * (uint64_t)ranks, &plan)) {
          look(&plan, seen);
          check(&plan, &backend_reference, seed, expected);
        }
        if (ranks > 1 && microbatches < 4 &&
            case_planned(scratch, g, schedule_names[s], ranks, chunks, microbatches, &plan)) {
          look(&plan, seen);
          check(&plan, &backend_reference, seed, expected);
        }
        arena_destroy(scratch);
      }
}

static void check_all(Graph *g, int microbatches, uint64_t seed, Seen *seen) {
  Arena *arena = arena_create();
  CaseResult expected = case_interpret(arena, g, microbatches);
  check_against(g, &expected, microbatches, seed, seen);
  arena_destroy(arena);
}

static void bits_do_not_depend_on_the_pipeline(void **state) {
  (void)state;
  Seen seen = {0};
  for (uint64_t seed = 0; seed < 6; seed++) {
    Arena *arena = arena_create();
    Graph *g = case_graph(arena, &backend_reference, seed, 12 + 4 * (int)seed);
    for (int microbatches = 1; microbatches <= 9; microbatches += microbatches == 4 ? 5 : 1)
      check_all(g, microbatches, seed, &seen);
    arena_destroy(arena);
  }
  assert_true(seen.plans > 1000 / part && seen.several > 100 / part && seen.integers > 100 / part);
  assert_true(seen.relays > 100 / part && seen.shared > 100 / part && seen.same_rank > 100 / part);
}

/* Buffers are written in the order of microbatches, and what is drawn depends on seed, step and sample alone: on any
 * number of ranks, by every schedule. */
static void roles_do_not_depend_on_the_pipeline(void **state) {
  (void)state;
  Seen seen = {0};
  int buffers = 0, counters = 0;
  for (uint64_t seed = 0; seed < 4; seed++) {
    Arena *arena = arena_create();
    Graph *g = case_graph_of(arena, &backend_reference, seed, 24, true);
    for (ValueId v = 0; v < g->n_values; v++)
      buffers += graph_value(g, v)->role == ROLE_BUFFER;
    counters += g->counter != NO_VALUE;
    check_all(g, 3, seed, &seen);
    arena_destroy(arena);
  }
  assert_true(seen.plans > 100 / part && buffers >= 4 && counters >= 3);
}

/* A lookup of a table at numbers that repeat, some of them from its end: [ROWS, WIDTH]. */
static ValueId look_up(RandomGraph *r, ValueId table, int column, const Attr *attrs, int n_attrs) {
  int64_t at = column;
  float three = 3;
  ValueId place, factor, index;
  Attr axis = attr_int("axis", 1), to = attr_int("to", I64);
  ASSERT_OK(graph_add_constant(r->g, "column", I64, (Shape){0}, &at, &place));
  ASSERT_OK(graph_add_constant(r->g, "three", F32, (Shape){0}, &three, &factor));
  index = random_node(r, OP_Gather, (ValueId[]){r->g->inputs[1], place}, 2, &axis, 1, 1);
  index = random_node(r, OP_Mul, (ValueId[]){index, factor}, 2, NULL, 0, 1);
  index = random_node(r, OP_Cast, &index, 1, &to, 1, 1);
  return random_node(r, OP_Gather, (ValueId[]){table, index}, 2, attrs, n_attrs, 1);
}

/* Tables that are looked up once; three times, stages apart; but for a padding row; bag by bag. Two are heads, too,
 * before and behind a lookup. */
static Graph *tables_graph(Arena *arena, Keep keep, const OptimizerSpec *optimizer, int microbatches, int *n_kept) {
  RandomGraph r = {0};
  Shape shape = {2, {ROWS, WIDTH}}, square = {2, {WIDTH, WIDTH}}, tall = {2, {TALL, WIDTH}};
  Attr padding[] = {attr_int("axis", 0), attr_int("no_gradient_row", 1)}, turned = attr_int("transB", 1);
  LossSpec loss = {.kind = LOSS_MSE, .target_dtype = F32, .target_shape = shape};
  int64_t bags[ROWS];
  ValueId table[6], offsets, x;
  size_t unreached;
  ASSERT_OK(graph_create(arena, "tables", &r.g));
  ASSERT_OK(graph_add_input(r.g, x = random_value(&r, "x", shape, ROLE_INPUT)));
  ASSERT_OK(graph_add_input(r.g, random_value(&r, "limit", shape, ROLE_INPUT)));
  for (int i = 0; i < 6; i++)
    table[i] = random_value(&r, "table", tall, ROLE_PARAMETER);
  for (int i = 0; i < ROWS; i++)
    bags[i] = i;
  ASSERT_OK(graph_add_constant(r.g, "bags", I64, (Shape){1, {ROWS}}, bags, &offsets));
  const int order[] = {0, 1, 2, 1, 3, 4, 1, 5};
  for (int i = 0; i < 8; i++) {
    ValueId rows = look_up(&r, table[order[i]], i % WIDTH, padding, order[i] == 2 ? 2 : 1);
    if (order[i] == 3)
      rows = random_node(&r, OP_SegmentReduce, (ValueId[]){rows, offsets}, 2, NULL, 0, 1);
    x = random_node(&r, OP_Add, (ValueId[]){x, rows}, 2, NULL, 0, 1);
    bool is_head = i == 4 || i == 7;
    if (is_head)
      x = random_node(&r, OP_Gemm, (ValueId[]){x, table[i == 4 ? 4 : 5]}, 2, &turned, 1, 1);
    x = random_node(&r, OP_MatMul, (ValueId[]){x, random_value(&r, "w", is_head ? tall : square, ROLE_PARAMETER)}, 2,
                    NULL, 0, 1);
    x = random_node(&r, OP_Tanh, &x, 1, NULL, 0, 1);
  }
  ASSERT_OK(graph_add_output(r.g, loss.output = x));
  ASSERT_OK(loss_append(r.g, &loss));
  r.g->microbatches = microbatches;
  for (ValueId v = 0; v < r.g->n_values; v++)
    graph_value(r.g, v)->keep = keep;
  ASSERT_OK(autodiff_append(r.g, &unreached));
  ASSERT_OK(optimizer_append(r.g, optimizer));
  *n_kept = 0;
  for (size_t i = 0; i < r.g->n_groups; i++)
    *n_kept += r.g->groups[i].places != NO_VALUE;
  case_set_workspaces(r.g, &backend_reference);
  return r.g;
}

/* The result of one graph as that of another, which has as many parameters and states in the same order. */
static CaseResult result_of(Arena *arena, const CaseResult *result, const Graph *from, const Graph *to) {
  CaseResult same = *result;
  ValueId v = 0;
  ASSERT_OK(ARENA_NEW(arena, same.values, to->n_values));
  for (ValueId u = 0; u < to->n_values; u++) {
    if (!case_is_result(to, u))
      continue;
    while (!case_is_result(from, v))
      v++;
    assert_true(shape_equal(graph_value(from, v)->shape, graph_value(to, u)->shape));
    same.values[u] = result->values[v++];
  }
  return same;
}

/* What is kept as rows has the bits of dense accumulators, losses, norms, weights and states, on any ranks, by every
 * schedule. */
static void rows_are_dense_gradients(void **state) {
  (void)state;
  static const struct {
    OptimizerSpec spec;
    int microbatches;
  } cases[] = {
      {{.kind = OPTIMIZER_SGD}, 1},
      {{.kind = OPTIMIZER_SGD}, 3},
      {{.kind = OPTIMIZER_SGD, .momentum = 0.9, .nesterov = true}, 3},
      {{.kind = OPTIMIZER_SGD, .weight_decay = 0.1}, 2},
      {{.kind = OPTIMIZER_ADAM, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8}, 1},
      {{.kind = OPTIMIZER_ADAM, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1}, 2},
      {{.kind = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1}, 3},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Seen seen = {0};
    Arena *arena = arena_create();
    int n_kept, microbatches = cases[i].microbatches;
    Graph *dense = tables_graph(arena, KEEP_ALL, &cases[i].spec, microbatches, &n_kept);
    assert_int_equal(n_kept, 0);
    CaseResult expected = case_interpret(arena, dense, microbatches);
    Graph *rows = tables_graph(arena, KEEP_LESS, &cases[i].spec, microbatches, &n_kept);
    assert_int_equal(n_kept, 8);
    expected = result_of(arena, &expected, dense, rows);
    check_against(rows, &expected, microbatches, 3, &seen);
    assert_true(seen.plans > 50 / part && seen.shared > 10 / part);
    arena_destroy(arena);
  }
}

static void sparse_adam_does_not_depend_on_the_pipeline(void **state) {
  (void)state;
  Seen seen = {0};
  Arena *arena = arena_create();
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_SPARSE_ADAM);
  int n_kept, sampled = part;
  part = 1; /* of the one graph, all */
  check_all(tables_graph(arena, KEEP_ROWS, &optimizer, 3, &n_kept), 3, 3, &seen);
  part = sampled;
  assert_int_equal(n_kept, 6);
  arena_destroy(arena);
}

/* A buffer that several stages would have, or the backward pass. */
static void buffers_are_not_shared(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g;
  ValueId x, buffer, y, z;
  NodeId id;
  Stages stages;
  ASSERT_OK(graph_create(arena, "buffer", &g));
  ASSERT_OK(graph_add_value(g, "x", F32, shape_of(1, (int64_t[]){WIDTH}), ROLE_INPUT, &x));
  ASSERT_OK(graph_add_value(g, "mean", F32, shape_of(1, (int64_t[]){WIDTH}), ROLE_BUFFER, &buffer));
  ASSERT_OK(graph_add_input(g, x));
  ASSERT_OK(graph_add_node(g, OP_Accumulate, "w", (ValueId[]){buffer, x}, 2, NULL, 0, NULL, 0, &id));
  ASSERT_OK(graph_add_node(g, OP_Relu, "r", &x, 1, NULL, 0, NULL, 1, &id));
  y = graph_node(g, id)->out[0];
  ASSERT_OK(graph_add_node(g, OP_Sub, "s", (ValueId[]){y, buffer}, 2, NULL, 0, NULL, 1, &id));
  z = graph_node(g, id)->out[0];
  ASSERT_OK(graph_add_output(g, z));
  ASSERT_OK(stages_assign(g, arena, (int[]){0, 0, 0}, 1, &stages));
  ASSERT_FAILS(E_USAGE,
               "buffer 'mean': node 'w' (Accumulate) in stage 0 writes it, node 's' (Sub) in stage 1 cannot have it",
               stages_assign(g, arena, (int[]){0, 0, 1}, 2, &stages));
  arena_destroy(arena);
}

/* A device's memory is reached through copies alone. */
static void memory_of_a_device_is_copied(void **state) {
  (void)state;
  Backend device = backend_reference;
  device.is_host = false;
  device.pin = device.alloc;
  device.unpin = device.release;
  Arena *arena = arena_create();
  Graph *g = case_graph_of(arena, &device, 3, 20, true);
  CaseResult expected = case_interpret(arena, g, 3);
  Plan plan;
  assert_true(case_plan(arena, g, "1f1b", 2, 1, 3, 5, &plan));
  check(&plan, &device, 5, &expected);
  arena_destroy(arena);
}

/* A state for each node of the operator, counted; the kernel takes no other node's. */
typedef struct {
  const Node *node;
  int runs;
} Known;

static const KernelDef *plain;
static int prepared, released, fails_at;

static Status count_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                            size_t workspace_bytes, void **state) {
  (void)stream, (void)in, (void)out, (void)workspace_bytes;
  if (prepared == fails_at)
    return fail(E_DEVICE, "nothing more is prepared");
  Known *known = calloc(1, sizeof *known);
  assert_non_null(known);
  known->node = node;
  *state = known;
  prepared++;
  return OK;
}

static Status count_run(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                        void *state) {
  Known *known = state;
  if (!known || known->node != node)
    return fail(E_MODEL, "not what was prepared");
  known->runs++;
  return plain->run(stream, node, in, out, workspace, NULL);
}

static void count_release(void *state) {
  Known *known = state;
  assert_true(fails_at >= 0 ? known->runs == 0 : known->runs == STEPS * 3);
  free(known);
  released++;
}

/* Once a node of the rank's actions before the first step; what was prepared is released, also where opening fails. */
static void kernels_are_prepared_once(void **state) {
  (void)state;
  const KernelDef *kernels[OP_COUNT];
  Backend backend = backend_reference;
  memcpy(kernels, backend.kernels, sizeof kernels);
  plain = kernels[OP_MatMul];
  KernelDef counted = {.run = count_run,
                       .accepts = plain->accepts,
                       .workspace = plain->workspace,
                       .prepare = count_prepare,
                       .release = count_release};
  kernels[OP_MatMul] = &counted;
  backend.kernels = kernels;
  Arena *arena = arena_create();
  Graph *g = case_graph(arena, &backend, 3, 20);
  CaseResult expected = case_interpret(arena, g, 3);
  Plan plan;
  const char *third = NULL;
  int products = 0;
  char refused[96];
  assert_true(case_plan(arena, g, "1f1b", 1, 2, 3, 5, &plan));
  for (size_t i = 0; i < plan.graph->n_nodes; i++)
    if (plan.graph->nodes[i]->op == OP_MatMul && products++ == 2)
      third = plan.graph->nodes[i]->name;
  assert_non_null(third);
  fails_at = -1;
  check(&plan, &backend, 5, &expected);
  assert_int_equal(prepared, products);
  assert_int_equal(released, products);
  Executor *executor;
  Store *store;
  ASSERT_OK(store_open(&backend, 0, 1, &store));
  ExecutorSpec spec = {.plan = &plan, .store = store, .load = case_load};
  prepared = released = 0;
  fails_at = 2;
  snprintf(refused, sizeof refused, "node '%s' (MatMul): nothing more is prepared", third);
  ASSERT_FAILS(E_DEVICE, refused, executor_open(&spec, &executor));
  assert_int_equal(released, 2);
  store_close(store);
  arena_destroy(arena);
}

enum { MOST_OUTPUTS = 4, INFERRED = 3 };

/* One rank's inference; what it emitted lies at [output][microbatch]. */
typedef struct {
  pthread_t thread;
  const Plan *plan;
  int rank;
  const Link *link;
  CaseData given;
  float (*emitted)[INFERRED][ROWS * WIDTH];
  Status status;
} Inference;

static Status feed(void *context, ValueId value, int microbatch, void *data, size_t bytes) {
  return case_feed(&((Inference *)context)->given, value, microbatch, data, bytes);
}

static Status emit(void *context, ValueId output, int microbatch, const void *data, size_t bytes) {
  const Inference *job = context;
  for (size_t i = 0; i < job->given.graph->n_outputs; i++)
    if (job->given.graph->outputs[i] == output)
      memcpy(job->emitted[i][microbatch], data, bytes);
  return OK;
}

static void *infer(void *argument) {
  Inference *job = argument;
  Executor *executor;
  Store *store;
  if ((job->status = store_open(&backend_reference, 0, 1, &store)) != OK)
    return NULL;
  ExecutorSpec spec = {.plan = job->plan,
                       .rank = job->rank,
                       .store = store,
                       .transport = job->plan->ranks > 1 ? job->link->transport : NULL,
                       .endpoint = job->plan->ranks > 1 ? job->link->endpoints[CHANNEL_DATA] : NULL,
                       .load = case_load,
                       .load_context = &job->given};
  StepWork work = {.feed = feed, .emit = emit, .context = job};
  double loss;
  job->status = executor_open(&spec, &executor);
  if (job->status == OK) {
    job->status = executor_run(executor, &work, &loss);
    executor_close(executor);
  }
  store_close(store);
  return NULL;
}

static void check_outputs(const Graph *g, float (*emitted)[INFERRED][ROWS * WIDTH]) {
  Arena *arena = arena_create();
  void **data;
  CaseData given = {.graph = g};
  ASSERT_OK(ARENA_NEW(arena, data, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    assert_non_null(data[v] = arena_alloc(arena, graph_value_bytes(g, v), 1));
    if (graph_value(g, v)->role == ROLE_PARAMETER)
      case_load(&given, v, data[v], graph_value_bytes(g, v));
  }
  for (int m = 0; m < INFERRED; m++) {
    for (size_t i = 0; i < g->n_inputs; i++)
      case_feed(&given, g->inputs[i], m, data[g->inputs[i]], graph_value_bytes(g, g->inputs[i]));
    for (size_t i = 0; i < g->n_nodes; i++)
      case_interpret_node(g, g->nodes[i], data);
    for (size_t i = 0; i < g->n_outputs; i++)
      assert_memory_equal(emitted[i][m], data[g->outputs[i]], graph_value_bytes(g, g->outputs[i]));
  }
  arena_destroy(arena);
}

/* Also outputs in the middle of the graph, and one that is an input. */
static void inference_emits_every_output(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 4; seed++)
    for (int ranks = 1; ranks <= MOST_RANKS; ranks++) {
      static float emitted[MOST_OUTPUTS][INFERRED][ROWS * WIDTH];
      memset(emitted, 0, sizeof emitted);
      Arena *arena = arena_create();
      RandomGraph r = random_forward(arena, seed, 20);
      ASSERT_OK(graph_add_output(r.g, r.flow[r.n_flow / 2]));
      ASSERT_OK(graph_add_output(r.g, r.g->inputs[0]));
      case_set_workspaces(r.g, &backend_reference);
      Plan plan;
      Link links[MOST_RANKS];
      Inference jobs[MOST_RANKS];
      assert_true(case_plan(arena, r.g, "forward", ranks, 1, INFERRED, seed, &plan));
      ASSERT_OK(transport_local_open(ranks, links));
      for (int k = 0; k < ranks; k++) {
        jobs[k] = (Inference){.plan = &plan, .rank = k, .link = &links[k], .given = {.graph = r.g}, .emitted = emitted};
        assert_int_equal(pthread_create(&jobs[k].thread, NULL, infer, &jobs[k]), 0);
      }
      for (int k = 0; k < ranks; k++)
        pthread_join(jobs[k].thread, NULL);
      for (int k = 0; k < ranks; k++)
        assert_int_equal(jobs[k].status, OK);
      transport_local_close(ranks, links);
      check_outputs(r.g, emitted);
      arena_destroy(arena);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_do_not_depend_on_the_pipeline),
      cmocka_unit_test(roles_do_not_depend_on_the_pipeline),
      cmocka_unit_test(rows_are_dense_gradients),
      cmocka_unit_test(sparse_adam_does_not_depend_on_the_pipeline),
      cmocka_unit_test(buffers_are_not_shared),
      cmocka_unit_test(memory_of_a_device_is_copied),
      cmocka_unit_test(kernels_are_prepared_once),
      cmocka_unit_test(inference_emits_every_output),
  };
  part = getenv("ONNXPIPE_TEST_SAMPLE") ? 3 : 1;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
