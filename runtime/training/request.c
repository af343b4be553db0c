/* Invariant: lock-free numbers and nothing else, so that a signal's handler may come at any time. */
#include "runtime/training/request.h"

#include <stdatomic.h>

static atomic_int looking, asked;

bool request_make(int what) {
  if (!atomic_load(&looking))
    return false;
  atomic_fetch_or(&asked, what);
  return true;
}

void request_heed(bool looks) {
  if (!looks)
    atomic_fetch_sub(&looking, 1);
  else {
    if (atomic_load(&looking) == 0) /* what was asked of a run before; what is asked from here on counts */
      atomic_store(&asked, 0);
    atomic_fetch_add(&looking, 1);
  }
}

int request_take(void) {
  return atomic_fetch_and(&asked, REQUEST_STOP);
}
