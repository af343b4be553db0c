/* Reverse-mode differentiation by appending nodes. This is the one place that sums fan-out, undoes broadcasting
 * and groups the uses of a parameter; rules (graph/ops/) read like the mathematics. */
#ifndef GRAPH_AUTODIFF_H
#define GRAPH_AUTODIFF_H

#include "graph/graph.h"

enum { MAX_GROUPS = 4 };

/* Appends the backward pass of graph->loss_sum, whose cotangent is graph->loss_scale, for every value of
 * ROLE_PARAMETER. Each use of a parameter belongs to one of at most MAX_GROUPS groups (consecutive uses, in graph
 * order); each group gets one ROLE_GRADIENT value and one Accumulate node a microbatch. Fan-out is summed as a
 * left fold from the last use to the first, each Add with the origin of the use it brings in, so that a partial
 * sum crosses a cut as one tensor and the bits do not depend on where the graph is cut. Nodes are appended in an
 * order in which the origins descend where dependencies allow it.
 * Parameters that no gradient reaches keep role PARAMETER and get no accumulator (reported by *n_unreached).
 * Fails E_UNSUPPORTED naming every operator on the path that has no gradient. */
Status autodiff_append(Graph *graph, size_t *n_unreached);

/* The gradient accumulators of a parameter in group order, at most MAX_GROUPS; returns how many. */
int autodiff_gradients(const Graph *graph, ValueId parameter, ValueId gradients[MAX_GROUPS]);

#endif
