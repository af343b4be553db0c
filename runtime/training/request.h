/* What somebody outside asks of the runs of this process, from a signal's handler or another thread. Inside the room.
 */
#ifndef RUNTIME_TRAINING_REQUEST_H
#define RUNTIME_TRAINING_REQUEST_H

#include <stdbool.h>

/* Bits, as OnnxpipeRequest has them. */
enum { REQUEST_CHECKPOINT = 1, REQUEST_INTERRUPT = 2, REQUEST_TERMINATE = 4 };
enum { REQUEST_STOP = REQUEST_INTERRUPT | REQUEST_TERMINATE };
/* Nobody outside asks for it: rank 0 has another plan for all. */
enum { REQUEST_REPLAN = 8 };

/* Whether a run is at its steps and will heed it. May be called from a signal's handler. */
bool request_make(int what);
/* A run begins to look (true), or does no more. What was asked before the first of them looks is forgotten. */
void request_heed(bool looks);
/* What was asked; saving is asked once, an end stays asked. */
int request_take(void);

#endif
