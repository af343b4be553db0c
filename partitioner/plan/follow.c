/* A second graph of the model over the ranks that train the first. Invariant: a node that reads what training writes
 * lies on a rank that trains it; values go up the stages only; for the rest a node lies where training has the node of
 * its name, as far as these allow. What the second graph trains has its accumulators on the first one's ranks. */
#include <stdlib.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/op.h"
#include "graph/recompute.h"
#include "partitioner/plan/internal.h"

typedef struct {
  const Plan *first;
  const Graph *graph; /* the second */
  bool trains;        /* it has more than a forward pass */
  int *wanted;        /* [n_nodes]: where the first graph has the node; -1: nowhere */
  bool *again;        /* [n_nodes]: it runs again there; NULL: nothing does */
  ValueId *trained;   /* [n_trained]: of each initializer the value that the first graph writes; NO_VALUE: none */
  size_t n_trained;
  int *highest;  /* [n_nodes]: the last stage that the node's users allow */
  int *stage_of; /* [n_nodes] */
} Following;

static int by_name(const void *a, const void *b) {
  const Node *x = *(const Node *const *)a, *y = *(const Node *const *)b;
  int order = strcmp(x->name, y->name);
  return order ? order : x->id < y->id ? -1 : x->id > y->id;
}

/* Forward nodes by name, those of one name in the order of the graph. */
static Status list_names(Arena *arena, const Graph *g, const Node ***nodes, size_t *n) {
  *n = 0;
  TRY(ARENA_NEW(arena, *nodes, g->n_nodes));
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase == PHASE_F)
      (*nodes)[(*n)++] = g->nodes[i];
  qsort(*nodes, *n, sizeof **nodes, by_name);
  return OK;
}

/* How many there are of the first one's name. */
static size_t count_alike(const Node *const *nodes, size_t n) {
  size_t alike = 0;
  while (alike < n && strcmp(nodes[alike]->name, nodes[0]->name) == 0)
    alike++;
  return alike;
}

static int lowest_stage(const Node *const *nodes, size_t n) {
  int stage = nodes[0]->stage;
  for (size_t i = 1; i < n; i++)
    stage = nodes[i]->stage < stage ? nodes[i]->stage : stage;
  return stage;
}

/* Nodes of one name are each other's, one by one, where both graphs have as many; else the first stage has them all. */
static Status find_wanted(Following *f, Arena *arena) {
  const Node **first, **second;
  size_t n, m;
  TRY(list_names(arena, f->first->graph, &first, &n));
  TRY(list_names(arena, f->graph, &second, &m));
  TRY(ARENA_NEW(arena, f->wanted, f->graph->n_nodes));
  if (f->trains && f->first->again)
    TRY(ARENA_NEW(arena, f->again, f->graph->n_nodes));
  for (size_t i = 0, k = 0; k < m;) {
    int order = i < n ? strcmp(first[i]->name, second[k]->name) : 1;
    if (order < 0) {
      i++;
      continue;
    }
    size_t alike = order ? 0 : count_alike(first + i, n - i), own = count_alike(second + k, m - k);
    for (size_t j = 0; f->again && alike == own && j < own; j++)
      f->again[second[k + j]->id] =
          f->first->again[first[i + j]->id] && recompute_may(f->graph, graph_node(f->graph, second[k + j]->id));
    for (size_t j = 0; j < own; j++)
      f->wanted[second[k + j]->id] = !alike ? -1 : alike == own ? first[i + j]->stage : lowest_stage(first + i, alike);
    i += alike;
    k += own;
  }
  return OK;
}

static bool is_written(const Value *value) {
  return value->role == ROLE_PARAMETER || value->role == ROLE_BUFFER;
}

static Status list_trained(Following *f, Arena *arena) {
  const Graph *g = f->first->graph;
  for (ValueId v = 0; v < g->n_values; v++)
    if (graph_value(g, v)->initializer >= (int)f->n_trained)
      f->n_trained = (size_t)graph_value(g, v)->initializer + 1;
  TRY(ARENA_NEW(arena, f->trained, f->n_trained));
  for (size_t i = 0; i < f->n_trained; i++)
    f->trained[i] = NO_VALUE;
  for (ValueId v = 0; v < g->n_values; v++)
    if (graph_value(g, v)->initializer >= 0 && is_written(graph_value(g, v)))
      f->trained[graph_value(g, v)->initializer] = v;
  return OK;
}

static bool holds(const Plan *plan, int rank, ValueId v) {
  return memory_holds(&plan->rank_memory[rank], v);
}

/* Whether the stage's rank holds everything that training writes and the node reads; *lacks: what it does not. */
static bool may_lie(const Following *f, const Node *node, int stage, ValueId *lacks) {
  int rank = f->first->schedule.rank_of_stage[stage];
  for (int k = 0; k < node->n_in; k++) {
    int initializer = node->in[k] == NO_VALUE ? -1 : graph_value(f->graph, node->in[k])->initializer;
    ValueId v = initializer >= 0 && (size_t)initializer < f->n_trained ? f->trained[initializer] : NO_VALUE;
    if (v == NO_VALUE || holds(f->first, rank, v))
      continue;
    *lacks = node->in[k];
    return false;
  }
  return true;
}

static Status refuse(const Following *f, const Node *node, ValueId lacks) {
  fail(E_UNSUPPORTED, "no rank that trains '%s' can have it as well as what it reads: take fewer --ranks or --chunks",
       graph_value(f->graph, lacks)->name);
  node_context(node);
  return E_UNSUPPORTED;
}

/* From the last node back: what its users and the ranks' parameters allow. */
static Status find_highest(Following *f, Arena *arena) {
  int *of_value;
  const Graph *g = f->graph;
  TRY(ARENA_NEW(arena, of_value, g->n_values));
  TRY(ARENA_NEW(arena, f->highest, g->n_nodes));
  for (ValueId v = 0; v < g->n_values; v++)
    of_value[v] = f->first->stages - 1;
  for (size_t i = g->n_nodes; i-- > 0;) {
    const Node *node = g->nodes[i];
    ValueId lacks = NO_VALUE;
    int stage = f->first->stages - 1;
    if (node->phase != PHASE_F)
      continue;
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE && of_value[node->out[k]] < stage)
        stage = of_value[node->out[k]];
    while (stage >= 0 && !may_lie(f, node, stage, &lacks))
      stage--;
    if (stage < 0)
      return refuse(f, node, lacks);
    f->highest[i] = stage;
    for (int k = 0; k < node->n_in; k++)
      if (node->in[k] != NO_VALUE && stage < of_value[node->in[k]])
        of_value[node->in[k]] = stage;
  }
  return OK;
}

/* Whether the loss comes of this node: it belongs into the last stage. */
static bool makes_loss(const Graph *g, const Node *node) {
  return g->loss_sum != NO_VALUE && graph_value(g, g->loss_sum)->producer == node->id;
}

static void choose(Following *f, const Node *node) {
  const Graph *g = f->graph;
  int low = 0, wanted = makes_loss(g, node) ? f->first->stages - 1 : f->wanted[node->id];
  ValueId lacks;
  for (int k = 0; k < node->n_in; k++) {
    NodeId from = node->in[k] == NO_VALUE ? NO_NODE : graph_value(g, node->in[k])->producer;
    if (from != NO_NODE && f->stage_of[from] > low)
      low = f->stage_of[from];
  }
  int high = f->highest[node->id];
  int stage = wanted < low ? low : wanted > high ? high : wanted;
  if (!may_lie(f, node, stage, &lacks))
    for (stage = low; stage < high && !may_lie(f, node, stage, &lacks);)
      stage++;
  f->stage_of[node->id] = stage;
}

/* Every rank takes its stages' microbatches by the time at which they can come: microbatch m at stage s by s + m. */
static Status order_forwards(Arena *arena, const Plan *first, int microbatches, Schedule *schedule) {
  int stages = first->stages;
  *schedule = (Schedule){.name = "forward",
                         .ranks = first->ranks,
                         .stages = stages,
                         .microbatches = microbatches,
                         .rank_of_stage = first->schedule.rank_of_stage,
                         .forward_only = true,
                         .send_depth = 2,
                         .receive_ahead = 1};
  TRY(ARENA_NEW(arena, schedule->lists, first->ranks));
  for (int s = 0; s < stages; s++)
    schedule->lists[schedule->rank_of_stage[s]].n_actions += microbatches;
  for (int r = 0; r < first->ranks; r++) {
    ActionList *list = &schedule->lists[r];
    TRY(ARENA_NEW(arena, list->actions, list->n_actions));
    list->n_actions = 0;
    for (int time = 0; time < stages - 1 + microbatches; time++)
      for (int s = stages - 1; s >= 0; s--)
        if (schedule->rank_of_stage[s] == r && time >= s && time - s < microbatches)
          list->actions[list->n_actions++] =
              (Action){.kind = ACTION_F, .stage = (uint16_t)s, .microbatch = (uint16_t)(time - s)};
  }
  return OK;
}

/* The first plan's order without its later microbatches: what was possible with them is possible without. */
static Status order_first(Arena *arena, const Plan *first, int microbatches, Schedule *schedule) {
  TRY(schedule_copy(arena, &first->schedule, schedule));
  schedule->microbatches = microbatches;
  for (int r = 0; r < schedule->ranks; r++) {
    ActionList *list = &schedule->lists[r];
    int n = 0;
    for (int i = 0; i < list->n_actions; i++)
      if (action_is_compute(list->actions[i]) && list->actions[i].microbatch < microbatches)
        list->actions[n++] = list->actions[i];
    list->n_actions = n;
  }
  return OK;
}

/* The accumulator of the same group of uses in the first graph; NO_VALUE: it has none. */
static ValueId find_accumulator(const Following *f, const Value *accumulator) {
  int initializer = graph_value(f->graph, accumulator->parameter)->initializer;
  ValueId parameter = (size_t)initializer < f->n_trained ? f->trained[initializer] : NO_VALUE, all[MAX_GROUPS];
  int n = parameter == NO_VALUE ? 0 : autodiff_gradients(f->first->graph, parameter, all);
  for (int i = 0; i < n; i++)
    if (graph_value(f->first->graph, all[i])->group == accumulator->group)
      return all[i];
  return NO_VALUE;
}

/* What the second graph adds up reaches every rank that updates by it. */
static Status check_accumulators(const Following *f, const Plan *plan) {
  const Graph *g = f->graph;
  for (ValueId v = 0; v < g->n_values; v++) {
    if (graph_value(g, v)->role != ROLE_GRADIENT)
      continue;
    ValueId counterpart = find_accumulator(f, graph_value(g, v));
    bool alike = counterpart != NO_VALUE;
    for (int r = 0; alike && r < plan->ranks; r++)
      alike = holds(plan, r, v) == holds(f->first, r, counterpart);
    if (!alike)
      return fail(E_UNSUPPORTED, "the gradients of '%s' are not added up where whole batches add them up",
                  graph_value(g, graph_value(g, v)->parameter)->name);
  }
  return OK;
}

/* Whether the rank has in its store what this value of the second graph is. */
static bool is_there(const Following *f, int rank, ValueId v) {
  const Graph *g = f->first->graph;
  const Value *value = graph_value(f->graph, v);
  if (value->role == ROLE_GRADIENT)
    return true; /* check_accumulators */
  int initializer =
      value->role == ROLE_STATE ? graph_value(f->graph, value->parameter)->initializer : value->initializer;
  for (ValueId k = 0; k < g->n_values; k++)
    if (graph_value(g, k)->initializer == initializer && memory_is_stored(g, k) && holds(f->first, rank, k))
      return true;
  return false;
}

/* The same of what it rounds to. */
static bool is_rounded_there(const Following *f, int rank, ValueId v) {
  const Graph *g = f->first->graph;
  int initializer = graph_value(f->graph, v)->initializer;
  for (ValueId k = 0; k < g->n_values; k++)
    if (graph_value(g, k)->initializer == initializer && memory_is_rounded(&f->first->rank_memory[rank], k))
      return true;
  return false;
}

/* What the second graph stores on a rank that the first does not. */
static size_t stored_beside(const Following *f, const Plan *plan, int rank) {
  size_t bytes = 0;
  for (ValueId v = 0; v < f->graph->n_values; v++) {
    if (holds(plan, rank, v) && memory_is_stored(f->graph, v) &&
        !memory_is_offloaded(&plan->rank_memory[rank], f->graph, v) && !is_there(f, rank, v))
      bytes += memory_units(graph_value_bytes(f->graph, v));
    if (memory_is_rounded(&plan->rank_memory[rank], v) && !is_rounded_there(f, rank, v))
      bytes += memory_rounded_bytes(f->graph, v);
  }
  return bytes;
}

/* What the second graph takes on a rank beside the first: its persistent values, and all else, or, where it trains and
 * works in the first one's memory, what that is short of. */
static size_t bytes_beside(const Following *f, const Plan *plan, int rank) {
  const RankMemory *memory = &plan->rank_memory[rank], *first = &f->first->rank_memory[rank];
  size_t work = memory_work_bytes(memory), there = f->trains ? memory_work_bytes(first) : 0;
  return memory->persistent_bytes - memory->stored_bytes + stored_beside(f, plan, rank) +
         (first->window_bytes ? 0 : memory->window_bytes) + (work > there ? work - there : 0);
}

static Status build(Following *f, Arena *arena, Arena *scratch, int microbatches, Plan *plan, size_t *beside_bytes) {
  Schedule computes;
  Crossings crossings;
  TRY(find_wanted(f, scratch));
  TRY(list_trained(f, scratch));
  TRY(find_highest(f, scratch));
  for (size_t i = 0; i < f->graph->n_nodes; i++)
    if (f->graph->nodes[i]->phase == PHASE_F)
      choose(f, f->graph->nodes[i]);
  if (f->again && !(plan->again = arena_copy(arena, f->again, f->graph->n_nodes * sizeof *f->again)))
    return status_code();
  TRY(plan_cut(arena, plan));
  TRY(plan_crossings(scratch, plan, &crossings));
  TRY(f->trains ? order_first(arena, f->first, microbatches, &computes)
                : order_forwards(scratch, f->first, microbatches, &computes));
  TRY(schedule_add_transfers(arena, &computes, &crossings, &plan->schedule));
  TRY(plan_finish(arena, plan));
  TRY(check_accumulators(f, plan));
  for (int r = 0; r < plan->ranks; r++)
    beside_bytes[r] = bytes_beside(f, plan, r);
  return OK;
}

Status plan_follow(Arena *arena, Graph *graph, const Plan *first, int microbatches, int64_t microbatch_size, Plan *plan,
                   size_t **beside_bytes) {
  Following f = {.first = first, .graph = graph};
  for (size_t i = 0; i < graph->n_nodes && !f.trains; i++)
    f.trains = graph->nodes[i]->phase != PHASE_F;
  *plan = (Plan){.graph = graph,
                 .model_hash = first->model_hash,
                 .device = first->device,
                 .precision = first->precision,
                 .offload = first->offload,
                 .ranks = first->ranks,
                 .chunks = first->chunks,
                 .stages = first->stages,
                 .microbatches = microbatches,
                 .microbatch_size = microbatch_size,
                 .memory_limits = first->memory_limits,
                 .objective = first->objective,
                 .link = first->link,
                 .recompute = first->recompute};
  TRY(ARENA_NEW(arena, plan->stage_of, graph->n_nodes));
  TRY(ARENA_NEW(arena, *beside_bytes, first->ranks));
  f.stage_of = plan->stage_of;
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = build(&f, arena, scratch, microbatches, plan, *beside_bytes);
  arena_destroy(scratch);
  return status;
}
