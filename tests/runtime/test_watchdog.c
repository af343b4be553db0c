/* Threads of one process of which one hangs: it is named, with what the other waits for. */
#include "tests/test.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "partitioner/schedule/schedule.h"
#include "runtime/training/watchdog.h"
#include "runtime/transport/transport.h"

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  char line[1024];
} Heard;

static void hear(void *context, const char *line) {
  Heard *heard = context;
  pthread_mutex_lock(&heard->lock);
  snprintf(heard->line, sizeof heard->line, "%s", line);
  pthread_cond_broadcast(&heard->changed);
  pthread_mutex_unlock(&heard->lock);
}

static void *receive(void *argument) {
  const Link *link = argument;
  char data[4];
  watch_begin(link->watch);
  watch_phase(link->watch, WATCH_STEP, 7);
  watch_action(link->watch, ACTION_RECV_F, 1, 3);
  link_receive(link, 0, data, sizeof data);
  return NULL;
}

static void the_peer_that_never_posts(void **state) {
  (void)state;
  Link links[2];
  pthread_t thread;
  Watchdog *watchdog;
  Heard heard = {.line = ""};
  pthread_mutex_init(&heard.lock, NULL);
  pthread_cond_init(&heard.changed, NULL);
  ASSERT_OK(transport_local_open(2, links));
  watch_begin(links[0].watch);
  watch_phase(links[0].watch, WATCH_STEP, 7);
  watch_action(links[0].watch, ACTION_F, 0, 3);
  assert_int_equal(pthread_create(&thread, NULL, receive, &links[1]), 0);
  ASSERT_OK(watchdog_start((Watch *const[]){links[0].watch, links[1].watch}, 2, 1, hear, &heard, &watchdog));
  pthread_mutex_lock(&heard.lock);
  while (!*heard.line)
    pthread_cond_wait(&heard.changed, &heard.lock);
  pthread_mutex_unlock(&heard.lock);
  if (strncmp(heard.line, "rank 1 waits since ", 19) != 0 ||
      !strstr(heard.line,
              " s for F of microbatch 3 of stage 0 from rank 0 (step 7), which does not move: it hangs in F of "
              "microbatch 3 of stage 0, step 7; "))
    FAIL_TEST("%s", heard.line);
  ASSERT_OK(link_send(&links[0], 1, "abc", 4));
  pthread_join(thread, NULL);
  watchdog_stop(watchdog);
  transport_local_close(2, links);
  pthread_mutex_destroy(&heard.lock);
  pthread_cond_destroy(&heard.changed);
}

/* A rank that computes is no hang, however long nobody hears of it. */
static void a_long_kernel(void **state) {
  (void)state;
  Link links[2];
  pthread_t thread;
  Watchdog *watchdog;
  Heard heard = {.line = ""};
  struct timespec begun, now;
  pthread_mutex_init(&heard.lock, NULL);
  pthread_cond_init(&heard.changed, NULL);
  ASSERT_OK(transport_local_open(2, links));
  watch_begin(links[0].watch);
  watch_phase(links[0].watch, WATCH_STEP, 7);
  assert_int_equal(pthread_create(&thread, NULL, receive, &links[1]), 0);
  ASSERT_OK(watchdog_start((Watch *const[]){links[0].watch, links[1].watch}, 2, 1, hear, &heard, &watchdog));
  clock_gettime(CLOCK_MONOTONIC, &begun);
  do
    clock_gettime(CLOCK_MONOTONIC, &now);
  while (now.tv_sec - begun.tv_sec < 3);
  watchdog_stop(watchdog);
  assert_string_equal(heard.line, "");
  ASSERT_OK(link_send(&links[0], 1, "abc", 4));
  pthread_join(thread, NULL);
  transport_local_close(2, links);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_peer_that_never_posts),
      cmocka_unit_test(a_long_kernel),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
