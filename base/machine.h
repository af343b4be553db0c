/* Which machine this is, and what of it a process may use. */
#ifndef BASE_MACHINE_H
#define BASE_MACHINE_H

#include <sched.h>
#include <stdbool.h>

enum { MACHINE_BOOT = 64, MACHINE_CORES = 1024 };

/* The id that the machine has from one start to the next; "" where it tells none. */
void machine_boot(char id[MACHINE_BOOT]);

/* Numbers of the processors that the calling thread may run on into `cores`: how many. With hwloc one of each core,
 * though several threads of the machine share it, in the order in which they share caches; without it all, ascending.
 */
int machine_cores(int cores[MACHINE_CORES]);

/* How many processors the calling thread may run on, several of a core each counted. */
int machine_processors(void);

/* Lets the calling thread run on all processors of the machine again; false where the system refuses. */
bool machine_free(void);

/* The calling thread keeps to one core until it leaves it. */
typedef struct {
  cpu_set_t before;
  bool stays;
} Stay;
void machine_stay(int core, Stay *stay);
void machine_leave(const Stay *stay);

/* How many cores' time the control groups of this process leave it (cpu.max, cpu.cfs_quota_us); 0: they set no limit.
 * `root` stands before the paths of the system's files: "" but in tests. */
double machine_quota(const char *root);

/* Whether this is a guest whose free memory goes back to its hypervisor, in blocks of huge pages, and has to be got
 * anew from there when it is written to: smaller pages may lie in what was kept. `root` as above. */
bool machine_returns_memory(const char *root);

#endif
