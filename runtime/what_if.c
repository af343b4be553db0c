/* From options to a study. Invariant: a list of times has one number, or one a rank. */
#include "runtime/what_if.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "partitioner/study.h"
#include "runtime/job.h"

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

static Status read_text(Arena *arena, const char *path, const char **text) {
  enum { MOST = 256 << 20 };
  FILE *file = fopen(path, "r");
  if (!file)
    return fail(E_IO, "%s: %s", path, strerror(errno));
  size_t n = 0, capacity = 0;
  char *bytes = NULL;
  Status status = OK;
  while (status == OK) {
    status = ARENA_RESERVE(arena, bytes, n, capacity, n + 65536);
    size_t got = status == OK ? fread(bytes + n, 1, capacity - n - 1, file) : 0;
    n += got;
    if (!got)
      break;
    if (n > MOST)
      status = fail(E_IO, "%s: larger than a schedule can be", path);
  }
  if (status == OK && ferror(file))
    status = fail(E_IO, "%s: %s", path, strerror(errno));
  fclose(file);
  if (status == OK)
    bytes[n] = '\0';
  *text = bytes;
  return status;
}

static Status fill(Arena *arena, const Options *o, StudyRequest *request) {
  if (!o->ranks || !o->microbatches || !o->forward_ms.n || !o->backward_input_ms.n || !o->backward_weight_ms.n)
    return fail(E_USAGE, "simulate needs --%s",
                !o->ranks                 ? "ranks"
                : !o->microbatches        ? "microbatches"
                : !o->forward_ms.n        ? "forward-ms"
                : !o->backward_input_ms.n ? "backward-input-ms"
                                          : "backward-weight-ms");
  bool span = strcmp(o->objective, "span") == 0;
  if (!span && strcmp(o->objective, "makespan") != 0)
    return fail(E_USAGE, "--objective: '%s' is neither span nor makespan", o->objective);
  int ranks = (int)o->ranks;
  *request = (StudyRequest){.ranks = ranks,
                            .microbatches = (int)o->microbatches,
                            .chunks = (int)o->chunks,
                            .p2p_ms = o->p2p_ms,
                            .backward_input_frees = o->backward_input_frees,
                            .schedule = o->schedule,
                            .objective = span ? OBJECTIVE_SPAN : OBJECTIVE_MAKESPAN};
  TRY(spread(arena, "forward-ms", &o->forward_ms, ranks, &request->forward_ms));
  TRY(spread(arena, "backward-input-ms", &o->backward_input_ms, ranks, &request->backward_input_ms));
  TRY(spread(arena, "backward-weight-ms", &o->backward_weight_ms, ranks, &request->backward_weight_ms));
  TRY(spread(arena, "memory-limit-microbatches", &o->memory_limit_microbatches, ranks,
             &request->memory_limit_microbatches));
  return o->schedule_file ? read_text(arena, o->schedule_file, &request->schedule_text) : OK;
}

static Status run(Arena *arena, const Options *o, FILE *out) {
  StudyRequest request;
  StudyResult result;
  TRY(fill(arena, o, &request));
  TRY(study_run(arena, &request, &result));
  TRY(o->json ? study_json(&result, out) : study_print(&result, out, job_columns()));
  if (!o->report)
    return OK;
  FileReplace file;
  TRY(file_replace_begin(o->report, &file));
  Status status = study_report_html(&result, file.stream);
  if (status == OK)
    return file_replace_commit(&file);
  file_replace_abandon(&file);
  return status;
}

Status what_if_run(const Options *options, FILE *out) {
  Arena *arena = arena_create();
  Status status = arena ? run(arena, options, out) : status_code();
  arena_destroy(arena);
  return status;
}
