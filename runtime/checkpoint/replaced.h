/* Contents that initializers have in place of the model's file: --init-from's, of what does not train, and in the run
 * that goes on from its checkpoint. Invariant: what is small is in memory, for binding folds it; what is large lies in
 * the store, where the graph has it. */
#ifndef RUNTIME_CHECKPOINT_REPLACED_H
#define RUNTIME_CHECKPOINT_REPLACED_H

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/job/job.h"

/* From now on it has other contents. *contents: memory that the caller fills with them, dense, as the initializer's
 * type; NULL: they are large, and loaded into the store. */
Status replaced_add(Job *job, int initializer, void **contents);
/* Those that the checkpoint has, which is mapped. */
Status replaced_resume(Job *job, const Checkpoint *checkpoint);

/* Whether it is another than the file's, and stays so: no graph of the job writes it. The job's graph is bound. */
bool replaced_stays(const Job *job, int initializer);
/* Whether a value of the job's graph is one that lies in the store alone. */
bool replaced_is_stored(const Job *job, const Value *value);

#endif
