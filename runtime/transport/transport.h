/* A transport moves bytes between ranks. A batch of transfers is posted together, so that a bidirectional exchange
 * cannot deadlock. Order is kept per pair of ranks and direction within one channel: the k-th send of a to b meets
 * the k-th receive of b from a. Nothing is buffered for the user: a send is done when its buffer may be reused.
 * One file a transport, each ends in one struct.
 *
 * Failure is final and everybody's: the first rank that dies or withdraws makes every later wait and post of every rank
 * fail E_COMM with one message, "rank 2: …" or "rank 2 died: …". After a wait or post failed so, or withdraw returned,
 * the transport touches none of this rank's buffers again. Both channels of a rank are used by one thread. */
#ifndef RUNTIME_TRANSPORT_TRANSPORT_H
#define RUNTIME_TRANSPORT_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "runtime/transport/watch.h"

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
  /* Until the transfer is done; once for each ticket. Fails E_COMM when a peer died or withdrew, or when the two sides
   * differ in bytes, naming both ranks. */
  Status (*wait)(Endpoint *, Ticket ticket);
  /* OK, or as a wait would fail now: a peer died or withdrew. Cheap. */
  Status (*check)(const Endpoint *);
  /* Moves on what was posted, without waiting: called now and then between kernels and within
   * long ones. NULL: nothing to do. */
  void (*progress)(Endpoint *);
  /* Tells every peer that this rank gives up, so that their waits fail too with this message. */
  void (*withdraw)(Endpoint *, const char *message);
  /* After a failure, on every rank that lives: waits until all have called it, some seconds at most, and takes back
   * what peers could still write here. Where all did, `close` ends the run in good order. NULL: nothing to do. */
  void (*part)(Endpoint *);
} Transport;

/* Both channels of one rank. */
typedef struct {
  const Transport *transport;
  Endpoint *endpoints[CHANNELS];
  Watch *watch; /* of the rank; its waits say whom for */
} Link;

/* Threads of one process: links[r] is rank r's. */
extern const Transport transport_local;
Status transport_local_open(int ranks, Link *links);
void transport_local_close(int ranks, Link *links);

/* Ranks of the MPI world (a build without MPI: E_UNSUPPORTED). `open` starts MPI if it was not, `close` ends it; when
 * `failed`, and not all ranks have parted, it withdraws with status_message() unless a failure is known already, leaves
 * the rank that reports it the time to do so, and aborts the whole run with exit status 1: print before. Call `open`
 * before other threads start: from then on SIGTERM, by which mpirun ends the ranks that a dead one leaves, is held back
 * until it is known who died, two seconds at most. */
extern const Transport transport_mpi;
Status transport_mpi_open(Link *link);
void transport_mpi_close(Link *link, bool failed);
/* "Open MPI v4.1.4, …" as MPI says it, into text; "" in a build without MPI. */
void transport_mpi_library(char *text, size_t room);

/* Whether what crosses between ranks of one machine is copied twice, through memory that both have, and only while both
 * call MPI: where the system forbids ranks to read each other's memory, or the environment asks for it. */
bool transport_mpi_copies_twice(void);

/* Has `report` called, before `open`: once, from a thread of the transport, when a peer has died, on the lowest rank
 * that lives, or when SIGTERM ends this rank, at once, since the rank's own thread may be inside a long kernel. It must
 * not call the transport. */
void transport_mpi_on_death(void (*report)(void *context, const char *message), void *context);
/* Has `heed` asked, before `open`, at a first SIGTERM that no failure explains, from that thread: where it says that
 * the rank will end by itself, nothing more happens until a second one. */
void transport_mpi_on_term(bool (*heed)(void));
/* When no rank of those that share this number has moved for so many seconds (watcher.h), they fail with
 * the line that names who waits for whom, and it is reported as a death is. Set before `open`, it is heeded from there
 * on (mpi_start.h), anew at any time. 0, at first: never. */
void transport_mpi_timeout(double seconds);
/* Set before `open`: `end` ends the process, and nothing else. It is called from a thread of its own where the rank's
 * is inside MPI or elsewhere and does not come back: with the line where it was not reported, else with "". */
void transport_mpi_on_hang(void (*end)(void *context, const char *line), void *context);
/* Whether the failure that this rank knows of is printed elsewhere: by the rank that it began on, or by `report`. */
bool transport_mpi_reported(void);

/* Blocking helpers over CHANNEL_CONTROL. A rank on which one fails has withdrawn. */
Status link_send(const Link *link, int peer, const void *data, size_t bytes);
Status link_receive(const Link *link, int peer, void *data, size_t bytes);
/* Withdraws with status_message(), which stays, unless a failure is known already: before a rank leaves messages out
 * that its peers await. Returns `status`. */
Status link_withdraw(const Link *link, Status status);

#endif
