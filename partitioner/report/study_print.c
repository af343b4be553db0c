/* A study for people. Invariant: no line is wider than asked. */
#include <string.h>

#include "partitioner/report/grid.h"
#include "partitioner/report/study.h"

static void add_peaks(const StudyResult *result, Text *text) {
  const Timing *timing = &result->timing;
  text_add(text, "peak memory in microbatches, by rank:");
  for (int rank = 0; rank < timing->ranks; rank++)
    text_add(text, " %.4g", result->simulation.peak_memory[rank]);
  text_add_char(text, '\n');
  if (!timing->memory_limit)
    return;
  bool same = true;
  for (int rank = 1; rank < timing->ranks; rank++)
    same &= timing->memory_limit[rank] == timing->memory_limit[0];
  text_add(text, "memory limit:");
  for (int rank = 0; rank < (same ? 1 : timing->ranks); rank++)
    text_add(text, " %.4g", timing->memory_limit[rank]);
  text_add_char(text, '\n');
}

static void add_numbers(const StudyResult *result, Text *text) {
  const Schedule *schedule = &result->schedule;
  const Simulation *s = &result->simulation;
  text_add(text, "schedule %s: %d %s, %d %s, %d %s\n", schedule->name, schedule->ranks,
           schedule->ranks == 1 ? "rank" : "ranks", schedule->stages, schedule->stages == 1 ? "stage" : "stages",
           schedule->microbatches, schedule->microbatches == 1 ? "microbatch" : "microbatches");
  text_add(text, "makespan %.6g ms, longest span of a rank %.6g ms, bubble %.2f %%\n", s->makespan_seconds * 1e3,
           s->longest_span_seconds * 1e3, 100 * s->bubble);
  text_add(text, "lower bound of the %s %.6g ms, gap to it %.2f %%\n",
           result->objective == OBJECTIVE_SPAN ? "longest span" : "makespan", result->lower_bound_seconds * 1e3,
           100 * result->gap);
  add_peaks(result, text);
}

Status study_print(const StudyResult *result, FILE *file, int columns, bool colours) {
  Text numbers = {0}, narrow = {0};
  add_numbers(result, &numbers);
  const char *text = text_whole(&numbers);
  if (text)
    text_add_prose(&narrow, text, columns, 0, 0);
  text_free(&numbers);
  text = text ? text_whole(&narrow) : NULL;
  if (text)
    fputs(text, file);
  text_free(&narrow);
  if (!text)
    return status_code();
  return grid_print(&result->schedule, &result->simulation, file, columns, colours);
}
