/* Invariant: a number is used only where the whole text of what it depends on is that of the run. */
#include "runtime/costs/cache.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mapped.h"

static const char format_name[] = "onnxpipe costs 1";
enum { MOST_KINDS = 20000 }; /* of a file: it begins anew where they are more */

/* "model name" of the first processor, or what the machine calls its kind. */
static void name_processor(char *name, size_t room) {
  FILE *file = fopen("/proc/cpuinfo", "r");
  char line[512];
  snprintf(name, room, "processor");
  while (file && fgets(line, sizeof line, file)) {
    const char *value = strchr(line, ':');
    if (!value || (strncmp(line, "model name", 10) != 0 && strncmp(line, "CPU part", 8) != 0))
      continue;
    snprintf(name, room, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
    break;
  }
  if (file)
    fclose(file);
}

/* The file that this code lies in: another build is another file. */
static FileStamp stamp_build(void) {
  Dl_info where;
  FileStamp stamp = {0};
  int descriptor = dladdr((void *)(uintptr_t)&stamp_build, &where) ? open(where.dli_fname, O_RDONLY | O_CLOEXEC) : -1;
  if (descriptor < 0)
    descriptor = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (descriptor >= 0) {
    stamp = file_stamp(descriptor);
    close(descriptor);
  }
  return stamp;
}

Status cache_about(const Job *job, int rank, size_t bytes, const char **about) {
  const JobDecisions *decided = &job->decided;
  const RankDevice *device = &decided->devices[rank];
  const char *instructions = device->backend->instructions ? device->backend->instructions() : "";
  char processor[256], library[256] = "";
  FileStamp build = stamp_build();
  int walked = 0;
  while (bytes >> (2 * walked))
    walked++;
  name_processor(processor, sizeof processor);
  if (job->asked.world->mpi)
    transport_mpi_library(library, sizeof library);
  library[strcspn(library, ",\n")] = '\0';
  *about = arena_format(job->arena,
                        "%s %s %s; build %" PRId64 " %" PRId64 ".%09" PRId64
                        "; %s; %d ranks of %d threads on %d cores%s; %s%s%s%s; 4^%d bytes",
                        device->backend->name, decided->request.devices[rank].name, instructions, build.bytes,
                        build.seconds, build.nanoseconds, processor, decided->cores.ranks, decided->threads,
                        cores_usable(&decided->cores), decided->cores.pinned ? ", pinned" : "",
                        !job->asked.world->mpi ? "threads"
                        : *library             ? library
                                               : "MPI",
                        job->asked.world->mpi && transport_mpi_copies_twice() ? ", two copies" : "",
                        device->backend->is_host ? "" : "; on ", device->backend->is_host ? "" : decided->device_text,
                        walked);
  return *about ? OK : status_code();
}

/* The folder, made where it is not there. */
static bool find_folder(char *path, size_t room) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int length = cache && cache[0] == '/' ? snprintf(path, room, "%s", cache)
               : home && home[0] == '/' ? snprintf(path, room, "%s/.cache", home)
                                        : -1;
  if (length < 0 || (size_t)length + 16 > room)
    return false;
  mkdir(path, 0700);
  memcpy(path + length, "/onnxpipe", sizeof "/onnxpipe");
  mkdir(path, 0700);
  return access(path, W_OK) == 0;
}

static bool find_path(const char *about, char *path, size_t room) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  if (!find_folder(path, room - 32))
    return false;
  for (const char *c = about; *c; c++)
    hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
  sprintf(path + strlen(path), "/%016" PRIx64 ".json", hash);
  return true;
}

/* What is there; NULL: nothing that could be used. */
static Status load(Arena *arena, const char *about, const char *path, json_t **root) {
  const char *text;
  json_error_t error;
  *root = NULL;
  Status status = access(path, R_OK) == 0 ? file_read_text(arena, path, &text) : E_IO;
  if (status == OK)
    status = json_read(text, root, &error);
  if (status != OK || !*root)
    return status == E_MEMORY ? status : OK;
  const char *format = json_string_value(json_object_get(*root, "format"));
  const char *of = json_string_value(json_object_get(*root, "about"));
  if (format && of && strcmp(format, format_name) == 0 && strcmp(of, about) == 0 &&
      json_is_object(json_object_get(*root, "kinds")))
    return OK;
  json_decref(*root);
  *root = NULL;
  return OK;
}

/* Negative: it is none. */
static double seconds_of(const json_t *value) {
  double seconds = json_is_number(value) ? json_number_value(value) : -1;
  return isfinite(seconds) && seconds >= 0 ? seconds : -1;
}

static void name_key(KindKey key, char name[33]) {
  snprintf(name, 33, "%016" PRIx64 "%016" PRIx64, key.high, key.low);
}

static void take_links(const json_t *list, Cached *cached) {
  if (json_array_size(list) != LINK_SAMPLES)
    return;
  for (int i = 0; i < LINK_SAMPLES; i++) {
    const json_t *sample = json_array_get(list, (size_t)i);
    json_int_t bytes = json_integer_value(json_array_get(sample, 0));
    double up = seconds_of(json_array_get(sample, 1)), down = seconds_of(json_array_get(sample, 2));
    if (bytes <= 0 || up <= 0 || down <= 0)
      return;
    cached->links[i] = (LinkSample){(size_t)bytes, up, down};
  }
  cached->n_links = LINK_SAMPLES;
}

Status cache_read(Arena *arena, const char *about, const Kinds *kinds, Cached *cached) {
  char path[4096], name[33];
  json_t *root = NULL;
  *cached = (Cached){.action_seconds = -1, .step_seconds = -1, .bus_seconds = -1, .wire_seconds = -1};
  TRY(ARENA_NEW(arena, cached->kind_seconds, kinds->n));
  for (int k = 0; k < kinds->n; k++)
    cached->kind_seconds[k] = -1;
  if (find_path(about, path, sizeof path))
    TRY(load(arena, about, path, &root));
  if (!root)
    return OK;
  const json_t *of_kinds = json_object_get(root, "kinds");
  for (int k = 0; k < kinds->n; k++) {
    name_key(kinds->keys[k], name);
    cached->kind_seconds[k] = seconds_of(json_object_get(of_kinds, name));
  }
  cached->action_seconds = seconds_of(json_object_get(root, "action_seconds"));
  cached->step_seconds = seconds_of(json_object_get(root, "step_seconds"));
  cached->bus_seconds = seconds_of(json_object_get(root, "bus_byte_seconds"));
  cached->wire_seconds = seconds_of(json_object_get(root, "wire_byte_seconds"));
  take_links(json_object_get(root, "links"), cached);
  json_decref(root);
  return OK;
}

static json_t *links_json(const Cached *cached) {
  json_t *list = json_array();
  for (int i = 0; i < cached->n_links && list; i++)
    json_array_append_new(list, json_pack("[I, f, f]", (json_int_t)cached->links[i].bytes, cached->links[i].up_seconds,
                                          cached->links[i].down_seconds));
  return list;
}

static void add_all(json_t *root, const Kinds *kinds, const Cached *cached) {
  char name[33];
  json_t *of_kinds = json_object_get(root, "kinds");
  if (json_object_size(of_kinds) > MOST_KINDS)
    json_object_clear(of_kinds);
  for (int k = 0; k < kinds->n; k++) {
    name_key(kinds->keys[k], name);
    if (cached->kind_seconds[k] >= 0)
      json_object_set_new(of_kinds, name, json_real(cached->kind_seconds[k]));
  }
  if (cached->action_seconds >= 0)
    json_object_set_new(root, "action_seconds", json_real(cached->action_seconds));
  if (cached->step_seconds >= 0)
    json_object_set_new(root, "step_seconds", json_real(cached->step_seconds));
  if (cached->bus_seconds >= 0)
    json_object_set_new(root, "bus_byte_seconds", json_real(cached->bus_seconds));
  if (cached->wire_seconds >= 0)
    json_object_set_new(root, "wire_byte_seconds", json_real(cached->wire_seconds));
  if (cached->n_links)
    json_object_set_new(root, "links", links_json(cached));
}

static Status replace(const char *path, const json_t *root) {
  FileReplace file;
  Text text = {0};
  text_add_json(&text, root, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
  const char *whole = text_whole(&text);
  Status status = whole ? file_replace_begin(path, &file) : status_code();
  if (status == OK) {
    fputs(whole, file.stream);
    status = file_replace_commit(&file);
  }
  text_free(&text);
  return status;
}

void cache_write(const char *about, const Kinds *kinds, const Cached *cached) {
  char path[4096];
  json_t *root = NULL;
  Arena *arena = find_path(about, path, sizeof path) ? arena_create() : NULL;
  if (!arena)
    return;
  if (load(arena, about, path, &root) == OK && !root)
    root = json_pack("{s:s, s:s, s:{}}", "format", format_name, "about", about, "kinds");
  if (root) {
    add_all(root, kinds, cached);
    (void)replace(path, root);
  }
  json_decref(root);
  arena_destroy(arena);
}

void cache_forget(const char *about) {
  char path[4096];
  if (find_path(about, path, sizeof path))
    unlink(path);
}
