#include "runtime/transport/ticker.h"

#include <string.h>
#include <time.h>

static void destroy(Ticker *t) {
  pthread_cond_destroy(&t->changed);
  pthread_mutex_destroy(&t->lock);
}

Status ticker_start(Ticker *t, const char *what, void *(*look)(void *), void *argument) {
  pthread_condattr_t monotonic;
  t->end = false;
  pthread_mutex_init(&t->lock, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&t->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  int error = pthread_create(&t->thread, NULL, look, argument);
  if (!error)
    return OK;
  destroy(t);
  return fail(E_MEMORY, "thread of %s: %s", what, strerror(error));
}

bool ticker_rest(Ticker *t, double seconds) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  long nanoseconds = until.tv_nsec + (long)(1e9 * (seconds - (double)(time_t)seconds));
  until.tv_sec += (time_t)seconds + nanoseconds / 1000000000;
  until.tv_nsec = nanoseconds % 1000000000;
  pthread_mutex_lock(&t->lock);
  int error = 0;
  while (!t->end && !error)
    error = pthread_cond_timedwait(&t->changed, &t->lock, &until);
  bool end = t->end;
  pthread_mutex_unlock(&t->lock);
  return end;
}

void ticker_end(Ticker *t) {
  pthread_mutex_lock(&t->lock);
  t->end = true;
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
  pthread_join(t->thread, NULL);
  destroy(t);
}
