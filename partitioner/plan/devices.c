/* Which device each rank is, where the request leaves that open: heavy cuts onto fast links, heavy stages onto fast
 * devices, within their memory. Invariant: an order is judged by the exact partition into one stage a rank, by its
 * slowest stage, then by what all cuts take, and the given one stays unless another is better. */
#include <math.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"

enum { MOST_ORDERS = 1000, LEAST_ORDERS = 60 };
static const double MOST_STEPS = 1e8; /* stages times items of all partitions together: some seconds */

typedef struct {
  const PlanRequest *request;
  Arena *arena;
  PlanItems items;
  PlanWindow *window;
  const size_t *limits; /* [ranks] */
  int ranks, left;      /* orders that may still be judged */
  int *like;            /* [ranks]: the first device that it could change places with, whatever the rest */
  int *order, *best;    /* [ranks]: device of each rank */
  bool *taken;          /* [ranks] */
  double least, sent;   /* seconds of the best: of its slowest stage, of all its cuts */
} Seating;

static bool fits(void *context, int stage, int from, int to) {
  const Seating *s = context;
  size_t limit = s->limits[s->order[stage]];
  return limit == SIZE_MAX || plan_window_bytes(s->window, from, to, s->ranks - stage) <= limit;
}

/* The slowest stage of the order at hand, INFINITY where it does not fit, and its cuts. */
static Status judge(Seating *s, Arena *arena, double *seconds, double *sent) {
  PlanSearch search = {.request = s->request, .stages = s->ranks};
  const double **of_stage, **of_cut;
  int *cut;
  TRY(ARENA_NEW(arena, of_stage, s->ranks));
  TRY(ARENA_NEW(arena, of_cut, s->ranks));
  TRY(ARENA_NEW(arena, cut, s->ranks + 1));
  for (int r = 0; r < s->ranks; r++)
    of_stage[r] = s->items.seconds[s->order[r]];
  TRY(plan_price_cuts(&search, &s->items, arena, s->order, of_cut));
  PartitionProblem problem = {.n_items = s->items.n,
                              .n_stages = s->ranks,
                              .seconds = of_stage,
                              .cut_seconds = of_cut,
                              .may_cut = s->items.may_cut,
                              .fits = fits,
                              .context = s};
  Status status = partition_solve(&problem, cut, seconds);
  if (status == E_LIMIT)
    *seconds = INFINITY;
  for (int c = 0; status == OK && c < s->ranks - 1; c++)
    *sent += of_cut[c][cut[c + 1]];
  return status == E_LIMIT ? OK : status;
}

/* Whether the order at hand is better than the best; then it is the best. */
static Status try_order(Seating *s, bool *better) {
  double seconds = INFINITY, sent = 0;
  Arena *arena = arena_create();
  Status status = arena ? judge(s, arena, &seconds, &sent) : status_code();
  arena_destroy(arena);
  s->left--;
  bool faster = seconds < s->least * (1 - 1e-9), as_fast = seconds < s->least * (1 + 1e-9);
  *better = status == OK && (faster || (as_fast && sent < s->sent * (1 - 1e-9)));
  if (*better) {
    s->least = fmin(seconds, s->least);
    s->sent = sent;
    memcpy(s->best, s->order, (size_t)s->ranks * sizeof *s->best);
  }
  return status;
}

static double rate(const Seating *s, int from, int to) {
  return plan_link_rate(s->request, from, to);
}

/* Whether nothing changes when the two change places. */
static bool interchangeable(const Seating *s, int a, int b) {
  bool same =
      s->items.seconds[a] == s->items.seconds[b] && s->limits[a] == s->limits[b] && rate(s, a, b) == rate(s, b, a);
  for (int x = 0; x < s->ranks; x++)
    if (x != a && x != b)
      same &= rate(s, a, x) == rate(s, b, x) && rate(s, x, a) == rate(s, x, b);
  return same;
}

/* How many orders there are that differ in more than devices that are interchangeable. */
static double count_orders(const Seating *s) {
  double orders = 1;
  for (int d = 0; d < s->ranks; d++) {
    int alike = 0;
    for (int k = 0; k <= d; k++)
      alike += s->like[k] == s->like[d];
    orders *= (double)(d + 1) / alike;
  }
  return orders;
}

/* Every order, of interchangeable devices the first one first. */
static Status try_all(Seating *s, int rank) {
  bool better;
  if (rank == s->ranks)
    return try_order(s, &better);
  for (int d = 0; d < s->ranks; d++) {
    int first = s->like[d];
    while (first < d && (s->taken[first] || s->like[first] != s->like[d]))
      first++;
    if (s->taken[d] || first < d)
      continue;
    s->taken[d] = true;
    s->order[rank] = d;
    TRY(try_all(s, rank + 1));
    s->taken[d] = false;
  }
  return OK;
}

/* Turns the ranks from `a` to `b` around, or has the two change places. */
static void change(int *order, int a, int b, bool turn) {
  for (; a < b; a++, b--) {
    int device = order[a];
    order[a] = order[b];
    order[b] = device;
    if (!turn)
      return;
  }
}

/* Changes the best order while a change makes it better. */
static Status improve(Seating *s) {
  bool better = true;
  while (better && s->left > 0) {
    better = false;
    for (int a = 0; a < s->ranks && s->left > 0; a++)
      for (int b = a + 1; b < s->ranks && s->left > 0; b++)
        for (int turn = 0; turn < 2; turn++) {
          bool gained;
          memcpy(s->order, s->best, (size_t)s->ranks * sizeof *s->order);
          if ((turn && b == a + 1) || (!turn && s->like[s->order[a]] == s->like[s->order[b]]))
            continue;
          change(s->order, a, b, turn);
          TRY(try_order(s, &gained));
          better |= gained;
        }
  }
  return OK;
}

static Status seat(Seating *s, const Graph *graph, int *device, double *gain) {
  size_t *limits;
  bool better;
  TRY(plan_items(s->arena, graph, s->request, NULL, &s->items));
  TRY(plan_window_create(s->arena, graph, &s->items, &s->window));
  TRY(plan_limits(s->arena, s->request, s->ranks, &limits));
  s->limits = limits;
  TRY(ARENA_NEW(s->arena, s->like, s->ranks));
  TRY(ARENA_NEW(s->arena, s->order, s->ranks));
  TRY(ARENA_NEW(s->arena, s->best, s->ranks));
  TRY(ARENA_NEW(s->arena, s->taken, s->ranks));
  for (int d = 0; d < s->ranks; d++) {
    s->best[d] = s->order[d] = d;
    while (s->like[d] < d && !interchangeable(s, s->like[d], d))
      s->like[d]++;
  }
  s->left = (int)fmax(LEAST_ORDERS, fmin(MOST_ORDERS, MOST_STEPS / ((double)s->ranks * s->items.n)));
  TRY(try_order(s, &better));
  double given = s->least;
  TRY(count_orders(s) <= s->left ? try_all(s, 0) : improve(s));
  for (int r = 0; r < s->ranks; r++)
    device[r] = s->best[r];
  *gain = given < INFINITY ? 1 - s->least / given : s->least < INFINITY ? 1 : 0;
  *gain = *gain > 1e-9 ? *gain : 0;
  return OK;
}

Status plan_seat(const Graph *graph, const PlanRequest *request, int *device, double *gain) {
  Seating s = {
      .request = request, .arena = arena_create(), .ranks = request->ranks, .least = INFINITY, .sent = INFINITY};
  if (!s.arena)
    return status_code();
  Status status = seat(&s, graph, device, gain);
  arena_destroy(s.arena);
  return status;
}
