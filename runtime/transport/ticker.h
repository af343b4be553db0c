/* A thread that looks at something now and then until it is told to end. */
#ifndef RUNTIME_TRANSPORT_TICKER_H
#define RUNTIME_TRANSPORT_TICKER_H

#include <pthread.h>
#include <stdbool.h>

#include "base/status.h"

typedef struct {
  pthread_t thread;
  /* under the lock: */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool end;
} Ticker;

/* Runs `look`, which rests between its looks and returns when ticker_rest says so. Fails E_MEMORY with what the thread
 * is for, `what`. */
Status ticker_start(Ticker *ticker, const char *what, void *(*look)(void *argument), void *argument);
/* So many seconds, whatever becomes of the time of day, or until the end: whether it is that. */
bool ticker_rest(Ticker *ticker, double seconds);
/* Until the thread has ended. Not from it. */
void ticker_end(Ticker *ticker);

#endif
