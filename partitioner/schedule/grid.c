/* Owns the picture of a schedule: ranks × steps, F, B and W one step each, BW two. Invariant: any lists can be drawn,
 * also those that the proof refuses: an action that waits for something that never comes is drawn where its rank
 * stands. */
#include "partitioner/schedule/internal.h"

#include <limits.h>
#include <string.h>

enum { ABSENT = -2, WAITING = -1 };

typedef struct {
  const Schedule *schedule;
  int **begin;   /* [ranks][n_actions]: step in which a compute action begins */
  int *position; /* [ranks]: drawn so far */
  int *free;     /* [ranks]: the step after */
  int *end[2];   /* [stages * microbatches]: the step after F, and after B or BW; or ABSENT, WAITING */
  size_t cells;  /* of each; 0: the numbers of stages and microbatches make no sense */
} Grid;

/* Where the end of F, or of B, of a stage is noted; NULL: nowhere. */
static int *end_of(const Grid *grid, bool forward, int stage, int microbatch) {
  if (stage < 0 || stage >= grid->schedule->stages || microbatch >= grid->schedule->microbatches || grid->cells == 0)
    return NULL;
  return &grid->end[!forward][(size_t)stage * (size_t)grid->schedule->microbatches + (size_t)microbatch];
}

static int *own_end(const Grid *grid, Action action) {
  return action.kind == ACTION_W ? NULL : end_of(grid, action.kind == ACTION_F, action.stage, action.microbatch);
}

/* F, B and W take one step; BW, and W of a stage whose lists have no B, two. */
static int steps(const Grid *grid, Action action) {
  const int *b = action.kind == ACTION_W ? end_of(grid, false, action.stage, action.microbatch) : NULL;
  return action.kind == ACTION_BW || (b && *b == ABSENT) ? 2 : 1;
}

/* The step in which the action's inputs are there; WAITING: not known yet. */
static int inputs_at(const Grid *grid, Action action) {
  int *inputs[2] = {NULL, NULL}, at = 0;
  if (action.kind == ACTION_F) {
    inputs[0] = end_of(grid, true, action.stage - 1, action.microbatch);
  } else {
    inputs[0] = end_of(grid, true, action.stage, action.microbatch);
    inputs[1] = end_of(grid, false, action.kind == ACTION_W ? action.stage : action.stage + 1, action.microbatch);
    if (action.kind == ACTION_W && (!inputs[1] || *inputs[1] == ABSENT)) /* W alone */
      inputs[1] = end_of(grid, false, action.stage + 1, action.microbatch);
  }
  for (int i = 0; i < 2; i++) {
    if (inputs[i] && *inputs[i] == WAITING)
      return WAITING;
    if (inputs[i] && *inputs[i] > at)
      at = *inputs[i];
  }
  return at;
}

static void draw_at(Grid *grid, int rank, int step) {
  int i = grid->position[rank]++;
  Action action = grid->schedule->lists[rank].actions[i];
  grid->begin[rank][i] = step;
  grid->free[rank] = step + steps(grid, action);
  int *end = own_end(grid, action);
  if (end)
    *end = grid->free[rank];
}

/* As far as the rank's inputs are known; whether it moved. */
static bool draw_rank(Grid *grid, int rank) {
  const ActionList *list = &grid->schedule->lists[rank];
  int before = grid->position[rank];
  while (grid->position[rank] < list->n_actions) {
    Action action = list->actions[grid->position[rank]];
    if (!action_is_compute(action)) {
      grid->begin[rank][grid->position[rank]++] = grid->free[rank];
      continue;
    }
    int at = inputs_at(grid, action);
    if (at == WAITING)
      break;
    draw_at(grid, rank, at > grid->free[rank] ? at : grid->free[rank]);
  }
  return grid->position[rank] > before;
}

/* Draws on past an action that waits for ever: the earliest; false: all is drawn. */
static bool draw_stuck(Grid *grid) {
  int earliest = -1;
  for (int rank = 0; rank < grid->schedule->ranks; rank++)
    if (grid->position[rank] < grid->schedule->lists[rank].n_actions &&
        (earliest < 0 || grid->free[rank] < grid->free[earliest]))
      earliest = rank;
  if (earliest >= 0)
    draw_at(grid, earliest, grid->free[earliest]);
  return earliest >= 0;
}

static Status draw(Arena *arena, Grid *grid) {
  const Schedule *schedule = grid->schedule;
  size_t computes = 0;
  TRY(ARENA_NEW(arena, grid->begin, schedule->ranks));
  TRY(ARENA_NEW(arena, grid->position, schedule->ranks));
  TRY(ARENA_NEW(arena, grid->free, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    TRY(ARENA_NEW(arena, grid->begin[rank], schedule->lists[rank].n_actions));
    computes += (size_t)schedule->lists[rank].n_actions;
  }
  size_t cells = (size_t)schedule->stages * (size_t)schedule->microbatches;
  grid->cells = cells <= 4 * computes ? cells : 0;
  for (int k = 0; k < 2; k++) {
    TRY(ARENA_NEW(arena, grid->end[k], grid->cells));
    for (size_t i = 0; i < grid->cells; i++)
      grid->end[k][i] = ABSENT;
  }
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action action = schedule->lists[rank].actions[i];
      int *end = action_is_compute(action) ? own_end(grid, action) : NULL;
      if (end)
        *end = WAITING;
    }
  do
    for (bool moved = true; moved;) {
      moved = false;
      for (int rank = 0; rank < schedule->ranks; rank++)
        moved |= draw_rank(grid, rank);
    }
  while (draw_stuck(grid));
  return OK;
}

/* ---- printing ---- */

static int print_cell(FILE *file, const char *text, bool marked, int width) {
  return fprintf(file, "%c%s%-*s", marked ? '>' : ' ', text, width - 1 - (int)strlen(text), marked ? "<" : "");
}

/* One rank's actions in the steps [from, to). */
static void print_row(const Grid *grid, FILE *file, int rank, int from, int to, int width, int marked) {
  const ActionList *list = &grid->schedule->lists[rank];
  char text[32];
  int step = from;
  for (int i = 0; i < list->n_actions && step < to; i++) {
    Action action = list->actions[i];
    int begin = grid->begin[rank][i];
    if (!action_is_compute(action) || begin + steps(grid, action) <= step)
      continue;
    for (; step < begin && step < to; step++)
      fprintf(file, "%*s", width, "");
    for (; step < begin + steps(grid, action) && step < to; step++)
      print_cell(file, step == begin ? action_text(action, text) : "-", step == begin && i == marked, width);
  }
  fputc('\n', file);
}

/* The list around a position, transfers included. */
static void print_neighbours(const Schedule *schedule, FILE *file, const SchedulePlace *where, int columns) {
  const ActionList *list = &schedule->lists[where->rank];
  char text[32];
  int reach = columns / 24 > 1 ? columns / 24 : 1; /* an action and its blank are some ten letters */
  int from = where->position > reach ? where->position - reach : 0;
  int to = where->position + reach + 1 < list->n_actions ? where->position + reach + 1 : list->n_actions;
  fprintf(file, "rank %d, from action %d:", where->rank, from);
  for (int i = from; i < to; i++)
    fprintf(file, i == where->position ? " >%s<" : " %s", action_text(list->actions[i], text));
  fputs(where->position >= list->n_actions ? " ><\n" : to < list->n_actions ? " ...\n" : "\n", file);
}

static int cell_width(const Schedule *schedule) {
  int longest = 0;
  char text[32];
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action action = schedule->lists[rank].actions[i];
      int length = action_is_compute(action) ? (int)strlen(action_text(action, text)) : 0;
      longest = length > longest ? length : longest;
    }
  return longest + 2;
}

static void print(const Grid *grid, FILE *file, int columns, const SchedulePlace *where) {
  const Schedule *schedule = grid->schedule;
  int width = cell_width(schedule), label = snprintf(NULL, 0, "rank %d |", schedule->ranks - 1);
  int shown = (columns - label) / width > 1 ? (columns - label) / width : 1, end = 0, from = 0;
  int marked = -1; /* the compute action at the place or after it */
  for (int rank = 0; rank < schedule->ranks; rank++)
    end = grid->free[rank] > end ? grid->free[rank] : end;
  if (where) {
    const ActionList *list = &schedule->lists[where->rank];
    for (marked = where->position; marked < list->n_actions && !action_is_compute(list->actions[marked]);)
      marked++;
    from = (marked < list->n_actions ? grid->begin[where->rank][marked] : grid->free[where->rank]) - shown / 2;
  }
  from = from + shown > end ? end - shown : from;
  from = from > 0 ? from : 0;
  int to = from + shown < end ? from + shown : end;
  fprintf(file, "%-*s", label, "step");
  for (int step = from; step < to; step++)
    fprintf(file, " %-*d", width - 1, step);
  fputc('\n', file);
  for (int rank = 0; rank < schedule->ranks; rank++) {
    fprintf(file, "rank %*d |", label - 7, rank);
    print_row(grid, file, rank, from, to, width, where && where->rank == rank ? marked : -1);
  }
  if (where)
    print_neighbours(schedule, file, where, columns);
}

Status schedule_print_grid(const Schedule *schedule, FILE *file, int columns, const SchedulePlace *where) {
  Grid grid = {.schedule = schedule};
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Status status = draw(arena, &grid);
  if (status == OK)
    print(&grid, file, columns, where && where->rank >= 0 ? where : NULL);
  arena_destroy(arena);
  return status == OK && ferror(file) ? fail(E_IO, "a schedule cannot be written") : status;
}
