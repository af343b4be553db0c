/* Invariant: what comes after a step depends on its number, on the options and on what all ranks agreed on, so that
 * every rank does the same in the same order. */
#include "runtime/training/loop.h"

#include <string.h>

#include "runtime/training/request.h"

/* Ends with the line that the caller knows, and where the weights are that were trained until then. */
static Status save_the_rest(Session *session, int64_t steps, Status failure, Outcome *outcome) {
  char why[2048];
  const char *path = session_options(session)->save;
  snprintf(why, sizeof why, "%s", status_message());
  TRY(session_save(session, path, outcome));
  return fail(failure, "%s; what %lld step%s trained is in %s", why, (long long)steps, steps == 1 ? "" : "s", path);
}

/* When all steps are done: a checkpoint that could not be written does not keep the model from being saved. */
static Status end(Session *session, Outcome *outcome) {
  const char *save = session_options(session)->save;
  char why[2048];
  Status written = session_checkpoint_wait(session, outcome);
  Outcome lost = *outcome;
  snprintf(why, sizeof why, "%s", status_message());
  Status saved = save && session_steps(session) && !session_failed(session) ? session_save(session, save, outcome) : OK;
  if (saved != OK) {
    if (written != OK && !session_failed(session)) /* two lines, for two things are lost */
      session_tell(session, why);
    return saved;
  }
  if (written == OK)
    return OK;
  *outcome = lost;
  return status_adopt(written, why);
}

/* Whether the run ends: after so many validations without a better loss as --patience says. */
static bool is_enough(const Session *session) {
  const OnnxpipeValidation *v = session_validation(session);
  int64_t patience = session_options(session)->patience;
  if (!patience || v->stalled < patience)
    return false;
  session_say(session, "training stops after step %lld: the best loss, %.6g, was after step %lld", (long long)v->step,
              v->best_loss, (long long)v->best_step);
  return true;
}

/* A request to save that does not succeed is said, and the run goes on. */
static Status save_now(Session *session, Outcome *outcome) {
  const Options *o = session_options(session);
  char line[2048];
  if (o->checkpoint)
    return session_checkpoint(session);
  if (!o->save) {
    session_tell(session, "there is nowhere to save to (--checkpoint, --save)");
    return OK;
  }
  Status status = session_save(session, o->save, outcome);
  if (status != OK && session_failed(session))
    return status;
  if (status == OK)
    snprintf(line, sizeof line, "what %lld steps trained is in %s", (long long)session_done(session), o->save);
  else
    snprintf(line, sizeof line, "%s; training goes on", status_message());
  session_tell(session, line);
  return OK;
}

/* What comes after a step: validation and a checkpoint where they are due; a checkpoint where one is asked for, too, or
 * where the run ends here. *stop: the run ends with it. */
static Status after_step(Session *session, int64_t step, Ending *ending, bool *stop) {
  const Options *o = session_options(session);
  OnnxpipeValidation validation;
  bool due = session_is_due(session, step);
  int asked = session_asked(session);
  if (due && session_validation(session)) {
    TRY(session_validate(session, &validation));
    *stop = is_enough(session);
  }
  if (step < session_steps(session) && !*stop)
    ending->stopped = asked & REQUEST_STOP;
  if (o->checkpoint && (due || ending->stopped))
    return session_checkpoint(session);
  return asked & REQUEST_CHECKPOINT ? save_now(session, &ending->outcome) : OK;
}

/* Until the last step, a loss that gets no better or a request to stop. */
static Status run_steps(Session *session, Ending *ending) {
  int64_t steps = session_steps(session), done = session_done(session);
  bool stop = false;
  while (done < steps && !stop && !ending->stopped) {
    TRY(session_step(session));
    TRY(after_step(session, ++done, ending, &stop));
  }
  return OK;
}

static void say_stopped(Session *session) {
  const Options *o = session_options(session);
  char line[2048];
  snprintf(line, sizeof line, "stopped after step %lld of %lld; what they trained %s%s%s%s",
           (long long)session_done(session), (long long)session_steps(session),
           o->save || o->checkpoint ? "is in " : "is not saved (--checkpoint, --save)", o->save ? o->save : "",
           o->save && o->checkpoint ? " and " : "", o->checkpoint ? o->checkpoint : "");
  session_tell(session, line);
}

static Status run_and_save(Session *session, Ending *ending) {
  const Options *o = session_options(session);
  int64_t first = session_done(session);
  Status status = run_steps(session, ending);
  int64_t done = session_done(session);
  if (status != OK && done > first && o->save && !session_failed(session))
    return save_the_rest(session, done, status, &ending->outcome);
  TRY(status);
  ending->trained = true;
  TRY(end(session, &ending->outcome));
  if (ending->stopped)
    say_stopped(session);
  return OK;
}

Status loop_run(Session *session, Ending *ending) {
  if (session_options(session)->dry_run)
    return OK;
  request_heed(true);
  Status status = run_and_save(session, ending);
  request_heed(false);
  return status;
}
