/* A transport moves bytes between ranks. A batch of transfers is posted together, so that a bidirectional exchange
 * cannot deadlock. Order is kept per pair of ranks and direction within one channel: the k-th send of a to b meets
 * the k-th receive of b from a. Nothing is buffered for the user: a send is done when its buffer may be reused.
 * One file a transport, each ends in one struct. */
#ifndef RUNTIME_TRANSPORT_H
#define RUNTIME_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct {
  int peer;
  bool is_send;
  void *data;
  size_t bytes;
} Transfer;

typedef struct Endpoint Endpoint; /* one rank's end of one channel */
typedef struct {
  unsigned long id; /* 0: nothing to wait for */
} Ticket;

typedef enum { CHANNEL_DATA, CHANNEL_CONTROL, CHANNELS } Channel;

typedef struct {
  const char *name;
  int (*rank)(const Endpoint *), (*size)(const Endpoint *);
  /* Posts n transfers together; tickets[i] is the i-th one's. Does not block. */
  Status (*post)(Endpoint *, const Transfer *transfers, int n, Ticket *tickets);
  /* Until the transfer is done. Fails E_COMM naming the rank when a peer died or withdrew. */
  Status (*wait)(Endpoint *, Ticket ticket);
  /* Tells every peer that this rank gives up, so that their waits fail too with this message. */
  void (*withdraw)(Endpoint *, const char *message);
} Transport;

/* Both channels of one rank. */
typedef struct {
  const Transport *transport;
  Endpoint *endpoints[CHANNELS];
} Link;

/* Threads of one process: links[r] is rank r's. */
extern const Transport transport_local;
Status transport_local_open(int ranks, Link *links);
void transport_local_close(int ranks, Link *links);

/* Ranks of the MPI world (a build without MPI: E_UNSUPPORTED). `open` starts MPI if it was not, `close` ends it; when
 * `failed`, the whole run. A peer that dies fails every wait within seconds, with a message that names it. */
extern const Transport transport_mpi;
Status transport_mpi_open(Link *link);
void transport_mpi_close(Link *link, bool failed);

/* Blocking helpers over CHANNEL_CONTROL. */
Status link_send(const Link *link, int peer, const void *data, size_t bytes);
Status link_receive(const Link *link, int peer, void *data, size_t bytes);

#endif
