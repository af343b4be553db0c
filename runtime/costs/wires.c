/* What a device's bus to the host's memory takes, and a wire from one rank's device to the next rank's. Invariant: a
 * rank that cannot measure says so before others wait for it; one that fails while wires are open withdraws. */
#include <math.h>
#include <stdlib.h>

#include "runtime/costs/internal.h"

enum { BYTES = 8 << 20, MESSAGES = 4, ROUNDS = 4 };

/* One rank's. */
typedef struct {
  const Backend *backend;
  Stream *stream;
  Event *timers[2];
  void *on_device, *on_host; /* BYTES each */
  WireEnd *ends[WAYS];
  bool *peers; /* [WAYS][ranks] */
} Bench;

static Status open_bench(const RankDevice *device, Bench *b) {
  b->backend = device->backend;
  TRY(b->backend->stream_open(device->device, 1, &b->stream));
  for (int i = 0; i < 2; i++)
    TRY(b->backend->timer_create(b->stream, &b->timers[i]));
  TRY(b->backend->pin(b->stream, BYTES, &b->on_host));
  TRY(b->backend->alloc(b->stream, BYTES, &b->on_device));
  return b->backend->zero(b->stream, b->on_device, BYTES);
}

static void close_bench(Bench *b) {
  if (b->on_device)
    b->backend->release(b->stream, b->on_device);
  if (b->on_host)
    b->backend->unpin(b->stream, b->on_host);
  for (int i = 0; i < 2; i++)
    if (b->timers[i])
      b->backend->event_destroy(b->timers[i]);
  if (b->stream)
    b->backend->stream_close(b->stream);
}

/* Between the two timers, of a byte, if that is less than before. */
static Status take_time(const Bench *b, double *least) {
  double seconds;
  TRY(b->backend->timer_seconds(b->timers[0], b->timers[1], &seconds));
  *least = fmin(*least, seconds / ((double)BYTES * MESSAGES));
  return OK;
}

/* The slower way. */
static Status time_bus(const Bench *b, double *seconds) {
  double least[2] = {INFINITY, INFINITY};
  for (int i = 0; i < 2 * ROUNDS; i++) {
    bool up = i % 2;
    TRY(b->backend->event_record(b->stream, b->timers[0]));
    for (int k = 0; k < MESSAGES; k++)
      TRY(up ? b->backend->copy(b->stream, b->on_device, b->on_host, BYTES, COPY_HOST_TO_DEVICE)
             : b->backend->copy(b->stream, b->on_host, b->on_device, BYTES, COPY_DEVICE_TO_HOST));
    TRY(b->backend->event_record(b->stream, b->timers[1]));
    TRY(b->backend->stream_wait(b->stream));
    TRY(take_time(b, &least[up]));
  }
  *seconds = fmax(least[0], least[1]);
  return OK;
}

/* Messages of one direction; who receives them has the number: *slowest where it is more. */
static Status time_messages(const Bench *b, Way way, int peer, bool is_send, double *slowest) {
  const WireKind *kind = boundary_wire(way);
  WireEnd *end = b->ends[way];
  double least = INFINITY;
  for (int i = 0; i < ROUNDS; i++) {
    Ticket tickets[MESSAGES];
    Transfer transfer = {.peer = peer, .is_send = is_send, .data = b->on_device, .bytes = BYTES};
    TRY(b->backend->event_record(b->stream, b->timers[0]));
    for (int k = 0; k < MESSAGES; k++)
      TRY(kind->post(end, &transfer, 1, &tickets[k]));
    for (int k = 0; k < MESSAGES; k++)
      TRY(kind->wait(end, tickets[k]));
    TRY(b->backend->event_record(b->stream, b->timers[1]));
    TRY(boundary_settle(b->ends[WAY_NCCL], b->backend, b->stream));
    TRY(take_time(b, &least));
  }
  if (!is_send)
    *slowest = fmax(*slowest, least);
  return OK;
}

/* Neighbouring ranks, a pair after the other. */
static Status time_pairs(const Measure *m, const Bench *b, const Link *link, int rank, double *slowest) {
  double unused;
  for (int low = 0; low + 1 < m->job->decided.ranks; low++) {
    Way way = boundary_between(&m->boundaries, low, low + 1);
    TRY(agree_most(link, 0, &unused));
    if (!boundary_wire(way) || rank < low || rank > low + 1)
      continue;
    int peer = rank == low ? low + 1 : low;
    TRY(time_messages(b, way, peer, rank == low, slowest));
    TRY(time_messages(b, way, peer, rank != low, slowest));
  }
  return agree_most(link, 0, &unused);
}

/* Wires to both neighbours, where there are any. */
static Status open_wires(const Measure *m, Bench *b, const Link *link, int rank) {
  const JobDecisions *decided = &m->job->decided;
  for (Way way = 0; way < WAYS; way++) {
    bool *peers = b->peers + (size_t)way * (size_t)decided->ranks, any = false;
    for (int peer = rank - 1; boundary_wire(way) && peer <= rank + 1; peer += 2)
      if (peer >= 0 && peer < decided->ranks && boundary_between(&m->boundaries, rank, peer) == way)
        any = peers[peer] = true;
    WireSpec spec = {.backend = b->backend,
                     .stream = b->stream,
                     .device = decided->devices[rank].device,
                     .rank = rank,
                     .ranks = decided->ranks,
                     .peers = peers,
                     .transport = link->transport,
                     .endpoint = link->endpoints[CHANNEL_DATA]};
    if (any)
      TRY(boundary_open_wire(&m->boundaries, way, &spec, &b->ends[way]));
  }
  return OK;
}

static void close_wires(Bench *b, bool failed) {
  for (Way way = 0; way < WAYS; way++)
    if (b->ends[way])
      boundary_wire(way)->close(b->ends[way], failed);
}

/* All ranks have a bench, or need none. */
static Status measure_pairs(const Measure *m, Bench *b, const Link *link, int rank, double *seconds) {
  double slowest = -1;
  Status status = open_wires(m, b, link, rank);
  if (status == OK)
    status = time_pairs(m, b, link, rank, &slowest);
  close_wires(b, status != OK);
  *seconds = slowest;
  return status == OK ? OK : link_withdraw(link, status);
}

bool measures_wires(const Measure *m) {
  const Boundaries *b = &m->boundaries;
  bool any = false;
  for (int r = 0; r + 1 < b->ranks; r++)
    any |= boundary_wire(boundary_between(b, r, r + 1)) != NULL;
  return any;
}

Status measure_wires(const Measure *m, int rank, const Link *link, double *numbers) {
  const RankDevice *device = &m->job->decided.devices[rank];
  Bench b = {.peers = calloc((size_t)WAYS * (size_t)m->job->decided.ranks, sizeof *b.peers)};
  double failed = b.peers == NULL, any_failed = 0;
  if (!device->backend->is_host && !failed)
    failed = open_bench(device, &b) != OK || time_bus(&b, &numbers[OF_BUS]) != OK;
  Status status = OK;
  if (link && measures_wires(m)) {
    status = agree_most(link, failed, &any_failed);
    if (status == OK && !any_failed)
      status = measure_pairs(m, &b, link, rank, &numbers[OF_WIRE]);
  }
  close_bench(&b);
  free(b.peers);
  return status;
}
