/* The forward nodes of a model in blocks that a person knows: layers, by the names that modules gave to nodes and
 * parameters. For pictures. */
#ifndef PARTITIONER_REPORT_BLOCKS_H
#define PARTITIONER_REPORT_BLOCKS_H

#include "graph/graph.h"

/* Consecutive forward nodes. */
typedef struct {
  const char *label; /* "h.3"; without what all names begin with */
  int first, last;   /* in the order of forward nodes */
} NodeBlock;

typedef struct {
  const Node **nodes; /* [n_nodes]: the forward nodes */
  int n_nodes;
  NodeBlock *blocks;
  int n;
  int *block_of; /* [graph->n_nodes] of forward nodes; -1: another node */
} NodeBlocks;

enum { MOST_NODE_BLOCKS = 400 };

/* A node belongs to the module that its own name ("/h.3/attn/MatMul") or that of a parameter it reads
 * ("h.3.attn.weight") tells, up to the first number there, else to that of the node before. Where names tell no such
 * thing, blocks are so many nodes each. */
Status blocks_find(Arena *arena, const Graph *graph, NodeBlocks *blocks);

#endif
