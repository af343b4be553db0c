/* Watches over the ranks of this process while they train: a thread that says, once, who waits for whom when none of
 * them moves any more (transport/watcher.h). Inside the room. */
#ifndef RUNTIME_TRAINING_WATCHDOG_H
#define RUNTIME_TRAINING_WATCHDOG_H

#include "base/status.h"
#include "runtime/transport/watch.h"

typedef struct Watchdog Watchdog;

/* `hangs` gets the line, from the watchdog's thread, when no rank has moved for so many seconds. `watches` [ranks]
 * outlive the watchdog. Fails E_MEMORY. */
Status watchdog_start(Watch *const *watches, int ranks, double seconds, void (*hangs)(void *context, const char *line),
                      void *context, Watchdog **watchdog);
/* Not from `hangs`. NULL is fine. */
void watchdog_stop(Watchdog *watchdog);

#endif
