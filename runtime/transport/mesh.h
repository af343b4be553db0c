/* Who is alive: one TCP connection between every two ranks, watched by a thread of its own. MPI does not tell when a
 * rank dies; a connection that closes without a goodbye does. Ranks also tell each other what they are at, so that they
 * know when none moves any more (watcher.h). The first failure that a rank learns of is final, and is passed on to all
 * peers, so that every rank names the same cause. */
#ifndef RUNTIME_TRANSPORT_MESH_H
#define RUNTIME_TRANSPORT_MESH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "runtime/transport/watch.h"

typedef struct Mesh Mesh;

enum { MESH_HOST = 128, MESH_ADDRESSES = 8 };

/* Where a rank listens: sent to all others by other means, as bytes. */
typedef struct {
  char host[MESH_HOST]; /* equal on ranks of one machine and network, which meet on the loopback interface */
  uint32_t address[MESH_ADDRESSES]; /* IPv4, network order; n_addresses of them */
  int32_t n_addresses;
  uint16_t port;      /* network order */
  uint8_t secret[16]; /* rank 0's counts: who does not know it is not let in */
} MeshAddress;

/* Called as transport_mpi_on_… says; each may be NULL. */
typedef void MeshReport(void *context, const char *message);
typedef struct {
  MeshReport *report, *end;
  void *report_context, *end_context;
  bool (*heed_term)(void);
} MeshCalls;

/* Listens, and fills in where. */
Status mesh_listen(int rank, int size, Mesh **mesh, MeshAddress *own);
/* Connects to every peer (all: [size]) and starts to watch, over this rank by its `own`, too, which outlives the mesh.
 * SIGTERM is blocked in the calling thread and in all others. Fails E_COMM naming the peer that it cannot reach. */
Status mesh_connect(Mesh *mesh, const MeshAddress *all, Watch *own, const MeshCalls *calls);
/* As transport_mpi_timeout says. */
void mesh_timeout(Mesh *mesh, double seconds);

/* Whether a failure is known; cheap. */
bool mesh_failed(const Mesh *mesh);
/* Fails E_COMM with the message of the failure. */
Status mesh_fail(const Mesh *mesh);
/* Whether the known failure is printed by another rank, or was by `report`, which the watcher calls where a peer died,
 * nothing moves or this rank is ended by SIGTERM. */
bool mesh_reported(Mesh *mesh);

/* Tells every peer that this rank gives up. Nothing happens when a failure is known already. */
void mesh_withdraw(Mesh *mesh, const char *message);
/* Tells every peer that this rank ends in good order. */
void mesh_goodbye(Mesh *mesh);
/* The same once a failure is known, then until all have said so, this many seconds at most: whether they did. False at
 * once where a rank died. */
bool mesh_part(Mesh *mesh, double seconds);
/* Until the rank that prints the failure is gone, this many seconds at most. At once where it is this one. */
void mesh_wait_reporter(Mesh *mesh, double seconds);
/* Ends the thread, closes everything. NULL is fine. */
void mesh_close(Mesh *mesh);

#endif
