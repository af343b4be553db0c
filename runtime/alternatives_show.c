/* The table of alternatives, for people and for programs. Invariant: nothing is decided here. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "runtime/alternatives.h"

enum { SHOWN = 40, SHOWN_REASONS = 12 };

/* Which columns say something: the others are the same in all rows. */
typedef struct {
  bool device, precision;
} Columns;

static Columns find_columns(const Alternatives *a) {
  Columns columns = {0};
  for (size_t i = 1; i < a->n; i++) {
    columns.device |= strcmp(a->rows[i].device, a->rows[0].device) != 0;
    columns.precision |= strcmp(a->rows[i].precision, a->rows[0].precision) != 0;
  }
  return columns;
}

static const char *seconds_text(double seconds, char text[24]) {
  if (seconds >= 100)
    snprintf(text, 24, "%.0f s", seconds);
  else if (seconds >= 1)
    snprintf(text, 24, "%.3g s", seconds);
  else
    snprintf(text, 24, "%.3g ms", 1e3 * seconds);
  return text;
}

static void add_row(Text *text, const Alternative *row, Columns columns) {
  char step[24], memory[24], microbatches[48];
  snprintf(microbatches, sizeof microbatches, "%d of %lld", row->microbatches, (long long)row->microbatch_size);
  text_add(text, "%5d %6d %14s  %-16s", row->ranks, row->ranks * row->chunks, microbatches, row->schedule);
  if (columns.precision)
    text_add(text, " %-9s", row->precision);
  if (columns.device)
    text_add(text, " %-10s", row->device);
  text_add(text, " %9s %10.4g %6.1f %% %10s %5.1f %%\n", seconds_text(row->step_seconds, step), row->samples_per_second,
           100 * row->bubble, plan_bytes_text(row->memory_bytes, memory), 100 * row->utilisation);
}

/* "16 ranks, 1f1b, 8 microbatches: rank 0 lacks …" */
static void add_reason(Text *text, const Alternative *row, Columns columns, int width) {
  Text line = {0};
  if (row->ranks)
    text_add(&line, "%d %s, %d %s, %s, ", row->ranks, row->ranks == 1 ? "rank" : "ranks", row->ranks * row->chunks,
             row->ranks * row->chunks == 1 ? "stage" : "stages", row->schedule);
  text_add(&line, "%d %s", row->microbatches, row->microbatches == 1 ? "microbatch" : "microbatches");
  if (columns.precision)
    text_add(&line, ", %s", row->precision);
  if (columns.device)
    text_add(&line, ", %s", row->device);
  text_add(&line, ": %s", row->reason);
  const char *whole = text_whole(&line);
  if (whole)
    text_add_prose(text, whole, width, 0, 2);
  else
    text->failed = true;
  text_free(&line);
}

static void add_reasons(Text *text, const Alternatives *a, Columns columns, int width) {
  size_t n = a->n - a->n_fit;
  if (!n)
    return;
  text_add(text, "\n%zu cannot be:\n", n);
  for (size_t i = 0; i < n && i < SHOWN_REASONS; i++)
    add_reason(text, &a->rows[a->n_fit + i], columns, width);
  if (n > SHOWN_REASONS)
    text_add(text, "and %zu more (--json has all)\n", n - SHOWN_REASONS);
}

static void add_table(Text *text, const Alternatives *a, Columns columns) {
  text_add(text, "%5s %6s %14s  %-16s", "ranks", "stages", "microbatches", "schedule");
  if (columns.precision)
    text_add(text, " %-9s", "precision");
  if (columns.device)
    text_add(text, " %-10s", "device");
  text_add(text, " %9s %10s %8s %10s %7s\n", "step", "samples/s", "bubble", "memory", "used");
  for (size_t i = 0; i < a->n_fit && i < SHOWN; i++)
    add_row(text, &a->rows[i], columns);
  if (a->n_fit > SHOWN)
    text_add(text, "and %zu slower ones (--json has all)\n", a->n_fit - SHOWN);
}

static Status print_text(Text *text, FILE *file) {
  const char *whole = text_whole(text);
  if (whole && fputs(whole, file) == EOF)
    return fail(E_IO, "the table cannot be printed");
  return whole ? OK : status_code();
}

Status alternatives_print(const Alternatives *a, FILE *file, int columns) {
  static const char legend[] = "step: predicted, its update included; memory: of the rank that needs most; used: the "
                               "model's products by what all ranks' devices could do of them in a step";
  Text text = {0};
  Columns shown = find_columns(a);
  if (a->n_fit) {
    add_table(&text, a, shown);
    text_add_prose(&text, legend, columns, 0, 2);
  }
  add_reasons(&text, a, shown, columns);
  Status status = print_text(&text, file);
  text_free(&text);
  return status;
}

static json_t *row_json(const Alternative *row) {
  json_t *object =
      json_pack("{si, si, si, sI, ss, ss, ss, sb}", "ranks", row->ranks, "stages", row->ranks * row->chunks,
                "microbatches", row->microbatches, "microbatch_size", (json_int_t)row->microbatch_size, "schedule",
                row->schedule, "precision", row->precision, "device", row->device, "fits", !row->reason);
  json_t *rest = row->reason
                     ? json_pack("{ss}", "reason", row->reason)
                     : json_pack("{sf, sf, sf, sI, sf}", "step_seconds", row->step_seconds, "samples_per_second",
                                 row->samples_per_second, "bubble", row->bubble, "memory_bytes",
                                 (json_int_t)row->memory_bytes, "utilisation", row->utilisation);
  int failed = !object || !rest || json_object_update(object, rest) != 0;
  json_decref(rest);
  if (!failed)
    return object;
  json_decref(object);
  return NULL;
}

Status alternatives_json(const Job *job, const Alternatives *a, FILE *file) {
  Text text = {0};
  json_t *rows = json_array();
  bool good = rows;
  for (size_t i = 0; good && i < a->n; i++)
    good = json_array_append_new(rows, row_json(&a->rows[i])) == 0;
  json_t *object = good ? json_pack("{ss, sI, sf, sO}", "model", job->asked.path, "batch",
                                    (json_int_t)job->decided.batch, "model_flops", a->model_flops, "plans", rows)
                        : NULL;
  text_add_json(&text, object, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
  text_add_char(&text, '\n');
  json_decref(object);
  json_decref(rows);
  Status status = print_text(&text, file);
  text_free(&text);
  return status;
}
