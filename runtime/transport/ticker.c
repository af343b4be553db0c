#include "runtime/transport/ticker.h"

#include <string.h>

#include "base/clock.h"

static void destroy(Ticker *t) {
  pthread_cond_destroy(&t->changed);
  pthread_mutex_destroy(&t->lock);
}

Status ticker_start(Ticker *t, const char *what, void *(*look)(void *), void *argument) {
  t->end = false;
  pthread_mutex_init(&t->lock, NULL);
  clock_condition(&t->changed);
  int error = pthread_create(&t->thread, NULL, look, argument);
  if (!error)
    return OK;
  destroy(t);
  return fail(E_MEMORY, "thread of %s: %s", what, strerror(error));
}

bool ticker_rest(Ticker *t, double seconds) {
  struct timespec until = clock_until(seconds);
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
