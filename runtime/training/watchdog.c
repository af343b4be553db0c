/* Invariant: the thread only reads what ranks tell, and touches nothing that a rank which hangs may hold. */
#include "runtime/training/watchdog.h"

#include <stdlib.h>

#include "runtime/transport/ticker.h"
#include "runtime/transport/watcher.h"

struct Watchdog {
  Watcher *watcher;
  void (*hangs)(void *context, const char *line);
  void *context;
  Ticker ticker;
};

static void *watch(void *argument) {
  Watchdog *w = argument;
  char line[1024];
  while (!ticker_rest(&w->ticker, watcher_due(w->watcher)))
    if (watcher_look(w->watcher) && watcher_hangs(w->watcher, 0, line, sizeof line)) {
      w->hangs(w->context, line);
      break;
    }
  return NULL;
}

static void destroy(Watchdog *w) {
  watcher_destroy(w->watcher);
  free(w);
}

Status watchdog_start(Watch *const *watches, int ranks, double seconds, void (*hangs)(void *, const char *),
                      void *context, Watchdog **out) {
  Watchdog *w = calloc(1, sizeof *w);
  if (!w)
    return fail(E_MEMORY, "out of memory: a watchdog");
  w->hangs = hangs;
  w->context = context;
  Status status = watcher_create(ranks, &w->watcher);
  for (int r = 0; r < ranks && status == OK; r++)
    watcher_add(w->watcher, r, watches[r]);
  if (status == OK) {
    watcher_set_timeout(w->watcher, seconds);
    status = ticker_start(&w->ticker, "the watchdog", watch, w);
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
  ticker_end(&w->ticker);
  destroy(w);
}
