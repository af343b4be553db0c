/* Pipeline schedules as plain data: one list of actions a rank. The generator writes it, the checker proves it, the
 * simulator times it, the executor walks it.
 *
 * Text form, one line a rank: `2F0` stage 2 forward of microbatch 0; `B` backward towards the input, `W` weight
 * gradients, `BW` both as one action; `2SEND_F0` sends stage 2's forward result of microbatch 0 to stage 3;
 * `3RECV_F0` posts stage 3's receive of it; `3SEND_B0` sends stage 3's backward result to stage 2; `2RECV_B0` posts
 * stage 2's receive; `[a b]` posts together; `-` is a rank without actions. Blank lines and those that begin with `#`
 * say nothing; a line `schedule 1f1b send_depth 2 receive_ahead 1` may stand before the first rank.
 *
 * A RECV only posts: the compute action that needs it waits. A SEND only posts: F of (stage, m) waits until SEND_F of
 * (stage, m - send_depth) was taken, B or BW until SEND_B of (stage, m - send_depth) was; the end of a list waits for
 * all of its SENDs. What is posted together need not be taken together.
 *
 * Which actions there are. Every stage has F of every microbatch. Where B and W are joined, every stage has BW of every
 * microbatch, whatever nodes it holds (the first stage's computes no input gradient). Where they are split, every stage
 * has W, and B where a gradient leaves it (schedule_has_b): so never the first. A forward-only schedule has no
 * backward actions. The first backward action of a (stage, microbatch) is the one that needs RECV_B. */
#ifndef PARTITIONER_SCHEDULE_SCHEDULE_H
#define PARTITIONER_SCHEDULE_SCHEDULE_H

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum {
  ACTION_F,
  ACTION_B,
  ACTION_W,
  ACTION_BW,
  ACTION_SEND_F,
  ACTION_RECV_F,
  ACTION_SEND_B,
  ACTION_RECV_B,
  ACTION_KINDS
} ActionKind;

typedef struct {
  uint8_t kind;
  uint8_t group;  /* not 0: posts together with its neighbours of the same number */
  uint16_t stage; /* whose F, B, W, or whose buffer is sent or received */
  uint16_t microbatch;
  uint16_t peer; /* rank, of a transfer */
} Action;

typedef struct {
  Action *actions;
  int n_actions;
} ActionList;

enum { SCHEDULE_LIMIT = 65536 }; /* most ranks, stages, microbatches */

typedef struct {
  const char *name;
  int ranks, stages, microbatches;
  int *rank_of_stage; /* [stages] */
  ActionList *lists;  /* [ranks] */
  bool joined;        /* every backward is one BW */
  bool forward_only;  /* inference: no backward at all */
  int send_depth;     /* how many SENDs of one stage and direction may be waiting for their peer; 1 or more */
  int receive_ahead;  /* a RECV stands at most this many compute actions before its use */
} Schedule;

typedef enum { PLACE_LINE, PLACE_LOOP, PLACE_V } Placement;

/* The names of training schedules that schedule_generate knows, for --help; NULL at the end. It knows `forward` too. */
extern const char *const schedule_names[];

/* Which stages hold something that crosses: a transfer exists only where a cut has tensors in that direction, and
 * a stage's B exists only where a gradient leaves it (else its backward is W alone). NULL: all true. */
typedef struct {
  const bool *forward_crosses;  /* [stages - 1] */
  const bool *backward_crosses; /* [stages - 1] */
} Crossings;

static inline bool schedule_crosses_f(const Crossings *crossings, int cut) {
  return !crossings || !crossings->forward_crosses || crossings->forward_crosses[cut];
}
static inline bool schedule_crosses_b(const Crossings *crossings, int cut) {
  return !crossings || !crossings->backward_crosses || crossings->backward_crosses[cut];
}
/* Whether a gradient leaves the stage towards the one before it. */
static inline bool schedule_has_b(const Crossings *crossings, int stage) {
  return stage > 0 && schedule_crosses_b(crossings, stage - 1);
}
static inline bool action_is_compute(Action action) {
  return action.kind <= ACTION_BW;
}

/* Makes the schedule of this name, transfers included. LINE puts the stages rank * chunks … on a rank, LOOP rank,
 * rank + ranks, …, V rank and 2 * ranks - 1 - rank. Two stages on one rank exchange nothing. E_USAGE for an unknown
 * name or a number of stages a rank that the schedule does not have. */
Status schedule_generate(Arena *arena, const char *name, int ranks, int chunks, int microbatches,
                         const Crossings *crossings, Schedule *schedule);

/* The same, its compute actions alone. */
Status schedule_computes(Arena *arena, const char *name, int ranks, int chunks, int microbatches,
                         const Crossings *crossings, Schedule *schedule);
/* Where it puts the stages. */
Status schedule_placement(const char *name, Placement *placement);

/* How many stages a rank this schedule has where nobody says otherwise: 2 for interleaved and V schedules, else 1. */
Status schedule_usual_chunks(const char *name, int *chunks);

/* The same order of compute actions with SENDs and RECVs put in: a RECV receive_ahead compute actions before its use,
 * a SEND right after the action whose result it sends, or later where its receiver needs other results of this rank
 * first; what stands between two compute actions posts together. out->send_depth is the schedule's, or as much more as
 * it takes that no action waits for its buffer where F, B and W take equally long. Transfers that the schedule has
 * already are replaced. E_USAGE where the compute actions themselves wait for one another for ever or a stage's action
 * is missing. `out` may be `schedule`. */
Status schedule_add_transfers(Arena *arena, const Schedule *schedule, const Crossings *crossings, Schedule *out);

/* A deep copy. */
Status schedule_copy(Arena *arena, const Schedule *schedule, Schedule *copy);

/* Where a proof failed. */
typedef struct {
  int rank, position; /* -1, -1: nowhere in particular; position n_actions: something is missing from the list */
} SchedulePlace;

/* What may be in memory. A stage's activation is kept from the start of F; when B ends, the fraction
 * backward_input_frees of it is freed, the rest when W (or BW; or F where there is no backward) ends. */
typedef struct {
  const double *activation; /* [stages], of one microbatch, any unit */
  double backward_input_frees;
  const double *limit; /* [ranks], the same unit */
} ScheduleLimits;

/* Proves a schedule: every action once; F, B and W of a stage in increasing microbatch order; dependencies met;
 * sends and receives pair per pair of ranks and direction, in order; rendezvous without buffering never blocks for
 * ever; receives at most receive_ahead ahead; memory within limits (NULL: none). E_USAGE (E_LIMIT for limits) with
 * rank, position, action and reason; *where (may be NULL) is the place. */
Status schedule_prove(const Schedule *schedule, const Crossings *crossings, const ScheduleLimits *limits,
                      SchedulePlace *where);
/* schedule_prove without limits. */
Status schedule_check(const Schedule *schedule, const Crossings *crossings);

/* Puts transfers into a schedule that has compute actions alone, as schedule_add_transfers does; leaves others as they
 * are. Refuses what schedule_prove would refuse with the place among the actions as they were written. */
Status schedule_complete(Arena *arena, const Crossings *crossings, Schedule *schedule, SchedulePlace *where);

/* The most that each rank keeps at a time by the rule of ScheduleLimits (its limit is not used) into peak [ranks]. */
void schedule_peaks(const Schedule *schedule, const Crossings *crossings, const ScheduleLimits *limits, double *peak);

/* Text form, one line a rank; and back. Reading takes any text: E_USAGE with line and column. What it returns has
 * each stage on one rank and as many F as stages × microbatches; only schedule_prove says whether it can run.
 * send_depth is 2 where the text has none, receive_ahead what the lists do. */
void schedule_write(const Schedule *schedule, Text *text);
Status schedule_read(Arena *arena, const char *text, Schedule *schedule);

/* Draws ranks × steps: F, B and W take one, BW and W of a stage without B two, transfers none; at most `columns` wide,
 * around `where` with that action marked and the list beside it, transfers included (NULL: from the beginning). Draws
 * lists that the proof refuses too. */
Status schedule_print_grid(const Schedule *schedule, FILE *file, int columns, const SchedulePlace *where);

/* "2F0", "3SEND_B1" into text of at least 32 bytes; returns text. */
char *action_text(Action action, char *text);

#endif
