/* The executor's wires: which lanes have them, how the host waits beside them, how a step ends among ranks whose hosts
 * do not wait for each other. Invariant: between connecting and closing, whoever waits for the stream notices when a
 * peer is gone. */
#include "runtime/executor/internal.h"

Way executor_way(const Executor *e, int peer) {
  if (e->spec.boundaries)
    return boundary_between(e->spec.boundaries, e->spec.rank, peer);
  return e->backend->is_host ? WAY_HOST : WAY_STAGED;
}

Status executor_wire_post(Executor *e, Way way, const Transfer *transfers, int n, Ticket *tickets) {
  return boundary_wire(way)->post(e->wires[way], transfers, n, tickets);
}

Status executor_wire_wait(Executor *e, Way way, Ticket ticket) {
  return boundary_wire(way)->wait(e->wires[way], ticket);
}

/* The ranks to which this one has a lane or an exchange of that way. */
static Status find_peers(const Executor *e, Way way, bool **peers, int *n) {
  const Plan *plan = e->spec.plan;
  *n = 0;
  TRY(ARENA_NEW(e->arena, *peers, plan->ranks));
  for (int s = 0; s < plan->stages; s++)
    for (int k = 0; k < ACTION_KINDS - ACTION_SEND_F; k++) {
      const Lane *lane = &e->stages[s].lanes[k];
      if (lane->n && lane->peer != e->spec.rank && lane->way == way)
        (*peers)[lane->peer] = true;
    }
  for (int i = 0; i < e->n_exchanges; i++)
    if (e->exchanges[i].way == way)
      (*peers)[e->exchanges[i].peer] = true;
  for (int r = 0; r < plan->ranks; r++)
    *n += (*peers)[r];
  return OK;
}

static Status connect_way(Executor *e, Way way) {
  const Boundaries *b = e->spec.boundaries;
  bool *peers;
  int n;
  TRY(find_peers(e, way, &peers, &n));
  if (!n)
    return OK;
  WireSpec spec = {.backend = e->backend,
                   .stream = e->stream,
                   .device = e->device,
                   .rank = e->spec.rank,
                   .ranks = b->ranks,
                   .peers = peers,
                   .transport = e->spec.transport,
                   .endpoint = e->spec.endpoint};
  return boundary_open_wire(b, way, &spec, &e->wires[way]);
}

Status executor_connect(Executor *e) {
  const Boundaries *b = e->spec.boundaries;
  if (!b)
    return OK;
  for (int r = 0; r < b->ranks; r++)
    for (int s = 0; s < r; s++)
      e->hosts_run_ahead |= boundary_wire(boundary_between(b, r, s)) != NULL;
  watch_wait(e->spec.watch, WATCH_ALL, false);
  for (Way way = 0; way < WAYS; way++)
    if (boundary_wire(way))
      TRY(connect_way(e, way));
  watch_waited(e->spec.watch);
  return OK;
}

void executor_disconnect(Executor *e, bool failed) {
  for (int way = WAYS - 1; way >= 0; way--)
    if (e->wires[way]) {
      boundary_wire((Way)way)->close(e->wires[way], failed);
      e->wires[way] = NULL;
    }
}

Status executor_wait(Executor *e) {
  if (!e->backend->is_host)
    watch_wait(e->spec.watch, WATCH_DEVICE, false);
  Status status = boundary_settle(e->wires[WAY_NCCL], e->backend, e->stream);
  if (!e->backend->is_host)
    watch_waited(e->spec.watch);
  return status;
}

static Status tell(Executor *e, int peer, bool is_send) {
  char word = 0;
  Ticket ticket;
  Transfer transfer = {.peer = peer, .is_send = is_send, .data = &word, .bytes = 1};
  TRY(e->spec.transport->post(e->spec.endpoint, &transfer, 1, &ticket));
  return e->spec.transport->wait(e->spec.endpoint, ticket);
}

Status executor_agree(Executor *e) {
  int rank = e->spec.rank, ranks = e->spec.plan->ranks;
  double begun = trace_begin(e->spec.trace);
  if (!e->hosts_run_ahead)
    return OK;
  if (rank) {
    TRY(tell(e, 0, true));
    TRY(tell(e, 0, false));
  }
  for (int r = 1; !rank && r < ranks; r++)
    TRY(tell(e, r, false));
  for (int r = 1; !rank && r < ranks; r++)
    TRY(tell(e, r, true));
  trace_waited(e->spec.trace, begun, TRACE_RANKS);
  return OK;
}
