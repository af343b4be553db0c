/* The files that a model is read from, and whether they still are what they were when it was opened. Invariant: nothing
 * is read from a file that is another one by now, and what was read of one that became shorter is not relied on. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "onnx/file/internal.h"

/* A model file of at most so many bytes is copied: whatever becomes of it then, what was trained can be saved. Larger
 * ones hold weights, and would take their memory twice. */
enum { COPIED_BYTES = 4 << 20 };

static Status copy_file(Model *model, size_t bytes) {
  void *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED)
    return fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  model->mapped = (Mapped){.data = copy, .bytes = bytes, .base = copy, .base_bytes = bytes, .guard = -1};
  for (size_t done = 0; done < bytes;) {
    ssize_t got = pread(model->descriptor, (char *)copy + done, bytes - done, (off_t)done);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return fail(E_IO, "cannot be read: %s", got ? strerror(errno) : "the file became shorter");
    done += (size_t)got;
  }
  return file_unchanged(model->descriptor, &model->stamp);
}

Status model_map(Model *model) {
  size_t bytes;
  TRY(file_open(model->path, &model->descriptor, &bytes));
  model->stamp = file_stamp(model->descriptor);
  if (bytes == 0)
    return fail(E_MODEL, "the file is empty");
  model->copied = bytes <= COPIED_BYTES;
  TRY(model->copied ? copy_file(model, bytes) : mapped_open(model->descriptor, 0, bytes, &model->mapped));
  model->file = model->mapped.data;
  model->file_bytes = bytes;
  return OK;
}

void model_unmap(Model *model) {
  if (model->proto)
    onnx__model_proto__free_unpacked(model->proto, NULL);
  mapped_close(&model->mapped);
  if (model->descriptor >= 0)
    close(model->descriptor);
  for (int i = 0; i < model->n_externals; i++)
    if (model->externals[i].kept >= 0)
      close(model->externals[i].kept);
}

External *model_find_external(const Model *model, const char *location) {
  for (int i = 0; i < model->n_externals; i++)
    if (strcmp(model->externals[i].location, location) == 0)
      return &model->externals[i];
  return NULL;
}

Status model_note_external(Model *model, const TensorSource *source) {
  int file;
  if (tensor_open_external(model, source, &file) != OK)
    return OK; /* plans need no weights: whoever reads them says that they are absent */
  FileStamp stamp = file_stamp(file);
  close(file);
  TRY(ARENA_RESERVE(model->arena, model->externals, model->n_externals, model->externals_capacity,
                    model->n_externals + 1));
  model->externals[model->n_externals++] = (External){.location = source->external, .stamp = stamp, .kept = -1};
  return OK;
}

Status model_sound(const Model *model) {
  if (!model->copied)
    TRY(file_unchanged(model->descriptor, &model->stamp));
  return mapped_damaged(&model->mapped) || atomic_load(&((Model *)model)->damaged)
             ? fail(E_IO, "became shorter while it was in use")
             : OK;
}

Status model_unchanged(const Model *model) {
  Status status = model_sound(model);
  for (int i = 0; i < model->n_initializers && status == OK; i++) {
    const TensorSource *source = &model->sources[i];
    int file;
    if (!source->external || !model_find_external(model, source->external))
      continue;
    status = tensor_open_external(model, source, &file);
    if (status == OK)
      close(file);
  }
  if (status != OK)
    status_context("%s: ", model->path);
  return status;
}
