/* Wires over NCCL: a communicator of two for every ordered pair of ranks, each with a stream of its own. Invariant: a
 * communicator's operations are groups, one a message, and nothing but the peer's same message holds a group up.
 *
 * NCCL runs the operations of one communicator one after another, so what may overtake must not share one: were both
 * directions in one, a receive that was posted early would hold up the send that its sender waits for. Two directions a
 * pair, apart, need no more order than schedule_prove has proved (runtime/transport/wire.h). A group is one message,
 * never two, for a group is over only as a whole.
 *
 * The host never blocks in NCCL: communicators are nonblocking, and while one is busy the host's transport is asked
 * whether everybody is alive. Connections, which NCCL makes in the first group and for which it needs the peer's host,
 * are made in wire_nccl_open by a message of a few bytes. */
#include "runtime/transport/wire.h"

#ifdef ONNXPIPE_NCCL

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "runtime/transport/nccl_library.h"
#include "runtime/transport/pool.h"

/* Kernels of all communicators may wait on the device at once, and must leave it room: blocks of one, and of all. */
enum { WIRE_BLOCKS = 8, ALL_BLOCKS = 64 };

typedef struct Wire {
  ncclComm_t comm;
  Stream *stream;
  int peer;
  bool is_send;
} Wire;

typedef struct Message {
  struct Message *next; /* the pool's */
  Event *done;          /* behind its group. Made once */
  int users;            /* tickets that have not been waited for */
} Message;

struct WireEnd {
  WireSpec spec;
  const NcclLibrary *nccl;
  Wire *wires;  /* [ranks][2]: to the rank, from it; comm NULL: none */
  Event *ready; /* where the rank's stream was when it last posted */
  Pool messages;
  void *hello; /* device memory of the first messages */
};

static Wire *wire_of(const WireEnd *end, int peer, bool is_send) {
  return &end->wires[2 * peer + !is_send];
}

static void pause_between(void) {
  nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static Status check_host(const WireEnd *end) {
  return end->spec.transport->check(end->spec.endpoint);
}

/* NCCL may know of a death before the host's transport does, which knows whose it is. */
static Status fail_wire(const WireEnd *end, const Wire *wire, ncclResult_t result) {
  static const double seconds = 1;
  for (double begun = clock_seconds(); result == ncclRemoteError || result == ncclSystemError; pause_between()) {
    TRY(check_host(end));
    if (clock_seconds() - begun > seconds)
      break;
  }
  const char *more = end->nccl->GetLastError(wire->comm);
  return fail(E_COMM, "NCCL, %s rank %d: %s%s%s", wire->is_send ? "to" : "from", wire->peer,
              end->nccl->GetErrorString(result), more && *more ? ": " : "", more ? more : "");
}

static bool is_well(ncclResult_t result) {
  return result == ncclSuccess || result == ncclInProgress;
}

/* Until the last call is carried out, which may return earlier. */
static Status settle(const WireEnd *end, const Wire *wire, ncclResult_t result) {
  while (result == ncclInProgress) {
    TRY(check_host(end));
    pause_between();
    ncclResult_t asked = end->nccl->CommGetAsyncError(wire->comm, &result);
    result = asked == ncclSuccess ? result : asked;
  }
  return result == ncclSuccess ? OK : fail_wire(end, wire, result);
}

static Status nccl_check(WireEnd *end) {
  TRY(check_host(end));
  for (int i = 0; i < 2 * end->spec.ranks; i++) {
    ncclResult_t state = ncclSuccess;
    if (!end->wires[i].comm)
      continue;
    ncclResult_t asked = end->nccl->CommGetAsyncError(end->wires[i].comm, &state);
    state = asked == ncclSuccess ? state : asked;
    if (!is_well(state))
      return fail_wire(end, &end->wires[i], state);
  }
  return OK;
}

static Status take_message(WireEnd *end, Message **out) {
  void *object;
  TRY(object_take(&end->messages, &object));
  Message *message = *out = object;
  message->users = 0;
  return message->done ? OK : end->spec.backend->event_create(end->spec.stream, &message->done);
}

static bool belongs(const Transfer *t, const Wire *wire) {
  return t->bytes && t->peer == wire->peer && t->is_send == wire->is_send;
}

/* Everything of the post that is this wire's, as one group, behind `ready`. Transfers without bytes are none. */
static Status post_message(WireEnd *end, Wire *wire, const Transfer *transfers, int n, Ticket *tickets) {
  const NcclLibrary *nccl = end->nccl;
  const Backend *backend = end->spec.backend;
  cudaStream_t stream = backend->stream_handle(wire->stream);
  Message *message;
  TRY(take_message(end, &message));
  TRY(backend->event_wait(wire->stream, end->ready));
  ncclResult_t result = nccl->GroupStart();
  for (int i = 0; i < n && is_well(result); i++) {
    const Transfer *t = &transfers[i];
    if (!belongs(t, wire))
      continue;
    result = t->is_send ? nccl->Send(t->data, t->bytes, ncclUint8, 1, wire->comm, stream)
                        : nccl->Recv(t->data, t->bytes, ncclUint8, 0, wire->comm, stream);
    tickets[i] = (Ticket){(unsigned long)message};
    message->users++;
  }
  ncclResult_t ended = nccl->GroupEnd();
  TRY(settle(end, wire, is_well(result) ? ended : result));
  return backend->event_record(wire->stream, message->done);
}

static Status nccl_post(WireEnd *end, const Transfer *transfers, int n, Ticket *tickets) {
  TRY(nccl_check(end));
  TRY(wire_check_peers(&end->spec, transfers, n));
  TRY(end->spec.backend->event_record(end->spec.stream, end->ready));
  for (int i = 0; i < n; i++)
    tickets[i] = (Ticket){0};
  for (int i = 0; i < n; i++)
    if (transfers[i].bytes && !tickets[i].id)
      TRY(post_message(end, wire_of(end, transfers[i].peer, transfers[i].is_send), transfers, n, tickets));
  return OK;
}

static Status nccl_wait(WireEnd *end, Ticket ticket) {
  Message *message = (Message *)ticket.id;
  if (!message)
    return OK;
  TRY(end->spec.backend->event_wait(end->spec.stream, message->done));
  if (--message->users == 0)
    object_give(&end->messages, message);
  return OK;
}

/* What the sender draws and the receiver takes over: what joins the two ends. */
static Status share_id(const WireEnd *end, const Wire *wire, ncclUniqueId *id) {
  const WireSpec *spec = &end->spec;
  Transfer transfer = {.peer = wire->peer, .is_send = wire->is_send, .data = id, .bytes = sizeof *id};
  Ticket ticket;
  if (wire->is_send) {
    ncclResult_t result = end->nccl->GetUniqueId(id);
    if (result != ncclSuccess)
      return fail_wire(end, wire, result);
  }
  TRY(spec->transport->post(spec->endpoint, &transfer, 1, &ticket));
  return spec->transport->wait(spec->endpoint, ticket);
}

/* The first message, for which the host waits: connections are made here. */
static Status greet(WireEnd *end, const Wire *wire) {
  Transfer hello = {.peer = wire->peer, .is_send = wire->is_send, .data = end->hello, .bytes = sizeof(int)};
  Ticket ticket;
  bool idle = false;
  TRY(nccl_post(end, &hello, 1, &ticket));
  TRY(nccl_wait(end, ticket));
  while (!idle) {
    TRY(nccl_check(end));
    TRY(end->spec.backend->stream_idle(end->spec.stream, &idle));
    if (!idle)
      pause_between();
  }
  return OK;
}

static Status open_wire(WireEnd *end, int peer, bool is_send, int blocks) {
  Wire *wire = wire_of(end, peer, is_send);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclUniqueId id;
  wire->peer = peer;
  wire->is_send = is_send;
  config.blocking = 0;
  config.maxCTAs = blocks;
  TRY(share_id(end, wire, &id));
  TRY(end->spec.backend->stream_open(end->spec.device, 1, &wire->stream));
  TRY(settle(end, wire, end->nccl->CommInitRankConfig(&wire->comm, 2, id, !is_send, &config)));
  return greet(end, wire);
}

/* In one order everywhere: pairs by the lower rank, then the higher; of a pair, upward before downward. So the first
 * wire in that order that is not open has both of its ranks at it. */
static Status open_wires(WireEnd *end) {
  const WireSpec *spec = &end->spec;
  int n = 0;
  for (int r = 0; r < spec->ranks; r++)
    n += spec->peers[r];
  int blocks = n ? ALL_BLOCKS / (2 * n) : 0;
  blocks = blocks < 1 ? 1 : blocks > WIRE_BLOCKS ? WIRE_BLOCKS : blocks;
  for (int peer = 0; peer < spec->ranks; peer++)
    if (spec->peers[peer]) {
      TRY(open_wire(end, peer, spec->rank < peer, blocks));
      TRY(open_wire(end, peer, spec->rank > peer, blocks));
    }
  return OK;
}

/* In good order all communicators are finished together, and then each is waited for: its peer finishes it, too. What
 * does not come to that end is aborted. */
static void close_comms(WireEnd *end, bool failed) {
  int n = 2 * end->spec.ranks;
  bool finished[n];
  for (int i = 0; i < n; i++)
    finished[i] = end->wires[i].comm && !failed && is_well(end->nccl->CommFinalize(end->wires[i].comm));
  for (int i = 0; i < n; i++)
    if (finished[i] && settle(end, &end->wires[i], ncclInProgress) == OK)
      end->nccl->CommDestroy(end->wires[i].comm);
    else if (end->wires[i].comm)
      end->nccl->CommAbort(end->wires[i].comm);
}

static void nccl_close(WireEnd *end, bool failed) {
  const Backend *backend = end->spec.backend;
  if (end->wires) {
    close_comms(end, failed);
    for (int i = 0; i < 2 * end->spec.ranks; i++)
      if (end->wires[i].stream)
        backend->stream_close(end->wires[i].stream);
  }
  if (end->hello)
    backend->release(end->spec.stream, end->hello);
  for (size_t i = 0; i < object_size(&end->messages); i++) {
    Message *message = object_at(&end->messages, i);
    if (message->done)
      backend->event_destroy(message->done);
  }
  object_destroy(&end->messages);
  if (end->ready)
    backend->event_destroy(end->ready);
  free(end->wires);
  free(end);
}

const WireKind wire_nccl = {
    .name = "nccl", .post = nccl_post, .wait = nccl_wait, .check = nccl_check, .close = nccl_close};

static Status open_end(WireEnd *end) {
  const Backend *backend = end->spec.backend;
  if (!end->wires)
    return fail(E_MEMORY, "out of memory");
  TRY(nccl_library(&end->nccl));
  TRY(backend->event_create(end->spec.stream, &end->ready));
  TRY(backend->alloc(end->spec.stream, sizeof(int), &end->hello));
  return open_wires(end);
}

Status wire_nccl_open(const WireSpec *spec, WireEnd **out) {
  WireEnd *end = calloc(1, sizeof *end);
  if (!end)
    return fail(E_MEMORY, "out of memory");
  end->spec = *spec;
  end->messages.bytes = sizeof(Message);
  end->wires = calloc(2 * (size_t)spec->ranks, sizeof *end->wires);
  Status status = open_end(end);
  if (status != OK)
    nccl_close(end, true);
  else
    *out = end;
  return status;
}

int wire_nccl_version(void) {
  const NcclLibrary *library;
  int version = 0;
  return nccl_library(&library) == OK && library->GetVersion(&version) == ncclSuccess ? version : 0;
}

#else

const WireKind wire_nccl = {.name = "nccl"};

Status wire_nccl_open(const WireSpec *spec, WireEnd **end) {
  (void)spec;
  (void)end;
  return fail(E_UNSUPPORTED, "this build has no NCCL");
}

int wire_nccl_version(void) {
  return 0;
}

#endif
