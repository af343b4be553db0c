/* What a rank is at and whom it waits for, told by its thread as it goes, for whoever watches over it from another.
 * Invariant: telling is a few relaxed stores by the rank's own thread; it takes no lock and waits for nobody. */
#ifndef RUNTIME_TRANSPORT_WATCH_H
#define RUNTIME_TRANSPORT_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
  WATCH_OUTSIDE, /* in the caller's code: nothing is known of it, and it may last */
  WATCH_START,
  WATCH_PLAN,
  WATCH_LOAD,
  WATCH_STEP,
  WATCH_VALIDATE,
  WATCH_CHECKPOINT,
  WATCH_SAVE,
  WATCH_END,
  WATCH_PHASES
} WatchPhase;

/* Whom it waits for, where that is no one rank. */
enum { WATCH_NOBODY = -1, WATCH_DEVICE = -2 /* its own */, WATCH_ALL = -3 };

/* What it is at within a phase. */
typedef struct {
  uint8_t phase, action; /* action: 0: none, else 1 + an ActionKind, or 1 + ACTION_KINDS: sums of shared gradients */
  uint16_t stage, microbatch;
} WatchPlace;

typedef struct {
  _Atomic uint64_t moved; /* how often it told something */
  _Atomic uint64_t place; /* a WatchPlace, packed */
  _Atomic int64_t step;   /* from 1, of the phases that have one; 0: none */
  _Atomic int32_t waits;  /* for 2 · rank + 1 to take what is sent, 2 · rank to send; negative: as above */
  atomic_bool has_clock;
  clockid_t clock; /* of the rank's thread */
} Watch;

static inline uint64_t watch_pack(WatchPlace p) {
  return (uint64_t)p.phase << 40 | (uint64_t)p.action << 32 | (uint64_t)p.stage << 16 | p.microbatch;
}

static inline WatchPlace watch_unpack(uint64_t place) {
  return (WatchPlace){(uint8_t)(place >> 40), (uint8_t)(place >> 32), (uint16_t)(place >> 16), (uint16_t)place};
}

/* Whose calling thread is, and that it waits for nobody yet. */
static inline void watch_begin(Watch *watch) {
  atomic_store_explicit(&watch->waits, WATCH_NOBODY, memory_order_relaxed);
  bool has = pthread_getcpuclockid(pthread_self(), &watch->clock) == 0;
  atomic_store_explicit(&watch->has_clock, has, memory_order_release);
}

static inline void watch_moved(Watch *watch) {
  uint64_t moved = atomic_load_explicit(&watch->moved, memory_order_relaxed);
  atomic_store_explicit(&watch->moved, moved + 1, memory_order_relaxed);
}

/* Of those below NULL is fine: nobody watches. */

/* A phase begins, and a wait that failed is over; `step` as above. */
static inline void watch_phase(Watch *watch, WatchPhase phase, int64_t step) {
  if (!watch)
    return;
  atomic_store_explicit(&watch->waits, WATCH_NOBODY, memory_order_relaxed);
  atomic_store_explicit(&watch->step, step, memory_order_relaxed);
  atomic_store_explicit(&watch->place, watch_pack((WatchPlace){.phase = (uint8_t)phase}), memory_order_relaxed);
  watch_moved(watch);
}

/* The caller's code is called, for so long as it likes; where the rank was. */
static inline uint64_t watch_leave(Watch *watch) {
  if (!watch)
    return 0;
  uint64_t place = atomic_load_explicit(&watch->place, memory_order_relaxed);
  atomic_store_explicit(&watch->place, watch_pack((WatchPlace){.phase = WATCH_OUTSIDE}), memory_order_relaxed);
  return place;
}

static inline void watch_return(Watch *watch, uint64_t place) {
  if (!watch)
    return;
  atomic_store_explicit(&watch->place, place, memory_order_relaxed);
  watch_moved(watch);
}

/* An action of the phase begins; action -1: the last one is over. */
static inline void watch_action(Watch *watch, int action, int stage, int microbatch) {
  if (!watch)
    return;
  uint64_t phase = atomic_load_explicit(&watch->place, memory_order_relaxed) >> 40;
  WatchPlace place = {(uint8_t)phase, (uint8_t)(action + 1), (uint16_t)stage, (uint16_t)microbatch};
  atomic_store_explicit(&watch->place, watch_pack(place), memory_order_relaxed);
  watch_moved(watch);
}

/* It waits from now on: for `rank` to send, or to take what it sends, or for what WATCH_… says. */
static inline void watch_wait(Watch *watch, int rank, bool is_send) {
  if (watch)
    atomic_store_explicit(&watch->waits, rank < 0 ? rank : 2 * rank + is_send, memory_order_relaxed);
}

static inline void watch_waited(Watch *watch) {
  if (!watch)
    return;
  atomic_store_explicit(&watch->waits, WATCH_NOBODY, memory_order_relaxed);
  watch_moved(watch);
}

#endif
