/* A pool of threads. Invariant: a worker takes tasks only of the job that was open when it joined, and a job closes
 * when the last of those that joined has left. */
#include "backend/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

enum { SPINS = 2000, MESSAGE = 512 };

struct Pool {
  int threads; /* workers and the caller */
  pthread_t *workers;
  void **scratch; /* [threads] the caller's comes first */
  pthread_mutex_t lock;
  pthread_cond_t wake, left;
  atomic_uint job; /* counts jobs; a change is what workers wait for */
  bool open, stop;
  atomic_int inside; /* workers that joined the open job; changes under the lock */
  atomic_int_fast64_t next;
  int64_t n;
  Task *task;
  void *context;
  int64_t failed; /* the lowest task that failed, n if none did */
  Status code;
  char message[MESSAGE];
  Between *between;
  void *between_context;
  double called; /* between, last */
};

static void set_failure(Pool *pool, int64_t i, Status code) {
  pthread_mutex_lock(&pool->lock);
  if (i < pool->failed) {
    pool->failed = i;
    pool->code = code;
    snprintf(pool->message, sizeof pool->message, "%s", status_message());
  }
  pthread_mutex_unlock(&pool->lock);
}

static void call_between(Pool *pool) {
  if (!pool->between)
    return;
  double now = clock_seconds();
  if (now - pool->called < 1e-4)
    return;
  pool->called = now;
  pool->between(pool->between_context);
}

static void take_tasks(Pool *pool, void *scratch, bool is_caller) {
  for (int64_t i; (i = atomic_fetch_add(&pool->next, 1)) < pool->n;) {
    Status status = pool->task(pool->context, i, scratch);
    if (status != OK)
      set_failure(pool, i, status);
    if (is_caller)
      call_between(pool);
  }
}

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/* Jobs follow one another closely, and workers end at nearly the same time: who waits looks a while before sleeping. */
static void await_job(Pool *pool, unsigned seen) {
  for (int i = 0; i < SPINS && atomic_load(&pool->job) == seen; i++)
    pause_briefly();
  pthread_mutex_lock(&pool->lock);
  while (atomic_load(&pool->job) == seen && !pool->stop)
    pthread_cond_wait(&pool->wake, &pool->lock);
}

typedef struct {
  Pool *pool;
  void *scratch;
} Start;

static void *work(void *argument) {
  Start start = *(Start *)argument;
  Pool *pool = start.pool;
  free(argument);
  for (unsigned seen = 0;;) {
    await_job(pool, seen); /* returns with the lock */
    if (pool->stop) {
      pthread_mutex_unlock(&pool->lock);
      return NULL;
    }
    seen = atomic_load(&pool->job);
    bool joined = pool->open;
    if (joined)
      atomic_fetch_add(&pool->inside, 1);
    pthread_mutex_unlock(&pool->lock);
    if (!joined)
      continue;
    take_tasks(pool, start.scratch, false);
    pthread_mutex_lock(&pool->lock);
    if (atomic_fetch_sub(&pool->inside, 1) == 1)
      pthread_cond_signal(&pool->left);
    pthread_mutex_unlock(&pool->lock);
  }
}

static Status start_worker(Pool *pool, int i, int wanted) {
  Start *start = malloc(sizeof *start);
  if (!start)
    return fail(E_MEMORY, "out of memory");
  *start = (Start){pool, pool->scratch[i + 1]};
  if (pthread_create(&pool->workers[i], NULL, work, start)) {
    free(start);
    return fail(E_MEMORY, "thread %d of %d cannot be started", i + 2, wanted);
  }
  return OK;
}

Status pool_create(int threads, Pool **out) {
  Pool *pool = calloc(1, sizeof *pool);
  *out = NULL;
  if (!pool)
    return fail(E_MEMORY, "out of memory");
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_cond_init(&pool->left, NULL);
  pool->threads = 1;
  int wanted = threads < 1 ? 1 : threads;
  pool->workers = calloc((size_t)wanted, sizeof *pool->workers);
  pool->scratch = calloc((size_t)wanted, sizeof *pool->scratch);
  Status status = pool->workers && pool->scratch ? OK : fail(E_MEMORY, "out of memory");
  for (int i = 0; i < wanted && status == OK; i++)
    if (!(pool->scratch[i] = aligned_alloc(64, POOL_SCRATCH_BYTES)))
      status = fail(E_MEMORY, "out of memory: %d bytes", POOL_SCRATCH_BYTES);
  for (; pool->threads < wanted && status == OK; pool->threads += status == OK)
    status = start_worker(pool, pool->threads - 1, wanted);
  if (status != OK) {
    for (int i = pool->threads; pool->scratch && i < wanted; i++)
      free(pool->scratch[i]);
    pool_destroy(pool);
    return status;
  }
  *out = pool;
  return OK;
}

void pool_destroy(Pool *pool) {
  if (!pool)
    return;
  pthread_mutex_lock(&pool->lock);
  pool->stop = true;
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < pool->threads - 1; i++)
    pthread_join(pool->workers[i], NULL);
  for (int i = 0; pool->scratch && i < pool->threads; i++)
    free(pool->scratch[i]);
  pthread_mutex_destroy(&pool->lock);
  pthread_cond_destroy(&pool->wake);
  pthread_cond_destroy(&pool->left);
  free(pool->scratch);
  free(pool->workers);
  free(pool);
}

int pool_threads(const Pool *pool) {
  return pool->threads;
}

void pool_place(Pool *pool, const int *cores) {
  for (int i = 1; i < pool->threads; i++) {
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET((size_t)cores[i], &core);
    pthread_setaffinity_np(pool->workers[i - 1], sizeof core, &core);
  }
}

void pool_between(Pool *pool, Between *between, void *context) {
  pool->between = between;
  pool->between_context = context;
}

/* Until those that joined the job, which is closed, have left. */
static void await_workers(Pool *pool) {
  for (int i = 0; i < SPINS && atomic_load(&pool->inside); i++)
    pause_briefly();
  if (!atomic_load(&pool->inside))
    return;
  pthread_mutex_lock(&pool->lock);
  while (atomic_load(&pool->inside))
    pthread_cond_wait(&pool->left, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
}

static Status run_alone(Pool *pool, int64_t n, Task *task, void *context) {
  for (int64_t i = 0; i < n; i++) {
    TRY(task(context, i, pool->scratch[0]));
    call_between(pool);
  }
  return OK;
}

Status pool_run(Pool *pool, int64_t n, Task *task, void *context) {
  if (pool->threads == 1 || n < 2)
    return run_alone(pool, n, task, context);
  pthread_mutex_lock(&pool->lock);
  pool->task = task;
  pool->context = context;
  pool->n = pool->failed = n;
  atomic_store(&pool->next, 0);
  pool->open = true;
  atomic_fetch_add(&pool->job, 1);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  take_tasks(pool, pool->scratch[0], true);
  pthread_mutex_lock(&pool->lock);
  pool->open = false;
  pthread_mutex_unlock(&pool->lock);
  await_workers(pool);
  return pool->failed < n ? status_adopt(pool->code, pool->message) : OK;
}
