/* Owns the proof of how good a schedule can be at best: for each rank, the idle time that no order avoids. Invariant:
 * every bound holds for all orders that keep the microbatches of a pass in order and the memory within its limit.
 *
 * Before its first backward a rank can do no more than the F that its memory holds, and what comes back to it needs at
 * least the way through the other stages; after its last F no more than the B and W of what its memory holds, and the
 * last gradient needs its way again. Between, a microbatch cannot begin before one that began some earlier has come
 * back and left its room. */
#include "partitioner/synthesis/internal.h"

#include <math.h>

/* Operations of one kind and stage, as many as `count`. */
typedef struct {
  double seconds, memory;
  int count;
} Item;

/* Where a rank stands: times of microbatch 0 from the start of the rank's first F, the ways to the end of what the
 * objective counts from the end of an operation, and the items that fit a window. */
typedef struct {
  const Problem *problem;
  int rank;
  const int *stages; /* its chunks */
  int chunks;
  double *f_at, *b_at;     /* [stages] */
  double *f_tail, *b_tail; /* [stages] */
  Item *items;             /* [2 * chunks] */
  int n_items;
} Ways;

static void find_ways(Ways *ways) {
  const Problem *p = ways->problem;
  int lowest = ways->stages[0], last = p->objective == OBJECTIVE_MAKESPAN ? 0 : lowest;
  const double *f = p->seconds[ACTION_F], *b = p->seconds[ACTION_B], *w = p->seconds[ACTION_W];
  double at = 0;
  for (int stage = lowest; stage < p->stages; stage++) {
    ways->f_at[stage] = at;
    at += f[stage] + p->lag[ACTION_F][stage];
  }
  for (int stage = p->stages - 1; stage >= lowest; stage--) {
    ways->b_at[stage] = ways->f_at[stage] + f[stage];
    if (p->gradient_crosses[stage])
      ways->b_at[stage] = fmax(ways->b_at[stage], ways->b_at[stage + 1] + b[stage + 1] + p->lag[ACTION_B][stage]);
  }
  for (int stage = last; stage < p->stages; stage++) {
    bool counts = p->objective == OBJECTIVE_MAKESPAN || p->timing->rank_of_stage[stage] == ways->rank;
    ways->b_tail[stage] = counts ? w[stage] : 0;
    if (stage > last && p->gradient_crosses[stage - 1])
      ways->b_tail[stage] =
          fmax(ways->b_tail[stage], p->lag[ACTION_B][stage - 1] + b[stage - 1] + ways->b_tail[stage - 1]);
  }
  for (int stage = p->stages - 1; stage >= lowest; stage--) {
    ways->f_tail[stage] = b[stage] + ways->b_tail[stage];
    if (stage + 1 < p->stages)
      ways->f_tail[stage] = fmax(ways->f_tail[stage], p->lag[ACTION_F][stage] + f[stage + 1] + ways->f_tail[stage + 1]);
  }
}

/* The most work of the items within a memory: by what a unit of memory is worth, a last part of one where the items
 * differ in size. */
static double most_work(Ways *ways, double memory) {
  Item *items = ways->items;
  bool alike = true;
  double work = 0;
  for (int i = 1; i < ways->n_items; i++) {
    alike &= fabs(items[i].memory - items[0].memory) < 1e-9 * items[0].memory;
    Item item = items[i];
    int at = i;
    for (; at > 0 && items[at - 1].seconds * item.memory < item.seconds * items[at - 1].memory; at--)
      items[at] = items[at - 1];
    items[at] = item;
  }
  for (int i = 0; i < ways->n_items; i++) {
    double count = items[i].count;
    if (items[i].memory > 0 && count * items[i].memory > memory)
      count = alike ? floor(memory / items[i].memory) : memory / items[i].memory;
    work += count * items[i].seconds;
    memory = memory == INFINITY ? memory : fmax(0, memory - count * items[i].memory);
  }
  return work;
}

static void add_item(Ways *ways, double seconds, double memory, int count) {
  if (seconds > 0)
    ways->items[ways->n_items++] = (Item){seconds, memory, count};
}

/* Work that can be done before `at`. */
static double work_before(Ways *ways, double at, double backward_at) {
  const Problem *p = ways->problem;
  double free_work = 0;
  ways->n_items = 0;
  for (int i = 0; i < ways->chunks; i++) {
    int stage = ways->stages[i], m = p->microbatches;
    if (ways->f_at[stage] >= at)
      continue;
    if (at <= backward_at)
      add_item(ways, p->seconds[ACTION_F][stage], p->memory[ACTION_F][stage], m);
    else
      free_work += m * p->seconds[ACTION_F][stage];
    if (ways->b_at[stage] < at)
      free_work += m * (p->seconds[ACTION_B][stage] + p->seconds[ACTION_W][stage]);
  }
  return free_work + most_work(ways, p->limit[ways->rank]);
}

/* Work that can be done in the last `seconds`. */
static double work_within_last(Ways *ways, double seconds) {
  const Problem *p = ways->problem;
  bool forwards = false;
  double all = 0;
  ways->n_items = 0;
  for (int i = 0; i < ways->chunks; i++) {
    int stage = ways->stages[i], m = p->microbatches;
    double f = p->seconds[ACTION_F][stage], b = p->seconds[ACTION_B][stage], w = p->seconds[ACTION_W][stage];
    bool has_f = ways->f_tail[stage] < seconds, has_b = ways->b_tail[stage] < seconds;
    forwards |= has_f;
    all += m * (w + (has_b ? b : 0) + (has_f ? f : 0));
    if (has_b)
      add_item(ways, b + w, p->memory[ACTION_F][stage], m);
    add_item(ways, w, -p->memory[ACTION_W][stage], m);
  }
  return forwards ? all : fmin(all, most_work(ways, p->limit[ways->rank]));
}

/* Memory held over time: every microbatch keeps its part for as long as its way takes, and no rank holds more than its
 * limit, nor that much at once when it begins and before it ends. */
static double memory_bound(const Ways *ways) {
  const Problem *p = ways->problem;
  double limit = p->limit[ways->rank], area = 0, all = 0, step = 0, growth = 0, decline = 0, last = 0;
  for (int i = 0; i < ways->chunks; i++) {
    int stage = ways->stages[i];
    double kept = p->memory[ACTION_F][stage], freed[2] = {-p->memory[ACTION_B][stage], -p->memory[ACTION_W][stage]};
    double way = ways->b_at[stage] + p->seconds[ACTION_B][stage] - ways->f_at[stage];
    area += p->microbatches * (kept * way + freed[1] * p->seconds[ACTION_W][stage]);
    all += p->microbatches * kept;
    step = fmax(step, kept);
    growth = fmax(growth, kept / p->seconds[ACTION_F][stage]);
    last = fmax(last, fmax(freed[0], freed[1]));
    for (int kind = ACTION_B; kind <= ACTION_W; kind++)
      if (freed[kind - ACTION_B] > 0)
        decline = fmax(decline, freed[kind - ACTION_B] / p->seconds[kind][stage]);
  }
  if (limit == INFINITY || !(limit > 0))
    return 0;
  /* a rank of few microbatches never fills its memory: then the ramps take nothing away; else they do not meet, for
   * together they last no longer than all its work */
  double ramps = 0;
  if (all >= limit && growth > 0)
    ramps += (limit - step) * fmax(0, limit - step) / growth / 2;
  if (all >= limit && decline > 0)
    ramps += (limit - last) * fmax(0, limit - last) / decline / 2;
  return (area + ramps) / limit;
}

/* The passes of one stage alone, from the F of a microbatch that so many are not before: all F, then the way of the
 * last; the way of the first, then all B and W. */
static double passes_seconds(const Ways *ways, int stage, int microbatches) {
  const Problem *p = ways->problem;
  double f = p->seconds[ACTION_F][stage], b = p->seconds[ACTION_B][stage], w = p->seconds[ACTION_W][stage];
  double way = ways->b_at[stage] - ways->f_at[stage];
  return fmax(microbatches * f + way - f + b + ways->b_tail[stage], way + microbatches * (b + w));
}

/* ---- microbatches that must have come back ----
 *
 * Let a stage keep m of a microbatch from its F on, of which B frees x and W the rest, y; its passes are in order. When
 * F of microbatch j begins, the stage holds (j + 1) m - b x - w y after b of its B and w <= b of its W. Where a part
 * `room` of the rank's memory is all that it may hold then, (j + 1 - b) m <= room, so with k = floor(room / m) at least
 * B of microbatch j - k has ended. Let that be the last B. Without W of j - k, (k + 1) m - x must be within the room;
 * if it is not, the rank has done that W since, or n more B, the least n with (k + 1) m - (1 + n) x <= room, of which
 * there are k - 1 at most; all of them after B of j - k, one after the other. So, too, where it is F of a later stage
 * of the rank that begins, for which F of j has run here, and its own need is taken from the room. */
typedef struct {
  int behind;     /* k; 0: says nothing */
  double seconds; /* from the end of that B on */
} Return;

static Return return_before(const Problem *p, int stage, double room) {
  double m = p->memory[ACTION_F][stage], x = -p->memory[ACTION_B][stage];
  if (!(m > 0) || !(room >= m) || room / m >= p->microbatches)
    return (Return){0};
  Return before = {.behind = (int)(room / m)};
  double lacks = (before.behind + 1) * m - x - room;
  if (lacks <= 0)
    return before;
  double more = x > 0 ? ceil(lacks / x * (1 - 1e-9)) : INFINITY;
  before.seconds = p->seconds[ACTION_W][stage];
  if (more <= before.behind - 1)
    before.seconds = fmin(before.seconds, more * p->seconds[ACTION_B][stage]);
  return before;
}

/* From F of `stage` again and again to that of a microbatch `behind` later, each `seconds` after the one before; then
 * the passes of those that are left. */
static double chain_seconds(const Ways *ways, int stage, int behind, double seconds) {
  int times = behind > 0 ? (ways->problem->microbatches - 1) / behind : 0;
  int left = ways->problem->microbatches - times * behind;
  return ways->f_at[stage] + times * seconds + passes_seconds(ways, stage, left);
}

/* Whether B of the low stage waits for B of the high one. */
static bool gradient_returns(const Problem *p, int low, int high) {
  for (int stage = low; stage < high; stage++)
    if (!p->gradient_crosses[stage])
      return false;
  return true;
}

/* F of j begins once B of j - k has ended. Of two stages of a rank, low and high: F of j on the high one begins once
 * B of j - k on the low one has ended, by the room that the high one leaves. And F of j on the low one, k + 1 of whose
 * microbatches and one of the high one's the rank cannot hold: if F of j - k on the high one came after it, all of them
 * would be held then. So it came before, and what it took is gone: with its B, and if the rest is too much as well,
 * with its W, unless B of j - k on the low one has ended, which is later than that on the high one. */
static double return_bound(const Ways *ways) {
  const Problem *p = ways->problem;
  double limit = p->limit[ways->rank], most = 0;
  for (int i = 0; i < ways->chunks && limit < INFINITY; i++) {
    int low = ways->stages[i];
    double back = ways->b_at[low] + p->seconds[ACTION_B][low];
    Return own = return_before(p, low, limit);
    most = fmax(most, chain_seconds(ways, low, own.behind, back - ways->f_at[low] + own.seconds));
    for (int k = i + 1; k < ways->chunks && gradient_returns(p, low, ways->stages[k]); k++) {
      int high = ways->stages[k];
      double kept = p->memory[ACTION_F][high], rest = kept + p->memory[ACTION_B][high];
      double high_back = ways->b_at[high] + p->seconds[ACTION_B][high];
      Return before = return_before(p, low, limit - kept);
      most = fmax(most, chain_seconds(ways, high, before.behind, back - ways->f_at[high] + before.seconds));
      bool rest_fits = (before.behind + 1) * p->memory[ACTION_F][low] + rest <= limit;
      double waits = rest_fits ? 0 : fmin(p->seconds[ACTION_W][high], fmax(0, back - high_back));
      most = fmax(most, chain_seconds(ways, low, before.behind, high_back - ways->f_at[low] + waits));
    }
  }
  return most;
}

/* Two windows of unavoidable idle time, at the start and at the end, add up where they cannot overlap: because even
 * the shortest schedule is longer than both, or because all F would have to be in memory at once. */
static double window_bound(Ways *ways, double least) {
  const Problem *p = ways->problem;
  double work = p->work[ways->rank], kept = 0, backward_at = INFINITY, forward_tail = INFINITY;
  for (int i = 0; i < ways->chunks; i++) {
    kept += p->microbatches * p->memory[ACTION_F][ways->stages[i]];
    backward_at = fmin(backward_at, ways->b_at[ways->stages[i]]);
    forward_tail = fmin(forward_tail, ways->f_tail[ways->stages[i]]);
  }
  bool all_fit = kept <= p->limit[ways->rank];
  for (int pass = 0; pass < 2; pass++) /* the second time with what the first proved */
    for (int i = 0; i < 2 * ways->chunks; i++)
      for (int k = 0; k < 2 * ways->chunks; k++) {
        double start = (i % 2 ? ways->b_at : ways->f_at)[ways->stages[i / 2]];
        double end = (k % 2 ? ways->b_tail : ways->f_tail)[ways->stages[k / 2]];
        double idle_start = fmax(0, start - work_before(ways, start, backward_at));
        double idle_end = fmax(0, end - work_within_last(ways, end));
        bool apart = start + end <= least || (!all_fit && start <= backward_at && end <= forward_tail);
        least = fmax(least, work + (apart ? idle_start + idle_end : fmax(idle_start, idle_end)));
      }
  return least;
}

static double rank_bound(Ways *ways) {
  find_ways(ways);
  double least = fmax(ways->problem->work[ways->rank], fmax(memory_bound(ways), return_bound(ways)));
  least = fmax(least, passes_seconds(ways, ways->stages[0], ways->problem->microbatches));
  return window_bound(ways, least);
}

Status bound_find(Arena *arena, const Problem *p, double *seconds) {
  Ways ways = {.problem = p};
  TRY(ARENA_NEW(arena, ways.f_at, p->stages));
  TRY(ARENA_NEW(arena, ways.b_at, p->stages));
  TRY(ARENA_NEW(arena, ways.f_tail, p->stages));
  TRY(ARENA_NEW(arena, ways.b_tail, p->stages));
  TRY(ARENA_NEW(arena, ways.items, 2 * p->most_chunks));
  *seconds = 0;
  for (int rank = 0; rank < p->ranks; rank++) {
    ways.rank = rank;
    ways.stages = &p->chunk_stage[p->first_chunk[rank]];
    ways.chunks = p->first_chunk[rank + 1] - p->first_chunk[rank];
    double head = 0; /* before the rank's first F, where that counts */
    for (int stage = 0; stage < ways.stages[0] && p->objective == OBJECTIVE_MAKESPAN; stage++)
      head += p->seconds[ACTION_F][stage] + p->lag[ACTION_F][stage];
    *seconds = fmax(*seconds, head + rank_bound(&ways));
  }
  return OK;
}
