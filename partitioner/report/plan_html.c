/* A plan as a page. Invariant: the numbers are those of plan_print. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "partitioner/report/chart.h"
#include "partitioner/report/plan_graph.h"
#include "partitioner/report/plan_report.h"

static const char *bytes_text(Arena *arena, size_t bytes) {
  char text[24];
  return arena_string(arena, plan_bytes_text(bytes, text));
}

static const char *seconds_text(Arena *arena, double seconds) {
  if (seconds >= 100)
    return arena_format(arena, "%.0f s", seconds);
  return seconds >= 1 ? arena_format(arena, "%.3g s", seconds) : arena_format(arena, "%.3g ms", 1e3 * seconds);
}

/* One row a stage. */
static Status list_stages(Arena *arena, const Plan *plan, Chart *chart) {
  static const char *const heads[] = {"stage", "rank", "F", "B", "W", "nodes", "weights", "up", "down", "first … last"};
  enum { COLUMNS = sizeof heads / sizeof *heads };
  const char **cells;
  TRY(ARENA_NEW(arena, cells, (size_t)COLUMNS * (size_t)(plan->stages + 1)));
  chart->table_title = "Stages";
  chart->table = cells;
  chart->columns = COLUMNS;
  chart->rows = plan->stages;
  for (int column = 0; column < COLUMNS; column++)
    *cells++ = heads[column];
  for (int s = 0; s < plan->stages; s++) {
    const StageReport *r = &plan->reports[s];
    *cells++ = arena_format(arena, "%d", s);
    *cells++ = arena_format(arena, "%d", plan->schedule.rank_of_stage[s]);
    *cells++ = seconds_text(arena, r->forward_seconds);
    *cells++ = seconds_text(arena, r->backward_input_seconds);
    *cells++ = seconds_text(arena, r->backward_weight_seconds);
    *cells++ = arena_format(arena, "%d", r->n_nodes);
    *cells++ = bytes_text(arena, r->parameter_bytes);
    *cells++ = bytes_text(arena, r->cut_forward_bytes);
    *cells++ = bytes_text(arena, s > 0 ? plan->reports[s - 1].cut_backward_bytes : 0);
    *cells++ = arena_format(arena, "%s … %s", r->first_node, r->last_node);
  }
  for (int i = 0; i < COLUMNS * (chart->rows + 1); i++)
    if (!chart->table[i])
      return status_code();
  return OK;
}

/* What a rank holds all the time, for the curve of memory; and limits, where they are near enough to be seen. */
static Status fill_memory(Arena *arena, const Plan *plan, size_t largest, Chart *chart) {
  double *base, *limit, *room;
  bool near = false;
  TRY(ARENA_NEW(arena, base, plan->ranks));
  TRY(ARENA_NEW(arena, limit, plan->ranks));
  TRY(ARENA_NEW(arena, room, plan->ranks));
  for (int r = 0; r < plan->ranks; r++) {
    base[r] = (double)(plan->rank_memory[r].persistent_bytes + plan->rank_memory[r].scratch_bytes);
    room[r] = (double)plan->rank_memory[r].total_bytes;
    near |= plan->memory_limits[r] / 4 < largest;
    limit[r] = plan->memory_limits[r] / 4 < largest ? (double)plan->memory_limits[r] : INFINITY;
  }
  chart->memory_base = base;
  chart->memory_room = room;
  chart->memory_limit = near ? limit : NULL;
  chart->memory_bytes = true;
  return OK;
}

static int by_time(const void *a, const void *b) {
  const HeldStep *x = a, *y = b;
  if (x->seconds != y->seconds)
    return x->seconds < y->seconds ? -1 : 1;
  return x->change != y->change ? (x->change < y->change ? -1 : 1) : 0; /* what goes makes room first */
}

/* What each rank's actions take and leave, of the blocks of its stages. */
static Status list_held(Arena *arena, const Plan *plan, const Simulation *simulation, Chart *chart) {
  const HeldStep **held;
  int *n;
  TRY(ARENA_NEW(arena, held, plan->ranks));
  TRY(ARENA_NEW(arena, n, plan->ranks));
  for (int r = 0; r < plan->ranks; r++) {
    const ActionList *list = &plan->schedule.lists[r];
    HeldStep *steps;
    TRY(ARENA_NEW(arena, steps, 2 * (size_t)list->n_actions));
    for (int i = 0; i < list->n_actions; i++) {
      size_t born, died;
      plan_action_bytes(plan, list->actions[i], &born, &died);
      if (born)
        steps[n[r]++] = (HeldStep){simulation->begin[r][i], (double)born};
      if (died)
        steps[n[r]++] = (HeldStep){simulation->end[r][i], -(double)died};
    }
    qsort(steps, (size_t)n[r], sizeof *steps, by_time);
    held[r] = steps;
  }
  chart->held = held;
  chart->n_held = n;
  return OK;
}

/* The proved bound, where one is known. */
static int add_bound(Arena *arena, const Plan *plan, ChartNumber *numbers) {
  double reached = plan->step_seconds - plan->update_seconds, bound = plan->lower_bound_seconds;
  if (bound <= 0 || plan->ranks == 1)
    return 0;
  numbers[0] = (ChartNumber){plan->capacity > 0 ? "proved: no schedule takes less, were there a core for each rank"
                                                : "proved: no schedule takes less",
                             seconds_text(arena, bound)};
  if (plan->capacity > 0)
    return 1;
  numbers[1] = (ChartNumber){"the gap to that", arena_format(arena, "%.1f %%", 100 * fmax(0, reached / bound - 1))};
  return 2;
}

static Status add_pictures(Arena *arena, const Plan *plan, Chart *chart) {
  Text text = {0};
  Status status = plan_graph_add(arena, plan, &text);
  if (status == OK)
    status = plan_cuts_add(plan, &text);
  const char *whole = text_whole(&text);
  if (status == OK && !(whole && (chart->pictures = arena_string(arena, whole))))
    status = status_code();
  text_free(&text);
  return status;
}

static Status write(Arena *arena, const Plan *plan, FILE *file) {
  Timing timing;
  Simulation simulation;
  TRY(plan_timing(arena, plan, &timing));
  TRY(simulate_schedule(arena, &plan->schedule, &timing, &simulation));
  size_t largest = 0;
  for (int r = 0; r < plan->ranks; r++)
    if (plan->rank_memory[r].total_bytes > largest)
      largest = plan->rank_memory[r].total_bytes;
  enum { FIRST = 4 };
  ChartNumber numbers[FIRST + 2] = {
      {"step, predicted", seconds_text(arena, plan->step_seconds)},
      {"of it the update", seconds_text(arena, plan->update_seconds)},
      {"bubble", arena_format(arena, "%.1f %%", 100 * plan->bubble)},
      {"largest rank's memory", bytes_text(arena, largest)},
  };
  Chart chart = {.title = arena_format(arena, "%s: a plan for %d rank%s", plan->graph->name, plan->ranks,
                                       plan->ranks == 1 ? "" : "s"),
                 .subtitle = arena_format(arena, "%d stage%s, %d microbatch%s of %lld sample%s, schedule %s.",
                                          plan->stages, plan->stages == 1 ? "" : "s", plan->microbatches,
                                          plan->microbatches == 1 ? "" : "es", (long long)plan->microbatch_size,
                                          plan->microbatch_size == 1 ? "" : "s", plan->schedule.name),
                 .numbers = numbers,
                 .n_numbers = FIRST + add_bound(arena, plan, numbers + FIRST),
                 .schedule = &plan->schedule,
                 .timing = &timing,
                 .simulation = &simulation};
  if (!chart.title || !chart.subtitle)
    return status_code();
  for (int i = 0; i < chart.n_numbers; i++)
    if (!numbers[i].value)
      return status_code();
  TRY(list_stages(arena, plan, &chart));
  TRY(fill_memory(arena, plan, largest, &chart));
  TRY(list_held(arena, plan, &simulation, &chart));
  TRY(add_pictures(arena, plan, &chart));
  return chart_html(&chart, file);
}

Status plan_report_html(const Plan *plan, FILE *file) {
  Arena *arena = arena_create();
  Status status = arena ? write(arena, plan, file) : status_code();
  arena_destroy(arena);
  return status;
}
