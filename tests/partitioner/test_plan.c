/* Plans: the cut against brute force over real stages, memory limits, files that come back and files that lie. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "partitioner/report/plan_report.h"
#include "tests/partitioner/plan_case.h"

/* The slowest stage of a graph whose stages are assigned, a rank each, from its nodes and its cuts. */
static double slowest_stage(const Graph *g, const Stages *s, const double *bytes_per_second) {
  double slowest = 0;
  for (int k = 0; k < s->n_stages; k++) {
    double seconds = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
      if (g->nodes[i]->phase != PHASE_UPDATE && g->nodes[i]->stage == k)
        seconds += cost_seconds(op_cost(g, g->nodes[i]), &devices[k]);
    for (int c = k - 1; c <= k; c++)
      if (c >= 0 && c < s->n_stages - 1)
        seconds += (double)(s->cuts[c].forward_bytes + s->cuts[c].backward_bytes) / bytes_per_second[c];
    slowest = fmax(slowest, seconds);
  }
  return slowest;
}

/* The best over all ways to put the nodes into three stages that stages_assign takes; or over the cuts of their order.
 */
static double brute_force(Graph *g, Arena *arena, bool every_way, const double *bytes_per_second) {
  int n = random_n_forward(g), ways = 1;
  double best = INFINITY;
  int *stage_of = arena_alloc(arena, g->n_nodes, sizeof *stage_of);
  for (int i = 0; i < n && every_way; i++)
    ways *= 3;
  for (int way = 0; way < (every_way ? ways : n * n); way++) {
    Stages s;
    for (int i = 0, rest = way; i < n; i++, rest /= 3)
      stage_of[i] = every_way ? rest % 3 : (i >= way / n) + (i >= way % n);
    Arena *own = arena_create();
    if (stages_assign(g, own, stage_of, 3, &s) == OK && s.stages[0].n_nodes[0] && s.stages[1].n_nodes[0] &&
        s.stages[2].n_nodes[0])
      best = fmin(best, slowest_stage(g, &s, bytes_per_second));
    arena_destroy(own);
  }
  return best;
}

/* Every other time with devices that are unlike in each of their speeds, one of them behind a bus. */
static void cuts_are_those_of_brute_force(void **state) {
  (void)state;
  int exhaustive = 0, better = 0;
  for (uint64_t seed = 1; seed <= 60; seed++) {
    Arena *arena = arena_create();
    uint64_t r = seed;
    Graph *g = random_training(arena, seed, 4 + (int)(seed % 9));
    PlanRequest request = request_of(3, 4, "1f1b");
    request.link.bytes_per_second = seed % 3 ? 1e9 : 1e7; /* where bytes decide */
    double rate[2] = {request.link.bytes_per_second, request.link.bytes_per_second}, staging[3] = {0, 0, 0};
    for (int k = 0; k < 3 && seed % 2; k++) {
      devices[k].flops_per_second *= 1 + random_below(&r, 9);
      devices[k].bytes_per_second *= 1 + random_below(&r, 9);
      devices[k].node_overhead_seconds *= random_below(&r, 9);
    }
    if (seed % 4 == 1) {
      request.staging_bytes_per_second = staging;
      staging[seed % 3] = 3e7;
      staging[1] = seed % 8 == 1 ? 3e7 : staging[1]; /* two of them, with a way of their own */
      request.direct_bytes_per_second = 5e7;
      for (int c = 0; c < 2; c++)
        if (staging[c] > 0 && staging[c + 1] > 0)
          rate[c] = 5e7;
        else if (staging[c] > 0 || staging[c + 1] > 0)
          rate[c] = 1 / (1 / rate[c] + 1 / 3e7);
    }
    Plan plan;
    Status status = plan_make(arena, g, &request, &plan);
    bool small = random_n_forward(g) <= 11;
    double best = brute_force(g, arena, false, rate), best_of_all = small ? brute_force(g, arena, true, rate) : 0;
    exhaustive += small;
    better += small && best_of_all < best * (1 - 1e-3);
    if (status == OK) {
      ASSERT_OK(stages_assign(g, arena, plan.stage_of, 3, &plan.cuts)); /* brute force has left its own */
      double found = slowest_stage(g, &plan.cuts, rate);
      if (found > best * (1 + 1e-9) || found < best_of_all * (1 - 1e-9) || (small && found > best_of_all * (1 + 1e-3)))
        FAIL_TEST("seed %d: %.17g, brute force %.17g, in any order %.17g", (int)seed, found, best, best_of_all);
    } else {
      assert_int_equal(status, E_USAGE);
      assert_true(isinf(small ? best_of_all : best));
    }
    arena_destroy(arena);
  }
  assert_true(exhaustive >= 12 && better >= 5);
}

static void every_schedule_makes_a_plan(void **state) {
  (void)state;
  for (int n = 0; schedule_names[n]; n++)
    for (int ranks = 1; ranks <= 4; ranks++)
      for (int chunks = 1; chunks <= 2; chunks++) {
        Arena *arena = arena_create();
        Graph *g = layers_of(arena, 9, 4, 8);
        PlanRequest request = request_of(ranks, 5, schedule_names[n]);
        request.chunks = chunks;
        Plan plan;
        Status status = plan_make(arena, g, &request, &plan);
        if (status != OK) { /* not every schedule has so many stages a rank */
          assert_int_equal(status, E_USAGE);
        } else {
          assert_int_equal(plan.stages, ranks * chunks);
          assert_string_equal(plan.schedule.name, schedule_names[n]);
          assert_true(plan.step_seconds > 0 && plan.update_seconds > 0 && plan.update_seconds < plan.step_seconds);
          assert_true(plan.bubble >= 0 && plan.bubble < 1);
        }
        arena_destroy(arena);
      }
}

static void a_slow_device_gets_less(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Plan plan;
  PlanRequest request = request_of(2, 4, "1f1b");
  devices[1].flops_per_second /= 3;
  devices[1].bytes_per_second /= 3;
  devices[1].node_overhead_seconds *= 3;
  ASSERT_OK(plan_make(arena, layers_of(arena, 40, 4, 8), &request, &plan));
  int first = plan.reports[0].last + 1, second = plan.reports[1].last - plan.reports[1].first + 1;
  assert_in_range(first, 85, 95); /* three quarters of 121 nodes */
  assert_int_equal(first + second, 121);
  arena_destroy(arena);
}

/* A table of 1000 rows that is looked up, then `layers`; trained by AdamW. */
static Graph *table_of(Arena *arena, int layers, int rows, int width) {
  RandomGraph r = {0};
  ASSERT_OK(graph_create(arena, "table", &r.g));
  Shape indices = shape_of(1, (int64_t[]){rows}), weight = shape_of(2, (int64_t[]){width, width});
  ValueId v = random_value(&r, "x", indices, ROLE_INPUT);
  graph_value(r.g, v)->dtype = I64;
  ASSERT_OK(graph_add_input(r.g, v));
  ValueId table = random_value(&r, "table", shape_of(2, (int64_t[]){1000, width}), ROLE_PARAMETER);
  v = random_node(&r, OP_Gather, (ValueId[]){table, v}, 2, NULL, 0, 1);
  for (int i = 0; i < layers; i++) {
    v = random_node(&r, OP_MatMul, (ValueId[]){v, random_value(&r, "w", weight, ROLE_PARAMETER)}, 2, NULL, 0, 1);
    v = random_node(&r, OP_Tanh, &v, 1, NULL, 0, 1);
  }
  ASSERT_OK(graph_add_output(r.g, v));
  size_t unreached;
  LossSpec loss = {
      .kind = LOSS_MSE, .output = v, .target_dtype = F32, .target_shape = shape_of(2, (int64_t[]){rows, width})};
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_ADAMW);
  ASSERT_OK(loss_append(r.g, &loss));
  ASSERT_OK(autodiff_append(r.g, &unreached));
  ASSERT_OK(optimizer_append(r.g, &optimizer));
  return r.g;
}

/* A slow rank with room and two fast ones without: the table stays on the slow one, which gets little else. */
static void a_large_table_lies_where_there_is_room(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = table_of(arena, 24, 16, 16);
  PlanRequest request = request_of(3, 4, "auto");
  size_t limits[3] = {0, 150000, 150000}; /* the table with its gradient and states is 256,000 */
  double staging[3] = {0, 1e9, 1e9};
  Plan plan;
  request.memory_limits = limits;
  request.staging_bytes_per_second = staging;
  request.synthesize = true;
  for (int r = 1; r < 3; r++) {
    devices[r].flops_per_second *= 20;
    devices[r].bytes_per_second *= 20;
    devices[r].node_overhead_seconds /= 20;
  }
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_in_range(plan.reports[0].last, 0, 4);
  assert_true(plan.rank_memory[0].total_bytes > 256000);
  for (int r = 1; r < 3; r++)
    assert_true(plan.rank_memory[r].total_bytes <= limits[r]);
  limits[0] = 150000;
  assert_int_equal(plan_make(arena, g, &request, &plan), E_LIMIT);
  arena_destroy(arena);
}

static void measurements_replace_estimates(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 20, 4, 8);
  double *seconds = arena_alloc(arena, g->n_nodes, sizeof *seconds);
  for (size_t i = 0; i < g->n_nodes; i++)
    seconds[i] = -1;
  seconds[0] = 1; /* the first node takes for ever, on both ranks */
  Profile profiles[2] = {{.node_seconds = seconds}, {.node_seconds = seconds}};
  PlanRequest request = request_of(2, 4, "1f1b");
  request.profiles = profiles;
  Plan plan;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_int_equal(plan.reports[0].last, 0);
  assert_true(plan.reports[0].forward_seconds == 1);
  double *other = arena_alloc(arena, g->n_nodes, sizeof *other); /* the second rank's device runs everything at once */
  profiles[1].node_seconds = other;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_int_equal(plan.reports[0].last, 0);
  assert_true(plan.reports[1].forward_seconds == 0);
  seconds[0] = 0; /* and so does the first node */
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_int_equal(plan.reports[0].last, 0);
  arena_destroy(arena);
}

static size_t largest_rank(const Plan *plan) {
  size_t largest = 0;
  for (int r = 0; r < plan->ranks; r++)
    largest = plan->rank_memory[r].total_bytes > largest ? plan->rank_memory[r].total_bytes : largest;
  return largest;
}

/* The number in the message of a failed plan. */
static size_t limit_that_would_do(void) {
  const char *at = strstr(status_message(), "a limit of ");
  assert_non_null(at);
  return strtoull(at + strlen("a limit of "), NULL, 10);
}

static void limits_are_kept_or_the_smallest_is_named(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 12, 32, 16);
  PlanRequest request = request_of(4, 6, "1f1b");
  size_t limits[4];
  Plan plan;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  size_t free_choice = largest_rank(&plan);
  request.memory_limits = limits;
  for (int r = 0; r < 4; r++)
    limits[r] = 1000;
  assert_int_equal(plan_make(arena, g, &request, &plan), E_LIMIT);
  size_t least = limit_that_would_do();
  assert_true(least <= free_choice);
  for (int r = 0; r < 4; r++)
    limits[r] = least;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_true(largest_rank(&plan) <= least);
  for (int r = 0; r < 4; r++)
    limits[r] = least - MEMORY_ALIGNMENT;
  assert_int_equal(plan_make(arena, g, &request, &plan), E_LIMIT);
  assert_int_equal(limit_that_would_do(), least);
  arena_destroy(arena);
}

/* Ranks with two stages share their limit between them; what a message says would do, does. */
static void ranks_with_two_stages_keep_their_limit(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 12, 32, 16);
  PlanRequest request = request_of(3, 6, "interleaved-1f1b");
  size_t limits[3] = {1000, 1000, 1000};
  Plan plan;
  request.chunks = 2;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  size_t free_choice = largest_rank(&plan);
  request.memory_limits = limits;
  assert_int_equal(plan_make(arena, g, &request, &plan), E_LIMIT);
  int lacking = atoi(status_message() + strlen("rank "));
  char expected[64];
  snprintf(expected, sizeof expected, "rank %d (stages %d and %d) lacks ", lacking, lacking, lacking + 3);
  assert_int_equal(strncmp(status_message(), expected, strlen(expected)), 0);
  size_t least = limit_that_would_do();
  assert_true(least < free_choice);
  for (int r = 0; r < 3; r++)
    limits[r] = least;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_true(largest_rank(&plan) <= least);
  arena_destroy(arena);
}

/* One rank with room for next to nothing must not stop the others from taking its share. */
static void unlike_limits_move_the_cuts(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 12, 32, 16);
  PlanRequest request = request_of(3, 4, "1f1b");
  size_t limits[3] = {0};
  Plan plan;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  limits[1] = plan.rank_memory[1].total_bytes * 2 / 3;
  request.memory_limits = limits;
  int before = plan.reports[1].last - plan.reports[1].first;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_true(plan.rank_memory[1].total_bytes <= limits[1]);
  assert_true(plan.reports[1].last - plan.reports[1].first < before);
  arena_destroy(arena);
}

static void auto_prefers_speed_then_memory(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 12, 32, 16);
  PlanRequest request = request_of(4, 6, "auto");
  size_t limits[4];
  Plan best, plan;
  ASSERT_OK(plan_make(arena, g, &request, &best));
  for (int n = 0; schedule_names[n]; n++) {
    request.schedule = schedule_names[n];
    Status status = plan_make(arena, g, &request, &plan);
    if (status == E_USAGE) /* one that needs several stages a rank */
      continue;
    ASSERT_OK(status);
    assert_true(best.step_seconds <= plan.step_seconds * 1.001);
  }
  request.schedule = "naive";
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  for (int r = 0; r < 4; r++)
    limits[r] = largest_rank(&plan);
  request.schedule = "auto";
  request.memory_limits = limits;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_true(largest_rank(&plan) <= limits[0]);
  arena_destroy(arena);
}

static void the_loss_stays_in_the_last_stage(void **state) {
  (void)state;
  Arena *arena = arena_create();
  RandomGraph r = random_forward(arena, 7, 12);
  size_t unreached;
  LossSpec loss = {.kind = LOSS_MSE,
                   .output = r.g->outputs[0],
                   .target_dtype = F32,
                   .target_shape = shape_of(2, (int64_t[]){ROWS, WIDTH})};
  ASSERT_OK(loss_append(r.g, &loss));
  ValueId v = r.g->outputs[0];
  for (int i = 0; i < 40; i++) /* much that comes after the loss */
    v = random_node(&r, OP_Tanh, &v, 1, NULL, 0, 1);
  ASSERT_OK(autodiff_append(r.g, &unreached));
  PlanRequest request = request_of(3, 4, "1f1b");
  Plan plan;
  ASSERT_OK(plan_make(arena, r.g, &request, &plan));
  assert_int_equal(graph_node(r.g, graph_value(r.g, r.g->loss_sum)->producer)->stage, 2);
  arena_destroy(arena);
}

static void too_many_stages_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  PlanRequest request = request_of(5, 2, "gpipe");
  Plan plan;
  ASSERT_FAILS(E_USAGE, "5 stages need 4 cuts, but only 3 are possible",
               plan_make(arena, layers_of(arena, 1, 4, 8), &request, &plan));
  arena_destroy(arena);
}

static void inference_plans_go_forward(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = random_forward(arena, 3, 30).g;
  PlanRequest request = request_of(3, 4, "auto");
  Plan plan;
  const char *text;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_true(plan.schedule.forward_only);
  for (int s = 0; s < 3; s++)
    for (int b = 0; b < plan.stage_memory[s].n_blocks; b++)
      assert_int_equal(plan.stage_memory[s].blocks[b].dies, POINT_F);
  ASSERT_OK(plan_to_text(arena, &plan, &text));
  ASSERT_OK(plan_from_text(arena, text, "text", g, &request, &plan));
  arena_destroy(arena);
}

static void plans_come_back(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 12; seed++) {
    Arena *arena = arena_create();
    int ranks = 1 + (int)(seed % 4);
    PlanRequest request = request_of(ranks, 1 + (int)(seed % 7), seed % 2 ? "1f1b" : "gpipe");
    Plan plan, again;
    const char *text, *text_again;
    request.ties = (Ties){.known = seed % 3, .pairs = (const char *[]){"a = b"}, .n_pairs = seed % 3 == 2};
    ASSERT_OK(plan_make(arena, random_training(arena, seed, 40), &request, &plan));
    ASSERT_OK(plan_to_text(arena, &plan, &text));
    ASSERT_OK(plan_from_text(arena, text, "text", random_training(arena, seed, 40), &request, &again));
    ASSERT_OK(plan_to_text(arena, &again, &text_again));
    assert_string_equal(text, text_again);
    for (int r = 0; r < ranks; r++)
      assert_int_equal(plan.rank_memory[r].total_bytes, again.rank_memory[r].total_bytes);
    arena_destroy(arena);
  }
}

static void files_come_back(void **state) {
  (void)state;
  char path[] = "/tmp/test_plan_XXXXXX";
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  close(descriptor);
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 6, 4, 8);
  PlanRequest request = request_of(2, 3, "gpipe"), peeked = {.devices = devices}, nothing = {0};
  Plan plan, again;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  ASSERT_OK(plan_write(&plan, path));
  ASSERT_OK(plan_peek(arena, path, &peeked));
  assert_int_equal(peeked.ranks, 2);
  assert_int_equal(peeked.chunks, 1);
  assert_int_equal(peeked.microbatches, 3);
  assert_int_equal(peeked.microbatch_size, ROWS);
  assert_string_equal(peeked.schedule, "gpipe");
  assert_string_equal(peeked.loss, "mse");
  assert_string_equal(peeked.optimizer, "adamw");
  assert_string_equal(peeked.device, "cpu");
  assert_string_equal(peeked.precision, "float32");
  assert_string_equal(peeked.model_hash, request.model_hash);
  assert_ptr_equal(peeked.devices, devices);
  ASSERT_OK(plan_read(arena, path, g, &nothing, &again));
  assert_true(again.step_seconds == plan.step_seconds && again.bubble == plan.bubble);
  FILE *file = fopen(path, "w");
  fputs("{\"format\": \n", file);
  fclose(file);
  char expected[200];
  snprintf(expected, sizeof expected, "%s: line 2, column 0: unexpected token near end of file", path);
  ASSERT_FAILS(E_MODEL, expected, plan_read(arena, path, g, &nothing, &again));
  unlink(path);
  snprintf(expected, sizeof expected, "%s: cannot be opened: No such file or directory", path);
  ASSERT_FAILS(E_IO, expected, plan_peek(arena, path, &peeked));
  arena_destroy(arena);
}

/* One device for all, or one a rank: what counts are the backends. */
static void devices_are_compared_by_backend(void **state) {
  (void)state;
  static const char *const same[][2] = {{"cuda", "cuda:1"}, {"cuda", "cuda:0,cuda:1"}, {"cuda:1,cpu", "cuda:0,cpu"}},
                           *const others[][2] = {{"cuda", "cuda:0,cpu"}, {"cuda:0,cpu", "cpu,cuda:0"}, {"cpu", "cuda"}};
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 6, 4, 8);
  for (int i = 0; i < 6; i++) {
    const char *const *pair = i < 3 ? same[i] : others[i - 3], *text;
    PlanRequest request = request_of(2, 3, "gpipe");
    Plan plan, again;
    for (int way = 0; way < 2; way++) {
      request.device = pair[way];
      ASSERT_OK(plan_make(arena, g, &request, &plan));
      ASSERT_OK(plan_to_text(arena, &plan, &text));
      request.device = pair[1 - way];
      assert_int_equal(plan_from_text(arena, text, "p", g, &request, &again), i < 3 ? OK : E_USAGE);
    }
  }
  arena_destroy(arena);
}

/* A path of keys and indices to one value of the plan's JSON, and what is put there; NULL: it is removed. */
typedef struct {
  const char *at, *json, *message;
} Lie;

static void put(json_t *root, const char *at, json_t *value) {
  char copy[100], *save, *key, *next;
  snprintf(copy, sizeof copy, "%s", at);
  key = strtok_r(copy, "/", &save);
  for (; (next = strtok_r(NULL, "/", &save)); key = next)
    root = json_is_array(root) ? json_array_get(root, strtoul(key, NULL, 10)) : json_object_get(root, key);
  if (json_is_array(root))
    value ? json_array_set_new(root, strtoul(key, NULL, 10), value) : json_array_remove(root, strtoul(key, NULL, 10));
  else
    value ? json_object_set_new(root, key, value) : json_object_del(root, key);
}

/* The plan's text with the lie in it is refused with the lie's message. */
static void refuse_lie(const char *text, Lie lie, Graph *g, const PlanRequest *request) {
  Arena *arena = arena_create();
  Plan plan;
  json_t *root = json_loads(text, 0, NULL);
  put(root, lie.at, lie.json ? json_loads(lie.json, JSON_DECODE_ANY, NULL) : NULL);
  char *changed = json_dumps(root, 0);
  Status status = plan_from_text(arena, changed, "p", g, request, &plan);
  if (status == OK || strcmp(status_message(), lie.message) != 0)
    print_error("%s = %s\n", lie.at, lie.json ? lie.json : "nothing");
  assert_int_not_equal(status, OK);
  assert_string_equal(status_message(), lie.message);
  free(changed);
  json_decref(root);
  arena_destroy(arena);
}

static void contradictions_are_named(void **state) {
  (void)state;
  static const Lie lies[] = {
      {"format", "\"x\"", "p: the format is 'x', not 'onnxpipe plan 1'"},
      {"model", "\"fedc\"", "p: the plan is for the model with hash fedc, this one has 0123456789abcdef"},
      {"loss", "\"cross_entropy\"",
       "p: the plan was made with --loss cross_entropy, not mse: make one that fits with `plan --data` or `plan "
       "--loss`"},
      {"loss", "null",
       "p: the plan was made with --loss none, not mse: make one that fits with `plan --data` or `plan --loss`"},
      {"loss", NULL, "p: 'loss' is missing"},
      {"optimizer", "\"sgd\"", "p: the plan was made with --optimizer sgd, not adamw"},
      {"device", "\"cuda:1,cpu\"", "p: the plan was made with --device cuda:1,cpu, not cpu"},
      {"device", "\"cpu,reference\"", "p: the plan was made with --device cpu,reference, not cpu"},
      {"device", "\"cp\"", "p: the plan was made with --device cp, not cpu"},
      {"device", "\"\"", "p: the plan was made with --device , not cpu"},
      {"device", "null", "p: the plan was made with --device none, not cpu"},
      {"device", NULL, "p: 'device' is missing"},
      {"device", "3", "p: 'device' is not a string"},
      {"precision", "\"bf16\"", "p: the plan was made with --precision bf16, not float32"},
      {"precision", NULL, "p: 'precision' is missing"},
      {"ranks", "4", "p: the plan has --ranks 4, asked for is 2"},
      {"ranks", "0", "p: 'ranks' is 0, not from 1 to 65536"},
      {"ranks", "2.5", "p: 'ranks' is not an integer"},
      {"ranks", NULL, "p: 'ranks' is missing"},
      {"chunks", "2", "p: the plan has --chunks 2, asked for is 1"},
      {"microbatches", "5", "p: the plan has --microbatches 5, asked for is 3"},
      {"microbatch_size", "8", "p: the plan has a microbatch size of 8, asked for is 3"},
      {"schedule", "\"1f1b\"", "p: the plan has --schedule 1f1b, asked for is gpipe"},
      {"objective", "\"work\"", "p: 'objective' is 'work', neither span nor makespan"},
      {"predicted/lower_bound_seconds", "-1", "p: 'lower_bound_seconds' is -1, below 0"},
      {"link", "3", "p: 'latency_seconds' is missing"},
      {"link/latency_seconds", "-1", "p: 'latency_seconds' is -1, below 0"},
      {"ties", "[3]", "p: 'ties' holds something that is no string"},
      {"stages", "{}", "p: 'stages' is not an array"},
      {"stages/1", NULL, "p: 'stages' has 1 elements, not 2"},
      {"stages/1/nodes/0", "3", "p: stage 1: nodes 3 to 18: node 3 lies in stage 0"},
      {"stages/1/nodes/0", "10", "p: stage 1: 'first_node' is 'n9', the model has 'n10' there"},
      {"stages/0/nodes/1", "7", "p: stage 0: 'last_node' is 'n8', the model has 'n7' there"},
      {"stages/1/nodes", "[9, 19]", "p: stage 1: nodes 9 to 19 are no range of the 19"},
      {"stages/1/nodes", "[9]", "p: stage 1: 'nodes' is no list of first and last nodes"},
      {"stages/1/nodes", "[9, 16, 18, 18]", "p: node 17 of 19 lies in no stage"},
      {"stages/1/nodes/1", "17", "p: stage 1: 'last_node' is 'loss', the model has 'n17' there"},
      {"stages/0/first_node", "\"a\"", "p: stage 0: 'first_node' is 'a', the model has 'n0' there"},
      {"stages/0/rank", "1", "p: stage 0: 'rank' is 1, its actions stand on rank 0"},
      {"stages/0/parameter_bytes", "7", "p: stage 0: 'parameter_bytes' is 7, from the model it is 960"},
      {"stages/0/cut_after/forward_bytes", "1", "p: stage 0: 'forward_bytes' is 1, from the model it is 128"},
      {"stages/0/cut_after/forward/0/tensor", "\"y\"", "p: stage 0: 'tensor' is 'y', the model has 'n8:Tanh.15' there"},
      {"stages/0/forward_seconds", "\"\"", "p: stage 0: 'forward_seconds' is not a number"},
      {"actions/1", "\"0F0 x\"", "p: 'actions': line 2, column 5: a stage expected"},
      {"predicted/update_seconds", NULL, "p: 'update_seconds' is missing"},
  };
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 6, 4, 8);
  PlanRequest request = request_of(2, 3, "gpipe");
  Plan plan;
  const char *text;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  ASSERT_OK(plan_to_text(arena, &plan, &text));
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
    refuse_lie(text, lies[i], g, &request);
  char message[200];
  snprintf(message, sizeof message, "p: rank 1 (stage 1): 'scratch_bytes' is 0, from the model it is %zu",
           plan.rank_memory[1].scratch_bytes);
  refuse_lie(text, (Lie){"memory/1/scratch_bytes", "0", message}, g, &request);
  snprintf(message, sizeof message, "p: rank 0 (stage 0): it needs %.1f KiB (%zu bytes), the limit is 100 B (100)",
           (double)plan.rank_memory[0].total_bytes / 1024, plan.rank_memory[0].total_bytes);
  refuse_lie(text, (Lie){"memory/0/limit_bytes", "100", message}, g, &request);
  /* actions that do not run: the last one of rank 0 is missing */
  json_t *root = json_loads(text, 0, NULL);
  char *line = strdup(json_string_value(json_array_get(json_object_get(root, "actions"), 1)));
  *strrchr(line, ' ') = '\0';
  put(root, "actions/1", json_string(line));
  char *lie = json_dumps(root, 0);
  assert_int_equal(plan_from_text(arena, lie, "p", g, &request, &plan), E_MODEL);
  free(lie);
  free(line);
  json_decref(root);
  arena_destroy(arena);
}

/* Any bytes give a plan or one error. */
static void damaged_files_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 6, 4, 8);
  PlanRequest request = request_of(2, 3, "1f1b"), nothing = {0};
  Plan plan;
  const char *text;
  uint64_t seed = 1;
  int refused = 0;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  ASSERT_OK(plan_to_text(arena, &plan, &text));
  size_t length = strlen(text);
  for (int round = 0; round < 1500; round++) {
    Arena *own = arena_create();
    char *copy = arena_string(own, text);
    for (unsigned k = 1 + random_below(&seed, 3); k > 0; k--) /* mostly digits and punctuation of the text itself */
      copy[random_below(&seed, (unsigned)length)] =
          random_below(&seed, 4) ? text[random_below(&seed, (unsigned)length)] : (char)(1 + random_below(&seed, 255));
    if (round % 10 == 0)
      copy[random_below(&seed, (unsigned)length)] = '\0';
    if (plan_from_text(own, copy, "p", g, round % 2 ? &request : &nothing, &plan) != OK) {
      refused++;
      assert_int_equal(strncmp(status_message(), "p: ", 3), 0);
      assert_null(strchr(status_message(), '\n'));
    }
    arena_destroy(own);
  }
  assert_true(refused > 1000);
  arena_destroy(arena);
}

static void prints_within_the_window(void **state) {
  (void)state;
  Arena *arena = arena_create();
  PlanRequest request = request_of(4, 6, "1f1b");
  Plan plan;
  ASSERT_OK(plan_make(arena, layers_of(arena, 12, 32, 16), &request, &plan));
  for (int columns = 1; columns <= 200; columns += 13) {
    char *text;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    ASSERT_OK(plan_print(&plan, file, columns, false));
    fclose(file);
    int rows = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
      int width = 0;
      for (char *c = line; *c; c++)
        width += (*c & 0xc0) != 0x80;
      assert_true(width <= columns);
      rows += strncmp(line, "rank ", 5) == 0 && line[6] == ' ';
    }
    assert_int_equal(rows, columns > 7 ? 4 : 0);
    free(text);
  }
  arena_destroy(arena);
}

static char *print_plan(int ranks, int columns) {
  Arena *arena = arena_create();
  PlanRequest request = request_of(ranks, 4, "1f1b");
  Plan plan;
  char *text;
  size_t size;
  FILE *file = open_memstream(&text, &size);
  ASSERT_OK(plan_make(arena, layers_of(arena, 8, 32, 16), &request, &plan));
  ASSERT_OK(plan_print(&plan, file, columns, false));
  fclose(file);
  arena_destroy(arena);
  return text;
}

static void one_rank_has_no_pipeline_to_print(void **state) {
  (void)state;
  char *one = print_plan(1, 100), *two = print_plan(2, 100), *narrow = print_plan(2, 40);
  assert_null(strstr(one, "bubble"));
  assert_null(strstr(one, "stage rank"));
  assert_null(strstr(one, "rank 0"));
  assert_non_null(strstr(one, "memory: "));
  assert_non_null(strstr(two, "stage rank"));
  assert_non_null(strstr(two, "waiting")); /* what the letters mean */
  assert_non_null(strstr(narrow, "waiting"));
  assert_non_null(strstr(narrow, "bubble")); /* which a line of 40 characters would have lost */
  free(one);
  free(two);
  free(narrow);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cuts_are_those_of_brute_force),
      cmocka_unit_test(one_rank_has_no_pipeline_to_print),
      cmocka_unit_test(every_schedule_makes_a_plan),
      cmocka_unit_test(a_slow_device_gets_less),
      cmocka_unit_test(a_large_table_lies_where_there_is_room),
      cmocka_unit_test(measurements_replace_estimates),
      cmocka_unit_test(limits_are_kept_or_the_smallest_is_named),
      cmocka_unit_test(ranks_with_two_stages_keep_their_limit),
      cmocka_unit_test(unlike_limits_move_the_cuts),
      cmocka_unit_test(auto_prefers_speed_then_memory),
      cmocka_unit_test(the_loss_stays_in_the_last_stage),
      cmocka_unit_test(too_many_stages_are_refused),
      cmocka_unit_test(inference_plans_go_forward),
      cmocka_unit_test(plans_come_back),
      cmocka_unit_test(files_come_back),
      cmocka_unit_test(devices_are_compared_by_backend),
      cmocka_unit_test(contradictions_are_named),
      cmocka_unit_test(damaged_files_are_refused),
      cmocka_unit_test(prints_within_the_window),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
