/* Owns the problem that the synthesis solves, in flat arrays, and the timing of an order. Invariant: an order is timed
 * as simulate_schedule times its lists, but for transfers, which do not wait for one another here. */
#include "partitioner/synthesis/internal.h"

#include <math.h>
#include <string.h>

static Status allocate(Arena *arena, Problem *p) {
  TRY(ARENA_NEW(arena, p->first_chunk, p->ranks + 1));
  TRY(ARENA_NEW(arena, p->sequence_begin, p->ranks + 1));
  TRY(ARENA_NEW(arena, p->limit, p->ranks));
  TRY(ARENA_NEW(arena, p->work, p->ranks));
  TRY(ARENA_NEW(arena, p->chunk_stage, p->stages));
  TRY(ARENA_NEW(arena, p->chunk_of_stage, p->stages));
  TRY(ARENA_NEW(arena, p->gradient_crosses, p->stages));
  for (int kind = 0; kind < 3; kind++) {
    TRY(ARENA_NEW(arena, p->seconds[kind], p->stages));
    TRY(ARENA_NEW(arena, p->memory[kind], p->stages));
  }
  for (int kind = 0; kind < 2; kind++)
    TRY(ARENA_NEW(arena, p->lag[kind], p->stages));
  return OK;
}

static void place_chunks(Problem *p) {
  int next = 0;
  for (int rank = 0; rank < p->ranks; rank++) {
    p->first_chunk[rank] = next;
    p->sequence_begin[rank] = next * 3 * p->microbatches;
    for (int stage = 0; stage < p->stages; stage++)
      if (p->timing->rank_of_stage[stage] == rank) {
        p->chunk_of_stage[stage] = next - p->first_chunk[rank];
        p->chunk_stage[next++] = stage;
      }
    if (next - p->first_chunk[rank] > p->most_chunks)
      p->most_chunks = next - p->first_chunk[rank];
  }
  p->first_chunk[p->ranks] = next;
  p->sequence_begin[p->ranks] = next * 3 * p->microbatches;
}

static void set_stage(Problem *p, int stage) {
  const Timing *t = p->timing;
  double activation = t->activation ? t->activation[stage] : 0;
  bool has_b = schedule_has_b(p->crossings, stage);
  p->seconds[ACTION_F][stage] = t->forward_seconds[stage];
  p->seconds[ACTION_B][stage] = has_b ? t->backward_input_seconds[stage] : 0;
  p->seconds[ACTION_W][stage] = t->backward_weight_seconds[stage] + (has_b ? 0 : t->backward_input_seconds[stage]);
  p->memory[ACTION_F][stage] = activation;
  p->memory[ACTION_B][stage] = has_b ? -activation * t->backward_input_frees : 0;
  p->memory[ACTION_W][stage] = -activation - p->memory[ACTION_B][stage];
  if (stage + 1 == p->stages)
    return;
  double latency = t->rank_of_stage[stage] == t->rank_of_stage[stage + 1] ? -1 : t->link_latency_seconds;
  p->lag[ACTION_F][stage] = latency < 0 ? 0 : latency + (t->forward_link_seconds ? t->forward_link_seconds[stage] : 0);
  p->lag[ACTION_B][stage] =
      latency < 0 ? 0 : latency + (t->backward_link_seconds ? t->backward_link_seconds[stage] : 0);
  p->gradient_crosses[stage] = schedule_has_b(p->crossings, stage + 1);
}

Status problem_make(Arena *arena, const AutoCandidate *candidate, Objective objective, Problem *p) {
  const Timing *timing = candidate->timing;
  *p = (Problem){.timing = timing,
                 .crossings = candidate->crossings,
                 .placement = candidate->placement,
                 .objective = objective,
                 .ranks = timing->ranks,
                 .stages = timing->stages,
                 .microbatches = timing->microbatches};
  if ((int64_t)p->stages * p->microbatches > (1 << 26))
    return fail(E_USAGE, "auto: %d stages and %d microbatches are too many", p->stages, p->microbatches);
  p->operations = 3 * p->stages * p->microbatches;
  TRY(allocate(arena, p));
  place_chunks(p);
  for (int stage = 0; stage < p->stages; stage++) {
    set_stage(p, stage);
    for (int kind = 0; kind < 3; kind++)
      p->work[timing->rank_of_stage[stage]] += p->seconds[kind][stage] * p->microbatches;
  }
  for (int rank = 0; rank < p->ranks; rank++) {
    if (p->first_chunk[rank] == p->first_chunk[rank + 1])
      return fail(E_USAGE, "auto: rank %d has no stage", rank);
    /* the sums of what is held are rounded */
    p->limit[rank] = timing->memory_limit ? timing->memory_limit[rank] * (1 + 1e-9) : INFINITY;
    p->busiest_seconds = fmax(p->busiest_seconds, p->work[rank]);
  }
  p->period = p->busiest_seconds / p->microbatches;
  return bound_find(arena, p, &p->bound_seconds);
}

Status problem_fits(const Problem *p) {
  for (int rank = 0; rank < p->ranks; rank++) {
    double need = 0;
    for (int i = p->first_chunk[rank]; i < p->first_chunk[rank + 1]; i++)
      need += p->memory[ACTION_F][p->chunk_stage[i]];
    if (need > p->limit[rank])
      return fail(E_LIMIT, "rank %d may hold activations of %g, one microbatch takes %g", rank,
                  p->timing->memory_limit[rank], need);
  }
  return OK;
}

Status order_make(Arena *arena, const Problem *p, Order *order) {
  order->value = INFINITY;
  return ARENA_NEW(arena, order->sequence, p->operations);
}

void order_copy(const Problem *p, Order *to, const Order *from) {
  memcpy(to->sequence, from->sequence, (size_t)p->operations * sizeof *to->sequence);
  to->value = from->value;
}

bool order_fits(const Problem *p, const Order *order, int rank) {
  double held = 0;
  for (int i = p->sequence_begin[rank]; i < p->sequence_begin[rank + 1]; i++) {
    int pass = order->sequence[i] / p->microbatches;
    held += p->memory[pass % 3][pass / 3];
    if (held > p->limit[rank])
      return false;
  }
  return true;
}

bool order_take(const Problem *p, const Schedule *schedule, Order *order) {
  if (schedule->forward_only || schedule->stages != p->stages || schedule->microbatches != p->microbatches ||
      memcmp(schedule->rank_of_stage, p->timing->rank_of_stage, (size_t)p->stages * sizeof(int)) != 0)
    return false;
  for (int rank = 0; rank < p->ranks; rank++) {
    int *next = &order->sequence[p->sequence_begin[rank]];
    const ActionList *list = &schedule->lists[rank];
    for (int i = 0; i < list->n_actions; i++) {
      Action action = list->actions[i];
      if (!action_is_compute(action))
        continue;
      if (action.kind == ACTION_BW || (action.kind == ACTION_W && !schedule_has_b(p->crossings, action.stage)))
        *next++ = operation_of(p, action.stage, ACTION_B, action.microbatch);
      *next++ = operation_of(p, action.stage, action.kind == ACTION_BW ? ACTION_W : action.kind, action.microbatch);
    }
    if (next != &order->sequence[p->sequence_begin[rank + 1]] || !order_fits(p, order, rank))
      return false;
  }
  return true;
}

Status order_schedule(Arena *arena, const Problem *p, const Order *order, Schedule *schedule) {
  *schedule = (Schedule){.name = "auto",
                         .ranks = p->ranks,
                         .stages = p->stages,
                         .microbatches = p->microbatches,
                         .send_depth = 2,
                         .receive_ahead = 1};
  TRY(ARENA_NEW(arena, schedule->rank_of_stage, p->stages));
  memcpy(schedule->rank_of_stage, p->timing->rank_of_stage, (size_t)p->stages * sizeof(int));
  TRY(ARENA_NEW(arena, schedule->lists, p->ranks));
  for (int rank = 0; rank < p->ranks; rank++) {
    ActionList *list = &schedule->lists[rank];
    TRY(ARENA_NEW(arena, list->actions, p->sequence_begin[rank + 1] - p->sequence_begin[rank]));
    for (int i = p->sequence_begin[rank]; i < p->sequence_begin[rank + 1]; i++) {
      int pass = order->sequence[i] / p->microbatches, stage = pass / 3, kind = pass % 3;
      if (kind != ACTION_B || schedule_has_b(p->crossings, stage))
        list->actions[list->n_actions++] = (Action){.kind = (uint8_t)kind,
                                                    .stage = (uint16_t)stage,
                                                    .microbatch = (uint16_t)(order->sequence[i] % p->microbatches)};
    }
  }
  return OK;
}

/* ---- timing ---- */

Status clock_make(Arena *arena, const Problem *p, Clock *clock) {
  TRY(ARENA_NEW(arena, clock->begin, p->operations));
  TRY(ARENA_NEW(arena, clock->end, p->operations));
  TRY(ARENA_NEW(arena, clock->span, p->ranks));
  TRY(ARENA_NEW(arena, clock->rank_free, p->ranks));
  TRY(ARENA_NEW(arena, clock->next, p->ranks));
  TRY(ARENA_NEW(arena, clock->stack, p->ranks));
  return ARENA_NEW(arena, clock->stacked, p->ranks);
}

/* When the inputs of an operation are there; negative: not known yet. */
static double inputs_at(const Problem *p, const double *end, int operation, int stage, int kind) {
  int m = p->microbatches;
  if (kind == ACTION_F) {
    if (stage == 0)
      return 0;
    double before = end[operation - 3 * m];
    return before < 0 ? before : before + p->lag[ACTION_F][stage - 1];
  }
  double at = end[operation - m];
  if (at < 0 || kind == ACTION_W || !p->gradient_crosses[stage])
    return at;
  double after = end[operation + 3 * m];
  if (after < 0)
    return after;
  after += p->lag[ACTION_B][stage];
  return after > at ? after : at;
}

/* The rank that an operation sends to; its own where none. */
static int receiver_of(const Problem *p, int rank, int stage, int kind) {
  int to = kind == ACTION_F ? stage + 1 : kind == ACTION_B ? stage - 1 : stage;
  return to < 0 || to == p->stages ? rank : p->timing->rank_of_stage[to];
}

void clock_run(const Problem *p, Clock *clock, Order *order) {
  int top = 0, done = 0;
  for (int rank = p->ranks - 1; rank >= 0; rank--) {
    clock->next[rank] = p->sequence_begin[rank];
    clock->rank_free[rank] = 0;
    clock->stack[top++] = rank;
    clock->stacked[rank] = true;
  }
  for (int i = 0; i < p->operations; i++)
    clock->end[i] = -1;
  while (top > 0) {
    int rank = clock->stack[--top];
    clock->stacked[rank] = false;
    for (; clock->next[rank] < p->sequence_begin[rank + 1]; clock->next[rank]++, done++) {
      int operation = order->sequence[clock->next[rank]];
      int pass = operation / p->microbatches, stage = pass / 3, kind = pass % 3;
      double begin = inputs_at(p, clock->end, operation, stage, kind);
      if (begin < 0)
        break;
      begin = begin > clock->rank_free[rank] ? begin : clock->rank_free[rank];
      clock->begin[operation] = begin;
      clock->end[operation] = clock->rank_free[rank] = begin + p->seconds[kind][stage];
      int receiver = receiver_of(p, rank, stage, kind);
      if (receiver != rank && !clock->stacked[receiver]) {
        clock->stacked[receiver] = true;
        clock->stack[top++] = receiver;
      }
    }
  }
  order->value = done < p->operations ? INFINITY : 0;
  for (int rank = 0; rank < p->ranks && done == p->operations; rank++) {
    double first = p->objective == OBJECTIVE_MAKESPAN ? 0 : clock->begin[order->sequence[p->sequence_begin[rank]]];
    clock->span[rank] = clock->rank_free[rank] - first;
    order->value = fmax(order->value, clock->span[rank]);
  }
}
