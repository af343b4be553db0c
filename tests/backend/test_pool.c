/* Threads of the cpu backend: where they run, and what its caller does between tasks. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "backend/cpu/pool.h"
#include "base/clock.h"
#include "base/machine.h"
#include "tests/test.h"

enum { TASKS = 40, THREADS = 3 };

typedef struct {
  pthread_t caller;
  int calls;
  bool elsewhere; /* called on another thread */
} Calls;

static void count(void *context) {
  Calls *calls = context;
  calls->calls++;
  calls->elsewhere |= !pthread_equal(calls->caller, pthread_self());
}

/* Longer than the pool takes from call to call. */
static Status rest(void *context, int64_t i, void *scratch) {
  (void)context, (void)i, (void)scratch;
  for (double until = clock_seconds() + 5e-4; clock_seconds() < until;)
    ;
  return OK;
}

static void the_caller_is_called_between_tasks(void **state) {
  (void)state;
  for (int threads = 1; threads <= THREADS; threads++) {
    Pool *pool;
    Calls calls = {.caller = pthread_self()};
    ASSERT_OK(pool_create(threads, &pool));
    ASSERT_OK(pool_run(pool, TASKS, rest, NULL)); /* nobody asked */
    pool_between(pool, count, &calls);
    for (int job = 0; job < 3; job++) /* of several threads the caller may come too late for a task */
      ASSERT_OK(pool_run(pool, TASKS, rest, NULL));
    if (threads == 1)
      assert_int_equal(calls.calls, 3 * TASKS);
    assert_in_range(calls.calls, 0, 3 * TASKS);
    assert_false(calls.elsewhere);
    int before = calls.calls;
    pool_between(pool, NULL, NULL);
    ASSERT_OK(pool_run(pool, TASKS, rest, NULL));
    assert_int_equal(calls.calls, before);
    pool_destroy(pool);
  }
}

typedef struct {
  pthread_t caller;
  int core[TASKS]; /* on which a task ran; -1: on the caller's thread */
} Places;

static Status note_core(void *context, int64_t i, void *scratch) {
  Places *places = context;
  TRY(rest(NULL, i, scratch));
  places->core[i] = pthread_equal(places->caller, pthread_self()) ? -1 : sched_getcpu();
  return OK;
}

static void workers_keep_to_their_cores(void **state) {
  (void)state;
  int cores[MACHINE_CORES], n = machine_cores(cores), processors = machine_processors();
  for (int last = 0; last < n; last++) {
    Pool *pool;
    Places places = {.caller = pthread_self()};
    int own[2] = {cores[0], cores[last]};
    ASSERT_OK(pool_create(2, &pool));
    pool_place(pool, own);
    ASSERT_OK(pool_run(pool, TASKS, note_core, &places));
    for (int i = 0; i < TASKS; i++)
      assert_true(places.core[i] == -1 || places.core[i] == own[1]);
    assert_int_equal(machine_processors(), processors); /* the caller is left alone */
    pool_destroy(pool);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_caller_is_called_between_tasks),
      cmocka_unit_test(workers_keep_to_their_cores),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
