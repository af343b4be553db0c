/* The memory plan of one stage. The same numbers answer the planner and lay out the arena of the run.
 *
 * A stage's values fall into blocks by the points between which they live; all values of a block are born and die
 * together, so a block is one range of bytes for each microbatch in flight ("slot"). What lives within one action
 * goes into the scratch region, where offsets are packed by lifetime. Values that are kept for the whole run
 * (parameters, accumulators, states, constants, step scalars) are persistent, once a rank.
 * Every offset and size is a multiple of MEMORY_ALIGNMENT. */
#ifndef GRAPH_MEMORY_H
#define GRAPH_MEMORY_H

#include "graph/stages.h"

enum { MEMORY_ALIGNMENT = 64, MAX_BLOCKS = 24 };

/* In the order in which a microbatch passes them in one stage. */
typedef enum {
  POINT_RECV_F, /* the receive buffers of the stage's forward inputs are posted */
  POINT_F,
  POINT_RECV_B,
  POINT_B,
  POINT_W,
  POINT_SENT /* until the peer took it: slots are bounded by the plan's send depth, reuse waits for the send */
} Point;

typedef struct {
  Point born, dies;
  size_t bytes; /* one microbatch */
} Block;

typedef enum { PLACE_NONE, PLACE_PERSISTENT, PLACE_BLOCK, PLACE_SCRATCH } PlaceKind;

typedef struct {
  uint8_t kind;  /* PlaceKind */
  uint8_t block; /* of a PLACE_BLOCK */
  size_t offset; /* within the block's slot, or within scratch; persistent offsets are the rank's, not the stage's */
} Place;

typedef struct {
  Block blocks[MAX_BLOCKS];
  int n_blocks;
  Place *places;           /* [graph->n_values] */
  size_t scratch_bytes;    /* the largest of the phases, kernel workspaces included */
  size_t workspace_offset; /* where in scratch the kernels' workspace begins */
} StageMemory;

/* Lays out one stage. `joined`: B and W run as one action, so that their temporaries share scratch. Views share
 * their root's place; a view of a received value or an input too. */
Status memory_plan_stage(Arena *arena, const Graph *graph, const Stages *stages, int stage, bool joined,
                         StageMemory *memory);

#endif
