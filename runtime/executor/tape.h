/* What a step gives the device, kept the second time and replayed from then on. Invariant: a step puts the same
 * launches on the stream every time, between the same flushes; so what a replayed step leaves out is what its
 * recordings have. Bits do not depend on it.
 *
 * What is put on a tape reaches the stream at the next flush at the latest, in order. One is due before the host waits,
 * before anything else goes to the stream, and where the host would let the device idle. */
#ifndef RUNTIME_EXECUTOR_TAPE_H
#define RUNTIME_EXECUTOR_TAPE_H

#include "backend/backend.h"

struct Executor;
struct Call;

/* A call for a microbatch, a timer, a copy, or zeros (from NULL). */
typedef struct {
  struct Call *call;
  Event *timer;
  int microbatch;
  CopyKind kind;
  void *to;
  const void *from;
  size_t bytes;
} Launch;

/* What lay between two flushes. */
typedef struct {
  Recording *recording;
  Launch *launches; /* where others may be the same */
  size_t n;
} Part;

typedef enum { TAPE_COUNTS, TAPE_RECORDS, TAPE_REPLAYS, TAPE_PLAIN } TapeMode;

typedef struct {
  TapeMode mode;
  size_t n_launches; /* of the step that was counted */
  Launch *launches;  /* of the step that is recorded, since the last flush; room for all of them */
  size_t pending;    /* launches since then */
  Part *parts;       /* [n_parts], different ones */
  int *order;        /* [n_order]: the step's parts */
  int n_parts, n_order, room;
  int at; /* in order, of the step that is replayed */
} Tape;

extern size_t tape_most_launches;

/* From here to the end the executor's launches are the tape's. A step of which kernels are traced runs them one by one:
 * spans are of their own. */
void tape_begin(struct Executor *executor, Tape *tape);
Status tape_end(struct Executor *executor);
/* A failure ends the step. */
void tape_drop(struct Executor *executor);
void tape_free(const struct Executor *executor, Tape *tape);

/* What the executor puts on its stream, by the tape at hand, if there is one. */
Status tape_call(struct Executor *executor, struct Call *call, int microbatch);
Status tape_timer(struct Executor *executor, Event *timer);
Status tape_copy(struct Executor *executor, void *to, const void *from, size_t bytes, CopyKind kind);
Status tape_zero(struct Executor *executor, void *to, size_t bytes);
Status tape_flush(struct Executor *executor);
/* An action is over: a flush, where the step is too long for one recording. */
Status tape_action(struct Executor *executor);

#endif
