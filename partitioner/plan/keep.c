#include "partitioner/plan/keep.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BOUNDS = 128, SOME_BOUNDS = 24, FEW_BOUNDS = 12, MOST_STATES = 512, LEAST_STATES = 8 };

/* With no more effort than this, bounds are fewer, too. */
static const double QUICK = 1e6;
/* Segments. */
static const double MOST_SEGMENTS = 1e6;

/* Nodes [from, to): what they keep, and what they compute anew. */
typedef struct {
  double kept, live, seconds;
} Segment;

/* Nodes up to some end, as cheap as one of their choices. */
typedef struct {
  double kept, seconds;
  int from, state; /* the last segment's beginning, and the state there */
  bool last;       /* the segment's last node is kept, though nothing behind the segment reads what it makes */
} State;

typedef struct {
  State *states; /* by bytes, the fewest first; ever faster */
  int n;
} States;

typedef struct {
  const KeepProblem *problem;
  Arena *arena;
  int longest;           /* segment */
  Segment **segments[2]; /* [n_nodes + 1][longest]: that which ends there, by length - 1; [1]: with State.last, NULL
                            where that makes no difference */
  int most_states;
  double *bounds; /* on what lives at once */
  int n_bounds;
  States **ends; /* [n_bounds][n_nodes + 1] */
} Keep;

/* ---- segments ---- */

typedef struct {
  int *wanted; /* [n_values]: by a clone of the sweep with this number */
  int sweep;
} Sweep;

/* Whether something that the node makes is read behind the segment, or it runs once: then all that it makes is kept. */
static bool stays(const KeepProblem *p, const KeepNode *node, int to) {
  bool stays = !node->may;
  for (int k = 0; k < node->n_out; k++)
    stays |= p->values[node->out[k]].last_use >= to;
  return stays;
}

/* One node more at the front of a segment; users are known. */
static void extend(const KeepProblem *p, Sweep *sweep, int at, int to, bool last, Segment *s) {
  const KeepNode *node = &p->nodes[at];
  bool kept = stays(p, node, to) || (last && at == to - 1), runs = false;
  for (int k = 0; k < node->n_out; k++) {
    const KeepValue *v = &p->values[node->out[k]];
    bool wanted = sweep->wanted[node->out[k]] == sweep->sweep;
    if (kept) { /* wanted but not needed: it was charged as something from before */
      s->kept += v->needed ? v->kept_bytes : 0;
      continue;
    }
    s->kept -= wanted && !v->needed ? v->kept_bytes : 0;
    runs |= v->needed || wanted;
    s->live += v->needed ? v->live_bytes : 0;
    s->kept += v->needed ? v->held_bytes : 0;
  }
  if (!runs)
    return;
  s->seconds += node->seconds;
  for (int k = 0; k < node->n_in; k++) {
    int in = node->in[k];
    if (sweep->wanted[in] == sweep->sweep)
      continue;
    sweep->wanted[in] = sweep->sweep;
    s->kept += p->values[in].needed ? 0 : p->values[in].kept_bytes;
  }
}

static Status list_segments(Keep *keep) {
  const KeepProblem *p = keep->problem;
  Sweep sweep = {0};
  TRY(ARENA_NEW(keep->arena, sweep.wanted, p->n_values));
  for (int last = 0; last < 2; last++)
    TRY(ARENA_NEW(keep->arena, keep->segments[last], p->n_nodes + 1));
  for (int to = 1; to <= p->n_nodes; to++)
    for (int last = 0; last < (stays(p, &p->nodes[to - 1], to) ? 1 : 2); last++) {
      Segment s = {0};
      Segment *segments;
      sweep.sweep++;
      TRY(ARENA_NEW(keep->arena, segments, keep->longest));
      for (int from = to - 1; from >= 0 && to - from <= keep->longest; from--) {
        extend(p, &sweep, from, to, last, &s);
        segments[to - from - 1] = s;
      }
      keep->segments[last][to] = segments;
    }
  return OK;
}

/* ---- bounds ---- */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* All bytes that some segment computes anew; of many, those that grow by equal ratios. */
static Status list_bounds(Keep *keep, int most) {
  int n = keep->problem->n_nodes, kept = 0;
  size_t count = 0;
  double *all;
  TRY(ARENA_NEW(keep->arena, all, 2 * (size_t)n * (size_t)keep->longest + 1));
  for (int to = 1; to <= n; to++)
    for (int last = 0; last < 2 && keep->segments[last][to]; last++)
      for (int length = 1; length <= keep->longest && length <= to; length++)
        all[count++] = keep->segments[last][to][length - 1].live;
  all[count++] = 0;
  qsort(all, count, sizeof *all, by_size);
  double last = -1, largest = all[count - 1];
  size_t distinct = 0;
  for (size_t i = 0; i < count; i++)
    if (i == 0 || all[i] != all[distinct - 1])
      all[distinct++] = all[i];
  double least_above = distinct > 1 ? all[1] : 0;
  double ratio = distinct > MOST_BOUNDS ? pow(largest / least_above, 1.0 / most) : 1;
  TRY(ARENA_NEW(keep->arena, keep->bounds, distinct < MOST_BOUNDS ? distinct : MOST_BOUNDS + 2));
  for (size_t i = 0; i < distinct && kept < MOST_BOUNDS + 2; i++)
    if (i < 2 || i == distinct - 1 || all[i] >= last * ratio)
      keep->bounds[kept++] = last = all[i];
  keep->n_bounds = kept;
  return OK;
}

/* ---- the programme ---- */

/* Merges both lists, which are in order, leaves out what is worse than another, and thins. Returns how many are left.
 */
static int merge(const State *a, int n_a, const State *b, int n_b, int most, State *out) {
  int n = 0;
  for (int i = 0, k = 0; i < n_a || k < n_b;) {
    bool first =
        k == n_b || (i < n_a && (a[i].kept < b[k].kept || (a[i].kept == b[k].kept && a[i].seconds <= b[k].seconds)));
    State next = first ? a[i++] : b[k++];
    if (n == 0 || next.seconds < out[n - 1].seconds)
      out[n++] = next;
  }
  if (n <= most)
    return n;
  if (most == 1)
    return 1;
  for (int i = 0; i < most; i++) /* both ends stay */
    out[i] = out[(size_t)i * (size_t)(n - 1) / (size_t)(most - 1)];
  return most;
}

/* The states of `before` with one segment more, into scratch[2], merged with the n of scratch[0]. */
static int add_segment(const Keep *keep, const Segment *s, const States *before, State last, int n, State *scratch[3]) {
  for (int i = 0; i < before->n; i++) {
    scratch[2][i] = last;
    scratch[2][i].kept = before->states[i].kept + s->kept;
    scratch[2][i].seconds = before->states[i].seconds + s->seconds;
    scratch[2][i].state = i;
  }
  n = merge(scratch[0], n, scratch[2], before->n, keep->most_states, scratch[1]);
  State *other = scratch[0];
  scratch[0] = scratch[1];
  scratch[1] = other;
  return n;
}

/* The states at `to`, of those before it. */
static Status reach(Keep *keep, double bound, States *ends, int to, State *scratch[3]) {
  int n = 0;
  for (int last = 0; last < 2 && keep->segments[last][to]; last++)
    for (int length = 1; length <= keep->longest && length <= to; length++) {
      const Segment *s = &keep->segments[last][to][length - 1];
      if (s->live <= bound)
        n = add_segment(keep, s, &ends[to - length], (State){.from = to - length, .last = last}, n, scratch);
    }
  TRY(ARENA_NEW(keep->arena, ends[to].states, n));
  memcpy(ends[to].states, scratch[0], (size_t)n * sizeof *scratch[0]);
  ends[to].n = n;
  return OK;
}

static Status solve(Keep *keep) {
  int n = keep->problem->n_nodes;
  State *scratch[3];
  for (int i = 0; i < 3; i++)
    TRY(ARENA_NEW(keep->arena, scratch[i], 2 * keep->most_states + 1));
  TRY(ARENA_NEW(keep->arena, keep->ends, keep->n_bounds));
  for (int b = 0; b < keep->n_bounds; b++) {
    TRY(ARENA_NEW(keep->arena, keep->ends[b], n + 1));
    TRY(ARENA_NEW(keep->arena, keep->ends[b][0].states, 1));
    keep->ends[b][0].n = 1;
    for (int to = 1; to <= n; to++)
      TRY(reach(keep, keep->bounds[b], keep->ends[b], to, scratch));
  }
  return OK;
}

/* ---- the front ---- */

typedef struct {
  double bytes, seconds;
  int bound, state;
} Point;

static int by_bytes(const void *a, const void *b) {
  const Point *x = a, *y = b;
  if (x->bytes != y->bytes)
    return x->bytes < y->bytes ? -1 : 1;
  return x->seconds < y->seconds ? -1 : x->seconds > y->seconds;
}

static Status trace(const Keep *keep, Arena *arena, const Point *point, const bool **out) {
  const KeepProblem *p = keep->problem;
  bool *again;
  TRY(ARENA_NEW(arena, again, p->n_nodes));
  for (int to = p->n_nodes, state = point->state; to > 0;) {
    const State *s = &keep->ends[point->bound][to].states[state];
    for (int i = s->from; i < to; i++)
      again[i] = !stays(p, &p->nodes[i], to) && !(s->last && i == to - 1);
    to = s->from;
    state = s->state;
  }
  *out = again;
  return OK;
}

/* Points of all bounds, those that no other one beats. */
static Status list_points(const Keep *keep, Point **points, int *n) {
  int last = keep->problem->n_nodes, count = 0, kept = 0;
  for (int b = 0; b < keep->n_bounds; b++)
    count += keep->ends[b][last].n;
  TRY(ARENA_NEW(keep->arena, *points, count));
  Point *all = *points;
  count = 0;
  for (int b = 0; b < keep->n_bounds; b++)
    for (int i = 0; i < keep->ends[b][last].n; i++) {
      const State *s = &keep->ends[b][last].states[i];
      all[count++] = (Point){s->kept + keep->bounds[b], s->seconds, b, i};
    }
  qsort(all, (size_t)count, sizeof *all, by_bytes);
  for (int i = 0; i < count; i++)
    if (kept == 0 || all[i].seconds < all[kept - 1].seconds)
      all[kept++] = all[i];
  *n = kept;
  return OK;
}

/* Puts the points behind those of the front, in front of which they stand by bytes; of none more than `most`. */
static Status prepend(const Keep *keep, Arena *arena, int most, KeepFront *front) {
  Point *points;
  int n, taken = 0;
  KeepChoice *choices;
  TRY(list_points(keep, &points, &n));
  n = n < most ? n : most;
  TRY(ARENA_NEW(arena, choices, front->n + n));
  for (int i = n; i-- > 0;) { /* the most bytes first */
    KeepChoice choice = {.bytes = points[i].bytes, .seconds = points[i].seconds};
    if (front->n && choice.bytes <= front->choices[0].bytes)
      continue;
    TRY(trace(keep, arena, &points[i], &choice.again));
    choices[taken++] = choice;
  }
  for (int i = 0; i < front->n; i++)
    if (taken == 0 || front->choices[i].bytes < choices[taken - 1].bytes)
      choices[taken++] = front->choices[i];
  front->choices = choices;
  front->n = taken;
  return OK;
}

/* The choice of the fewest bytes, then the others before it. */
static Status find(Keep *keep, Arena *arena, double effort, KeepFront *front) {
  int n = keep->problem->n_nodes;
  keep->longest = (double)n * n > MOST_SEGMENTS ? (int)(MOST_SEGMENTS / n) + 1 : n;
  TRY(list_segments(keep));
  TRY(list_bounds(keep, effort == 0 || effort > QUICK ? MOST_BOUNDS : SOME_BOUNDS));
  keep->most_states = 1;
  TRY(solve(keep));
  TRY(prepend(keep, arena, 1, front));
  if (effort == 0)
    return OK;
  TRY(list_bounds(keep, effort > QUICK ? SOME_BOUNDS : FEW_BOUNDS));
  double states = effort / ((double)n * keep->longest * keep->n_bounds + 1);
  keep->most_states = states > MOST_STATES ? MOST_STATES : states < LEAST_STATES ? LEAST_STATES : (int)states;
  TRY(solve(keep));
  return prepend(keep, arena, INT_MAX, front);
}

Status keep_front(Arena *arena, const KeepProblem *problem, double effort, KeepFront *front) {
  Keep keep = {.problem = problem, .arena = arena_create()};
  *front = (KeepFront){0};
  if (!keep.arena)
    return status_code();
  Status status = find(&keep, arena, effort, front);
  arena_destroy(keep.arena);
  return status;
}
