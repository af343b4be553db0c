/* A whole run: its steps, and what comes between and after them. Inside the room. */
#ifndef RUNTIME_TRAINING_LOOP_H
#define RUNTIME_TRAINING_LOOP_H

#include "runtime/training/session.h"

/* All steps that the options of the session's job ask for, then the file of --save. Where a step fails that leaves the
 * session good, what was trained is saved all the same, and the failure says where. Collective. */
Status loop_run(Session *session, Outcome *outcome);

#endif
