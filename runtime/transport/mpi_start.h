/* Watches over the start of MPI, before the ranks can tell each other anything (mesh.h): by what this machine says of
 * the processes that the same launcher started here. */
#ifndef RUNTIME_TRANSPORT_MPI_START_H
#define RUNTIME_TRANSPORT_MPI_START_H

typedef struct StartGuard StartGuard;

/* From now on: where one of them was stopped for so many seconds without end, the lowest rank here that is not calls
 * `end` with a line that says so. That ends its process, and by it the run: it is inside MPI, which waits. 0
 * seconds: never. Likewise for SIGTERM, which the caller has blocked. NULL where `end` is NULL, or nothing can watch.
 */
StartGuard *start_guard_begin(double seconds, void (*end)(void *context, const char *line), void *context);
/* NULL is fine. */
void start_guard_end(StartGuard *guard);

#endif
