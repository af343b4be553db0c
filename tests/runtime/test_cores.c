/* Threads of ranks that share a machine: whose cores they are, and when they keep to them. */
#include <stdlib.h>
#include <string.h>

#include "runtime/job/cores.h"
#include "tests/test.h"

static Cores make(int n, int ranks, int first) {
  Cores cores = {.n = n, .ranks = ranks, .first = first};
  for (int i = 0; i < n; i++)
    cores.cores[i] = 10 + i;
  return cores;
}

static void pinned_threads_have_a_core_each(void **state) {
  (void)state;
  for (int ranks = 1; ranks <= 4; ranks++)
    for (int threads = 1; threads <= 4; threads++) {
      bool taken[16] = {false};
      Cores cores = make(ranks * threads, ranks, 0);
      cores_pin(&cores, threads);
      assert_true(cores.pinned);
      for (int r = 0; r < ranks; r++)
        for (int i = 0; i < threads; i++) {
          int core = cores_of(&cores, r, threads)[i] - 10;
          assert_in_range(core, 0, ranks * threads - 1);
          assert_false(taken[core]);
          taken[core] = true;
        }
      Cores process = make(ranks * threads, ranks, ranks - 1); /* one rank a process: the last of them */
      cores_pin(&process, threads);
      assert_int_equal(cores_of(&process, 0, threads)[0], 10 + (ranks - 1) * threads);
    }
}

static void what_does_not_take_every_core_is_not_pinned(void **state) {
  (void)state;
  Cores some = make(4, 1, 0), many = make(4, 5, 0), unknown = make(4, 2, -1), limited = make(4, 2, 0);
  cores_pin(&some, 3);
  cores_pin(&many, 1);
  cores_pin(&unknown, 2);
  limited.quota = 3.5;
  cores_pin(&limited, 2);
  assert_false(some.pinned || many.pinned || unknown.pinned || limited.pinned);
}

static void a_quota_leaves_whole_cores(void **state) {
  (void)state;
  static const double quotas[] = {0, 0.1, 1, 1.9, 2, 3.99, 4, 100};
  static const int usable[] = {4, 1, 1, 1, 2, 3, 4, 4};
  for (int i = 0; i < 8; i++) {
    Cores cores = make(4, 1, 0);
    cores.quota = quotas[i];
    assert_int_equal(cores_usable(&cores), usable[i]);
  }
}

static void what_was_chosen_is_said(void **state) {
  (void)state;
  char text[CORES_TEXT];
  Cores alone = make(1, 1, 0), pair = make(2, 2, 0), limited = make(8, 1, 0), given = make(2, 1, 0);
  cores_text(&alone, text);
  assert_string_equal(text, "of 1 core");
  cores_pin(&pair, 1);
  cores_text(&pair, text);
  assert_string_equal(text, "of 2 cores (2 ranks on this machine), pinned");
  limited.quota = 2.5;
  cores_text(&limited, text);
  assert_string_equal(text, "of 8 cores, of which a quota leaves 2.5");
  given.bound = true;
  cores_text(&given, text);
  assert_string_equal(text, "of 2 cores, which the launcher gave");
}

/* Only what this machine has can be looked at: ranks of a process, and of processes that nobody bound. */
static void ranks_share_what_the_process_may_use(void **state) {
  (void)state;
  Cores threads, processes;
  cores_find(false, 3, &threads);
  assert_int_equal(threads.ranks, 3);
  assert_int_equal(threads.first, 0);
  assert_in_range(threads.n, 1, machine_processors());
  assert_false(threads.bound || threads.undone || threads.pinned);
  setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
  unsetenv("MPI_LOCALRANKID");
  setenv("OMPI_COMM_WORLD_LOCAL_RANK", "2", 1);
  cores_find(true, 3, &processes);
  assert_int_equal(processes.first, 2);
  assert_int_equal(processes.ranks, 3);
  assert_int_equal(processes.n, threads.n);
  assert_false(processes.bound || processes.undone);
  unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
  cores_find(true, 3, &processes);
  assert_int_equal(processes.first, -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pinned_threads_have_a_core_each),
      cmocka_unit_test(what_does_not_take_every_core_is_not_pinned),
      cmocka_unit_test(a_quota_leaves_whole_cores),
      cmocka_unit_test(what_was_chosen_is_said),
      cmocka_unit_test(ranks_share_what_the_process_may_use),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
