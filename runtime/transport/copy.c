/* Copies between the devices of one process's ranks. Every ordered pair of ranks has one queue, in which requests of
 * one side wait for the other's; who posts last enqueues the copy on a stream of the receiver's. Invariant: a copy
 * begins after both ranks' streams have come to their posts, and both streams wait for it where their ranks do. */
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "runtime/transport/pool.h"
#include "runtime/transport/wire.h"

typedef enum { FREE, WAITING, ENQUEUED, FAILED } State;

typedef struct Request {
  struct Request *next; /* in its queue; first, for the pool */
  WireEnd *end;         /* whose it is */
  Event *ready, *done;  /* where the rank's stream posted; behind the copy (a receive's). Made once */
  void *data;
  size_t bytes;
  int peer;
  State state;
  bool is_send;
  struct Request *met; /* a send's: the receive, whose `done` it waits for */
  int users;           /* who has yet to wait for this one or for its `done` */
} Request;

typedef struct {
  Request *head, **tail; /* all of them sends, or all of them receives */
} Queue;

struct WireEnd {
  WireSpec spec;
  Copies *copies;
  Stream *stream; /* of the copies that arrive here */
  Pool requests;
};

/* The lock guards everything: what happens under it takes microseconds. */
struct Copies {
  int ranks;
  Queue *queues; /* [from][to] */
  WireEnd *ends; /* [ranks]; they last as long as this, since events of theirs do */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
};

static Queue *queue_of(Copies *copies, const Request *r) {
  int rank = r->end->spec.rank;
  int from = r->is_send ? rank : r->peer, to = r->is_send ? r->peer : rank;
  return &copies->queues[(size_t)from * (size_t)copies->ranks + (size_t)to];
}

/* A free one with its events. */
static Status take(WireEnd *end, Request **out) {
  const Backend *backend = end->spec.backend;
  void *object;
  TRY(object_take(&end->requests, &object));
  Request *r = *out = object;
  if (!r->ready)
    TRY(backend->event_create(end->spec.stream, &r->ready));
  return r->done ? OK : backend->event_create(end->spec.stream, &r->done);
}

/* One of its users is done with it. */
static void drop(Request *r) {
  if (--r->users)
    return;
  r->state = FREE;
  object_give(&r->end->requests, r);
}

/* Enqueues the copy between two that have met. */
static Status copy(const Request *send, const Request *receive) {
  const WireEnd *to = receive->end;
  const Backend *backend = to->spec.backend;
  if (send->bytes != receive->bytes)
    return fail(E_COMM, "rank %d sends %zu bytes to rank %d, which receives %zu", send->end->spec.rank, send->bytes,
                to->spec.rank, receive->bytes);
  TRY(backend->event_wait(to->stream, send->ready));
  TRY(backend->event_wait(to->stream, receive->ready));
  TRY(backend->copy(to->stream, receive->data, send->data, send->bytes, COPY_DEVICE_TO_DEVICE));
  return backend->event_record(to->stream, receive->done);
}

/* Takes the waiting partner out of the queue, or puts the request in. */
static Status meet(Copies *copies, Request *request) {
  Queue *queue = queue_of(copies, request);
  Request *other = queue->head;
  if (!other || other->is_send == request->is_send) {
    request->next = NULL;
    request->state = WAITING;
    *queue->tail = request;
    queue->tail = &request->next;
    return OK;
  }
  if (!(queue->head = other->next))
    queue->tail = &queue->head;
  Request *send = request->is_send ? request : other, *receive = request->is_send ? other : request;
  Status status = copy(send, receive);
  send->state = receive->state = status == OK ? ENQUEUED : FAILED;
  send->met = receive;
  receive->users++;
  pthread_cond_broadcast(&copies->changed);
  return status;
}

static Status post_one(WireEnd *end, const Transfer *t, Ticket *ticket) {
  Request *r;
  TRY(take(end, &r));
  TRY(end->spec.backend->event_record(end->spec.stream, r->ready));
  *r = (Request){.end = end,
                 .ready = r->ready,
                 .done = r->done,
                 .data = t->data,
                 .bytes = t->bytes,
                 .peer = t->peer,
                 .is_send = t->is_send,
                 .users = 1};
  *ticket = (Ticket){(unsigned long)r};
  return meet(end->copies, r);
}

static Status copy_check(WireEnd *end) {
  return end->spec.transport->check(end->spec.endpoint);
}

static Status copy_post(WireEnd *end, const Transfer *transfers, int n, Ticket *tickets) {
  TRY(copy_check(end));
  TRY(wire_check_peers(&end->spec, transfers, n));
  pthread_mutex_lock(&end->copies->mutex);
  Status status = OK;
  for (int i = 0; i < n && status == OK; i++)
    status = post_one(end, &transfers[i], &tickets[i]);
  pthread_mutex_unlock(&end->copies->mutex);
  return status;
}

/* Until the peer has posted its part: its thread may be behind. A peer that fails wakes nobody here, so the host's
 * transport is asked now and then. Under the lock. */
static Status wait_for_peer(WireEnd *end, const Request *r) {
  while (r->state == WAITING) {
    TRY(copy_check(end));
    struct timespec until = clock_until(0.005);
    pthread_cond_timedwait(&end->copies->changed, &end->copies->mutex, &until);
  }
  return r->state == ENQUEUED ? OK
                              : fail(E_COMM, "the copy between rank %d and rank %d failed", end->spec.rank, r->peer);
}

/* The rank's stream behind the copy; then the request is nobody's. */
static Status follow(WireEnd *end, Request *r) {
  Request *receive = r->is_send ? r->met : r;
  TRY(end->spec.backend->event_wait(end->spec.stream, receive->done));
  drop(receive);
  if (r->is_send)
    drop(r);
  return OK;
}

static Status copy_wait(WireEnd *end, Ticket ticket) {
  Request *r = (Request *)ticket.id;
  if (!r)
    return OK;
  pthread_mutex_lock(&end->copies->mutex);
  Status status = wait_for_peer(end, r);
  if (status == OK)
    status = follow(end, r);
  pthread_mutex_unlock(&end->copies->mutex);
  return status;
}

static void unqueue(Queue *queue, Request *request) {
  Request **at = &queue->head;
  while (*at != request)
    at = &(*at)->next;
  if (!(*at = request->next))
    queue->tail = at;
}

/* What nobody has met is taken back; for what is being copied the host waits, since the memory is about to go. */
static void copy_close(WireEnd *end, bool failed) {
  Copies *copies = end->copies;
  (void)failed;
  pthread_mutex_lock(&copies->mutex);
  for (size_t i = 0; i < object_size(&end->requests); i++) {
    Request *r = object_at(&end->requests, i);
    if (r->state == WAITING)
      unqueue(queue_of(copies, r), r);
    else if (r->state == ENQUEUED)
      end->spec.backend->event_wait(end->spec.stream, (r->is_send ? r->met : r)->done);
    r->state = FREE;
  }
  pthread_mutex_unlock(&copies->mutex);
  end->spec.backend->stream_wait(end->spec.stream);
}

const WireKind wire_copy = {
    .name = "copy", .post = copy_post, .wait = copy_wait, .check = copy_check, .close = copy_close};

Status wire_copy_open(Copies *copies, const WireSpec *spec, WireEnd **out) {
  WireEnd *end = &copies->ends[spec->rank];
  pthread_mutex_lock(&copies->mutex);
  end->spec = *spec;
  end->copies = copies;
  end->requests.bytes = sizeof(Request);
  Status status = spec->backend->stream_open(spec->device, 1, &end->stream);
  pthread_mutex_unlock(&copies->mutex);
  *out = end;
  return status;
}

Status copies_open(int ranks, Copies **out) {
  size_t n_queues = (size_t)ranks * (size_t)ranks;
  Copies *copies = calloc(1, sizeof *copies);
  if (copies) {
    copies->queues = calloc(n_queues, sizeof *copies->queues);
    copies->ends = calloc((size_t)ranks, sizeof *copies->ends);
  }
  if (!copies || !copies->queues || !copies->ends) {
    if (copies) {
      free(copies->queues);
      free(copies->ends);
    }
    free(copies);
    return fail(E_MEMORY, "out of memory: queues of %d ranks", ranks);
  }
  copies->ranks = ranks;
  for (size_t i = 0; i < n_queues; i++)
    copies->queues[i].tail = &copies->queues[i].head;
  pthread_mutex_init(&copies->mutex, NULL);
  clock_condition(&copies->changed);
  *out = copies;
  return OK;
}

static void close_end(WireEnd *end) {
  const Backend *backend = end->spec.backend;
  if (!end->copies) /* never opened */
    return;
  for (size_t i = 0; i < object_size(&end->requests); i++) {
    Request *r = object_at(&end->requests, i);
    if (r->ready)
      backend->event_destroy(r->ready);
    if (r->done)
      backend->event_destroy(r->done);
  }
  object_destroy(&end->requests);
  if (end->stream)
    backend->stream_close(end->stream);
}

void copies_close(Copies *copies) {
  if (!copies)
    return;
  for (int r = 0; r < copies->ranks; r++)
    close_end(&copies->ends[r]);
  pthread_mutex_destroy(&copies->mutex);
  pthread_cond_destroy(&copies->changed);
  free(copies->queues);
  free(copies->ends);
  free(copies);
}
