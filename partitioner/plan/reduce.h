/* The graph of a partition with items that stay together as one. */
#ifndef PARTITIONER_PLAN_REDUCE_H
#define PARTITIONER_PLAN_REDUCE_H

#include "base/arena.h"
#include "partitioner/plan/partition_graph.h"

/* Lists of every node, one behind the other: those of i are at[first[i]] … at[first[i + 1] - 1]. */
typedef struct {
  int *first, *at;
} Lists;

/* Nodes are in topological order, edges and tensors are there once, tensors of one node are left out. */
typedef struct {
  Arena *arena; /* its own: what was made on the way to it is gone */
  int n, n_tensors;
  int *node_of;        /* [n_items] */
  double **seconds;    /* [n_kinds][n] */
  double *bytes;       /* [n] */
  Lists after, before; /* of each node */
  Lists members;       /* nodes of each tensor */
  Lists tensors;       /* of each node */
  double *tensor_seconds;
} Reduced;

/* Items of a cycle, and nodes that it costs nothing to move to their neighbour, are one. The caller ends it with
 * reduced_free, also where this fails. */
Status reduce_exactly(const PartitionGraph *problem, Reduced *reduced);

/* Puts nodes together until at most `most` are left: those first that exchange most for their seconds. */
Status reduce_to(const PartitionGraph *problem, int most, Reduced *reduced);

/* What either made; nothing of zeros. */
void reduced_free(Reduced *reduced);

#endif
