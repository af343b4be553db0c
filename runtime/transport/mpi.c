/* Ranks of an MPI world: one duplicated communicator a channel; a mesh of connections tells who is alive. Only the
 * thread that opened it calls MPI. Invariant: after a failure is known, MPI is not called any more but to take
 * receives back, to end or to abort. */
#include "runtime/transport/transport.h"

#ifdef ONNXPIPE_MPI

#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/transport/mesh.h"
#include "runtime/transport/mpi_start.h"
#include "runtime/transport/pool.h"

/* MPI counts in int, and each piece of a large transfer that arrives is a movement, also on a slow network: larger ones
 * go in pieces of this size. Tests set it lower. */
size_t transport_mpi_piece_bytes = (size_t)64 << 20;

typedef struct Request {
  struct Request *next; /* the transfer's next piece */
  MPI_Request handle;
  int peer, bytes;
  bool is_send, posted; /* posted: MPI has it */
} Request;

struct Endpoint {
  MPI_Comm comm;
  Pool requests;
};

/* There is one world in a process. */
static struct {
  bool open, started; /* started: MPI_Init was ours */
  bool parted;        /* all ranks know of the failure, and none writes into another's memory */
  int rank, size;
  Mesh *mesh;
  Watch watch;
  double timeout;
  Endpoint endpoints[CHANNELS];
  sigset_t mask_before;
  MeshCalls calls;
} world;

static Status fail_mpi(int code, const char *what) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length;
  MPI_Error_string(code, text, &length);
  return fail(E_COMM, "rank %d: %s: %s", world.rank, what, text);
}

/* A transfer that failed is the end of all, like a rank that withdraws. */
static Status fail_transfer(const Request *request, int code) {
  Status status = fail_mpi(code, "MPI");
  status_context("%s %d bytes %s rank %d: ", request->is_send ? "sending" : "receiving", request->bytes,
                 request->is_send ? "to" : "from", request->peer);
  mesh_withdraw(world.mesh, status_message());
  return status;
}

static int mpi_rank(const Endpoint *e) {
  (void)e;
  return world.rank;
}

static int mpi_size(const Endpoint *e) {
  (void)e;
  return world.size;
}

static Status mpi_check(const Endpoint *e) {
  (void)e;
  return mesh_failed(world.mesh) ? mesh_fail(world.mesh) : OK;
}

static Status post_piece(Endpoint *e, const Transfer *t, size_t offset, size_t bytes, Request **out) {
  void *object;
  TRY(object_take(&e->requests, &object));
  Request *request = *out = object;
  *request = (Request){.peer = t->peer, .bytes = (int)bytes, .is_send = t->is_send};
  char *data = t->data ? (char *)t->data + offset : NULL;
  int code = t->is_send ? MPI_Isend(data, (int)bytes, MPI_BYTE, t->peer, 0, e->comm, &request->handle)
                        : MPI_Irecv(data, (int)bytes, MPI_BYTE, t->peer, 0, e->comm, &request->handle);
  request->posted = code == MPI_SUCCESS;
  return request->posted ? OK : fail_transfer(request, code);
}

static Status mpi_post(Endpoint *e, const Transfer *transfers, int n, Ticket *tickets) {
  if (mesh_failed(world.mesh))
    return mesh_fail(world.mesh);
  for (int i = 0; i < n; i++) {
    const Transfer *t = &transfers[i];
    if (t->peer < 0 || t->peer >= world.size || t->peer == world.rank)
      return fail(E_USAGE, "rank %d of %d cannot exchange with rank %d", world.rank, world.size, t->peer);
    Request *first = NULL, **link = &first;
    size_t offset = 0;
    do {
      size_t left = t->bytes - offset, bytes = left < transport_mpi_piece_bytes ? left : transport_mpi_piece_bytes;
      TRY(post_piece(e, t, offset, bytes, link));
      link = &(*link)->next;
      offset += bytes;
    } while (offset < t->bytes);
    tickets[i] = (Ticket){(unsigned long)first};
  }
  return OK;
}

/* There may be more ranks than cores, so a rank that waits must leave the core to others: it looks again at once for
 * some twenty microseconds, offers the core for a while, then sleeps between looks. */
static void pause_between(int looks) {
  if (looks < 100)
    return;
  if (looks < 300)
    sched_yield();
  else
    nanosleep(&(struct timespec){.tv_nsec = looks < 1000 ? 20000 : 100000}, NULL);
}

static Status wait_piece(Request *request) {
  MPI_Status got;
  int done = 0;
  for (int looks = 0;; looks += looks < 1000) {
    if (mesh_failed(world.mesh))
      return mesh_fail(world.mesh);
    int code = MPI_Test(&request->handle, &done, &got);
    if (code != MPI_SUCCESS)
      return fail_transfer(request, code);
    if (done)
      break;
    pause_between(looks);
  }
  request->posted = false;
  int bytes = request->bytes;
  if (!request->is_send)
    MPI_Get_count(&got, MPI_BYTE, &bytes);
  if (bytes == request->bytes)
    return OK;
  Status status = fail(E_COMM, "rank %d receives %d bytes from rank %d, which sends %d", world.rank, request->bytes,
                       request->peer, bytes);
  mesh_withdraw(world.mesh, status_message());
  return status;
}

static Status mpi_wait(Endpoint *e, Ticket ticket) {
  for (Request *request = (Request *)ticket.id; request;) {
    watch_wait(&world.watch, request->peer, request->is_send);
    TRY(wait_piece(request));
    watch_waited(&world.watch);
    Request *next = request->next;
    object_give(&e->requests, request);
    request = next;
  }
  return OK;
}

static void mpi_progress(Endpoint *e) {
  int found;
  if (!mesh_failed(world.mesh))
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, e->comm, &found, MPI_STATUS_IGNORE);
}

static void mpi_withdraw(Endpoint *e, const char *message) {
  (void)e;
  mesh_withdraw(world.mesh, message);
}

/* Receives that were posted end here, cancelled or with what was on its way; false where one does not in time. Sends
 * that nobody took are MPI's: it reads them no more. */
static bool take_back(Pool *requests, double until) {
  for (size_t i = 0; i < object_size(requests); i++) {
    Request *request = object_at(requests, i);
    int done = !request->posted || request->is_send;
    if (!done && MPI_Cancel(&request->handle) != MPI_SUCCESS)
      return false;
    for (int looks = 0; !done && clock_seconds() < until; looks += looks < 1000) {
      if (MPI_Test(&request->handle, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        return false;
      pause_between(looks);
    }
    if (!done)
      return false;
    request->posted &= request->is_send;
  }
  return true;
}

/* How long ranks wait for each other before they end, and how long ending may take. */
enum { PART_SECONDS = 3, END_SECONDS = 5 };

static void mpi_part(Endpoint *e) {
  (void)e;
  if (world.parted || !mesh_part(world.mesh, PART_SECONDS))
    return;
  double until = clock_seconds() + PART_SECONDS;
  bool all = true;
  for (int c = 0; c < CHANNELS; c++)
    all &= take_back(&world.endpoints[c].requests, until);
  world.parted = all;
}

const Transport transport_mpi = {.name = "mpi",
                                 .rank = mpi_rank,
                                 .size = mpi_size,
                                 .post = mpi_post,
                                 .wait = mpi_wait,
                                 .check = mpi_check,
                                 .progress = mpi_progress,
                                 .withdraw = mpi_withdraw,
                                 .part = mpi_part};

/* Everybody learns where everybody listens, then all meet. */
static Status open_mesh(void) {
  MeshAddress own, *all = calloc((size_t)world.size, sizeof *all);
  if (!all)
    return fail(E_MEMORY, "out of memory: addresses of %d ranks", world.size);
  Status status = mesh_listen(world.rank, world.size, &world.mesh, &own);
  if (status == OK) {
    mesh_timeout(world.mesh, world.timeout);
    int code = MPI_Allgather(&own, sizeof own, MPI_BYTE, all, sizeof own, MPI_BYTE, world.endpoints[0].comm);
    status = code == MPI_SUCCESS ? mesh_connect(world.mesh, all, &world.watch, &world.calls)
                                 : fail_mpi(code, "exchanging addresses");
  }
  free(all);
  return status;
}

static const char COPIES[] = "OMPI_MCA_btl_vader_single_copy_mechanism"; /* between ranks of a machine */

/* Open MPI has who receives read the sender's memory, who computes meanwhile. Whether the system allows it, as
 * containers may not, it does not look: an error of its own is printed before it goes the other way, through memory
 * that both have, which takes two copies while both are in MPI. */
static void choose_copies(void) {
  char from = 1, to = 0;
  struct iovec own = {&to, 1}, other = {&from, 1};
  if (process_vm_readv(getpid(), &own, 1, &other, 1, 0) != 1)
    setenv(COPIES, "none", 0); /* a user's word stands */
}

static Status start_mpi(void) {
  int initialized, provided = MPI_THREAD_FUNNELED;
  MPI_Initialized(&initialized);
  if (!initialized) {
    choose_copies();
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (code != MPI_SUCCESS)
      return fail(E_COMM, "MPI does not start: error %d", code);
    world.started = true;
  }
  if (provided < MPI_THREAD_FUNNELED)
    return fail(E_COMM, "this MPI allows no threads beside the one that calls it");
  MPI_Comm_rank(MPI_COMM_WORLD, &world.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world.size);
  for (int c = 0; c < CHANNELS; c++) {
    Endpoint *e = &world.endpoints[c];
    e->requests = (Pool){.bytes = sizeof(Request)};
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &e->comm);
    if (code == MPI_SUCCESS)
      code = MPI_Comm_set_errhandler(e->comm, MPI_ERRORS_RETURN);
    if (code != MPI_SUCCESS)
      return fail_mpi(code, "duplicating the world");
  }
  return OK;
}

Status transport_mpi_open(Link *link) {
  if (world.open)
    return fail(E_USAGE, "the MPI transport is open already");
  /* Before MPI starts threads of its own, so that none of them dies of it. */
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &world.mask_before);
  world.open = true;
  watch_begin(&world.watch);
  StartGuard *guard = start_guard_begin(world.timeout, world.calls.end, world.calls.end_context);
  Status status = start_mpi();
  if (status == OK)
    status = open_mesh();
  start_guard_end(guard);
  TRY(status);
  *link = (Link){.transport = &transport_mpi, .watch = &world.watch};
  for (int c = 0; c < CHANNELS; c++)
    link->endpoints[c] = &world.endpoints[c];
  return OK;
}

/* Ends the process where MPI does not end. */
static void *watch_end(void *unused) {
  nanosleep(&(struct timespec){.tv_sec = END_SECONDS}, NULL);
  _exit(EXIT_FAILURE);
  return unused;
}

/* After a failure: communicators with sends that nobody took are not freed. */
static void end_failed_world(void) {
  pthread_t watcher;
  if (!world.started || pthread_create(&watcher, NULL, watch_end, NULL))
    return;
  MPI_Finalize();
  pthread_cancel(watcher);
  pthread_join(watcher, NULL);
  for (int c = 0; c < CHANNELS; c++)
    object_destroy(&world.endpoints[c].requests);
}

static void close_world(void) {
  mesh_goodbye(world.mesh);
  watch_phase(&world.watch, WATCH_END, 0);
  watch_wait(&world.watch, WATCH_ALL, false);
  for (int c = 0; c < CHANNELS; c++) {
    MPI_Comm_free(&world.endpoints[c].comm);
    object_destroy(&world.endpoints[c].requests);
  }
  if (world.started)
    MPI_Finalize();
}

/* How long the rank that prints the failure may take. */
enum { REPORT_SECONDS = 2 };

void transport_mpi_close(Link *link, bool failed) {
  if (!world.open)
    return;
  int initialized;
  MPI_Initialized(&initialized);
  if (initialized && (failed || !world.mesh) && !world.parted) {
    if (world.mesh) {
      mesh_withdraw(world.mesh, status_message());
      mesh_wait_reporter(world.mesh, REPORT_SECONDS);
    }
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  if (initialized && world.parted)
    end_failed_world();
  else if (initialized)
    close_world();
  mesh_close(world.mesh);
  pthread_sigmask(SIG_SETMASK, &world.mask_before, NULL);
  memset(&world, 0, sizeof world);
  *link = (Link){0};
}

void transport_mpi_library(char *text, size_t room) {
  char whole[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length;
  MPI_Get_library_version(whole, &length);
  snprintf(text, room, "%s", whole);
}

bool transport_mpi_copies_twice(void) {
  const char *how = getenv(COPIES);
  return how && (strcmp(how, "none") == 0 || strcmp(how, "emulated") == 0);
}

void transport_mpi_on_death(MeshReport *report, void *context) {
  world.calls.report = report;
  world.calls.report_context = context;
}

void transport_mpi_on_term(bool (*heed)(void)) {
  world.calls.heed_term = heed;
}

void transport_mpi_on_hang(MeshReport *end, void *context) {
  world.calls.end = end;
  world.calls.end_context = context;
}

void transport_mpi_timeout(double seconds) {
  world.timeout = seconds;
  if (world.mesh)
    mesh_timeout(world.mesh, seconds);
}

bool transport_mpi_reported(void) {
  return world.mesh && mesh_reported(world.mesh);
}

#else

const Transport transport_mpi = {.name = "mpi"};

bool transport_mpi_copies_twice(void) {
  return false;
}

Status transport_mpi_open(Link *link) {
  *link = (Link){0};
  return fail(E_UNSUPPORTED, "this build has no MPI (ONNXPIPE_MPI is off)");
}

void transport_mpi_close(Link *link, bool failed) {
  (void)link;
  (void)failed;
}

void transport_mpi_library(char *text, size_t room) {
  (void)room;
  *text = '\0';
}

void transport_mpi_on_death(void (*report)(void *context, const char *message), void *context) {
  (void)report;
  (void)context;
}

void transport_mpi_on_term(bool (*heed)(void)) {
  (void)heed;
}

void transport_mpi_on_hang(void (*end)(void *context, const char *line), void *context) {
  (void)end;
  (void)context;
}

void transport_mpi_timeout(double seconds) {
  (void)seconds;
}

bool transport_mpi_reported(void) {
  return false;
}

#endif
