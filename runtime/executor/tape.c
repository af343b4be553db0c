/* Counting, recording and replaying. Invariant: what cannot be recorded runs one by one, from there on. */
#include "runtime/executor/tape.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/executor/internal.h"

/* More launches than that are recorded an action at a time, microbatches that have the same addresses once, and copies
 * and timers not at all: a recording takes memory on the device by its launches. */
size_t tape_most_launches = 16384; /* a test's is less */

static bool is_long(const Tape *t) {
  return t->n_launches > tape_most_launches;
}

static Status run_launch(Executor *e, const Launch *l) {
  if (l->call) {
    Status status = executor_call(e, l->call, l->microbatch);
    if (status != OK && l->call->node->phase != PHASE_UPDATE)
      status_context("microbatch %d: ", l->microbatch);
    return status;
  }
  if (l->timer)
    return e->backend->event_record(e->stream, l->timer);
  return l->from ? e->backend->copy(e->stream, l->to, l->from, l->bytes, l->kind)
                 : e->backend->zero(e->stream, l->to, l->bytes);
}

static Status run_all(Executor *e, const Launch *launches, size_t n) {
  for (size_t i = 0; i < n; i++)
    TRY(run_launch(e, &launches[i]));
  return OK;
}

/* On the device's side, the same operands at the same addresses. */
static bool same_launch(const Launch *a, const Launch *b) {
  if (a->call != b->call)
    return false;
  for (int i = 0; a->call && a->call->moves && i < a->call->node->n_in + a->call->node->n_out; i++) {
    int slots = a->call->sites[i].slots;
    if (slots > 1 && a->microbatch % slots != b->microbatch % slots)
      return false;
  }
  return a->call || (a->to == b->to && a->from == b->from && a->bytes == b->bytes && a->kind == b->kind);
}

/* -1: none. */
static int find_part(const Tape *t) {
  for (int p = 0; is_long(t) && p < t->n_parts; p++) {
    size_t i = 0;
    while (t->parts[p].n == t->pending && i < t->pending && same_launch(&t->parts[p].launches[i], &t->launches[i]))
      i++;
    if (i == t->pending)
      return p;
  }
  return -1;
}

static Status make_room(Tape *t) {
  if (t->n_order < t->room)
    return OK;
  int room = t->room ? 2 * t->room : 16;
  Part *parts = realloc(t->parts, (size_t)room * sizeof *parts);
  t->parts = parts ? parts : t->parts;
  int *order = realloc(t->order, (size_t)room * sizeof *order);
  t->order = order ? order : t->order;
  if (!parts || !order)
    return fail(E_MEMORY, "out of memory");
  t->room = room;
  return OK;
}

/* Keeps what is pending as a recording. */
static Status record(Executor *e, Part *part) {
  Tape *t = e->tape;
  *part = (Part){.n = t->pending};
  if (is_long(t)) {
    if (!(part->launches = malloc(t->pending * sizeof *part->launches)))
      return fail(E_MEMORY, "out of memory");
    memcpy(part->launches, t->launches, t->pending * sizeof *part->launches);
  }
  Status status = e->backend->record_begin(e->stream);
  if (status == OK) {
    status = run_all(e, t->launches, t->pending);
    Status ended = e->backend->record_end(e->stream, &part->recording);
    status = status == OK ? ended : status;
  }
  if (status == OK)
    return OK;
  if (part->recording)
    e->backend->recording_free(part->recording);
  free(part->launches);
  return status;
}

/* Whatever kept the launches from being recorded, they run now, or fail for a reason of their own. */
static Status give_up_recording(Executor *e) {
  Tape *t = e->tape;
  size_t n = t->pending;
  t->mode = TAPE_PLAIN;
  t->pending = 0;
  return run_all(e, t->launches, n);
}

static Status flush_recorded(Executor *e) {
  Tape *t = e->tape;
  int p = find_part(t);
  if (p < 0) {
    Part part;
    if (make_room(t) != OK || record(e, &part) != OK)
      return give_up_recording(e);
    p = t->n_parts;
    t->parts[t->n_parts++] = part;
  } else if (make_room(t) != OK) {
    return give_up_recording(e);
  }
  t->order[t->n_order++] = p;
  t->pending = 0;
  return e->backend->replay(e->stream, t->parts[p].recording);
}

Status tape_flush(Executor *e) {
  Tape *t = e->tape;
  if (!t || !t->pending)
    return OK;
  if (t->mode == TAPE_RECORDS)
    return flush_recorded(e);
  if (t->at == t->n_order || t->parts[t->order[t->at]].n != t->pending)
    return fail(E_DEVICE, "a step has other launches than the one that was recorded");
  t->pending = 0;
  return e->backend->replay(e->stream, t->parts[t->order[t->at++]].recording);
}

Status tape_action(Executor *e) {
  return e->tape && is_long(e->tape) ? tape_flush(e) : OK;
}

static Status put(Executor *e, Launch launch) {
  Tape *t = e->tape;
  if (t && t->mode == TAPE_COUNTS)
    t->n_launches++;
  if (!t || t->mode == TAPE_COUNTS || t->mode == TAPE_PLAIN)
    return run_launch(e, &launch);
  if (is_long(t) && !launch.call) {
    TRY(tape_flush(e));
    return run_launch(e, &launch);
  }
  if (t->mode == TAPE_RECORDS) {
    if (t->pending == t->n_launches)
      return fail(E_DEVICE, "a step has more launches than the one before");
    t->launches[t->pending] = launch;
  }
  t->pending++;
  return OK;
}

Status tape_call(Executor *e, Call *call, int microbatch) {
  return put(e, (Launch){.call = call, .microbatch = microbatch});
}

Status tape_timer(Executor *e, Event *timer) {
  return put(e, (Launch){.timer = timer});
}

Status tape_copy(Executor *e, void *to, const void *from, size_t bytes, CopyKind kind) {
  return bytes ? put(e, (Launch){.kind = kind, .to = to, .from = from, .bytes = bytes}) : OK;
}

Status tape_zero(Executor *e, void *to, size_t bytes) {
  return bytes ? put(e, (Launch){.to = to, .bytes = bytes}) : OK;
}

static bool traces_kernels(const Executor *e) {
  return trace_on(e->spec.trace) && e->spec.trace->kernels;
}

void tape_begin(Executor *e, Tape *t) {
  if (!e->backend->record_begin || traces_kernels(e) || t->mode == TAPE_PLAIN)
    return;
  e->tape = t;
  t->at = 0;
  if (t->mode == TAPE_COUNTS && t->n_launches) {
    t->launches = malloc(t->n_launches * sizeof *t->launches);
    t->mode = t->launches ? TAPE_RECORDS : TAPE_PLAIN;
  }
}

Status tape_end(Executor *e) {
  Tape *t = e->tape;
  if (!t)
    return OK;
  TRY(tape_flush(e));
  if (t->mode == TAPE_RECORDS) {
    free(t->launches);
    t->launches = NULL;
    t->mode = TAPE_REPLAYS;
  }
  e->tape = NULL;
  return OK;
}

void tape_drop(Executor *e) {
  Tape *t = e->tape;
  e->tape = NULL;
  if (!t)
    return;
  t->pending = 0;
  if (t->mode == TAPE_COUNTS)
    t->n_launches = 0;
  else if (t->mode == TAPE_RECORDS)
    t->mode = TAPE_PLAIN;
}

void tape_free(const Executor *e, Tape *t) {
  if (t->n_parts)
    e->backend->stream_wait(e->stream);
  for (int p = 0; p < t->n_parts; p++) {
    e->backend->recording_free(t->parts[p].recording);
    free(t->parts[p].launches);
  }
  free(t->parts);
  free(t->order);
  free(t->launches);
}
