/* What a cut does to a graph: every node gets its stage, backward nodes become B or W, and each cut learns which
 * tensors cross it. A tensor used further on crosses every cut on its way (it is relayed). Model inputs, constants
 * and parameters do not cross: every stage that uses one has its own. */
#ifndef GRAPH_STAGES_H
#define GRAPH_STAGES_H

#include "graph/graph.h"

typedef struct {
  ValueId *forward;  /* from stage c to c+1 in phase F, by id */
  ValueId *backward; /* from stage c+1 to c in phase B, by id */
  int n_forward, n_backward;
  size_t forward_bytes, backward_bytes; /* of one microbatch */
} Cut;

typedef struct {
  NodeId *nodes[3]; /* of phases F, B, W, in graph order */
  int n_nodes[3];
  NodeId *backward; /* B and W merged in graph order: what a joined backward runs */
  int n_backward;
  ValueId *uses; /* by id: its nodes touch them, or the update of a parameter that they touch does */
  size_t n_uses;
} StageNodes;

typedef struct {
  int n_stages;
  Cut *cuts; /* n_stages - 1, cut c lies between stages c and c+1 */
  StageNodes *stages;
  NodeId *updates;      /* update nodes by the parameter that they work on: those of v lie from first_update[v] on */
  size_t *first_update; /* [graph->n_values + 1] */
} Stages;

/* Sets stage and phase of every forward and backward node. `stage_of[i]` is the stage of node i for forward nodes
 * (origin == id), ignored for others. Fails E_USAGE when an edge would go backwards (in phase F) or forwards (a
 * cotangent), when a group of uses of a parameter would be separated, or when the loss is not in the last stage,
 * naming the nodes. May be called again with other stages. */
Status stages_assign(Graph *graph, Arena *arena, const int *stage_of, int n_stages, Stages *stages);

/* The nodes of each stage, and what they use, of a graph whose nodes have stage and phase; what crosses the cuts stays
 * as it is. */
Status stages_list(const Graph *graph, Arena *arena, Stages *stages);

/* Where a value stands in a list by id; n: nowhere. */
size_t stages_find(const ValueId *values, size_t n, ValueId value);
static inline bool stage_uses(const StageNodes *stage, ValueId value) {
  return stages_find(stage->uses, stage->n_uses, value) < stage->n_uses;
}

#endif
