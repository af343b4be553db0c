/* The workers of a process, told what to do. Invariant: every worker carries out the same commands in the same order;
 * rank 0's (under mpirun: this process's only one) is the caller's thread, which issues them. */
#include "runtime/training/session.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "runtime/checkpoint/origin.h"
#include "runtime/training/replan.h"
#include "runtime/training/request.h"
#include "runtime/training/resume.h"
#include "runtime/training/watchdog.h"

typedef enum {
  COMMAND_STEP,
  COMMAND_VALIDATE,
  COMMAND_SAVE,
  COMMAND_CHECKPOINT,
  COMMAND_CHECKPOINT_WAIT,
  COMMAND_CHECKPOINT_END,
  COMMAND_LEAVE,
  COMMAND_ENTER,
  COMMAND_END,
  COMMAND_QUIT
} Command;

/* How far the caller may be ahead of a worker. */
enum { COMMANDS = 4 };

/* A worker in a thread of its own. */
typedef struct {
  Session *session;
  Worker worker;
  pthread_t thread;
  bool started, ended;
  uint64_t taken; /* commands */
  Status status;
  char message[4096];
} LocalRank;

struct Session {
  Training training;
  int n_locals; /* ranks in this process: 1 under mpirun */
  LocalRank *locals;
  Link *links;        /* of ranks in one process; NULL: one rank, or mpirun's */
  Watch watch;        /* of a rank without a link */
  Watchdog *watchdog; /* NULL: none */
  Status status;
  char message[4096];
  /* under the lock: */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  Command commands[COMMANDS];
  uint64_t issued;
};

/* To every other worker of this process that has not ended. */
static void issue(Session *s, Command command) {
  pthread_mutex_lock(&s->lock);
  for (int r = 1; r < s->n_locals; r++) {
    watch_wait(s->locals[0].worker.watch, r, false);
    while (!s->locals[r].ended && s->issued - s->locals[r].taken == COMMANDS)
      pthread_cond_wait(&s->changed, &s->lock);
    watch_waited(s->locals[0].worker.watch);
  }
  s->commands[s->issued++ % COMMANDS] = command;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
}

static Command take(LocalRank *local) {
  Session *s = local->session;
  watch_wait(local->worker.watch, 0, false);
  pthread_mutex_lock(&s->lock);
  while (local->taken == s->issued)
    pthread_cond_wait(&s->changed, &s->lock);
  Command command = s->commands[local->taken++ % COMMANDS];
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
  watch_waited(local->worker.watch);
  return command;
}

static Status open_worker(Worker *w, Outcome *outcome) {
  TRY(trainer_agree(w->link, worker_open(w), outcome));
  return worker_connect(w);
}

/* What only keeps a file from being written is the caller's worker's to tell. */
static Status save_or_go_on(Worker *w) {
  Outcome outcome = {0};
  Status status = worker_save(w, NULL, &outcome);
  return outcome.goes_on ? OK : status;
}

static Status obey(LocalRank *local) {
  Outcome outcome = {0};
  TRY(open_worker(&local->worker, &outcome));
  for (;;)
    switch (take(local)) {
    case COMMAND_STEP:
      TRY(worker_step(&local->worker));
      break;
    case COMMAND_VALIDATE:
      TRY(worker_validate(&local->worker));
      break;
    case COMMAND_SAVE:
      TRY(save_or_go_on(&local->worker));
      break;
    case COMMAND_CHECKPOINT:
      TRY(worker_checkpoint(&local->worker));
      break;
    case COMMAND_CHECKPOINT_WAIT:
      TRY(worker_checkpoint_wait(&local->worker));
      break;
    case COMMAND_CHECKPOINT_END:
      TRY(worker_checkpoint_end(&local->worker));
      break;
    case COMMAND_LEAVE:
      TRY(worker_leave(&local->worker));
      break;
    case COMMAND_ENTER:
      TRY(worker_enter(&local->worker));
      break;
    case COMMAND_END:
      return worker_end(&local->worker, &outcome);
    case COMMAND_QUIT:
      return OK;
    }
}

static void *local_main(void *argument) {
  LocalRank *local = argument;
  watch_begin(local->worker.watch);
  Status status = obey(local);
  watch_phase(local->worker.watch, WATCH_END, 0);
  watch_wait(local->worker.watch, 0, false); /* to be joined */
  pthread_mutex_lock(&local->session->lock);
  local->status = status;
  if (status != OK)
    snprintf(local->message, sizeof local->message, "%s", status_message());
  local->ended = true;
  pthread_cond_broadcast(&local->session->changed);
  pthread_mutex_unlock(&local->session->lock);
  return NULL;
}

static void join_workers(Session *s) {
  for (int r = 1; r < s->n_locals; r++)
    if (s->locals[r].started) {
      watch_phase(s->locals[0].worker.watch, WATCH_END, 0);
      watch_wait(s->locals[0].worker.watch, r, false);
      pthread_join(s->locals[r].thread, NULL);
      watch_waited(s->locals[0].worker.watch);
      s->locals[r].started = false;
    }
}

/* Ends what goes on and keeps the failure that others follow from: the first that is no consequence of another rank's.
 * `status` is that of the caller's worker. */
static Status session_fail(Session *s, Status status) {
  LocalRank *cause = &s->locals[0];
  cause->status = status;
  snprintf(cause->message, sizeof cause->message, "%s", status_message());
  issue(s, COMMAND_QUIT);
  join_workers(s);
  watch_phase(cause->worker.watch, WATCH_OUTSIDE, 0); /* the caller closes the session when they like */
  for (int r = 1; r < s->n_locals; r++)
    if (cause->status == E_COMM && s->locals[r].status != OK && s->locals[r].status != E_COMM)
      cause = &s->locals[r];
  s->status = cause->status;
  memcpy(s->message, cause->message, sizeof s->message);
  return status_adopt(s->status, s->message);
}

static Status finish(Session *s, Status status) {
  return status == OK ? OK : session_fail(s, status);
}

/* Fails where it failed before. */
static Status still_good(const Session *s) {
  return s->status == OK ? OK : status_adopt(s->status, s->message);
}

/* Threads for the ranks but the caller's; a rank without one withdraws. */
static void start_workers(Session *s) {
  for (int r = 1; r < s->n_locals; r++) {
    LocalRank *local = &s->locals[r];
    int error = pthread_create(&local->thread, NULL, local_main, local);
    local->started = error == 0;
    if (!error)
      continue;
    local->ended = true;
    local->status = fail(E_MEMORY, "thread of rank %d: %s", r, strerror(error));
    snprintf(local->message, sizeof local->message, "%s", status_message());
    s->links[r].transport->withdraw(s->links[r].endpoints[CHANNEL_CONTROL], status_message());
  }
}

/* The ranks of this process and what connects them. */
static Status create_workers(Session *s) {
  Job *job = s->training.job;
  const World *world = job->asked.world;
  int n = world->mpi ? 1 : job->decided.ranks;
  TRY(ARENA_NEW(job->arena, s->locals, n));
  if (n > 1) {
    TRY(ARENA_NEW(job->arena, s->links, n));
    TRY(transport_local_open(n, s->links));
  }
  s->n_locals = n;
  for (int r = 0; r < n; r++) {
    const Link *link = s->links ? &s->links[r] : job->decided.ranks > 1 ? &world->link : NULL;
    s->locals[r].session = s;
    Watch *watch = link ? link->watch : world->mpi ? world->link.watch : &s->watch;
    s->locals[r].worker =
        (Worker){.training = &s->training, .rank = world->mpi ? world->rank : r, .link = link, .watch = watch};
  }
  return OK;
}

/* Where somebody is there to end the process. Under mpirun the transport watches. */
static Status start_watchdog(Session *s) {
  const Job *job = s->training.job;
  const World *world = job->asked.world;
  Watch **watches;
  if (world->mpi || !world->hangs || !job->asked.options->timeout)
    return OK;
  TRY(ARENA_NEW(job->arena, watches, s->n_locals));
  for (int r = 0; r < s->n_locals; r++)
    watches[r] = s->locals[r].worker.watch;
  watch_begin(watches[0]);
  return watchdog_start(watches, s->n_locals, (double)job->asked.options->timeout, world->hangs, world->hangs_context,
                        &s->watchdog);
}

static Status session_begin(Session *s, Outcome *outcome) {
  Job *job = s->training.job;
  const Link *link = job->asked.world->mpi ? &job->asked.world->link : NULL;
  watch_phase(job->asked.world->link.watch, WATCH_PLAN, 0);
  TRY(trainer_prepare(&s->training, outcome));
  TRY(trainer_agree(link, create_workers(s), outcome));
  TRY(start_watchdog(s));
  start_workers(s);
  TRY(finish(s, open_worker(&s->locals[0].worker, outcome)));
  resume_loaded(job);
  origin_close(job->asked.origin);
  job->asked.origin = NULL;
  return OK;
}

Status session_open(Job *job, FILE *out, OnnxpipeProgress *progress, void *context, Session **session,
                    Outcome *outcome) {
  Session *s;
  TRY(ARENA_NEW(job->arena, s, 1));
  s->training = (Training){.job = job,
                           .out = job->asked.options->quiet ? NULL : out,
                           .progress = progress,
                           .progress_context = context,
                           .checkpoint_lock = -1};
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  *session = s;
  s->status = session_begin(s, outcome);
  return s->status;
}

const Options *session_options(const Session *s) {
  return s->training.job->asked.options;
}

void session_say(const Session *s, const char *format, ...) {
  FILE *out = s->locals[0].worker.rank ? NULL : s->training.out;
  va_list arguments;
  if (!out)
    return;
  va_start(arguments, format);
  vfprintf(out, format, arguments);
  va_end(arguments);
  putc('\n', out);
  fflush(out);
}

int64_t session_steps(const Session *s) {
  return s->training.steps;
}

int64_t session_done(const Session *s) {
  return s->locals[0].worker.steps_done;
}

bool session_failed(const Session *s) {
  return s->status != OK;
}

/* A step that would read from a file that is another one by now is not begun, so that what was trained can be saved. In
 * one process everybody reads from the same; ranks of an MPI world fail where they read. */
static Status check_file(const Session *s, const Dataset *data) {
  return s->training.job->asked.world->mpi ? OK : dataset_unchanged(data);
}

static Status check_data(const Session *s) {
  return check_file(s, &s->training.job->given.data);
}

/* With the next plan from here on. Between leaving and entering no other worker of this process looks at the training.
 */
static Status replan(Session *s) {
  Worker *own = &s->locals[0].worker;
  for (int r = 1; r < s->n_locals; r++)
    s->locals[r].worker.next = own->next;
  issue(s, COMMAND_LEAVE);
  TRY(finish(s, worker_leave(own)));
  const Plan *plan = &own->next->job.decided.plan;
  Status status = replan_take(&s->training, own->next);
  if (status != OK && own->link)
    link_withdraw(own->link, status);
  own->next = NULL;
  TRY(finish(s, status));
  issue(s, COMMAND_ENTER);
  TRY(finish(s, worker_enter(own)));
  session_say(s, "replanned after step %lld: %.3g ms a step are predicted", (long long)own->steps_done,
              1e3 * plan->step_seconds);
  return OK;
}

/* Whether all ranks know that there is a next plan, and a checkpoint has what was trained, where the run writes them:
 * one under way is ended, and all ranks know how, before anybody leaves; where it was not written, the next one is
 * awaited. */
static Status is_to_replan(Session *s, bool *is) {
  Worker *w = &s->locals[0].worker;
  *is = w->word.bits & REQUEST_REPLAN;
  if (!*is || !session_options(s)->checkpoint)
    return OK;
  if (w->checkpoint == w->steps_done) {
    issue(s, COMMAND_CHECKPOINT_END);
    TRY(finish(s, worker_checkpoint_end(w)));
  }
  *is = w->checkpoint < 0 && w->written.code == OK && w->written.step == w->steps_done;
  return OK;
}

Status session_step(Session *s) {
  TRY(still_good(s));
  TRY(check_data(s));
  bool replans;
  TRY(is_to_replan(s, &replans));
  if (replans)
    TRY(replan(s));
  issue(s, COMMAND_STEP);
  Status status = worker_step(&s->locals[0].worker);
  if (status != OK && !s->links && !s->training.job->asked.world->mpi && check_data(s) != OK)
    return status_code(); /* alone, and before the weights were updated: they are the last step's */
  return finish(s, status);
}

Status session_metrics(Session *s, OnnxpipeMetrics *metrics) {
  TRY(still_good(s));
  return finish(s, worker_metrics(&s->locals[0].worker, metrics));
}

Status session_validate(Session *s, OnnxpipeValidation *validation) {
  const Validation *v = s->training.validation;
  TRY(still_good(s));
  if (!v)
    return fail(E_USAGE, "there is nothing to validate with: --validate FILE or --validation-split");
  TRY(check_data(s)); /* which the last samples may be of */
  TRY(check_file(s, &v->job.given.data));
  issue(s, COMMAND_VALIDATE);
  TRY(finish(s, worker_validate(&s->locals[0].worker)));
  *validation = s->locals[0].worker.validated;
  return OK;
}

const OnnxpipeValidation *session_validation(const Session *s) {
  return s->training.validation ? &s->locals[0].worker.validated : NULL;
}

bool session_is_due(const Session *s, int64_t step) {
  return step % s->training.every == 0 || step == s->training.steps;
}

int session_asked(const Session *s) {
  return s->locals[0].worker.word.bits;
}

void session_tell(const Session *s, const char *line) {
  if (!s->locals[0].worker.rank)
    job_report(s->training.job, "%s", line);
}

Status session_save(Session *s, const char *path, Outcome *outcome) {
  TRY(still_good(s));
  issue(s, COMMAND_SAVE);
  *outcome = (Outcome){0};
  Status status = worker_save(&s->locals[0].worker, path, outcome);
  return outcome->goes_on ? status : finish(s, status);
}

Status session_checkpoint(Session *s) {
  TRY(still_good(s));
  if (!s->locals[0].worker.writer)
    return fail(E_USAGE, "a checkpoint needs a folder: --checkpoint DIR");
  issue(s, COMMAND_CHECKPOINT);
  return finish(s, worker_checkpoint(&s->locals[0].worker));
}

Status session_checkpoint_wait(Session *s, Outcome *outcome) {
  Worker *w = &s->locals[0].worker;
  TRY(still_good(s));
  if (w->writer) {
    issue(s, COMMAND_CHECKPOINT_WAIT);
    TRY(finish(s, worker_checkpoint_wait(w)));
  }
  if (w->written.code == OK)
    return OK;
  *outcome = (Outcome){.agreed = true, .elsewhere = w->rank != 0};
  Status status = status_adopt((Status)w->written.code, w->written.message);
  status_context(CHECKPOINT_LOST, (long long)w->written.step);
  return status;
}

/* What a run that failed did until then. Its failure stays what there is to say. */
static void write_rest(Session *s) {
  Worker **workers;
  char message[4096];
  snprintf(message, sizeof message, "%s", status_message());
  bool any = s->n_locals && ARENA_NEW(s->training.job->arena, workers, s->n_locals) == OK;
  for (int r = 0; any && r < s->n_locals; r++)
    workers[r] = &s->locals[r].worker;
  if (any)
    timeline_write_rest(workers, s->n_locals);
  status_adopt(s->status, message);
}

/* One that is under way when a step fails, or a rank ends, takes its place all the same, where every rank began it and
 * wrote its part. What failed before is what there is to say. */
static void end_checkpoint(Session *s) {
  Worker *workers[OPTIONS_MOST_RANKS];
  char message[sizeof s->message];
  Status code = status_code();
  if (!s->n_locals || s->locals[0].worker.rank) /* rank 0's is to finish */
    return;
  for (int r = 0; r < s->n_locals; r++)
    workers[r] = &s->locals[r].worker;
  snprintf(message, sizeof message, "%s", status_message());
  checkpoints_finish(workers, s->n_locals);
  status_adopt(code, message);
}

/* Gradients that were not written, where nothing else is there to say; all have ended in good order. */
static Status check_dump(const Session *s, Outcome *outcome) {
  if (!s->n_locals || !*s->locals[0].worker.lost_gradients)
    return OK;
  outcome->agreed = true;
  return fail(E_IO, "the gradients of step %lld are not there: %s", (long long)s->training.first_step + 1,
              s->locals[0].worker.lost_gradients);
}

Status session_close(Session *s, Outcome *outcome) {
  Status status = OK;
  if (!s)
    return OK;
  bool good = s->status == OK;
  if (good) {
    issue(s, COMMAND_END);
    status = finish(s, worker_end(&s->locals[0].worker, outcome));
  }
  join_workers(s);
  if (!good)
    write_rest(s);
  end_checkpoint(s);
  for (int r = 0; r < s->n_locals; r++)
    worker_close(&s->locals[r].worker);
  watchdog_stop(s->watchdog);
  boundaries_close(&s->training.boundaries);
  validation_close(s->training.validation);
  replan_drop(s->training.replanned);
  replan_drop(s->n_locals ? s->locals[0].worker.next : NULL);
  if (s->links && s->n_locals)
    transport_local_close(s->n_locals, s->links);
  if (status != OK || !good)
    metrics_discard(s->training.metrics);
  else if ((status = metrics_close(s->training.metrics)) != OK)
    outcome->agreed = true; /* all have ended in good order */
  else
    status = check_dump(s, outcome);
  if (s->training.checkpoint_lock >= 0)
    close(s->training.checkpoint_lock);
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->lock);
  return status;
}
