/* A rank of an MPI world that runs out of memory: the run ends soon; with one line that names it and not with 0, or
 * with the weights that it should have. With ONNXPIPE_TEST_ALL set every allocation of either rank has its turn, by
 * itself and with all that follow; else a few of them. */
#include "tests/test.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SWEPT
#define SWEPT ""
#endif

enum { RANKS = 2, SAMPLE = 3, MOST_BYTES = 1 << 20 };

typedef struct {
  int exit_status, lines;
  long allocations;
  char line[4096], weights[MOST_BYTES];
  size_t n;
} Result;

static char path[128];

static void run(int rank, long k, int for_good, Result *result) {
  char command[1024], line[4096];
  *result = (Result){0};
  unlink(path);
  snprintf(command, sizeof command, "timeout -k 5 60 %s -n %d %s %d %ld %d %s 2>&1", MPIRUN, RANKS, SWEPT, rank, k,
           for_good, path);
  FILE *output = popen(command, "r");
  assert_non_null(output);
  while (fgets(line, sizeof line, output))
    if (strncmp(line, "sweep: ", 7) == 0) {
      result->lines++;
      snprintf(result->line, sizeof result->line, "%s", line);
    } else {
      sscanf(line, "allocations: %ld", &result->allocations);
    }
  int status = pclose(output);
  result->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  FILE *file = fopen(path, "rb");
  if (!file)
    return;
  result->n = fread(result->weights, 1, MOST_BYTES, file);
  fclose(file);
}

static int check(int rank, long k, int for_good, const Result *whole) {
  static Result result;
  run(rank, k, for_good, &result);
  bool same = result.n == whole->n && memcmp(result.weights, whole->weights, whole->n) == 0;
  if (result.exit_status == 0 ? same && !result.lines
                              : result.exit_status == 1 && result.lines == 1 &&
                                    (strcasestr(result.line, "memory") || strcasestr(result.line, "unavailable")))
    return 0;
  print_error("rank %d, allocation %ld%s: exit status %d, %zu bytes of %zu, %d lines, the last: %s\n", rank, k,
              for_good ? " and all behind it" : "", result.exit_status, result.n, whole->n, result.lines, result.line);
  return 1;
}

static void every_rank_ends(void **state) {
  (void)state;
  static Result whole;
  int bad = 0, tried = 0, all = getenv("ONNXPIPE_TEST_ALL") != NULL;
  if (!*MPIRUN || !*SWEPT) {
    print_message("skipped: this build has no mpirun\n");
    skip();
  }
  for (int rank = 0; rank < RANKS; rank++) {
    run(rank, 0, 0, &whole);
    if (whole.exit_status || !whole.n || !whole.allocations)
      FAIL_TEST("exit status %d: %s", whole.exit_status, whole.line);
    long step = all ? 1 : (whole.allocations + SAMPLE) / SAMPLE;
    for (int for_good = 0; for_good <= all; for_good++)
      for (long k = (step + 1) / 2; k <= whole.allocations; k += step, tried++)
        bad += check(rank, k, for_good, &whole);
    print_message("rank %d: %ld allocations\n", rank, whole.allocations);
  }
  print_message("%d tries\n", tried);
  assert_int_equal(bad, 0);
}

int main(void) {
  snprintf(path, sizeof path, "/tmp/onnxpipe-swept-%d.onnx", (int)getpid());
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_rank_ends)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  unlink(path);
  return failed;
}
