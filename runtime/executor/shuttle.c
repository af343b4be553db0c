/* Copies beside the updates: one stream a direction, so that both ways of the bus are in use. */
#include "runtime/executor/shuttle.h"

#include <stdlib.h>

#include "graph/memory.h"

typedef struct {
  Event *arrived, *updated, *returned;
} Slot;

struct Shuttle {
  const Backend *backend;
  Stream *stream, *in, *out; /* stream: the store's */
  void *window;
  size_t slot_bytes;
  Slot slots[WINDOW_SLOTS];
};

static Status open_parts(Shuttle *s, int device, size_t window_bytes) {
  TRY(s->backend->stream_open(device, 1, &s->in));
  TRY(s->backend->stream_open(device, 1, &s->out));
  for (int i = 0; i < WINDOW_SLOTS; i++) {
    TRY(s->backend->event_create(s->in, &s->slots[i].arrived));
    TRY(s->backend->event_create(s->stream, &s->slots[i].updated));
    TRY(s->backend->event_create(s->out, &s->slots[i].returned));
  }
  TRY(s->backend->alloc(s->stream, window_bytes, &s->window));
  TRY(s->backend->zero(s->stream, s->window, window_bytes));
  return s->backend->stream_wait(s->stream);
}

Status shuttle_open(const Backend *backend, Stream *stream, int device, size_t window_bytes, Shuttle **out) {
  Shuttle *s = calloc(1, sizeof *s);
  *out = NULL;
  if (!s)
    return fail(E_MEMORY, "out of memory");
  s->backend = backend;
  s->stream = stream;
  s->slot_bytes = window_bytes / WINDOW_SLOTS;
  Status status = open_parts(s, device, window_bytes);
  if (status != OK)
    shuttle_close(s);
  else
    *out = s;
  return status;
}

void shuttle_close(Shuttle *s) {
  if (!s)
    return;
  if (s->in)
    s->backend->stream_wait(s->in);
  if (s->out)
    s->backend->stream_wait(s->out);
  for (int i = 0; i < WINDOW_SLOTS; i++) {
    Event *events[] = {s->slots[i].arrived, s->slots[i].updated, s->slots[i].returned};
    for (int k = 0; k < 3; k++)
      if (events[k])
        s->backend->event_destroy(events[k]);
  }
  if (s->window)
    s->backend->release(s->stream, s->window);
  if (s->in)
    s->backend->stream_close(s->in);
  if (s->out)
    s->backend->stream_close(s->out);
  free(s);
}

size_t shuttle_slot_bytes(const Shuttle *s) {
  return s->slot_bytes;
}

char *shuttle_slot(const Shuttle *s, int slot) {
  return (char *)s->window + (size_t)slot * s->slot_bytes;
}

/* An event that was never recorded holds nobody up. */
Status shuttle_begin(Shuttle *s, bool computes) {
  TRY(s->backend->event_record(s->stream, s->slots[0].updated));
  TRY(s->backend->event_wait(s->in, s->slots[0].updated));
  for (int i = 0; i < WINDOW_SLOTS; i++) {
    TRY(s->backend->event_wait(s->in, s->slots[i].returned));
    if (computes)
      TRY(s->backend->event_wait(s->stream, s->slots[i].returned));
  }
  return OK;
}

Status shuttle_bring(Shuttle *s, int slot, const Span *spans, int n) {
  char *to = shuttle_slot(s, slot);
  TRY(s->backend->event_wait(s->in, s->slots[slot].returned));
  for (int i = 0; i < n; i++)
    TRY(s->backend->copy(s->in, to + spans[i].offset, spans[i].host, spans[i].bytes, COPY_HOST_TO_DEVICE));
  return s->backend->event_record(s->in, s->slots[slot].arrived);
}

Status shuttle_arrive(Shuttle *s, int slot) {
  return s->backend->event_wait(s->stream, s->slots[slot].arrived);
}

Status shuttle_return(Shuttle *s, int slot, const Span *spans, int n) {
  const char *from = shuttle_slot(s, slot);
  TRY(s->backend->event_record(s->stream, s->slots[slot].updated));
  TRY(s->backend->event_wait(s->out, s->slots[slot].updated));
  for (int i = 0; i < n; i++)
    TRY(s->backend->copy(s->out, spans[i].host, from + spans[i].offset, spans[i].bytes, COPY_DEVICE_TO_HOST));
  return s->backend->event_record(s->out, s->slots[slot].returned);
}

Status shuttle_wait(Shuttle *s) {
  return s ? s->backend->stream_wait(s->out) : OK;
}
