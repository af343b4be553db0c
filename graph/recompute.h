/* Recomputation: the backward pass of a stage runs some of its forward nodes again instead of keeping what they made.
 * Invariant: a clone has its node's operator, attributes and operands, so it makes the same bits; what draws numbers
 * draws them by the counter and its own attributes, which are the same. What writes or reads a buffer runs once. */
#ifndef GRAPH_RECOMPUTE_H
#define GRAPH_RECOMPUTE_H

#include "graph/stages.h"

/* Whether the forward node may run again. */
bool recompute_may(const Graph *graph, const Node *node);

/* A copy, in the arena, of a graph with stages assigned, in which nothing that the forward nodes `again` [n_nodes] make
 * is read by backward nodes of their stage: these read clones, each just before the first node that needs it, in phase
 * B where a B node needs it, else in W. Clones read what is kept, and other clones. Ids of values and of forward nodes
 * are the graph's, clones' values come after them; the other nodes follow in their order. The graph itself stays as it
 * is. *stages, the graph's, gets the copy's lists. */
Status recompute_graph(Arena *arena, const Graph *graph, const bool *again, Stages *stages, Graph **copy);

#endif
