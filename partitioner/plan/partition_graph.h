/* Cuts a directed graph of items among devices so that the slowest device (its items plus what it exchanges) is as fast
 * as possible. What lies on the first devices is closed under predecessors after each of them: the stages are
 * differences of ideals, and a dynamic programme over ideals is exact where these are not too many (Tarnawski et al.,
 * "Efficient Algorithms for Device Placement of DNN Graph Operators", NeurIPS 2020). */
#ifndef PARTITIONER_PLAN_PARTITION_GRAPH_H
#define PARTITIONER_PLAN_PARTITION_GRAPH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* Devices that are alike. */
typedef struct {
  int count;
  const double *seconds; /* [n_items]; INFINITY: the item does not run there */
  double capacity_bytes; /* of the items of one device; INFINITY: no limit */
  bool exchanges_free;   /* what it exchanges takes it no time */
} DeviceKind;

typedef struct {
  int n_items, n_edges, n_tensors, n_kinds;
  const int *from, *to;         /* [n_edges] an item, one that comes no earlier; items on a cycle stay together */
  const int *tensor_first;      /* [n_tensors + 1] in tensor_item */
  const int *tensor_item;       /* the items that make or use a tensor */
  const double *tensor_seconds; /* [n_tensors] for a device to send or receive it, once */
  const double *bytes;          /* [n_items]; NULL: none */
  const DeviceKind *kinds;      /* [n_kinds] */
  /* NULL: tensors go through a memory, each device pays those that it and another one touch; devices come in any order
   * and may stay empty. Else [devices - 1]: devices come in the order of their kinds, none stays empty, tensors are
   * passed on from each to the next, and those over a cut take both sides this factor times their seconds. */
  const double *relay;
} PartitionGraph;

typedef struct {
  int *device;         /* [n_items], in the caller's memory: devices are numbered by kind */
  double load_seconds; /* of the slowest device */
  bool exact;          /* no other cut is faster; false: items were put together first, there were too many ideals */
} GraphPartition;

/* E_LIMIT where no cut fits. Takes at most so many ideals and pairs of them, about 100 bytes and 50 ns each. */
Status partition_graph(const PartitionGraph *problem, size_t most_ideals, double most_pairs, GraphPartition *result);

#endif
