/* Going on from a checkpoint: --resume. Inside the room. */
#ifndef RUNTIME_TRAINING_RESUME_H
#define RUNTIME_TRAINING_RESUME_H

#include "runtime/checkpoint/resume.h"
#include "runtime/training/trainer.h"

/* Options of what is opened before a session: those given, or completed by a checkpoint's, which the caller destroys.
 * NULL: nothing is resumed. */
Status resume_model_options(const Options *given, bool alone, Options **completed);

/* With --resume: finds the checkpoint, the same on every rank, and sets the job's options, which are the given ones
 * completed, `opened` (NULL: the given ones) being those that the model was opened with. Collective. */
Status resume_open(Job *job, const Options *opened, Outcome *outcome);
/* Once every rank has loaded what it needs: nothing of the checkpoint is read again. */
void resume_loaded(Job *job);
/* Also where resume_open failed. */
void resume_close(Job *job);

#endif
