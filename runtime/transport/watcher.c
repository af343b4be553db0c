#include "runtime/transport/watcher.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "partitioner/schedule/schedule.h"

/* seconds: from look to look; what a rank may take that has not been heard of yet */
static const double MOST_BEAT = 1, LEAST_BEAT = 0.1;
enum { BEATS = 8 /* in a timeout */, SILENT_BEATS = 3, TURNS = 4 };

typedef struct {
  Watch *watch; /* NULL: of another process */
  double cpu;   /* seconds that its thread had used */
  double heard; /* when, by the watcher's clock */
  double moved; /* likewise; of this process's ranks */
} Source;

struct Watcher {
  int n;
  WatchedRank *ranks; /* [n] */
  Source *sources;    /* [n] */
  double timeout, beat;
  double clock, looked; /* seconds that it has watched; when it last looked, by the machine's clock */
  double moved;         /* when a rank last did, by its own clock */
  double cpu;           /* seconds that the process had used, without the watching thread */
};

/* Decisions */

typedef enum { ENDED, ACTIVE, CYCLE, WAITS_DEVICE, WAITS_ALL, WAITS, STANDS, SILENT } Condition;

static Condition condition_of(const WatchedRank *r, double timeout) {
  double silent = fmax(timeout / 2, SILENT_BEATS * r->state.beat);
  if (r->gone)
    return ENDED;
  if (r->unheard >= silent)
    return SILENT;
  if (r->state.waits == WATCH_DEVICE)
    return WAITS_DEVICE;
  if (r->state.waits == WATCH_ALL)
    return WAITS_ALL;
  return r->state.waits >= 0 ? WAITS : r->state.active ? ACTIVE : STANDS;
}

/* Whom all are waited for by: the first that is silent, else that stands still. -1: nobody. */
static int last_of_all(const WatchedRank *ranks, int n, double timeout) {
  for (Condition worst = SILENT; worst >= STANDS; worst--)
    for (int r = 0; r < n; r++)
      if (condition_of(&ranks[r], timeout) == worst)
        return r;
  return -1;
}

/* Follows the waits from rank r: *waiter, the last one that waits, and *culprit, for whom; the culprit's condition. */
static Condition follow(const WatchedRank *ranks, int n, double timeout, int r, int *waiter, int *culprit) {
  *waiter = *culprit = r;
  for (int steps = 0; steps <= n; steps++) {
    Condition condition = condition_of(&ranks[*culprit], timeout);
    int next = condition == WAITS       ? ranks[*culprit].state.waits / 2
               : condition == WAITS_ALL ? last_of_all(ranks, n, timeout)
                                        : -1;
    if (next < 0 || next >= n)
      return condition;
    *waiter = *culprit;
    *culprit = next;
  }
  return CYCLE;
}

typedef char Phrase[160];

static const char *const phases[WATCH_PHASES] = {[WATCH_OUTSIDE] = "between two steps",
                                                 [WATCH_START] = "start-up",
                                                 [WATCH_PLAN] = "planning",
                                                 [WATCH_LOAD] = "loading",
                                                 [WATCH_STEP] = "step",
                                                 [WATCH_VALIDATE] = "validation after step",
                                                 [WATCH_CHECKPOINT] = "the checkpoint after step",
                                                 [WATCH_SAVE] = "saving after step",
                                                 [WATCH_END] = "the end"};

static const char *compute_name(int action) {
  static const char *const names[] = {
      [ACTION_F] = "F",      [ACTION_B] = "B",      [ACTION_W] = "W",      [ACTION_BW] = "BW",
      [ACTION_SEND_F] = "F", [ACTION_RECV_F] = "F", [ACTION_SEND_B] = "B", [ACTION_RECV_B] = "B"};
  return names[action];
}

/* "F of microbatch 3 of stage 2", as its stage computes it; "" where it is at no action. */
static void say_action(WatchPlace place, Phrase text) {
  int action = place.action - 1;
  int stage = place.stage + (action == ACTION_RECV_B) - (action == ACTION_RECV_F);
  *text = '\0';
  if (action >= 0 && action < ACTION_KINDS)
    snprintf(text, sizeof(Phrase), "%s of microbatch %d of stage %d", compute_name(action), place.microbatch, stage);
  else if (action == ACTION_KINDS)
    snprintf(text, sizeof(Phrase), "gradients of shared parameters");
}

/* "step 12". */
static void say_phase(const WatchState *s, Phrase text) {
  int phase = watch_unpack(s->place).phase;
  const char *doing = phases[phase < WATCH_PHASES ? phase : WATCH_OUTSIDE];
  if (s->step > 0)
    snprintf(text, sizeof(Phrase), "%s %lld", doing, (long long)s->step);
  else
    snprintf(text, sizeof(Phrase), "%s", doing);
}

/* "F of microbatch 3 of stage 2, step 12", or "planning". */
static void say_place(const WatchState *s, Phrase text) {
  Phrase action, phase;
  say_action(watch_unpack(s->place), action);
  say_phase(s, phase);
  snprintf(text, sizeof(Phrase), "%.70s%s%.70s", action, *action ? ", " : "", phase);
}

/* "for F of microbatch 3 of stage 2 from rank 1 (step 12)", or "for rank 1 (planning)". */
static void say_wait(const WatchState *s, int from, Phrase text) {
  Phrase action, phase;
  say_action(watch_unpack(s->place), action);
  say_phase(s, phase);
  if (!*action || s->waits < 0)
    snprintf(text, sizeof(Phrase), "for rank %d (%.70s)", from, phase);
  else if (s->waits & 1)
    snprintf(text, sizeof(Phrase), "to hand %.70s to rank %d (%.40s)", action, from, phase);
  else
    snprintf(text, sizeof(Phrase), "for %.70s from rank %d (%.40s)", action, from, phase);
}

static void say_why(const WatchedRank *ranks, int culprit, Condition condition, Phrase text) {
  const WatchState *s = &ranks[culprit].state;
  Phrase place;
  say_place(s, place);
  if (condition == SILENT)
    snprintf(text, sizeof(Phrase), "does not answer: its process, or its machine, is stopped");
  else if (condition == WAITS_DEVICE)
    snprintf(text, sizeof(Phrase), "waits for its device in %.100s", place);
  else if (condition == CYCLE)
    snprintf(text, sizeof(Phrase), "waits for rank %d", s->waits / 2);
  else
    snprintf(text, sizeof(Phrase), "does not move: it hangs in %.100s", place);
}

bool watch_judge(const WatchedRank *ranks, int n, double timeout, char *line, size_t room) {
  Condition worst = ENDED;
  int waiter = 0, culprit = 0;
  for (int r = 0; r < n; r++) {
    int from, to;
    Condition condition = follow(ranks, n, timeout, r, &from, &to);
    bool better = condition == worst && waiter == culprit && from != to;
    if (condition > worst || better) {
      worst = condition;
      waiter = from;
      culprit = to;
    }
  }
  Phrase wait, why;
  double still = fmax(ranks[waiter].state.still, timeout);
  if (worst <= ACTIVE)
    return false;
  say_why(ranks, culprit, worst, why);
  say_wait(&ranks[waiter].state, culprit, wait);
  if (worst == WAITS_ALL)
    snprintf(line, room, "rank %d waits since %.0f s for all ranks", culprit, still);
  else if (waiter == culprit)
    snprintf(line, room, "rank %d %s", culprit, why);
  else
    snprintf(line, room, "rank %d waits since %.0f s %s, which %s", waiter, still, wait, why);
  size_t used = strlen(line);
  snprintf(line + used, room - used, "; no rank moved for %g s (--timeout)", timeout);
  return true;
}

/* Looking */

Status watcher_create(int ranks, Watcher **out) {
  Watcher *w = calloc(1, sizeof *w);
  bool whole = w && (w->ranks = calloc((size_t)ranks, sizeof *w->ranks)) &&
               (w->sources = calloc((size_t)ranks, sizeof *w->sources));
  if (!whole) {
    watcher_destroy(w);
    return fail(E_MEMORY, "out of memory: watching over %d ranks", ranks);
  }
  w->n = ranks;
  w->beat = MOST_BEAT;
  for (int r = 0; r < ranks; r++)
    w->ranks[r].state = (WatchState){.waits = WATCH_NOBODY, .beat = MOST_BEAT};
  *out = w;
  return OK;
}

void watcher_destroy(Watcher *w) {
  if (!w)
    return;
  free(w->ranks);
  free(w->sources);
  free(w);
}

void watcher_add(Watcher *w, int rank, Watch *watch) {
  w->sources[rank].watch = watch;
}

void watcher_set_timeout(Watcher *w, double seconds) {
  w->timeout = seconds;
  w->beat = seconds > 0 ? fmin(MOST_BEAT, fmax(LEAST_BEAT, seconds / BEATS)) : MOST_BEAT;
  w->moved = w->clock;
}

void watcher_hear(Watcher *w, int rank, const WatchState *state) {
  WatchedRank *r = &w->ranks[rank];
  if (state->active || state->moved != r->state.moved)
    w->moved = w->clock;
  r->state = *state;
  w->sources[rank].heard = w->clock;
}

void watcher_forget(Watcher *w, int rank) {
  w->ranks[rank].gone = true;
}

double watcher_due(const Watcher *w) {
  double left = w->looked + w->beat - clock_seconds();
  return left > 0 ? left : 0;
}

static double clock_of(clockid_t clock, double otherwise) {
  struct timespec t;
  return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec + 1e-9 * (double)t.tv_nsec : otherwise;
}

/* Whether a thread of this process waits for a disk, or a page of a file. */
static bool waits_for_disk(void) {
  DIR *tasks = opendir("/proc/self/task");
  bool waits = false;
  for (struct dirent *task; tasks && !waits && (task = readdir(tasks));) {
    char path[64], text[256];
    if (!isdigit((unsigned char)*task->d_name))
      continue;
    snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", task->d_name);
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[n] = '\0';
    const char *state = strrchr(text, ')'); /* the name before may hold anything */
    waits = state && strncmp(state, ") D", 3) == 0;
    if (file)
      fclose(file);
  }
  if (tasks)
    closedir(tasks);
  return waits;
}

/* Whether this process computed in the `seconds` since the last look: more than its waiting ranks and the watch did. */
static bool process_works(Watcher *w, double seconds) {
  double cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID, w->cpu) - clock_of(CLOCK_THREAD_CPUTIME_ID, 0);
  double used = cpu - w->cpu;
  w->cpu = cpu;
  for (int r = 0; r < w->n; r++) {
    Source *s = &w->sources[r];
    if (!s->watch || !atomic_load_explicit(&s->watch->has_clock, memory_order_acquire))
      continue;
    double own = clock_of(s->watch->clock, s->cpu);
    if (atomic_load_explicit(&s->watch->waits, memory_order_relaxed) != WATCH_NOBODY)
      used -= own - s->cpu;
    s->cpu = own;
  }
  return used > 0.01 * seconds || (w->clock - w->moved > w->beat && waits_for_disk());
}

static void look_at(Watcher *w, int rank, bool works) {
  Source *s = &w->sources[rank];
  Watch *watch = s->watch;
  uint64_t moved = atomic_load_explicit(&watch->moved, memory_order_relaxed);
  WatchState *state = &w->ranks[rank].state;
  bool moves = moved != state->moved;
  state->moved = moved;
  state->place = atomic_load_explicit(&watch->place, memory_order_relaxed);
  state->step = atomic_load_explicit(&watch->step, memory_order_relaxed);
  state->waits = atomic_load_explicit(&watch->waits, memory_order_relaxed);
  state->active = state->waits == WATCH_NOBODY && (works || watch_unpack(state->place).phase == WATCH_OUTSIDE);
  if (moves || state->active)
    s->moved = w->moved = w->clock;
  state->still = w->clock - s->moved;
  state->beat = w->beat;
  s->heard = w->clock;
}

bool watcher_look(Watcher *w) {
  double now = clock_seconds(), seconds = now - w->looked;
  if (w->looked > 0 && seconds < w->beat)
    return false;
  if (w->looked > 0)
    w->clock += fmin(seconds, 2 * w->beat);
  bool works = process_works(w, w->looked > 0 ? seconds : 0);
  w->looked = now;
  for (int r = 0; r < w->n; r++) {
    if (w->sources[r].watch)
      look_at(w, r, works);
    w->ranks[r].unheard = w->clock - w->sources[r].heard;
  }
  return true;
}

const WatchState *watcher_state(const Watcher *w, int rank) {
  return &w->ranks[rank].state;
}

bool watcher_hangs(const Watcher *w, int rank, char *line, size_t room) {
  int turn = 0;
  if (w->timeout <= 0)
    return false;
  for (int r = 0; r < rank && turn < TURNS; r++)
    turn += condition_of(&w->ranks[r], w->timeout) != SILENT && !w->ranks[r].gone;
  return w->clock - w->moved >= w->timeout + 2 * turn * w->beat && watch_judge(w->ranks, w->n, w->timeout, line, room);
}
