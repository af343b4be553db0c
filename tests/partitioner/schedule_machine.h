/* A machine that runs a schedule on tokens instead of tensors, as the executor would over a transport that buffers
 * nothing: rank by rank in random order, a transfer happens only once both ends are posted, in order per pair and
 * direction; results to be sent lie in rings of send_depth. It knows nothing of the checker's rules: it tells what
 * comes out. Invariant: the same token values come out of any two runs that end. */
#ifndef TESTS_PARTITIONER_SCHEDULE_MACHINE_H
#define TESTS_PARTITIONER_SCHEDULE_MACHINE_H

#include <stdlib.h>
#include <string.h>

#include "partitioner/schedule/schedule.h"

typedef enum { RAN_RIGHT, RAN_WRONG, RAN_NEVER } Outcome; /* as expected; other values or work; hangs */

typedef struct {
  const Schedule *schedule;
  const Crossings *crossings;
  int *position;             /* [ranks] */
  uint64_t *in_f, *in_b;     /* [stages * microbatches]: what arrived; 0: nothing */
  uint64_t *f, *b;           /* the same: what F made and kept, what B made; 0: not yet */
  uint64_t *ring_f, *ring_b; /* [stages * send_depth]: results to be sent */
  int *taken_f, *taken_b;    /* [stages * microbatches]: SENDs taken */
  uint64_t *sum;             /* [stages]: gradients in the order in which they were added */
  int *matched;              /* [ranks * ranks]: transfers from one rank to another that took place */
  bool wrong;
} Machine;

static inline uint64_t token(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b;
  x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u + c;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return (x ^ (x >> 31)) | 1;
}

static inline size_t cell(const Machine *machine, int stage, int microbatch) {
  return (size_t)stage * (size_t)machine->schedule->microbatches + (size_t)microbatch;
}

static inline uint64_t *ring(const Machine *machine, bool forward, int stage, int microbatch) {
  int depth = machine->schedule->send_depth;
  return &(forward ? machine->ring_f : machine->ring_b)[stage * depth + microbatch % depth];
}

static inline int neighbour(Action action) {
  return action.kind == ACTION_SEND_F || action.kind == ACTION_RECV_B ? action.stage + 1 : action.stage - 1;
}

static inline bool is_send(Action action) {
  return action.kind == ACTION_SEND_F || action.kind == ACTION_SEND_B;
}

/* Whether the two ranks exchange something over the cut between these stages. */
static inline bool exchanged(const Machine *machine, bool forward, int cut) {
  const Schedule *schedule = machine->schedule;
  return schedule->rank_of_stage[cut] != schedule->rank_of_stage[cut + 1] &&
         (forward ? schedule_crosses_f(machine->crossings, cut) : schedule_crosses_b(machine->crossings, cut));
}

/* The k-th transfer of a rank with a peer, among those already posted; -1: not posted yet. */
static inline int posted_at(const Machine *machine, int rank, int peer, bool sends, int k) {
  const ActionList *list = &machine->schedule->lists[rank];
  for (int i = 0; i < machine->position[rank]; i++) {
    Action action = list->actions[i];
    if (!action_is_compute(action) && is_send(action) == sends && action.peer == peer && k-- == 0)
      return i;
  }
  return -1;
}

/* Moves what both ends have posted, in order. */
static inline void transfer(Machine *machine, int from, int to) {
  const Schedule *schedule = machine->schedule;
  int *matched = &machine->matched[from * schedule->ranks + to];
  for (;; ++*matched) {
    int i = posted_at(machine, from, to, true, *matched), j = posted_at(machine, to, from, false, *matched);
    if (i < 0 || j < 0)
      return;
    Action send = schedule->lists[from].actions[i], receive = schedule->lists[to].actions[j];
    bool forward = send.kind == ACTION_SEND_F;
    (forward ? machine->taken_f : machine->taken_b)[cell(machine, send.stage, send.microbatch)]++;
    uint64_t *box = &(receive.kind == ACTION_RECV_F ? machine->in_f
                                                    : machine->in_b)[cell(machine, receive.stage, receive.microbatch)];
    machine->wrong |= *box != 0 || (receive.kind == ACTION_RECV_F) != forward;
    *box = *ring(machine, forward, send.stage, send.microbatch);
  }
}

/* A result goes to the ring from which it is sent, or straight to a stage on the same rank. Ring slots are free. */
static inline void hand_over(Machine *machine, bool forward, int stage, int m, uint64_t value) {
  int other = forward ? stage + 1 : stage - 1, cut = forward ? stage : other;
  if (other < 0 || other >= machine->schedule->stages)
    return;
  if (exchanged(machine, forward, cut))
    *ring(machine, forward, stage, m) = value;
  else if (forward ? schedule_crosses_f(machine->crossings, cut) : schedule_crosses_b(machine->crossings, cut))
    (forward ? machine->in_f : machine->in_b)[cell(machine, other, m)] = value;
}

/* Whether the ring slot that a result goes to is free again. */
static inline bool slot_free(const Machine *machine, bool forward, int stage, int m) {
  int cut = forward ? stage : stage - 1, before = m - machine->schedule->send_depth;
  if (cut < 0 || cut + 1 >= machine->schedule->stages || before < 0 || !exchanged(machine, forward, cut))
    return true;
  return (forward ? machine->taken_f : machine->taken_b)[cell(machine, stage, before)] > 0;
}

/* Runs a compute action if it can: false, it waits. */
static inline bool compute(Machine *machine, Action action) {
  const Schedule *schedule = machine->schedule;
  int stage = action.stage, m = action.microbatch;
  size_t at = cell(machine, stage, m);
  bool has_b = schedule_has_b(machine->crossings, stage);
  if (action.kind == ACTION_F) {
    bool needs = stage > 0 && schedule_crosses_f(machine->crossings, stage - 1);
    if ((needs && !machine->in_f[at]) || !slot_free(machine, true, stage, m))
      return false;
    machine->wrong |= machine->f[at] != 0;
    machine->f[at] = token(1 + (uint64_t)stage, (uint64_t)m, needs ? machine->in_f[at] : 0);
    hand_over(machine, true, stage, m, machine->f[at]);
    return true;
  }
  bool needs = stage + 1 < schedule->stages && schedule_crosses_b(machine->crossings, stage);
  if (needs && !machine->in_b[at])
    return false;
  if (action.kind != ACTION_W && !slot_free(machine, false, stage, m))
    return false;
  machine->wrong |= !machine->f[at];
  uint64_t gradient = token(machine->f[at], 7, needs ? machine->in_b[at] : 0);
  if (action.kind != ACTION_W) {
    machine->wrong |= machine->b[at] != 0;
    machine->b[at] = token(gradient, 11, (uint64_t)stage);
    if (has_b)
      hand_over(machine, false, stage, m, machine->b[at]);
  }
  if (action.kind == ACTION_W || action.kind == ACTION_BW) {
    machine->wrong |= action.kind == ACTION_W && has_b && !machine->b[at];
    machine->sum[stage] = token(machine->sum[stage], gradient, 13);
  }
  return true;
}

/* Whether all transfers of a rank took place. */
static inline bool all_matched(const Machine *machine, int rank) {
  int ranks = machine->schedule->ranks;
  for (int peer = 0; peer < ranks; peer++)
    if (posted_at(machine, rank, peer, true, machine->matched[rank * ranks + peer]) >= 0 ||
        posted_at(machine, rank, peer, false, machine->matched[peer * ranks + rank]) >= 0)
      return false;
  return true;
}

/* One rank goes on as far as it can, or a random bit of the way; whether it moved. */
static inline bool advance(Machine *machine, int rank, unsigned *seed) {
  const Schedule *schedule = machine->schedule;
  const ActionList *list = &schedule->lists[rank];
  int begin = machine->position[rank], most = 1 + rand_r(seed) % 4;
  while (machine->position[rank] < list->n_actions && machine->position[rank] - begin < most) {
    Action action = list->actions[machine->position[rank]];
    if (action_is_compute(action) && !compute(machine, action))
      break;
    machine->position[rank]++;
    if (is_send(action)) /* the buffer is the transport's from now on */
      machine->wrong |=
          !(action.kind == ACTION_SEND_F ? machine->f : machine->b)[cell(machine, action.stage, action.microbatch)];
    if (is_send(action))
      transfer(machine, rank, action.peer);
    else if (!action_is_compute(action))
      transfer(machine, action.peer, rank);
  }
  return machine->position[rank] > begin;
}

/* The gradients that one rank alone would add up. */
static inline bool sums_right(const Machine *machine) {
  const Schedule *schedule = machine->schedule;
  uint64_t *sum = calloc((size_t)schedule->stages, sizeof *sum), *f = calloc((size_t)schedule->stages, sizeof *f);
  bool right = true;
  for (int m = 0; m < schedule->microbatches; m++) {
    for (int stage = 0; stage < schedule->stages; stage++)
      f[stage] = token(1 + (uint64_t)stage, (uint64_t)m,
                       stage > 0 && schedule_crosses_f(machine->crossings, stage - 1) ? f[stage - 1] : 0);
    uint64_t b = 0;
    for (int stage = schedule->stages - 1; stage >= 0; stage--) {
      right &= machine->f[cell(machine, stage, m)] == f[stage];
      bool needs = stage + 1 < schedule->stages && schedule_crosses_b(machine->crossings, stage);
      uint64_t gradient = token(f[stage], 7, needs ? b : 0);
      b = token(gradient, 11, (uint64_t)stage);
      sum[stage] = token(sum[stage], gradient, 13);
    }
  }
  for (int stage = 0; stage < schedule->stages; stage++)
    right &= machine->sum[stage] == (schedule->forward_only ? 0 : sum[stage]);
  free(sum);
  free(f);
  return right;
}

/* Every action names a stage of its rank and a microbatch that there are, and a transfer two other ranks. */
static inline bool can_run(const Schedule *schedule) {
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action action = schedule->lists[rank].actions[i];
      if (action.kind >= ACTION_KINDS || action.stage >= schedule->stages ||
          action.microbatch >= schedule->microbatches || schedule->rank_of_stage[action.stage] != rank)
        return false;
      if (!action_is_compute(action) && (neighbour(action) < 0 || neighbour(action) >= schedule->stages ||
                                         action.peer >= schedule->ranks || action.peer == rank))
        return false;
    }
  return true;
}

static inline void *zeroed(size_t n, size_t size) {
  void *data = calloc(n ? n : 1, size);
  if (!data)
    abort();
  return data;
}

/* Runs it once, ranks in an order drawn from the seed. */
static inline Outcome machine_run(const Schedule *schedule, const Crossings *crossings, unsigned seed) {
  if (!can_run(schedule))
    return RAN_WRONG;
  size_t cells = (size_t)schedule->stages * (size_t)schedule->microbatches, ranks = (size_t)schedule->ranks;
  size_t slots = (size_t)schedule->stages * (size_t)schedule->send_depth;
  Machine machine = {
      .schedule = schedule,
      .crossings = crossings,
      .position = zeroed(ranks, sizeof(int)),
      .in_f = zeroed(cells, 8),
      .in_b = zeroed(cells, 8),
      .f = zeroed(cells, 8),
      .b = zeroed(cells, 8),
      .ring_f = zeroed(slots, 8),
      .ring_b = zeroed(slots, 8),
      .taken_f = zeroed(cells, sizeof(int)),
      .taken_b = zeroed(cells, sizeof(int)),
      .sum = zeroed((size_t)schedule->stages, 8),
      .matched = zeroed(ranks * ranks, sizeof(int)),
  };
  int idle = 0;
  while (idle < 20 * schedule->ranks) /* then everyone has had its turn, all but surely */
    idle = advance(&machine, rand_r(&seed) % schedule->ranks, &seed) ? 0 : idle + 1;
  for (bool moved = true; moved;) { /* and now surely */
    moved = false;
    for (int rank = 0; rank < schedule->ranks; rank++)
      moved |= advance(&machine, rank, &seed);
  }
  Outcome outcome = RAN_RIGHT;
  for (int rank = 0; rank < schedule->ranks; rank++)
    if (machine.position[rank] < schedule->lists[rank].n_actions || !all_matched(&machine, rank))
      outcome = RAN_NEVER;
  if (outcome == RAN_RIGHT && (machine.wrong || !sums_right(&machine)))
    outcome = RAN_WRONG;
  void *owned[] = {machine.position, machine.in_f,    machine.in_b,    machine.f,   machine.b,      machine.ring_f,
                   machine.ring_b,   machine.taken_f, machine.taken_b, machine.sum, machine.matched};
  for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
    free(owned[i]);
  return outcome;
}

#endif
