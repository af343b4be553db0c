/* Both kinds of wires between emulated devices: the transports' conformance suite over them, what only wires promise,
 * and how they end when a rank does. NCCL is tests/cuda/nccl.cpp. */
#include "tests/test.h"

#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/transport/wire.h"
#include "tests/cuda/emulation.h"
#include "tests/runtime/transport_suite.h"

enum { MOST_RANKS = 4 };

/* A transfer of the suite's: host memory, and its place on the device. */
typedef struct Pending {
  struct Pending *next;
  Transfer host;
  void *device;
  Ticket ticket;
} Pending;

/* One rank, as a transport: the suite's data go to the device, over a wire, and back. */
struct Endpoint {
  struct Rank *rank;
  Channel channel;
};

typedef struct Rank {
  const WireKind *kind;
  WireEnd *wires;
  Stream *stream;
  const Link *host;
  int number, ranks;
  bool one_by_one; /* what the other side's posts do not agree with is posted alone */
  bool peers[MOST_RANKS];
  Pending *pending;
  Endpoint endpoints[CHANNELS];
  Link link;
  Copies *copies;
} Rank;

static int rank_number(const Endpoint *e) {
  return e->rank->number;
}

static int rank_count(const Endpoint *e) {
  return e->rank->ranks;
}

static Status host_check(const Endpoint *e) {
  return e->rank->host->transport->check(e->rank->host->endpoints[e->channel]);
}

static Status put_on_device(Rank *rank, const Transfer *t, Pending **out) {
  Pending *p = *out = calloc(1, sizeof *p);
  assert_non_null(p);
  *p = (Pending){.next = rank->pending, .host = *t};
  rank->pending = p;
  TRY(backend_cuda.alloc(rank->stream, t->bytes, &p->device));
  return t->is_send ? backend_cuda.copy(rank->stream, p->device, t->data, t->bytes, COPY_HOST_TO_DEVICE) : OK;
}

static Status rank_post(Endpoint *e, const Transfer *transfers, int n, Ticket *tickets) {
  Rank *rank = e->rank;
  if (e->channel == CHANNEL_CONTROL)
    return rank->host->transport->post(rank->host->endpoints[CHANNEL_CONTROL], transfers, n, tickets);
  Transfer on_device[2 * MOST_RANKS + 1];
  Ticket posted[2 * MOST_RANKS + 1];
  assert_true(n <= 2 * MOST_RANKS);
  for (int i = 0; i < n; i++) {
    Pending *p;
    TRY(put_on_device(rank, &transfers[i], &p));
    on_device[i] = transfers[i];
    on_device[i].data = p->device;
    tickets[i] = (Ticket){(unsigned long)p};
  }
  for (int i = 0, some = rank->one_by_one ? 1 : n; i < n; i += some)
    TRY(rank->kind->post(rank->wires, on_device + i, some, posted + i));
  for (int i = 0; i < n; i++)
    ((Pending *)tickets[i].id)->ticket = posted[i];
  return OK;
}

/* Until the stream is through, as an executor waits. */
static Status settle(Rank *rank) {
  for (bool idle = false; !idle;) {
    TRY(rank->kind->check(rank->wires));
    TRY(backend_cuda.stream_idle(rank->stream, &idle));
    if (!idle)
      nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
  return backend_cuda.stream_wait(rank->stream);
}

static Status rank_wait(Endpoint *e, Ticket ticket) {
  Rank *rank = e->rank;
  if (e->channel == CHANNEL_CONTROL)
    return rank->host->transport->wait(rank->host->endpoints[CHANNEL_CONTROL], ticket);
  Pending *p = (Pending *)ticket.id;
  if (!p)
    return OK;
  TRY(rank->kind->wait(rank->wires, p->ticket));
  TRY(settle(rank));
  return p->host.is_send ? OK
                         : backend_cuda.copy(rank->stream, p->host.data, p->device, p->host.bytes, COPY_DEVICE_TO_HOST);
}

static void rank_withdraw(Endpoint *e, const char *message) {
  e->rank->host->transport->withdraw(e->rank->host->endpoints[e->channel], message);
}

static const Transport over_wires = {.name = "wires",
                                     .rank = rank_number,
                                     .size = rank_count,
                                     .post = rank_post,
                                     .wait = rank_wait,
                                     .check = host_check,
                                     .withdraw = rank_withdraw};

static Status open_rank(Rank *rank) {
  WireSpec spec = {.backend = &backend_cuda,
                   .device = rank->number,
                   .rank = rank->number,
                   .ranks = rank->ranks,
                   .peers = rank->peers,
                   .transport = rank->host->transport,
                   .endpoint = rank->host->endpoints[CHANNEL_DATA]};
  for (int r = 0; r < rank->ranks; r++)
    rank->peers[r] = r != rank->number;
  for (int c = 0; c < CHANNELS; c++) {
    rank->endpoints[c] = (Endpoint){rank, (Channel)c};
    rank->link.endpoints[c] = &rank->endpoints[c];
  }
  rank->link.transport = &over_wires;
  TRY(backend_cuda.stream_open(rank->number, 1, &rank->stream));
  spec.stream = rank->stream;
  return rank->kind == &wire_nccl ? wire_nccl_open(&spec, &rank->wires)
                                  : wire_copy_open(rank->copies, &spec, &rank->wires);
}

static void close_rank(Rank *rank, bool failed) {
  if (rank->wires)
    rank->kind->close(rank->wires, failed);
  for (Pending *p = rank->pending, *next; p; p = next) {
    next = p->next;
    backend_cuda.release(rank->stream, p->device);
    free(p);
  }
  backend_cuda.stream_close(rank->stream);
}

typedef struct {
  Rank rank;
  Status (*run)(Rank *rank);
  bool fails; /* it is to end with a failure */
  Status status;
  char message[512];
  pthread_barrier_t *all;
} Job;

static void *work(void *argument) {
  Job *job = argument;
  Rank *rank = &job->rank;
  job->status = open_rank(rank);
  pthread_barrier_wait(job->all); /* or one that fails at once would fail another's opening */
  if (job->status == OK)
    job->status = job->run(rank);
  if (job->status != OK) {
    snprintf(job->message, sizeof job->message, "%s", status_message());
    over_wires.withdraw(&rank->endpoints[CHANNEL_DATA], job->message);
  }
  pthread_barrier_wait(job->all); /* hosts that live on do not close before the others are done */
  close_rank(rank, job->status != OK || job->fails);
  return NULL;
}

/* Runs one function on every rank at once, each on a device of its own; jobs[r] has the outcome. */
static void run_on_all(const WireKind *kind, int ranks, bool fails, Status (*run)(Rank *), Job *jobs) {
  Link links[MOST_RANKS];
  pthread_t threads[MOST_RANKS];
  pthread_barrier_t all;
  Copies *copies;
  emulation_devices(MOST_RANKS, (size_t)1 << 30);
  pthread_barrier_init(&all, NULL, (unsigned)ranks);
  ASSERT_OK(transport_local_open(ranks, links));
  ASSERT_OK(copies_open(ranks, &copies));
  for (int r = 0; r < ranks; r++) {
    jobs[r] = (Job){.rank = {.kind = kind, .host = &links[r], .number = r, .ranks = ranks, .copies = copies},
                    .run = run,
                    .fails = fails,
                    .all = &all};
    assert_int_equal(pthread_create(&threads[r], NULL, work, &jobs[r]), 0);
  }
  for (int r = 0; r < ranks; r++)
    pthread_join(threads[r], NULL);
  copies_close(copies);
  transport_local_close(ranks, links);
  pthread_barrier_destroy(&all);
  assert_int_equal(emulation_allocated(), 0);
}

static Status run_suite(Rank *rank) {
  for (int i = 0; i < transport_suite_size; i++) {
    rank->one_by_one = strcmp(transport_suite[i].name, "random") == 0;
    Status status = transport_suite[i].run(&rank->link);
    if (status != OK) {
      status_context("%s: ", transport_suite[i].name);
      return status;
    }
  }
  return OK;
}

static Status run_withdrawal(Rank *rank) {
  return transport_suite_withdraw(&rank->link);
}

static void check_all(const Job *jobs, int ranks, const char *what) {
  for (int r = 0; r < ranks; r++)
    if (jobs[r].status != OK)
      FAIL_TEST("%s on %d ranks: rank %d: %s", what, ranks, r, jobs[r].message);
}

static void conforms(void **state) {
  Job jobs[MOST_RANKS];
  for (int ranks = 2; ranks <= MOST_RANKS; ranks++) {
    emulation_seed((uint64_t)ranks);
    run_on_all(*state, ranks, false, run_suite, jobs);
    check_all(jobs, ranks, ((const WireKind *)*state)->name);
    run_on_all(*state, ranks, true, run_withdrawal, jobs);
    check_all(jobs, ranks, ((const WireKind *)*state)->name);
  }
}

enum { NUMBERS = 1000, ROUNDS = 20, DEEP = 4 };

/* A ring in which every rank adds 1 to what it got and passes it on, DEEP numbers at a time, and no host waits until
 * all is enqueued. */
static Status run_ring(Rank *rank) {
  Node node = {.op = OP_Accumulate, .name = "add"};
  int next = (rank->number + 1) % rank->ranks, before = (rank->number + rank->ranks - 1) % rank->ranks;
  float host[NUMBERS];
  void *at[DEEP], *ones;
  Ticket sent[DEEP] = {{0}}, got;
  Pending *p;
  for (int i = 0; i < NUMBERS; i++)
    host[i] = 1;
  TRY(put_on_device(rank, &(Transfer){.is_send = true, .data = host, .bytes = sizeof host}, &p));
  ones = p->device;
  for (int d = 0; d < DEEP; d++) {
    memset(host, 0, sizeof host);
    TRY(put_on_device(rank, &(Transfer){.is_send = true, .data = host, .bytes = sizeof host}, &p));
    at[d] = p->device;
  }
  int waits = emulation_waits();
  for (int k = 0; k < ROUNDS * DEEP; k++) {
    void *data = at[k % DEEP];
    Tensor in[] = {tensor_at(F32, (Shape){1, {NUMBERS}}, data), tensor_at(F32, (Shape){1, {NUMBERS}}, ones)};
    if (k >= DEEP || rank->number) {
      TRY(rank->kind->wait(rank->wires, sent[k % DEEP]));
      TRY(rank->kind->post(rank->wires, &(Transfer){.peer = before, .data = data, .bytes = sizeof host}, 1, &got));
      TRY(rank->kind->wait(rank->wires, got));
    }
    TRY(backend_cuda.kernels[OP_Accumulate]->run(rank->stream, &node, in, NULL, NULL, NULL));
    if (k >= (ROUNDS - 1) * DEEP && next == 0)
      continue;
    Transfer on = {.peer = next, .is_send = true, .data = data, .bytes = sizeof host};
    TRY(rank->kind->post(rank->wires, &on, 1, &sent[k % DEEP]));
  }
  if (emulation_waits() != waits)
    return fail(E_MODEL, "rank %d waited %d times", rank->number, emulation_waits() - waits);
  for (int d = 0; d < DEEP && next; d++)
    TRY(rank->kind->wait(rank->wires, sent[d]));
  TRY(settle(rank));
  for (int d = 0; d < DEEP; d++) {
    TRY(backend_cuda.copy(rank->stream, host, at[d], sizeof host, COPY_DEVICE_TO_HOST));
    for (int i = 0; i < NUMBERS; i++)
      if (host[i] != (float)((ROUNDS - 1) * rank->ranks + rank->number + 1))
        return fail(E_MODEL, "rank %d has %g at %d of %d", rank->number, (double)host[i], i, d);
  }
  return OK;
}

static void streams_order_what_no_host_waits_for(void **state) {
  Job jobs[MOST_RANKS];
  for (int ranks = 2; ranks <= 3; ranks++)
    for (uint64_t seed = 0; seed < 3; seed++) {
      emulation_seed(seed);
      run_on_all(*state, ranks, false, run_ring, jobs);
      check_all(jobs, ranks, "ring");
    }
}

/* Several transfers of one post for one peer are one group. */
static Status run_groups(Rank *rank) {
  char data[6][10] = {{0}};
  Transfer transfers[6];
  Ticket tickets[6];
  for (int i = 0; i < 6; i++)
    transfers[i] = (Transfer){.peer = !rank->number, .is_send = i % 2 == 0, .data = data[i], .bytes = 10};
  TRY(over_wires.post(&rank->endpoints[CHANNEL_DATA], transfers, 6, tickets));
  for (int i = 0; i < 6; i++)
    TRY(over_wires.wait(&rank->endpoints[CHANNEL_DATA], tickets[i]));
  return OK;
}

static void a_message_is_a_group(void **state) {
  (void)state;
  Job jobs[MOST_RANKS];
  int before = emulation_nccl_groups();
  run_on_all(&wire_nccl, 2, false, run_groups, jobs);
  check_all(jobs, 2, "groups");
  /* two ranks; each way, the greeting and the message */
  assert_int_equal(emulation_nccl_groups() - before, 2 * 2 * 2);
}

/* Rank 1 is gone, and only NCCL knows: who waits for it names it, and the others learn it from that one. */
static Status run_death(Rank *rank) {
  char data[8];
  Ticket ticket;
  if (rank->number == 1) {
    emulation_nccl_kill(1);
    return OK;
  }
  Transfer receive = {.peer = rank->number == 0 ? 1 : 0, .data = data, .bytes = sizeof data};
  TRY(over_wires.post(&rank->endpoints[CHANNEL_DATA], &receive, 1, &ticket));
  return over_wires.wait(&rank->endpoints[CHANNEL_DATA], ticket);
}

static void peers_that_die_are_named(void **state) {
  (void)state;
  Job jobs[MOST_RANKS];
  run_on_all(&wire_nccl, 3, true, run_death, jobs);
  for (int r = 0; r < 3; r += 2) {
    assert_int_equal(jobs[r].status, E_COMM);
    assert_non_null(strstr(jobs[r].message, "rank 1: remote process exited"));
  }
}

/* Two ranks that send first and receive then: in a group this is an exchange, else they wait for ever. */
typedef struct {
  int rank;
  ncclUniqueId id;
  bool grouped;
  ncclResult_t result;
} Exchange;

static ncclResult_t exchange(const Exchange *x, ncclComm_t comm, cudaStream_t stream, void *data) {
  ncclResult_t state = ncclSuccess, in_group = ncclSuccess;
  if (x->grouped)
    ncclGroupStart();
  in_group = ncclSend(data, 8, ncclUint8, !x->rank, comm, stream);
  while (!x->grouped && in_group == ncclInProgress)
    ncclCommGetAsyncError(comm, &in_group);
  if (in_group == ncclSuccess)
    in_group = ncclRecv(data, 8, ncclUint8, !x->rank, comm, stream);
  if (x->grouped)
    in_group = ncclGroupEnd();
  while (in_group == ncclInProgress)
    ncclCommGetAsyncError(comm, &in_group);
  while (in_group == ncclSuccess && state == ncclSuccess && cudaStreamQuery(stream) == cudaErrorNotReady)
    ncclCommGetAsyncError(comm, &state);
  return in_group ? in_group : state;
}

static void *exchange_main(void *argument) {
  Exchange *x = argument;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t comm;
  cudaStream_t stream;
  void *data;
  config.blocking = 0;
  cudaSetDevice(x->rank);
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaMalloc(&data, 8);
  x->result = ncclCommInitRankConfig(&comm, 2, x->id, x->rank, &config);
  while (x->result == ncclInProgress)
    ncclCommGetAsyncError(comm, &x->result);
  if (x->result == ncclSuccess)
    x->result = exchange(x, comm, stream, data);
  ncclCommAbort(comm);
  cudaStreamDestroy(stream);
  cudaFree(data);
  return NULL;
}

static void groups_that_are_missing_are_an_error(void **state) {
  (void)state;
  for (int grouped = 0; grouped < 2; grouped++) {
    Exchange both[2];
    pthread_t threads[2];
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    emulation_patience(grouped ? 60 : 0.3);
    for (int r = 0; r < 2; r++) {
      both[r] = (Exchange){.rank = r, .id = id, .grouped = grouped};
      assert_int_equal(pthread_create(&threads[r], NULL, exchange_main, &both[r]), 0);
    }
    for (int r = 0; r < 2; r++)
      pthread_join(threads[r], NULL);
    emulation_patience(60);
    if (grouped)
      assert_true(both[0].result == ncclSuccess && both[1].result == ncclSuccess);
    else
      assert_true(both[0].result == ncclInternalError || both[1].result == ncclInternalError);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(conforms, (void *)&wire_copy),
      cmocka_unit_test_prestate(conforms, (void *)&wire_nccl),
      cmocka_unit_test_prestate(streams_order_what_no_host_waits_for, (void *)&wire_copy),
      cmocka_unit_test_prestate(streams_order_what_no_host_waits_for, (void *)&wire_nccl),
      cmocka_unit_test(a_message_is_a_group),
      cmocka_unit_test(peers_that_die_are_named),
      cmocka_unit_test(groups_that_are_missing_are_an_error),
  };
  return cmocka_run_group_tests_name("wires", tests, NULL, NULL);
}
