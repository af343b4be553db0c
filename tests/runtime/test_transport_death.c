/* Ranks under mpirun that die or give up: the run ends soon and not with 0, and one line says who it was. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#ifndef VICTIM
#define VICTIM ""
#endif

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void expect(const char *how, int victim, const char *expected) {
  char command[1024], line[4096], found[4096] = "";
  int lines = 0;
  snprintf(command, sizeof command, "%s -n 4 %s %s %d 2>&1", MPIRUN, VICTIM, how, victim);
  if (!*MPIRUN || !*VICTIM) {
    print_message("skipped: this build has no mpirun\n");
    skip();
  }
  double begin = now();
  FILE *output = popen(command, "r");
  assert_non_null(output);
  while (fgets(line, sizeof line, output))
    if (strncmp(line, "victim: ", 8) == 0) {
      lines++;
      snprintf(found, sizeof found, "%s", line);
    }
  int status = pclose(output);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0);
  if (lines != 1 || strcmp(found, expected) != 0)
    FAIL_TEST("%s %d: %d lines, the last: %s", how, victim, lines, found);
  assert_true(now() - begin < 10);
}

static void killed_rank_is_named_while_others_compute(void **state) {
  (void)state;
  expect("kill-in-kernel", 0, "victim: rank 0 died: its connection closed\n");
}

static void rank_that_exits_is_named(void **state) {
  (void)state;
  expect("exit", 1, "victim: rank 1 died: its connection closed\n");
}

/* By the watcher, for the rank's own thread looks at nothing. */
static void rank_that_is_ended_says_so_while_it_computes(void **state) {
  (void)state;
  expect("end-in-kernel", 2, "victim: rank 2: ended by SIGTERM\n");
}

static void rank_that_fails_speaks_for_all(void **state) {
  (void)state;
  expect("fail", 1, "victim: rank 1: the loss of microbatch 2 is nan\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(killed_rank_is_named_while_others_compute),
      cmocka_unit_test(rank_that_exits_is_named),
      cmocka_unit_test(rank_that_is_ended_says_so_while_it_computes),
      cmocka_unit_test(rank_that_fails_speaks_for_all),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
