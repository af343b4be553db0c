/* When a rank's device was at its actions, by its own clock: a timer in front of an action's launches and one behind
 * them, which are launches themselves, so that recordings have them. Invariant: nothing waits for a timer; they are
 * read where the host has waited for the device anyway. What ran in a step that is traced becomes spans, on the host's
 * clock. */
#ifndef RUNTIME_EXECUTOR_TIMES_H
#define RUNTIME_EXECUTOR_TIMES_H

#include "backend/backend.h"
#include "runtime/executor/trace.h"

struct Executor;

typedef struct {
  Event *begun, *ended;
  bool pending, traced; /* since it was last read: it was put on the stream, and the trace is to have it */
  TraceEvent about;     /* all but its times */
} DeviceSpan;

typedef struct {
  DeviceSpan *spans; /* [n]: of a step, in its order; the last is the update */
  int n, at;         /* n = 0: nobody asks. at: the step's next one */
  Event *now[2];     /* [0]: a moment that both clocks know */
} DeviceTimes;

/* Timers for all of a step, where the rank's memory is a device's and somebody asks: the trace, or spec.times. */
Status times_open(struct Executor *executor);
void times_close(const struct Executor *executor);
/* A step begins. */
static inline void times_step(DeviceTimes *times) {
  times->at = 0;
}
/* In front of what the device does next, and behind it. `about`: as trace_end's. *span is NULL where nobody asks. */
Status times_begin(struct Executor *executor, TraceEvent about, DeviceSpan **span);
Status times_end(struct Executor *executor, const DeviceSpan *span);
/* The device is idle: adds what actions took to their stages' seconds and the rank's, and gives the trace its spans. */
Status times_read(struct Executor *executor);

#endif
