/* Pipeline schedules as plain data: one list of actions a rank. The generator writes it, the checker proves it, the
 * simulator times it, the executor walks it.
 *
 * Text form, one line a rank: `2F0` stage 2 forward of microbatch 0; `B` backward towards the input, `W` weight
 * gradients, `BW` both as one action; `2SEND_F0` sends stage 2's forward result of microbatch 0 to stage 3;
 * `3RECV_F0` posts stage 3's receive of it; `3SEND_B0` sends stage 3's backward result to stage 2; `2RECV_B0` posts
 * stage 2's receive; `[a b]` posts together. A RECV only posts: the compute action that needs it waits. A SEND only
 * posts: the reuse of its buffer waits. */
#ifndef PARTITIONER_SCHEDULE_H
#define PARTITIONER_SCHEDULE_H

#include "base/arena.h"
#include "base/status.h"

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

typedef struct {
  const char *name;
  int ranks, stages, microbatches;
  int *rank_of_stage; /* [stages] */
  ActionList *lists;  /* [ranks] */
  bool joined;        /* every backward is one BW */
  int send_depth;     /* F (B, BW) of m waits until SEND_F (SEND_B) of m - send_depth is done; at least 1 */
  int receive_ahead;  /* a RECV stands at most this many compute actions before its use */
} Schedule;

typedef enum { PLACE_LINE, PLACE_LOOP, PLACE_V } Placement;

/* The names that schedule_generate knows, for --help; NULL at the end. */
extern const char *const schedule_names[];

/* Which stages hold something that crosses: a transfer exists only where a cut has tensors in that direction, and
 * a stage's B exists only where a gradient leaves it (else its backward is W alone). NULL arrays: all true. */
typedef struct {
  const bool *forward_crosses;  /* [stages - 1] */
  const bool *backward_crosses; /* [stages - 1] */
} Crossings;

/* Makes the schedule of this name. Two stages on one rank exchange nothing. E_USAGE for an unknown name or a number
 * of stages a rank that the schedule does not have. */
Status schedule_generate(Arena *arena, const char *name, int ranks, int chunks, int microbatches,
                         const Crossings *crossings, Schedule *schedule);

/* Proves a schedule: every action once; F, B and W of a stage in increasing microbatch order; dependencies met;
 * sends and receives pair per pair of ranks and direction, in order; rendezvous without buffering never blocks for
 * ever; receives at most receive_ahead ahead. E_USAGE with rank, position, action and reason. */
Status schedule_check(const Schedule *schedule, const Crossings *crossings);

/* Text form, one line a rank; and back. */
Status schedule_write(const Schedule *schedule, FILE *file);
Status schedule_read(Arena *arena, const char *text, Schedule *schedule);

/* "2F0", "3SEND_B1" into text of at least 32 bytes; returns text. */
char *action_text(Action action, char *text);

#endif
