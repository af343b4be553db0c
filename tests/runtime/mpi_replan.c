/* --replan on the ranks of an MPI world: as in process (test_replan.c). */
#include "tests/runtime/replan_case.h"

static int rank;

/* With and without a checkpoint. */
static void bits_stay(void **state) {
  (void)state;
  static ReplanRun plain, run;
  char a[64], b[64], checkpoints[64], more[192], command[256];
  snprintf(a, sizeof a, "/tmp/onnxpipe-mpi-replan-%d-a.onnx", (int)getppid());
  snprintf(b, sizeof b, "/tmp/onnxpipe-mpi-replan-%d-b.onnx", (int)getppid());
  snprintf(checkpoints, sizeof checkpoints, "/tmp/onnxpipe-mpi-replan-%d", (int)getppid());
  for (int i = 0; i < REPLAN_CASES; i++) {
    snprintf(more, sizeof more, "replan every=12 checkpoint=%s", checkpoints);
    train(&replan_cases[i], "", a, &plain);
    train(&replan_cases[i], i == 1 ? more : "replan", b, &run);
    if (rank)
      continue;
    check_replanned(&run);
    check_same_run(&plain, &run);
    assert_true(same_file(a, b));
  }
  snprintf(command, sizeof command, "rm -r %s %s %s", a, b, checkpoints);
  assert_int_equal(rank ? 0 : system(command), 0);
}

static void not_without_a_checkpoint(void **state) {
  (void)state;
  char a[64], b[64], checkpoints[64], command[256];
  snprintf(a, sizeof a, "/tmp/onnxpipe-mpi-replan-%d-c.onnx", (int)getppid());
  snprintf(b, sizeof b, "/tmp/onnxpipe-mpi-replan-%d-d.onnx", (int)getppid());
  snprintf(checkpoints, sizeof checkpoints, "/tmp/onnxpipe-mpi-replan-%d-waits", (int)getppid());
  check_waits("", checkpoints, a, b, rank == 0);
  snprintf(command, sizeof command, "rm -r %s %s %s", a, b, checkpoints);
  assert_int_equal(rank ? 0 : system(command), 0);
}

int main(void) {
  int size;
  if (onnxpipe_start(NULL, NULL, &rank, &size) != ONNXPIPE_OK) {
    fprintf(stderr, "%s\n", onnxpipe_error());
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(bits_stay), cmocka_unit_test(not_without_a_checkpoint)};
  int failed = cmocka_run_group_tests_name("replan", tests, NULL, NULL);
  onnxpipe_finish(failed != 0);
  return failed;
}
