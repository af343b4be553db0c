/* Invariant: what comes after a step depends on its number, on the options and on what all ranks agreed on, so that
 * every rank does the same in the same order. */
#include "runtime/training/loop.h"

#include <string.h>

enum { EVERY = 1000 };

/* Ends with the line that the caller knows, and where the weights are that were trained until then. */
static Status save_the_rest(Session *session, int64_t steps, Status failure, Outcome *outcome) {
  char why[2048];
  const char *path = session_options(session)->save;
  snprintf(why, sizeof why, "%s", status_message());
  TRY(session_save(session, path, outcome));
  return fail(failure, "%s; what %lld step%s trained is in %s", why, (long long)steps, steps == 1 ? "" : "s", path);
}

/* Whether something follows this step, from 1, that follows every --every steps and the last. */
static bool is_due(const Session *session, int64_t step) {
  const Options *o = session_options(session);
  int64_t steps = session_steps(session);
  int64_t every = o->every ? o->every : o->epochs ? steps / o->epochs : EVERY;
  return step == steps || step % every == 0;
}

static Status after_step(Session *session, int64_t step) {
  if (session_options(session)->checkpoint && is_due(session, step))
    return session_checkpoint(session);
  return OK;
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

Status loop_run(Session *session, Outcome *outcome) {
  const Options *o = session_options(session);
  int64_t steps = session_steps(session), done = session_done(session), first = done;
  Status status = OK;
  if (o->dry_run)
    return OK;
  while (done < steps && (status = session_step(session)) == OK && (status = after_step(session, done + 1)) == OK)
    done++;
  if (status == OK)
    return end(session, outcome);
  if (done > first && o->save && !session_failed(session))
    return save_the_rest(session, done, status, outcome);
  return status;
}
