/* What rewrites a graph as a whole, before it is cut: one file a pass. */
#ifndef GRAPH_PASSES_PASSES_H
#define GRAPH_PASSES_PASSES_H

#include "graph/graph.h"

/* Makes one Gelu of GELUs that are spelled out; what they no longer need stays in the graph. */
Status graph_join_gelu(Graph *graph);
/* What the outputs need, in order, into a fresh graph. */
Status graph_compact(const Graph *from, Arena *arena, Graph **to);

#endif
