/* From a checkpoint to a model. Invariant: every tensor of the checkpoint goes into the file, or none does. */
#include "runtime/export.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint/resume.h"
#include "runtime/data/safetensors.h"

static bool ends_in(const char *path, const char *end) {
  size_t n = strlen(path), m = strlen(end);
  return n > m && strcmp(path + n - m, end) == 0;
}

typedef struct {
  const Checkpoint *checkpoint;
  const Model *model;
} Export;

static Status contents(void *context, int initializer, void *data, size_t bytes) {
  const Export *e = context;
  const Initializer *this = &model_initializers(e->model, &(int){0})[initializer];
  const Array *array = checkpoint_tensor(e->checkpoint, TENSOR_MODEL, this->name);
  if (!array) /* nothing in the graph that was trained uses it */
    return model_read_initializer(e->model, initializer, data, bytes);
  size_t has = (size_t)shape_elements(array->shape) * dtype_bytes(array->dtype);
  if (array->dtype != this->dtype || has != bytes)
    return fail(E_MODEL, "%s: tensor '%s' is %s %s, the model has %s %s", e->checkpoint->path, this->name,
                dtype_name(array->dtype), SHAPE_STR(array->shape), dtype_name(this->dtype), SHAPE_STR(this->shape));
  if (bytes)
    memcpy(data, array->data, bytes);
  return OK;
}

/* The model takes every tensor of the checkpoint; *also [initializers]: those that do not train. */
static Status check_names(const Checkpoint *c, const Model *model, bool **also) {
  int n;
  const Initializer *table = model_initializers(model, &n);
  TRY(ARENA_NEW(c->arena, *also, n));
  for (size_t t = 0; t < c->n_tensors[TENSOR_MODEL]; t++) {
    const char *name = c->tensors[TENSOR_MODEL][t]->name;
    int i = 0;
    while (i < n && (table[i].tied_to >= 0 || strcmp(table[i].name, name) != 0))
      i++;
    if (i == n)
      return fail(E_MODEL, "%s: the model has no '%s'", c->path, name);
    (*also)[i] = true;
  }
  return OK;
}

static Status export_model(const Checkpoint *c, const char *path, const Options *given) {
  Options *completed;
  Model *model = NULL;
  bool *also;
  const char *from = path ? path : c->model_path;
  if (!*from)
    return fail(E_USAGE, "%s does not say where its model lies: give it behind the checkpoint", c->path);
  TRY(resume_options(given, c, true, &completed));
  TrainOptions train = job_train_options(completed);
  Status status = model_open(from, &train, &model);
  if (status != OK && !path)
    status_context("the model of %s: ", c->path);
  if (status == OK && strcmp(model_hash(model), c->model_hash) != 0)
    status = fail(E_USAGE, "%s (hash %s) is not the model of %s, which was %s (hash %s)", from, model_hash(model),
                  c->path, c->model_path, c->model_hash);
  if (status == OK)
    status = check_names(c, model, &also);
  if (status == OK)
    status = model_save(model, given->output_model, also, contents, &(Export){c, model});
  if (model)
    model_close(model);
  options_destroy(completed);
  return status;
}

/* The tensors alone. */
static Status export_arrays(const Checkpoint *c, const char *path) {
  size_t n = c->n_tensors[TENSOR_MODEL];
  Array *arrays;
  TRY(ARENA_NEW(c->arena, arrays, n));
  for (size_t i = 0; i < n; i++)
    arrays[i] = *c->tensors[TENSOR_MODEL][i];
  return ends_in(path, ".npz") ? array_file_write(path, arrays, (int)n) : safetensors_file_write(path, arrays, (int)n);
}

static Status export_to(const Checkpoint *c, const char *model, const Options *o) {
  const char *path = o->output_model;
  bool is_model = ends_in(path, ".onnx");
  if (!is_model && !ends_in(path, ".npz") && !ends_in(path, ".safetensors"))
    return fail(E_USAGE, "-o %s: ends in none of .onnx, .safetensors, .npz", path);
  return is_model ? export_model(c, model, o) : export_arrays(c, path);
}

static Status run(Arena *arena, const char *path, const char *model, const Options *o, FILE *out) {
  Checkpoint c;
  Text said = {0};
  Status status = checkpoint_find(arena, path, true, &said, &c);
  if (status == OK) {
    status = checkpoint_map(&c);
    if (status == OK)
      status = export_to(&c, model, o);
    if (status == OK)
      status = checkpoint_unchanged(&c);
  }
  if (status == OK && !o->quiet) {
    if (said.data)
      fprintf(out, "passed over: %s", said.data);
    if (fprintf(out, "step %lld of %s: %s\n", (long long)c.step, c.path, o->output_model) < 0)
      status = fail(E_IO, "standard output cannot be written");
  }
  text_free(&said);
  checkpoint_close(&c);
  return status;
}

Status export_run(const char *checkpoint, const char *model, const Options *o, FILE *out) {
  if (!o->output_model)
    return fail(E_USAGE, "where to? give -o FILE.onnx, FILE.safetensors or FILE.npz");
  Arena *arena = arena_create();
  Status status = arena ? run(arena, checkpoint, model, o, out) : status_code();
  arena_destroy(arena);
  return status;
}
