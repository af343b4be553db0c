/* Reading the whole file, changing it, writing another. */
#include "onnx/rewrite/rewrite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "onnx/file/beside.h"
#include "onnx/model.h"

static void *take(void *arena, size_t bytes) {
  return arena_alloc(arena, bytes, 1);
}

static void keep(void *arena, void *memory) {
  (void)arena, (void)memory;
}

/* All of the file. The scanner has seen it: what fails is memory. */
static Status unpack(Rewrite *r) {
  ProtobufCAllocator allocator = {.alloc = take, .free = keep, .allocator_data = r->arena};
  r->proto = onnx__model_proto__unpack(&allocator, r->model->file_bytes, r->model->file);
  TRY(model_sound(r->model));
  if (!r->proto)
    return fail(E_MEMORY, "cannot be unpacked: out of memory (%zu bytes)", r->model->file_bytes);
  r->graph = r->proto->graph;
  TRY(names_create(r->arena, &r->taken));
  for (size_t i = 0; i < r->graph->n_node; i++) {
    TRY(names_put(&r->taken, proto_text(r->graph->node[i]->name), 1));
    for (size_t k = 0; k < r->graph->node[i]->n_output; k++)
      TRY(names_put(&r->taken, r->graph->node[i]->output[k], 1));
  }
  for (size_t i = 0; i < r->graph->n_initializer; i++)
    TRY(names_put(&r->taken, proto_text(r->graph->initializer[i]->name), 1));
  for (size_t i = 0; i < r->graph->n_input; i++)
    TRY(names_put(&r->taken, proto_text(r->graph->input[i]->name), 1));
  return OK;
}

/* Tensors first, then nodes behind them: each change sees what those before it left. */
static Status change(Rewrite *r) {
  const RewriteOptions *o = r->options;
  if (!o->set_batch && !o->classes && !o->n_dropout && !o->n_unfold && !o->constants_train && !o->logits)
    return fail(E_USAGE, "nothing to edit: give --set-batch, --replace-head, --dropout, --unfold, --constants-train or "
                         "--logits");
  if (o->constants_train)
    TRY(rewrite_constants(r));
  if (o->logits)
    TRY(rewrite_logits(r));
  if (o->classes)
    TRY(rewrite_head(r));
  TRY(rewrite_unfold(r));
  TRY(rewrite_dropout(r));
  return o->set_batch ? rewrite_batch(r) : OK;
}

/* A file of weights to the new model's folder, under the same name. */
static Status copy_beside(Rewrite *r, const char *location, const char *path) {
  char *from = beside_path(r->arena, r->model->path, location), *to = beside_path(r->arena, path, location);
  char block[1 << 16];
  FileReplace file;
  size_t bytes, n;
  int descriptor;
  struct stat info;
  if (!from || !to)
    return status_code();
  if (file_same(from, to))
    return OK;
  if (lstat(to, &info) == 0)
    return fail(E_IO, "%s: is there already, and the model's weights would go there", to);
  TRY(file_open(from, &descriptor, &bytes));
  FILE *source = fdopen(descriptor, "rb");
  Status status = source ? file_replace_begin(to, &file) : fail(E_IO, "%s: %s", from, strerror(errno));
  if (status == OK) {
    while ((n = fread(block, 1, sizeof block, source)) > 0 && fwrite(block, 1, n, file.stream) == n)
      continue;
    if (ferror(source) || ferror(file.stream))
      status = fail(E_IO, "%s: cannot be copied to %s: %s", from, to, strerror(errno));
    if (status == OK)
      status = file_replace_commit(&file);
    else
      file_replace_abandon(&file);
  }
  if (source)
    fclose(source);
  else
    close(descriptor);
  return status;
}

static Status pack(Rewrite *r, uint8_t **data, size_t *bytes) {
  *bytes = onnx__model_proto__get_packed_size(r->proto);
  if (*bytes > INT32_MAX)
    return fail(E_LIMIT,
                "the edited model has %zu bytes, and a file of protobuf at most %d: keep its weights as external data",
                *bytes, INT32_MAX);
  if (!(*data = malloc(*bytes + 1)))
    return fail(E_MEMORY, "out of memory: %zu bytes", *bytes);
  onnx__model_proto__pack(r->proto, *data);
  return OK;
}

/* Dimensions that only the data knows are no fault of the file. */
static Status try_binding(Model *model, const BindOptions *bind) {
  BindOptions options = *bind;
  Arena *arena = arena_create();
  Graph *graph;
  if (!arena)
    return status_code();
  if (!options.batch)
    options.batch = model->fixed_batch ? model->fixed_batch : 2;
  Status status = model_bind(model, &options, arena, &graph);
  arena_destroy(arena);
  return status == E_USAGE ? OK : status;
}

/* Whether what was written aside opens, and binds if the file did before. */
static Status prove(Rewrite *r, const char *aside, const BindOptions *bind, const char *path) {
  Model *model;
  bool bound = try_binding(r->model, bind) == OK;
  Status status = model_open(aside, NULL, &model);
  if (status == OK) {
    model->path = path;
    if (bound)
      status = try_binding(model, bind);
    model_close(model);
  }
  if (status != OK)
    status_context("the edited model would not do: ");
  return status;
}

static Status write_file(Rewrite *r, const BindOptions *bind, const char *path) {
  FileReplace file;
  uint8_t *data;
  size_t bytes;
  TRY(pack(r, &data, &bytes));
  Status status = file_replace_begin(path, &file);
  if (status == OK) {
    bool whole = fwrite(data, 1, bytes, file.stream) == bytes && fflush(file.stream) == 0;
    status = whole ? OK : fail(E_IO, "%s: cannot be written: %s", path, strerror(errno));
    for (int i = 0; i < r->model->n_externals && status == OK; i++)
      status = copy_beside(r, r->model->externals[i].location, path);
    if (status == OK)
      status = prove(r, file.aside, bind, path);
    if (status == OK)
      status = file_replace_commit(&file);
    else
      file_replace_abandon(&file);
  }
  free(data);
  return status;
}

Status model_rewrite(Model *model, const RewriteOptions *options, const BindOptions *bind, const char *path,
                     Text *said) {
  Rewrite r = {.model = model, .options = options, .arena = arena_create(), .said = said};
  if (!r.arena)
    return status_code();
  Status status = unpack(&r);
  if (status == OK)
    status = change(&r);
  if (status != OK && status != E_USAGE)
    status_context("%s: ", model->path);
  if (status == OK)
    status = write_file(&r, bind, path);
  arena_destroy(r.arena);
  return status;
}
