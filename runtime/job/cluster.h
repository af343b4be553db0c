/* Devices and links that are not here: the option --cluster. What is published of devices is known by name. */
#ifndef RUNTIME_JOB_CLUSTER_H
#define RUNTIME_JOB_CLUSTER_H

#include "base/arena.h"
#include "graph/cost.h"
#include "partitioner/plan/plan.h"

typedef struct {
  DeviceSpec *devices;           /* [ranks] */
  double *pair_bytes_per_second; /* [ranks * ranks] */
  LinkSpec link;                 /* the longest latency that is there, and the lowest rate */
  const char *text;              /* for people */
  bool any_order;                /* ranks may take the devices in another one */
} Cluster;

/* Reads the file for so many ranks, which take its devices in order. E_IO and E_MODEL name the file and the key. */
Status cluster_read(Arena *arena, const char *path, int ranks, Cluster *cluster);

/* The same devices, rank r the one that was device[r]'s. */
Status cluster_seat(Arena *arena, const Cluster *from, int ranks, const int *device, Cluster *to);

#endif
