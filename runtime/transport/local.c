/* Ranks as threads of one process. Every ordered pair of ranks and channel has one queue, in which requests of one side
 * wait for the other's. Invariant: a queue holds waiting sends or waiting receives, never both; what is matched has
 * left it and is copied by the thread that posted last, outside the lock. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/transport/pool.h"
#include "runtime/transport/transport.h"

typedef enum { WAITING, COPYING, DONE, MISMATCHED } State;

typedef struct Request {
  struct Request *next; /* in the queue */
  struct Queue *queue;
  void *data;
  size_t bytes, peer_bytes;
  int peer;
  State state; /* guarded by the queue's mutex, like all of a request that is not free */
  bool is_send, posted;
} Request;

typedef struct Queue {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  Request *head, **tail; /* all of them sends, or all of them receives */
} Queue;

/* Used by its rank's thread alone; requests stay where they are, since peers hold pointers to them. */
struct Endpoint {
  struct World *world;
  int rank;
  Channel channel;
  bool down; /* everything was taken back: tickets mean nothing any more */
  Pool requests;
};

typedef struct World {
  int ranks;
  Queue *queues;         /* [CHANNELS][from][to] */
  Endpoint *endpoints;   /* [rank][CHANNELS] */
  Watch *watches;        /* [rank] */
  atomic_int failed;     /* 1 + the rank that gave up first; 0: none */
  pthread_mutex_t mutex; /* of the message, written once, before `failed` */
  char message[4096];
} World;

static Queue *queue_of(const World *world, Channel channel, int from, int to) {
  return &world->queues[((size_t)channel * (size_t)world->ranks + (size_t)from) * (size_t)world->ranks + (size_t)to];
}

static int local_rank(const Endpoint *e) {
  return e->rank;
}

static int local_size(const Endpoint *e) {
  return e->world->ranks;
}

static Status fail_as_peer(const World *world) {
  return fail(E_COMM, "rank %d: %s", atomic_load(&world->failed) - 1, world->message);
}

static Status local_check(const Endpoint *e) {
  return atomic_load(&e->world->failed) ? fail_as_peer(e->world) : OK;
}

static void release(Endpoint *e, Request *request) {
  request->posted = false;
  object_give(&e->requests, request);
}

/* Takes the waiting partner of `request` out of the queue, or puts `request` in. */
static Request *match(Queue *queue, Request *request) {
  Request *other = queue->head;
  if (!other || other->is_send == request->is_send) {
    request->next = NULL;
    request->state = WAITING;
    *queue->tail = request;
    queue->tail = &request->next;
    return NULL;
  }
  if (!(queue->head = other->next))
    queue->tail = &queue->head;
  request->peer_bytes = other->bytes;
  other->peer_bytes = request->bytes;
  request->state = other->state = COPYING;
  return other;
}

static Status post_one(Endpoint *e, const Transfer *t, Ticket *ticket) {
  World *world = e->world;
  if (t->peer < 0 || t->peer >= world->ranks || t->peer == e->rank)
    return fail(E_USAGE, "rank %d of %d cannot exchange with rank %d", e->rank, world->ranks, t->peer);
  void *free_request;
  TRY(object_take(&e->requests, &free_request));
  Request *request = free_request;
  Queue *queue =
      t->is_send ? queue_of(world, e->channel, e->rank, t->peer) : queue_of(world, e->channel, t->peer, e->rank);
  *request = (Request){.queue = queue, .data = t->data, .bytes = t->bytes, .peer = t->peer, .is_send = t->is_send};
  pthread_mutex_lock(&queue->mutex);
  /* Looked at under the lock, so that nothing meets what a failing rank left behind. */
  bool failed = atomic_load(&world->failed);
  Request *other = failed ? NULL : match(queue, request);
  pthread_mutex_unlock(&queue->mutex);
  if (failed) {
    release(e, request);
    return fail_as_peer(world);
  }
  request->posted = true;
  if (other) {
    bool fits = other->bytes == t->bytes;
    if (fits && t->bytes)
      memcpy(t->is_send ? other->data : t->data, t->is_send ? t->data : other->data, t->bytes);
    pthread_mutex_lock(&queue->mutex);
    request->state = other->state = fits ? DONE : MISMATCHED;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->mutex);
  }
  *ticket = (Ticket){(unsigned long)request};
  return OK;
}

static void unqueue(Queue *queue, Request *request) {
  Request **at = &queue->head;
  while (*at != request)
    at = &(*at)->next;
  if (!(*at = request->next))
    queue->tail = at;
}

/* Takes back everything that the rank posted on either channel; what is being copied is let finish. */
static void take_back(World *world, int rank) {
  for (int c = 0; c < CHANNELS; c++) {
    Endpoint *e = &world->endpoints[rank * CHANNELS + c];
    e->down = true;
    for (size_t i = 0; i < object_size(&e->requests); i++) {
      Request *request = object_at(&e->requests, i);
      if (!request->posted)
        continue;
      Queue *queue = request->queue;
      pthread_mutex_lock(&queue->mutex);
      if (request->state == WAITING)
        unqueue(queue, request);
      while (request->state == COPYING)
        pthread_cond_wait(&queue->changed, &queue->mutex);
      pthread_mutex_unlock(&queue->mutex);
      release(e, request);
    }
  }
}

static Status local_post(Endpoint *e, const Transfer *transfers, int n, Ticket *tickets) {
  Status status = OK;
  for (int i = 0; i < n && status == OK; i++)
    status = post_one(e, &transfers[i], &tickets[i]);
  if (status == E_COMM)
    take_back(e->world, e->rank);
  return status;
}

static void local_withdraw(Endpoint *e, const char *message) {
  World *world = e->world;
  pthread_mutex_lock(&world->mutex);
  if (!atomic_load(&world->failed)) {
    snprintf(world->message, sizeof world->message, "%s", message);
    atomic_store(&world->failed, e->rank + 1);
  }
  pthread_mutex_unlock(&world->mutex);
  size_t n = (size_t)CHANNELS * (size_t)world->ranks * (size_t)world->ranks;
  for (size_t i = 0; i < n; i++) {
    pthread_mutex_lock(&world->queues[i].mutex);
    pthread_cond_broadcast(&world->queues[i].changed);
    pthread_mutex_unlock(&world->queues[i].mutex);
  }
  take_back(world, e->rank);
}

static Status local_wait(Endpoint *e, Ticket ticket) {
  if (!ticket.id)
    return OK;
  if (e->down)
    return fail_as_peer(e->world);
  Request *request = (Request *)ticket.id;
  Queue *queue = request->queue;
  Watch *watch = &e->world->watches[e->rank];
  watch_wait(watch, request->peer, request->is_send);
  pthread_mutex_lock(&queue->mutex);
  while (request->state == COPYING || (request->state == WAITING && !atomic_load(&e->world->failed)))
    pthread_cond_wait(&queue->changed, &queue->mutex);
  State state = request->state;
  pthread_mutex_unlock(&queue->mutex);
  watch_waited(watch);
  if (state == WAITING) {
    take_back(e->world, e->rank);
    return fail_as_peer(e->world);
  }
  if (state == MISMATCHED) {
    fail(E_COMM, "rank %d %s %zu bytes %s rank %d, which %s %zu", e->rank, request->is_send ? "sends" : "receives",
         request->bytes, request->is_send ? "to" : "from", request->peer, request->is_send ? "receives" : "sends",
         request->peer_bytes);
    local_withdraw(e, status_message());
    return E_COMM;
  }
  release(e, request);
  return OK;
}

const Transport transport_local = {.name = "local",
                                   .rank = local_rank,
                                   .size = local_size,
                                   .post = local_post,
                                   .wait = local_wait,
                                   .check = local_check,
                                   .withdraw = local_withdraw};

Status transport_local_open(int ranks, Link *links) {
  size_t n_queues = (size_t)CHANNELS * (size_t)ranks * (size_t)ranks;
  World *world = calloc(1, sizeof *world);
  if (world) {
    world->queues = calloc(n_queues, sizeof *world->queues);
    world->endpoints = calloc((size_t)ranks * CHANNELS, sizeof *world->endpoints);
    world->watches = calloc((size_t)ranks, sizeof *world->watches);
  }
  if (!world || !world->queues || !world->endpoints || !world->watches) {
    if (world) {
      free(world->queues);
      free(world->endpoints);
      free(world->watches);
    }
    free(world);
    return fail(E_MEMORY, "out of memory: queues of %d ranks", ranks);
  }
  world->ranks = ranks;
  pthread_mutex_init(&world->mutex, NULL);
  for (size_t i = 0; i < n_queues; i++) {
    pthread_mutex_init(&world->queues[i].mutex, NULL);
    pthread_cond_init(&world->queues[i].changed, NULL);
    world->queues[i].tail = &world->queues[i].head;
  }
  for (int r = 0; r < ranks; r++) {
    links[r] = (Link){.transport = &transport_local, .watch = &world->watches[r]};
    atomic_store_explicit(&world->watches[r].waits, WATCH_NOBODY, memory_order_relaxed);
    for (int c = 0; c < CHANNELS; c++) {
      links[r].endpoints[c] = &world->endpoints[r * CHANNELS + c];
      *links[r].endpoints[c] =
          (Endpoint){.world = world, .rank = r, .channel = (Channel)c, .requests = {.bytes = sizeof(Request)}};
    }
  }
  return OK;
}

void transport_local_close(int ranks, Link *links) {
  World *world = links[0].endpoints[0]->world;
  for (int i = 0; i < ranks * CHANNELS; i++)
    object_destroy(&world->endpoints[i].requests);
  size_t n_queues = (size_t)CHANNELS * (size_t)ranks * (size_t)ranks;
  for (size_t i = 0; i < n_queues; i++) {
    pthread_mutex_destroy(&world->queues[i].mutex);
    pthread_cond_destroy(&world->queues[i].changed);
  }
  pthread_mutex_destroy(&world->mutex);
  free(world->queues);
  free(world->endpoints);
  free(world->watches);
  free(world);
}
