/* Completes a plan whose stages and schedule are chosen. Invariant: everything here follows from the graph, stage_of,
 * the schedule and the items' costs, so a plan that was read is as complete as one that was made. */
#include <string.h>

#include "graph/optimizer.h"
#include "graph/recompute.h"
#include "partitioner/plan/internal.h"

Status plan_cut(Arena *arena, Plan *plan) {
  TRY(stages_assign(plan->graph, arena, plan->stage_of, plan->stages, &plan->cuts));
  return plan->again ? recompute_graph(arena, plan->graph, plan->again, &plan->cuts, &plan->graph) : OK;
}

Status plan_crossings(Arena *arena, const Plan *plan, Crossings *crossings) {
  bool *forward, *backward;
  TRY(ARENA_NEW(arena, forward, plan->stages));
  TRY(ARENA_NEW(arena, backward, plan->stages));
  for (int c = 0; c < plan->stages - 1; c++) {
    forward[c] = plan->cuts.cuts[c].n_forward > 0;
    backward[c] = plan->cuts.cuts[c].n_backward > 0;
  }
  *crossings = (Crossings){.forward_crosses = forward, .backward_crosses = backward};
  return OK;
}

Status plan_limits(Arena *arena, const PlanRequest *request, int ranks, size_t **limits) {
  TRY(ARENA_NEW(arena, *limits, ranks));
  for (int r = 0; r < ranks; r++) {
    bool sized = request->ranks == ranks; /* arrays of a request that leaves the ranks open have no size */
    size_t own = sized && request->memory_limits ? request->memory_limits[r] : 0;
    size_t device = sized && request->devices ? request->devices[r].memory_bytes : 0;
    (*limits)[r] = own ? own : device ? device : SIZE_MAX;
  }
  return OK;
}

Status plan_copy_ties(Arena *arena, Ties from, Ties *to) {
  const char **pairs;
  TRY(ARENA_NEW(arena, pairs, from.n_pairs));
  for (int i = 0; i < from.n_pairs; i++)
    if (!(pairs[i] = arena_string(arena, from.pairs[i])))
      return status_code();
  *to = (Ties){.known = from.known, .pairs = pairs, .n_pairs = from.n_pairs};
  return OK;
}

static void report_stage(const Plan *plan, int stage, StageReport *report) {
  const Graph *g = plan->graph;
  const StageNodes *nodes = &plan->cuts.stages[stage];
  const RankMemory *rank = &plan->rank_memory[plan->schedule.rank_of_stage[stage]];
  for (size_t i = 0; i < nodes->n_uses; i++) {
    ValueId v = nodes->uses[i];
    if (!memory_is_persistent(g, v))
      continue;
    Role role = graph_value(g, v)->role;
    if (role == ROLE_PARAMETER)
      report->parameter_bytes +=
          memory_units(graph_value_bytes(g, v)) + (memory_is_rounded(rank, v) ? memory_rounded_bytes(g, v) : 0);
    else if (role == ROLE_CONSTANT)
      report->constant_bytes += memory_units(graph_value_bytes(g, v));
  }
  if (stage < plan->stages - 1) {
    report->cut_forward_bytes = plan->cuts.cuts[stage].forward_bytes;
    report->cut_backward_bytes = plan->cuts.cuts[stage].backward_bytes;
  }
}

Status plan_finish(Arena *arena, Plan *plan) {
  const Graph *g = plan->graph;
  Crossings crossings;
  TRY(plan_crossings(arena, plan, &crossings));
  TRY(schedule_check(&plan->schedule, &crossings));
  TRY(plan_memory(arena, plan));
  TRY(ARENA_NEW(arena, plan->reports, plan->stages));
  int item = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    if (g->nodes[i]->phase != PHASE_F)
      continue;
    StageReport *report = &plan->reports[g->nodes[i]->stage];
    if (!report->first_node) {
      report->first = item;
      report->first_node = g->nodes[i]->name;
    }
    report->last = item++;
    report->n_nodes++;
    report->last_node = g->nodes[i]->name;
  }
  for (int s = 0; s < plan->stages; s++)
    report_stage(plan, s, &plan->reports[s]);
  return OK;
}

char *plan_rank_text(const Plan *plan, int rank, char *text) {
  enum { ROOM = 96, SHOWN = 6 };
  int n = 0, shown = 0, at = snprintf(text, ROOM, "rank %d", rank);
  for (int s = 0; s < plan->stages; s++)
    n += plan->schedule.rank_of_stage[s] == rank;
  for (int s = 0; s < plan->stages && shown < SHOWN && at < ROOM; s++) {
    if (plan->schedule.rank_of_stage[s] != rank)
      continue;
    shown++;
    const char *before = shown == 1 ? n == 1 ? " (stage " : " (stages " : shown == n ? " and " : ", ";
    at += snprintf(text + at, (size_t)(ROOM - at), "%s%d", before, s);
  }
  if (shown && at < ROOM)
    snprintf(text + at, (size_t)(ROOM - at), shown < n ? " …)" : ")");
  return text;
}

static double link_seconds(double bytes_per_second, size_t bytes) {
  return bytes_per_second > 0 ? (double)bytes / bytes_per_second : 0;
}

static double staging_rate(const PlanRequest *r, int rank) {
  return r->staging_bytes_per_second ? r->staging_bytes_per_second[rank] : 0;
}

double plan_link_rate(const PlanRequest *r, int from, int to) {
  double ends[2] = {staging_rate(r, from), staging_rate(r, to)};
  double link = r->pair_bytes_per_second ? r->pair_bytes_per_second[from * r->ranks + to] : r->link.bytes_per_second;
  double seconds_per_byte = link > 0 ? 1 / link : 0;
  if (from == to)
    return 0;
  if (ends[0] > 0 && ends[1] > 0 && r->direct_bytes_per_second > 0)
    return r->direct_bytes_per_second;
  for (int i = 0; i < 2; i++)
    seconds_per_byte += ends[i] > 0 ? 1 / ends[i] : 0;
  return seconds_per_byte > 0 ? 1 / seconds_per_byte : 0;
}

/* What a rank's offloaded states take on the bus beside updates that take `computes`: those that pass through the
 * window go both ways at a time while others are updated, and what the window holds comes before; those of rows are
 * reached for where they lie. */
static double offload_seconds(const Plan *plan, const PlanRequest *request, int rank, double computes) {
  const Graph *g = plan->graph;
  const RankMemory *memory = &plan->rank_memory[rank];
  double rate = request->devices ? request->devices[rank].host_bytes_per_second : 0, rows = 0;
  if (!memory->offloads || !(rate > 0))
    return 0;
  for (size_t i = 0; i < memory->n_updates; i++) {
    const Node *node = graph_node(g, memory->updates[i]);
    if (optimizer_is_norm(node) || optimizer_updates_parts(g, node))
      continue;
    double all = (double)graph_value_bytes(g, node->in[0]), touched = 0;
    int states = (int)node_int(node, "states", 0);
    for (int k = 2 + states; k < node->n_in; k++)
      touched += graph_value(g, node->in[k])->dtype == I64 ? 0 : (double)graph_value_bytes(g, node->in[k]);
    bool some = node->op == OP_SparseAdamUpdate && touched < all;
    rows += states * (some ? touched : all);
  }
  double passes =
      (double)(memory->passing_bytes > memory->window_bytes ? memory->passing_bytes - memory->window_bytes : 0);
  return (passes / rate > computes ? passes / rate - computes : 0) + rows / rate;
}

static int rank_of_group(const Plan *plan, size_t group) {
  return plan->schedule.rank_of_stage[graph_node(plan->graph, plan->graph->groups[group].nodes[0])->stage];
}

/* Accumulators that the rank holds and another one fills: comes [n_groups] is set for these. Whether there are any. */
static bool find_coming(const Plan *plan, const int *group_of, int rank, bool *comes) {
  const RankMemory *memory = &plan->rank_memory[rank];
  bool any = false;
  memset(comes, 0, plan->graph->n_groups * sizeof *comes);
  for (size_t i = 0; i < memory->n_persistent; i++) {
    int group = group_of[memory->persistent[i]];
    if (group >= 0 && rank_of_group(plan, (size_t)group) != rank)
      any = comes[group] = true;
  }
  return any;
}

/* The update of a rank, after the accumulators of its parameters that other ranks fill have come. */
static double update_seconds(const Plan *plan, const PlanItems *items, const PlanRequest *request, const int *group_of,
                             int rank, bool *comes) {
  const Graph *g = plan->graph;
  const RankMemory *memory = &plan->rank_memory[rank];
  double seconds = 0;
  for (size_t i = 0; i < memory->n_updates; i++)
    seconds += items->node_seconds[rank][graph_plain(g, memory->updates[i])];
  seconds += offload_seconds(plan, request, rank, seconds);
  bool any = find_coming(plan, group_of, rank, comes);
  for (size_t i = 0; any && i < g->n_groups; i++) {
    if (!comes[i])
      continue;
    size_t bytes = graph_value_bytes(g, g->groups[i].gradient);
    bytes += g->groups[i].places == NO_VALUE ? 0 : graph_value_bytes(g, g->groups[i].places);
    seconds += plan->link.latency_seconds + link_seconds(plan_link_rate(request, rank_of_group(plan, i), rank), bytes);
  }
  return seconds;
}

/* What an executor does beside the nodes of an action. */
static void add_actions(const PlanRequest *request, Plan *plan) {
  for (int s = 0; request->profiles && s < plan->stages; s++) {
    StageReport *report = &plan->reports[s];
    double seconds = request->profiles[plan->schedule.rank_of_stage[s]].action_seconds;
    report->forward_seconds += seconds;
    if (report->backward_input_seconds > 0)
      report->backward_input_seconds += seconds;
    if (report->backward_weight_seconds > 0 && !(plan->schedule.joined && report->backward_input_seconds > 0))
      report->backward_weight_seconds += seconds;
  }
}

static Status time_updates(Arena *arena, const PlanItems *items, const PlanRequest *request, Plan *plan) {
  const Graph *g = plan->graph;
  int *group_of;
  bool *comes;
  TRY(ARENA_NEW(arena, group_of, g->n_values));
  TRY(ARENA_NEW(arena, comes, g->n_groups));
  memset(group_of, -1, g->n_values * sizeof *group_of);
  for (size_t i = 0; i < g->n_groups; i++)
    if (g->groups[i].gradient != NO_VALUE)
      group_of[g->groups[i].gradient] = (int)i;
  plan->update_seconds = 0;
  for (int r = 0; r < plan->ranks; r++) {
    double seconds = update_seconds(plan, items, request, group_of, r, comes) +
                     (request->profiles ? request->profiles[r].step_seconds : 0);
    plan->update_seconds = seconds > plan->update_seconds ? seconds : plan->update_seconds;
  }
  return OK;
}

Status plan_time(const PlanItems *items, const PlanRequest *request, Plan *plan) {
  const Graph *g = plan->graph;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->phase == PHASE_UPDATE)
      continue;
    StageReport *report = &plan->reports[node->stage];
    double seconds = items->node_seconds[plan->schedule.rank_of_stage[node->stage]][graph_plain(g, (NodeId)i)];
    *(node->phase == PHASE_F   ? &report->forward_seconds
      : node->phase == PHASE_B ? &report->backward_input_seconds
                               : &report->backward_weight_seconds) += seconds;
    report->again_seconds += node->again ? seconds : 0;
  }
  const int *rank_of = plan->schedule.rank_of_stage;
  for (int s = 0; s < plan->stages - 1; s++)
    plan->reports[s].cut_bytes_per_second = plan_link_rate(request, rank_of[s], rank_of[s + 1]);
  add_actions(request, plan);
  Arena *arena = arena_create();
  Status status = arena ? time_updates(arena, items, request, plan) : status_code();
  arena_destroy(arena);
  TRY(status);
  if (plan->capacity > 0 && plan->capacity < plan->ranks) /* all ranks update at one time */
    plan->update_seconds *= plan->ranks / plan->capacity;
  return OK;
}

/* Bytes of one microbatch that F leaves for backward, and those of them that go with B. */
static void kept_bytes(const StageMemory *memory, double *all, double *freed_by_b) {
  for (int b = 0; b < memory->n_blocks; b++) {
    const Block *block = &memory->blocks[b];
    if (block->born > POINT_F || block->dies == POINT_F)
      continue;
    *all += (double)block->bytes;
    *freed_by_b += block->dies == POINT_B ? (double)block->bytes : 0;
  }
}

Status plan_timing(Arena *arena, const Plan *plan, Timing *timing) {
  int n = plan->stages;
  double *forward, *input, *weight, *activation, *up, *down, all = 0, freed = 0;
  TRY(ARENA_NEW(arena, forward, n));
  TRY(ARENA_NEW(arena, input, n));
  TRY(ARENA_NEW(arena, weight, n));
  TRY(ARENA_NEW(arena, activation, n));
  TRY(ARENA_NEW(arena, up, n));
  TRY(ARENA_NEW(arena, down, n));
  for (int s = 0; s < n; s++) {
    const StageReport *report = &plan->reports[s];
    forward[s] = report->forward_seconds;
    input[s] = report->backward_input_seconds;
    weight[s] = report->backward_weight_seconds;
    up[s] = link_seconds(report->cut_bytes_per_second, report->cut_forward_bytes);
    down[s] = link_seconds(report->cut_bytes_per_second, report->cut_backward_bytes);
    kept_bytes(&plan->stage_memory[s], &activation[s], &freed);
    all += activation[s];
  }
  *timing = (Timing){.ranks = plan->ranks,
                     .stages = n,
                     .microbatches = plan->microbatches,
                     .rank_of_stage = plan->schedule.rank_of_stage,
                     .forward_seconds = forward,
                     .backward_input_seconds = input,
                     .backward_weight_seconds = weight,
                     .activation = activation,
                     .backward_input_frees = all > 0 ? freed / all : 0,
                     .link_latency_seconds = plan->link.latency_seconds,
                     .capacity = plan->capacity,
                     .forward_link_seconds = up,
                     .backward_link_seconds = down};
  return OK;
}

double plan_schedule_seconds(const Plan *plan, const Simulation *simulation) {
  return plan->objective == OBJECTIVE_SPAN ? simulation->longest_span_seconds : simulation->makespan_seconds;
}

static Status simulate(Arena *arena, Plan *plan) {
  Timing timing;
  Simulation simulation;
  TRY(plan_timing(arena, plan, &timing));
  TRY(simulate_schedule(arena, &plan->schedule, &timing, &simulation));
  plan->step_seconds = plan_schedule_seconds(plan, &simulation) + plan->update_seconds;
  plan->bubble = simulation.bubble > 1e-12 ? simulation.bubble : 0; /* what rounding makes of 0 */
  return OK;
}

Status plan_predict(Plan *plan) {
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Status status = simulate(arena, plan);
  arena_destroy(arena);
  return status;
}
