/* The exact partition. Invariant: seconds of a stage [i, j) are above[j] - below[i], each rounded once, so comparing
 * them with a bottleneck is monotone in either and minima over windows decide for all their members. */
#include "partitioner/plan/partition.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* Between doubles: about a millionth. */
static const uint64_t FIRST_STEP = (uint64_t)1 << 32;

typedef struct {
  double seconds;
  int position;
} Mark;

/* Positions are numbers of possible cuts: 0 is the beginning, `last` the end. */
typedef struct {
  const PartitionProblem *problem;
  Arena *arena;
  int last;
  int *item;             /* [last + 1] the item before which the position lies */
  double **before;       /* [n_stages][n_items + 1]: stages of the same seconds share theirs */
  double *above, *below; /* [last + 1] of the stage at hand, */
  int entered;           /* and which one it is; -1: none yet */
  int *limit;            /* [n_stages][last + 1]: the farthest end that fits the start */
  bool *reaches;         /* [n_stages + 1][last + 1]: stages from s on can begin here */
  int *window;           /* [last + 1] scratch */
  double within, beyond; /* of the stages weighed last: the slowest that was fast enough, the fastest that was not */
  double *rest;          /* [n_stages + 1][last + 1]: smallest sum of cuts from here on */
  Mark *ends, *starts;   /* [last + 1] by above, by below */
  double *tree;          /* minima over positions, leaves from `leaves` on */
  int leaves;
} Solver;

/* Sending over the cut before this item, which lies behind the stage; nothing before the first and behind the last. */
static double cut_behind(const PartitionProblem *p, int stage, int item) {
  return stage < 0 || stage == p->n_stages - 1 ? 0 : p->cut_seconds[stage][item];
}

double partition_stage_seconds(const PartitionProblem *p, const double *before, int stage, int from, int to) {
  return (before[to] + cut_behind(p, stage, to)) - (before[from] - cut_behind(p, stage - 1, from));
}

/* Whether `above` and `below` of the one stage are the other's, too: the same seconds, the same links on both sides. */
static bool are_alike(const Solver *s, int stage, int other) {
  const PartitionProblem *p = s->problem;
  int last = p->n_stages - 1;
  if (stage == other)
    return true;
  return stage > 0 && other > 0 && stage < last && other < last && s->before[stage] == s->before[other] &&
         p->cut_seconds[stage] == p->cut_seconds[other] && p->cut_seconds[stage - 1] == p->cut_seconds[other - 1];
}

static void enter_stage(Solver *s, int stage) {
  const double *before = s->before[stage];
  if (s->entered >= 0 && are_alike(s, stage, s->entered))
    return;
  s->entered = stage;
  for (int i = 0; i <= s->last; i++) {
    s->above[i] = before[s->item[i]] + cut_behind(s->problem, stage, s->item[i]);
    s->below[i] = before[s->item[i]] - cut_behind(s->problem, stage - 1, s->item[i]);
  }
}

/* Whether some partition has no stage slower than `most`. For each stage, last to first, and each start, the window
 * of ends is (start, limit]; the fastest reachable end in it decides. The answer is the same from `within` up to, but
 * without, `beyond`: no comparison would come out otherwise. */
static bool is_feasible(Solver *s, double most) {
  int width = s->last + 1, stages = s->problem->n_stages;
  bool *next = s->reaches + (size_t)stages * (size_t)width;
  memset(next, 0, (size_t)width);
  next[s->last] = true;
  s->within = 0;
  s->beyond = INFINITY;
  for (int stage = stages - 1; stage >= 0; stage--) {
    bool *here = s->reaches + (size_t)stage * (size_t)width;
    const int *limit = s->limit + (size_t)stage * (size_t)width;
    int head = 0, tail = 0; /* ends in the window, farthest first, each slower than the one before */
    enter_stage(s, stage);
    here[s->last] = false;
    for (int start = s->last - 1; start >= 0; start--) {
      if (next[start + 1]) {
        while (tail > head && s->above[s->window[tail - 1]] >= s->above[start + 1])
          tail--;
        s->window[tail++] = start + 1;
      }
      while (tail > head && s->window[head] > limit[start])
        head++;
      double seconds = tail > head ? s->above[s->window[head]] - s->below[start] : INFINITY;
      here[start] = seconds <= most && tail > head;
      if (here[start])
        s->within = seconds > s->within ? seconds : s->within;
      else
        s->beyond = seconds < s->beyond ? seconds : s->beyond;
    }
    next = here;
  }
  return next[0];
}

/* The smallest double that is feasible: doubles that are not negative are ordered as their bits are. Looked for near
 * what is known of it, each time farther away, before halves are taken. */
static bool find_bottleneck(Solver *s, double *bottleneck) {
  uint64_t low, high, step = 0;
  double value = INFINITY;
  if (!is_feasible(s, value))
    return false;
  memcpy(&high, &s->within, sizeof high);
  memcpy(&low, &s->problem->at_least, sizeof low);
  bool near = low > 0;
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    if (near && step < middle - low)
      middle = low + step;
    step = step ? 8 * step : FIRST_STEP;
    memcpy(&value, &middle, sizeof value);
    if (is_feasible(s, value)) {
      memcpy(&high, &s->within, sizeof high);
      near = false;
    } else {
      memcpy(&low, &s->beyond, sizeof low);
    }
  }
  memcpy(bottleneck, &low, sizeof low);
  return true;
}

/* Limits grow with the start, because fitting is monotone in the interval. */
static void find_limits(Solver *s) {
  const PartitionProblem *p = s->problem;
  for (int stage = 0; stage < p->n_stages; stage++) {
    int *limit = s->limit + (size_t)stage * (size_t)(s->last + 1), end = 0;
    for (int start = 0; start <= s->last; start++) {
      if (!p->fits)
        end = s->last;
      while (end < s->last && p->fits(p->context, stage, s->item[start], s->item[end + 1]))
        end++;
      limit[start] = end;
      if (end == start) /* not even up to the next position: the next start is beyond it */
        end++;
    }
  }
}

static void tree_set(Solver *s, int position, double value) {
  int at = s->leaves + position;
  s->tree[at] = value;
  while (at > 1) {
    at /= 2;
    s->tree[at] = s->tree[2 * at] < s->tree[2 * at + 1] ? s->tree[2 * at] : s->tree[2 * at + 1];
  }
}

/* The smallest value of positions [from, to]. */
static double tree_least(const Solver *s, int from, int to) {
  double least = INFINITY;
  for (int low = s->leaves + from, high = s->leaves + to + 1; low < high; low /= 2, high /= 2) {
    if (low & 1)
      least = fmin(least, s->tree[low++]);
    if (high & 1)
      least = fmin(least, s->tree[--high]);
  }
  return least;
}

static int by_seconds(const void *a, const void *b) {
  const Mark *x = a, *y = b;
  if (x->seconds != y->seconds)
    return x->seconds < y->seconds ? -1 : 1;
  return x->position - y->position;
}

static void sort_marks(const Solver *s, const double *seconds, Mark *marks) {
  for (int i = 0; i <= s->last; i++)
    marks[i] = (Mark){.seconds = seconds[i], .position = i};
  qsort(marks, (size_t)s->last + 1, sizeof *marks, by_seconds);
}

/* The cut at this position and the best ones behind it. */
static double cuts_from(const Solver *s, int stage, int end) {
  return cut_behind(s->problem, stage, s->item[end]) +
         s->rest[(size_t)(stage + 1) * (size_t)(s->last + 1) + (size_t)end];
}

/* rest of every stage, last to first: the later a start lies (the greater its `below`), the more ends are fast enough.
 */
static void sum_cuts(Solver *s, double bottleneck) {
  size_t width = (size_t)s->last + 1;
  double *next = s->rest + (size_t)s->problem->n_stages * width;
  for (size_t i = 0; i < width; i++)
    next[i] = INFINITY;
  next[s->last] = 0;
  for (int stage = s->problem->n_stages - 1; stage >= 0; stage--) {
    enter_stage(s, stage);
    if (stage == s->problem->n_stages - 1 || !are_alike(s, stage, stage + 1)) {
      sort_marks(s, s->above, s->ends);
      sort_marks(s, s->below, s->starts);
    }
    for (int i = 0; i < 2 * s->leaves; i++)
      s->tree[i] = INFINITY;
    size_t entered = 0;
    for (size_t i = 0; i < width; i++) {
      int start = s->starts[i].position, limit = s->limit[(size_t)stage * width + (size_t)start];
      for (; entered < width && s->ends[entered].seconds - s->starts[i].seconds <= bottleneck; entered++)
        tree_set(s, s->ends[entered].position, cuts_from(s, stage, s->ends[entered].position));
      s->rest[(size_t)stage * width + (size_t)start] = limit > start ? tree_least(s, start + 1, limit) : INFINITY;
    }
  }
}

/* The first end of each stage that keeps the smallest sum. */
static void choose(Solver *s, double bottleneck, int *cut) {
  size_t width = (size_t)s->last + 1;
  int start = 0;
  for (int stage = 0; stage < s->problem->n_stages; stage++) {
    double least = s->rest[(size_t)stage * width + (size_t)start];
    int end = start + 1;
    enter_stage(s, stage);
    while (s->above[end] - s->below[start] > bottleneck || cuts_from(s, stage, end) != least)
      end++;
    cut[stage] = s->item[start];
    start = end;
  }
  cut[s->problem->n_stages] = s->problem->n_items;
}

Status partition_check_cuts(const bool *may_cut, int n_items, int n_stages) {
  int cuts = 0;
  for (int i = 1; i < n_items; i++)
    cuts += may_cut[i];
  if (cuts >= n_stages - 1)
    return OK;
  return fail(E_USAGE, "%d stages need %d cuts, but only %d %s possible", n_stages, n_stages - 1, cuts,
              cuts == 1 ? "is" : "are");
}

static Status sum_seconds(Solver *s) {
  const PartitionProblem *p = s->problem;
  TRY(ARENA_NEW(s->arena, s->before, p->n_stages));
  for (int stage = 0; stage < p->n_stages; stage++) {
    for (int k = 0; k < stage && !s->before[stage]; k++)
      if (p->seconds[k] == p->seconds[stage])
        s->before[stage] = s->before[k];
    if (s->before[stage])
      continue;
    TRY(ARENA_NEW(s->arena, s->before[stage], p->n_items + 1));
    for (int i = 0; i < p->n_items; i++)
      s->before[stage][i + 1] = s->before[stage][i] + p->seconds[stage][i];
  }
  return OK;
}

static Status prepare(Solver *s) {
  const PartitionProblem *p = s->problem;
  TRY(ARENA_NEW(s->arena, s->item, p->n_items + 1));
  for (int i = 0; i <= p->n_items; i++)
    if (i == 0 || i == p->n_items || p->may_cut[i])
      s->item[s->last++] = i;
  s->last--;
  TRY(partition_check_cuts(p->may_cut, p->n_items, p->n_stages));
  TRY(sum_seconds(s));
  size_t width = (size_t)s->last + 1, stages = (size_t)p->n_stages;
  s->leaves = 1;
  while ((size_t)s->leaves < width)
    s->leaves *= 2;
  TRY(ARENA_NEW(s->arena, s->above, width));
  TRY(ARENA_NEW(s->arena, s->below, width));
  TRY(ARENA_NEW(s->arena, s->limit, stages * width));
  TRY(ARENA_NEW(s->arena, s->reaches, (stages + 1) * width));
  TRY(ARENA_NEW(s->arena, s->window, width));
  TRY(ARENA_NEW(s->arena, s->rest, (stages + 1) * width));
  TRY(ARENA_NEW(s->arena, s->ends, width));
  TRY(ARENA_NEW(s->arena, s->starts, width));
  TRY(ARENA_NEW(s->arena, s->tree, 2 * s->leaves));
  return OK;
}

Status partition_solve(const PartitionProblem *problem, int *cut, double *bottleneck) {
  Arena *own = arena_create();
  if (!own)
    return status_code();
  Solver s = {.problem = problem, .arena = own, .entered = -1};
  Status status = prepare(&s);
  if (status == OK) {
    find_limits(&s);
    if (find_bottleneck(&s, bottleneck)) {
      sum_cuts(&s, *bottleneck);
      choose(&s, *bottleneck, cut);
    } else {
      status = fail(E_LIMIT, "no cut into %d stages fits the memory", problem->n_stages);
    }
  }
  arena_destroy(own);
  return status;
}
