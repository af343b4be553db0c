/* What shares one region of memory: pieces that live at the same time share no byte. */
#ifndef GRAPH_PACK_H
#define GRAPH_PACK_H

#include "graph/graph.h"

typedef struct {
  size_t bytes, offset;
  int first, last; /* when it lives: times 0 …, both included */
  ValueId value;   /* NO_VALUE: the workspace of `node` */
  NodeId node;
} Piece;

/* Sorts the pieces, the larger first, and gives every one in turn the lowest offset where it meets none that lives at
 * the same time and is placed already; *total grows to their end. Fails E_LIMIT when sizes overflow. Time and memory
 * are n log n and what pieces have to do with one another: for each, the fewer of those that live when it does and of
 * all. */
Status pack(Piece *pieces, int n, size_t *total);

#endif
