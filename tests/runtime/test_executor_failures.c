/* What goes wrong on one rank ends all of them, with one message that says where. Two stages on two ranks: a table is
 * picked from, the picked rows go through a product. */
#include "tests/test.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/loss.h"
#include "partitioner/plan/internal.h"
#include "runtime/executor/executor.h"

enum { ROWS = 3, WIDTH = 5, MICROBATCHES = 3, RANKS = 2 };

typedef struct {
  Arena *arena;
  Graph *g;
  Plan plan;
  int64_t index;   /* of the last row of microbatch 1 */
  float target;    /* of microbatch 1 */
  bool load_fails; /* of the product's weight */
} Case;

typedef struct {
  pthread_t thread;
  Case *c;
  int rank;
  const Link *link;
  Status status;
  char message[512];
} Job;

static ValueId add_value(Graph *g, const char *name, DType dtype, int rank, const int64_t *dim, Role role) {
  ValueId v;
  ASSERT_OK(graph_add_value(g, name, dtype, shape_of(rank, dim), role, &v));
  graph_value(g, v)->initializer = role == ROLE_PARAMETER ? (int)v : -1;
  return v;
}

static ValueId add_node(Graph *g, OpKind op, const char *name, ValueId a, ValueId b) {
  NodeId node;
  ASSERT_OK(graph_add_node(g, op, name, (ValueId[]){a, b}, 2, NULL, 0, NULL, 1, &node));
  return graph_node(g, node)->out[0];
}

static void make(Case *c) {
  *c = (Case){.arena = arena_create(), .index = 1, .target = 1};
  ASSERT_OK(graph_create(c->arena, "pick", &c->g));
  int64_t square[] = {WIDTH, WIDTH}, rows[] = {ROWS};
  ValueId indices = add_value(c->g, "indices", I64, 1, rows, ROLE_INPUT);
  ValueId table = add_value(c->g, "table", F32, 2, square, ROLE_PARAMETER);
  ValueId weight = add_value(c->g, "weight", F32, 2, square, ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(c->g, indices));
  ValueId y = add_node(c->g, OP_MatMul, "project", add_node(c->g, OP_Gather, "pick", table, indices), weight);
  ASSERT_OK(graph_add_output(c->g, y));
  size_t unreached;
  LossSpec loss = {
      .kind = LOSS_MSE, .output = y, .target_dtype = F32, .target_shape = shape_of(2, (int64_t[]){ROWS, WIDTH})};
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_SGD);
  ASSERT_OK(loss_append(c->g, &loss));
  ASSERT_OK(autodiff_append(c->g, &unreached));
  ASSERT_OK(optimizer_append(c->g, &optimizer));
  for (size_t i = 0; i < c->g->n_nodes; i++)
    c->g->nodes[i]->workspace_bytes[0] = backend_workspace_bytes(&backend_reference, c->g, c->g->nodes[i]);
  c->plan = (Plan){.graph = c->g, .ranks = RANKS, .chunks = 1, .stages = 2, .microbatches = MICROBATCHES};
  ASSERT_OK(stages_assign(c->g, c->arena, (int[]){0, 1, 1}, 2, &c->plan.cuts));
  ASSERT_OK(schedule_generate(c->arena, "1f1b", RANKS, 1, MICROBATCHES, NULL, &c->plan.schedule));
  ASSERT_OK(plan_memory(c->arena, &c->plan));
}

static Status load(void *context, ValueId value, void *data, size_t bytes) {
  const Case *c = context;
  if (c->load_fails && strcmp(graph_value(c->g, value)->name, "weight") == 0)
    return fail(E_IO, "model.bin: cannot be read");
  for (size_t i = 0; i < bytes / sizeof(float); i++)
    ((float *)data)[i] = 0.5f;
  return OK;
}

static Status feed(void *context, ValueId value, int microbatch, void *data, size_t bytes) {
  const Case *c = context;
  memset(data, 0, bytes);
  if (microbatch == 1 && value == c->g->target)
    ((float *)data)[7] = c->target;
  if (microbatch == 1 && value != c->g->target)
    ((int64_t *)data)[ROWS - 1] = c->index;
  return OK;
}

/* One step. */
static Status run(const Job *job) {
  Executor *executor;
  Store *store;
  TRY(store_open(&backend_reference, 0, 1, &store));
  ExecutorSpec spec = {.plan = &job->c->plan,
                       .rank = job->rank,
                       .store = store,
                       .transport = job->link->transport,
                       .endpoint = job->link->endpoints[CHANNEL_DATA],
                       .load = load,
                       .load_context = job->c};
  StepWork work = {.loss_scale = 1, .feed = feed, .context = job->c};
  double loss;
  Status status = executor_open(&spec, &executor);
  if (status != OK) {
    job->link->transport->withdraw(job->link->endpoints[CHANNEL_CONTROL], status_message());
    store_close(store);
    return status;
  }
  status = executor_run(executor, &work, &loss);
  executor_close(executor);
  store_close(store);
  return status;
}

static void *work(void *argument) {
  Job *job = argument;
  job->status = run(job);
  snprintf(job->message, sizeof job->message, "%s", job->status == OK ? "" : status_message());
  return NULL;
}

static void expect(Case *c, Status code0, const char *message0, Status code1, const char *message1) {
  Link links[RANKS];
  Job jobs[RANKS];
  ASSERT_OK(transport_local_open(RANKS, links));
  for (int r = 0; r < RANKS; r++) {
    jobs[r] = (Job){.c = c, .rank = r, .link = &links[r]};
    assert_int_equal(pthread_create(&jobs[r].thread, NULL, work, &jobs[r]), 0);
  }
  for (int r = 0; r < RANKS; r++)
    pthread_join(jobs[r].thread, NULL);
  transport_local_close(RANKS, links);
  arena_destroy(c->arena);
  assert_string_equal(jobs[0].message, message0);
  assert_int_equal(jobs[0].status, code0);
  assert_string_equal(jobs[1].message, message1);
  assert_int_equal(jobs[1].status, code1);
}

static void sound_case_runs(void **state) {
  (void)state;
  Case c;
  make(&c);
  expect(&c, OK, "", OK, "");
}

static void loss_that_is_no_number_ends_the_step(void **state) {
  (void)state;
  Case c;
  make(&c);
  c.target = NAN;
  expect(&c, E_COMM, "rank 1: the loss of microbatch 1 is NaN", E_MODEL, "the loss of microbatch 1 is NaN");
  make(&c);
  c.target = INFINITY;
  expect(&c, E_COMM, "rank 1: the loss of microbatch 1 is infinite", E_MODEL, "the loss of microbatch 1 is infinite");
}

static void kernel_that_fails_names_its_node(void **state) {
  (void)state;
  Case c;
  make(&c);
  c.index = 5;
  expect(&c, E_MODEL, "microbatch 1: node 'pick' (Gather): index 5 at position 2 is outside axis 0 of [5,5]", E_COMM,
         "rank 0: microbatch 1: node 'pick' (Gather): index 5 at position 2 is outside axis 0 of [5,5]");
}

static void weight_that_cannot_be_read_ends_all(void **state) {
  (void)state;
  Case c;
  make(&c);
  c.load_fails = true;
  expect(&c, E_COMM, "rank 1: model.bin: cannot be read", E_IO, "model.bin: cannot be read");
}

static void what_does_not_fit_is_refused(void **state) {
  (void)state;
  Case c;
  Executor *executor;
  Link links[3];
  make(&c);
  ExecutorSpec spec = {.plan = &c.plan, .load = load, .load_context = &c};
  ASSERT_FAILS(E_USAGE, "the plan is for 2 ranks, there are 1", executor_open(&spec, &executor));
  ASSERT_OK(transport_local_open(3, links));
  spec.transport = links[0].transport;
  spec.endpoint = links[0].endpoints[CHANNEL_DATA];
  ASSERT_FAILS(E_USAGE, "the plan is for 2 ranks, there are 3", executor_open(&spec, &executor));
  transport_local_close(3, links);
  arena_destroy(c.arena);
}

static ValueId find_value(const Graph *g, const char *name) {
  ValueId v = 0;
  while (strcmp(graph_value(g, v)->name, name) != 0)
    v++;
  return v;
}

static void values_are_read_and_written_where_they_lie(void **state) {
  (void)state;
  Case c;
  Executor *executor;
  Link links[RANKS];
  float data[WIDTH * WIDTH];
  make(&c);
  ASSERT_OK(transport_local_open(RANKS, links));
  Store *store;
  ASSERT_OK(store_open(&backend_reference, 0, 1, &store));
  ExecutorSpec spec = {.plan = &c.plan,
                       .rank = 1,
                       .store = store,
                       .transport = links[1].transport,
                       .endpoint = links[1].endpoints[CHANNEL_DATA],
                       .load = load,
                       .load_context = &c};
  ASSERT_OK(executor_open(&spec, &executor));
  ValueId table = find_value(c.g, "table"), weight = find_value(c.g, "weight");
  assert_true(executor_holds(executor, weight) && !executor_holds(executor, table));
  ASSERT_OK(executor_read(executor, weight, data, sizeof data));
  assert_true(data[24] == 0.5f);
  data[24] = 2;
  ASSERT_OK(executor_write(executor, weight, data, sizeof data));
  data[24] = 0;
  ASSERT_OK(executor_read(executor, weight, data, sizeof data));
  assert_true(data[24] == 2);
  ASSERT_FAILS(E_USAGE, "rank 1 does not hold 'table'", executor_read(executor, table, data, sizeof data));
  ASSERT_FAILS(E_USAGE, "'weight' has 100 bytes, not 99", executor_read(executor, weight, data, 99));
  executor_close(executor);
  store_close(store);
  transport_local_close(RANKS, links);
  arena_destroy(c.arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sound_case_runs),
      cmocka_unit_test(loss_that_is_no_number_ends_the_step),
      cmocka_unit_test(kernel_that_fails_names_its_node),
      cmocka_unit_test(weight_that_cannot_be_read_ends_all),
      cmocka_unit_test(what_does_not_fit_is_refused),
      cmocka_unit_test(values_are_read_and_written_where_they_lie),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
