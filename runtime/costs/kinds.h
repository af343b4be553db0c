/* Which nodes take equally long: of one operator, with the same attributes, precision, types and shapes. A kind is
 * known by a key that is the same in every graph, so that what was measured in one run serves the next. */
#ifndef RUNTIME_COSTS_KINDS_H
#define RUNTIME_COSTS_KINDS_H

#include "graph/graph.h"

typedef struct {
  uint64_t high, low;
} KindKey;

typedef struct {
  int n;
  int *of_node;  /* [n_nodes]; -1: a view, which takes no time */
  KindKey *keys; /* [n] */
  NodeId *first; /* [n] */
} Kinds;

/* Kinds in the order of their first nodes. */
Status kinds_find(Arena *arena, const Graph *graph, Kinds *kinds);

#endif
