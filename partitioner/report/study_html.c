/* A study as a page. Invariant: the numbers are those of study_print. */
#include "partitioner/report/chart.h"
#include "partitioner/report/study.h"

static const char *milliseconds(Arena *arena, double seconds) {
  return arena_format(arena, "%.6g ms", seconds * 1e3);
}

static const char *percent(Arena *arena, double fraction) {
  return arena_format(arena, "%.2f %%", 100 * fraction);
}

static double most(const double *values, int n) {
  double largest = values[0];
  for (int i = 1; i < n; i++)
    largest = values[i] > largest ? values[i] : largest;
  return largest;
}

/* One row a rank. */
static Status list_ranks(Arena *arena, const StudyResult *result, Chart *chart) {
  static const char *const heads[] = {"rank", "work", "span", "idle", "peak memory", "limit"};
  enum { COLUMNS = sizeof heads / sizeof *heads };
  const Simulation *s = &result->simulation;
  const char **cells;
  chart->rows = result->schedule.ranks;
  TRY(ARENA_NEW(arena, cells, (size_t)COLUMNS * (size_t)(chart->rows + 1)));
  chart->table = cells;
  chart->columns = COLUMNS;
  chart->table_title = "Ranks";
  for (int column = 0; column < COLUMNS; column++)
    *cells++ = heads[column];
  for (int rank = 0; rank < chart->rows; rank++) {
    double span = s->span_seconds[rank];
    *cells++ = arena_format(arena, "%d", rank);
    *cells++ = milliseconds(arena, s->work_seconds[rank]);
    *cells++ = milliseconds(arena, span);
    *cells++ = percent(arena, span > 0 ? 1 - s->work_seconds[rank] / span : 0);
    *cells++ = arena_format(arena, "%.4g", s->peak_memory[rank]);
    *cells++ =
        chart->memory_limit ? arena_format(arena, "%.4g", chart->memory_limit[rank]) : arena_string(arena, "none");
  }
  for (int i = 0; i < COLUMNS * (chart->rows + 1); i++)
    if (!chart->table[i])
      return status_code();
  return OK;
}

static Status write(Arena *arena, const StudyResult *result, FILE *file) {
  const Schedule *schedule = &result->schedule;
  const Simulation *s = &result->simulation;
  bool span = result->objective == OBJECTIVE_SPAN;
  const ChartNumber numbers[] = {
      {"makespan", milliseconds(arena, s->makespan_seconds)},
      {"longest span of a rank", milliseconds(arena, s->longest_span_seconds)},
      {"bubble", percent(arena, s->bubble)},
      {span ? "lower bound of the longest span" : "lower bound of the makespan",
       milliseconds(arena, result->lower_bound_seconds)},
      {"gap to the bound", percent(arena, result->gap)},
      {"peak memory, microbatches", arena_format(arena, "%.4g", most(s->peak_memory, schedule->ranks))},
  };
  Chart chart = {.title = arena_format(arena, "Schedule %s", schedule->name),
                 .subtitle = arena_format(arena, "%d ranks, %d stages, %d microbatches.", schedule->ranks,
                                          schedule->stages, schedule->microbatches),
                 .numbers = numbers,
                 .n_numbers = sizeof numbers / sizeof *numbers,
                 .schedule = schedule,
                 .timing = &result->timing,
                 .simulation = s,
                 .memory_limit = result->timing.memory_limit};
  if (!chart.title || !chart.subtitle)
    return status_code();
  for (int i = 0; i < chart.n_numbers; i++)
    if (!numbers[i].value)
      return status_code();
  TRY(list_ranks(arena, result, &chart));
  return chart_html(&chart, file);
}

Status study_report_html(const StudyResult *result, FILE *file) {
  Arena *arena = arena_create();
  Status status = arena ? write(arena, result, file) : status_code();
  arena_destroy(arena);
  return status;
}
