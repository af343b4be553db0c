/* Reading checkpoints. Invariant: what was found was whole: every file that checkpoint.json lists is there with its
 * bytes and its checksum. */
#include "runtime/checkpoint/checkpoint.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/json.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/data/safetensors.h"

const char *const checkpoint_kinds[TENSOR_KINDS] = {"model", "optimizer"};

static const char head[] = "{\"crc32\": \"";

/* The text without what was damaged: its first line is that of all others. */
static Status check_own_sum(const char *text) {
  const char *rest = strchr(text, '\n');
  char *end;
  if (strncmp(text, head, strlen(head)) != 0 || !rest)
    return fail(E_MODEL, "is damaged: it does not begin with its checksum");
  unsigned long said = strtoul(text + strlen(head), &end, 16);
  unsigned long is = crc32_z(0, (const Bytef *)rest + 1, strlen(rest + 1));
  if (end != text + strlen(head) + 8 || said != is)
    return fail(E_MODEL, "is damaged: its checksum is %08lx, not %.8s", is, text + strlen(head));
  return OK;
}

static const char *copy_string(Arena *arena, const json_t *json) {
  return json_is_string(json) ? arena_string(arena, json_string_value(json)) : NULL;
}

static Status read_files(Checkpoint *c, const json_t *list) {
  size_t n = json_array_size(list);
  TRY(ARENA_NEW(c->arena, c->files, n));
  for (size_t i = 0; i < n; i++) {
    const json_t *json = json_array_get(list, i);
    CheckpointFile *file = &c->files[c->n_files++];
    const char *sum = json_string_value(json_object_get(json, "crc32"));
    file->name = copy_string(c->arena, json_object_get(json, "name"));
    file->bytes = json_integer_value(json_object_get(json, "bytes"));
    file->crc32 = sum ? (uint32_t)strtoul(sum, NULL, 16) : 0;
    if (!file->name || !sum || strchr(file->name, '/'))
      return fail(E_MODEL, "lists a file without name or checksum");
  }
  return OK;
}

/* null is what JSON has no number for. */
static double number_of(const json_t *json) {
  return json_is_number(json) ? json_number_value(json) : NAN;
}

static CheckpointValidation read_validation(const json_t *json) {
  return (CheckpointValidation){.step = json_integer_value(json_object_get(json, "step")),
                                .best_step = json_integer_value(json_object_get(json, "best_step")),
                                .stalled = json_integer_value(json_object_get(json, "stalled")),
                                .best_loss = number_of(json_object_get(json, "best_loss")),
                                .reference_loss = number_of(json_object_get(json, "reference_loss"))};
}

static Status read_fields(Checkpoint *c, json_t *json) {
  const json_t *model = json_object_get(json, "model"), *data = json_object_get(json, "data");
  const json_t *format = json_object_get(json, "format"), *step = json_object_get(json, "step");
  if (json_integer_value(format) != 1)
    return fail(E_MODEL, "has the format %lld, this version reads 1", (long long)json_integer_value(format));
  c->step = json_integer_value(step);
  c->model_path = copy_string(c->arena, json_object_get(model, "path"));
  c->model_hash = copy_string(c->arena, json_object_get(model, "hash"));
  c->device = copy_string(c->arena, json_object_get(json, "device"));
  c->bits = copy_string(c->arena, json_object_get(json, "bits"));
  c->ranks = json_integer_value(json_object_get(json, "ranks"));
  c->samples = json_integer_value(json_object_get(data, "samples"));
  c->epoch_length = json_integer_value(json_object_get(data, "epoch_length"));
  c->validation = read_validation(json_object_get(json, "validation"));
  c->replaced = json_incref(json_object_get(json, "replaced"));
  c->options = json_incref(json_object_get(json, "options"));
  if (!json_is_integer(step) || c->step < 0 || !c->model_path || !c->model_hash || !c->device || !c->bits ||
      !json_is_object(c->options) || c->epoch_length < 1)
    return fail(E_MODEL, "lacks step, model, data, device or options");
  return read_files(c, json_object_get(json, "files"));
}

static Status read_text(Checkpoint *c, const char *path) {
  const char *text;
  json_t *json;
  json_error_t error;
  TRY(file_read_text(c->arena, path, &text));
  Status status = check_own_sum(text);
  if (status == OK)
    status = json_read(text, &json, &error);
  if (status == OK) {
    status = json ? read_fields(c, json) : fail(E_MODEL, "is no JSON: %s", error.text);
    json_decref(json);
  }
  if (status != OK)
    status_context("%s: ", path);
  return status;
}

/* What a folder of this path says of itself. */
static Status read_one(Arena *arena, const char *path, Checkpoint *c) {
  *c = (Checkpoint){.arena = arena, .path = arena_string(arena, path)};
  const char *json = arena_format(arena, "%s/checkpoint.json", path);
  Status status = c->path && json ? read_text(c, json) : status_code();
  if (status != OK)
    checkpoint_close(c);
  return status;
}

static Status verify_stream(FILE *stream, const CheckpointFile *file) {
  enum { CHUNK = 1 << 20 };
  char *buffer = malloc(CHUNK);
  int64_t bytes = 0;
  size_t n;
  uLong sum = crc32_z(0, NULL, 0);
  if (!buffer)
    return fail(E_MEMORY, "out of memory");
  while ((n = fread(buffer, 1, CHUNK, stream)) > 0) {
    sum = crc32_z(sum, (const Bytef *)buffer, n);
    bytes += (int64_t)n;
  }
  free(buffer);
  if (ferror(stream))
    return fail(E_IO, "cannot be read: %s", strerror(errno));
  if (bytes != file->bytes)
    return fail(E_MODEL, "is damaged: it has %lld bytes, not %lld", (long long)bytes, (long long)file->bytes);
  if ((uint32_t)sum != file->crc32)
    return fail(E_MODEL, "is damaged: its checksum is %08x, not %08x", (unsigned)sum, (unsigned)file->crc32);
  return OK;
}

static Status verify_file(const Checkpoint *c, const CheckpointFile *file) {
  int descriptor;
  size_t bytes;
  char *path = arena_format(c->arena, "%s/%s", c->path, file->name);
  if (!path)
    return status_code();
  Status status = file_open(path, &descriptor, &bytes);
  if (status == OK) {
    FILE *stream = fdopen(descriptor, "rb");
    status = stream ? verify_stream(stream, file) : fail(E_IO, "cannot be read: %s", strerror(errno));
    if (stream)
      fclose(stream);
    else
      close(descriptor);
  }
  if (status != OK)
    status_context("%s: ", path);
  return status;
}

static Status read_whole(Arena *arena, const char *path, bool verify, Checkpoint *c) {
  TRY(read_one(arena, path, c));
  Status status = OK;
  for (int i = 0; i < c->n_files && verify && status == OK; i++)
    status = verify_file(c, &c->files[i]);
  if (status != OK)
    checkpoint_close(c);
  return status;
}

Status checkpoint_find(Arena *arena, const char *path, bool verify, Text *said, Checkpoint *c) {
  struct stat info;
  int64_t *steps;
  int n;
  *c = (Checkpoint){0};
  char *own = arena_format(arena, "%s/checkpoint.json", path);
  if (!own)
    return status_code();
  if (stat(path, &info) != 0)
    return fail(E_IO, "%s: cannot be read: %s", path, strerror(errno));
  if (!S_ISDIR(info.st_mode))
    return fail(E_IO, "%s: is no folder of checkpoints", path);
  if (access(own, F_OK) == 0 || folder_step_of(path) >= 0)
    return read_whole(arena, path, verify, c);
  TRY(folder_list(arena, path, &steps, &n));
  if (!n)
    return fail(E_IO, "%s: holds no checkpoint", path);
  while (n-- > 0) {
    const char *newest = folder_step_path(arena, path, steps[n]);
    if (!newest)
      return status_code();
    Status status = read_whole(arena, newest, verify, c);
    if (status == OK || status == E_MEMORY)
      return status;
    if (said)
      text_add(said, "%s\n", status_message());
  }
  status_context("%s: holds no whole checkpoint: ", path);
  return status_code();
}

/* Of which kind are the tensors in a file of this name; TENSOR_KINDS: it has none. */
static TensorKind kind_of_file(const char *name) {
  static const char end[] = ".safetensors";
  size_t n = strlen(name);
  TensorKind kind = 0;
  if (n < strlen(end) || strcmp(name + n - strlen(end), end) != 0)
    return TENSOR_KINDS;
  while (kind < TENSOR_KINDS && strncmp(name, checkpoint_kinds[kind], strlen(checkpoint_kinds[kind])) != 0)
    kind++;
  return kind;
}

static int compare_names(const void *a, const void *b) {
  return strcmp((*(const Array *const *)a)->name, (*(const Array *const *)b)->name);
}

static Status sort_tensors(Checkpoint *c, TensorKind kind, const TensorKind *kinds) {
  size_t n = 0;
  TRY(ARENA_NEW(c->arena, c->tensors[kind], c->n_tensors[kind]));
  for (int s = 0; s < c->n_shards; s++)
    for (int i = 0; kinds[s] == kind && i < c->shards[s].n_arrays; i++)
      c->tensors[kind][n++] = &c->shards[s].arrays[i];
  if (n)
    qsort(c->tensors[kind], n, sizeof *c->tensors[kind], compare_names);
  return OK;
}

Status checkpoint_map(Checkpoint *c) {
  TensorKind *kinds;
  TRY(ARENA_NEW(c->arena, c->shards, c->n_files));
  TRY(ARENA_NEW(c->arena, kinds, c->n_files));
  for (int i = 0; i < c->n_files; i++) {
    TensorKind kind = kind_of_file(c->files[i].name);
    if (kind == TENSOR_KINDS)
      continue;
    const char *path = arena_format(c->arena, "%s/%s", c->path, c->files[i].name);
    TRY(path ? safetensors_open(path, &c->shards[c->n_shards]) : status_code());
    c->n_tensors[kind] += (size_t)c->shards[c->n_shards].n_arrays;
    kinds[c->n_shards++] = kind;
  }
  for (TensorKind kind = 0; kind < TENSOR_KINDS; kind++)
    TRY(sort_tensors(c, kind, kinds));
  return OK;
}

const Array *checkpoint_tensor(const Checkpoint *c, TensorKind kind, const char *name) {
  const Array key = {.name = name}, *wanted = &key;
  const Array **found = bsearch(&wanted, c->tensors[kind], c->n_tensors[kind], sizeof wanted, compare_names);
  return found ? *found : NULL;
}

Status checkpoint_unchanged(const Checkpoint *c) {
  for (int i = 0; i < c->n_shards; i++) {
    Status status = array_file_unchanged(&c->shards[i]);
    if (status != OK) {
      status_context("%s: ", c->shards[i].path);
      return status;
    }
  }
  return OK;
}

void checkpoint_unmap(Checkpoint *c) {
  for (int i = 0; i < c->n_shards; i++)
    array_file_close(&c->shards[i]);
  c->n_shards = 0;
  memset(c->n_tensors, 0, sizeof c->n_tensors);
}

void checkpoint_close(Checkpoint *c) {
  checkpoint_unmap(c);
  json_decref(c->options);
  json_decref(c->replaced);
  *c = (Checkpoint){0};
}
