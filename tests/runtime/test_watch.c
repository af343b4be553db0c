/* Who is named when no rank moves: from tables of waits, and from watches of this process. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "partitioner/schedule/schedule.h"
#include "runtime/transport/watcher.h"

static WatchedRank rank_at(WatchPhase phase, int action, int stage, int microbatch, int waits) {
  WatchPlace place = {(uint8_t)phase, (uint8_t)(action + 1), (uint16_t)stage, (uint16_t)microbatch};
  return (WatchedRank){.state = {.place = watch_pack(place), .step = 12, .still = 5, .beat = 0.5, .waits = waits}};
}

static WatchedRank silent(void) {
  WatchedRank r = rank_at(WATCH_STEP, ACTION_W, 0, 9, WATCH_NOBODY);
  r.unheard = 4;
  r.state.active = 1;
  return r;
}

static void expect(const WatchedRank *ranks, int n, const char *expected) {
  char line[1024] = "", whole[1024];
  bool named = watch_judge(ranks, n, 5, line, sizeof line);
  snprintf(whole, sizeof whole, "%s; no rank moved for 5 s (--timeout)", expected ? expected : "");
  if (named != (expected != NULL) || (named && strcmp(line, whole) != 0))
    FAIL_TEST("named %d: %s", named, line);
}

/* Rank 0 waits for 1, 1 for 2, 2 for 3: the end of the chain is the cause. */
static void the_silent_end_of_a_chain(void **state) {
  (void)state;
  WatchedRank ranks[] = {rank_at(WATCH_STEP, ACTION_RECV_B, 0, 1, 2 * 1),
                         rank_at(WATCH_STEP, ACTION_RECV_B, 1, 1, 2 * 2),
                         rank_at(WATCH_STEP, ACTION_SEND_F, 2, 3, 2 * 3 + 1), silent()};
  expect(ranks, 4,
         "rank 2 waits since 5 s to hand F of microbatch 3 of stage 2 to rank 3 (step 12), which does not answer: its "
         "process, or its machine, is stopped");
}

static void a_thread_that_hangs(void **state) {
  (void)state;
  WatchedRank ranks[] = {rank_at(WATCH_STEP, ACTION_F, 0, 3, WATCH_NOBODY),
                         rank_at(WATCH_STEP, ACTION_RECV_F, 1, 3, 2 * 0),
                         rank_at(WATCH_STEP, ACTION_RECV_F, 2, 2, 2 * 1)};
  expect(ranks, 3,
         "rank 1 waits since 5 s for F of microbatch 3 of stage 0 from rank 0 (step 12), which does not move: it hangs "
         "in F of microbatch 3 of stage 0, step 12");
  expect(ranks, 1, "rank 0 does not move: it hangs in F of microbatch 3 of stage 0, step 12");
}

/* One that hangs and one that is silent: who does not answer cannot be asked. */
static void silence_is_worse(void **state) {
  (void)state;
  WatchedRank ranks[] = {rank_at(WATCH_STEP, ACTION_F, 0, 3, WATCH_NOBODY),
                         rank_at(WATCH_STEP, ACTION_RECV_F, 1, 3, 2 * 0), silent()};
  expect(ranks, 3, "rank 2 does not answer: its process, or its machine, is stopped");
}

static void phases_without_an_action(void **state) {
  (void)state;
  WatchedRank ranks[] = {silent(), rank_at(WATCH_PLAN, -1, 0, 0, 2 * 0)};
  ranks[1].state.step = 0;
  expect(
      ranks, 2,
      "rank 1 waits since 5 s for rank 0 (planning), which does not answer: its process, or its machine, is stopped");
  ranks[0] = rank_at(WATCH_SAVE, -1, 0, 0, WATCH_NOBODY);
  ranks[1] = rank_at(WATCH_SAVE, -1, 0, 0, 2 * 0);
  expect(ranks, 2,
         "rank 1 waits since 5 s for rank 0 (saving after step 12), which does not move: it hangs in saving after step "
         "12");
}

static void devices_cycles_and_all(void **state) {
  (void)state;
  WatchedRank device[] = {rank_at(WATCH_STEP, ACTION_RECV_B, 0, 0, 2 * 1),
                          rank_at(WATCH_STEP, ACTION_F, 1, 0, WATCH_DEVICE)};
  expect(device, 2,
         "rank 0 waits since 5 s for B of microbatch 0 of stage 1 from rank 1 (step 12), which waits for its device in "
         "F of microbatch 0 of stage 1, step 12");
  WatchedRank cycle[] = {rank_at(WATCH_STEP, ACTION_RECV_B, 0, 0, 2 * 1),
                         rank_at(WATCH_STEP, ACTION_RECV_F, 1, 1, 2 * 0)};
  char line[1024];
  assert_true(watch_judge(cycle, 2, 5, line, sizeof line));
  assert_non_null(strstr(line, "which waits for rank"));
  WatchedRank end[] = {rank_at(WATCH_END, -1, 0, 0, WATCH_ALL), silent()};
  end[0].state.step = 0;
  expect(end, 2,
         "rank 0 waits since 5 s for rank 1 (the end), which does not answer: its process, or its machine, is "
         "stopped");
  end[1] = rank_at(WATCH_END, -1, 0, 0, WATCH_ALL);
  expect(end, 2, "rank 0 waits since 5 s for all ranks");
}

/* One that has just fallen silent, or computes: not clear yet. */
static void not_clear_yet(void **state) {
  (void)state;
  WatchedRank ranks[] = {rank_at(WATCH_STEP, ACTION_RECV_B, 0, 1, 2 * 1), silent()};
  ranks[1].unheard = 1;
  expect(ranks, 2, NULL);
  ranks[1].gone = true;
  ranks[0].state.active = true;
  ranks[0].state.waits = WATCH_NOBODY;
  expect(ranks, 2, NULL);
}

static void pause_seconds(double seconds) {
  nanosleep(&(struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))},
            NULL);
}

/* Looks for so long, or until it hangs; whether it did. */
static bool look_for(Watcher *watcher, double seconds, char *line, size_t room) {
  for (double done = 0; done < seconds; done += 0.02) {
    if (watcher_look(watcher) && watcher_hangs(watcher, 0, line, room))
      return true;
    pause_seconds(0.02);
  }
  return false;
}

static void watches_of_this_process(void **state) {
  (void)state;
  Watch watch[2] = {0};
  Watcher *watcher;
  char line[1024];
  ASSERT_OK(watcher_create(2, &watcher));
  for (int r = 0; r < 2; r++) {
    watch_begin(&watch[r]);
    watcher_add(watcher, r, &watch[r]);
  }
  watcher_set_timeout(watcher, 0.5);
  assert_false(look_for(watcher, 1.5, line, sizeof line)); /* in their caller's code */
  watch_phase(&watch[0], WATCH_STEP, 3);
  watch_action(&watch[0], ACTION_RECV_B, 0, 7);
  watch_wait(&watch[0], 1, false);
  assert_false(look_for(watcher, 1, line, sizeof line)); /* the other one is still */
  watch_phase(&watch[1], WATCH_STEP, 3);
  watch_action(&watch[1], ACTION_B, 1, 7);
  assert_true(look_for(watcher, 5, line, sizeof line));
  assert_non_null(strstr(line,
                         "for B of microbatch 7 of stage 1 from rank 1 (step 3), which does not move: it hangs in "
                         "B of microbatch 7 of stage 1, step 3"));
  watcher_set_timeout(watcher, 0);
  assert_false(look_for(watcher, 1, line, sizeof line)); /* nobody asked */
  watcher_destroy(watcher);
}

/* A watcher that was stopped itself does not count the time: it looks twice, long enough apart. */
static void time_stopped_does_not_count(void **state) {
  (void)state;
  Watch watch = {0};
  Watcher *watcher;
  char line[1024];
  ASSERT_OK(watcher_create(1, &watcher));
  watch_begin(&watch);
  watch_phase(&watch, WATCH_STEP, 1);
  watcher_add(watcher, 0, &watch);
  watcher_set_timeout(watcher, 1);
  assert_true(watcher_look(watcher));
  pause_seconds(1.5);
  assert_true(watcher_look(watcher));
  assert_false(watcher_hangs(watcher, 0, line, sizeof line));
  assert_true(look_for(watcher, 3, line, sizeof line));
  watcher_destroy(watcher);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_silent_end_of_a_chain), cmocka_unit_test(a_thread_that_hangs),
      cmocka_unit_test(silence_is_worse),          cmocka_unit_test(phases_without_an_action),
      cmocka_unit_test(devices_cycles_and_all),    cmocka_unit_test(not_clear_yet),
      cmocka_unit_test(watches_of_this_process),   cmocka_unit_test(time_stopped_does_not_count),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
