/* The ring, and its order at the end. */
#include "runtime/executor/trace.h"

#include <stdlib.h>
#include <string.h>

Status trace_create(Arena *arena, size_t bytes, int64_t first, int64_t last, bool kernels, Trace **trace) {
  Trace *t;
  TRY(ARENA_NEW(arena, t, 1));
  *t = (Trace){.capacity = bytes / sizeof *t->events, .first = first, .last = last, .kernels = kernels, .ended = -1};
  TRY(ARENA_NEW(arena, t->events, t->capacity));
  memset(t->events, 0, t->capacity * sizeof *t->events); /* its pages are taken now, not one by one in a long run */
  *trace = t;
  return OK;
}

void trace_step(Trace *t, int64_t step) {
  if (!t)
    return;
  t->step = step;
  t->on = step >= t->first && step <= t->last;
  if (!t->on)
    return;
  if (t->ended < t->began)
    t->began = step;
  t->ended = step;
}

void trace_put(Trace *t, TraceEvent event) {
  TraceEvent *place = &t->events[t->n % t->capacity];
  if (t->n >= t->capacity && place->step >= t->first_whole)
    t->first_whole = place->step + 1;
  *place = event;
  t->n++;
}

void trace_add(Trace *t, TraceEvent event) {
  event.step = t->step;
  trace_put(t, event);
}

void trace_end_last(Trace *t, size_t n) {
  double now = clock_seconds();
  for (size_t i = 1; i <= n && i <= t->n; i++)
    t->events[(t->n - i) % t->capacity].end = now;
}

static bool encloses(const TraceEvent *e) {
  return e->kind == TRACE_STEP || e->kind == TRACE_CHECKPOINT;
}

/* Of spans that begin and end together the outer kinds come first. */
static int compare(const void *left, const void *right) {
  const TraceEvent *a = left, *b = right;
  if (a->begin != b->begin)
    return a->begin < b->begin ? -1 : 1;
  if (a->end != b->end)
    return a->end > b->end ? -1 : 1;
  int outer = encloses(b) - encloses(a);
  return outer ? outer : (a->kind == TRACE_KERNEL) - (b->kind == TRACE_KERNEL);
}

TraceEvent *trace_sorted(Trace *t, size_t *n) {
  *n = t->n < t->capacity ? t->n : t->capacity;
  qsort(t->events, *n, sizeof *t->events, compare);
  return t->events;
}
