/* The watch over the connections. Invariant: `decided` and what it stands for (kind, origin, message, reporter) are
 * written once, under the mutex; `failed` is set after that and is what other threads look at. */
#include "runtime/transport/mesh.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/transport/mesh_connect.h"
#include "runtime/transport/watcher.h"

typedef enum {
  GOODBYE = 1,
  DIED,
  LOST /* it may live, and cannot be reached */,
  GAVE_UP,
  REPORTED,
  ENDED /* by a signal */,
  BEAT,
  HANGS
} Kind;

/* Beats go unheard to a process that is stopped: not so many that they would fill the connection. */
enum { TEXT_BYTES = 4096, MOST_UNHEARD = 64 };
/* Seconds that a rank has to end when nothing moves: its own thread may be what does not. */
enum { END_SECONDS = 3 };

typedef struct {
  uint32_t kind, origin, length; /* of the text that follows, without terminator */
} Header;

typedef struct {
  int fd; /* -1: closed, or the rank itself */
  bool goodbye;
  char address[INET_ADDRSTRLEN];
  int unheard; /* beats sent since one came */
  size_t used; /* bytes of `frame` that have arrived */
  struct {
    Header header;
    char text[TEXT_BYTES];
  } frame;
} Peer;

struct Mesh {
  int rank, size;
  int listener, stop, signals; /* stop: an eventfd that ends the thread */
  Peer *peers;                 /* [size] */
  struct pollfd *polls;        /* [2 + size]: the thread's */
  pthread_t thread;
  Watcher *watcher;                /* under the mutex */
  bool watching, decided, printed; /* printed: by the reporter's `report` */
  bool leaving;                    /* said goodbye */
  pthread_mutex_t mutex;
  pthread_cond_t changed; /* a connection closed */
  Kind kind;
  int origin, reporter; /* origin: of the failure; of HANGS: who found it */
  double decided_at;
  char message[TEXT_BYTES + 64];
  MeshCalls calls;
  atomic_bool failed;
};

bool mesh_failed(const Mesh *mesh) {
  return atomic_load(&mesh->failed);
}

Status mesh_fail(const Mesh *mesh) {
  return fail(E_COMM, "%s", mesh->message);
}

/* A rank of which nothing is heard any more: others say so. */
static bool is_loss(Kind kind) {
  return kind == DIED || kind == LOST;
}

bool mesh_reported(Mesh *mesh) {
  pthread_mutex_lock(&mesh->mutex); /* another rank becomes the reporter where that one dies */
  bool by_watcher = mesh->calls.report && mesh->kind != GAVE_UP;
  bool elsewhere = mesh->decided && (mesh->reporter != mesh->rank || by_watcher);
  pthread_mutex_unlock(&mesh->mutex);
  return elsewhere;
}

/* Under the mutex. The frame is small and the socket's buffer almost empty: what does not fit at once is not worth
 * waiting for. */
static void tell_all_bytes(Mesh *mesh, Kind kind, int origin, const void *bytes, size_t length) {
  struct {
    Header header;
    char text[TEXT_BYTES];
  } frame = {.header = {(uint32_t)kind, (uint32_t)origin, (uint32_t)length}};
  memcpy(frame.text, bytes, length);
  for (int r = 0; r < mesh->size; r++) {
    Peer *peer = &mesh->peers[r];
    if (peer->fd < 0 || (kind == BEAT && ++peer->unheard > MOST_UNHEARD))
      continue;
    (void)!send(peer->fd, &frame, sizeof frame.header + length, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}

static void tell_all(Mesh *mesh, Kind kind, int origin, const char *text) {
  tell_all_bytes(mesh, kind, origin, text, strnlen(text, TEXT_BYTES - 1));
}

/* Who prints a failure: the rank on which it began; when that is lost, the lowest that is not. */
static int reporter_of(const Mesh *mesh, Kind kind, int origin) {
  if (!is_loss(kind))
    return origin;
  for (int r = 0; r < mesh->size; r++)
    if (r != origin && (r == mesh->rank || mesh->peers[r].fd >= 0))
      return r;
  return mesh->rank;
}

/* Says why this rank ends: its own thread may be inside a long kernel until the signal does its work, or may hang. */
static void report_end(Mesh *mesh) {
  if ((mesh->kind == ENDED || mesh->kind == HANGS) && mesh->calls.report && mesh->reporter == mesh->rank)
    mesh->calls.report(mesh->calls.report_context, mesh->message);
}

/* Prints that a peer is lost where it is this rank's turn, and tells the others that it was done. */
static void report_loss(Mesh *mesh) {
  if (!is_loss(mesh->kind) || !mesh->calls.report || mesh->reporter != mesh->rank)
    return;
  mesh->calls.report(mesh->calls.report_context, mesh->message);
  mesh->printed = true;
  tell_all(mesh, REPORTED, mesh->rank, "");
}

/* Takes down the first failure and passes it on. Under the mutex. */
static void decide(Mesh *mesh, Kind kind, int origin, const char *text) {
  if (mesh->decided) { /* of ranks that fail by themselves at once the lowest prints */
    if (kind == GAVE_UP && mesh->kind == GAVE_UP && mesh->reporter == mesh->rank && origin < mesh->rank)
      mesh->reporter = origin;
    return;
  }
  mesh->decided = true;
  mesh->kind = kind;
  mesh->origin = origin;
  mesh->reporter = reporter_of(mesh, kind, origin);
  mesh->decided_at = clock_seconds();
  if (kind == HANGS)
    snprintf(mesh->message, sizeof mesh->message, "%s", text);
  else if (kind == DIED)
    snprintf(mesh->message, sizeof mesh->message, "rank %d died: its connection closed", origin);
  else if (kind == LOST)
    snprintf(mesh->message, sizeof mesh->message, "rank %d %s", origin, text);
  else
    snprintf(mesh->message, sizeof mesh->message, "rank %d: %s", origin, text);
  report_end(mesh); /* first: there may not be much time */
  tell_all(mesh, kind, origin, text);
  report_loss(mesh);
  atomic_store(&mesh->failed, true);
}

void mesh_withdraw(Mesh *mesh, const char *message) {
  pthread_mutex_lock(&mesh->mutex);
  decide(mesh, GAVE_UP, mesh->rank, message);
  pthread_mutex_unlock(&mesh->mutex);
}

void mesh_goodbye(Mesh *mesh) {
  pthread_mutex_lock(&mesh->mutex);
  mesh->leaving = true;
  tell_all(mesh, GOODBYE, mesh->rank, "");
  pthread_mutex_unlock(&mesh->mutex);
}

bool mesh_part(Mesh *mesh, double seconds) {
  struct timespec until = clock_until(seconds);
  pthread_mutex_lock(&mesh->mutex);
  bool all = mesh->decided && mesh->kind == GAVE_UP;
  int error = 0;
  if (all)
    tell_all(mesh, GOODBYE, mesh->rank, "");
  for (int r = 0; all && r < mesh->size; r++) {
    const Peer *peer = &mesh->peers[r];
    while (r != mesh->rank && !peer->goodbye && peer->fd >= 0 && !error)
      error = pthread_cond_timedwait(&mesh->changed, &mesh->mutex, &until);
    all = r == mesh->rank || peer->goodbye;
  }
  pthread_mutex_unlock(&mesh->mutex);
  return all;
}

/* A whole frame of rank `from` has arrived. */
static void take_frame(Mesh *mesh, int from) {
  Peer *peer = &mesh->peers[from];
  Header header = peer->frame.header;
  char text[TEXT_BYTES];
  memcpy(text, peer->frame.text, header.length);
  text[header.length] = '\0';
  peer->used = 0;
  if (header.kind == GOODBYE) {
    peer->goodbye = true;
    pthread_cond_broadcast(&mesh->changed);
  } else if (header.kind == REPORTED) {
    mesh->printed = true;
  } else if (header.kind == BEAT) {
    WatchState state;
    if (header.length == sizeof state) {
      memcpy(&state, text, sizeof state);
      watcher_hear(mesh->watcher, from, &state);
      peer->unheard = 0;
    }
  } else if (header.origin < (uint32_t)mesh->size) {
    decide(mesh, (Kind)header.kind, (int)header.origin, text);
  }
}

/* The connection ended with `error`; 0: by the peer's end. One that was cut leaves it to us to find out. */
static void close_peer(Mesh *mesh, int r, int error) {
  Peer *peer = &mesh->peers[r];
  char text[160];
  close(peer->fd);
  peer->fd = -1;
  watcher_forget(mesh->watcher, r);
  snprintf(text, sizeof text, "at %s does not answer rank %d any more: %s", peer->address, mesh->rank, strerror(error));
  if (!peer->goodbye)
    decide(mesh, error && error != ECONNRESET ? LOST : DIED, r, text);
  if (mesh->decided && is_loss(mesh->kind) && mesh->calls.report && mesh->reporter == r && !mesh->printed) {
    mesh->reporter = reporter_of(mesh, mesh->kind, mesh->origin); /* it was lost before it could print */
    report_loss(mesh);
  }
  pthread_cond_broadcast(&mesh->changed);
}

/* Reads what rank r sent, until nothing is left or its end. Under the mutex. */
static void hear_peer(Mesh *mesh, int r) {
  Peer *peer = &mesh->peers[r];
  for (;;) {
    size_t want = sizeof(Header);
    if (peer->used >= want) {
      if (peer->frame.header.length >= TEXT_BYTES) { /* not one of ours */
        close_peer(mesh, r, 0);
        return;
      }
      want += peer->frame.header.length;
    }
    ssize_t got = recv(peer->fd, (char *)&peer->frame + peer->used, want - peer->used, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return;
    if (got <= 0) {
      close_peer(mesh, r, got ? errno : 0);
      return;
    }
    peer->used += (size_t)got;
    if (peer->used >= sizeof(Header) && peer->frame.header.length == 0)
      take_frame(mesh, r);
    else if (peer->used > sizeof(Header) && peer->used == sizeof(Header) + peer->frame.header.length)
      take_frame(mesh, r);
  }
}

/* Where a SIGTERM that came at `at` is the first and no failure's consequence (the death of a rank is known before
 * mpirun says so), the rank may heed it by itself. */
static bool heed_first(Mesh *mesh, double at) {
  pthread_mutex_lock(&mesh->mutex);
  bool ask = !mesh->decided && !mesh->leaving && mesh->calls.heed_term;
  pthread_mutex_unlock(&mesh->mutex);
  if (clock_seconds() - at < 0.1)
    return false;
  bool heeded = ask && mesh->calls.heed_term();
  mesh->calls.heed_term = NULL;
  return heeded;
}

/* SIGTERM has come at `at`. mpirun sends it when another rank died: for half a second we listen for who it was. After
 * two seconds the signal does what it would have done. The ranks wait unequally, so that one of them speaks, and the
 * watcher itself: the rank's own thread may look at nothing for longer than that. */
static void heed_signal(Mesh *mesh, double at) {
  double waited = clock_seconds() - at;
  if (waited >= 0.5 + 0.25 * (mesh->rank < 4 ? mesh->rank : 4)) {
    pthread_mutex_lock(&mesh->mutex);
    if (!mesh->leaving) /* mpirun also sends it to those that are about to end, when the first one has with a failure */
      decide(mesh, ENDED, mesh->rank, "ended by SIGTERM");
    pthread_mutex_unlock(&mesh->mutex);
  }
  if (waited < 2)
    return;
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &term, NULL);
  kill(getpid(), SIGTERM);
}

/* A rank that nobody watches would let the others wait for ever. */
static void stop_watching(Mesh *mesh, int error) {
  char text[128];
  snprintf(text, sizeof text, "cannot watch its peers: %s", strerror(error));
  pthread_mutex_lock(&mesh->mutex);
  decide(mesh, GAVE_UP, mesh->rank, text);
  pthread_mutex_unlock(&mesh->mutex);
}

/* Tells the others what this rank is at, and looks whether anybody moves: milliseconds until it is due again. Under the
 * mutex. */
static int beat(Mesh *mesh) {
  char line[1024];
  if (watcher_look(mesh->watcher)) {
    tell_all_bytes(mesh, BEAT, mesh->rank, watcher_state(mesh->watcher, mesh->rank), sizeof(WatchState));
    if (!mesh->decided && watcher_hangs(mesh->watcher, mesh->rank, line, sizeof line))
      decide(mesh, HANGS, mesh->rank, line);
  }
  if (mesh->calls.end && mesh->decided && mesh->kind == HANGS && clock_seconds() - mesh->decided_at > END_SECONDS)
    mesh->calls.end(mesh->calls.end_context, "");
  return (int)(1e3 * watcher_due(mesh->watcher)) + 1;
}

static void *watch(void *argument) {
  Mesh *mesh = argument;
  struct pollfd *polls = mesh->polls;
  double signal_at = 0;
  for (int due = 0;;) {
    polls[0] = (struct pollfd){.fd = mesh->stop, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = mesh->signals, .events = POLLIN};
    for (int r = 0; r < mesh->size; r++)
      polls[2 + r] = (struct pollfd){.fd = mesh->peers[r].fd, .events = POLLIN};
    if (poll(polls, (nfds_t)mesh->size + 2, signal_at > 0 && due > 50 ? 50 : due) < 0) {
      if (errno == EINTR || errno == EAGAIN)
        continue;
      stop_watching(mesh, errno);
      return NULL;
    }
    if (polls[0].revents)
      return NULL;
    struct signalfd_siginfo info;
    if (polls[1].revents && read(mesh->signals, &info, sizeof info) == (ssize_t)sizeof info && signal_at == 0)
      signal_at = clock_seconds();
    pthread_mutex_lock(&mesh->mutex);
    for (int r = 0; r < mesh->size; r++)
      if (polls[2 + r].revents)
        hear_peer(mesh, r);
    due = beat(mesh);
    pthread_mutex_unlock(&mesh->mutex);
    if (signal_at > 0 && mesh->calls.heed_term && heed_first(mesh, signal_at))
      signal_at = 0;
    if (signal_at > 0)
      heed_signal(mesh, signal_at);
  }
}

Status mesh_listen(int rank, int size, Mesh **out, MeshAddress *own) {
  Mesh *mesh = calloc(1, sizeof *mesh);
  bool whole = mesh && (mesh->peers = calloc((size_t)size, sizeof *mesh->peers)) &&
               (mesh->polls = calloc((size_t)size + 2, sizeof *mesh->polls));
  if (!whole) {
    if (mesh)
      free(mesh->peers);
    free(mesh);
    return fail(E_MEMORY, "out of memory: connections of %d ranks", size);
  }
  mesh->rank = rank;
  mesh->size = size;
  mesh->listener = mesh->stop = mesh->signals = -1;
  for (int r = 0; r < size; r++)
    mesh->peers[r].fd = -1;
  pthread_mutex_init(&mesh->mutex, NULL);
  clock_condition(&mesh->changed);
  Status status = watcher_create(size, &mesh->watcher);
  if (status == OK)
    status = mesh_connect_listen(rank, size, &mesh->listener, own);
  if (status != OK) {
    mesh_close(mesh);
    return status;
  }
  *out = mesh;
  return OK;
}

void mesh_timeout(Mesh *mesh, double seconds) {
  pthread_mutex_lock(&mesh->mutex);
  watcher_set_timeout(mesh->watcher, seconds);
  pthread_mutex_unlock(&mesh->mutex);
}

Status mesh_connect(Mesh *mesh, const MeshAddress *all, Watch *own, const MeshCalls *calls) {
  int *fds = calloc((size_t)mesh->size, sizeof *fds);
  if (!fds)
    return fail(E_MEMORY, "out of memory");
  Status status = mesh_connect_all(mesh->rank, mesh->size, mesh->listener, all, fds);
  for (int r = 0; r < mesh->size && status == OK; r++) {
    struct sockaddr_in at;
    socklen_t length = sizeof at;
    mesh->peers[r].fd = fds[r];
    if (fds[r] >= 0 && getpeername(fds[r], (struct sockaddr *)&at, &length) == 0)
      inet_ntop(AF_INET, &at.sin_addr, mesh->peers[r].address, sizeof mesh->peers[r].address);
  }
  free(fds);
  TRY(status);
  watcher_add(mesh->watcher, mesh->rank, own);
  mesh->calls = *calls;
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  mesh->stop = eventfd(0, EFD_CLOEXEC);
  mesh->signals = signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK);
  if (mesh->stop < 0 || mesh->signals < 0)
    return fail(E_COMM, "rank %d cannot watch its peers: %s", mesh->rank, strerror(errno));
  int error = pthread_create(&mesh->thread, NULL, watch, mesh);
  if (error)
    return fail(E_COMM, "rank %d cannot watch its peers: %s", mesh->rank, strerror(error));
  mesh->watching = true;
  return OK;
}

void mesh_wait_reporter(Mesh *mesh, double seconds) {
  struct timespec until = clock_until(seconds);
  pthread_mutex_lock(&mesh->mutex);
  int error = 0;
  while (!error && mesh->decided && mesh->reporter != mesh->rank && mesh->peers[mesh->reporter].fd >= 0)
    error = pthread_cond_timedwait(&mesh->changed, &mesh->mutex, &until);
  pthread_mutex_unlock(&mesh->mutex);
}

void mesh_close(Mesh *mesh) {
  if (!mesh)
    return;
  if (mesh->watching) {
    uint64_t one = 1;
    (void)!write(mesh->stop, &one, sizeof one);
    pthread_join(mesh->thread, NULL);
  }
  for (int r = 0; r < mesh->size; r++)
    if (mesh->peers[r].fd >= 0)
      close(mesh->peers[r].fd);
  int others[] = {mesh->listener, mesh->stop, mesh->signals};
  for (int i = 0; i < 3; i++)
    if (others[i] >= 0)
      close(others[i]);
  pthread_mutex_destroy(&mesh->mutex);
  pthread_cond_destroy(&mesh->changed);
  watcher_destroy(mesh->watcher);
  free(mesh->polls);
  free(mesh->peers);
  free(mesh);
}
