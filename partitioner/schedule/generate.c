/* Owns the one generator of schedules. A row of the table says in what rhythm a rank takes its actions: a planned time
 * for each of them. Then time passes in units, F, B and W taking one each, and every free rank takes what stands next
 * in its rhythm once the inputs are there. Rows with `ahead`, and every row with B and W apart once a rank has begun
 * its last microbatch, may take what is ready before it.
 *
 * Invariant: F, B and W of a stage run in increasing microbatch order, and where the rhythm would wait for ever a rank
 * takes anything that is ready, so that every row ends for any number of ranks and microbatches.
 *
 * Sources: Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters" (interleaved); Qi et
 * al. 2023, "Zero bubble pipeline parallelism"; Qi et al. 2024, "Pipeline parallelism with controllable memory" (the
 * building blocks of the V rows). */
#include "partitioner/schedule/internal.h"

#include <limits.h>
#include <string.h>

/* A rank, and how many there are; stages a rank; microbatches. */
typedef struct {
  int rank, ranks, chunks, microbatches;
} Shape;

/* F and B take turns once so many F have run whose B has not; W of a microbatch follows B of the one `delay` later. */
typedef struct {
  int (*in_flight)(Shape);
  int (*delay)(Shape);
} Turns;

enum { INTERVAL = 6 /* after which a building block begins anew: F, B and W of two chunks */ };

/* The building block of a V: how much later each pass begins on the rank that the microbatch reaches next, and the
 * units that it rests between its first and second chunk, and between forward and backward where the ranks are a
 * multiple of rest_every (for else two blocks would meet on a rank). */
typedef struct {
  int f0, f1, b1, b0;
  int turn, rest, rest_every;
  int memory_add, memory_divide; /* microbatches' worth that a rank keeps: (ranks + add) / divide */
} Block;

typedef struct {
  const char *name;
  Placement placement;
  int min_chunks, max_chunks, usual_chunks;
  bool joined, forward_only;
  Turns turns; /* of a line or a loop */
  Block block; /* of a V */
  bool ahead;  /* as memory allows, where B frees half of what a microbatch keeps */
} Row;

static int one(Shape at) {
  return at.chunks;
}
static int all(Shape at) {
  return at.chunks * at.microbatches;
}
static int distance(Shape at) {
  return at.ranks - at.rank;
}
static int twice_distance(Shape at) {
  return 2 * (at.ranks - at.rank) - 1;
}
static int interleaved(Shape at) {
  return 2 * (at.ranks - at.rank - 1) + (at.chunks - 1) * at.ranks + 1;
}
static int no_delay(Shape at) {
  (void)at;
  return 0;
}
static int rank_delay(Shape at) {
  return at.rank;
}
static int twice_rank_delay(Shape at) {
  return 2 * at.rank;
}

static const Row rows[] = {
    {"naive", PLACE_LINE, 1, SCHEDULE_LIMIT, 1, .joined = true, .turns = {one, no_delay}},
    {"gpipe", PLACE_LINE, 1, SCHEDULE_LIMIT, 1, .joined = true, .turns = {all, no_delay}},
    {"1f1b", PLACE_LINE, 1, SCHEDULE_LIMIT, 1, .joined = true, .turns = {distance, no_delay}},
    {"interleaved-1f1b", PLACE_LOOP, 1, SCHEDULE_LIMIT, 2, .joined = true, .turns = {interleaved, no_delay}},
    {"zb-h1", PLACE_LINE, 1, SCHEDULE_LIMIT, 1, .turns = {distance, rank_delay}},
    {"zb-h2", PLACE_LINE, 1, SCHEDULE_LIMIT, 1, .turns = {twice_distance, twice_rank_delay}},
    {"zb-v", PLACE_V, 2, 2, 2, .block = {4, 2, 4, 2, 0, 0, 1, 0, 1}, .ahead = true},
    {"v-half", PLACE_V, 2, 2, 2, .block = {2, 1, 2, 1, 1, 3, 2, 2, 2}},
    {"v-min", PLACE_V, 2, 2, 2, .block = {1, 1, 1, 1, 0, 2, 3, 4, 3}},
    {"forward", PLACE_LINE, 1, SCHEDULE_LIMIT, 1, .forward_only = true, .turns = {all, no_delay}},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

const char *const schedule_names[] = {"naive",  "gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "zb-v",
                                      "v-half", "v-min", NULL};

typedef struct {
  ActionList list;
  int free_at;
  int kept; /* half activations */
} Worker;

typedef struct {
  const Row *row;
  int chunks; /* stages a rank while generating: a line's are one */
  Schedule *schedule;
  Worker *workers; /* [ranks] */
  int *when;       /* [F, B, W][stages][microbatches], at walk_index: the rhythm */
  int *ends;       /* the same: when an action ends; 0: not taken */
  int *next;       /* [F, B, W][stages]: the microbatch that is next */
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

static int stage_of(const Generator *generator, int rank, int chunk) {
  return stage_at(generator->row->placement, generator->schedule->ranks, generator->chunks, rank, chunk);
}

static int *when_at(const Generator *generator, int kind, int stage, int microbatch) {
  return &generator->when[walk_index(generator->schedule, kind, stage, microbatch)];
}

/* ---- rhythm ---- */

/* Chunk and microbatch of a rank's k-th F (and of its k-th B, with chunks counted from the last): as many microbatches
 * as there are ranks pass through a chunk before the rank turns to the next one. */
static void in_order(const Generator *generator, int k, int *chunk, int *microbatch) {
  int microbatches = generator->schedule->microbatches, chunks = generator->chunks, group = generator->schedule->ranks;
  int first = k / (group * chunks) * group;
  int size = group < microbatches - first ? group : microbatches - first;
  int within = k - first * chunks;
  *chunk = within / size;
  *microbatch = first + within % size;
}

static void plan_turns(Generator *generator, int rank) {
  const Schedule *schedule = generator->schedule;
  Shape shape = {rank, schedule->ranks, generator->chunks, schedule->microbatches};
  int in_flight = generator->row->turns.in_flight(shape), delay = generator->row->turns.delay(shape);
  for (int k = 0; k < generator->chunks * schedule->microbatches; k++) {
    int chunk, m;
    in_order(generator, k, &chunk, &m);
    int last = stage_of(generator, rank, generator->chunks - 1 - chunk);
    *when_at(generator, ACTION_F, stage_of(generator, rank, chunk), m) = 3 * k;
    *when_at(generator, ACTION_B, last, m) = 3 * (k + in_flight - 1) + 1;
    *when_at(generator, ACTION_W, last, m) = 3 * (k + in_flight - 1 + delay) + 2;
  }
}

/* When the passes F0, F1, B1, B0 of the first microbatch begin on a rank. */
static void block_begins(const Block *block, int rank, int ranks, int begin[4]) {
  int left = ranks - 1 - rank; /* ranks that a microbatch passes before the turn */
  int turned = block->f0 * (ranks - 1) + 1 + block->turn;
  int back = turned + block->f1 * (ranks - 1) + 1 + (ranks % block->rest_every ? 0 : block->rest);
  begin[0] = block->f0 * rank;
  begin[1] = turned + block->f1 * left;
  begin[2] = back + block->b1 * rank;
  begin[3] = back + block->b1 * (ranks - 1) + 1 + block->b0 * left;
}

/* Blocks repeat every INTERVAL; each W takes the first unit that its rank has left, in the order of their B. */
static void plan_block(Generator *generator, int rank) {
  static const int kinds[4] = {ACTION_F, ACTION_F, ACTION_B, ACTION_B}, chunks[4] = {0, 1, 1, 0};
  int microbatches = generator->schedule->microbatches, begin[4];
  block_begins(&generator->row->block, rank, generator->schedule->ranks, begin);
  /* B1 and B0 of a microbatch, merged by time: how many of each have begun, and have got their W */
  int begun[2] = {0, 0}, given[2] = {0, 0};
  for (int t = 0; given[0] + given[1] < 2 * microbatches; t++) {
    bool taken = false;
    for (int pass = 0; pass < 4; pass++) {
      int m = (t - begin[pass]) / INTERVAL;
      if (t < begin[pass] || (t - begin[pass]) % INTERVAL != 0 || m >= microbatches)
        continue;
      taken = true;
      *when_at(generator, kinds[pass], stage_of(generator, rank, chunks[pass]), m) = t;
      begun[chunks[pass]] += kinds[pass] == ACTION_B;
    }
    if (taken || (given[0] == begun[0] && given[1] == begun[1]))
      continue;
    int since[2]; /* when the oldest B without W began, by chunk */
    for (int chunk = 0; chunk < 2; chunk++)
      since[chunk] = given[chunk] < begun[chunk] ? begin[3 - chunk] + INTERVAL * given[chunk] : INT_MAX;
    int chunk = since[1] < since[0];
    *when_at(generator, ACTION_W, stage_of(generator, rank, chunk), given[chunk]++) = t;
  }
}

/* ---- time passes ---- */

/* How long the action takes; the rhythm knows no more of times. */
static int units(int kind) {
  return kind == ACTION_BW ? 2 : 1;
}

static bool ended(const Generator *generator, int kind, int stage, int microbatch) {
  int end = generator->ends[walk_index(generator->schedule, kind, stage, microbatch)];
  return end > 0 && end <= generator->now;
}

static bool ready(const Generator *generator, int kind, int stage, int m) {
  if (kind == ACTION_W)
    return ended(generator, ACTION_B, stage, m);
  if (kind == ACTION_F)
    return stage == 0 || ended(generator, ACTION_F, stage - 1, m);
  return ended(generator, ACTION_F, stage, m) &&
         (stage + 1 == generator->schedule->stages || ended(generator, ACTION_B, stage + 1, m));
}

/* Whether F of a chunk leaves room for the F of later chunks that has to come before anything is freed. */
static bool has_room(const Generator *generator, int rank, int chunk) {
  const Block *block = &generator->row->block;
  const Schedule *schedule = generator->schedule;
  if (generator->row->placement != PLACE_V)
    return true;
  int limit = 2 * generator->chunks * ((schedule->ranks + block->memory_add) / block->memory_divide);
  int last = stage_of(generator, rank, generator->chunks - 1);
  int run = generator->next[ACTION_F * schedule->stages + last];
  bool waits = chunk + 1 < generator->chunks && run < schedule->microbatches &&
               run == generator->next[ACTION_B * schedule->stages + last];
  return generator->workers[rank].kept + (waits ? 4 : 2) <= limit;
}

typedef struct {
  int kind, chunk; /* kind is ACTION_KINDS: none */
  bool late;       /* after all that are not */
  int when;
} Candidate;

static bool before(const Candidate *a, const Candidate *b) {
  return b->kind == ACTION_KINDS || a->late < b->late || (a->late == b->late && a->when < b->when);
}

/* What a free rank turns to: the next of its rhythm, ready or not; or when `loose`, the first that is ready and for
 * which there is room, W last when `last`; or when `freely`, room or not. */
static Candidate turn_to(const Generator *generator, int rank, bool loose, bool last, bool freely) {
  const Schedule *schedule = generator->schedule;
  Candidate best = {.kind = ACTION_KINDS};
  int kinds = schedule->forward_only ? 1 : schedule->joined ? 2 : 3;
  for (int chunk = 0; chunk < generator->chunks; chunk++)
    for (int kind = 0; kind < kinds; kind++) {
      int stage = stage_of(generator, rank, chunk), m = generator->next[kind * schedule->stages + stage];
      if (m == schedule->microbatches)
        continue;
      Candidate candidate = {kind, chunk, last && kind == ACTION_W, *when_at(generator, kind, stage, m)};
      if (loose && !ready(generator, kind, stage, m))
        continue;
      if (loose && !freely && kind == ACTION_F && !has_room(generator, rank, chunk))
        continue;
      if (before(&candidate, &best))
        best = candidate;
    }
  return best;
}

static void take(Generator *generator, int rank, int kind, int chunk) {
  static const int kept_strictly[3] = {2, 0, -2}, kept_ahead[3] = {2, -1, -1};
  Schedule *schedule = generator->schedule;
  Worker *worker = &generator->workers[rank];
  int stage = stage_of(generator, rank, chunk), m = generator->next[kind * schedule->stages + stage]++;
  int done = kind == ACTION_B && schedule->joined ? ACTION_BW : kind;
  worker->list.actions[worker->list.n_actions++] =
      (Action){.kind = (uint8_t)done, .stage = (uint16_t)stage, .microbatch = (uint16_t)m};
  worker->free_at = generator->now + units(done);
  worker->kept += (generator->row->ahead ? kept_ahead : kept_strictly)[kind];
  generator->ends[walk_index(schedule, kind, stage, m)] = worker->free_at;
}

/* A free rank begins something, if it can. */
static bool begin(Generator *generator, int rank, bool freely) {
  const Schedule *schedule = generator->schedule;
  bool last = !schedule->joined &&
              generator->next[ACTION_F * schedule->stages + stage_of(generator, rank, 0)] == schedule->microbatches;
  bool loose = freely || generator->row->ahead || last;
  Candidate candidate = turn_to(generator, rank, loose, last, freely);
  if (candidate.kind == ACTION_KINDS)
    return false;
  int stage = stage_of(generator, rank, candidate.chunk);
  if (!ready(generator, candidate.kind, stage, generator->next[candidate.kind * schedule->stages + stage]))
    return false;
  take(generator, rank, candidate.kind, candidate.chunk);
  return true;
}

/* Until nothing is left. */
static void pass_time(Generator *generator) {
  for (bool freely = false;;) {
    bool moved = false;
    int next = INT_MAX;
    for (int rank = 0; rank < generator->schedule->ranks; rank++) {
      Worker *worker = &generator->workers[rank];
      if (worker->free_at <= generator->now && begin(generator, rank, freely)) {
        moved = true;
        freely = false;
      }
      if (worker->free_at > generator->now && worker->free_at < next)
        next = worker->free_at;
    }
    if (next < INT_MAX)
      generator->now = next;
    else if (!moved && freely)
      return; /* nothing is ready and nobody works: all is done */
    else
      freely = !moved;
  }
}

/* ---- lists ---- */

/* A line's stages on one rank do one after the other what its one stage was planned to do; a stage that no gradient
 * leaves has no B. */
static Status settle(Arena *arena, const Generator *generator, int chunks, const Crossings *crossings) {
  Schedule *schedule = generator->schedule;
  int copies = chunks / generator->chunks;
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *planned = &generator->workers[rank].list;
    ActionList *list = &schedule->lists[rank];
    TRY(ARENA_NEW(arena, list->actions, (size_t)planned->n_actions * (size_t)copies));
    for (int i = 0; i < planned->n_actions; i++)
      for (int k = 0; k < copies; k++) {
        Action action = planned->actions[i];
        action.stage = (uint16_t)(action.stage * copies + (action.kind == ACTION_F ? k : copies - 1 - k));
        if (action.kind != ACTION_B || schedule_has_b(crossings, action.stage))
          list->actions[list->n_actions++] = action;
      }
  }
  schedule->stages = schedule->ranks * chunks;
  TRY(ARENA_NEW(arena, schedule->rank_of_stage, schedule->stages));
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int chunk = 0; chunk < chunks; chunk++)
      schedule->rank_of_stage[stage_at(generator->row->placement, schedule->ranks, chunks, rank, chunk)] = rank;
  return OK;
}

static Status generate(Arena *arena, Arena *scratch, const Row *row, int chunks, const Crossings *crossings,
                       Schedule *schedule) {
  Generator generator = {.row = row, .chunks = row->placement == PLACE_LINE ? 1 : chunks, .schedule = schedule};
  schedule->stages = schedule->ranks * generator.chunks;
  size_t cells = walk_index(schedule, ACTION_W + 1, 0, 0);
  TRY(ARENA_NEW(scratch, generator.when, cells));
  TRY(ARENA_NEW(scratch, generator.ends, cells));
  TRY(ARENA_NEW(scratch, generator.next, (ACTION_W + 1) * schedule->stages));
  TRY(ARENA_NEW(scratch, generator.workers, schedule->ranks));
  TRY(ARENA_NEW(arena, schedule->lists, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    TRY(ARENA_NEW(scratch, generator.workers[rank].list.actions, 3 * generator.chunks * schedule->microbatches));
    if (row->placement == PLACE_V)
      plan_block(&generator, rank);
    else
      plan_turns(&generator, rank);
  }
  pass_time(&generator);
  return settle(arena, &generator, chunks, crossings);
}

static Status find_row(const char *name, const Row **row) {
  for (int i = 0; i < N_ROWS; i++)
    if (strcmp(rows[i].name, name) == 0) {
      *row = &rows[i];
      return OK;
    }
  return fail(E_USAGE, "there is no schedule '%s'", name);
}

Status schedule_usual_chunks(const char *name, int *chunks) {
  const Row *row = NULL;
  TRY(find_row(name, &row));
  *chunks = row->usual_chunks;
  return OK;
}

Status schedule_placement(const char *name, Placement *placement) {
  const Row *row = NULL;
  TRY(find_row(name, &row));
  *placement = row->placement;
  return OK;
}

static Status check_shape(const Row *row, int ranks, int chunks, int microbatches) {
  if (ranks < 1 || chunks < 1 || microbatches < 1 || microbatches > SCHEDULE_LIMIT ||
      (int64_t)ranks * chunks > SCHEDULE_LIMIT || (int64_t)ranks * chunks * microbatches > INT_MAX / 32)
    return fail(E_USAGE, "schedule %s: %d ranks, %d stages a rank, %d microbatches: too few or too many", row->name,
                ranks, chunks, microbatches);
  if (chunks < row->min_chunks || chunks > row->max_chunks)
    return fail(E_USAGE, "schedule %s has %d stages a rank, not %d", row->name, row->usual_chunks, chunks);
  return OK;
}

Status schedule_computes(Arena *arena, const char *name, int ranks, int chunks, int microbatches,
                         const Crossings *crossings, Schedule *schedule) {
  const Row *row = NULL;
  TRY(find_row(name, &row));
  TRY(check_shape(row, ranks, chunks, microbatches));
  *schedule = (Schedule){.name = row->name,
                         .ranks = ranks,
                         .microbatches = microbatches,
                         .joined = row->joined,
                         .forward_only = row->forward_only,
                         .send_depth = 2,
                         .receive_ahead = 1};
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = generate(arena, scratch, row, chunks, crossings, schedule);
  arena_destroy(scratch);
  return status;
}

Status schedule_generate(Arena *arena, const char *name, int ranks, int chunks, int microbatches,
                         const Crossings *crossings, Schedule *schedule) {
  Schedule computes;
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = schedule_computes(scratch, name, ranks, chunks, microbatches, crossings, &computes);
  if (status == OK)
    status = schedule_add_transfers(arena, &computes, crossings, schedule);
  if (status == OK) {
    schedule->rank_of_stage =
        arena_copy(arena, computes.rank_of_stage, (size_t)computes.stages * sizeof *computes.rank_of_stage);
    status = schedule->rank_of_stage ? OK : status_code();
  }
  arena_destroy(scratch);
  return status;
}
