/* Owns the one generator of schedules. Ranks take actions as time passes, each by the same rules; a schedule is a row
 * of numbers for them. Invariant: F, B and W of a stage run in increasing microbatch order, and every action whose
 * inputs can come is taken in the end, so that any row ends for any number of ranks and microbatches. */
#include "partitioner/schedule_internal.h"

#include <limits.h>
#include <string.h>

/* Chunk-forwards whose backward has not begun, at most. */
typedef int InFlight(int ranks, int rank, int chunks, int microbatches);

static int in_flight_one(int ranks, int rank, int chunks, int microbatches) {
  (void)ranks, (void)rank, (void)microbatches;
  return chunks;
}
static int in_flight_all(int ranks, int rank, int chunks, int microbatches) {
  (void)ranks, (void)rank;
  return chunks * microbatches;
}
static int in_flight_distance(int ranks, int rank, int chunks, int microbatches) {
  (void)chunks, (void)microbatches;
  return ranks - rank;
}

typedef struct {
  const char *name;
  Placement placement;
  bool joined, forward_only;
  int min_chunks, max_chunks;
  InFlight *in_flight;
  /* microbatches that a rank takes through one chunk before the next chunk; 0: all */
  int group;
} Row;

static const Row rows[] = {
    {"naive", PLACE_LINE, true, false, 1, SCHEDULE_LIMIT, in_flight_one, 1},
    {"gpipe", PLACE_LINE, true, false, 1, SCHEDULE_LIMIT, in_flight_all, 0},
    {"1f1b", PLACE_LINE, true, false, 1, SCHEDULE_LIMIT, in_flight_distance, 1},
    {"forward", PLACE_LINE, false, true, 1, SCHEDULE_LIMIT, in_flight_all, 1},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

const char *const schedule_names[] = {"naive", "gpipe", "1f1b", NULL};

/* One rank at work. F and B of its chunks come in a fixed order each: number k of either is chunk_of(k). */
typedef struct {
  ActionList list;
  int forwards, backwards; /* taken */
  int free_at;
} Worker;

typedef struct {
  const Row *row;
  int chunks; /* stages a rank while generating: a line's are one */
  Schedule *schedule;
  Worker *workers; /* [ranks] */
  int *ends;       /* at walk_index: when an action ends; -1: not taken */
  int now;
} Generator;

static int stage_at(Placement placement, int ranks, int chunks, int rank, int chunk) {
  switch (placement) {
  case PLACE_LINE:
    return rank * chunks + chunk;
  case PLACE_V:
    return chunk * ranks + (chunk % 2 ? ranks - 1 - rank : rank);
  default:
    return chunk * ranks + rank;
  }
}

/* Chunk and microbatch of a rank's k-th F; of its k-th B with chunks counted from the last. */
static void in_order(const Generator *generator, int k, int *chunk, int *microbatch) {
  int microbatches = generator->schedule->microbatches, chunks = generator->chunks;
  int group = generator->row->group && generator->row->group < microbatches ? generator->row->group : microbatches;
  int first = k / (group * chunks) * group; /* microbatch of the group */
  int size = group < microbatches - first ? group : microbatches - first;
  int within = k - first * chunks;
  *chunk = within / size;
  *microbatch = first + within % size;
}

static bool ended(const Generator *generator, int kind, int stage, int microbatch) {
  int end = generator->ends[walk_index(generator->schedule, kind, stage, microbatch)];
  return end >= 0 && end <= generator->now;
}

static bool ready(const Generator *generator, Action action) {
  const Schedule *schedule = generator->schedule;
  int stage = action.stage, m = action.microbatch;
  if (action.kind == ACTION_F)
    return stage == 0 || ended(generator, ACTION_F, stage - 1, m);
  if (!ended(generator, ACTION_F, stage, m))
    return false;
  return stage + 1 == schedule->stages || ended(generator, ACTION_BW, stage + 1, m);
}

/* The next F (or BW) of a rank; false: there are no more. */
static bool next_of(const Generator *generator, int rank, bool forward, Action *action) {
  const Schedule *schedule = generator->schedule;
  const Worker *worker = &generator->workers[rank];
  int k = forward ? worker->forwards : worker->backwards, chunk, microbatch;
  if (k == generator->chunks * schedule->microbatches || (!forward && schedule->forward_only))
    return false;
  in_order(generator, k, &chunk, &microbatch);
  if (!forward)
    chunk = generator->chunks - 1 - chunk;
  *action =
      (Action){.kind = forward ? ACTION_F : ACTION_BW,
               .stage = (uint16_t)stage_at(generator->row->placement, schedule->ranks, generator->chunks, rank, chunk),
               .microbatch = (uint16_t)microbatch};
  return true;
}

static void take(Generator *generator, int rank, Action action) {
  Worker *worker = &generator->workers[rank];
  worker->list.actions[worker->list.n_actions++] = action;
  worker->free_at = generator->now + (action.kind == ACTION_BW ? 2 : 1);
  generator->ends[walk_index(generator->schedule, action.kind, action.stage, action.microbatch)] = worker->free_at;
  *(action.kind == ACTION_F ? &worker->forwards : &worker->backwards) += 1;
}

/* What a free rank does now, if anything. `freely`: anything that is ready, where the rules would wait for ever. */
static bool choose(Generator *generator, int rank, bool freely) {
  const Schedule *schedule = generator->schedule;
  const Worker *worker = &generator->workers[rank];
  Action forward, backward;
  bool has_forward = next_of(generator, rank, true, &forward),
       has_backward = next_of(generator, rank, false, &backward);
  bool room = schedule->forward_only ||
              worker->forwards - worker->backwards <
                  generator->row->in_flight(schedule->ranks, rank, generator->chunks, schedule->microbatches);
  if (has_forward && (room || freely) && ready(generator, forward)) {
    take(generator, rank, forward);
    return true;
  }
  if (has_backward && (!has_forward || !room || freely) && ready(generator, backward)) {
    take(generator, rank, backward);
    return true;
  }
  return false;
}

/* Lets time pass until nothing is left. */
static Status run_workers(Generator *generator) {
  int ranks = generator->schedule->ranks;
  for (bool freely = false;;) {
    bool moved = false;
    int next = INT_MAX;
    for (int rank = 0; rank < ranks; rank++) {
      Worker *worker = &generator->workers[rank];
      if (worker->free_at <= generator->now && choose(generator, rank, freely)) {
        moved = true;
        freely = false;
      }
      if (worker->free_at > generator->now && worker->free_at < next)
        next = worker->free_at;
    }
    if (next < INT_MAX)
      generator->now = next;
    else if (!moved && freely)
      return OK; /* nothing is ready and nobody works: all is done */
    else
      freely = !moved;
  }
}

/* A line's stages on one rank do what its one stage was planned to do, one after the other. */
static Status expand_line(Arena *arena, Schedule *schedule, int chunks) {
  for (int rank = 0; rank < schedule->ranks; rank++) {
    ActionList *list = &schedule->lists[rank], expanded = {0};
    TRY(ARENA_NEW(arena, expanded.actions, (size_t)list->n_actions * (size_t)chunks));
    for (int i = 0; i < list->n_actions; i++)
      for (int k = 0; k < chunks; k++) {
        Action action = list->actions[i];
        int chunk = action.kind == ACTION_F ? k : chunks - 1 - k;
        action.stage = (uint16_t)(rank * chunks + chunk);
        expanded.actions[expanded.n_actions++] = action;
      }
    *list = expanded;
  }
  schedule->stages = schedule->ranks * chunks;
  return OK;
}

static Status generate(Arena *arena, Arena *scratch, const Row *row, int chunks, Schedule *schedule) {
  bool line = row->placement == PLACE_LINE;
  Generator generator = {.row = row, .chunks = line ? 1 : chunks, .schedule = schedule};
  schedule->stages = schedule->ranks * generator.chunks;
  size_t cells = walk_index(schedule, ACTION_KINDS, 0, 0);
  TRY(ARENA_NEW(scratch, generator.ends, cells));
  for (size_t i = 0; i < cells; i++)
    generator.ends[i] = -1;
  TRY(ARENA_NEW(scratch, generator.workers, schedule->ranks));
  TRY(ARENA_NEW(scratch, schedule->lists, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++)
    TRY(ARENA_NEW(scratch, generator.workers[rank].list.actions, 3 * generator.chunks * schedule->microbatches));
  TRY(run_workers(&generator));
  for (int rank = 0; rank < schedule->ranks; rank++)
    schedule->lists[rank] = generator.workers[rank].list;
  if (line)
    TRY(expand_line(scratch, schedule, chunks));
  TRY(ARENA_NEW(arena, schedule->rank_of_stage, schedule->stages));
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int chunk = 0; chunk < chunks; chunk++)
      schedule->rank_of_stage[stage_at(row->placement, schedule->ranks, chunks, rank, chunk)] = rank;
  return OK;
}

static Status find_row(const char *name, int chunks, const Row **row) {
  for (int i = 0; i < N_ROWS; i++) {
    if (strcmp(rows[i].name, name) != 0)
      continue;
    *row = &rows[i];
    if (chunks >= rows[i].min_chunks && chunks <= rows[i].max_chunks)
      return OK;
    return fail(E_USAGE, "schedule %s has %d stages a rank, not %d", name, rows[i].min_chunks, chunks);
  }
  return fail(E_USAGE, "there is no schedule '%s'", name);
}

Status schedule_generate(Arena *arena, const char *name, int ranks, int chunks, int microbatches,
                         const Crossings *crossings, Schedule *schedule) {
  const Row *row;
  if (ranks < 1 || chunks < 1 || microbatches < 1 || microbatches > SCHEDULE_LIMIT ||
      (int64_t)ranks * chunks > SCHEDULE_LIMIT || (int64_t)ranks * chunks * microbatches > INT_MAX / 8)
    return fail(E_USAGE, "%d ranks, %d stages a rank, %d microbatches: no schedule is that large", ranks, chunks,
                microbatches);
  TRY(find_row(name, chunks, &row));
  Schedule computes = {.name = row->name,
                       .ranks = ranks,
                       .microbatches = microbatches,
                       .joined = row->joined,
                       .forward_only = row->forward_only,
                       .send_depth = 2,
                       .receive_ahead = 1};
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = generate(arena, scratch, row, chunks, &computes);
  if (status == OK)
    status = schedule_add_transfers(arena, &computes, crossings, schedule);
  arena_destroy(scratch);
  return status;
}
