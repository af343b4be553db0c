/* A file of devices and links. Invariant: every key is known, every number is above 0, and what is wrong is named by
 * the file, the way to the key, and what stands there. */
#include "runtime/job/cluster.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/nearest.h"

/* What makers publish: bytes, dense flop/s (no sparsity), byte/s of memory and, each way, to the host's memory (0: it
 * is that), between devices of a node and between nodes. */
typedef struct {
  const char *name;
  double memory, float32, tf32, bf16, bytes, host, within, between;
} Published;

static const Published published[] = {
    /* NVIDIA A100 Tensor Core GPU, datasheet (SXM4): NVLink 600 GB/s both ways, PCIe 64 GB/s both ways; nodes by 200
       Gb/s InfiniBand */
    {"A100-40", 40e9, 19.5e12, 156e12, 312e12, 1555e9, 32e9, 300e9, 25e9},
    {"A100-80", 80e9, 19.5e12, 156e12, 312e12, 2039e9, 32e9, 300e9, 25e9},
    /* NVIDIA H100 Tensor Core GPU, datasheet (SXM5), half of what it states with sparsity: NVLink 900 GB/s both ways;
       400 Gb/s InfiniBand */
    {"H100", 80e9, 67e12, 494.5e12, 989.5e12, 3.35e12, 64e9, 450e9, 50e9},
    /* NVIDIA H200 Tensor Core GPU, datasheet (SXM) */
    {"H200", 141e9, 67e12, 494.5e12, 989.5e12, 4.8e12, 64e9, 450e9, 50e9},
    /* NVIDIA HGX B200, datasheet, an eighth of what eight have: NVLink 1.8 TB/s both ways */
    {"B200", 180e9, 75e12, 1.125e15, 2.25e15, 8e12, 64e9, 900e9, 50e9},
    /* AMD Instinct MI300X, data sheet: seven links of 128 GB/s both ways */
    {"MI300X", 192e9, 163.4e12, 653.7e12, 1307.4e12, 5.3e12, 64e9, 64e9, 50e9},
    /* A node of two AMD EPYC 9654, product page: 2 x 96 cores at 2.4 GHz, of 32 float32 (64 bfloat16) operations a
       cycle, 2 x 460.8 GB/s, 24 modules of 64 GB; 100 Gb/s Ethernet */
    {"CPU-node", 1.536e12, 14.7e12, 0, 29.5e12, 921.6e9, 0, 100e9, 12.5e9},
};
enum { PUBLISHED = sizeof published / sizeof *published };

/* What large products, convolutions and attention usually reach of such rates, and streams of such bytes: the same for
 * every device and model. */
static const double usual_reach[REACHES] = {
    [REACH_PRODUCT] = 0.7, [REACH_CONVOLUTION] = 0.5, [REACH_ATTENTION] = 0.4, [REACH_OTHER] = 1, [REACH_BYTES] = 0.8};
static const char *const reach_names[REACHES] = {[REACH_PRODUCT] = "product",
                                                 [REACH_CONVOLUTION] = "convolution",
                                                 [REACH_ATTENTION] = "attention",
                                                 [REACH_OTHER] = "other",
                                                 [REACH_BYTES] = "bytes"};
static const double usual_overhead_seconds = 5e-6, usual_latency_seconds = 5e-6;

/* A kind of device, with its links. */
typedef struct {
  DeviceSpec spec;
  LinkSpec within, between;
} Kind;

typedef struct {
  Arena *arena;
  const json_t *root;
} File;

static Status check_keys(const json_t *object, const char *where, const char *const *known, int n) {
  const char *key;
  json_t *value;
  char hint[NEAREST_BYTES];
  json_object_foreach((json_t *)object, key, value) {
    int k = 0;
    while (k < n && strcmp(known[k], key) != 0)
      k++;
    if (k == n)
      return fail(E_MODEL, "%s%s%s: there is no such key%s", where, *where ? "." : "", key,
                  nearest_hint(key, known, n, hint));
  }
  return OK;
}

static Status need_object(const json_t *value, const char *where) {
  return json_is_object(value) ? OK : fail(E_MODEL, "%s is %s", where, value ? "no object" : "missing");
}

/* A number above 0 into *number, which stays where the key is not there. */
static Status take_number(const json_t *object, const char *where, const char *key, double *number) {
  const json_t *value = json_object_get(object, key);
  if (!value)
    return OK;
  if (!json_is_number(value) || !(json_number_value(value) > 0) || !isfinite(json_number_value(value)))
    return fail(E_MODEL, "%s.%s is no number above 0", where, key);
  *number = json_number_value(value);
  return OK;
}

static Status need_number(const json_t *object, const char *where, const char *key, double *number) {
  TRY(take_number(object, where, key, number));
  return *number > 0 ? OK : fail(E_MODEL, "%s.%s is missing", where, key);
}

static Status take_link(const json_t *object, const char *where, LinkSpec *link) {
  static const char *const keys[] = {"latency_seconds", "bytes_per_second"};
  if (!object)
    return OK;
  TRY(need_object(object, where));
  TRY(check_keys(object, where, keys, 2));
  TRY(take_number(object, where, keys[0], &link->latency_seconds));
  return take_number(object, where, keys[1], &link->bytes_per_second);
}

static Status find_published(const char *name, const char *where, Kind *kind) {
  const char *names[PUBLISHED];
  char hint[NEAREST_BYTES], have[256] = "";
  for (int i = 0; i < PUBLISHED; i++) {
    const Published *p = &published[i];
    names[i] = p->name;
    snprintf(have + strlen(have), sizeof have - strlen(have), "%s%s", i ? ", " : "", p->name);
    if (strcmp(name, p->name) != 0)
      continue;
    kind->spec = (DeviceSpec){.memory_bytes = (size_t)p->memory,
                              .flops_per_second = p->float32,
                              .tf32_flops_per_second = p->tf32,
                              .bf16_flops_per_second = p->bf16,
                              .narrow_flops_per_second = p->bf16,
                              .bytes_per_second = p->bytes,
                              .host_bytes_per_second = p->host,
                              .node_overhead_seconds = usual_overhead_seconds};
    memcpy(kind->spec.reach, usual_reach, sizeof usual_reach);
    kind->within = (LinkSpec){usual_latency_seconds, p->within};
    kind->between = (LinkSpec){usual_latency_seconds, p->between};
    return OK;
  }
  return fail(E_MODEL, "%s is '%s': 'devices' has no such device, and published are %s%s", where, name, have,
              nearest_hint(name, names, PUBLISHED, hint));
}

static Status take_rates(const json_t *rates, const char *where, DeviceSpec *spec) {
  static const char *const keys[] = {"float32", "tf32", "bf16"};
  char inside[192];
  snprintf(inside, sizeof inside, "%s.flops_per_second", where);
  if (!rates)
    return OK;
  TRY(need_object(rates, inside));
  TRY(check_keys(rates, inside, keys, 3));
  TRY(take_number(rates, inside, keys[0], &spec->flops_per_second));
  TRY(take_number(rates, inside, keys[1], &spec->tf32_flops_per_second));
  TRY(take_number(rates, inside, keys[2], &spec->bf16_flops_per_second));
  spec->narrow_flops_per_second = spec->bf16_flops_per_second;
  return OK;
}

static Status take_reach(const json_t *reach, const char *where, DeviceSpec *spec) {
  char inside[192];
  snprintf(inside, sizeof inside, "%s.efficiency", where);
  if (!reach)
    return OK;
  TRY(need_object(reach, inside));
  TRY(check_keys(reach, inside, reach_names, REACHES));
  for (int i = 0; i < REACHES; i++) {
    TRY(take_number(reach, inside, reach_names[i], &spec->reach[i]));
    if (spec->reach[i] > 1)
      return fail(E_MODEL, "%s.%s is %g, above 1", inside, reach_names[i], spec->reach[i]);
  }
  return OK;
}

/* So many of them that work as one. */
static void multiply(double times, DeviceSpec *spec) {
  spec->memory_bytes = (size_t)((double)spec->memory_bytes * times);
  spec->flops_per_second *= times;
  spec->tf32_flops_per_second *= times;
  spec->bf16_flops_per_second *= times;
  spec->narrow_flops_per_second *= times;
  spec->bytes_per_second *= times;
  spec->host_bytes_per_second *= times;
}

static Status describe(const json_t *object, const char *where, Kind *kind) {
  static const char *const keys[] = {"like",
                                     "times",
                                     "memory_bytes",
                                     "flops_per_second",
                                     "bytes_per_second",
                                     "host_bytes_per_second",
                                     "overhead_seconds",
                                     "efficiency",
                                     "within",
                                     "between"};
  char inside[192];
  TRY(need_object(object, where));
  TRY(check_keys(object, where, keys, sizeof keys / sizeof *keys));
  const json_t *like = json_object_get(object, "like");
  *kind = (Kind){.within = {usual_latency_seconds, 0}, .between = {usual_latency_seconds, 0}};
  kind->spec.node_overhead_seconds = usual_overhead_seconds;
  memcpy(kind->spec.reach, usual_reach, sizeof usual_reach);
  snprintf(inside, sizeof inside, "%s.like", where);
  if (like && !json_is_string(like))
    return fail(E_MODEL, "%s is no string", inside);
  if (like)
    TRY(find_published(json_string_value(like), inside, kind));
  double memory = (double)kind->spec.memory_bytes, times = 1;
  TRY(need_number(object, where, "memory_bytes", &memory));
  if (memory > 0x1p62)
    return fail(E_MODEL, "%s.memory_bytes is %g, more than 2^62", where, memory);
  kind->spec.memory_bytes = (size_t)memory;
  TRY(take_rates(json_object_get(object, "flops_per_second"), where, &kind->spec));
  if (!(kind->spec.flops_per_second > 0))
    return fail(E_MODEL, "%s.flops_per_second.float32 is missing", where);
  TRY(need_number(object, where, "bytes_per_second", &kind->spec.bytes_per_second));
  TRY(take_number(object, where, "host_bytes_per_second", &kind->spec.host_bytes_per_second));
  TRY(take_number(object, where, "overhead_seconds", &kind->spec.node_overhead_seconds));
  TRY(take_reach(json_object_get(object, "efficiency"), where, &kind->spec));
  TRY(take_number(object, where, "times", &times));
  if (times > 4096)
    return fail(E_MODEL, "%s.times is %g, more than 4096", where, times);
  multiply(times, &kind->spec);
  snprintf(inside, sizeof inside, "%s.within", where);
  TRY(take_link(json_object_get(object, "within"), inside, &kind->within));
  snprintf(inside, sizeof inside, "%s.between", where);
  return take_link(json_object_get(object, "between"), inside, &kind->between);
}

/* The device of this name: the file's, else a published one. */
static Status find_device(const File *file, const char *name, const char *where, Kind *kind) {
  const json_t *devices = json_object_get(file->root, "devices");
  const json_t *own = json_is_object(devices) ? json_object_get(devices, name) : NULL;
  char inside[128];
  snprintf(inside, sizeof inside, "devices.%.60s", name);
  TRY(own ? describe(own, inside, kind) : find_published(name, where, kind));
  snprintf(kind->spec.name, sizeof kind->spec.name, "%.63s", name);
  return OK;
}

static Status get_count(const json_t *object, const char *where, const char *key, int *count) {
  const json_t *value = json_object_get(object, key);
  *count = 1;
  if (!value)
    return OK;
  if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > SCHEDULE_LIMIT)
    return fail(E_MODEL, "%s.%s is no whole number from 1 to %d", where, key, SCHEDULE_LIMIT);
  *count = (int)json_integer_value(value);
  return OK;
}

/* Ranks of one node. */
typedef struct {
  int node;
  Kind kind;
} Seat;

static Status seat_ranks(const File *file, int ranks, Seat *seats, Text *text) {
  static const char *const keys[] = {"count", "device", "devices"};
  const json_t *nodes = json_object_get(file->root, "nodes");
  int seated = 0, number = 0;
  size_t entries = json_array_size(nodes);
  if (!json_is_array(nodes) || !entries)
    return fail(E_MODEL, "nodes is %s", !nodes ? "missing" : json_is_array(nodes) ? "empty" : "no array");
  for (size_t i = 0; i < entries && seated < ranks; i++) {
    const json_t *entry = json_array_get(nodes, i);
    char where[64], inside[80];
    int count, devices;
    Kind kind;
    snprintf(where, sizeof where, "nodes[%zu]", i);
    snprintf(inside, sizeof inside, "%s.device", where);
    TRY(need_object(entry, where));
    TRY(check_keys(entry, where, keys, 3));
    TRY(get_count(entry, where, "count", &count));
    TRY(get_count(entry, where, "devices", &devices));
    const char *name = json_string_value(json_object_get(entry, "device"));
    if (!name)
      return fail(E_MODEL, "%s is %s", inside, json_object_get(entry, "device") ? "no string" : "missing");
    TRY(find_device(file, name, inside, &kind));
    text_add(text, "%s%d node%s of %d %s", i ? ", " : "", count, count == 1 ? "" : "s", devices, name);
    for (int node = 0; node < count; node++, number++)
      for (int d = 0; d < devices && seated < ranks; d++)
        seats[seated++] = (Seat){number, kind};
  }
  return seated == ranks ? OK : fail(E_MODEL, "nodes have %d devices for %d ranks", seated, ranks);
}

static LinkSpec slower(LinkSpec a, LinkSpec b) {
  return (LinkSpec){fmax(a.latency_seconds, b.latency_seconds), fmin(a.bytes_per_second, b.bytes_per_second)};
}

static Status connect(const File *file, int ranks, const Seat *seats, Cluster *cluster) {
  static const char *const keys[] = {"within", "between"};
  const json_t *links = json_object_get(file->root, "links");
  LinkSpec given[2] = {{0, 0}, {0, 0}};
  if (links) {
    TRY(need_object(links, "links"));
    TRY(check_keys(links, "links", keys, 2));
    TRY(take_link(json_object_get(links, "within"), "links.within", &given[0]));
    TRY(take_link(json_object_get(links, "between"), "links.between", &given[1]));
  }
  cluster->link = (LinkSpec){0, 0};
  for (int a = 0; a < ranks; a++)
    for (int b = 0; b < ranks; b++) {
      bool apart = seats[a].node != seats[b].node;
      LinkSpec link = slower(apart ? seats[a].kind.between : seats[a].kind.within,
                             apart ? seats[b].kind.between : seats[b].kind.within);
      if (given[apart].bytes_per_second > 0)
        link.bytes_per_second = given[apart].bytes_per_second;
      if (given[apart].latency_seconds > 0)
        link.latency_seconds = given[apart].latency_seconds;
      cluster->pair_bytes_per_second[(size_t)a * (size_t)ranks + (size_t)b] = link.bytes_per_second;
      if (a == b)
        continue;
      if (!(link.bytes_per_second > 0))
        return fail(E_MODEL, "links.%s.bytes_per_second is missing, and devices.%s has none", keys[apart],
                    seats[a].kind.spec.name);
      cluster->link = cluster->link.bytes_per_second > 0 ? slower(cluster->link, link) : link;
    }
  return OK;
}

static Status take_order(const json_t *value, bool *any) {
  const char *order = value ? json_string_value(value) : "given";
  if (!order || (strcmp(order, "given") != 0 && strcmp(order, "any") != 0))
    return fail(E_MODEL, "order is neither \"given\" nor \"any\"");
  *any = strcmp(order, "any") == 0;
  return OK;
}

static Status read_cluster(const File *file, int ranks, Cluster *cluster, Text *text) {
  static const char *const keys[] = {"nodes", "devices", "links", "order"};
  Seat *seats;
  if (!json_is_object(file->root))
    return fail(E_MODEL, "it is no JSON object");
  TRY(check_keys(file->root, "", keys, 4));
  TRY(take_order(json_object_get(file->root, "order"), &cluster->any_order));
  const json_t *devices = json_object_get(file->root, "devices");
  if (devices)
    TRY(need_object(devices, "devices"));
  TRY(ARENA_NEW(file->arena, seats, ranks));
  TRY(ARENA_NEW(file->arena, cluster->devices, ranks));
  TRY(ARENA_NEW(file->arena, cluster->pair_bytes_per_second, (size_t)ranks * (size_t)ranks));
  TRY(seat_ranks(file, ranks, seats, text));
  for (int r = 0; r < ranks; r++)
    cluster->devices[r] = seats[r].kind.spec;
  return connect(file, ranks, seats, cluster);
}

Status cluster_read(Arena *arena, const char *path, int ranks, Cluster *cluster) {
  const char *text;
  json_t *root;
  json_error_t error;
  Text said = {0};
  TRY(file_read_text(arena, path, &text));
  TRY(json_read(text, &root, &error));
  if (!root)
    return fail(E_MODEL, "%s: line %d: %s", path, error.line, error.text);
  File file = {arena, root};
  Status status = read_cluster(&file, ranks, cluster, &said);
  if (status == E_MODEL)
    status_context("%s: ", path);
  const char *whole = status == OK ? text_whole(&said) : NULL;
  cluster->text = whole ? arena_string(arena, whole) : NULL;
  if (status == OK && !cluster->text)
    status = status_code();
  text_free(&said);
  json_decref(root);
  return status;
}

Status cluster_seat(Arena *arena, const Cluster *from, int ranks, const int *device, Cluster *to) {
  size_t n = (size_t)ranks;
  *to = *from;
  to->any_order = false;
  TRY(ARENA_NEW(arena, to->devices, n));
  TRY(ARENA_NEW(arena, to->pair_bytes_per_second, n * n));
  for (size_t a = 0; a < n; a++) {
    to->devices[a] = from->devices[device[a]];
    for (size_t b = 0; b < n; b++)
      to->pair_bytes_per_second[a * n + b] = from->pair_bytes_per_second[(size_t)device[a] * n + (size_t)device[b]];
  }
  return OK;
}
