/* Reverse-mode differentiation by appending nodes. This is the one place that sums fan-out, undoes broadcasting
 * and groups the uses of a parameter; rules (graph/ops/) read like the mathematics.
 *
 * Why the bits do not depend on where the graph is cut. The order of every sum follows from the order of the forward
 * nodes alone: the contributions of a value's uses are folded from the last use to the first, each Add with the origin
 * of the use it brings in, each un-broadcast before it is added, with the origin of its use. So a partial sum crosses a
 * cut as one tensor. Appended nodes read forward values that their origin reads or writes, constants, and cotangents
 * whose origin is not before their own.
 * Therefore a cut is sound exactly when, over all nodes: a forward value's user has no lower stage than its producer,
 * and the origin of a backward value's user has no higher stage than the origin of its producer. The order of the nodes
 * satisfies both, whatever other topological order a partitioner prefers has to as well: two uses of one differentiated
 * value keep their order. */
#ifndef GRAPH_AUTODIFF_H
#define GRAPH_AUTODIFF_H

#include "graph/graph.h"

/* Which values [n_values] of a forward graph would get a gradient if the loss depended on them: a parameter reaches
 * them through operators that pass one. */
void autodiff_wants(const Graph *graph, bool *wants);

/* Appends the backward pass of graph->loss_sum, whose cotangent is graph->loss_scale, for every value of
 * ROLE_PARAMETER. Each use of a parameter on the way to the loss belongs to one of at most MAX_GROUPS groups
 * (consecutive uses, in graph order, set down in graph->groups); each group gets one ROLE_GRADIENT value and one
 * Accumulate node (named after the parameter, with the origin of the group's first use) a microbatch. A group that is
 * one lookup has rows and AccumulateRows in their stead (graph/rows.h), where the parameter's `keep` allows it. Nodes
 * are appended with descending origins. Frozen inputs get no gradient nodes.
 * *n_unreached counts the parameters that no gradient reaches: they keep role PARAMETER and get no accumulator.
 * Fails E_UNSUPPORTED naming every operator on the way that has no gradient. */
Status autodiff_append(Graph *graph, size_t *n_unreached);

/* The groups of a parameter that have a gradient, in order; returns how many. */
int autodiff_groups(const Graph *graph, ValueId parameter, const UseGroup *groups[MAX_GROUPS]);
/* Their accumulators, or rows. */
int autodiff_gradients(const Graph *graph, ValueId parameter, ValueId gradients[MAX_GROUPS]);

#endif
