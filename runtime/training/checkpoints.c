/* Checkpoints of a run that goes on. Invariant: every rank begins and awaits the same ones, between the same steps;
 * what cannot be written is said and ends nothing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/training/trainer.h"

/* Whether the checkpoint that the run goes on from lies in this folder. */
static bool lies_in(Arena *arena, const Checkpoint *checkpoint, const char *folder) {
  const char *same = checkpoint ? folder_step_path(arena, folder, checkpoint->step) : NULL;
  return same && file_same(same, checkpoint->path);
}

/* Whether none of the later ones is whole: another run may have written it since this one looked. */
static Status check_later(Arena *arena, const char *folder, const int64_t *steps, int n, int64_t step) {
  while (n-- > 0 && steps[n] > step) {
    Checkpoint later;
    const char *path = folder_step_path(arena, folder, steps[n]);
    Status status = path ? checkpoint_find(arena, path, true, NULL, &later) : status_code();
    if (status == E_MEMORY)
      return status;
    if (status != OK)
      continue;
    checkpoint_close(&later);
    return fail(E_USAGE,
                "%s holds a checkpoint of step %lld by now: another run has gone on from step %lld "
                "meanwhile",
                folder, (long long)steps[n], (long long)step);
  }
  return OK;
}

/* What lies in the folder is this run's past, or nothing. Later steps than the newest whole one are damaged. */
static Status check_past(const Training *training) {
  Job *job = training->job;
  const Options *o = job->asked.options;
  const Checkpoint *resumed = job->asked.resumed;
  int64_t *steps;
  int n;
  TRY(folder_list(job->arena, o->checkpoint, &steps, &n));
  if (!n)
    return OK;
  if (!lies_in(job->arena, resumed, o->checkpoint))
    return fail(E_USAGE,
                "%s holds checkpoints of another run, up to step %lld: --resume %s goes on with it, --checkpoint takes "
                "another folder",
                o->checkpoint, (long long)steps[n - 1], o->checkpoint);
  if (steps[n - 1] == resumed->step)
    return OK;
  if (file_same(o->resume, resumed->path)) /* it was asked for, and not the newest */
    return fail(E_USAGE, "%s holds checkpoints up to step %lld, later than %s: --checkpoint takes another folder",
                o->checkpoint, (long long)steps[n - 1], resumed->path);
  TRY(check_later(job->arena, o->checkpoint, steps, n, resumed->step));
  return folder_set_aside_after(o->checkpoint, resumed->step);
}

Status checkpoints_take(Training *training) {
  const Options *o = training->job->asked.options;
  if (!o->checkpoint || o->dry_run)
    return OK;
  TRY(folder_take(o->checkpoint, &training->checkpoint_lock));
  return check_past(training);
}

Status checkpoints_open(Worker *w) {
  const Training *training = w->training;
  const Job *job = training->job;
  const Options *o = job->asked.options;
  return o->checkpoint && !o->dry_run
             ? writer_open(job, o->checkpoint, (int)o->keep, training->checkpoint_about, w->rank, w->store, &w->writer)
             : OK;
}

/* Rank 0's word to all others. */
static Status tell(Worker *w, void *data, size_t bytes) {
  if (w->rank)
    return link_receive(w->link, 0, data, bytes);
  for (int r = 1; r < w->training->job->decided.ranks; r++)
    TRY(link_send(w->link, r, data, bytes));
  return OK;
}

/* What every rank sends when it is done. */
typedef struct {
  double part[PART_NUMBERS];
  char message[sizeof((CheckpointResult){0}.message)];
} PartReport;

/* Rank 0: waits for everybody's part. */
static Status gather(Worker *w, CheckpointResult *result) {
  for (int r = 1; r < w->training->job->decided.ranks; r++) {
    PartReport report;
    TRY(link_receive(w->link, r, &report, sizeof report));
    writer_take(w->writer, r, report.part);
    if (*report.message && result->code == OK) {
      result->code = E_IO;
      snprintf(result->message, sizeof result->message, "rank %d: %.*s", r, (int)sizeof result->message - 32,
               report.message);
    }
  }
  Status status = writer_wait(w->writer);
  if (status != OK && result->code == OK) {
    result->code = (int32_t)status;
    snprintf(result->message, sizeof result->message, "%s", status_message());
  }
  if (status != OK)
    folder_abandon(w->training->job->asked.options->checkpoint, result->step);
  return OK;
}

static Status report_part(Worker *w) {
  PartReport report = {{0}, ""};
  if (writer_wait(w->writer) != OK)
    snprintf(report.message, sizeof report.message, "%s", status_message());
  writer_part(w->writer, report.part);
  return link_send(w->link, 0, &report, sizeof report);
}

/* Rank 0, whatever is printed else. */
static void say_lost(const Worker *w, const CheckpointResult *result) {
  if (result->code != OK)
    job_report(w->training->job, CHECKPOINT_LOST "%s", (long long)result->step, result->message);
}

static void say_note(const Worker *w, const CheckpointResult *result) {
  const char *note = writer_note(w->writer);
  if (result->code == OK && *note)
    job_report(w->training->job, "the checkpoint of step %lld is written, but %s", (long long)result->step, note);
}

Status checkpoints_wait(Worker *w) {
  if (w->checkpoint < 0)
    return OK;
  w->written = (CheckpointResult){.step = w->checkpoint};
  TRY(w->rank ? report_part(w) : gather(w, &w->written));
  w->checkpoint = -1;
  if (w->rank == 0)
    say_note(w, &w->written);
  return tell(w, &w->written, sizeof w->written);
}

Status checkpoints_end(Worker *w) {
  Trace *trace = w->timeline.trace;
  bool waits = w->checkpoint >= 0;
  double begun = trace_begin(trace);
  TRY(checkpoints_wait(w));
  if (!waits)
    return OK;
  trace_waited(trace, begun, TRACE_WRITING);
  if (w->rank == 0)
    say_lost(w, &w->written);
  return OK;
}

void checkpoints_finish(Worker *const *workers, int ranks) {
  Worker *first = workers[0];
  CheckpointResult result = {.step = first->checkpoint};
  if (!first->writer || first->checkpoint < 0)
    return;
  for (int r = 1; r < ranks; r++)
    if (!workers[r]->writer || workers[r]->checkpoint != first->checkpoint) {
      job_report(first->training->job, CHECKPOINT_LOST "the run ended before rank %d had begun it",
                 (long long)result.step, r);
      return;
    }
  for (int r = 1; r < ranks; r++) {
    double part[PART_NUMBERS];
    (void)writer_wait(workers[r]->writer); /* its part says how it went */
    writer_part(workers[r]->writer, part);
    writer_take(first->writer, r, part);
  }
  result.code = (int32_t)writer_finish(first->writer);
  if (result.code != OK)
    snprintf(result.message, sizeof result.message, "%s", status_message());
  say_lost(first, &result);
  say_note(first, &result);
}

static CheckpointValidation validation_so_far(const Worker *w) {
  const OnnxpipeValidation *v = &w->validated;
  return (CheckpointValidation){.step = v->step,
                                .best_step = v->best_step,
                                .stalled = v->stalled,
                                .best_loss = v->best_loss,
                                .reference_loss = v->reference_loss,
                                .is_best = v->is_best && v->step == w->steps_done};
}

void checkpoints_recall(Worker *w) {
  const Job *job = w->training->job;
  const Checkpoint *resumed = job->asked.resumed;
  const char *now = job->asked.options->validate;
  const char *then = resumed ? json_string_value(json_object_get(resumed->options, "validate")) : NULL;
  if (!resumed || (now && then ? !file_same(now, then) : now || then))
    return; /* losses of other samples say nothing of these */
  const CheckpointValidation *v = &resumed->validation;
  w->validated = (OnnxpipeValidation){.step = v->step,
                                      .best_step = v->best_step,
                                      .stalled = v->stalled,
                                      .best_loss = v->best_loss,
                                      .reference_loss = v->reference_loss};
}

/* Rank 0: the folder is this run's still, and has a place for what is written. */
static Status prepare(Worker *w) {
  Job *job = w->training->job;
  const char *folder = job->asked.options->checkpoint;
  int64_t *steps;
  int n;
  TRY(folder_hold(folder, w->training->checkpoint_lock));
  Arena *arena = arena_create();
  Status status = arena ? folder_list(arena, folder, &steps, &n) : status_code();
  if (status == OK && n && steps[n - 1] > w->steps_done)
    status = fail(E_USAGE, "%s holds a checkpoint of step %lld by now: another run has gone on there", folder,
                  (long long)steps[n - 1]);
  arena_destroy(arena);
  return status == OK ? writer_prepare(w->writer, w->steps_done) : status;
}

Status checkpoints_begin(Worker *w) {
  Trace *trace = w->timeline.trace;
  int32_t prepared = OK;
  TRY(checkpoints_end(w));
  if (w->written.code == OK && w->written.step == w->steps_done && w->steps_done)
    return OK; /* it lies there */
  if (w->rank == 0)
    prepared = (int32_t)prepare(w);
  TRY(tell(w, &prepared, sizeof prepared));
  if (w->rank && prepared != OK)
    status_adopt((Status)prepared, "");
  CheckpointValidation validation = validation_so_far(w);
  double begun = trace_begin(trace);
  writer_begin(w->writer, w->steps_done, prepared != OK, &validation);
  trace_end(trace, begun, (TraceEvent){.kind = TRACE_SNAPSHOT});
  w->checkpoint = w->steps_done;
  return OK;
}

/* The step of a line of metrics; -1: it is none. */
static int64_t step_of_line(const char *line) {
  long long step;
  return sscanf(line, "{\"step\": %lld", &step) == 1 && line[strlen(line) - 1] == '\n' ? step : -1;
}

Status checkpoints_metrics(const char *path, int64_t steps) {
  struct stat info;
  char *line = NULL;
  size_t room = 0;
  long end = 0;
  if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
    return OK; /* a pipe or a device keeps no lines of steps that were not done */
  FILE *file = fopen(path, "r+");
  if (!file && errno == ENOENT)
    file = fopen(path, "w+");
  if (!file)
    return fail(E_IO, "%s: cannot be written: %s", path, strerror(errno));
  while (getline(&line, &room, file) > 0) {
    int64_t step = step_of_line(line);
    if (step < 0 || step > steps)
      break;
    end = ftell(file);
  }
  free(line);
  Status status = OK;
  if (ferror(file))
    status = fail(E_IO, "%s: cannot be read: %s", path, strerror(errno));
  else if (ftruncate(fileno(file), end) != 0)
    status = fail(E_IO, "%s: cannot be written: %s", path, strerror(errno));
  fclose(file);
  return status;
}
