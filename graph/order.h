/* The order of a forward graph's nodes, in which it will be differentiated, cut and run. */
#ifndef GRAPH_ORDER_H
#define GRAPH_ORDER_H

#include "graph/graph.h"

/* Reorders the nodes of a graph that has forward nodes only (after binding, before a loss or autodiff) so that cuts
 * carry little: the file's order, but a node that no parameter reaches (masks, positions, casts of inputs) moves to
 * just before its first use, unless that makes more bytes live on the way than it saves; model inputs and constants
 * count nothing, every stage has its own. Renumbers nodes. The order of all nodes that a parameter reaches is kept, so
 * every two uses of a differentiated value keep theirs. */
Status graph_order_for_cuts(Graph *graph);

#endif
