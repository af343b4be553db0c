/* Training in the caller's steps: all workers of this process, those of other ranks in threads of their own. Inside the
 * room. Under mpirun every function is collective. After a failure other than session_save's each one fails again
 * with its message, and only session_close is left to do. */
#ifndef RUNTIME_TRAINING_SESSION_H
#define RUNTIME_TRAINING_SESSION_H

#include "runtime/training/trainer.h"

typedef struct Session Session;

/* A session of a job that job_open will take, in the job's arena: plans, prints to `out` (NULL: nothing) on rank 0,
 * opens the workers. `progress` (may be NULL) is called on rank 0 with each step's metrics, from the caller's thread,
 * before the next step ends. */
Status session_open(Job *job, FILE *out, OnnxpipeProgress *progress, void *context, Session **session,
                    Outcome *outcome);
const Options *session_options(const Session *session);
/* A line to the session's `out`, on rank 0. */
void session_say(const Session *session, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Steps that the options ask for, from the run's beginning; those that are done, by runs before this one, too. */
int64_t session_steps(const Session *session);
int64_t session_done(const Session *session);
/* E_IO where the data file is not what it was when it was opened: in one process the session can still save then. */
Status session_step(Session *session);
/* Of the last step, the same on every rank of an MPI world; before the first one, zeros and `steps`. */
Status session_metrics(Session *session, OnnxpipeMetrics *metrics);
/* Validates with the weights as they are. E_USAGE without --validate. */
Status session_validate(Session *session, OnnxpipeValidation *validation);
/* Of the last validation; all 0 before the first; NULL where nothing is validated. Its is_best says whether the weights
 * are the best so far, if no step came after it. */
const OnnxpipeValidation *session_validation(const Session *session);
/* Whether what comes every --every steps, and after the last, comes after this one (from 1). */
bool session_is_due(const Session *session, int64_t step);
/* A file that cannot be written leaves the session as it was. */
Status session_save(Session *session, const char *path, Outcome *outcome);
/* Begins a checkpoint of what the last step left, and waits for the one before; what cannot be written is told by the
 * second. Whether the last one lies in its place, when it does; where it could not be written the session stays good.
 */
Status session_checkpoint(Session *session);
Status session_checkpoint_wait(Session *session, Outcome *outcome);
bool session_failed(const Session *session);
/* What was asked (training/request.h) to be done after the last step, the same on all ranks. */
int session_asked(const Session *session);
/* A line to whoever started the library, on rank 0. */
void session_tell(const Session *session, const char *line);
/* Ends and frees it, also after a failure: that is not reported again. NULL is fine. */
Status session_close(Session *session, Outcome *outcome);

#endif
