/* What a process may use: its cores, and quotas of control groups as each of the two trees spells them; whether memory
 * comes from a hypervisor. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/machine.h"
#include "tests/test.h"

/* The folders of a path, then the file. */
static void put(const char *root, const char *name, const char *text) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
    *slash = '\0';
    mkdir(path, 0755);
    *slash = '/';
  }
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void remove_all(const char *root) {
  char command[64];
  snprintf(command, sizeof command, "rm -r '%s'", root);
  assert_int_equal(system(command), 0);
}

static void check_quota(const char *cgroup, const char *const files[][2], int n, double quota) {
  char root[] = "/tmp/onnxpipe-machine-XXXXXX";
  assert_non_null(mkdtemp(root));
  put(root, "proc/self/cgroup", cgroup);
  for (int i = 0; i < n; i++)
    put(root, files[i][0], files[i][1]);
  assert_true(machine_quota(root) == quota);
  remove_all(root);
}

static void quotas_are_the_least_on_the_way_up(void **state) {
  (void)state;
  static const char *const unified[][2] = {{"sys/fs/cgroup/cpu.max", "max 100000\n"},
                                           {"sys/fs/cgroup/a/cpu.max", "150000 100000\n"},
                                           {"sys/fs/cgroup/a/b/cpu.max", "80000 20000\n"},
                                           {"sys/fs/cgroup/other/cpu.max", "10000 100000\n"}};
  check_quota("0::/a/b\n", unified, 4, 1.5);
  check_quota("0::/a\n", unified, 4, 1.5);
  check_quota("0::/\n", unified, 4, 0);
  check_quota("0::/other\n", unified, 4, 0.1);
  check_quota("0::/../outside/b\n", unified, 4, 0); /* the machine's path, in a container that has its own root */
  check_quota("0::/a\n", NULL, 0, 0);
  check_quota("", unified, 4, 0);
  static const char *const older[][2] = {{"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"},
                                         {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"},
                                         {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "50000\n"},
                                         {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "20000\n"},
                                         {"sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us", "1\n"}};
  check_quota("12:cpuset:/a\n4:cpu,cpuacct:/a\n0::/\n", older, 5, 2.5);
  check_quota("12:cpuset:/a\n4:cpu,cpuacct:/\n", older, 5, 0);
}

static void what_is_no_number_is_no_quota(void **state) {
  (void)state;
  static const char *const files[][2] = {{"sys/fs/cgroup/cpu.max", "many 100000\n"},
                                         {"sys/fs/cgroup/a/cpu.max", "\n"},
                                         {"sys/fs/cgroup/a/b/cpu.max", "100000 0\n"},
                                         {"sys/fs/cgroup/a/b/c/cpu.max", "100000\n"},
                                         {"sys/fs/cgroup/a/b/c/d/cpu.max", "10x 100000\n"}};
  check_quota("0::/a/b/c/d\n", files, 5, 0);
  check_quota("no lines of groups\n:\n::\n", files, 5, 0);
}

static void a_thread_stays_on_a_core_until_it_leaves(void **state) {
  (void)state;
  int cores[MACHINE_CORES], n = machine_cores(cores), processors = machine_processors();
  assert_in_range(n, 1, processors);
  for (int i = 0; i < n; i++) {
    Stay stay;
    int alone[MACHINE_CORES];
    machine_stay(cores[i], &stay);
    if (!stay.stays)
      skip(); /* where the system refuses */
    assert_int_equal(machine_processors(), 1);
    assert_int_equal(machine_cores(alone), 1);
    assert_int_equal(alone[0], cores[i]);
    machine_leave(&stay);
    assert_int_equal(machine_processors(), processors);
  }
}

static void a_balloon_that_reports_takes_memory_back(void **state) {
  (void)state;
  static const struct {
    const char *device, *features;
    bool returns;
  } cases[] = {{"0x0005\n", "0110010100\n", true},
               {"0x0005\n", "0110000100\n", false},
               {"0x0002\n", "1111111111\n", false},
               {"0x0005\n", "1111\n", false},
               {"0x0005\n", "", false},
               {"", "1111111111\n", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char root[] = "/tmp/onnxpipe-machine-XXXXXX";
    assert_non_null(mkdtemp(root));
    assert_false(machine_returns_memory(root));
    put(root, "sys/bus/virtio/devices/virtio0/device", "0x0001\n");
    put(root, "sys/bus/virtio/devices/virtio0/features", "1111111111\n");
    put(root, "sys/bus/virtio/devices/virtio3/device", cases[i].device);
    put(root, "sys/bus/virtio/devices/virtio3/features", cases[i].features);
    assert_int_equal(machine_returns_memory(root), cases[i].returns);
    remove_all(root);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(quotas_are_the_least_on_the_way_up),
      cmocka_unit_test(what_is_no_number_is_no_quota),
      cmocka_unit_test(a_balloon_that_reports_takes_memory_back),
      cmocka_unit_test(a_thread_stays_on_a_core_until_it_leaves),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
