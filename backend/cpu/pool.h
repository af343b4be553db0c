/* Threads of one stream. Work is a number of tasks. Where bits depend on it, the shape of the work decides it, never
 * the number of threads: whoever runs a task, its bits are the same. */
#ifndef BACKEND_CPU_POOL_H
#define BACKEND_CPU_POOL_H

#include <stdint.h>

#include "base/status.h"

typedef struct Pool Pool;

enum { POOL_SCRATCH_BYTES = 1 << 20 };

/* Task i of a job; scratch: POOL_SCRATCH_BYTES of this thread, 64-byte aligned. */
typedef Status Task(void *context, int64_t i, void *scratch);

/* A pool of `threads` threads (at least 1), the caller's included. */
Status pool_create(int threads, Pool **pool);
void pool_destroy(Pool *pool);
int pool_threads(const Pool *pool);

/* Has worker i, from 1, keep to core cores[i], where the system lets it. */
void pool_place(Pool *pool, const int *cores);

/* Something that does not wait, called by the caller of pool_run between its tasks, at most every tenth of a
 * millisecond; NULL: nothing. */
typedef void Between(void *context);
void pool_between(Pool *pool, Between *between, void *context);

/* Runs tasks 0 … n-1 and returns when all are done; of several that fail, the failure of the lowest counts. Called by
 * one thread at a time. */
Status pool_run(Pool *pool, int64_t n, Task *task, void *context);

#endif
