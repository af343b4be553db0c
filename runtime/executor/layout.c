/* Works out, from the plan, what a rank does in a step: kernel calls with their operands, what is fed, sent, received,
 * copied and exchanged. Invariant: nothing here depends on contents; a step only fills in addresses by microbatch. */
#include <assert.h>

#include "graph/op.h"
#include "runtime/executor/internal.h"

static Site site_of(const Executor *e, int stage, ValueId value) {
  const Plan *plan = e->spec.plan;
  const StageMemory *stages = plan->stage_memory;
  Place place = memory_place(&stages[stage], value);
  Site site = {.slots = 1, .bytes = graph_value_bytes(e->graph, value)};
  size_t offset = memory_offset(e->memory, stages, stage, value, 0);
  assert(offset != SIZE_MAX);
  site.first = place.kind == PLACE_PERSISTENT ? executor_persistent(e, value) : executor_at(e, offset);
  if (place.kind == PLACE_BLOCK) {
    site.slots = e->memory->blocks[stage][place.block].slots;
    site.stride = stages[stage].blocks[place.block].bytes;
  }
  site.host = site.first;
  site.host_stride = site.stride;
  site.host_slots = site.slots;
  return site;
}

static Site persistent_site(const Executor *e, ValueId value) {
  char *first = executor_persistent(e, value);
  return (Site){
      .first = first, .bytes = graph_value_bytes(e->graph, value), .slots = 1, .host = first, .host_slots = 1};
}

/* It is released with the executor. */
static Status keep_state(Executor *e, const NodeKernel *kernel) {
  Prepared *prepared;
  if (!kernel->state)
    return OK;
  Status status = ARENA_NEW(e->arena, prepared, 1);
  if (status != OK) {
    backend_forget(kernel);
    return status;
  }
  *prepared = (Prepared){*kernel, e->prepared};
  e->prepared = prepared;
  return OK;
}

static Status prepare_call(Executor *e, Call *call) {
  const Node *node = call->node;
  TRY(backend_prepare(e->backend, e->stream, node, call->operands, call->operands + node->n_in,
                      node_workspace_bytes(e->graph, node, e->spec.rank), &call->kernel));
  return keep_state(e, &call->kernel);
}

Status executor_make_update(Executor *e, const Node *node, Tensor *operands, Update *update) {
  *update = (Update){.call = {.node = node, .operands = operands}};
  if (node_workspace_bytes(e->graph, node, e->spec.rank))
    update->call.workspace = executor_at(e, e->memory->scratch_offset);
  return prepare_call(e, &update->call);
}

/* stage -1: an update node. */
static Status make_call(Executor *e, int stage, const Node *node, Call *call) {
  *call = (Call){.node = node};
  TRY(ARENA_NEW(e->arena, call->operands, node->n_in + node->n_out));
  TRY(ARENA_NEW(e->arena, call->sites, node->n_in + node->n_out));
  for (int i = 0; i < node->n_in + node->n_out; i++) {
    ValueId v = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
    if (v == NO_VALUE)
      continue;
    const Value *value = graph_value(e->graph, v);
    call->sites[i] = stage < 0 ? persistent_site(e, v) : site_of(e, stage, v);
    call->operands[i] = (Tensor){.dtype = value->dtype, .shape = value->shape, .data = call->sites[i].first};
    if (e->rounded[v] >= 0 && call->sites[i].first == executor_persistent(e, v))
      call->operands[i].rounded = store_at(e->spec.store, e->rounded[v]);
    call->moves |= call->sites[i].slots > 1;
  }
  size_t within_scratch = stage >= 0 ? memory_workspace(&e->spec.plan->stage_memory[stage], node->id) : 0;
  if (node_workspace_bytes(e->graph, node, e->spec.rank))
    call->workspace = executor_at(e, e->memory->scratch_offset + within_scratch);
  return prepare_call(e, call);
}

static Status make_calls(Executor *e, int stage, const NodeId *nodes, int n, Calls *calls) {
  TRY(ARENA_NEW(e->arena, calls->calls, n));
  for (int i = 0; i < n; i++) {
    const Node *node = graph_node(e->graph, nodes[i]);
    if (!(op_def(node->op)->traits & OP_VIEW)) /* a view has its root's place */
      TRY(make_call(e, stage, node, &calls->calls[calls->n++]));
  }
  return OK;
}

/* To or from the neighbour. */
static Status make_lane(Executor *e, int stage, int neighbour, const ValueId *values, int n, Lane *lane) {
  lane->n = n;
  lane->peer = e->spec.plan->schedule.rank_of_stage[neighbour];
  lane->way = executor_way(e, lane->peer);
  TRY(ARENA_NEW(e->arena, lane->sites, n));
  TRY(ARENA_NEW(e->arena, lane->tickets, (size_t)n * (size_t)e->spec.plan->microbatches));
  for (int i = 0; i < n; i++)
    lane->sites[i] = site_of(e, stage, values[i]);
  return OK;
}

static Status make_lanes(Executor *e, int stage, StageRun *run) {
  const Plan *plan = e->spec.plan;
  if (stage + 1 < plan->stages) {
    const Cut *above = &plan->cuts.cuts[stage];
    TRY(make_lane(e, stage, stage + 1, above->forward, above->n_forward, lane_of(run, ACTION_SEND_F)));
    TRY(make_lane(e, stage, stage + 1, above->backward, above->n_backward, lane_of(run, ACTION_RECV_B)));
    run->copies_forward = plan->schedule.rank_of_stage[stage + 1] == e->spec.rank;
  }
  if (stage > 0) {
    const Cut *below = &plan->cuts.cuts[stage - 1];
    TRY(make_lane(e, stage, stage - 1, below->forward, below->n_forward, lane_of(run, ACTION_RECV_F)));
    TRY(make_lane(e, stage, stage - 1, below->backward, below->n_backward, lane_of(run, ACTION_SEND_B)));
    run->copies_backward = plan->schedule.rank_of_stage[stage - 1] == e->spec.rank;
  }
  return OK;
}

static Status make_ports(Executor *e, int stage, StageRun *run) {
  const Graph *g = e->graph;
  const StageMemory *memory = &e->spec.plan->stage_memory[stage];
  TRY(ARENA_NEW(e->arena, run->feeds.ports, g->n_inputs + 2));
  for (size_t i = 0; i < g->n_inputs + 2; i++) {
    ValueId v = i < g->n_inputs ? g->inputs[i] : i == g->n_inputs ? g->target : g->counter;
    if (v != NO_VALUE && memory_place(memory, v).kind != PLACE_NONE)
      run->feeds.ports[run->feeds.n++] = (Port){v, site_of(e, stage, v)};
  }
  if (g->loss_sum != NO_VALUE)
    return OK;
  TRY(ARENA_NEW(e->arena, run->emits.ports, g->n_outputs));
  for (size_t i = 0; i < g->n_outputs; i++) {
    ValueId v = g->outputs[i];
    NodeId producer = graph_value(g, v)->producer;
    if ((producer == NO_NODE ? e->spec.plan->stages - 1 : graph_node(g, producer)->stage) != stage)
      continue;
    if (memory_place(memory, v).kind == PLACE_NONE)
      return fail(E_UNSUPPORTED, "output '%s' is an initializer that no node uses", graph_value(g, v)->name);
    run->emits.ports[run->emits.n++] = (Port){v, site_of(e, stage, v)};
  }
  return OK;
}

static Status make_stage(Executor *e, int stage) {
  const Plan *plan = e->spec.plan;
  const StageNodes *nodes = &plan->cuts.stages[stage];
  StageRun *run = &e->stages[stage];
  bool joined = plan->schedule.joined;
  TRY(make_calls(e, stage, nodes->nodes[PHASE_F], nodes->n_nodes[PHASE_F], &run->calls[ACTION_F]));
  if (joined) {
    TRY(make_calls(e, stage, nodes->backward, nodes->n_backward, &run->calls[ACTION_BW]));
  } else {
    TRY(make_calls(e, stage, nodes->nodes[PHASE_B], nodes->n_nodes[PHASE_B], &run->calls[ACTION_B]));
    TRY(make_calls(e, stage, nodes->nodes[PHASE_W], nodes->n_nodes[PHASE_W], &run->calls[ACTION_W]));
  }
  run->has_backward = nodes->n_backward > 0;
  bool has_b = stage > 0 && plan->cuts.cuts[stage - 1].n_backward > 0;
  run->first_backward = joined ? ACTION_BW : has_b ? ACTION_B : ACTION_W;
  if (e->graph->loss_sum != NO_VALUE && stage == plan->stages - 1)
    e->loss = site_of(e, stage, e->graph->loss_sum);
  TRY(make_lanes(e, stage, run));
  return make_ports(e, stage, run);
}

static bool holds(const Plan *plan, int rank, ValueId value) {
  return memory_holds(&plan->rank_memory[rank], value);
}

static int rank_of_group(const Plan *plan, const UseGroup *group) {
  return plan->schedule.rank_of_stage[graph_node(plan->graph, group->nodes[0])->stage];
}

/* The gradient of group i, or the places of its rows, goes from the rank that fills it to the others that hold it. */
static void exchange_value(Executor *e, size_t i, bool places) {
  const Plan *plan = e->spec.plan;
  ValueId value = places ? e->graph->groups[i].places : e->graph->groups[i].gradient;
  int owner = rank_of_group(plan, &e->graph->groups[i]);
  if (value == NO_VALUE || !holds(plan, e->spec.rank, value))
    return;
  for (int r = 0; r < plan->ranks; r++) {
    if (r == owner || !holds(plan, r, value) || (e->spec.rank != owner && e->spec.rank != r))
      continue;
    bool sends = e->spec.rank == owner;
    int peer = sends ? r : owner;
    e->exchanges[e->n_exchanges++] =
        (Exchange){peer, sends, executor_way(e, peer), persistent_site(e, value), (int)i, places};
  }
}

/* Accumulators, in the order of groups and ranks, which is the same on both sides of every pair. */
static Status make_exchanges(Executor *e) {
  TRY(ARENA_NEW(e->arena, e->exchanges, 2 * e->graph->n_groups * (size_t)e->spec.plan->ranks));
  for (size_t i = 0; i < e->graph->n_groups; i++) {
    exchange_value(e, i, false);
    exchange_value(e, i, true);
  }
  return OK;
}

static Status mark_begun(Executor *e) {
  const Graph *g = e->graph;
  TRY(ARENA_NEW(e->arena, e->begun, g->n_values));
  for (size_t i = 0; i < g->n_nodes; i++)
    if (op_def(g->nodes[i]->op)->traits & OP_MUTATES_FIRST && node_int(g->nodes[i], "begins", 0))
      e->begun[g->nodes[i]->in[0]] = true;
  return OK;
}

/* Whether this rank answers for the parameter of a squared norm: it has the first group that has an accumulator. */
static bool owns(const Executor *e, ValueId accumulator) {
  const Plan *plan = e->spec.plan;
  ValueId parameter = graph_value(e->graph, accumulator)->parameter;
  for (size_t i = 0; i < e->graph->n_groups; i++)
    if (e->graph->groups[i].parameter == parameter && e->graph->groups[i].gradient != NO_VALUE)
      return rank_of_group(plan, &e->graph->groups[i]) == e->spec.rank;
  return false;
}

/* In the place of a call that another one has taken in. */
static Status run_nothing(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                          void *state) {
  (void)stream, (void)node, (void)in, (void)out, (void)workspace, (void)state;
  return OK;
}

Status executor_join(Executor *e, Update *updates, int n) {
  JoinedCall *calls;
  bool *taken;
  NodeKernel whole = {0};
  if (!e->backend->join || e->spec.rehearses) /* nodes are timed one by one */
    return OK;
  TRY(ARENA_NEW(e->arena, calls, n));
  TRY(ARENA_NEW(e->arena, taken, n));
  for (int i = 0; i < n; i++)
    calls[i] = (JoinedCall){updates[i].call.node, updates[i].call.operands,
                            updates[i].call.operands + updates[i].call.node->n_in};
  TRY(e->backend->join(e->stream, calls, n, &whole, taken));
  NodeKernel next = whole;
  for (int i = 0; i < n && whole.run; i++)
    if (taken[i]) {
      updates[i].call.kernel = next;
      next = (NodeKernel){.run = run_nothing};
    }
  return whole.run ? keep_state(e, &whole) : OK;
}

static Status make_updates(Executor *e) {
  const Graph *g = e->graph;
  size_t n = 0;
  for (size_t i = 0; i < g->n_nodes; i++)
    n += g->nodes[i]->phase == PHASE_UPDATE;
  TRY(ARENA_NEW(e->arena, e->norms, n));
  TRY(ARENA_NEW(e->arena, e->updates, n));
  int index = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->phase != PHASE_UPDATE)
      continue;
    bool here = memory_updates(e->memory, g, node);
    if (optimizer_is_norm(node)) {
      Update norm = {.index = index++};
      if (!here || !owns(e, node->in[0]))
        continue;
      TRY(make_call(e, -1, node, &norm.call));
      e->norms[e->n_norms++] = norm;
    } else if (here && !pieces_take(e, node)) {
      TRY(make_call(e, -1, node, &e->updates[e->n_updates++].call));
      e->updates_on_host |= e->memory->offloads && node_int(node, "states", 0) > 0;
    }
  }
  TRY(executor_join(e, e->norms, e->n_norms));
  TRY(executor_join(e, e->updates, e->n_updates));
  return executor_rehearses_updates(e) ? pieces_make(e) : OK;
}

/* The most transfers that are posted together. */
static int most_posted(const Executor *e) {
  const ActionList *list = &e->spec.plan->schedule.lists[e->spec.rank];
  int most = e->n_exchanges, n = 0, group = 0;
  for (int i = 0; i < list->n_actions; i++) {
    Action action = list->actions[i];
    if (action_is_compute(action))
      continue;
    n = action.group && action.group == group ? n : 0;
    group = action.group;
    n += lane_of(&e->stages[action.stage], action.kind)->n;
    most = n > most ? n : most;
  }
  return most;
}

Status executor_lay_out(Executor *e) {
  const Plan *plan = e->spec.plan;
  TRY(ARENA_NEW(e->arena, e->stages, plan->stages));
  for (int s = 0; s < plan->stages; s++)
    if (plan->schedule.rank_of_stage[s] == e->spec.rank)
      TRY(make_stage(e, s));
  TRY(make_exchanges(e));
  TRY(mark_begun(e));
  TRY(make_updates(e));
  int most = most_posted(e);
  TRY(ARENA_NEW(e->arena, e->transfers, most));
  TRY(ARENA_NEW(e->arena, e->tickets, most));
  return executor_stage(e);
}
