/* The memory of plans, verified by walking: over random graphs, cuts and schedules, no two values that live at the
 * same time share a byte of a rank's arena. When a value lives is worked out here from the actions alone. */
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "partitioner/plan/internal.h"
#include "tests/random_graph.h"

/* One value of one microbatch in one stage, or one node's workspace, in a rank's arena. */
typedef struct {
  size_t offset, bytes;
  long born, dies; /* TICKS an action; the first tick of an action is for waiting, the last for copying */
  int stage;
  ValueId value; /* of a value that lies there */
} Tenant;

enum { TICKS = 1 << 12, MOST_TENANTS = 1 << 16 };

typedef struct {
  Plan plan;
  bool joined;
  Tenant *tenants; /* of one rank */
  int n_tenants;
} House;

static int rank_of(const House *h, int stage) {
  return h->plan.schedule.rank_of_stage[stage];
}

/* Position of the stage's action of this kind in its rank's list, else -1. */
static int position(const House *h, int stage, int microbatch, ActionKind kind) {
  const ActionList *list = &h->plan.schedule.lists[rank_of(h, stage)];
  for (int i = 0; i < list->n_actions; i++)
    if (list->actions[i].kind == kind && list->actions[i].stage == stage && list->actions[i].microbatch == microbatch)
      return i;
  return -1;
}

/* When node number `at` of a phase runs: B before W, merged where they are joined. */
static long node_time(const House *h, const Node *node, int microbatch) {
  const StageNodes *s = &h->plan.cuts.stages[node->stage];
  ActionKind kind = node->phase == PHASE_F ? ACTION_F : node->phase == PHASE_B ? ACTION_B : ACTION_W;
  const NodeId *nodes = s->nodes[node->phase];
  if (h->joined && kind != ACTION_F) {
    kind = ACTION_BW;
    nodes = s->backward;
  }
  int at = 0;
  while (nodes[at] != node->id)
    at++;
  int action = position(h, node->stage, microbatch, kind);
  assert_true(action >= 0);
  return (long)action * TICKS + 2 + at;
}

static long action_start(int action) {
  return (long)action * TICKS + 1;
}

static long action_end(int action) {
  return (long)action * TICKS + TICKS - 1;
}

/* By when a send that follows F or B of (stage, microbatch) has surely been waited for. */
static long sent_by(const House *h, int stage, int microbatch, bool forward) {
  const Schedule *s = &h->plan.schedule;
  ActionKind kind = forward ? ACTION_F : h->joined ? ACTION_BW : ACTION_B;
  int next = microbatch + s->send_depth < s->microbatches ? position(h, stage, microbatch + s->send_depth, kind) : -1;
  long by = next < 0 ? (long)s->lists[rank_of(h, stage)].n_actions * TICKS : (long)next * TICKS;
  if (!forward || !h->plan.cuts.stages[stage].n_backward)
    return by;
  const StageNodes *nodes = &h->plan.cuts.stages[stage];
  ActionKind first = h->joined ? ACTION_BW : nodes->n_nodes[PHASE_B] ? ACTION_B : ACTION_W;
  long backward = (long)position(h, stage, microbatch, first) * TICKS;
  return backward < by ? backward : by;
}

static ValueId root_of(const Graph *g, int stage, ValueId v) {
  for (;;) {
    NodeId p = graph_value(g, v)->producer;
    if (p == NO_NODE || graph_node(g, p)->stage != stage || graph_node(g, p)->op != OP_Reshape)
      return v;
    v = graph_node(g, p)->in[0];
  }
}

static bool lists(const ValueId *values, int n, ValueId v) {
  for (int i = 0; i < n; i++)
    if (values[i] == v)
      return true;
  return false;
}

static void widen(Tenant *t, long from, long to) {
  if (t->born < 0 || from < t->born)
    t->born = from;
  if (to > t->dies)
    t->dies = to;
}

/* How long one name of a value is needed in the stage; its root needs the union over its views. */
static void add_uses(const House *h, int stage, int m, ValueId v, Tenant *t) {
  const Graph *g = h->plan.graph;
  const Stages *s = &h->plan.cuts;
  int last = s->n_stages - 1, f = position(h, stage, m, ACTION_F);
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->phase == PHASE_UPDATE || node->stage != stage)
      continue;
    if (lists(node->in, node->n_in, v) || lists(node->out, node->n_out, v))
      widen(t, node_time(h, node, m), node_time(h, node, m));
    if (lists(node->in, node->n_in, v) && graph_value(g, v)->role == ROLE_INPUT)
      widen(t, action_start(f), action_start(f));
  }
  if (stage > 0 && lists(s->cuts[stage - 1].forward, s->cuts[stage - 1].n_forward, v)) {
    bool here = rank_of(h, stage - 1) == rank_of(h, stage);
    long from =
        here ? action_end(position(h, stage - 1, m, ACTION_F)) : action_start(position(h, stage, m, ACTION_RECV_F));
    widen(t, from, action_start(f));
  }
  ActionKind b = h->joined ? ACTION_BW : ACTION_B;
  if (stage < last && lists(s->cuts[stage].backward, s->cuts[stage].n_backward, v)) {
    bool here = rank_of(h, stage + 1) == rank_of(h, stage);
    long from = here ? action_end(position(h, stage + 1, m, b)) : action_start(position(h, stage, m, ACTION_RECV_B));
    widen(t, from, from);
  }
  if (stage < last && lists(s->cuts[stage].forward, s->cuts[stage].n_forward, v)) {
    bool here = rank_of(h, stage + 1) == rank_of(h, stage);
    widen(t, action_end(f), here ? action_end(f) : sent_by(h, stage, m, true));
  }
  if (stage > 0 && lists(s->cuts[stage - 1].backward, s->cuts[stage - 1].n_backward, v)) {
    bool here = rank_of(h, stage - 1) == rank_of(h, stage);
    long end = action_end(position(h, stage, m, b));
    widen(t, end, here ? end : sent_by(h, stage, m, false));
  }
  bool emitted = g->loss_sum == NO_VALUE && lists(g->outputs, (int)g->n_outputs, v) &&
                 (graph_value(g, v)->producer == NO_NODE ? stage == last
                                                         : graph_node(g, graph_value(g, v)->producer)->stage == stage);
  if (emitted || (v == g->loss_sum && stage == last))
    widen(t, action_end(f), action_end(f));
}

static void add_tenant(House *h, Tenant t) {
  if (t.born < 0 || !t.bytes)
    return;
  assert_true(h->n_tenants < MOST_TENANTS);
  h->tenants[h->n_tenants++] = t;
}

static void collect_stage(House *h, int stage, int m) {
  const Plan *plan = &h->plan;
  const Graph *g = plan->graph;
  const RankMemory *rank = &plan->rank_memory[rank_of(h, stage)];
  Tenant *life = calloc(g->n_values, sizeof *life);
  for (ValueId v = 0; v < g->n_values; v++)
    life[v].born = -1;
  for (ValueId v = 0; v < g->n_values; v++)
    add_uses(h, stage, m, v, &life[root_of(g, stage, v)]);
  for (ValueId v = 0; v < g->n_values; v++) {
    ValueId root = root_of(g, stage, v);
    if (life[root].born < 0 || (v != root && !stage_uses(&plan->cuts.stages[stage], v)))
      continue;
    size_t offset = memory_offset(rank, plan->stage_memory, stage, v, m);
    assert_true(offset != SIZE_MAX && offset % MEMORY_ALIGNMENT == 0);
    assert_true(offset + graph_value_bytes(g, v) <= rank->total_bytes);
    if (v != root)
      assert_int_equal(offset, memory_offset(rank, plan->stage_memory, stage, root, m));
    life[v].offset = offset;
    life[v].bytes = graph_value_bytes(g, v);
    life[v].stage = stage;
    life[v].value = v;
    if (v == root && !memory_is_persistent(g, v))
      add_tenant(h, life[v]);
  }
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->stage == stage)
      add_tenant(h, (Tenant){.offset = rank->scratch_offset + memory_workspace(&plan->stage_memory[stage], (NodeId)i),
                             .bytes = node_workspace_bytes(g, g->nodes[i], rank_of(h, stage)),
                             .born = node_time(h, g->nodes[i], m),
                             .dies = node_time(h, g->nodes[i], m),
                             .value = NO_VALUE});
  free(life);
}

static int by_offset(const void *a, const void *b) {
  const Tenant *x = a, *y = b;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Whether a node makes `to` in the place of `from`, which it is the last to read. */
static bool takes_place(const House *h, const Tenant *from, const Tenant *to) {
  const Graph *g = h->plan.graph;
  if (from->value == NO_VALUE || to->value == NO_VALUE || from->dies != to->born || from->offset != to->offset ||
      from->stage != to->stage || graph_value(g, to->value)->producer == NO_NODE)
    return false;
  const Node *node = graph_node(g, graph_value(g, to->value)->producer);
  for (int k = 0; k < node->n_in; k++)
    if (op_def(node->op)->traits & OP_IN_PLACE && node->in[k] != NO_VALUE &&
        root_of(g, from->stage, node->in[k]) == from->value && graph_value(g, from->value)->role == ROLE_ACTIVATION)
      return true;
  return false;
}

/* Pairs of tenants of this rank that meet in time and bytes. */
static int collisions(House *h, int r) {
  const Plan *plan = &h->plan;
  const Graph *g = plan->graph;
  h->n_tenants = 0;
  for (int stage = 0; stage < plan->stages; stage++)
    for (int m = 0; rank_of(h, stage) == r && m < plan->microbatches; m++)
      collect_stage(h, stage, m);
  for (ValueId v = 0; v < g->n_values; v++)
    if (memory_is_persistent(g, v) && memory_holds(&plan->rank_memory[r], v))
      add_tenant(h, (Tenant){.offset = memory_persistent_offset(&plan->rank_memory[r], v),
                             .bytes = graph_value_bytes(g, v),
                             .born = 0,
                             .dies = (long)TICKS * TICKS,
                             .value = NO_VALUE});
  qsort(h->tenants, (size_t)h->n_tenants, sizeof *h->tenants, by_offset);
  int found = 0;
  for (int i = 0; i < h->n_tenants; i++)
    for (int k = i + 1; k < h->n_tenants && h->tenants[k].offset < h->tenants[i].offset + h->tenants[i].bytes; k++)
      found += h->tenants[i].born <= h->tenants[k].dies && h->tenants[k].born <= h->tenants[i].dies &&
               !takes_place(h, &h->tenants[i], &h->tenants[k]) && !takes_place(h, &h->tenants[k], &h->tenants[i]);
  return found;
}

/* A random order that respects the dependencies, as one run of the ranks would be, with sends and receives put in:
 * sends behind their action, receives up to three compute actions early. */
typedef struct {
  House *h;
  uint64_t *seed;
  int next[ACTION_BW + 1][8]; /* [kind][stage]: the microbatch that comes next */
} Draw;

static bool has_b(const House *h, int stage) {
  return stage > 0 && h->plan.cuts.cuts[stage - 1].n_backward > 0;
}

/* Whether the gradient that the backward of this stage needs is there. */
static bool gradient_ready(const Draw *d, int stage, int m) {
  if (stage == d->h->plan.stages - 1)
    return d->next[ACTION_F][stage] > m;
  ActionKind above = d->h->joined ? ACTION_BW : ACTION_B;
  return d->next[ACTION_F][stage] > m && (!has_b(d->h, stage + 1) || d->next[above][stage + 1] > m);
}

static bool may_run(const Draw *d, ActionKind kind, int stage) {
  int m = d->next[kind][stage];
  if (m == d->h->plan.microbatches)
    return false;
  switch (kind) {
  case ACTION_F:
    return stage == 0 || d->next[ACTION_F][stage - 1] > m;
  case ACTION_B:
    return !d->h->joined && has_b(d->h, stage) && gradient_ready(d, stage, m);
  case ACTION_W:
    return !d->h->joined && (has_b(d->h, stage) ? d->next[ACTION_B][stage] > m : gradient_ready(d, stage, m));
  default:
    return d->h->joined && gradient_ready(d, stage, m);
  }
}

static void append(ActionList *list, ActionKind kind, int stage, int m) {
  list->actions[list->n_actions++] =
      (Action){.kind = (uint8_t)kind, .stage = (uint16_t)stage, .microbatch = (uint16_t)m};
}

/* Puts a RECV some compute actions back, behind the stage's RECV of the microbatch before. */
static void insert_receive(Draw *d, ActionList *list, ActionKind kind, int stage, int m) {
  int at = list->n_actions, ahead = (int)random_below(d->seed, 4);
  while (at > 0 && ahead > 0 && !(list->actions[at - 1].kind == kind && list->actions[at - 1].stage == stage))
    ahead -= list->actions[--at].kind <= ACTION_BW;
  append(list, kind, stage, m);
  Action action = list->actions[list->n_actions - 1];
  memmove(&list->actions[at + 1], &list->actions[at], (size_t)(list->n_actions - 1 - at) * sizeof *list->actions);
  list->actions[at] = action;
}

static void run_action(Draw *d, ActionKind kind, int stage) {
  House *h = d->h;
  int m = d->next[kind][stage]++, rank = rank_of(h, stage), last = h->plan.stages - 1;
  ActionList *list = &h->plan.schedule.lists[rank];
  bool first_backward = kind == ACTION_BW || kind == ACTION_B || (kind == ACTION_W && !has_b(h, stage));
  if (kind == ACTION_F && stage > 0 && rank_of(h, stage - 1) != rank && h->plan.cuts.cuts[stage - 1].n_forward)
    insert_receive(d, list, ACTION_RECV_F, stage, m);
  if (first_backward && stage < last && rank_of(h, stage + 1) != rank && h->plan.cuts.cuts[stage].n_backward)
    insert_receive(d, list, ACTION_RECV_B, stage, m);
  append(list, kind, stage, m);
  if (kind == ACTION_F && stage < last && rank_of(h, stage + 1) != rank && h->plan.cuts.cuts[stage].n_forward)
    append(list, ACTION_SEND_F, stage, m);
  if ((kind == ACTION_B || kind == ACTION_BW) && has_b(h, stage) && rank_of(h, stage - 1) != rank)
    append(list, ACTION_SEND_B, stage, m);
}

static void draw_schedule(House *h, Arena *arena, uint64_t *seed) {
  Schedule *s = &h->plan.schedule;
  Draw d = {.h = h, .seed = seed};
  s->lists = arena_alloc(arena, (size_t)s->ranks, sizeof *s->lists);
  for (int r = 0; r < s->ranks; r++)
    s->lists[r].actions = arena_alloc(arena, (size_t)(9 * s->stages * s->microbatches), sizeof(Action));
  bool training = h->plan.graph->loss_sum != NO_VALUE;
  for (int idle = 0; idle < 1000;) {
    ActionKind kind = (ActionKind)random_below(seed, training ? ACTION_BW + 1 : 1);
    int stage = (int)random_below(seed, (unsigned)s->stages);
    if (may_run(&d, kind, stage)) {
      run_action(&d, kind, stage);
      idle = 0;
    } else {
      idle++;
    }
  }
  for (int i = 0; i < s->stages; i++)
    assert_int_equal(d.next[ACTION_F][i], s->microbatches);
}

/* A schedule with a name for these stages, where one takes them: two stages a rank, or one. */
static bool name_schedule(House *h, Arena *arena, uint64_t *seed) {
  Plan *plan = &h->plan;
  Crossings crossings;
  int n = 0, chunks = plan->stages % 2 ? 1 : 1 + (int)random_below(seed, 2);
  while (schedule_names[n])
    n++;
  const char *name = plan->graph->loss_sum == NO_VALUE ? "forward" : schedule_names[random_below(seed, (unsigned)n)];
  ASSERT_OK(plan_crossings(arena, plan, &crossings));
  if (schedule_generate(arena, name, plan->stages / chunks, chunks, plan->microbatches, &crossings, &plan->schedule) !=
      OK)
    return false;
  h->joined = plan->schedule.joined;
  plan->ranks = plan->schedule.ranks;
  return true;
}

static void build(House *h, Arena *arena, uint64_t seed) {
  static const int placements[4][6] = {{0, 1, 2, 3, 4, 5}, {0, 1, 0, 1, 0, 1}, {0, 1, 2, 2, 1, 0}, {0, 0, 1, 1, 2, 2}};
  uint64_t random = seed;
  bool inference = seed % 5 == 0;
  Graph *g = inference ? random_forward(arena, seed, 12).g : random_training(arena, seed, 4 + (int)(seed % 50));
  if (inference) { /* outputs in the middle, at the end twice, and one that no node makes */
    ASSERT_OK(graph_add_output(g, g->nodes[g->n_nodes / 2]->out[0]));
    ASSERT_OK(graph_add_output(g, g->inputs[0]));
    ASSERT_OK(graph_add_output(g, g->outputs[0]));
  }
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2; k++)
      g->nodes[i]->workspace_bytes[k] = random_below(&random, 3) ? 0 : 4 + (size_t)random_below(&random, 200);
  static const uint8_t backends[] = {1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0};
  g->backend_of_rank = backends;
  int *stage_of = arena_alloc(arena, g->n_nodes, sizeof *stage_of);
  Plan *plan = &h->plan;
  *plan = (Plan){.graph = g, .stage_of = stage_of, .microbatches = 1 + (int)random_below(&random, 6)};
  plan->stages = random_cuts(g, &random, 1 + (int)random_below(&random, 6), stage_of);
  if (seed % 2 && !inference) {
    bool *again = arena_alloc(arena, g->n_nodes, sizeof *again);
    uint64_t own = seed;
    random_again(g, &own, again);
    plan->again = again;
  }
  ASSERT_OK(plan_cut(arena, plan));
  if (random_below(&random, 2) && name_schedule(h, arena, &random)) {
    ASSERT_OK(plan_memory(arena, plan));
    return;
  }
  h->joined = random_below(&random, 2);
  Schedule *s = &plan->schedule;
  *s = (Schedule){.name = "random",
                  .stages = plan->stages,
                  .microbatches = plan->microbatches,
                  .joined = h->joined,
                  .send_depth = 1 + (int)random_below(&random, 2),
                  .rank_of_stage = arena_copy(arena, placements[random_below(&random, 4)], sizeof placements[0])};
  for (int i = 0; i < s->stages; i++)
    s->ranks = s->rank_of_stage[i] >= s->ranks ? s->rank_of_stage[i] + 1 : s->ranks;
  plan->ranks = s->ranks;
  draw_schedule(h, arena, &random);
  ASSERT_OK(plan_memory(arena, plan));
}

static void no_two_values_share_a_byte(void **state) {
  (void)state;
  House h = {.tenants = malloc(MOST_TENANTS * sizeof(Tenant))};
  for (uint64_t seed = 1; seed <= 300; seed++) {
    Arena *arena = arena_create();
    build(&h, arena, seed);
    for (int r = 0; r < h.plan.ranks; r++) {
      const RankMemory *m = &h.plan.rank_memory[r];
      int found = collisions(&h, r);
      if (found)
        FAIL_TEST("seed %d: %d collisions in rank %d", (int)seed, found, r);
      assert_int_equal(m->persistent_bytes,
                       m->parameter_bytes + m->gradient_bytes + m->state_bytes + m->constant_bytes);
      assert_int_equal(m->total_bytes, m->persistent_bytes + m->activation_bytes + m->scratch_bytes);
      assert_true(m->bound_bytes <= m->total_bytes && m->bound_bytes >= m->persistent_bytes + m->activation_bytes);
    }
    arena_destroy(arena);
  }
  free(h.tenants);
}

/* The walk above can fail, and no slot is there for nothing: one slot less and values of two microbatches meet. */
static void one_slot_less_collides(void **state) {
  (void)state;
  House h = {.tenants = malloc(MOST_TENANTS * sizeof(Tenant))};
  int tried = 0, found = 0;
  for (uint64_t seed = 1; seed <= 40; seed++) {
    Arena *arena = arena_create();
    build(&h, arena, seed);
    for (int stage = 0; stage < h.plan.stages; stage++)
      for (int b = 0; b < h.plan.stage_memory[stage].n_blocks; b++) {
        int r = rank_of(&h, stage);
        BlockPlace *place = &h.plan.rank_memory[r].blocks[stage][b];
        if (place->slots < 2 || h.plan.stage_memory[stage].blocks[b].sent)
          continue;
        place->slots--;
        tried++;
        found += collisions(&h, r) > 0;
        place->slots++;
      }
    arena_destroy(arena);
  }
  free(h.tenants);
  assert_true(tried > 50);
  assert_int_equal(found, tried);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_two_values_share_a_byte),
      cmocka_unit_test(one_slot_less_collides),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
