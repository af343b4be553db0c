/* What Linux says of itself. */
#include "base/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef ONNXPIPE_HWLOC
#include <hwloc.h>
#endif

void machine_boot(char id[MACHINE_BOOT]) {
  FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
  if (!file || !fgets(id, MACHINE_BOOT, file))
    *id = '\0';
  id[strcspn(id, "\n")] = '\0';
  if (file)
    fclose(file);
}

/* Of each core the first processor that is allowed; 0: hwloc is not there, or sees none. */
static int list_by_cache(const cpu_set_t *allowed, int cores[MACHINE_CORES]) {
  int n = 0;
#ifdef ONNXPIPE_HWLOC
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology))
    return 0;
  hwloc_obj_t core = NULL;
  if (hwloc_topology_load(topology) == 0)
    while (n < MACHINE_CORES && (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core))) {
      int cpu = hwloc_bitmap_first(core->cpuset);
      while (cpu >= 0 && (cpu >= CPU_SETSIZE || !CPU_ISSET((size_t)cpu, allowed)))
        cpu = hwloc_bitmap_next(core->cpuset, cpu);
      if (cpu >= 0)
        cores[n++] = cpu;
    }
  hwloc_topology_destroy(topology);
#else
  (void)allowed;
  (void)cores;
#endif
  return n;
}

static cpu_set_t allowed_set(void) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed))
    CPU_SET(0, &allowed); /* more processors than a set holds */
  return allowed;
}

int machine_processors(void) {
  cpu_set_t allowed = allowed_set();
  return CPU_COUNT(&allowed);
}

int machine_cores(int cores[MACHINE_CORES]) {
  cpu_set_t allowed = allowed_set();
  int n = list_by_cache(&allowed, cores);
  if (n)
    return n;
  for (int cpu = 0; cpu < CPU_SETSIZE && n < MACHINE_CORES; cpu++)
    if (CPU_ISSET((size_t)cpu, &allowed))
      cores[n++] = cpu;
  return n;
}

bool machine_free(void) {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (long i = 0; i < sysconf(_SC_NPROCESSORS_CONF) && i < CPU_SETSIZE; i++)
    CPU_SET((size_t)i, &all);
  return sched_setaffinity(0, sizeof all, &all) == 0;
}

void machine_stay(int core, Stay *stay) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET((size_t)core, &one);
  stay->stays =
      sched_getaffinity(0, sizeof stay->before, &stay->before) == 0 && sched_setaffinity(0, sizeof one, &one) == 0;
}

void machine_leave(const Stay *stay) {
  if (stay->stays)
    sched_setaffinity(0, sizeof stay->before, &stay->before);
}

/* The first words of a file, two numbers at most; -1 for what is none: "max". How many words. */
static int read_numbers(const char *path, double numbers[2]) {
  char words[2][32];
  FILE *file = fopen(path, "re");
  int n = file ? fscanf(file, "%31s %31s", words[0], words[1]) : 0;
  if (file)
    fclose(file);
  for (int i = 0; i < n; i++) {
    char *end;
    numbers[i] = strtod(words[i], &end);
    if (end == words[i] || *end)
      numbers[i] = -1;
  }
  return n > 0 ? n : 0;
}

/* A group's quota by its period; 0: it has none. */
static double group_quota(const char *folder, bool unified) {
  char path[4096];
  double quota[2] = {-1, -1}, period[2] = {-1, -1};
  snprintf(path, sizeof path, "%s/%s", folder, unified ? "cpu.max" : "cpu.cfs_quota_us");
  int n = read_numbers(path, quota);
  if (unified && n == 2)
    period[0] = quota[1];
  if (!unified && n) {
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    read_numbers(path, period);
  }
  return n && quota[0] > 0 && period[0] > 0 ? quota[0] / period[0] : 0;
}

/* The least of a group and those above it. Inside a container its path may be that of the machine outside: folders that
 * are not there are passed over. */
static double least_quota(const char *mount, char *group, bool unified) {
  double least = 0;
  for (;;) {
    char folder[2048];
    snprintf(folder, sizeof folder, "%s%s", mount, group);
    double quota = group_quota(folder, unified);
    if (quota > 0 && (least == 0 || quota < least))
      least = quota;
    char *slash = strrchr(group, '/');
    if (!slash)
      return least;
    *slash = '\0';
  }
}

/* Whether a list with commas has this word. */
static bool has_word(const char *list, const char *word) {
  size_t n = strlen(word);
  for (const char *at = list; (at = strstr(at, word)); at += n)
    if ((at == list || at[-1] == ',') && (at[n] == '\0' || at[n] == ','))
      return true;
  return false;
}

double machine_quota(const char *root) {
  char path[1024], line[1024];
  double least = 0;
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  FILE *file = fopen(path, "re");
  while (file && fgets(line, sizeof line, file)) { /* "0::/a/b" of the one tree, "4:cpu,cpuacct:/a/b" of the older */
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(++controllers, ':') : NULL;
    if (!group)
      continue;
    *group++ = '\0';
    bool unified = !*controllers;
    if (!unified && !has_word(controllers, "cpu"))
      continue;
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s%s", root, unified ? "" : "/", controllers);
    double quota = least_quota(path, group, unified);
    if (quota > 0 && (least == 0 || quota < least))
      least = quota;
  }
  if (file)
    fclose(file);
  return least;
}

/* Of a device's features, "0100…" by bits: a balloon's (virtio 1.2, 5.5.3) that reports free pages. */
enum { BALLOON = 5, BALLOON_REPORTS = 5 };

static bool reports_free_pages(const char *device) {
  char path[1024], text[128] = "";
  snprintf(path, sizeof path, "%s/device", device);
  FILE *file = fopen(path, "re");
  if (!file)
    return false;
  bool is_balloon = fgets(text, sizeof text, file) && strtol(text, NULL, 16) == BALLOON;
  fclose(file);
  snprintf(path, sizeof path, "%s/features", device);
  if (!is_balloon || !(file = fopen(path, "re")))
    return false;
  bool reports = fgets(text, sizeof text, file) && strlen(text) > BALLOON_REPORTS && text[BALLOON_REPORTS] == '1';
  fclose(file);
  return reports;
}

bool machine_returns_memory(const char *root) {
  enum { MOST_DEVICES = 64 };
  char path[512];
  bool returns = false;
  for (int i = 0; i < MOST_DEVICES && !returns; i++) {
    snprintf(path, sizeof path, "%s/sys/bus/virtio/devices/virtio%d", root, i);
    returns = reports_free_pages(path);
  }
  return returns;
}
