/* The dynamic programme over ideals. Invariant: best[ideal][state] is the least load of the devices used so far with
 * which exactly the ideal lies on them, among all up to the bound at hand; a state says which devices those are. */
#include "partitioner/plan/partition_graph.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/plan/lattice.h"

/* The first bound lies so far above what seconds alone need. */
static const double FIRST_SLACK = 0.005;
/* Left of items that were put together. */
enum { MOST_NODES = 600 };
static const double ROUNDING = 1e-12; /* of a sum, to the whole */

typedef struct {
  double load;
  int from;  /* the ideal before */
  int state; /* the state before */
} Best;

/* A node on the way from one ideal up to others. */
typedef struct {
  int ideal;
  size_t next; /* upper neighbour to be tried */
  int node;    /* that led here; -1: the first */
  double seconds, bytes;
  double lost; /* of tensors that this device shares for certain, whatever else it gets */
  double open; /* of those that it shares so far */
} Step;

typedef struct {
  const PartitionGraph *problem;
  Arena *arena;
  Reduced graph;
  Lattice lattice;
  int n_states;
  int *next_state; /* [n_states][n_kinds]; -1: no such device is left */
  int *left;       /* [n_states][n_kinds] devices that are left */
  double *least;   /* [n] seconds of each node where it is fastest */
  double *above;   /* [n_ideals] the sum of these that is left */
  double *cut;     /* [n_ideals] what crosses the ideal's edge; only for relays */
  double *room;    /* [n_states] the most of `above` that the devices left can take */
  Best *best;      /* [n_ideals][n_states] */
  int **by_rate;   /* [n_kinds][n] nodes, those first that a kind does best */
  double bound;
  bool bounded; /* the bound has left something out */
  double pairs, most_pairs;
  /* one walk */
  int *seen;   /* [n_ideals] the ideal whose walk came by last, + 1 */
  bool *begun; /* [n_tensors] has a node in the walk's first ideal */
  int *inside; /* [n_tensors] nodes on this device */
  Step *steps; /* [n + 1] */
  int *live;   /* [n_states] */
} Solver;

static int count_devices(const PartitionGraph *p) {
  int n = 0;
  for (int k = 0; k < p->n_kinds; k++)
    n += p->kinds[k].count;
  return n;
}

/* With relays one state more than devices; else how many of each kind are used, in mixed radix. */
static Status list_states(Solver *s) {
  const PartitionGraph *p = s->problem;
  int kinds = p->n_kinds;
  s->n_states = 1;
  if (p->relay)
    s->n_states += count_devices(p);
  for (int k = 0; k < kinds && !p->relay; k++)
    s->n_states *= p->kinds[k].count + 1;
  TRY(ARENA_NEW(s->arena, s->next_state, (size_t)s->n_states * (size_t)kinds));
  TRY(ARENA_NEW(s->arena, s->left, (size_t)s->n_states * (size_t)kinds));
  for (int state = 0; state < s->n_states; state++) {
    int used = state, stride = 1;
    bool open = true;
    for (int k = 0; k < kinds; k++) {
      int count = p->kinds[k].count, digit = p->relay ? (used < count ? used : count) : used % (count + 1);
      bool next = digit < count && open;
      s->next_state[state * kinds + k] = next ? state + stride : -1;
      s->left[state * kinds + k] = count - digit;
      if (p->relay) {
        used -= digit;
        open &= !next;
      } else {
        used /= count + 1;
        stride *= count + 1;
      }
    }
  }
  return OK;
}

typedef struct {
  double rate;
  int node;
} Rated;

static int compare_rates(const void *a, const void *b) {
  const Rated *x = a, *y = b;
  if (x->rate != y->rate)
    return x->rate > y->rate ? -1 : 1;
  return x->node - y->node;
}

static Status rate_nodes(Solver *s) {
  const Reduced *g = &s->graph;
  Rated *rated;
  TRY(ARENA_NEW(s->arena, s->least, g->n));
  TRY(ARENA_NEW(s->arena, s->by_rate, s->problem->n_kinds));
  TRY(ARENA_NEW(s->arena, rated, g->n));
  for (int v = 0; v < g->n; v++) {
    s->least[v] = INFINITY;
    for (int k = 0; k < s->problem->n_kinds; k++)
      s->least[v] = fmin(s->least[v], g->seconds[k][v]);
  }
  for (int k = 0; k < s->problem->n_kinds; k++) {
    TRY(ARENA_NEW(s->arena, s->by_rate[k], g->n));
    for (int v = 0; v < g->n; v++) {
      double seconds = g->seconds[k][v];
      rated[v] = (Rated){seconds > 0 ? s->least[v] / seconds : INFINITY, v};
    }
    qsort(rated, (size_t)g->n, sizeof *rated, compare_rates);
    for (int v = 0; v < g->n; v++)
      s->by_rate[k][v] = rated[v].node;
  }
  return OK;
}

/* The most of the nodes' least seconds that so many seconds of this kind can take, nodes cut as one likes. */
static double absorb(const Solver *s, int kind, double seconds) {
  double sum = 0;
  for (int i = 0; i < s->graph.n; i++) {
    int v = s->by_rate[kind][i];
    double own = s->graph.seconds[kind][v];
    if (isinf(own))
      continue;
    if (own >= seconds)
      return sum + (own > 0 ? s->least[v] * (seconds / own) : s->least[v]);
    seconds -= own;
    sum += s->least[v];
  }
  return sum;
}

static double room_of(const Solver *s, int state, double bound) {
  double sum = 0;
  for (int k = 0; k < s->problem->n_kinds; k++)
    sum += absorb(s, k, bound * s->left[state * s->problem->n_kinds + k]);
  return sum;
}

/* No load is less: seconds alone, and the slowest node. */
static double lower_bound(const Solver *s) {
  double all = 0, low = 0;
  for (int v = 0; v < s->graph.n; v++) {
    all += s->least[v];
    low = fmax(low, s->least[v]);
  }
  double high = all;
  for (int i = 0; i < 100 && low < high; i++) {
    double middle = low + (high - low) / 2;
    if (room_of(s, 0, middle) >= all)
      high = middle;
    else
      low = middle;
  }
  return high;
}

/* What crosses each ideal's edge: tensors with a node on either side. */
static Status weigh_cuts(Solver *s) {
  const Reduced *g = &s->graph;
  TRY(ARENA_NEW(s->arena, s->cut, s->lattice.n_ideals));
  for (int i = 0; i < s->lattice.n_ideals; i++)
    for (int t = 0; t < g->n_tensors; t++) {
      int in = 0;
      for (int k = g->members.first[t]; k < g->members.first[t + 1]; k++)
        in += lattice_has(&s->lattice, i, g->members.at[k]);
      if (in > 0 && in < g->members.first[t + 1] - g->members.first[t])
        s->cut[i] += g->tensor_seconds[t];
    }
  return OK;
}

static Status weigh_ideals(Solver *s) {
  const Lattice *l = &s->lattice;
  TRY(ARENA_NEW(s->arena, s->above, l->n_ideals));
  for (int v = s->graph.n - 1; v >= 0; v--)
    s->above[0] += s->least[v];
  for (int i = 1; i < l->n_ideals; i++)
    s->above[i] = -1;
  for (int i = 0; i < l->n_ideals; i++)
    for (size_t k = l->above_first[i]; k < l->above_first[i + 1]; k++)
      if (s->above[l->above[k]] < 0)
        s->above[l->above[k]] = fmax(0, s->above[i] - s->least[l->node[k]]);
  return s->problem->relay ? weigh_cuts(s) : OK;
}

/* Adds the node to the device of the step; *next is what it comes to. */
static void add_node(Solver *s, const Step *step, int kind, int node, Step *next) {
  const Reduced *g = &s->graph;
  *next = (Step){.node = node,
                 .seconds = step->seconds + g->seconds[kind][node],
                 .bytes = step->bytes + g->bytes[node],
                 .lost = step->lost,
                 .open = step->open};
  if (s->problem->relay || s->problem->kinds[kind].exchanges_free)
    return;
  for (int k = g->tensors.first[node]; k < g->tensors.first[node + 1]; k++) {
    int t = g->tensors.at[k], size = g->members.first[t + 1] - g->members.first[t];
    int inside = ++s->inside[t];
    if (s->begun[t])
      next->lost += inside == 1 ? g->tensor_seconds[t] : 0;
    else if (inside == 1)
      next->open += g->tensor_seconds[t];
    else if (inside == size)
      next->open -= g->tensor_seconds[t];
  }
}

static void remove_node(Solver *s, int kind, int node) {
  if (node < 0 || s->problem->relay || s->problem->kinds[kind].exchanges_free)
    return;
  for (int k = s->graph.tensors.first[node]; k < s->graph.tensors.first[node + 1]; k++)
    s->inside[s->graph.tensors.at[k]]--;
}

/* The tensors of the ideal's nodes are begun. */
static void begin_tensors(Solver *s, int ideal) {
  const Reduced *g = &s->graph;
  for (int t = 0; t < g->n_tensors; t++) {
    s->begun[t] = false;
    for (int k = g->members.first[t]; k < g->members.first[t + 1] && !s->begun[t]; k++)
      s->begun[t] = lattice_has(&s->lattice, ideal, g->members.at[k]);
  }
}

/* What the device takes with the nodes of the step, behind the devices of `state`. */
static double load_of(const Solver *s, int from, const Step *step, int state) {
  const double *relay = s->problem->relay;
  if (!relay)
    return step->seconds + step->lost + step->open;
  double behind = state > 0 ? relay[state - 1] * s->cut[from] : 0;
  return step->seconds + behind + (state + 2 < s->n_states ? relay[state] * s->cut[step->ideal] : 0);
}

static void offer(Solver *s, int from, const Step *step, int kind, int n_live) {
  Best *rows = s->best + (size_t)step->ideal * (size_t)s->n_states;
  const Best *origin = s->best + (size_t)from * (size_t)s->n_states;
  for (int i = 0; i < n_live; i++) {
    int state = s->live[i], next = s->next_state[state * s->problem->n_kinds + kind];
    double load = fmax(origin[state].load, load_of(s, from, step, state));
    if (load > s->bound || s->above[step->ideal] > s->room[next]) {
      s->bounded = true;
      continue;
    }
    if (load < rows[next].load)
      rows[next] = (Best){load, from, state};
  }
}

/* With relays: the least that the cut at the ideal takes any device of those that may follow. */
static double cut_behind(const Solver *s, int ideal, int n_live) {
  double least = INFINITY;
  if (!s->problem->relay)
    return 0;
  for (int i = 0; i < n_live; i++)
    least = fmin(least, s->live[i] > 0 ? s->problem->relay[s->live[i] - 1] * s->cut[ideal] : 0);
  return least;
}

/* All ideals above `from` that one more device of the kind can take. */
static void walk(Solver *s, int from, int kind, int n_live) {
  const Lattice *l = &s->lattice;
  const DeviceKind *device = &s->problem->kinds[kind];
  int top = 0, mark = from * s->problem->n_kinds + kind + 1;
  s->steps[0] = (Step){.ideal = from, .next = l->above_first[from], .node = -1, .lost = cut_behind(s, from, n_live)};
  while (top >= 0) {
    Step *step = &s->steps[top];
    if (step->next == l->above_first[step->ideal + 1]) {
      remove_node(s, kind, step->node);
      top--;
      continue;
    }
    size_t k = step->next++;
    int ideal = l->above[k];
    if (s->seen[ideal] == mark)
      continue;
    s->seen[ideal] = mark;
    s->pairs++;
    Step *next = &s->steps[top + 1];
    if (step->seconds + step->lost + s->graph.seconds[kind][l->node[k]] > s->bound ||
        step->bytes + s->graph.bytes[l->node[k]] > device->capacity_bytes) {
      s->bounded |= step->bytes + s->graph.bytes[l->node[k]] <= device->capacity_bytes;
      continue;
    }
    add_node(s, step, kind, l->node[k], next);
    next->ideal = ideal;
    next->next = l->above_first[ideal];
    if (next->seconds + next->lost > s->bound) {
      s->bounded = true;
      remove_node(s, kind, next->node);
      continue;
    }
    offer(s, from, next, kind, n_live);
    top++;
  }
}

/* Marks are the walks' numbers: an ideal and a kind. */
static void solve_within(Solver *s, double bound) {
  const Lattice *l = &s->lattice;
  int kinds = s->problem->n_kinds, states = s->n_states;
  s->bound = bound;
  s->bounded = false;
  for (int state = 0; state < states; state++)
    s->room[state] = room_of(s, state, bound) + ROUNDING * s->above[0];
  for (size_t i = 0; i < (size_t)l->n_ideals * (size_t)states; i++)
    s->best[i].load = INFINITY;
  memset(s->seen, 0, (size_t)l->n_ideals * sizeof *s->seen);
  s->best[0].load = 0;
  for (int i = 0; i < l->n_ideals - 1 && s->pairs < s->most_pairs; i++) {
    bool begun = s->problem->relay;
    for (int k = 0; k < kinds; k++) {
      int n = 0;
      for (int state = 0; state < states; state++)
        if (s->best[(size_t)i * (size_t)states + (size_t)state].load <= bound && s->next_state[state * kinds + k] >= 0)
          s->live[n++] = state;
      if (n == 0)
        continue;
      if (!begun)
        begin_tensors(s, i);
      begun = true;
      walk(s, i, k, n);
    }
  }
}

/* The best state of the whole; -1: none. With relays every device has something. */
static int final_state(const Solver *s) {
  const Best *rows = s->best + (size_t)(s->lattice.n_ideals - 1) * (size_t)s->n_states;
  int found = -1;
  for (int state = s->problem->relay ? s->n_states - 1 : 0; state < s->n_states; state++)
    if (rows[state].load < INFINITY && (found < 0 || rows[state].load < rows[found].load))
      found = state;
  return found;
}

/* Bounds from what seconds alone need, each with twice the slack, until a cut is found: then none is faster. */
static int search(Solver *s) {
  double low = lower_bound(s);
  for (double slack = FIRST_SLACK;; slack *= 2) {
    bool last = slack > 1e6;
    solve_within(s, last ? INFINITY : low * (1 + slack));
    int state = final_state(s);
    if (state >= 0 || !s->bounded || last || s->pairs >= s->most_pairs)
      return state;
  }
}

/* Nodes of the last device back to the first. Devices of a kind are numbered as they are used. */
static Status assign(const Solver *s, int state, GraphPartition *result) {
  const PartitionGraph *p = s->problem;
  int *device, *first, ideal = s->lattice.n_ideals - 1;
  TRY(ARENA_NEW(s->arena, device, s->graph.n));
  TRY(ARENA_NEW(s->arena, first, p->n_kinds));
  for (int k = 1; k < p->n_kinds; k++)
    first[k] = first[k - 1] + p->kinds[k - 1].count;
  while (ideal > 0) {
    const Best *best = &s->best[(size_t)ideal * (size_t)s->n_states + (size_t)state];
    int kind = 0;
    while (s->next_state[best->state * p->n_kinds + kind] != state)
      kind++;
    int used = p->kinds[kind].count - s->left[best->state * p->n_kinds + kind];
    for (int v = 0; v < s->graph.n; v++)
      if (lattice_has(&s->lattice, ideal, v) && !lattice_has(&s->lattice, best->from, v))
        device[v] = first[kind] + used;
    ideal = best->from;
    state = best->state;
  }
  for (int i = 0; i < p->n_items; i++)
    result->device[i] = device[s->graph.node_of[i]];
  return OK;
}

static Status prepare(Solver *s) {
  TRY(list_states(s));
  TRY(rate_nodes(s));
  TRY(weigh_ideals(s));
  TRY(ARENA_NEW(s->arena, s->room, s->n_states));
  TRY(ARENA_NEW(s->arena, s->live, s->n_states));
  TRY(ARENA_NEW(s->arena, s->best, (size_t)s->lattice.n_ideals * (size_t)s->n_states));
  TRY(ARENA_NEW(s->arena, s->seen, s->lattice.n_ideals));
  TRY(ARENA_NEW(s->arena, s->begun, s->graph.n_tensors));
  TRY(ARENA_NEW(s->arena, s->inside, s->graph.n_tensors));
  return ARENA_NEW(s->arena, s->steps, s->graph.n + 1);
}

/* Items are put together until the ideals are few enough; what a vain attempt took is given back. */
static Status reduce(Solver *s, size_t most_ideals, bool *exact) {
  int most = 0;
  *exact = true;
  for (;;) {
    TRY(most ? reduce_to(s->problem, most, &s->graph) : reduce_exactly(s->problem, &s->graph));
    TRY(lattice_create(s->arena, &s->graph, most_ideals, &s->lattice));
    if (s->lattice.complete)
      return OK;
    *exact = false;
    most = s->graph.n * 2 / 3 < MOST_NODES ? s->graph.n * 2 / 3 : MOST_NODES;
    reduced_free(&s->graph);
    arena_destroy(s->arena);
    s->arena = arena_create();
    if (!s->arena)
      return status_code();
  }
}

static Status solve(Solver *s, size_t most_ideals, GraphPartition *result) {
  TRY(reduce(s, most_ideals, &result->exact));
  TRY(prepare(s));
  int state = search(s);
  result->exact &= s->pairs < s->most_pairs;
  if (state < 0)
    return fail(E_LIMIT, "no cut for %d devices fits", count_devices(s->problem));
  result->load_seconds = s->best[(size_t)(s->lattice.n_ideals - 1) * (size_t)s->n_states + (size_t)state].load;
  return assign(s, state, result);
}

Status partition_graph(const PartitionGraph *problem, size_t most_ideals, double most_pairs, GraphPartition *result) {
  Solver s = {.problem = problem, .arena = arena_create(), .most_pairs = most_pairs};
  if (!s.arena)
    return status_code();
  Status status = solve(&s, most_ideals, result);
  reduced_free(&s.graph);
  arena_destroy(s.arena);
  return status;
}
