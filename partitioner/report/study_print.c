/* A study for people. Invariant: no line is wider than asked. */
#include <stdlib.h>
#include <string.h>

#include "partitioner/report/grid.h"
#include "partitioner/report/study.h"

/* Words, broken where the next one would not fit. */
static void print_words(const char *text, FILE *file, int columns) {
  int at = 0;
  for (const char *word = text; *word;) {
    int length = (int)strcspn(word, " \n");
    if (at > 0 && at + 1 + length > columns) {
      fputc('\n', file);
      at = 0;
    }
    at += fprintf(file, "%s%.*s", at ? " " : "", length < columns ? length : columns, word);
    word += length;
    if (*word == '\n') {
      fputc('\n', file);
      at = 0;
    }
    word += *word != '\0';
  }
}

static void print_peaks(const StudyResult *result, FILE *file) {
  const Timing *timing = &result->timing;
  fprintf(file, "peak memory in microbatches, by rank:");
  for (int rank = 0; rank < timing->ranks; rank++)
    fprintf(file, " %.4g", result->simulation.peak_memory[rank]);
  fputc('\n', file);
  if (!timing->memory_limit)
    return;
  bool same = true;
  for (int rank = 1; rank < timing->ranks; rank++)
    same &= timing->memory_limit[rank] == timing->memory_limit[0];
  fprintf(file, "memory limit:");
  for (int rank = 0; rank < (same ? 1 : timing->ranks); rank++)
    fprintf(file, " %.4g", timing->memory_limit[rank]);
  fputc('\n', file);
}

static void print_numbers(const StudyResult *result, FILE *file) {
  const Schedule *schedule = &result->schedule;
  const Simulation *s = &result->simulation;
  fprintf(file, "schedule %s: %d %s, %d %s, %d %s\n", schedule->name, schedule->ranks,
          schedule->ranks == 1 ? "rank" : "ranks", schedule->stages, schedule->stages == 1 ? "stage" : "stages",
          schedule->microbatches, schedule->microbatches == 1 ? "microbatch" : "microbatches");
  fprintf(file, "makespan %.6g ms, longest span of a rank %.6g ms, bubble %.2f %%\n", s->makespan_seconds * 1e3,
          s->longest_span_seconds * 1e3, 100 * s->bubble);
  fprintf(file, "lower bound of the %s %.6g ms, gap to it %.2f %%\n",
          result->objective == OBJECTIVE_SPAN ? "longest span" : "makespan", result->lower_bound_seconds * 1e3,
          100 * result->gap);
  print_peaks(result, file);
}

Status study_print(const StudyResult *result, FILE *file, int columns, bool colours) {
  char *text = NULL;
  size_t size;
  FILE *numbers = open_memstream(&text, &size);
  if (!numbers)
    return fail(E_MEMORY, "out of memory");
  print_numbers(result, numbers);
  bool good = fclose(numbers) == 0;
  if (good)
    print_words(text, file, columns);
  free(text);
  if (!good)
    return fail(E_MEMORY, "out of memory");
  return grid_print(&result->schedule, &result->simulation, file, columns, colours);
}
