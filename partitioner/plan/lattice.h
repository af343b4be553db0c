/* The ideals of a reduced graph (sets of nodes that hold the predecessors of all their nodes), by size. */
#ifndef PARTITIONER_PLAN_LATTICE_H
#define PARTITIONER_PLAN_LATTICE_H

#include <stdint.h>

#include "partitioner/plan/reduce.h"

/* Ideal 0 is empty, the last one is all; those that are larger by one node come later. */
typedef struct {
  int n_ideals, words;
  uint64_t *sets;      /* [n_ideals][words] */
  size_t *above_first; /* [n_ideals + 1] in above and node */
  int *above, *node;   /* the ideals that are larger by one node, and the node */
  bool complete;       /* false: there are more than were allowed, and nothing else is to be read */
} Lattice;

/* Gives up, not complete, as soon as it is known that there are more than so many ideals. */
Status lattice_create(Arena *arena, const Reduced *reduced, size_t most_ideals, Lattice *lattice);

static inline bool lattice_has(const Lattice *l, int ideal, int node) {
  return l->sets[(size_t)ideal * (size_t)l->words + (size_t)(node / 64)] >> (node % 64) & 1;
}

#endif
