/* Invariant: the thread only reads what ranks tell, and touches nothing that a rank which hangs may hold. */
#include "runtime/training/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/transport/watcher.h"

struct Watchdog {
  Watcher *watcher;
  void (*hangs)(void *context, const char *line);
  void *context;
  pthread_t thread;
  /* under the lock: */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool stop;
};

/* Until the next look is due, or the end: whether it is that. */
static bool rest(Watchdog *w) {
  struct timespec until;
  double due = watcher_due(w->watcher);
  clock_gettime(CLOCK_REALTIME, &until);
  long nanoseconds = until.tv_nsec + (long)(1e9 * (due - (double)(time_t)due));
  until.tv_sec += (time_t)due + nanoseconds / 1000000000;
  until.tv_nsec = nanoseconds % 1000000000;
  pthread_mutex_lock(&w->lock);
  if (!w->stop)
    pthread_cond_timedwait(&w->changed, &w->lock, &until);
  bool stop = w->stop;
  pthread_mutex_unlock(&w->lock);
  return stop;
}

static void *watch(void *argument) {
  Watchdog *w = argument;
  char line[1024];
  while (!rest(w))
    if (watcher_look(w->watcher) && watcher_hangs(w->watcher, 0, line, sizeof line)) {
      w->hangs(w->context, line);
      break;
    }
  return NULL;
}

static void destroy(Watchdog *w) {
  watcher_destroy(w->watcher);
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w);
}

Status watchdog_start(Watch *const *watches, int ranks, double seconds, void (*hangs)(void *, const char *),
                      void *context, Watchdog **out) {
  Watchdog *w = calloc(1, sizeof *w);
  if (!w)
    return fail(E_MEMORY, "out of memory: a watchdog");
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
  w->hangs = hangs;
  w->context = context;
  Status status = watcher_create(ranks, &w->watcher);
  for (int r = 0; r < ranks && status == OK; r++)
    watcher_add(w->watcher, r, watches[r]);
  if (status == OK) {
    watcher_set_timeout(w->watcher, seconds);
    int error = pthread_create(&w->thread, NULL, watch, w);
    if (error)
      status = fail(E_MEMORY, "thread of the watchdog: %s", strerror(error));
  }
  if (status != OK) {
    destroy(w);
    return status;
  }
  *out = w;
  return OK;
}

void watchdog_stop(Watchdog *w) {
  if (!w)
    return;
  pthread_mutex_lock(&w->lock);
  w->stop = true;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
  pthread_join(w->thread, NULL);
  destroy(w);
}
