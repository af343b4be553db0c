/* Makes the connections of the mesh: sockets, addresses, who may come in. */
#ifndef RUNTIME_TRANSPORT_MESH_CONNECT_H
#define RUNTIME_TRANSPORT_MESH_CONNECT_H

#include "runtime/transport/mesh.h"

/* A listening socket with room for all other ranks, and where it can be reached. */
Status mesh_connect_listen(int rank, int size, int *listener, MeshAddress *own);

/* fds[r]: a connection to rank r, -1 for the rank itself. Each rank connects to the lower ones and is called by the
 * higher ones. On failure nothing is left open. */
Status mesh_connect_all(int rank, int size, int listener, const MeshAddress *all, int *fds);

#endif
