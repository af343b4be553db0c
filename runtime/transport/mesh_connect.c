/* A connection begins with a Hello of the calling rank and the answer of the called one. Invariant: what is handed out
 * leads to the rank that it is for: it knew this run's secret and said its number. */
#include "runtime/transport/mesh_connect.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/machine.h"

/* seconds: for all ranks to appear; for one address to answer */
enum { ALL_SECONDS = 60, ONE_SECONDS = 5 };

typedef struct {
  uint8_t secret[16];
  int32_t from, to;
} Hello;

/* The boot's id and the network's: two machines or two containers may share a name, two containers an id; what shares
 * both shares the loopback interface. */
static void name_host(char host[MESH_HOST]) {
  struct stat network = {0};
  char boot[MACHINE_BOOT];
  machine_boot(boot);
  memset(host, 0, MESH_HOST);
  if (stat("/proc/self/ns/net", &network) != 0)
    network.st_ino = 0;
  snprintf(host, MESH_HOST, "%.40s %llu", boot, (unsigned long long)network.st_ino);
}

static void list_addresses(MeshAddress *own) {
  struct ifaddrs *all;
  if (getifaddrs(&all) != 0)
    return;
  for (struct ifaddrs *i = all; i && own->n_addresses < MESH_ADDRESSES; i = i->ifa_next)
    if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && (i->ifa_flags & IFF_UP) && !(i->ifa_flags & IFF_LOOPBACK))
      own->address[own->n_addresses++] = ((struct sockaddr_in *)i->ifa_addr)->sin_addr.s_addr;
  freeifaddrs(all);
}

Status mesh_connect_listen(int rank, int size, int *listener, MeshAddress *own) {
  memset(own, 0, sizeof *own);
  name_host(own->host);
  list_addresses(own);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
  socklen_t length = sizeof at;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&at, length) != 0 || listen(fd, size) != 0 ||
      getsockname(fd, (struct sockaddr *)&at, &length) != 0 ||
      getrandom(own->secret, sizeof own->secret, 0) != (ssize_t)sizeof own->secret) {
    Status status = fail(E_COMM, "rank %d cannot listen for its peers: %s", rank, strerror(errno));
    if (fd >= 0)
      close(fd);
    return status;
  }
  own->port = at.sin_port;
  *listener = fd;
  return OK;
}

static bool ready(int fd, short events, double until) {
  for (;;) {
    double left = until - clock_seconds();
    struct pollfd one = {.fd = fd, .events = events};
    int n = poll(&one, 1, left > 0 ? (int)(1e3 * left) + 1 : 0);
    if (n >= 0 || errno != EINTR)
      return n > 0;
  }
}

/* Reads exactly `bytes`; false when they do not come in time. */
static bool hear(int fd, void *data, size_t bytes, double until) {
  size_t got = 0;
  while (got < bytes && ready(fd, POLLIN, until)) {
    ssize_t n = recv(fd, (char *)data + got, bytes - got, 0);
    if (n > 0)
      got += (size_t)n;
    else if (n == 0 || (errno != EINTR && errno != EAGAIN))
      return false;
  }
  return got == bytes;
}

static bool say(int fd, const void *data, size_t bytes) {
  return send(fd, data, bytes, MSG_NOSIGNAL) == (ssize_t)bytes; /* the first bytes of a connection always fit */
}

/* A machine that vanishes sends no end of the connection: ask it now and then. What was sent meanwhile and is not
 * acknowledged (no keepalive goes out then) may take as long. */
static void keep_alive(int fd) {
  int on = 1, idle = 3, interval = 1, count = 4;
  unsigned milliseconds = 1000 * (unsigned)(idle + interval * count);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof milliseconds);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* A connection to one address, or -1 with errno. `until` bounds the peer's answer, which may be long in coming: it
 * answers when it has reached all ranks below it. */
static int call_address(uint32_t address, uint16_t port, const Hello *hello, double until) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = address, .sin_port = port};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  int error = connect(fd, (struct sockaddr *)&to, sizeof to) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    socklen_t length = sizeof error;
    error = ETIMEDOUT;
    if (ready(fd, POLLOUT, clock_seconds() + ONE_SECONDS))
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  }
  Hello answer;
  if (!error && !(say(fd, hello, sizeof *hello) && hear(fd, &answer, sizeof answer, until)))
    error = ETIMEDOUT;
  if (!error && (memcmp(answer.secret, hello->secret, sizeof answer.secret) != 0 || answer.from != hello->to))
    error = EPROTO;
  if (!error)
    return fd;
  close(fd);
  errno = error;
  return -1;
}

static Status call_rank(int rank, int peer, const MeshAddress *all, double until, int *fd) {
  Hello hello = {.from = rank, .to = peer};
  memcpy(hello.secret, all[0].secret, sizeof hello.secret);
  uint32_t loopback = htonl(INADDR_LOOPBACK);
  bool same_host = strncmp(all[rank].host, all[peer].host, MESH_HOST) == 0;
  const uint32_t *address = same_host ? &loopback : all[peer].address;
  int n = same_host ? 1 : all[peer].n_addresses;
  errno = EADDRNOTAVAIL;
  for (int i = 0; i < n; i++)
    if ((*fd = call_address(address[i], all[peer].port, &hello, until)) >= 0)
      return OK;
  char text[INET_ADDRSTRLEN] = "no address";
  if (n)
    inet_ntop(AF_INET, &address[n - 1], text, sizeof text);
  return fail(E_COMM, "rank %d cannot reach rank %d at %s port %d: %s", rank, peer, text, ntohs(all[peer].port),
              strerror(errno));
}

/* Lets in one caller; whoever does not say what we expect is sent away. */
static void answer_call(int fd, int rank, int size, const MeshAddress *all, int *fds, int *missing) {
  Hello hello;
  if (!hear(fd, &hello, sizeof hello, clock_seconds() + ONE_SECONDS) ||
      memcmp(hello.secret, all[0].secret, sizeof hello.secret) != 0 || hello.to != rank || hello.from <= rank ||
      hello.from >= size || fds[hello.from] >= 0) {
    close(fd);
    return;
  }
  int from = hello.from;
  hello.from = rank;
  hello.to = from;
  if (!say(fd, &hello, sizeof hello)) {
    close(fd);
    return;
  }
  fds[from] = fd;
  (*missing)--;
}

Status mesh_connect_all(int rank, int size, int listener, const MeshAddress *all, int *fds) {
  double until = clock_seconds() + ALL_SECONDS;
  Status status = OK;
  for (int r = 0; r < size; r++)
    fds[r] = -1;
  for (int r = 0; r < rank && status == OK; r++)
    status = call_rank(rank, r, all, until, &fds[r]);
  int missing = size - 1 - rank;
  while (missing && status == OK) {
    if (!ready(listener, POLLIN, until)) {
      int r = rank + 1;
      while (fds[r] >= 0)
        r++;
      status = fail(E_COMM, "rank %d was not called by rank %d within %d seconds", rank, r, ALL_SECONDS);
      break;
    }
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
      answer_call(fd, rank, size, all, fds, &missing);
  }
  for (int r = 0; r < size; r++)
    if (fds[r] >= 0 && status == OK) {
      keep_alive(fds[r]);
    } else if (fds[r] >= 0) {
      close(fds[r]);
      fds[r] = -1;
    }
  return status;
}
