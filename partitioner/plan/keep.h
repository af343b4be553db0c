/* What a stage keeps for its backward pass and what it computes anew: the trade of bytes for seconds. Invariant: no
 * choice of a front is worse than another in both. */
#ifndef PARTITIONER_PLAN_KEEP_H
#define PARTITIONER_PLAN_KEEP_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>

/* What a forward node of the stage makes, or what reaches the stage. */
typedef struct {
  int producer;      /* node; -1: it reaches the stage */
  int last_use;      /* the last forward node that reads it; -1: none does */
  bool needed;       /* by the backward pass itself */
  double kept_bytes; /* to keep it, for all microbatches in flight */
  double live_bytes; /* computed anew, while one microbatch's backward pass runs */
  double held_bytes; /* computed anew, between B and W of all microbatches there */
} KeepValue;

typedef struct {
  double seconds;
  bool may;            /* it may run again */
  const int *in, *out; /* values */
  int n_in, n_out;
} KeepNode;

typedef struct {
  int n_nodes, n_values;
  const KeepNode *nodes;   /* [n_nodes] in forward order */
  const KeepValue *values; /* [n_values] */
} KeepProblem;

typedef struct {
  double bytes, seconds; /* kept, held, and the most that lives at once of what is computed anew; to compute it */
  const bool *again;     /* [n_nodes]: what it makes is not kept */
} KeepChoice;

typedef struct {
  KeepChoice *choices; /* [n] by bytes, the most and the fastest first: it keeps everything */
  int n;
} KeepFront;

/* Nodes fall into segments: of a segment of several nodes only what later segments read is kept, the rest is computed
 * anew together before the first backward node that needs some of it. A dynamic programme over the ends of segments,
 * one for each bound on what a segment computes anew. On a chain, where segments are all choices that there are, the
 * front is exact where it and the segments are few enough for so many merges of states (`effort`); else it is thinned,
 * all but its last: the choice of the fewest bytes. With no effort at all that one is the whole front. */
Status keep_front(Arena *arena, const KeepProblem *problem, double effort, KeepFront *front);

#endif
