/* Gradients of tables that are kept as the rows that were looked up. A group's accumulator is then two values of
 * ROLE_GRADIENT: rows [microbatches, lookups, row…], the cotangents of its one Gather a microbatch, in their order, and
 * places int64 [microbatches, lookups], the row of the table that each belongs to, counted from 1; 0: nothing yet.
 *
 * What the update and the norm read of them has the bits of the dense accumulators: a row of the table is, for each
 * group, the sum over microbatches of the sums of its rows within one, each sum from zeros and from the left. */
#ifndef GRAPH_ROWS_H
#define GRAPH_ROWS_H

#include "graph/graph.h"

/* Whether the parameter's gradient is kept so, as far as these nodes [n], each a group, give it: they have to be
 * lookups along axis 0, and, as its `keep` may ask, the rows and places smaller than dense accumulators. Follows from
 * shapes and graph->microbatches. */
bool rows_fit(const Graph *graph, ValueId parameter, const NodeId *uses, size_t n);

/* Makes the rows and places of the parameter's k-th group, whose only use is this Gather, and the AccumulateRows that
 * puts its cotangent there. */
Status rows_accumulate(Graph *graph, const Node *gather, ValueId cotangent, int k, UseGroup *group);

#endif
