/* From --resume to a job that goes on. Invariant: every rank goes on from the checkpoint that rank 0 found whole. */
#include "runtime/training/resume.h"

#include <string.h>

#include "base/file.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/replaced.h"

Status resume_model_options(const Options *given, bool alone, Options **completed) {
  Checkpoint checkpoint;
  *completed = NULL;
  if (!given->resume)
    return OK;
  Arena *arena = arena_create();
  Status status = arena ? checkpoint_find(arena, given->resume, false, NULL, &checkpoint) : status_code();
  if (status == OK) {
    status = resume_options(given, &checkpoint, alone, completed);
    checkpoint_close(&checkpoint);
  }
  arena_destroy(arena);
  return status;
}

/* What the model was opened with is what the checkpoint's run had. */
static Status check_opened(const Options *opened, const Options *options) {
  const struct {
    const char *name;
    const TextList *a, *b;
  } lists[] = {{"train", &opened->train, &options->train},
               {"freeze", &opened->freeze, &options->freeze},
               {"freeze-row", &opened->freeze_row, &options->freeze_row},
               {"batch-axis", &opened->batch_axis, &options->batch_axis}};
  if (opened->no_tie != options->no_tie)
    return fail(E_USAGE, "the model was opened before --resume was given, without its --no-tie");
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    bool same = lists[i].a->n == lists[i].b->n;
    for (size_t k = 0; same && k < lists[i].a->n; k++)
      same = strcmp(lists[i].a->items[k], lists[i].b->items[k]) == 0;
    if (!same)
      return fail(E_USAGE, "the model was opened before --resume was given, without its --%s", lists[i].name);
  }
  return OK;
}

/* Rank 0: the one to go on from, and what was passed over. */
static Status find(Job *job, Checkpoint *checkpoint) {
  Text said = {0};
  Status status = checkpoint_find(job->arena, job->asked.options->resume, true, &said, checkpoint);
  char *line = status == OK ? said.data : NULL, *end;
  for (; status == OK && line && (end = strchr(line, '\n')); line = end + 1) {
    *end = '\0';
    status = job_decide(job, "note", "passed over: %s", line);
  }
  text_free(&said);
  return status;
}

/* Rank 0's path to everybody. */
static Status share_path(const World *world, char path[FOLDER_PATH]) {
  if (world->rank)
    return link_receive(&world->link, 0, path, FOLDER_PATH);
  for (int r = 1; r < world->size; r++)
    TRY(link_send(&world->link, r, path, FOLDER_PATH));
  return OK;
}

/* The folder that holds it: where the run goes on writing, unless it says otherwise, or --resume names one checkpoint
 * and not a folder of them. */
static Status go_on_writing(const Options *given, const char *found, Options *options) {
  if (options_given(given, "checkpoint") || file_same(given->resume, found))
    return OK;
  return options_set(options, "checkpoint", given->resume);
}

static Status take(Job *job, const Options *opened, const char *path) {
  const Options *given = job->asked.options;
  Checkpoint *checkpoint;
  Options *options;
  TRY(ARENA_NEW(job->arena, checkpoint, 1));
  TRY(checkpoint_find(job->arena, path, false, NULL, checkpoint));
  job->asked.resumed = checkpoint;
  TRY(checkpoint_map(checkpoint));
  TRY(replaced_resume(job, checkpoint));
  TRY(resume_options(given, checkpoint, !job->asked.world->mpi, &options));
  job->asked.completed = options;
  job->asked.options = options;
  TRY(go_on_writing(given, path, options));
  return check_opened(opened ? opened : given, options);
}

static Status say(Job *job) {
  const Checkpoint *checkpoint = job->asked.resumed;
  return job_decide(job, "resume", "%s: %s step%s are done", checkpoint->path, COUNT_STR(checkpoint->step),
                    checkpoint->step == 1 ? "" : "s");
}

Status resume_open(Job *job, const Options *opened, Outcome *outcome) {
  const World *world = job->asked.world;
  const Link *link = world->mpi ? &world->link : NULL;
  Checkpoint found = {0};
  char path[FOLDER_PATH] = "";
  if (!job->asked.options->resume)
    return OK;
  TRY(trainer_agree(link, world->rank ? OK : find(job, &found), outcome));
  if (!world->rank)
    snprintf(path, sizeof path, "%s", found.path);
  checkpoint_close(&found);
  if (link)
    TRY(share_path(world, path));
  Status status = take(job, opened, path);
  return trainer_agree(link, status == OK ? say(job) : status, outcome);
}

void resume_loaded(Job *job) {
  if (job->asked.resumed)
    checkpoint_unmap(job->asked.resumed);
}

void resume_close(Job *job) {
  if (job->asked.resumed)
    checkpoint_close(job->asked.resumed);
  job->asked.resumed = NULL;
  options_destroy(job->asked.completed);
  job->asked.completed = NULL;
}
