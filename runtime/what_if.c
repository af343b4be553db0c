/* From options to a study. Invariant: a list of times has one number, or one a rank. */
#include "runtime/what_if.h"

#include <string.h>

#include "base/file.h"
#include "partitioner/report/study.h"
#include "runtime/job/job.h"

/* One number a rank. NULL stays NULL. */
static Status spread(Arena *arena, const char *option, const NumberList *list, int ranks, const double **numbers) {
  double *each;
  *numbers = NULL;
  if (!list->n)
    return OK;
  if (list->n != 1 && list->n != (size_t)ranks)
    return fail(E_USAGE, "--%s has %zu numbers for %d ranks: give one, or one a rank", option, list->n, ranks);
  TRY(ARENA_NEW(arena, each, ranks));
  for (int r = 0; r < ranks; r++)
    each[r] = list->items[list->n == 1 ? 0 : r];
  *numbers = each;
  return OK;
}

static Status fill(Arena *arena, const Options *o, StudyRequest *request) {
  if (!o->ranks || !o->microbatches || !o->forward_ms.n || !o->backward_input_ms.n || !o->backward_weight_ms.n)
    return fail(E_USAGE, "simulate needs --%s",
                !o->ranks                 ? "ranks"
                : !o->microbatches        ? "microbatches"
                : !o->forward_ms.n        ? "forward-ms"
                : !o->backward_input_ms.n ? "backward-input-ms"
                                          : "backward-weight-ms");
  TRY(options_refuse_lists(o));
  Objective objective = job_objective(o, false);
  if (o->schedule_file && options_given(o, "schedule"))
    return fail(E_USAGE, "--schedule %s and --schedule-file %s: give one of them", o->schedule, o->schedule_file);
  if (o->report && o->schedule_file && file_same(o->report, o->schedule_file))
    return fail(E_USAGE, "--report %s would overwrite --schedule-file, which is read", o->report);
  int ranks = (int)o->ranks;
  *request = (StudyRequest){.ranks = ranks,
                            .microbatches = (int)o->microbatches,
                            .chunks = (int)o->chunks,
                            .p2p_ms = o->p2p_ms,
                            .backward_input_frees = o->backward_input_frees,
                            .schedule = o->schedule,
                            .objective = objective};
  TRY(spread(arena, "forward-ms", &o->forward_ms, ranks, &request->forward_ms));
  TRY(spread(arena, "backward-input-ms", &o->backward_input_ms, ranks, &request->backward_input_ms));
  TRY(spread(arena, "backward-weight-ms", &o->backward_weight_ms, ranks, &request->backward_weight_ms));
  TRY(spread(arena, "memory-limit-microbatches", &o->memory_limit_microbatches, ranks,
             &request->memory_limit_microbatches));
  return o->schedule_file ? file_read_text(arena, o->schedule_file, &request->schedule_text) : OK;
}

/* What the line of error cannot show. */
static void print_refused(const StudyResult *result, FILE *refusal) {
  if (refusal && result->refused)
    schedule_print_grid(&result->schedule, refusal, job_columns(), &result->refused_at);
}

static Status study(Arena *arena, const Options *o, FILE *refusal, StudyResult *result) {
  StudyRequest request;
  TRY(fill(arena, o, &request));
  Status status = study_run(arena, &request, result);
  if (status == OK || !o->schedule_file)
    return status;
  char *message = arena_string(arena, status_message());
  print_refused(result, refusal);
  return message ? fail(status, "%s: %s", o->schedule_file, message) : status_code();
}

static Status run(Arena *arena, const Options *o, FILE *out, FILE *refusal) {
  StudyResult result;
  TRY(study(arena, o, refusal, &result));
  TRY(o->json ? study_json(&result, out) : study_print(&result, out, job_columns(), job_colours(out)));
  if (!o->report)
    return OK;
  FileReplace file;
  TRY(file_replace_begin(o->report, &file));
  Status status = study_report_html(&result, file.stream);
  if (status == OK)
    return file_replace_commit(&file);
  status_context("%s: ", o->report);
  file_replace_abandon(&file);
  return status;
}

Status what_if_run(const Options *options, FILE *out, FILE *refusal) {
  Arena *arena = arena_create();
  Status status = arena ? run(arena, options, out, refusal) : status_code();
  arena_destroy(arena);
  return status;
}
