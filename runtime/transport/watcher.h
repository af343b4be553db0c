/* Who of the ranks stands still, and why: looks at the ranks of this process (watch.h) now and then, hears of others,
 * and says after so many seconds in which no rank moved who waits for what from whom.
 *
 * A rank moves when it tells something new, or computes: its process uses its time, or waits for a disk, while the rank
 * itself waits for nobody. Whoever is not heard of is silent: its process is stopped. Time in which the watcher itself
 * was stopped does not count. Used by one thread at a time. */
#ifndef RUNTIME_TRANSPORT_WATCHER_H
#define RUNTIME_TRANSPORT_WATCHER_H

#include <stddef.h>

#include "base/status.h"
#include "runtime/transport/watch.h"

/* What is known of a rank, and what ranks tell each other of themselves. */
typedef struct {
  uint64_t moved, place;
  int64_t step;
  double still;   /* seconds since it moved */
  double beat;    /* seconds from one such message to the next */
  int32_t waits;  /* as Watch has it */
  int32_t active; /* it computes, or is in its caller's code */
} WatchState;

typedef struct {
  WatchState state;
  double unheard; /* seconds; of this process's ranks 0 */
  bool gone;      /* has ended in good order */
} WatchedRank;

/* What `ranks` that stand still wait for, one line without end; `timeout` is what has passed. False where it is not
 * clear yet. */
bool watch_judge(const WatchedRank *ranks, int n, double timeout, char *line, size_t room);

typedef struct Watcher Watcher;

/* Over ranks of which nothing is known yet: watcher_add those of this process, watcher_hear the others. */
Status watcher_create(int ranks, Watcher **watcher);
void watcher_destroy(Watcher *watcher);
/* `watch` is that of a rank of this process; it outlives the watcher. */
void watcher_add(Watcher *watcher, int rank, Watch *watch);
/* Seconds without movement that are too many; 0: any number is fine (at first). */
void watcher_set_timeout(Watcher *watcher, double seconds);
void watcher_hear(Watcher *watcher, int rank, const WatchState *state);
/* The rank has ended in good order. */
void watcher_forget(Watcher *watcher, int rank);
/* Seconds until the next look is due. */
double watcher_due(const Watcher *watcher);
/* Looks, when it is due; whether it did. */
bool watcher_look(Watcher *watcher);
/* What a rank of this process tells the others. */
const WatchState *watcher_state(const Watcher *watcher, int rank);
/* Whether no rank moved for too long: then the line. The ranks that answer take turns, lowest first: `rank` is who
 * asks. */
bool watcher_hangs(const Watcher *watcher, int rank, char *line, size_t room);

#endif
