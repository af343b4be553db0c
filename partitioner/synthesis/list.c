/* Owns the list scheduler: time passes, and every free rank takes the best operation that is ready, by keys. It runs
 * from the first operation to the last, or in reverse, where W comes first, then B, then F, and memory is taken by W
 * and B. Invariant: what a rank takes always leaves it room for the rest of the oldest microbatch that it has begun,
 * so that no order it makes can wait for ever. */
#include "partitioner/synthesis/internal.h"

#include <math.h>
#include <string.h>

/* A pass of all microbatches through one stage. */
typedef struct Pass {
  int stage, kind, phase, rank;
  int next;            /* how many are done: counted from the side where the scheduler began */
  int first_operation; /* the others follow it in steps of 1, or of -1 in reverse */
  double key;          /* of the next; INFINITY: none left */
  double arrival;      /* of its inputs; INFINITY: not known yet */
  double seconds, memory;
  const struct Pass *awaited; /* on the other side of a cut; NULL: none */
  struct Pass *awaiting;
  double lag; /* from the awaited one */
} Pass;

typedef struct {
  double now; /* when it is free, or what it waits for comes; INFINITY: nothing that is known */
  double free_since, idle, held, before_first;
  int taken;
  bool waits;
} Worker;

/* Of the ranks below a node of the tree: the one that is free first, the lowest of several. */
typedef struct {
  double now;
  int rank;
} First;

struct ListScheduler {
  const Problem *problem;
  Pass *passes; /* [stages * 3]: by rank, chunk, phase */
  int *pass_of; /* [stages * 3]: of stage and phase */
  Worker *workers;
  First *first;       /* [2 * leaves]: a tree of ranks; its root is 1, the children of n are 2n and 2n + 1 */
  int leaves;         /* the ranks, and as many that are never free as make a power of two */
  double *end;        /* [operations] */
  double *start_room; /* [ranks]: what F fills without a pause from the first F of the last chunk to its B */
  double *idle;
  double worst_idle; /* of any rank so far, less what it has to spare */
  double most_spared;
  double work;
  const double *key;
  const ListPolicy *policy;
  int kinds[3];     /* by phase */
  int direction[3]; /* by phase: a pass waits for that of stage - direction; 0: for none */
};

Status list_make(Arena *arena, const Problem *p, ListScheduler **scheduler) {
  ListScheduler *l;
  TRY(ARENA_NEW(arena, l, 1));
  l->problem = p;
  TRY(ARENA_NEW(arena, l->passes, 3 * p->stages));
  TRY(ARENA_NEW(arena, l->pass_of, 3 * p->stages));
  for (l->leaves = 1; l->leaves < p->ranks; l->leaves *= 2) {
  }
  TRY(ARENA_NEW(arena, l->workers, l->leaves));
  TRY(ARENA_NEW(arena, l->first, 2 * l->leaves));
  TRY(ARENA_NEW(arena, l->end, p->operations));
  TRY(ARENA_NEW(arena, l->idle, p->ranks));
  TRY(ARENA_NEW(arena, l->start_room, p->ranks));
  double way = 0; /* from the start of the stage's F to that of its B */
  for (int stage = p->stages - 1; stage >= 0; stage--) {
    if (stage + 1 < p->stages)
      way += p->lag[ACTION_F][stage] + p->seconds[ACTION_B][stage + 1] + p->lag[ACTION_B][stage];
    way += p->seconds[ACTION_F][stage];
    if (p->chunk_of_stage[stage] > 0 && p->seconds[ACTION_F][stage] > 0) {
      double *room = &l->start_room[p->timing->rank_of_stage[stage]];
      *room = *room > 0 ? *room : way / p->seconds[ACTION_F][stage] * p->memory[ACTION_F][stage];
    }
  }
  *scheduler = l;
  return OK;
}

const double *list_ends(const ListScheduler *l) {
  return l->end;
}

const double *list_idle(const ListScheduler *l) {
  return l->idle;
}

double list_work(const ListScheduler *l) {
  return l->work;
}

static int operation_at(const ListScheduler *l, const Pass *pass, int index) {
  return l->policy->reverse ? pass->first_operation - index : pass->first_operation + index;
}

/* The pass of a neighbour that it waits for over a cut, and how long the way takes. */
static void meet_neighbour(ListScheduler *l, Pass *pass) {
  const Problem *p = l->problem;
  int direction = l->direction[pass->phase], stage = pass->stage - direction;
  if (direction == 0 || stage < 0 || stage >= p->stages)
    return;
  int cut = stage < pass->stage ? stage : pass->stage;
  Pass *before = &l->passes[l->pass_of[stage * 3 + pass->phase]];
  if (pass->kind != ACTION_F && !p->gradient_crosses[cut])
    return;
  pass->awaited = before;
  before->awaiting = pass;
  pass->lag = p->lag[pass->kind][cut];
}

/* What stands next in a pass, and when its inputs are there. */
static void refresh(ListScheduler *l, Pass *pass) {
  pass->arrival = INFINITY;
  if (pass->next == l->problem->microbatches) {
    pass->key = INFINITY;
    return;
  }
  pass->key = l->key[operation_at(l, pass, pass->next)];
  double at = 0;
  if (pass->phase > 0) {
    const Pass *before = pass - 1;
    if (before->next <= pass->next)
      return;
    at = l->end[operation_at(l, before, pass->next)];
  }
  if (pass->awaited) {
    if (pass->awaited->next <= pass->next)
      return;
    double arrives = l->end[operation_at(l, pass->awaited, pass->next)] + pass->lag;
    at = arrives > at ? arrives : at;
  }
  pass->arrival = at;
}

static First earlier(First low, First high) {
  return high.now < low.now ? high : low;
}

static void set_now(ListScheduler *l, int rank, double now) {
  First first = {now, rank};
  l->workers[rank].now = now;
  for (int node = l->leaves + rank; node > 1; node /= 2) {
    l->first[node] = first;
    first = node % 2 ? earlier(l->first[node - 1], first) : earlier(first, l->first[node + 1]);
  }
  l->first[1] = first;
}

static void start(ListScheduler *l) {
  static const int forwards[3] = {ACTION_F, ACTION_B, ACTION_W}, backwards[3] = {ACTION_W, ACTION_B, ACTION_F};
  static const int ways[3] = {1, -1, 0}, back[3] = {0, 1, -1};
  const Problem *p = l->problem;
  bool reverse = l->policy->reverse;
  memcpy(l->kinds, reverse ? backwards : forwards, sizeof l->kinds);
  memcpy(l->direction, reverse ? back : ways, sizeof l->direction);
  l->worst_idle = -INFINITY;
  l->most_spared = -INFINITY;
  for (int rank = 0; rank < p->ranks; rank++) {
    l->workers[rank] = (Worker){0};
    l->worst_idle = fmax(l->worst_idle, p->work[rank] - p->busiest_seconds);
    if (l->policy->spared)
      l->most_spared = fmax(l->most_spared, l->policy->spared[rank]);
    for (int i = p->first_chunk[rank]; i < p->first_chunk[rank + 1]; i++)
      for (int phase = 0; phase < 3; phase++) {
        int stage = p->chunk_stage[i], kind = l->kinds[phase];
        l->pass_of[stage * 3 + phase] = 3 * i + phase;
        l->passes[3 * i + phase] =
            (Pass){.stage = stage,
                   .kind = kind,
                   .phase = phase,
                   .rank = rank,
                   .first_operation = operation_of(p, stage, kind, reverse ? p->microbatches - 1 : 0),
                   .seconds = p->seconds[kind][stage],
                   .memory = reverse ? -p->memory[kind][stage] : p->memory[kind][stage]};
      }
  }
  for (int i = 0; i < 3 * p->stages; i++)
    meet_neighbour(l, &l->passes[i]);
  for (int i = 0; i < 3 * p->stages; i++)
    refresh(l, &l->passes[i]);
  for (int rank = 0; rank < l->leaves; rank++) {
    l->workers[rank].now = rank < p->ranks ? 0 : INFINITY;
    l->first[l->leaves + rank] = (First){l->workers[rank].now, rank};
  }
  for (int node = l->leaves - 1; node > 0; node--)
    l->first[node] = earlier(l->first[2 * node], l->first[2 * node + 1]);
}

/* What a rank still has to take for the oldest microbatch that it has begun. */
typedef struct {
  int oldest;  /* its index; -1: none is begun and unfinished */
  double need; /* for it; of a whole microbatch where there is none */
} Reserve;

/* The phases that take memory: F, or in reverse W and B. */
static int taking_phases(const ListScheduler *l) {
  return l->policy->reverse ? 2 : 1;
}

static Reserve reserve_of(const ListScheduler *l, const Pass *begin, const Pass *end) {
  int taking = taking_phases(l), least = l->problem->microbatches, most = 0;
  for (const Pass *pass = begin; pass < end; pass += 3) {
    least = pass[taking - 1].next < least ? pass[taking - 1].next : least;
    most = pass->next > most ? pass->next : most;
  }
  Reserve reserve = {most > least ? least : -1, 0};
  for (const Pass *pass = begin; pass < end; pass += 3)
    for (int phase = 0; phase < taking; phase++)
      if (reserve.oldest < 0 || pass[phase].next <= reserve.oldest)
        reserve.need += pass[phase].memory;
  return reserve;
}

static bool has_room(const ListScheduler *l, int rank, const Pass *begin, const Pass *end, const Pass *pass) {
  if (pass->phase >= taking_phases(l) || l->problem->limit[rank] == INFINITY)
    return true;
  Reserve reserve = reserve_of(l, begin, end);
  double more = reserve.need;
  if (reserve.oldest >= 0 && pass->next != reserve.oldest)
    more += pass->memory;
  if (reserve.oldest == 0 && pass->next > 0)
    more += l->policy->first_reserve * l->start_room[rank];
  return l->workers[rank].held + more <= l->problem->limit[rank];
}

/* What a rank could do. */
typedef struct {
  Pass *best;        /* ready, of the smallest key */
  bool room;         /* for it */
  Pass *freeing;     /* ready, gives memory back and nobody waits for it, or last in reverse */
  double next;       /* the earliest arrival of what is not ready */
  double next_limit; /* keys beyond may not take memory */
} View;

static bool too_early(const ListScheduler *l, const Pass *pass, double limit) {
  return pass->phase == taking_phases(l) - 1 && pass->key > limit;
}

/* No backward has begun here. */
static bool is_first(const ListScheduler *l, const Pass *begin, const Pass *end) {
  for (const Pass *pass = begin; pass < end; pass++)
    if (pass->phase >= taking_phases(l) && pass->next > 0)
      return false;
  return true;
}

static double horizon(const ListScheduler *l, const Pass *begin, const Pass *end) {
  double least = INFINITY;
  if (l->policy->horizon == INFINITY && l->policy->first_horizon == INFINITY)
    return INFINITY;
  for (const Pass *pass = begin; pass < end; pass++)
    least = pass->key < least ? pass->key : least;
  return least + (is_first(l, begin, end) ? l->policy->first_horizon : l->policy->horizon);
}

static View look(const ListScheduler *l, int rank, Pass *begin, Pass *end) {
  const Worker *worker = &l->workers[rank];
  View view = {.next = INFINITY, .next_limit = horizon(l, begin, end)};
  for (Pass *pass = begin + 2; pass < end; pass += 3)
    if (pass->arrival <= worker->now && (!view.freeing || pass->key < view.freeing->key))
      view.freeing = pass;
  for (Pass *pass = begin; pass < end; pass++) {
    if (pass->arrival == INFINITY || too_early(l, pass, view.next_limit))
      continue;
    bool comes = pass->arrival > worker->now;
    if (comes ? pass->arrival >= view.next : view.best && pass->key >= view.best->key)
      continue;
    bool room = has_room(l, rank, begin, end, pass);
    if (!room && (!view.freeing || l->policy->blocked_is_skipped))
      continue;
    if (comes) {
      view.next = pass->arrival;
    } else {
      view.best = pass;
      view.room = room;
    }
  }
  return view;
}

/* Whether the rank may idle until `until`. */
static bool may_spend(const ListScheduler *l, int rank, double until) {
  const ListPolicy *policy = l->policy;
  const Worker *worker = &l->workers[rank];
  double idle = worker->idle + until - worker->free_since + l->problem->work[rank] - l->problem->busiest_seconds;
  if (!policy->shares_slack)
    return idle <= policy->idle_budget;
  double allowed = l->worst_idle;
  if (policy->spared && l->most_spared - policy->spared[rank] > allowed)
    allowed = l->most_spared - policy->spared[rank];
  return idle <= allowed + 1e-9 * l->problem->period;
}

/* When something better than `chosen` comes that is worth waiting for; INFINITY: nothing. */
static double worth_waiting(const ListScheduler *l, int rank, const View *view, const Pass *begin, const Pass *end,
                            const Pass *chosen) {
  const ListPolicy *policy = l->policy;
  const Worker *worker = &l->workers[rank];
  bool budget =
      (policy->shares_slack || policy->idle_budget >= 0) && (chosen->kind == ACTION_W || policy->patient_with_all);
  if (view->next == INFINITY)
    return INFINITY;
  double patience = budget ? 1 : is_first(l, begin, end) ? policy->first_patience : policy->patience[chosen->kind];
  double limit = worker->now + patience * chosen->seconds, best = INFINITY;
  if (view->next >= limit)
    return INFINITY;
  for (const Pass *pass = begin; pass < end; pass++)
    if (pass->arrival > worker->now && pass->arrival < limit && pass->key < chosen->key && pass->arrival < best &&
        !too_early(l, pass, view->next_limit) && has_room(l, rank, begin, end, pass))
      best = pass->arrival;
  return best < INFINITY && budget && !may_spend(l, rank, best) ? INFINITY : best;
}

static void wake(ListScheduler *l, const Pass *pass) {
  const Worker *worker = &l->workers[pass->rank];
  if (worker->waits && pass->arrival < worker->now)
    set_now(l, pass->rank, pass->arrival);
}

/* The rank takes the pass's next operation. False: the cutoff cannot be met any more. */
static bool take(ListScheduler *l, int rank, Pass *pass, Order *order) {
  const Problem *p = l->problem;
  Worker *worker = &l->workers[rank];
  int operation = operation_at(l, pass, pass->next), begin = p->sequence_begin[rank];
  if (worker->taken > 0 || p->objective == OBJECTIVE_MAKESPAN)
    worker->idle += worker->now - worker->free_since;
  double spare = p->busiest_seconds - p->work[rank];
  l->worst_idle = fmax(l->worst_idle, worker->idle - spare);
  order->sequence[l->policy->reverse ? p->sequence_begin[rank + 1] - 1 - worker->taken : begin + worker->taken] =
      operation;
  worker->taken++;
  l->work++;
  worker->held += pass->memory;
  worker->free_since = l->end[operation] = worker->now + pass->seconds;
  worker->waits = false;
  set_now(l, rank, worker->free_since);
  pass->next++;
  refresh(l, pass);
  if (pass->phase < 2)
    refresh(l, pass + 1);
  if (pass->awaiting) {
    refresh(l, pass->awaiting);
    wake(l, pass->awaiting);
  }
  return l->policy->reverse || p->busiest_seconds + l->worst_idle < l->policy->cutoff;
}

bool list_run(ListScheduler *l, const double *key, const ListPolicy *policy, Order *order) {
  const Problem *p = l->problem;
  l->key = key;
  l->policy = policy;
  start(l);
  for (int left = p->operations; left > 0;) {
    int rank = l->first[1].rank;
    Worker *worker = &l->workers[rank];
    if (worker->now == INFINITY)
      return false;
    Pass *begin = &l->passes[3 * p->first_chunk[rank]], *end = &l->passes[3 * p->first_chunk[rank + 1]];
    View view = look(l, rank, begin, end);
    Pass *chosen = view.best && !view.room ? view.freeing : view.best;
    double better = chosen ? worth_waiting(l, rank, &view, begin, end, chosen) : view.next;
    if (better < INFINITY || !chosen) {
      worker->waits = true;
      set_now(l, rank, better);
      continue;
    }
    left--;
    if (!take(l, rank, chosen, order))
      return false;
  }
  for (int rank = 0; rank < p->ranks; rank++)
    l->idle[rank] = l->workers[rank].idle - (p->busiest_seconds - p->work[rank]);
  return true;
}
