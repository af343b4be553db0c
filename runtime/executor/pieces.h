/* Updates whose states are offloaded, in pieces that fill a slot of the store's window each. While one is updated, the
 * next ones' states come and those of the ones before go; the first ones' come while the step computes, the last ones'
 * go while the next one does. Invariant: pieces follow the graph's order, and each element is updated as it is where
 * all states lie on the device. */
#ifndef RUNTIME_EXECUTOR_PIECES_H
#define RUNTIME_EXECUTOR_PIECES_H

#include "runtime/executor/shuttle.h"

struct Executor;
struct Update;

typedef struct {
  struct Update *updates; /* of parameters, or of parts of them */
  Span *spans;
  int n, n_spans;
} Piece;

/* Whether the update node's states pass through the window. */
bool pieces_take(const struct Executor *executor, const Node *node);
/* Makes the executor's pieces of the update nodes that they take. */
Status pieces_make(struct Executor *executor);
/* Has the states of the first pieces on their way. Once in a step, before its update. */
Status pieces_fetch(struct Executor *executor);
/* Enqueues all updates, and what they need. */
Status pieces_update(struct Executor *executor);
/* The updates of one piece alone, on what its slot holds. */
Status piece_call(struct Executor *executor, const Piece *piece);

#endif
