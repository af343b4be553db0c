/* The memory plan of one stage and of one rank. The same numbers answer the planner and lay out the arena of the run.
 *
 * A stage's values fall into blocks by the points between which they live; all values of a block are born and die
 * together, so a block is one range of bytes for each microbatch in flight ("slot"): a ring, microbatch m lies in slot
 * m modulo slots. That a ring suffices rests on F, B and W of a stage running in increasing microbatch order. What
 * lives within one action goes where the microbatch's own blocks have room meanwhile, for what is not born yet or is
 * dead; else into the scratch region, one a rank. In both, offsets are packed by lifetime. Values that
 * are kept for the whole run are persistent, once a rank: parameters, every accumulator of each of them (also those of
 * groups on other ranks, which arrive before the update), states, constants, ROLE_STEP values and what update nodes
 * write. Every offset and size is a multiple of MEMORY_ALIGNMENT.
 *
 * What the executor relies on:
 * - Model inputs, the target and the counter are fed at the start of F on every stage that uses them and live to their
 * last use.
 * - A cut value that comes from another rank arrives in a block born at the RECV action that posts it; one that is
 *   relayed is sent on out of that block. Two neighbouring stages on one rank exchange nothing over a transport: at the
 *   end of the sender's F (or B, BW) the executor copies the cut's values into the receiver's block, which is therefore
 *   born at the sender's action; the sender's own copies live to the end of that action, no longer.
 * - Sends: F of (stage, m) first waits for SEND_F of (stage, m - send_depth), B or BW for SEND_B of (stage,
 *   m - send_depth); the first backward action of (stage, m) that has nodes also waits for SEND_F of (stage, m), which
 *   cannot block: the peer needed it for the gradient that has arrived. The step's end waits for all of them.
 * - The workspace of an update node begins where scratch does.
 * - loss_sum lives to the end of F, in an inference graph (no loss) each output too, in the stage that produces it; an
 *   output that no node produces lies in the last stage. Neither is overwritten before the rank's next action. */
#ifndef GRAPH_MEMORY_H
#define GRAPH_MEMORY_H

#include "graph/stages.h"

enum { MEMORY_ALIGNMENT = 64, MAX_BLOCKS = 24 };

/* What so many bytes (at most SIZE_MAX / 2) take: the next multiple of MEMORY_ALIGNMENT. */
static inline size_t memory_units(size_t bytes) {
  return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

/* In the order in which a microbatch passes them in one stage. */
typedef enum {
  POINT_RECV_F, /* the stage's forward inputs are posted (or copied, from a stage on the same rank) */
  POINT_F,
  POINT_RECV_B,
  POINT_B,
  POINT_W
} Point;

/* Lives from the start of the action `born` to the end of the action `dies`; with `sent`, until the transfer that
 * follows F (for a forward value) or B (for a gradient) is done as well. Where B and W are joined, dies is F or W. */
typedef struct {
  Point born, dies;
  bool sent;    /* and nothing else implies that the send is done: a forward value that backward needs is not marked */
  size_t bytes; /* one microbatch */
} Block;

typedef enum { PLACE_NONE, PLACE_PERSISTENT, PLACE_BLOCK, PLACE_SCRATCH } PlaceKind;

typedef struct {
  uint8_t kind;  /* PlaceKind */
  uint8_t block; /* of a PLACE_BLOCK */
  size_t offset; /* within the block's slot, or within scratch; 0 for a persistent one: RankMemory says where */
} Place;

typedef struct {
  NodeId node;
  size_t offset; /* within scratch */
} Workspace;

/* As much as the stage has, whatever the size of the graph. */
typedef struct {
  Block blocks[MAX_BLOCKS];
  int n_blocks;
  ValueId *values; /* [n_values], by id: what has a place here */
  Place *places;   /* [n_values] */
  size_t n_values;
  Workspace *workspaces; /* [n_workspaces], by node: of those that have one */
  size_t n_workspaces;
  size_t scratch_bytes; /* the largest of the actions, kernel workspaces included */
  size_t scratch_bound; /* beside these blocks no layout could take less: what lives at once is larger than they */
} StageMemory;

typedef struct {
  int stage;
  int rank;           /* that it lies on */
  bool joined;        /* B and W run as one action, their nodes merged in graph order (StageNodes.backward) */
  bool previous_here; /* the stage before lies on the same rank */
  bool next_here;     /* the stage after lies on the same rank */
} StageSetting;

/* Lays out one stage. Views (OP_VIEW) share their root's place; a view of a received value, an input or a persistent
 * value too. What a node makes in place (OP_IN_PLACE) lies where an input of it did that is not fed and dies there.
 * Fails E_LIMIT when sizes overflow. */
Status memory_plan_stage(Arena *arena, const Graph *graph, const Stages *stages, const StageSetting *setting,
                         StageMemory *memory);

/* Where a value of the stage lies; of kind PLACE_NONE where it has none here. */
Place memory_place(const StageMemory *memory, ValueId value);
/* Where in scratch the workspace of a node of the stage begins; 0 where it has none. */
size_t memory_workspace(const StageMemory *memory, NodeId node);

/* Whether a value lives for the whole run; a view of one does not count. */
bool memory_is_persistent(const Graph *graph, ValueId value);
/* Whether it is fed for each microbatch on every stage that uses it. */
bool memory_is_fed(const Graph *graph, ValueId value);
/* What a value that is stored takes in bfloat16. */
size_t memory_rounded_bytes(const Graph *graph, ValueId value);
/* Whether it is no graph's own but the model's: a parameter, an accumulator or a state of one, a buffer, a constant
 * that lies in the file. Other graphs of the model share it. */
bool memory_is_stored(const Graph *graph, ValueId value);

typedef struct {
  size_t offset; /* of slot 0 in the rank's arena; slot k lies at offset + k * block.bytes */
  int slots;     /* 0: the stage has no such block or lies on another rank */
} BlockPlace;

/* A rank's memory, byte for byte: what is stored, other persistent values, blocks, scratch. What is stored is a piece
 * of its own, for all graphs of the model; offsets count from its beginning as if the rest followed it.
 *
 * Where a rank offloads, the optimizer's states lie in the host's memory. Those of which an update takes parts
 * (optimizer_updates_parts) pass through a window on the device, slot by slot; others it reads and writes where they
 * are. The window belongs to what is stored, behind it. */
typedef struct {
  bool offloads;
  size_t host_bytes;    /* of states that lie there; */
  size_t passing_bytes; /* of these, what passes through the window */
  size_t window_bytes;  /* WINDOW_SLOTS slots, part of state_bytes; 0: nothing passes */
  size_t stored_bytes;
  size_t persistent_bytes;                                             /* the sum of its parts: */
  size_t parameter_bytes, gradient_bytes, state_bytes, constant_bytes; /* states with buffers, constants with scalars;
                                                                          what they round to with either */
  size_t activation_bytes;                                             /* blocks × slots */
  size_t scratch_offset, scratch_bytes;                                /* the largest of its stages and updates */
  size_t total_bytes;
  size_t bound_bytes;        /* with the same slots no layout could take less */
  ValueId *persistent;       /* [n_persistent], by id: what is persistent here, and views of it */
  size_t *persistent_offset; /* [n_persistent] */
  bool *rounded;             /* [n_persistent]: stored here, and what it rounds to (graph/rounded.h), too */
  size_t n_persistent;
  NodeId *updates; /* [n_updates], in graph order: those that the rank runs */
  size_t n_updates;
  BlockPlace (*blocks)[MAX_BLOCKS]; /* [stages] */
} RankMemory;

/* Of a window: while one slot's states are updated, others' come and go. */
enum { WINDOW_SLOTS = 4 };

/* Where a persistent value lies, or a view of one; SIZE_MAX: not persistent here. A state that lies on the host: from
 * the beginning of these. */
size_t memory_persistent_offset(const RankMemory *memory, ValueId value);
static inline bool memory_holds(const RankMemory *memory, ValueId value) {
  return memory_persistent_offset(memory, value) != SIZE_MAX;
}
/* Whether the rank stores it, and what it rounds to, too. */
bool memory_is_rounded(const RankMemory *memory, ValueId value);

/* Whether the value is a state, and the rank of this memory has it on the host. */
bool memory_is_offloaded(const RankMemory *memory, const Graph *graph, ValueId value);

/* Of them those that are not persistent: blocks and scratch, which hold nothing from step to step. */
static inline size_t memory_work_bytes(const RankMemory *memory) {
  return memory->total_bytes - memory->persistent_bytes;
}

/* Lays out the arena of this rank, which holds the stages `here` ([n_stages]) with this many slots a block ([stages]).
 * Update nodes run on every rank that holds their parameter. Fails E_LIMIT when sizes overflow. */
Status memory_plan_rank(Arena *arena, const Graph *graph, const Stages *stages, const StageMemory *stage_memory,
                        int own, const bool *here, int (*slots)[MAX_BLOCKS], RankMemory *memory);

/* Where the value lies in the arena of the rank that holds the stage, for this microbatch; SIZE_MAX: nowhere.
 * `stage_memory` is the array of all stages. */
size_t memory_offset(const RankMemory *rank, const StageMemory *stage_memory, int stage, ValueId value, int microbatch);

/* Whether the rank that this memory belongs to runs an update node: it holds the parameter that its inputs belong to.
 */
bool memory_updates(const RankMemory *rank, const Graph *graph, const Node *node);

#endif
