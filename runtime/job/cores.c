/* Invariant: ranks that share cores share them evenly, and no two threads that are pinned have one core. */
#include "runtime/job/cores.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The number of this rank among those of its machine, as launchers tell it. */
static int local_rank(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *text = getenv(names[i]);
    if (text && *text)
      return atoi(text);
  }
  return -1;
}

void cores_find(bool mpi, int here, Cores *cores) {
  const char *policy = mpi ? getenv("OMPI_MCA_hwloc_base_binding_policy") : NULL;
  bool marked = mpi && getenv("OMPI_MCA_orte_launch"); /* mpirun tells its ranks */
  int all = (int)sysconf(_SC_NPROCESSORS_ONLN), mine = machine_processors();
  *cores = (Cores){.ranks = here, .first = mpi ? local_rank() : 0, .quota = machine_quota("")};
  cores->undone = marked && !policy && mine < all && machine_free();
  cores->n = machine_cores(cores->cores);
  cores->bound = mpi && !cores->undone && mine < all && !(policy && strcmp(policy, "none") == 0);
  if (!cores->bound)
    return;
  /* To a core it is this rank's own; of ranks that are bound to a socket each has the share of the machine's. */
  cores->ranks = (int)(((long)here * mine + all - 1) / all);
  cores->first = cores->ranks == 1 ? 0 : -1;
}

int cores_usable(const Cores *cores) {
  int n = cores->quota > 0 && cores->quota < cores->n ? (int)cores->quota : cores->n;
  return n > 1 ? n : 1;
}

void cores_pin(Cores *cores, int threads) {
  cores->pinned = cores->first >= 0 && cores->ranks * threads == cores->n && cores_usable(cores) == cores->n;
}

const int *cores_of(const Cores *cores, int local, int threads) {
  return cores->cores + (size_t)(cores->first + local) * (size_t)threads;
}

void cores_text(const Cores *cores, char text[CORES_TEXT]) {
  char ranks[48] = "", quota[48] = "";
  if (cores->ranks > 1)
    snprintf(ranks, sizeof ranks, " (%d ranks on this machine)", cores->ranks);
  if (cores_usable(cores) < cores->n)
    snprintf(quota, sizeof quota, ", of which a quota leaves %.3g", cores->quota);
  snprintf(text, CORES_TEXT, "of %d core%s%s%s%s%s%s", cores->n, cores->n == 1 ? "" : "s", ranks, quota,
           cores->bound ? ", which the launcher gave" : "", cores->undone ? ", mpirun's binding to one undone" : "",
           cores->pinned ? ", pinned" : "");
}
