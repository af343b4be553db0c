/* What the nodes of a training graph take: `profile`. Inside the room. */
#ifndef RUNTIME_MEASURE_H
#define RUNTIME_MEASURE_H

#include "runtime/job/job.h"

/* Measures the training graph of a job that job_open will take and prints operators by the time they take. */
Status measure_run(Job *job, FILE *out);

#endif
