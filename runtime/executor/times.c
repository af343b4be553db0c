/* Timers of a step. */
#include "runtime/executor/times.h"

#include <math.h>

#include "runtime/executor/internal.h"

static Status create_timers(Executor *e) {
  DeviceTimes *t = &e->times;
  for (int i = 0; i < t->n; i++) {
    TRY(e->backend->timer_create(e->stream, &t->spans[i].begun));
    TRY(e->backend->timer_create(e->stream, &t->spans[i].ended));
  }
  for (int i = 0; i < 2; i++)
    TRY(e->backend->timer_create(e->stream, &t->now[i]));
  return OK;
}

Status times_open(Executor *e) {
  const ActionList *list = &e->spec.plan->schedule.lists[e->spec.rank];
  int n = 2; /* norms, update */
  if (e->backend->is_host || e->spec.rehearses || !(e->spec.trace || e->spec.times))
    return OK;
  for (int i = 0; i < list->n_actions; i++)
    n += action_is_compute(list->actions[i]);
  TRY(ARENA_NEW(e->arena, e->times.spans, n));
  e->times.n = n;
  return create_timers(e);
}

void times_close(const Executor *e) {
  const DeviceTimes *t = &e->times;
  for (int i = 0; i < t->n; i++) {
    if (t->spans[i].begun)
      e->backend->event_destroy(t->spans[i].begun);
    if (t->spans[i].ended)
      e->backend->event_destroy(t->spans[i].ended);
  }
  for (int i = 0; i < 2; i++)
    if (t->now[i])
      e->backend->event_destroy(t->now[i]);
}

Status times_begin(Executor *e, TraceEvent about, DeviceSpan **span) {
  DeviceTimes *t = &e->times;
  const Trace *trace = e->spec.trace;
  *span = NULL;
  if (!t->n)
    return OK;
  about.on_device = true;
  about.step = trace ? trace->step : 0;
  *span = &t->spans[about.kind == TRACE_UPDATE ? t->n - 1 : t->at++];
  (*span)->about = about;
  (*span)->traced = trace_on(trace);
  (*span)->pending = true;
  return tape_timer(e, (*span)->begun);
}

Status times_end(Executor *e, const DeviceSpan *span) {
  return span ? tape_timer(e, span->ended) : OK;
}

enum { ROUNDS = 4 };

/* A moment on both clocks: that of now[0], by the shortest of some waits, which bounds the error. */
static Status look_at_clocks(Executor *e, double *time) {
  DeviceTimes *t = &e->times;
  double shortest = INFINITY;
  for (int i = 0; i < ROUNDS; i++) {
    double sent = clock_seconds();
    TRY(e->backend->event_record(e->stream, t->now[1]));
    TRY(e->backend->stream_wait(e->stream));
    double back = clock_seconds();
    if (back - sent >= shortest)
      continue;
    shortest = back - sent;
    *time = (sent + back) / 2;
    Event *best = t->now[1];
    t->now[1] = t->now[0];
    t->now[0] = best;
  }
  e->spec.trace->device_error_seconds = fmax(e->spec.trace->device_error_seconds, shortest / 2);
  return OK;
}

/* Spans of one line do not overlap, whatever two looks at the clocks are apart. */
static Status give_trace(Executor *e, const DeviceSpan *span, double now) {
  const DeviceTimes *t = &e->times;
  Trace *trace = e->spec.trace;
  TraceEvent event = span->about;
  double since_begin, since_end;
  TRY(e->backend->timer_seconds(span->begun, t->now[0], &since_begin));
  TRY(e->backend->timer_seconds(span->ended, t->now[0], &since_end));
  event.begin = fmax(now - since_begin, trace->device_end);
  event.end = fmax(now - since_end, event.begin);
  trace->device_end = event.end;
  trace_put(trace, event);
  return OK;
}

Status times_read(Executor *e) {
  DeviceTimes *t = &e->times;
  double now = 0;
  bool traced = false;
  for (int i = 0; i < t->n; i++)
    traced |= t->spans[i].pending && t->spans[i].traced;
  if (traced)
    TRY(look_at_clocks(e, &now));
  for (int k = 0; k < t->n; k++) {
    DeviceSpan *span = &t->spans[k ? k - 1 : t->n - 1]; /* the update is the step's before */
    double seconds;
    if (!span->pending)
      continue;
    span->pending = false;
    TRY(e->backend->timer_seconds(span->begun, span->ended, &seconds));
    if (span->about.kind <= ACTION_BW)
      e->stages[span->about.stage].seconds += seconds;
    e->busy_seconds += seconds;
    if (span->traced)
      TRY(give_trace(e, span, now));
  }
  return OK;
}
