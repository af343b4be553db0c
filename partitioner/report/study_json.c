/* A study for programs. Invariant: the text reads back as the schedule. */
#include <jansson.h>
#include <math.h>

#include "partitioner/report/study.h"

/* Without the last bits that sums of thirds have. */
static json_t *rounded(double number) {
  return json_real(round(number * 1e9) / 1e9);
}

static json_t *peaks(const StudyResult *result) {
  json_t *array = json_array();
  for (int rank = 0; array && rank < result->schedule.ranks; rank++)
    if (json_array_append_new(array, rounded(result->simulation.peak_memory[rank])) != 0) {
      json_decref(array);
      return NULL;
    }
  return array;
}

Status study_json(const StudyResult *result, FILE *file) {
  Text written = {0};
  schedule_write(&result->schedule, &written);
  const char *text = text_whole(&written);
  Status status = text ? OK : status_code();
  json_t *object = NULL;
  if (status == OK) {
    const Simulation *s = &result->simulation;
    object = json_pack("{ss, sf, sf, so, sf, so, so, ss}", "schedule", result->schedule.name, "makespan_ms",
                       s->makespan_seconds * 1e3, "longest_span_ms", s->longest_span_seconds * 1e3, "bubble",
                       rounded(s->bubble), "lower_bound", result->lower_bound_seconds * 1e3, "gap",
                       rounded(result->gap), "peak_memory", peaks(result), "text", text);
    if (!object)
      status = fail(E_MEMORY, "out of memory");
    else if (json_dumpf(object, file, JSON_INDENT(1) | JSON_REAL_PRECISION(15)) != 0 || fputc('\n', file) == EOF)
      status = fail(E_IO, "the study cannot be written");
  }
  json_decref(object);
  text_free(&written);
  return status;
}
