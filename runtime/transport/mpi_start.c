#include "runtime/transport/mpi_start.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/transport/ticker.h"

/* seconds: from look to look; for which a rank leaves it to a lower one that was there to say it */
static const double LOOK = 0.25, TURN = 2;
/* seconds in which mpirun ends the others when one has said why it ends; that one rank waits for all to see it */
static const double SPOKEN = 3, SEEN = 0.26;

struct StartGuard {
  double seconds;
  void (*end_process)(void *context, const char *line);
  void *context;
  Ticker ticker;
};

/* What launchers call a process's rank. */
static const char *const names[] = {"OMPI_COMM_WORLD_RANK=", "PMIX_RANK=", "PMI_RANK="};
enum { NAMES = sizeof names / sizeof *names };

/* The file's bytes and a 0 behind them: how many there are. */
static size_t read_whole(const char *path, char *text, size_t room) {
  FILE *file = fopen(path, "r");
  size_t n = file ? fread(text, 1, room - 1, file) : 0;
  text[n] = '\0';
  if (file)
    fclose(file);
  return n;
}

/* -1: it is no rank. */
static int rank_of(const char *process) {
  enum { ROOM = 1 << 17 };
  char path[64], *text = malloc(ROOM);
  int rank = -1;
  snprintf(path, sizeof path, "/proc/%.20s/environ", process);
  size_t n = text ? read_whole(path, text, ROOM) : 0;
  for (const char *at = text; at < text + n && rank < 0; at += strlen(at) + 1)
    for (int i = 0; i < NAMES; i++)
      if (strncmp(at, names[i], strlen(names[i])) == 0)
        rank = atoi(at + strlen(names[i]));
  free(text);
  return rank;
}

/* Of the processes with this one's parent: *stopped, the lowest rank that is (-1: none), and *first, that is not. */
static void look_around(int *stopped, int *first) {
  DIR *processes = opendir("/proc");
  *stopped = *first = -1;
  for (struct dirent *entry; processes && (entry = readdir(processes));) {
    char path[64], text[512], state;
    int parent;
    if (!isdigit((unsigned char)*entry->d_name))
      continue;
    snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
    read_whole(path, text, sizeof text);
    const char *behind = strrchr(text, ')'); /* the name before may hold anything */
    if (!behind || sscanf(behind, ") %c %d", &state, &parent) != 2 || parent != getppid())
      continue;
    int rank = rank_of(entry->d_name), *which = state == 'T' || state == 't' ? stopped : first;
    if (rank >= 0 && (*which < 0 || rank < *which))
      *which = rank;
  }
  if (processes)
    closedir(processes);
}

/* Seconds since this process began, those in which it was stopped included. */
static double age(void) {
  char text[512];
  unsigned long long ticks = 0; /* since the machine's start */
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  read_whole("/proc/self/stat", text, sizeof text);
  const char *behind = strrchr(text, ')');
  if (!behind ||
      sscanf(behind, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) != 1)
    return 0;
  return (double)now.tv_sec - (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

/* SIGTERM is blocked: by it mpirun ends ranks when the first one, which has said why, has ended. */
static bool is_told_to_end(void) {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, SIGTERM) == 1;
}

/* mpirun also sends SIGTERM where a rank's MPI_Init failed: that ends the rank's process with status 1 and no word of
 * ours. */
static void end_by_term(const StartGuard *g, int rank, bool speaks) {
  char line[128];
  snprintf(line, sizeof line, "rank %d: ended by SIGTERM in start-up; mpirun sends it where MPI failed on a rank",
           rank);
  nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * SEEN)}, NULL);
  g->end_process(g->context, speaks ? line : "");
}

static void *guard_start(void *argument) {
  StartGuard *g = argument;
  char line[256], own[24];
  snprintf(own, sizeof own, "%d", (int)getpid());
  int rank = rank_of(own), stopped, first, last = -1;
  double since = 0; /* seconds that `last` is stopped; in which this process was, too, count little */
  /* when a rank was stopped, this one included, perhaps before it came here: another may have said so */
  double seen = age() > SPOKEN ? clock_seconds() : -SPOKEN;
  double due = g->seconds, looked = clock_seconds();
  while (!ticker_rest(&g->ticker, LOOK)) {
    double now = clock_seconds(), passed = fmin(now - looked, 4 * LOOK);
    look_around(&stopped, &first);
    if (stopped >= 0 || now - looked > passed)
      seen = now;
    looked = now;
    if (is_told_to_end())
      end_by_term(g, rank, first == rank && now - seen > SPOKEN);
    since = stopped >= 0 && stopped == last ? since + passed : 0;
    last = stopped;
    due = first != rank ? fmax(g->seconds, since + TURN) : since > 0 ? due : g->seconds;
    if (g->seconds <= 0 || since < due)
      continue;
    snprintf(
        line, sizeof line,
        "rank %d waits since %.0f s for rank %d (start-up), which does not answer: its process is stopped (--timeout)",
        rank, since, stopped);
    g->end_process(g->context, is_told_to_end() ? "" : line);
    break;
  }
  return NULL;
}

StartGuard *start_guard_begin(double seconds, void (*end)(void *, const char *), void *context) {
  StartGuard *g = end ? calloc(1, sizeof *g) : NULL;
  if (!g)
    return NULL;
  *g = (StartGuard){.seconds = seconds, .end_process = end, .context = context};
  if (ticker_start(&g->ticker, "the watch over MPI's start", guard_start, g) == OK)
    return g;
  free(g);
  return NULL;
}

void start_guard_end(StartGuard *g) {
  if (!g)
    return;
  ticker_end(&g->ticker);
  free(g);
}
