/* Graphs over one store: what one trains another computes with, it is loaded once and takes memory once. */
#include "tests/runtime/executor_case.h"

enum { STEPS_OF_GRAPH = 20, MICROBATCHES = 3 };

/* The reference as a device of its own, whose memory is reached through copies alone. */
static size_t allocated;

static Status count_alloc(Stream *stream, size_t bytes, void **memory) {
  allocated += bytes;
  return backend_reference.alloc(stream, bytes, memory);
}

static Backend device(void) {
  Backend device = backend_reference;
  device.is_host = false;
  device.alloc = count_alloc;
  device.pin = backend_reference.alloc;
  device.unpin = backend_reference.release;
  return device;
}

/* For what is in the store already. */
static Status refuse_to_load(void *context, ValueId value, void *data, size_t bytes) {
  (void)context;
  (void)value;
  (void)data;
  (void)bytes;
  return fail(E_IO, "loaded twice");
}

typedef struct {
  CaseData given;
  float emitted[MICROBATCHES][ROWS * WIDTH];
} Inference;

static Status feed(void *context, ValueId value, int microbatch, void *data, size_t bytes) {
  return case_feed(&((Inference *)context)->given, value, microbatch, data, bytes);
}

static Status emit(void *context, ValueId output, int microbatch, const void *data, size_t bytes) {
  (void)output;
  memcpy(((Inference *)context)->emitted[microbatch], data, bytes);
  return OK;
}

static void infer(const Plan *plan, Store *store, Inference *inference) {
  Executor *executor;
  ExecutorSpec spec = {.plan = plan, .store = store, .load = refuse_to_load};
  StepWork work = {.feed = feed, .emit = emit, .context = inference};
  double loss;
  ASSERT_OK(executor_open(&spec, &executor));
  ASSERT_OK(executor_run(executor, &work, &loss));
  executor_close(executor);
}

/* The forward graph with these parameters, by the initializers that two graphs share. */
static void check_outputs(Arena *arena, const Graph *g, const CaseResult *trained, const Inference *inference) {
  void **data;
  ASSERT_OK(ARENA_NEW(arena, data, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++)
    data[v] =
        graph_value(g, v)->role == ROLE_PARAMETER ? trained->values[v] : arena_alloc(arena, graph_value_bytes(g, v), 1);
  for (int m = 0; m < MICROBATCHES; m++) {
    for (size_t i = 0; i < g->n_inputs; i++)
      case_feed((void *)&inference->given, g->inputs[i], m, data[g->inputs[i]], graph_value_bytes(g, g->inputs[i]));
    for (size_t i = 0; i < g->n_nodes; i++)
      case_interpret_node(g, g->nodes[i], data);
    assert_memory_equal(inference->emitted[m], data[g->outputs[0]], graph_value_bytes(g, g->outputs[0]));
  }
}

static void what_trains_is_what_another_graph_computes_with(void **state) {
  (void)state;
  Backend devices[] = {backend_reference, device()};
  for (int d = 0; d < 2; d++)
    for (uint64_t seed = 0; seed < 4; seed++) {
      Arena *arena = arena_create();
      Graph *training = case_graph(arena, &devices[d], seed, STEPS_OF_GRAPH);
      Graph *forward = random_forward(arena, seed, STEPS_OF_GRAPH).g; /* the same nodes and values, in front */
      case_set_workspaces(forward, &devices[d]);
      CaseResult expected = case_interpret(arena, training, MICROBATCHES);
      Plan train, run;
      assert_true(case_plan(arena, training, "1f1b", 1, 1, MICROBATCHES, seed, &train));
      assert_true(case_plan(arena, forward, "forward", 1, 1, MICROBATCHES, seed, &run));
      Store *store;
      Inference inference = {.given = {.graph = forward}};
      CaseRun trains = {.plan = &train, .expected = &expected};
      ASSERT_OK(store_open(&devices[d], 0, 1, &store));
      ASSERT_OK(case_train_on(&trains, store));
      infer(&run, store, &inference);
      check_outputs(arena, forward, &expected, &inference);
      store_close(store);
      arena_destroy(arena);
    }
}

static void what_is_stored_outlives_its_executors(void **state) {
  (void)state;
  Backend backend = device();
  Arena *arena = arena_create();
  Graph *g = case_graph(arena, &backend, 3, STEPS_OF_GRAPH);
  CaseResult expected = case_interpret(arena, g, MICROBATCHES);
  Plan plan;
  assert_true(case_plan(arena, g, "1f1b", 1, 1, MICROBATCHES, 3, &plan));
  CaseRun run = {.plan = &plan, .expected = &expected};
  Store *store;
  Executor *executor;
  allocated = 0;
  ASSERT_OK(store_open(&backend, 0, 1, &store));
  ASSERT_OK(case_train_on(&run, store));
  size_t total = plan.rank_memory[0].total_bytes, stored = plan.rank_memory[0].stored_bytes;
  assert_int_equal(allocated, total); /* what was planned */
  assert_int_equal(stored, plan.rank_memory[0].parameter_bytes + plan.rank_memory[0].gradient_bytes +
                               plan.rank_memory[0].state_bytes);
  ExecutorSpec spec = {.plan = &plan, .store = store, .load = refuse_to_load};
  ASSERT_OK(executor_open(&spec, &executor));
  assert_int_equal(allocated, total + total - stored);
  for (ValueId v = 0; v < g->n_values; v++) {
    char data[WIDTH * WIDTH * sizeof(float)];
    const Value *value = graph_value(g, v);
    if (!case_is_result(g, v))
      continue;
    ASSERT_OK(executor_read(executor, v, data, graph_value_bytes(g, v)));
    assert_memory_equal(data, expected.values[v], graph_value_bytes(g, v));
    if (value->role != ROLE_PARAMETER)
      continue;
    memset(data, 0, sizeof data);
    ASSERT_OK(store_read(store, value->initializer, data, graph_value_bytes(g, v)));
    assert_memory_equal(data, expected.values[v], graph_value_bytes(g, v));
  }
  executor_close(executor);
  store_close(store);
  arena_destroy(arena);
}

/* A step of the one, then of the other, and so on, each with the first one's update: what it gives node by node. */
static void take_turns(Executor *const executors[2], const Plan plans[2], void **data) {
  const Graph *g = plans[0].graph;
  CaseResult expected = {0};
  for (int step = 0; step < STEPS; step++) {
    int turn = step % 2, microbatches = plans[turn].microbatches;
    CaseData given = {plans[turn].graph, step};
    StepWork work = {.loss_scale = case_loss_scale(microbatches),
                     .counter = {7, step, 0},
                     .samples = ROWS,
                     .feed = case_feed,
                     .context = &given};
    double loss, scalars[STEP_SCALARS];
    case_interpret_step(g, step, microbatches, data, &expected);
    ASSERT_OK(executor_run(executors[turn], &work, &loss));
    assert_true(loss == expected.losses[step]);
    case_scalars(step, scalars);
    ASSERT_OK(executor_update(executors[0], scalars));
  }
  for (ValueId v = 0; v < g->n_values; v++) {
    char got[WIDTH * WIDTH * sizeof(float)];
    if (!case_is_result(g, v) || !executor_holds(executors[0], v))
      continue;
    ASSERT_OK(executor_read(executors[0], v, got, graph_value_bytes(g, v)));
    assert_memory_equal(got, data[v], graph_value_bytes(g, v));
  }
}

/* An epoch's rest: its gradients are added up where the first graph's updates find them, it computes in the first one's
 * memory, and both together take what was planned. */
static void an_uneven_batch_adds_up_for_the_same_updates(void **state) {
  (void)state;
  enum { REST = 2 };
  Backend devices[] = {backend_reference, device()};
  for (int d = 0; d < 2; d++)
    for (uint64_t seed = 0; seed < 4; seed++) {
      Arena *arena = arena_create();
      Graph *whole = case_graph(arena, &devices[d], seed, STEPS_OF_GRAPH);
      Graph *rest = case_graph(arena, &devices[d], seed, STEPS_OF_GRAPH);
      CaseData given = {.graph = whole};
      Plan plans[2];
      size_t *beside;
      Store *store;
      Executor *executors[2];
      assert_true(case_plan(arena, whole, seed % 2 ? "zb-h1" : "1f1b", 1, 1, MICROBATCHES, seed, &plans[0]));
      ASSERT_OK(plan_follow(arena, rest, &plans[0], REST, ROWS, &plans[1], &beside));
      allocated = 0;
      ASSERT_OK(store_open(&devices[d], 0, 1, &store));
      ExecutorSpec spec = {.plan = &plans[0],
                           .store = store,
                           .load = case_load,
                           .load_context = &given,
                           .work_bytes = memory_work_bytes(&plans[1].rank_memory[0])};
      ASSERT_OK(executor_open(&spec, &executors[0]));
      spec = (ExecutorSpec){.plan = &plans[1], .store = store, .load = refuse_to_load, .host = executors[0]};
      ASSERT_OK(executor_open(&spec, &executors[1]));
      if (d)
        assert_int_equal(allocated, plans[0].rank_memory[0].total_bytes + beside[0]);
      take_turns(executors, plans, case_values(arena, plans[0].graph));
      executor_close(executors[1]);
      executor_close(executors[0]);
      store_close(store);
      arena_destroy(arena);
    }
}

static void a_graph_of_other_shapes_is_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Store *store;
  Executor *executor;
  Plan plan;
  float data[WIDTH];
  char message[96];
  ASSERT_OK(store_open(&backend_reference, 0, 1, &store));
  ASSERT_FAILS(E_USAGE, "the rank does not hold initializer 2", store_read(store, 2, data, sizeof data));
  for (int turn = 0; turn < 2; turn++) {
    Graph *g = random_forward(arena, 1, STEPS_OF_GRAPH).g;
    case_set_workspaces(g, &backend_reference);
    ValueId row = 0, square = graph_node(g, graph_value(g, g->outputs[0])->producer)->in[1];
    while (graph_value(g, row)->role != ROLE_PARAMETER || graph_value(g, row)->shape.rank != 1)
      row++;
    if (turn == 1)
      graph_value(g, row)->initializer = (int)square;
    assert_true(case_plan(arena, g, "forward", 1, 1, 1, 1, &plan));
    CaseData given = {.graph = g};
    ExecutorSpec spec = {.plan = &plan, .store = store, .load = case_load, .load_context = &given};
    if (turn == 0) {
      ASSERT_OK(executor_open(&spec, &executor));
      executor_close(executor);
      snprintf(message, sizeof message, "initializer %u has 100 bytes, not 20", square);
      ASSERT_FAILS(E_USAGE, message, store_read(store, (int)square, data, sizeof data));
    } else {
      assert_int_equal(executor_open(&spec, &executor), E_USAGE);
      assert_non_null(strstr(status_message(), "is float32 [5] in this graph, float32 [5,5] in one that ran before"));
    }
  }
  store_close(store);
  arena_destroy(arena);
}

static void two_parameters_of_one_initializer_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Store *store;
  Executor *executor;
  Plan plan;
  Graph *g = random_forward(arena, 1, STEPS_OF_GRAPH).g;
  CaseData given = {.graph = g};
  case_set_workspaces(g, &backend_reference);
  for (ValueId v = 0; v < g->n_values; v++)
    if (graph_value(g, v)->role == ROLE_PARAMETER)
      graph_value(g, v)->initializer = graph_value(g, v)->shape.rank; /* one for all rows, one for all squares */
  assert_true(case_plan(arena, g, "forward", 1, 1, 1, 1, &plan));
  ASSERT_OK(store_open(&backend_reference, 0, 1, &store));
  ExecutorSpec spec = {.plan = &plan, .store = store, .load = case_load, .load_context = &given};
  assert_int_equal(executor_open(&spec, &executor), E_USAGE);
  assert_non_null(strstr(status_message(), "is not the only parameter of the graph that has initializer"));
  store_close(store);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_trains_is_what_another_graph_computes_with),
      cmocka_unit_test(what_is_stored_outlives_its_executors),
      cmocka_unit_test(an_uneven_batch_adds_up_for_the_same_updates),
      cmocka_unit_test(a_graph_of_other_shapes_is_refused),
      cmocka_unit_test(two_parameters_of_one_initializer_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
