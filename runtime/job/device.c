/* The ranks' devices. Invariant: ranks on one device share its memory evenly, whatever their stages need. */
#include "runtime/job/device.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "graph/passes/passes.h"
#include "graph/rounded.h"

static Status unknown(const char *name) {
  char have[256] = "", hint[NEAREST_BYTES];
  const char *names[16];
  int n = 0;
  for (int i = 0; backends[i]; i++) {
    if (n < 16)
      names[n++] = backends[i]->name;
    snprintf(have + strlen(have), sizeof have - strlen(have), "%s%s", i ? ", " : "", backends[i]->name);
  }
  return fail(E_USAGE, "--device: this build has no '%s', only %s%s", name, have, nearest_hint(name, names, n, hint));
}

/* "cuda:1"; number -1 where there is none. */
static Status parse_one(const char *text, size_t length, const Backend **backend, int *number) {
  char name[64];
  snprintf(name, sizeof name, "%.*s", (int)length, text);
  char *colon = strchr(name, ':'), *end = NULL;
  *number = -1;
  if (colon) {
    long n = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || n > 4095)
      return fail(E_USAGE, "--device: '%s' is not NAME:NUMBER", name);
    *number = (int)n;
    *colon = '\0';
  }
  *backend = strcmp(name, "auto") == 0 ? backends[0] : backend_find(name);
  if (!*backend)
    return unknown(name);
  if ((*backend)->is_host && *number > 0)
    return fail(E_USAGE, "--device: there is only one %s", name);
  return OK;
}

/* How many devices a backend has. */
static Status count_devices(const Backend *backend, int *count) {
  DeviceSpec spec;
  TRY(backend->describe(0, &spec));
  *count = 1;
  while (!backend->is_host && backend->describe(*count, &spec) == OK)
    ++*count;
  return OK;
}

static Status spread(const Backend *backend, int number, int ranks, RankDevice *devices) {
  int count = 1;
  if (number < 0)
    TRY(count_devices(backend, &count));
  for (int r = 0; r < ranks; r++)
    devices[r] = (RankDevice){backend, number < 0 ? r % count : number};
  return OK;
}

Status devices_parse(Arena *arena, const char *text, int ranks, RankDevice **out) {
  int listed = 1, number;
  RankDevice *devices;
  TRY(ARENA_NEW(arena, devices, ranks));
  *out = devices;
  for (const char *c = text; *c; c++)
    listed += *c == ',';
  if (listed > 1 && listed != ranks)
    return fail(E_USAGE, "--device lists %d devices for %d rank%s", listed, ranks, ranks == 1 ? "" : "s");
  for (int r = 0; r < listed; r++) {
    const Backend *backend;
    size_t length = strcspn(text, ",");
    TRY(parse_one(text, length, &backend, &number));
    if (listed == 1)
      return spread(backend, number, ranks, devices);
    devices[r] = (RankDevice){backend, number < 0 ? 0 : number};
    text += length + 1;
  }
  return OK;
}

Status devices_text(Arena *arena, const RankDevice *devices, int ranks, const char *asked, const char **out) {
  int listed = strchr(asked, ',') ? ranks : 1;
  bool numbered = listed > 1 || strchr(asked, ':');
  size_t size = 1, at = 0;
  char *text;
  for (int r = 0; r < listed; r++)
    size += strlen(devices[r].backend->name) + sizeof ",:4095";
  TRY(ARENA_NEW(arena, text, size));
  for (int r = 0; r < listed; r++) {
    at += (size_t)snprintf(text + at, size - at, "%s%s", r ? "," : "", devices[r].backend->name);
    if (numbered && !devices[r].backend->is_host)
      at += (size_t)snprintf(text + at, size - at, ":%d", devices[r].device);
  }
  *out = text;
  return OK;
}

static int compare_texts(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

Status devices_bits(Arena *arena, const RankDevice *devices, int ranks, const char **text) {
  char **kinds;
  DeviceSpec spec;
  TRY(ARENA_NEW(arena, kinds, ranks));
  for (int r = 0; r < ranks; r++) {
    const Backend *backend = devices[r].backend;
    TRY(backend->describe(devices[r].device, &spec));
    const char *what = backend->instructions ? backend->instructions() : backend->is_host ? "" : spec.name;
    if (!(kinds[r] = arena_format(arena, "%s%s%s", backend->name, *what ? " " : "", what)))
      return status_code();
  }
  qsort(kinds, (size_t)ranks, sizeof *kinds, compare_texts);
  *text = kinds[0];
  for (int r = 1; r < ranks; r++)
    if (strcmp(kinds[r], kinds[r - 1]) != 0 && !(*text = arena_format(arena, "%s, %s", *text, kinds[r])))
      return status_code();
  return OK;
}

Status devices_precision(const char *name, const RankDevice *devices, int ranks, Precision *precision) {
  static const char *const names[] = {
      [PRECISION_FLOAT32] = "float32", [PRECISION_TF32] = "tf32", [PRECISION_BF16] = "bf16"};
  int found = 0, count = sizeof names / sizeof *names;
  bool able = false;
  while (found < count && strcmp(names[found], name) != 0)
    found++;
  if (found == count)
    return fail(E_USAGE, "--precision: '%s' is none of float32, tf32, bf16", name);
  for (int r = 0; r < ranks; r++)
    able |= devices[r].backend->reduces_precision;
  if (found == PRECISION_TF32 && !able)
    return fail(E_USAGE, "--precision tf32 needs a GPU (--device cuda): %s has float32 and bf16",
                devices[0].backend->name);
  *precision = (Precision)found;
  return OK;
}

/* The backends of the run, in the order of ranks; returns how many. */
static int list_backends(const RankDevice *devices, int ranks, const Backend *list[RUN_BACKENDS], uint8_t *of_rank) {
  int n = 0;
  for (int r = 0; r < ranks; r++) {
    int k = 0;
    while (k < n && list[k] != devices[r].backend)
      k++;
    assert(k < RUN_BACKENDS);
    list[k] = devices[r].backend;
    n += k == n;
    of_rank[r] = (uint8_t)k;
  }
  return n;
}

/* The backends of a run. */
typedef struct {
  const Backend *list[RUN_BACKENDS];
  int n;
} Used;

/* Takes: all of them. */
static bool used_take(const void *context, const Graph *graph, const Node *node) {
  const Used *used = context;
  for (int k = 0; k < used->n; k++)
    if (!backend_accepts(used->list[k], graph, node))
      return false;
  return true;
}

Status devices_prepare(const RankDevice *devices, int ranks, Precision precision, Graph *graph) {
  Used used;
  uint8_t *of_rank;
  bool stored;
  TRY(ARENA_NEW(graph->arena, of_rank, ranks));
  used.n = list_backends(devices, ranks, used.list, of_rank);
  graph->backend_of_rank = of_rank;
  for (size_t i = 0; i < graph->n_nodes; i++)
    graph->nodes[i]->precision = precision;
  for (int k = 0; k < used.n; k++)
    TRY(backend_check(used.list[k], graph));
  if (precision == PRECISION_BF16)
    TRY(graph_store_narrow(graph, used_take, &used, &stored));
  for (int k = 0; k < used.n; k++) {
    if (used.list[k]->keeps_rounded)
      graph_keep_rounded(graph, k);
    for (size_t i = 0; i < graph->n_nodes; i++)
      graph->nodes[i]->workspace_bytes[k] = backend_workspace_bytes(used.list[k], graph, graph->nodes[i]);
  }
  return OK;
}

Status devices_describe(const RankDevice *devices, int ranks, int rank, int here, DeviceSpec *spec) {
  const RankDevice *own = &devices[rank];
  size_t sharing = 0;
  TRY(own->backend->describe(own->device, spec));
  for (int r = 0; r < ranks; r++)
    sharing += own->backend->is_host ? devices[r].backend->is_host
                                     : devices[r].backend == own->backend && devices[r].device == own->device;
  if (own->backend->is_host && sharing > (size_t)here) /* the others have machines of their own */
    sharing = (size_t)here;
  spec->memory_bytes /= sharing;
  return OK;
}
