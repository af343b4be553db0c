/* Inference over a data file. Inside the room. */
#ifndef RUNTIME_INFER_H
#define RUNTIME_INFER_H

#include "runtime/job/job.h"

/* All samples in order through the model of a job that job_open will take; every output into the file of the option
 * `out`, joined along its batch axis; an output without one as the first samples give it. */
Status infer_run(Job *job, FILE *out);

#endif
