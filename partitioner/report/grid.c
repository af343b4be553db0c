/* The rank × time grid. Invariant: no line is wider than asked, whatever the schedule. */
#include "partitioner/report/grid.h"

#include <string.h>

/* What a rank does most of one slot. */
typedef struct {
  double most, busy; /* of the slot, as a fraction */
  Action action;
} Slot;

static const char *const colour_of[] = {
    [ACTION_F] = "\033[34m", [ACTION_B] = "\033[32m", [ACTION_W] = "\033[33m", [ACTION_BW] = "\033[32m"};

static char letter(Action action) {
  switch (action.kind) {
  case ACTION_F:
    return (char)('0' + action.microbatch % 10);
  case ACTION_W:
    return (char)('A' + action.microbatch % 26);
  default:
    return (char)('a' + action.microbatch % 26);
  }
}

/* Spreads one rank's actions over the slots; `scale` is slots a second. */
static void fill(const ActionList *list, const double *begin, const double *end, double scale, Slot *slots, int n) {
  memset(slots, 0, (size_t)n * sizeof *slots);
  for (int i = 0; i < list->n_actions; i++) {
    if (!action_is_compute(list->actions[i]))
      continue;
    double from = begin[i] * scale, to = end[i] * scale;
    if (!(from < n)) /* behind the window, be it by more than an int holds */
      continue;
    for (int k = (int)from; k < n && k < to; k++) {
      double share = (to < k + 1 ? to : k + 1) - (from > k ? from : k);
      slots[k].busy += share;
      if (share > slots[k].most) {
        slots[k].most = share;
        slots[k].action = list->actions[i];
      }
    }
  }
}

static void print_row(const Slot *slots, int n, FILE *file, bool colours) {
  const char *colour = NULL;
  for (int k = 0; k < n; k++) {
    bool busy = slots[k].busy >= 0.5;
    const char *wanted = colours && busy ? colour_of[slots[k].action.kind] : NULL;
    if (wanted != colour)
      fputs(wanted ? wanted : "\033[0m", file);
    colour = wanted;
    fputc(busy ? letter(slots[k].action) : '.', file);
  }
  fputs(colour ? "\033[0m\n" : "\n", file);
}

/* Seconds of the whole schedule, and of its compute actions on average. */
static double measure(const Schedule *schedule, const Simulation *simulation, double *mean) {
  double last = 0, busy = 0, actions = 0;
  for (int r = 0; r < schedule->ranks; r++)
    for (int i = 0; i < schedule->lists[r].n_actions; i++) {
      last = simulation->end[r][i] > last ? simulation->end[r][i] : last;
      busy += simulation->end[r][i] - simulation->begin[r][i];
      actions += action_is_compute(schedule->lists[r].actions[i]);
    }
  *mean = actions > 0 ? busy / actions : 0;
  return last;
}

Status grid_print(const Schedule *schedule, const Simulation *simulation, FILE *file, int columns, bool colours) {
  int digits = snprintf(NULL, 0, "%d", schedule->ranks - 1), label = (int)strlen("rank ") + digits + 1;
  int n = columns - label;
  double mean, last = measure(schedule, simulation, &mean);
  if (n < 1 || last <= 0)
    return OK;                                       /* no room, or nothing that takes time */
  double shown = last <= n * mean ? last : n * mean; /* an action has a slot of its own */
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Slot *slots = arena_alloc(arena, (size_t)n, sizeof *slots);
  for (int r = 0; slots && r < schedule->ranks; r++) {
    fill(&schedule->lists[r], simulation->begin[r], simulation->end[r], n / shown, slots, n);
    fprintf(file, "rank %*d ", digits, r);
    print_row(slots, n, file, colours);
  }
  char text[64];
  snprintf(text, sizeof text, "(the first %.3g of %.3g ms)", shown * 1e3, last * 1e3);
  if (shown < last)
    fprintf(file, "%*s%.*s\n", label, "", n, text);
  Status status = slots ? OK : status_code();
  arena_destroy(arena);
  return status != OK ? status : ferror(file) ? fail(E_IO, "the grid cannot be written") : OK;
}
