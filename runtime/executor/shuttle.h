/* What brings offloaded states to the device and back: a window there, in slots, and a stream for each direction. The
 * store's own stream computes in between.
 *
 * Invariant: a slot is filled after what was in it is back on the host, read after it is filled, and brought back after
 * all that the store's stream had then; copies of one direction run in their order. So a state that is brought anew is
 * as it was left. */
#ifndef RUNTIME_EXECUTOR_SHUTTLE_H
#define RUNTIME_EXECUTOR_SHUTTLE_H

#include "backend/backend.h"

typedef struct Shuttle Shuttle;

/* Bytes of the host's pinned memory, and where in a slot they go. */
typedef struct {
  char *host;
  size_t offset, bytes;
} Span;

/* The window's slots are multiples of 64 bytes, and hold zeros. Fails E_MEMORY. */
Status shuttle_open(const Backend *backend, Stream *stream, int device, size_t window_bytes, Shuttle **shuttle);
void shuttle_close(Shuttle *shuttle);

/* Of each slot; */
size_t shuttle_slot_bytes(const Shuttle *shuttle);
/* and where it lies in the device's memory; of slots, the piece's number modulo their number. */
char *shuttle_slot(const Shuttle *shuttle, int slot);

/* These only enqueue. What comes from here on comes after all that went back, and after all that the store's stream has
 * done to states where they lie; the stream goes on after all that went back where it is to do so (`computes`): graphs
 * that share the store may put their states into other slots, or have no slots for them. */
Status shuttle_begin(Shuttle *shuttle, bool computes);
/* Into a slot: */
Status shuttle_bring(Shuttle *shuttle, int slot, const Span *spans, int n);
/* The store's stream goes on when they are there. */
Status shuttle_arrive(Shuttle *shuttle, int slot);
/* And back. */
Status shuttle_return(Shuttle *shuttle, int slot, const Span *spans, int n);

/* Until all is back on the host. NULL: nothing is away. */
Status shuttle_wait(Shuttle *shuttle);

#endif
