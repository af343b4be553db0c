/* A study for programs. Invariant: the text reads back as the schedule. */
#include <math.h>

#include "base/json.h"
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

static json_t *study(const StudyResult *result, const char *text) {
  const Simulation *s = &result->simulation;
  return json_pack("{ss, sf, sf, so, sf, so, so, ss}", "schedule", result->schedule.name, "makespan_ms",
                   s->makespan_seconds * 1e3, "longest_span_ms", s->longest_span_seconds * 1e3, "bubble",
                   rounded(s->bubble), "lower_bound", result->lower_bound_seconds * 1e3, "gap", rounded(result->gap),
                   "peak_memory", peaks(result), "text", text);
}

Status study_json(const StudyResult *result, FILE *file) {
  Text schedule = {0}, text = {0};
  schedule_write(&result->schedule, &schedule);
  const char *written = text_whole(&schedule);
  json_t *object = written ? study(result, written) : NULL;
  text_add_json(&text, object, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
  text_add_char(&text, '\n');
  const char *whole = text_whole(&text);
  Status status = !whole ? status_code() : fputs(whole, file) == EOF ? fail(E_IO, "the study cannot be written") : OK;
  json_decref(object);
  text_free(&schedule);
  text_free(&text);
  return status;
}
