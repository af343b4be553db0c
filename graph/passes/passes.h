/* What rewrites a graph as a whole, before it is cut: one file a pass. */
#ifndef GRAPH_PASSES_PASSES_H
#define GRAPH_PASSES_PASSES_H

#include "graph/graph.h"
#include "graph/passes/match.h"

/* What the outputs need, in order, in a fresh graph; of a training graph also what the loss, the accumulators and the
 * updates need, and its groups, phases and denominators. instead [n_nodes]: NULL for a node that stays what it is, else
 * what stands for it: an operator, inputs (from's values) and attributes that make the same outputs; NULL: all stay.
 * map [n_values], from's values to their copies, NO_VALUE where there is none; NULL: not asked for. */
Status graph_copy(const Graph *from, const Node *const *instead, Arena *arena, ValueId *map, Graph **to);

/* A pass: where a node is the root of one of its patterns, what stands for it. The first pattern that matches wins. */
typedef struct {
  const char *name;
  const Rewrite *rewrites;
  int n;
} Pass;

/* GELUs that are spelled out. */
extern const Pass pass_gelu;

/* All that fuse nodes, in order, NULL at the end. */
extern const Pass *const fusing_passes[];

/* The copy after one pass. */
Status graph_rewrite(const Graph *from, const Pass *pass, Arena *arena, ValueId *map, Graph **to);

/* The copy after all passes that fuse nodes. */
Status graph_fuse(const Graph *from, Arena *arena, Graph **to);

#endif
