/* Finding and opening files of arrays. Invariant: the order of shards depends on names alone, so that it is the same
 * on every rank. */
#include "runtime/data/source.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/data/safetensors.h"

typedef struct {
  const char **items;
  size_t n, capacity;
} Paths;

/* NULL: memory is out. */
static Status add_path(Arena *arena, Paths *paths, const char *path) {
  TRY(ARENA_RESERVE(arena, paths->items, paths->n, paths->capacity, paths->n + 1));
  return (paths->items[paths->n++] = path) ? OK : status_code();
}

static int compare_paths(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void sort_paths(Paths *paths) {
  if (paths->n)
    qsort(paths->items, paths->n, sizeof *paths->items, compare_paths);
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n > m && strcmp(text + n - m, end) == 0;
}

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The folder's .npy files, and its .npz and .safetensors files; hidden ones apart. */
static Status list_folder(Arena *arena, const char *path, Paths *arrays, Paths *archives) {
  DIR *folder = opendir(path);
  Status status = OK;
  if (!folder)
    return fail(E_IO, "%s: cannot be opened: %s", path, strerror(errno));
  for (const struct dirent *entry; status == OK && (entry = readdir(folder));) {
    const char *name = entry->d_name;
    bool array = ends_with(name, ".npy"), archive = ends_with(name, ".npz") || ends_with(name, ".safetensors");
    if (*name != '.' && (array || archive))
      status = add_path(arena, array ? arrays : archives,
                        arena_format(arena, "%s%s%s", path, ends_with(path, "/") ? "" : "/", name));
  }
  closedir(folder);
  sort_paths(arrays);
  sort_paths(archives);
  return status;
}

static Status open_file(const char *path, ArrayFile *file) {
  return ends_with(path, ".safetensors") ? safetensors_open(path, file) : array_file_open(path, file);
}

/* A shard of these files. */
static Status open_shard(Arena *arena, const char *path, const Paths *paths, Shard *shard) {
  shard->path = path;
  TRY(ARENA_NEW(arena, shard->files, paths->n));
  for (size_t i = 0; i < paths->n; i++) {
    TRY(open_file(paths->items[i], &shard->files[i]));
    shard->n_files++;
  }
  return OK;
}

/* `archives` are the shards, where the folder has any; NULL: it is one shard, of arrays. */
static Status open_folder(Arena *arena, const char *path, Shard *shard, Paths *archives) {
  Paths arrays = {0}, others = {0};
  TRY(list_folder(arena, path, &arrays, &others));
  if (arrays.n && others.n)
    return fail(E_MODEL, "%s: holds arrays (%s) and files of arrays (%s): one kind a folder", path,
                arrays.items[0] + strlen(path), others.items[0] + strlen(path));
  if (!arrays.n && archives && others.n) {
    *archives = others;
    return OK;
  }
  return arrays.n ? open_shard(arena, path, &arrays, shard)
                  : fail(E_MODEL, "%s: the folder holds no .npy%s", path,
                         archives ? ", .npz or .safetensors file" : " file");
}

/* A shard of one file without a format. */
static Status open_flat(Arena *arena, const char *path, Shard *shard) {
  shard->path = path;
  TRY(ARENA_NEW(arena, shard->files, 1));
  TRY(array_file_open_flat(path, shard->files));
  shard->n_files = 1;
  return OK;
}

static Status open_shards(Source *source, const Paths *paths, bool flat) {
  TRY(ARENA_NEW(source->arena, source->shards, paths->n));
  for (size_t i = 0; i < paths->n; i++) {
    Shard *shard = &source->shards[source->n_shards++];
    const char *path = paths->items[i];
    if (flat)
      TRY(open_flat(source->arena, path, shard));
    else if (is_folder(path))
      TRY(open_folder(source->arena, path, shard, NULL));
    else
      TRY(open_shard(source->arena, path, &(Paths){&path, 1, 1}, shard));
  }
  return OK;
}

static Status match(Arena *arena, const char *pattern, Paths *paths) {
  glob_t found = {0};
  int code = glob(pattern, GLOB_NOSORT, NULL, &found);
  Status status = code == 0              ? OK
                  : code == GLOB_NOMATCH ? fail(E_IO, "%s: no file has such a name", pattern)
                  : code == GLOB_NOSPACE ? fail(E_MEMORY, "%s: out of memory", pattern)
                                         : fail(E_IO, "%s: a folder cannot be read", pattern);
  for (size_t i = 0; status == OK && i < found.gl_pathc; i++)
    status = add_path(arena, paths, arena_string(arena, found.gl_pathv[i]));
  globfree(&found);
  sort_paths(paths);
  return status;
}

static Status open_source(Source *source, bool flat) {
  const char *path = source->path;
  struct stat info;
  Paths paths = {0};
  if (stat(path, &info) != 0 && strpbrk(path, "*?["))
    TRY(match(source->arena, path, &paths));
  else if (flat || !is_folder(path))
    TRY(add_path(source->arena, &paths, path));
  if (paths.n)
    return open_shards(source, &paths, flat);
  TRY(ARENA_NEW(source->arena, source->shards, 1));
  source->n_shards = 1;
  TRY(open_folder(source->arena, path, source->shards, &paths));
  if (!paths.n)
    return OK;
  source->n_shards = 0;
  return open_shards(source, &paths, false);
}

static Status open_path(const char *path, bool flat, Source *source) {
  *source = (Source){.arena = arena_create()};
  if (!source->arena)
    return status_code();
  Status status = (source->path = arena_string(source->arena, path)) ? open_source(source, flat) : status_code();
  if (status != OK)
    source_close(source);
  return status;
}

Status source_open(const char *path, Source *source) {
  return open_path(path, false, source);
}

Status source_open_flat(const char *path, Source *source) {
  return open_path(path, true, source);
}

void source_close(Source *source) {
  for (int s = 0; s < source->n_shards; s++)
    for (int i = 0; i < source->shards[s].n_files; i++)
      array_file_close(&source->shards[s].files[i]);
  arena_destroy(source->arena);
  *source = (Source){0};
}

void source_settle(Source *source) {
  for (int s = 0; s < source->n_shards; s++)
    for (int i = 0; i < source->shards[s].n_files; i++)
      array_file_settle(&source->shards[s].files[i]);
}

Status source_unchanged(const Source *source) {
  for (int s = 0; s < source->n_shards; s++)
    for (int i = 0; i < source->shards[s].n_files; i++) {
      const ArrayFile *file = &source->shards[s].files[i];
      Status status = array_file_unchanged(file);
      if (status != OK) {
        status_context("%s: ", file->path);
        return status;
      }
    }
  return OK;
}

const Array *shard_find(const Shard *shard, const char *name, const ArrayFile **file) {
  for (int i = 0; i < shard->n_files; i++) {
    const Array *array = array_find(&shard->files[i], name);
    if (array && file)
      *file = &shard->files[i];
    if (array)
      return array;
  }
  return NULL;
}
