/* Which cores the ranks of a machine share, and to which of them a rank's threads keep. */
#ifndef RUNTIME_JOB_CORES_H
#define RUNTIME_JOB_CORES_H

#include "base/machine.h"
#include "base/status.h"

typedef struct {
  int cores[MACHINE_CORES], n; /* that this process may use */
  double quota;                /* cores' time that control groups leave; 0: no limit */
  int ranks;                   /* that share them */
  int first;                   /* of them, this process's first; -1: not known */
  bool bound, undone;          /* a launcher gave the process some of the machine's; mpirun did, unasked: taken back */
  bool pinned;                 /* each thread keeps to a core */
} Cores;

/* What the system and the launcher say, for `here` ranks on this machine. mpirun binds a rank to one core where nobody
 * asks for more: that is undone, or all threads of a rank would share it. A binding that was asked for (--bind-to) or
 * is another launcher's (srun) stands. */
void cores_find(bool mpi, int here, Cores *cores);

/* How many cores' time there is for all ranks that share: no more than control groups leave. At least 1. */
int cores_usable(const Cores *cores);

/* Threads are pinned where those of all ranks take every core, one each. With fewer of them it is the system that knows
 * which cores are idle: another run may have its own. */
void cores_pin(Cores *cores, int threads);

/* [threads] that a rank's threads keep to, where they are pinned; `local` counts the ranks of this process. */
const int *cores_of(const Cores *cores, int local, int threads);

enum { CORES_TEXT = 160 };

/* "of 2 cores (2 ranks on this machine), pinned" */
void cores_text(const Cores *cores, char text[CORES_TEXT]);

#endif
