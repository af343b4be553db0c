/* A whole run: its steps, and what comes between and after them. Inside the room. */
#ifndef RUNTIME_TRAINING_LOOP_H
#define RUNTIME_TRAINING_LOOP_H

#include "runtime/training/session.h"

/* How a run ended. */
typedef struct {
  Outcome outcome;
  bool trained; /* all steps that were to be done were: what failed after that is a file */
  int stopped;  /* by which request, before the last step; 0: by none */
} Ending;

/* All steps that the options of the session's job ask for, or those until a request ends it, then the file of --save. A
 * file that cannot be written in between is said and ends nothing. Where a step fails that leaves the session good,
 * what was trained is saved all the same, and the failure says where. Collective. */
Status loop_run(Session *session, Ending *ending);

#endif
