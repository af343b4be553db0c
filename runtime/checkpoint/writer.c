/* Writing a checkpoint. Invariant: the copy belongs to the thread from writer_begin until writer_wait has returned. */
#include "runtime/checkpoint/writer.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "base/clock.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/data/safetensors.h"

struct CheckpointWriter {
  Arena *arena;
  const char *folder, *about;
  int keep, rank, ranks;
  bool apart;         /* ranks are processes */
  uint64_t all_bytes; /* of all ranks' tensors */
  Store *store;
  KeptTensor *own; /* [n_own]: what this rank writes, those of a kind together */
  int n_own;
  Array *arrays; /* [n_own]: in the copy */
  size_t copy_bytes;
  char *copy;                      /* NULL until there is one */
  const char *index[TENSOR_KINDS]; /* rank 0 */
  CheckpointValidation validation; /* of the step at hand */
  pthread_t thread;
  bool running; /* there is a thread to join */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  /* under the lock, while a thread runs: */
  int64_t step;
  double *parts; /* [ranks][PART_NUMBERS]; others' at rank 0 alone */
  bool stop;
  Status status;
  char message[1024], note[1024];
};

static double *part_of(CheckpointWriter *w, int rank) {
  return w->parts + (size_t)rank * PART_NUMBERS;
}

static Status create(CheckpointWriter *w, const Job *job) {
  KeptTensor *all;
  int n;
  TRY(tensors_list(w->arena, job, &all, &n));
  TRY(ARENA_NEW(w->arena, w->own, n));
  TRY(ARENA_NEW(w->arena, w->arrays, n));
  TRY(ARENA_NEW(w->arena, w->parts, (size_t)w->ranks * PART_NUMBERS));
  for (TensorKind kind = 0; kind < TENSOR_KINDS; kind++) {
    if (w->rank == 0)
      TRY(tensors_index(w->arena, all, n, kind, w->ranks, &w->index[kind]));
    for (int i = 0; i < n; i++)
      w->all_bytes += all[i].kind == kind ? all[i].bytes : 0;
    for (int i = 0; i < n; i++)
      if (all[i].kind == kind && all[i].owner == w->rank) {
        w->own[w->n_own++] = all[i];
        w->copy_bytes += (all[i].bytes + 63) / 64 * 64;
      }
  }
  return OK;
}

Status writer_open(const Job *job, const char *folder, int keep, const char *about, int rank, Store *store,
                   CheckpointWriter **out) {
  Arena *arena = arena_create();
  CheckpointWriter *w = arena ? arena_alloc(arena, 1, sizeof *w) : NULL;
  Status status = w ? OK : status_code();
  *out = NULL;
  if (w) {
    *w = (CheckpointWriter){.arena = arena,
                            .folder = folder,
                            .about = about,
                            .keep = keep,
                            .rank = rank,
                            .ranks = job->decided.ranks,
                            .apart = job->asked.world->mpi,
                            .store = store,
                            .step = -1};
    status = create(w, job);
  }
  if (status != OK) {
    arena_destroy(arena);
    return status;
  }
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
  *out = w;
  return OK;
}

static void stop(CheckpointWriter *w) {
  pthread_mutex_lock(&w->lock);
  w->stop = true;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

void writer_close(CheckpointWriter *w) {
  if (!w)
    return;
  stop(w);
  if (w->running)
    pthread_join(w->thread, NULL);
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w->copy);
  arena_destroy(w->arena);
}

/* A file of the checkpoint aside, on the disk. With `text` that, else the arrays. */
static Status write_file(const CheckpointWriter *w, const char *name, const char *text, const Array *arrays, int n,
                         size_t *bytes, uint32_t *crc) {
  char path[FOLDER_PATH];
  TRY(folder_aside_file(w->folder, w->step, name, path));
  FILE *stream = fopen(path, "wbxe");
  Status status = stream ? OK : fail(E_IO, "cannot be written: %s", strerror(errno));
  if (status == OK && text) {
    *bytes = strlen(text);
    *crc = (uint32_t)crc32_z(0, (const Bytef *)text, *bytes);
    if (fwrite(text, 1, *bytes, stream) != *bytes)
      status = fail(E_IO, "cannot be written: %s", strerror(errno));
  } else if (status == OK) {
    status = safetensors_write(stream, arrays, n, bytes, crc);
  }
  if (status == OK && (fflush(stream) || fsync(fileno(stream))))
    status = fail(E_IO, "cannot be written: %s", strerror(errno));
  if (stream && fclose(stream) && status == OK)
    status = fail(E_IO, "cannot be written: %s", strerror(errno));
  if (status != OK)
    status_context("%s: ", path);
  return status;
}

/* This rank's files. */
static Status write_own(CheckpointWriter *w, double part[PART_NUMBERS]) {
  int first = 0;
  for (TensorKind kind = 0; kind < TENSOR_KINDS; kind++) {
    int n = 0;
    size_t bytes = 0;
    uint32_t crc = 0;
    while (first + n < w->n_own && w->own[first + n].kind == kind)
      n++;
    if (n)
      TRY(write_file(w, tensors_file_name(kind, w->rank, w->ranks, (char[SHARD_NAME]){0}), NULL, w->arrays + first, n,
                     &bytes, &crc));
    part[PART_BYTES + kind] = (double)bytes;
    part[PART_CRC32 + kind] = crc;
    first += n;
  }
  return OK;
}

/* What a rank leaves beside its files, and rank 0 finds where it hears of it in no other way. */
static Status part_path(const CheckpointWriter *w, int rank, char path[FOLDER_PATH]) {
  char name[SHARD_NAME];
  snprintf(name, sizeof name, "rank-%05d", rank);
  return folder_aside_file(w->folder, w->step, name, path);
}

static Status leave_part(const CheckpointWriter *w, const double part[PART_NUMBERS]) {
  char path[FOLDER_PATH];
  TRY(part_path(w, w->rank, path));
  FILE *stream = fopen(path, "we");
  bool failed = !stream;
  for (int i = PART_BYTES; i < PART_NUMBERS && stream; i++)
    failed |= fprintf(stream, "%.0f%c", part[i], i + 1 < PART_NUMBERS ? ' ' : '\n') < 0;
  if (stream)
    failed |= fclose(stream) != 0;
  return failed ? fail(E_IO, "%s: cannot be written: %s", path, strerror(errno)) : OK;
}

static bool find_part(const CheckpointWriter *w, int rank, double part[PART_NUMBERS]) {
  char path[FOLDER_PATH], end = 0;
  FILE *stream = part_path(w, rank, path) == OK ? fopen(path, "re") : NULL;
  bool whole = stream;
  for (int i = PART_BYTES; i < PART_NUMBERS && whole; i++)
    whole = fscanf(stream, "%lf%c", &part[i], &end) == 2;
  if (stream)
    fclose(stream);
  return whole && end == '\n';
}

static void list_file(Text *files, const char *name, size_t bytes, uint32_t crc) {
  text_add(files, "%s\n  {\"name\": \"%s\", \"bytes\": %zu, \"crc32\": \"%08x\"}", files->length ? "," : "", name,
           bytes, (unsigned)crc);
}

/* "1.5", or null: JSON has neither NaN nor infinity. */
static void add_number(Text *text, const char *name, double value) {
  text_add(text, isfinite(value) ? ", \"%s\": %.17g" : ", \"%s\": null", name, value);
}

static void add_validation(Text *text, const CheckpointValidation *v) {
  if (!v->step)
    return;
  text_add(text, "\n\"validation\": {\"step\": %lld, \"best_step\": %lld, \"stalled\": %lld", (long long)v->step,
           (long long)v->best_step, (long long)v->stalled);
  add_number(text, "best_loss", v->best_loss);
  add_number(text, "reference_loss", v->reference_loss);
  text_add(text, "},");
}

/* What says what the checkpoint is, and of which files. */
static Status write_about(const CheckpointWriter *w, const Text *files) {
  Text rest = {0}, whole = {0};
  size_t bytes;
  uint32_t crc;
  text_add(&rest, "\"step\": %lld,", (long long)w->step);
  add_validation(&rest, &w->validation);
  text_add(&rest, "%s,\n\"files\": [%s]}\n", w->about, files->data ? files->data : "");
  Status status = files->failed || !text_whole(&rest) ? fail(E_MEMORY, "out of memory") : OK;
  if (status == OK) {
    text_add(&whole, "{\"crc32\": \"%08lx\",\n%s", crc32_z(0, (const Bytef *)rest.data, rest.length), rest.data);
    status = text_whole(&whole) ? write_file(w, "checkpoint.json", whole.data, NULL, 0, &bytes, &crc) : status_code();
  }
  text_free(&rest);
  text_free(&whole);
  return status;
}

/* Rank 0, when all parts are here. */
static Status commit(CheckpointWriter *w) {
  Text files = {0};
  Status status = OK;
  for (TensorKind kind = 0; kind < TENSOR_KINDS && status == OK; kind++) {
    char name[SHARD_NAME];
    size_t bytes;
    uint32_t crc;
    for (int r = 0; r < w->ranks; r++) {
      const double *part = part_of(w, r);
      if (part[PART_BYTES + kind] > 0)
        list_file(&files, tensors_file_name(kind, r, w->ranks, name), (size_t)part[PART_BYTES + kind],
                  (uint32_t)part[PART_CRC32 + kind]);
    }
    snprintf(name, sizeof name, "%s.safetensors.index.json", checkpoint_kinds[kind]);
    status = write_file(w, name, w->index[kind], NULL, 0, &bytes, &crc);
    if (status == OK)
      list_file(&files, name, bytes, crc);
  }
  if (status == OK)
    status = write_about(w, &files);
  text_free(&files);
  TRY(status);
  for (int r = 1; r < w->ranks && w->apart; r++) {
    char path[FOLDER_PATH];
    if (part_path(w, r, path) == OK)
      unlink(path);
  }
  TRY(folder_commit(w->folder, w->step));
  if ((w->validation.is_best && folder_mark_best(w->folder, w->step) != OK) || folder_keep(w->folder, w->keep) != OK)
    snprintf(w->note, sizeof w->note, "%s", status_message());
  return OK;
}

/* Seconds for ranks that are about to end, too. */
static const double FINISH_SECONDS = 2;

/* Under the lock: looks for what others left, for a while. */
static void find_parts(CheckpointWriter *w) {
  double until = clock_seconds() + FINISH_SECONDS;
  for (int r = 1; r < w->ranks && w->apart; r++) {
    double *part = part_of(w, r);
    while (part[PART_STEP] < 0) {
      if (find_part(w, r, part))
        part[PART_STEP] = (double)w->step;
      else if (clock_seconds() > until)
        return;
      else
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
  }
}

/* Until every rank's part is here: OK where all could write. */
static Status await_parts(CheckpointWriter *w) {
  Status status = OK;
  pthread_mutex_lock(&w->lock);
  for (int r = 1; r < w->ranks; r++)
    while (part_of(w, r)[PART_STEP] < 0 && !w->stop)
      pthread_cond_wait(&w->changed, &w->lock);
  if (w->stop)
    find_parts(w);
  for (int r = 1; r < w->ranks; r++) {
    const double *part = part_of(w, r);
    if (part[PART_STEP] < 0)
      status = fail(E_COMM, "the run ended before rank %d had written its part", r);
    else if (part[PART_BYTES] < 0)
      status = fail(E_IO, "rank %d could not write its part", r);
  }
  pthread_mutex_unlock(&w->lock);
  return status;
}

static void keep_failure(CheckpointWriter *w, Status status) {
  w->status = status;
  if (status != OK)
    snprintf(w->message, sizeof w->message, "%s", status_message());
}

/* This rank's part is as it is now, for whoever asks. */
static void publish(CheckpointWriter *w, const double part[PART_NUMBERS], Status status) {
  pthread_mutex_lock(&w->lock);
  keep_failure(w, status);
  memcpy(part_of(w, w->rank), part, PART_NUMBERS * sizeof *part);
  part_of(w, w->rank)[PART_STEP] = (double)w->step;
  if (status != OK)
    part_of(w, w->rank)[PART_BYTES] = -1;
  pthread_mutex_unlock(&w->lock);
}

static void *writer_main(void *argument) {
  CheckpointWriter *w = argument;
  double part[PART_NUMBERS] = {0};
  Status status = write_own(w, part), others = OK;
  if (status == OK && w->rank && w->apart)
    status = leave_part(w, part);
  publish(w, part, status);
  if (w->rank)
    return NULL;
  others = await_parts(w);
  if (status == OK)
    keep_failure(w, others == OK ? commit(w) : others);
  if (w->status != OK)
    folder_abandon(w->folder, w->step);
  return NULL;
}

Status writer_prepare(CheckpointWriter *w, int64_t step) {
  return folder_begin(w->folder, step, w->all_bytes);
}

static Status copy_own(CheckpointWriter *w) {
  if (!w->copy && !(w->copy = malloc(w->copy_bytes + 1)))
    return fail(E_MEMORY, "out of memory: %zu bytes for a copy of what is written", w->copy_bytes);
  char *at = w->copy;
  for (int i = 0; i < w->n_own; i++) {
    const KeptTensor *t = &w->own[i];
    if (t->contents)
      memcpy(at, t->contents, t->bytes);
    else
      TRY(store_read_state(w->store, t->initializer, t->state, at, t->bytes));
    w->arrays[i] = (Array){t->name, t->dtype, t->shape, at};
    at += (t->bytes + 63) / 64 * 64;
  }
  return OK;
}

void writer_begin(CheckpointWriter *w, int64_t step, bool failed, const CheckpointValidation *validation) {
  const double none[PART_NUMBERS] = {0};
  w->step = step;
  *w->note = '\0';
  w->validation = *validation;
  for (int r = 0; r < w->ranks; r++)
    part_of(w, r)[PART_STEP] = -1;
  Status status = failed ? status_code() : copy_own(w);
  if (status == OK) {
    w->status = OK;
    int error = pthread_create(&w->thread, NULL, writer_main, w);
    w->running = error == 0;
    if (error)
      status = fail(E_MEMORY, "no thread to write with: %s", strerror(error));
  }
  if (status != OK)
    publish(w, none, status);
}

void writer_part(CheckpointWriter *w, double part[PART_NUMBERS]) {
  pthread_mutex_lock(&w->lock);
  memcpy(part, part_of(w, w->rank), PART_NUMBERS * sizeof *part);
  pthread_mutex_unlock(&w->lock);
}

void writer_take(CheckpointWriter *w, int rank, const double part[PART_NUMBERS]) {
  pthread_mutex_lock(&w->lock);
  double *into = part_of(w, rank);
  if (part[PART_STEP] == (double)w->step && into[PART_STEP] < 0) {
    memcpy(into, part, PART_NUMBERS * sizeof *part);
    pthread_cond_broadcast(&w->changed);
  }
  pthread_mutex_unlock(&w->lock);
}

Status writer_wait(CheckpointWriter *w) {
  if (w->running)
    pthread_join(w->thread, NULL);
  w->running = false;
  return w->status == OK ? OK : status_adopt(w->status, w->message);
}

Status writer_finish(CheckpointWriter *w) {
  stop(w);
  return writer_wait(w);
}

const char *writer_note(const CheckpointWriter *w) {
  return w->note;
}
