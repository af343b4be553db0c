/* Cuts a topological order of the forward nodes into consecutive stages so that the slowest stage (its compute plus
 * what crosses its cuts) is as fast as possible and every rank's memory suffices. Exact, in O(stages × items × 64)
 * steps: the bottleneck is searched bit by bit among the doubles, for a given one a stage is feasible or not. */
#ifndef PARTITIONER_PLAN_PARTITION_H
#define PARTITIONER_PLAN_PARTITION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* Everything the dynamic programme needs, per position of the order; no graph. */
typedef struct {
  int n_items, n_stages;
  const double *const *seconds; /* [n_stages][n_items]: forward + backward of one microbatch on the stage's device */
  const double *const *cut_seconds; /* [n_stages - 1][n_items + 1]: sending from stage s to the next and back over a
                                       cut before item i */
  const bool *may_cut;              /* [n_items + 1]: false inside a group of uses */
  /* Whether items [from, to) fit as this stage; NULL: always. Monotone in the interval. */
  bool (*fits)(void *context, int stage, int from, int to);
  void *context;
  double at_least; /* no bottleneck is smaller; 0: nothing is known */
} PartitionProblem;

/* E_USAGE where the places to cut, before items 1 … n_items - 1, are fewer than n_stages - 1. */
Status partition_check_cuts(const bool *may_cut, int n_items, int n_stages);

/* cut[s] = first item of stage s (cut[0] = 0, cut[n_stages] = n_items); no stage is empty. *bottleneck: the slowest
 * stage's seconds, as partition_stage_seconds gives them. Among equals the one with the smallest sum of cut seconds
 * (added from the last cut to the first), then the earliest cuts. E_LIMIT where nothing fits, E_USAGE where there are
 * fewer cuts than stages. */
Status partition_solve(const PartitionProblem *problem, int *cut, double *bottleneck);

/* Seconds of items [from, to) as this stage: (seconds of the items before `to` + those of the cut there) less (seconds
 * of the items before `from` - those of the cut there), in this order of rounding. `before` [n_items + 1] are the sums
 * of this stage's seconds from the first item on. */
double partition_stage_seconds(const PartitionProblem *problem, const double *before, int stage, int from, int to);

#endif
