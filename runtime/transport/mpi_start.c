#include "runtime/transport/mpi_start.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

/* seconds from look to look */
static const double LOOK = 0.25;

struct StartGuard {
  double seconds;
  void (*report)(void *context, const char *message);
  void *context;
  pthread_t thread;
  /* under the lock: */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool end;
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

/* Until the next look, or the end: whether it is that. */
static bool rest(StartGuard *g) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += (long)(1e9 * LOOK);
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_mutex_lock(&g->lock);
  if (!g->end)
    pthread_cond_timedwait(&g->changed, &g->lock, &until);
  bool end = g->end;
  pthread_mutex_unlock(&g->lock);
  return end;
}

static void *guard_start(void *argument) {
  StartGuard *g = argument;
  char line[256], own[24];
  snprintf(own, sizeof own, "%d", (int)getpid());
  int rank = rank_of(own), stopped, first, last = -1;
  double since = 0; /* seconds that `last` is stopped; in which this process was, too, count little */
  for (double looked = clock_seconds(); !rest(g);) {
    double now = clock_seconds(), passed = fmin(now - looked, 4 * LOOK);
    looked = now;
    look_around(&stopped, &first);
    since = stopped >= 0 && stopped == last ? since + passed : 0;
    last = stopped;
    if (since < g->seconds || first != rank)
      continue;
    snprintf(
        line, sizeof line,
        "rank %d waits since %.0f s for rank %d (start-up), which does not answer: its process is stopped (--timeout)",
        rank, since, stopped);
    if (g->report)
      g->report(g->context, line);
    _exit(EXIT_FAILURE);
  }
  return NULL;
}

StartGuard *start_guard_begin(double seconds, void (*report)(void *, const char *), void *context) {
  StartGuard *g = seconds > 0 ? calloc(1, sizeof *g) : NULL;
  if (!g)
    return NULL;
  *g = (StartGuard){.seconds = seconds, .report = report, .context = context};
  pthread_mutex_init(&g->lock, NULL);
  pthread_cond_init(&g->changed, NULL);
  if (pthread_create(&g->thread, NULL, guard_start, g) == 0)
    return g;
  pthread_cond_destroy(&g->changed);
  pthread_mutex_destroy(&g->lock);
  free(g);
  return NULL;
}

void start_guard_end(StartGuard *g) {
  if (!g)
    return;
  pthread_mutex_lock(&g->lock);
  g->end = true;
  pthread_cond_broadcast(&g->changed);
  pthread_mutex_unlock(&g->lock);
  pthread_join(g->thread, NULL);
  pthread_cond_destroy(&g->changed);
  pthread_mutex_destroy(&g->lock);
  free(g);
}
