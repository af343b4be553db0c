/* What was measured on this machine, from run to run: files of the folder onnxpipe in $XDG_CACHE_HOME, else in
 * ~/.cache. A file is one device's under one set of circumstances; it is replaced whole, and what is damaged counts as
 * not there.
 */
#ifndef RUNTIME_COSTS_CACHE_H
#define RUNTIME_COSTS_CACHE_H

#include "runtime/costs/costs.h"
#include "runtime/costs/kinds.h"

typedef struct {
  double *kind_seconds; /* [kinds]; negative: not known */
  double action_seconds, step_seconds;
  LinkSample links[LINK_SAMPLES];
  int n_links;                      /* 0: not known */
  double bus_seconds, wire_seconds; /* of a byte; negative: not known */
} Cached;

/* What all that is measured depends on, beside the nodes: backend, instruction set, this build, processor, cores,
 * threads, busy ranks, transport, which devices they have, and by powers of 4 how many bytes a rank's steps walk
 * through. */
Status cache_about(const Job *job, int rank, size_t bytes, const char **about);

/* Fills *cached, all unknown where nothing is there. Fails E_MEMORY alone. */
Status cache_read(Arena *arena, const char *about, const Kinds *kinds, Cached *cached);
/* Adds to what is there. Where it cannot be written nothing is kept, and nobody minds. */
void cache_write(const char *about, const Kinds *kinds, const Cached *cached);
/* Removes it: what it says turned out not to be so. */
void cache_forget(const char *about);

#endif
