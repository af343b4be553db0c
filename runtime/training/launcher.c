/* Launchers that start ranks without MPI's knowing. Invariant: no process of several trains the whole model alone
 * unless it was told to. */
#include <stdlib.h>

#include "runtime/training/trainer.h"

/* What launchers tell each process of its place: Open MPI's, MPICH's and its kin, Slurm, torchrun and its kin. */
static const struct {
  const char *rank, *size;
} launchers[] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                 {"PMI_RANK", "PMI_SIZE"},
                 {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
                 {"RANK", "WORLD_SIZE"}};
enum { LAUNCHERS = sizeof launchers / sizeof *launchers };

/* Which of them has started others that this world lacks; LAUNCHERS: none. */
static int find_launcher(int size) {
  int i = 0;
  for (; i < LAUNCHERS && size == 1; i++) {
    const char *said = getenv(launchers[i].size);
    if (getenv(launchers[i].rank) && said && atol(said) > 1)
      return i;
  }
  return LAUNCHERS;
}

bool launcher_is_foreign(int size) {
  return find_launcher(size) < LAUNCHERS;
}

Status launcher_check(const World *world, const Options *options) {
  int i = find_launcher(world->size);
  if (i == LAUNCHERS || options->ranks)
    return OK;
  const char *rank = launchers[i].rank, *size = launchers[i].size;
  return fail(
      E_USAGE,
      "%s=%s and %s=%s: one of %s processes, but MPI sees it alone, and each would train the whole model: start "
      "them with this MPI's mpirun, or give --ranks N for N threads of each",
      rank, getenv(rank), size, getenv(size), getenv(size));
}
