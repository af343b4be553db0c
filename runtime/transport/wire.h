/* Wires move bytes between the devices of two ranks as kernels run: what is posted begins when this rank's stream has
 * come so far, and waiting for it makes the stream wait, never the host. (runtime/transport/transport.h is for host
 * memory.)
 *
 * What one post holds for one peer and direction is one message: the peer's post must hold the same sizes in the same
 * order. The k-th message of a to b meets the k-th that b expects from a; each such queue moves in its order, and none
 * waits for another. So what schedule_prove proves of transfers, that they pair in order for every ordered pair of
 * ranks and that rendezvous without a buffer never blocks for ever, is what wires need, and all that they need.
 *
 * A peer that dies or withdraws is noticed by the host's transport, or by the wire itself. Whoever waits on the host
 * for the stream must call `check` meanwhile; when that or a post or wait fails E_COMM, only wires_close is left to do.
 */
#ifndef RUNTIME_TRANSPORT_WIRE_H
#define RUNTIME_TRANSPORT_WIRE_H

#include "backend/backend.h"
#include "runtime/transport/transport.h"

typedef struct WireEnd WireEnd; /* one rank's end of all of its wires of a kind */

typedef struct {
  const char *name;
  /* Transfers of device memory; tickets[i] is the i-th one's, to be waited for once. */
  Status (*post)(WireEnd *, const Transfer *transfers, int n, Ticket *tickets);
  Status (*wait)(WireEnd *, Ticket ticket);
  /* Whether all is well; cheap. */
  Status (*check)(WireEnd *);
  /* Before the rank's memory goes. `failed`: what is under way is given up, else all of it has been waited for. */
  void (*close)(WireEnd *, bool failed);
} WireKind;

/* The rank's stream, the host's transport beside it, and the ranks that it has wires to. */
typedef struct {
  const Backend *backend;
  Stream *stream;
  int device, rank, ranks;
  const bool *peers; /* [ranks] */
  const Transport *transport;
  Endpoint *endpoint; /* on which messages may be exchanged while wires are opened */
} WireSpec;

/* E_USAGE where a transfer is with a rank that there is no wire to. */
static inline Status wire_check_peers(const WireSpec *spec, const Transfer *transfers, int n) {
  for (int i = 0; i < n; i++) {
    int peer = transfers[i].peer;
    if (peer < 0 || peer >= spec->ranks || !spec->peers[peer])
      return fail(E_USAGE, "rank %d of %d has no wire to rank %d", spec->rank, spec->ranks, peer);
  }
  return OK;
}

/* Ranks in threads of one process: copies between devices, or within one. `copies` is the process's. */
typedef struct Copies Copies;
extern const WireKind wire_copy;
Status copies_open(int ranks, Copies **copies);
Status wire_copy_open(Copies *copies, const WireSpec *spec, WireEnd **end);
/* After all ends are closed. NULL is fine. */
void copies_close(Copies *copies);

/* NCCL between devices of their own: nccl.c. Collective: every peer opens, too. */
extern const WireKind wire_nccl;
Status wire_nccl_open(const WireSpec *spec, WireEnd **end);
/* The version of the NCCL that can be loaded here, as its headers count (22809); 0 where there is none, or one of
 * another major version than the headers of this build. */
int wire_nccl_version(void);

#endif
