/* Schedules that come from a file. Invariant: what is read has the ranks and microbatches that the job has; whether it
 * runs is proved with the plan. */
#include <string.h>

#include "base/file.h"
#include "runtime/job/job.h"

Objective job_objective(const Options *options, bool agree) {
  bool waits = (agree || options->clip_norm > 0) && !options_given(options, "objective");
  return strcmp(options->objective, "span") == 0 && !waits ? OBJECTIVE_SPAN : OBJECTIVE_MAKESPAN;
}

static Status contradicts(const Job *job, const char *option, int64_t asked, int64_t has) {
  return fail(E_USAGE, "--%s %lld contradicts --schedule-file %s, which has %lld", option, (long long)asked,
              job->asked.options->schedule_file, (long long)has);
}

/* Options and file, both said. */
static Status check(const Job *job, const Schedule *s) {
  const Options *o = job->asked.options;
  const World *world = job->asked.world;
  if (world->mpi && world->size != s->ranks)
    return fail(E_USAGE, "--schedule-file %s is for %d ranks, mpirun started %d", o->schedule_file, s->ranks,
                world->size);
  if (o->ranks && o->ranks != s->ranks)
    return contradicts(job, "ranks", o->ranks, s->ranks);
  if (o->microbatches && o->microbatches != s->microbatches)
    return contradicts(job, "microbatches", o->microbatches, s->microbatches);
  if (o->chunks && o->chunks * s->ranks != s->stages)
    return fail(E_USAGE, "--chunks %lld of %d ranks contradicts --schedule-file %s, which has %d stages",
                (long long)o->chunks, s->ranks, o->schedule_file, s->stages);
  return OK;
}

static Status refuse(const char *path, Status status) {
  status = status == E_USAGE ? status_adopt(E_MODEL, status_message()) : status;
  status_context("%s: ", path);
  return status;
}

static Status check_stages(const Schedule *s) {
  if (s->forward_only)
    return fail(E_MODEL, "schedule %s has no backward", s->name);
  if (s->stages % s->ranks)
    return fail(E_MODEL, "schedule %s has %d stages on %d ranks: no whole number a rank", s->name, s->stages, s->ranks);
  for (int rank = 0; rank < s->ranks; rank++)
    if (s->lists[rank].n_actions == 0)
      return fail(E_MODEL, "schedule %s has no stage on rank %d", s->name, rank);
  return OK;
}

Status job_read_schedule(Job *job) {
  const Options *o = job->asked.options;
  const char *path = o->schedule_file, *text;
  if (!path)
    return OK;
  if (o->plan)
    return fail(E_USAGE, "--plan %s and --schedule-file %s: give one of them", o->plan, path);
  if (strcmp(o->schedule, "auto") != 0)
    return fail(E_USAGE, "--schedule %s and --schedule-file %s: give one of them", o->schedule, path);
  TRY(ARENA_NEW(job->arena, job->asked.schedule, 1));
  TRY(file_read_text(job->arena, path, &text));
  Status status = schedule_read(job->arena, text, job->asked.schedule);
  if (status == OK)
    status = check_stages(job->asked.schedule);
  if (status != OK)
    return refuse(path, status);
  return check(job, job->asked.schedule);
}
