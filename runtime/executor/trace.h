/* What one rank did and when, as its executor goes: spans in a ring that is allocated once. Invariant: recording
 * allocates nothing and waits for nobody; the oldest spans make room, and it is known which steps are whole. */
#ifndef RUNTIME_EXECUTOR_TRACE_H
#define RUNTIME_EXECUTOR_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/clock.h"
#include "partitioner/schedule/schedule.h"

/* The kinds of span; those below ACTION_KINDS are the schedule's actions. A transfer's is its posting. */
typedef enum {
  TRACE_SEND_SUM = ACTION_KINDS, /* of an accumulator that lies on several ranks */
  TRACE_RECV_SUM,
  TRACE_WAIT,  /* `of` says for what */
  TRACE_COPY,  /* from stage to stage on one rank */
  TRACE_BATCH, /* the host looks at the step's samples */
  TRACE_FEED,  /* inputs of a microbatch are put in their place */
  TRACE_NORMS,
  TRACE_UPDATE,
  TRACE_STEP,
  TRACE_VALIDATION, /* behind a step, and so are those below */
  TRACE_CHECKPOINT, /* what keeps the next step waiting */
  TRACE_SNAPSHOT,   /* its copy in memory */
  TRACE_SAVE,
  TRACE_KERNEL,
  TRACE_KINDS
} TraceKind;

/* What a TRACE_WAIT is for, where it is no transfer. */
typedef enum {
  TRACE_DEVICE = TRACE_KINDS,
  TRACE_RANKS,      /* all of them: every device is done and well */
  TRACE_REPORTS,    /* of the step before */
  TRACE_WRITING,    /* the checkpoint before is not on the disk yet */
  TRACE_GLOBAL_NORM /* of all ranks' gradients */
} TraceReason;

typedef struct {
  double begin, end; /* clock_seconds */
  int64_t step;      /* from 0 */
  uint16_t stage, microbatch;
  int32_t peer;  /* rank, of a transfer and of waiting for one */
  int32_t about; /* node of a kernel; of an accumulator 2 · group, one more: the places of its rows */
  uint8_t kind, of;
  bool on_device; /* when its launches ran there; else when the host was at it */
} TraceEvent;

typedef struct {
  TraceEvent *events;          /* [capacity]; event i at i % capacity */
  size_t capacity, n;          /* n: all that were recorded; those past the capacity took the place of the oldest */
  int64_t step, first_whole;   /* steps before first_whole lost events */
  int64_t first, last;         /* steps that are to be recorded */
  int64_t began, ended;        /* those of them that were begun; ended less than began: none */
  bool on, kernels;            /* on: the step at hand is recorded */
  double device_end;           /* when the last span on the device ended */
  double device_error_seconds; /* of aligning the device's clock with the host's, at most */
} Trace;

/* Room for so many bytes of spans, in the arena. */
Status trace_create(Arena *arena, size_t bytes, int64_t first, int64_t last, bool kernels, Trace **trace);
/* From now on events are this step's. NULL is fine. */
void trace_step(Trace *trace, int64_t step);
/* Adds one; its step is filled in. Only where trace_on. */
void trace_add(Trace *trace, TraceEvent event);
/* The same of a step that may be over. */
void trace_put(Trace *trace, TraceEvent event);
/* The last n, which lie in each other, end now. Only where trace_on. */
void trace_end_last(Trace *trace, size_t n);
/* Puts the events that are left in order of their beginnings, what encloses others first; *n of them. */
TraceEvent *trace_sorted(Trace *trace, size_t *n);

static inline bool trace_on(const Trace *trace) {
  return trace && trace->on;
}

/* When a span begins; meaningless where nothing is recorded. */
static inline double trace_begin(const Trace *trace) {
  return trace_on(trace) ? clock_seconds() : 0;
}

/* Ends the span that began there. `event` has all but the times and the step. */
static inline void trace_end(Trace *trace, double begin, TraceEvent event) {
  if (!trace_on(trace))
    return;
  event.begin = begin;
  event.end = clock_seconds();
  trace_add(trace, event);
}

/* A wait that began there is over. */
static inline void trace_waited(Trace *trace, double begin, TraceReason reason) {
  trace_end(trace, begin, (TraceEvent){.kind = TRACE_WAIT, .of = (uint8_t)reason});
}

#endif
