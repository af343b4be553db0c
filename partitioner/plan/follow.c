/* A second graph of the model over the ranks that train the first. Invariant: a node that reads what training writes
 * lies on a rank that trains it; values go up the stages only; for the rest a node lies where training has the node of
 * its name, as far as these allow. */
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "partitioner/plan/internal.h"

/* A forward node of the first graph. */
typedef struct {
  const char *name;
  int stage;
} Named;

typedef struct {
  const Plan *first;
  const Graph *graph; /* the second */
  Named *named;       /* by name */
  size_t n_named;
  ValueId *trained; /* [n_trained]: of each initializer the value that the first graph writes; NO_VALUE: none */
  size_t n_trained;
  int *highest;  /* [n_nodes]: the last stage that the node's users allow */
  int *stage_of; /* [n_nodes] */
} Following;

static int by_name(const void *a, const void *b) {
  const Named *x = a, *y = b;
  int order = strcmp(x->name, y->name);
  return order ? order : x->stage - y->stage;
}

static Status list_names(Following *f, Arena *arena) {
  const Graph *g = f->first->graph;
  TRY(ARENA_NEW(arena, f->named, g->n_nodes));
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase == PHASE_F)
      f->named[f->n_named++] = (Named){g->nodes[i]->name, g->nodes[i]->stage};
  qsort(f->named, f->n_named, sizeof *f->named, by_name);
  return OK;
}

/* The first stage that has a node of this name; -1: none has. */
static int stage_by_name(const Following *f, const char *name) {
  size_t low = 0, high = f->n_named;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (strcmp(f->named[middle].name, name) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low < f->n_named && strcmp(f->named[low].name, name) == 0 ? f->named[low].stage : -1;
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
  return plan->rank_memory[rank].persistent_offset[v] != SIZE_MAX;
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
  int low = 0, wanted = makes_loss(g, node) ? f->first->stages - 1 : stage_by_name(f, node->name);
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

/* What the second graph takes on a rank beside the first: all of its own, and what it stores that the first has not. */
static size_t bytes_beside(const Plan *first, const Plan *plan, int rank) {
  const RankMemory *memory = &plan->rank_memory[rank];
  const Graph *g = plan->graph;
  size_t bytes = memory->total_bytes - memory->stored_bytes;
  for (ValueId v = 0; v < g->n_values; v++) {
    bool there = memory->persistent_offset[v] == SIZE_MAX || !memory_is_stored(g, v);
    for (ValueId k = 0; !there && k < first->graph->n_values; k++)
      there = graph_value(first->graph, k)->initializer == graph_value(g, v)->initializer &&
              memory_is_stored(first->graph, k) && holds(first, rank, k);
    bytes += there ? 0 : memory_units(graph_value_bytes(g, v));
  }
  return bytes;
}

static Status build(Following *f, Arena *arena, Arena *scratch, int microbatches, Plan *plan) {
  Schedule computes;
  Crossings crossings;
  TRY(list_names(f, scratch));
  TRY(list_trained(f, scratch));
  TRY(find_highest(f, scratch));
  for (size_t i = 0; i < f->graph->n_nodes; i++)
    choose(f, f->graph->nodes[i]);
  TRY(plan_cut(arena, plan));
  TRY(plan_crossings(scratch, plan, &crossings));
  TRY(order_forwards(scratch, f->first, microbatches, &computes));
  TRY(schedule_add_transfers(arena, &computes, &crossings, &plan->schedule));
  return plan_finish(arena, plan);
}

Status plan_follow(Arena *arena, Graph *graph, const Plan *first, int microbatches, int64_t microbatch_size, Plan *plan,
                   size_t **beside_bytes) {
  Following f = {.first = first, .graph = graph};
  *plan = (Plan){.graph = graph,
                 .model_hash = first->model_hash,
                 .device = first->device,
                 .precision = first->precision,
                 .ranks = first->ranks,
                 .chunks = first->chunks,
                 .stages = first->stages,
                 .microbatches = microbatches,
                 .microbatch_size = microbatch_size,
                 .memory_limits = first->memory_limits,
                 .objective = first->objective,
                 .link = first->link};
  TRY(ARENA_NEW(arena, plan->stage_of, graph->n_nodes));
  TRY(ARENA_NEW(arena, *beside_bytes, first->ranks));
  f.stage_of = plan->stage_of;
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = build(&f, arena, scratch, microbatches, plan);
  arena_destroy(scratch);
  for (int r = 0; status == OK && r < first->ranks; r++)
    (*beside_bytes)[r] = bytes_beside(first, plan, r);
  return status;
}
