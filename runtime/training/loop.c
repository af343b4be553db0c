/* Invariant: what comes after a step depends on its number, on the options and on what all ranks agreed on, so that
 * every rank does the same in the same order. */
#include "runtime/training/loop.h"

#include <string.h>

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
  if (save && session_steps(session) && !session_failed(session))
    TRY(session_save(session, save, outcome));
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

/* What comes after a step. *stop: the run ends with it. */
static Status after_step(Session *session, int64_t step, bool *stop) {
  const Options *o = session_options(session);
  OnnxpipeValidation validation;
  if (!session_is_due(session, step))
    return OK;
  if (session_validation(session)) {
    TRY(session_validate(session, &validation));
    *stop = is_enough(session);
  }
  return o->checkpoint ? session_checkpoint(session) : OK;
}

Status loop_run(Session *session, Outcome *outcome) {
  const Options *o = session_options(session);
  int64_t steps = session_steps(session), done = session_done(session), first = done;
  Status status = OK;
  bool stop = false;
  if (o->dry_run)
    return OK;
  while (status == OK && done < steps && !stop && (status = session_step(session)) == OK)
    status = after_step(session, ++done, &stop);
  if (status == OK)
    return end(session, outcome);
  if (done > first && o->save && !session_failed(session))
    return save_the_rest(session, done, status, outcome);
  return status;
}
