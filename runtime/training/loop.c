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

Status loop_run(Session *session, Outcome *outcome) {
  const Options *o = session_options(session);
  int64_t steps = session_steps(session), done = 0;
  Status status = OK;
  while (done < steps && (status = session_step(session)) == OK)
    done++;
  if (status == OK && steps && o->save)
    return session_save(session, o->save, outcome);
  if (status != OK && done && o->save && !session_failed(session))
    return save_the_rest(session, done, status, outcome);
  return status;
}
