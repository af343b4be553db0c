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

/* How long to search for something better than first fit: steps of some nanoseconds, counted and not timed, so that the
 * same pieces lie at the same offsets on every machine. */
#define PACK_FIRST_FIT 0
#define PACK_THOROUGH UINT64_C(6000000000)

/* Gives every piece an offset and *total the end of them all, or leaves *total where it is beyond. First, the larger
 * first, each has the lowest offset where it meets none that lives at the same time and is placed already. Where this
 * ends above pack_bound and *total, a search goes on until it is there or its steps are used up. The order of the
 * pieces changes. Fails E_LIMIT when sizes overflow. Time and memory of first fit are n log n and what pieces have to
 * do with one another: for each, the fewer of those that live when it does and of all. */
Status pack(Piece *pieces, int n, uint64_t steps, size_t *total);

/* Gives every piece that has room there, the larger first, the lowest offset below `room` where it meets none of
 * `fixed`, whose offsets stand, and none of those before; the others SIZE_MAX. The order of the pieces changes. */
Status pack_within(const Piece *fixed, int n_fixed, size_t room, Piece *pieces, int n);

/* The most bytes that live at one time: nothing can end below. */
Status pack_bound(const Piece *pieces, int n, size_t *bound);

/* Looks for offsets that end at `goal`, or as near as it comes, below `*end` where the pieces end now; keeps what they
 * have otherwise. `bound` is theirs. */
Status pack_search(Piece *pieces, int n, size_t bound, size_t goal, uint64_t steps, size_t *end);

#endif
