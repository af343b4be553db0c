/* What the stages of a plan compute anew. Invariant: a choice is judged by the layout of the whole plan with it; the
 * fronts of stages (keep.h) only say in which order choices are tried. */
#include "graph/recompute.h"

#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "partitioner/plan/internal.h"
#include "partitioner/plan/keep.h"

enum { MOST_ROUNDS = 12, RELAXATIONS = 4 };

/* Of a front: some hundredths of a second; and where the choice stays, a quarter. */
static const double SEARCH_EFFORT = 1e6, EFFORT = 2e7;

const char *const plan_recompute_names[] = {
    [RECOMPUTE_NONE] = "none", [RECOMPUTE_AUTO] = "auto", [RECOMPUTE_FULL] = "full"};

Status plan_recompute_find(const char *name, Recomputation *recomputation) {
  for (*recomputation = RECOMPUTE_NONE; *recomputation <= RECOMPUTE_FULL; ++*recomputation)
    if (strcmp(plan_recompute_names[*recomputation], name) == 0)
      return OK;
  return fail(E_MODEL, "'recompute' is '%s', neither none, auto nor full", name);
}

/* Most microbatches of a stage between the beginning of F and the end of B, or of W; between those of B and W. */
typedef struct {
  int to_b, to_w, between;
} Flight;

static Flight flight_of(const Schedule *schedule, int stage) {
  const ActionList *list = &schedule->lists[schedule->rank_of_stage[stage]];
  Flight most = {0};
  int f = 0, b = 0, w = 0;
  for (int i = 0; i < list->n_actions; i++) {
    Action action = list->actions[i];
    if (action.stage != stage)
      continue;
    f += action.kind == ACTION_F;
    most.to_b = f - b > most.to_b ? f - b : most.to_b;
    most.to_w = f - w > most.to_w ? f - w : most.to_w;
    b += action.kind == ACTION_B || action.kind == ACTION_BW;
    most.between = b - w > most.between ? b - w : most.between;
    w += action.kind == ACTION_W || action.kind == ACTION_BW;
  }
  if (b == 0)
    most.to_b = most.to_w;
  return most;
}

typedef struct {
  const Graph *graph;
  Arena *arena;
  KeepProblem problem;
  KeepNode *nodes;
  KeepValue *values;
  NodeId *id;    /* [n_nodes] */
  ValueId *root; /* [graph->n_values] */
  int *index;    /* [graph->n_values], of roots: in `values`; -1: none */
} Stage;

static Status list_operands(Stage *s, const Node *node, KeepNode *own) {
  int *in, *out;
  TRY(ARENA_NEW(s->arena, in, node->n_in));
  TRY(ARENA_NEW(s->arena, out, node->n_out));
  int at = s->problem.n_nodes;
  for (int k = 0; k < node->n_in; k++) {
    ValueId v = node->in[k] == NO_VALUE ? NO_VALUE : s->root[node->in[k]];
    if (v == NO_VALUE || memory_is_persistent(s->graph, v))
      continue;
    if (s->index[v] < 0) {
      s->index[v] = s->problem.n_values;
      s->values[s->problem.n_values++] = (KeepValue){.producer = -1};
    }
    s->values[s->index[v]].last_use = at;
    in[own->n_in++] = s->index[v];
  }
  for (int k = 0; k < node->n_out; k++) {
    if (node->out[k] == NO_VALUE)
      continue;
    out[own->n_out++] = s->index[node->out[k]] = s->problem.n_values;
    s->values[s->problem.n_values++] = (KeepValue){.producer = at, .last_use = -1};
  }
  own->in = in;
  own->out = out;
  return OK;
}

static Status weigh(Stage *s, const StageNodes *nodes, bool joined, Flight flight) {
  const Graph *g = s->graph;
  bool *by[2];
  TRY(ARENA_NEW(s->arena, by[0], s->problem.n_values));
  TRY(ARENA_NEW(s->arena, by[1], s->problem.n_values));
  for (int p = PHASE_B; p <= PHASE_W; p++)
    for (int i = 0; i < nodes->n_nodes[p]; i++) {
      const Node *node = graph_node(g, nodes->nodes[p][i]);
      for (int k = 0; k < node->n_in; k++)
        if (node->in[k] != NO_VALUE && s->index[s->root[node->in[k]]] >= 0)
          by[p - PHASE_B][s->index[s->root[node->in[k]]]] = true;
    }
  for (ValueId v = 0; v < g->n_values; v++) {
    if (s->root[v] != v || s->index[v] < 0)
      continue;
    KeepValue *value = &s->values[s->index[v]];
    bool b = by[0][s->index[v]], w = by[1][s->index[v]], waits = b && w && !joined;
    double bytes = (double)memory_units(graph_value_bytes(g, v));
    value->needed = b || w;
    value->kept_bytes = bytes * (w || !b ? flight.to_w : flight.to_b);
    value->live_bytes = waits ? 0 : bytes;
    value->held_bytes = waits ? bytes * flight.between : 0;
  }
  return OK;
}

/* The stage as a problem of what to keep. */
static Status describe(const PlanItems *items, const Plan *plan, int stage, Arena *arena, Stage *s) {
  const Graph *g = plan->graph;
  const StageNodes *nodes = &plan->cuts.stages[stage];
  const double *seconds = items->node_seconds[plan->schedule.rank_of_stage[stage]];
  *s = (Stage){.graph = g, .arena = arena};
  TRY(ARENA_NEW(arena, s->nodes, nodes->n_nodes[PHASE_F]));
  TRY(ARENA_NEW(arena, s->id, nodes->n_nodes[PHASE_F]));
  TRY(ARENA_NEW(arena, s->values, g->n_values));
  TRY(ARENA_NEW(arena, s->root, g->n_values));
  TRY(ARENA_NEW(arena, s->index, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    s->root[v] = v;
    s->index[v] = -1;
  }
  for (int p = PHASE_F; p <= PHASE_W; p++)
    for (int i = 0; i < nodes->n_nodes[p]; i++) {
      const Node *node = graph_node(g, nodes->nodes[p][i]);
      if (op_def(node->op)->traits & OP_VIEW)
        s->root[node->out[0]] = s->root[node->in[0]];
      if (p != PHASE_F || op_def(node->op)->traits & OP_VIEW)
        continue;
      KeepNode *own = &s->nodes[s->problem.n_nodes];
      *own = (KeepNode){.seconds = seconds[node->id], .may = recompute_may(g, node)};
      TRY(list_operands(s, node, own));
      s->id[s->problem.n_nodes++] = node->id;
    }
  s->problem.nodes = s->nodes;
  s->problem.values = s->values;
  return weigh(s, nodes, plan->schedule.joined, flight_of(&plan->schedule, stage));
}

/* ---- trying ---- */

/* A stage's front, and where on it its choice is. Without a front it computes nothing anew. */
typedef struct {
  Stage stage;
  KeepFront front;
  int at;
} Trade;

typedef struct {
  const PlanSearch *search;
  const size_t *limits; /* [ranks] */
  const int *rank_of_stage;
  Arena *arena;
  Trade *trades;    /* [stages] */
  double *demanded; /* [ranks]: bytes that its stages are asked to save, as their fronts count them */
  double *refused;  /* [ranks]: so many were too few */
  size_t *totals;   /* [ranks]: of the last that was tried */
} Choosing;

static Status open_trades(Choosing *c, const Plan *plan, double effort) {
  TRY(ARENA_NEW(c->arena, c->trades, plan->stages));
  TRY(ARENA_NEW(c->arena, c->demanded, plan->ranks));
  TRY(ARENA_NEW(c->arena, c->refused, plan->ranks));
  TRY(ARENA_NEW(c->arena, c->totals, plan->ranks));
  for (int r = 0; r < plan->ranks; r++) {
    size_t total = plan->rank_memory[r].total_bytes;
    c->demanded[r] = total > c->limits[r] ? (double)(total - c->limits[r]) : 0;
  }
  for (int s = 0; s < plan->stages; s++) {
    Trade *trade = &c->trades[s];
    if (effort > 0 && c->demanded[plan->schedule.rank_of_stage[s]] == 0)
      continue;
    TRY(describe(&c->search->items, plan, s, c->arena, &trade->stage));
    TRY(keep_front(c->arena, &trade->stage.problem, effort, &trade->front));
  }
  return OK;
}

/* The choices of all stages of a rank where a byte is worth so many seconds; returns the bytes that they save. */
static double choose_at(Choosing *c, int rank, double worth) {
  double saved = 0;
  for (int s = 0; s < c->search->stages; s++) {
    Trade *trade = &c->trades[s];
    const KeepChoice *choices = trade->front.choices;
    if (c->rank_of_stage[s] != rank || !trade->front.n)
      continue;
    trade->at = 0;
    for (int i = 1; i < trade->front.n; i++)
      if (choices[i].seconds + choices[i].bytes * worth < choices[trade->at].seconds + choices[trade->at].bytes * worth)
        trade->at = i;
    saved += choices[0].bytes - choices[trade->at].bytes;
  }
  return saved;
}

/* With several stages on a rank the lowest price of a byte, one for all. Whether they save what is demanded. */
static bool choose_several(Choosing *c, int rank) {
  enum { HALVINGS = 40 };
  double low = -30, high = 3; /* powers of 10: a byte for nothing, and for more than any node takes */
  for (int i = 0; i < HALVINGS; i++) {
    double middle = (low + high) / 2;
    if (choose_at(c, rank, pow(10, middle)) >= c->demanded[rank])
      high = middle;
    else
      low = middle;
  }
  return choose_at(c, rank, pow(10, high)) >= c->demanded[rank];
}

/* With one stage the fastest choice that saves as much; where none does, the one that saves most. */
static bool choose(Choosing *c, int rank) {
  int n = 0, only = 0;
  for (int s = 0; s < c->search->stages; s++)
    if (c->rank_of_stage[s] == rank) {
      n++;
      only = s;
    }
  if (n > 1)
    return choose_several(c, rank);
  Trade *trade = &c->trades[only];
  const KeepChoice *choices = trade->front.choices;
  for (trade->at = 0; trade->at < trade->front.n - 1; trade->at++)
    if (choices[0].bytes - choices[trade->at].bytes >= c->demanded[rank])
      break;
  return choices[0].bytes - choices[trade->at].bytes >= c->demanded[rank];
}

/* The plan with what is chosen. */
static Status try_choices(const Choosing *c, PlanCandidate *candidate) {
  bool *again;
  Plan plan;
  TRY(ARENA_NEW(c->search->arena, again, c->search->graph->n_nodes));
  for (int s = 0; s < c->search->stages; s++) {
    const Trade *trade = &c->trades[s];
    for (int i = 0; trade->front.n && i < trade->stage.problem.n_nodes; i++)
      again[trade->stage.id[i]] = trade->front.choices[trade->at].again[i];
  }
  candidate->again = again;
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Status status = plan_build(c->search, arena, candidate, &plan);
  if (status == OK) {
    plan_judge(&plan, c->limits, candidate);
    for (int r = 0; r < plan.ranks; r++)
      c->totals[r] = plan.rank_memory[r].total_bytes;
  }
  arena_destroy(arena);
  return status;
}

/* Asks ranks over their limits for more, until they fit. *fits: whether they do. */
static Status demand(Choosing *c, int ranks, PlanCandidate *candidate, bool *fits) {
  for (int round = 0; round < MOST_ROUNDS; round++) {
    bool more = false;
    for (int r = 0; r < ranks; r++)
      more |= c->demanded[r] > 0 && choose(c, r);
    TRY(try_choices(c, candidate));
    *fits = candidate->excess == 0;
    if (*fits || !more)
      return OK;
    for (int r = 0; r < ranks; r++) {
      if (c->totals[r] <= c->limits[r])
        continue;
      double over = (double)(c->totals[r] - c->limits[r]), least = c->demanded[r] / 64;
      c->refused[r] = c->demanded[r];
      c->demanded[r] += over > least ? over : least;
    }
  }
  return OK;
}

/* Less than what was demanded may do: fronts count what lives at once by estimate. */
static Status relax(Choosing *c, int ranks, PlanCandidate *candidate) {
  for (int i = 0; i < RELAXATIONS; i++) {
    PlanCandidate trial = *candidate;
    double *before;
    TRY(ARENA_NEW(c->arena, before, ranks));
    for (int r = 0; r < ranks; r++) {
      before[r] = c->demanded[r];
      c->demanded[r] = (c->refused[r] + c->demanded[r]) / 2;
      if (c->demanded[r] > 0)
        choose(c, r);
    }
    TRY(try_choices(c, &trial));
    bool good = trial.excess == 0 && trial.step_seconds <= candidate->step_seconds;
    if (good)
      *candidate = trial;
    for (int r = 0; r < ranks && !good; r++) {
      c->refused[r] = c->demanded[r];
      c->demanded[r] = before[r];
    }
  }
  return OK;
}

static Status recompute(Choosing *c, const Plan *plan, bool relaxes, PlanCandidate *candidate) {
  bool least = c->search->recompute == RECOMPUTE_FULL, fits = false;
  TRY(open_trades(c, plan, least ? 0 : relaxes ? EFFORT : SEARCH_EFFORT));
  if (least)
    return try_choices(c, candidate);
  TRY(demand(c, plan->ranks, candidate, &fits));
  return fits && relaxes ? relax(c, plan->ranks, candidate) : OK;
}

Status plan_recompute(const PlanSearch *search, const Plan *plan, const size_t *limits, bool relaxes,
                      PlanCandidate *candidate) {
  Choosing c = {
      .search = search, .limits = limits, .rank_of_stage = plan->schedule.rank_of_stage, .arena = arena_create()};
  if (!c.arena)
    return status_code();
  Status status = recompute(&c, plan, relaxes, candidate);
  arena_destroy(c.arena);
  return status;
}
