/* Opening an ONNX file, step by step. Invariant: a Model that model_open returns has passed every check that needs no
 * operator knowledge; everything of it lives in its arena, its mapping and `proto`. */
#include "onnx/model.h"

#include "onnx/file/internal.h"

static Status open_checked(Model *model, const TrainOptions *options) {
  TRY(model_map(model));
  TRY(model_unpack(model));
  TRY(model_list_initializers(model));
  TRY(model_check(model));
  TRY(model_list_ends(model, options));
  TRY(model_take_hash(model));
  TRY(train_rules_apply(model, options));
  TRY(copies_find(model));
  if (!options || !options->no_tie)
    TRY(ties_find(model));
  TRY(frozen_rows_take(model, options));
  return model_sound(model);
}

Status model_open(const char *path, const TrainOptions *options, Model **out) {
  Arena *arena = arena_create();
  Model *model = arena ? arena_alloc(arena, 1, sizeof *model) : NULL;
  *out = NULL;
  if (!model) {
    arena_destroy(arena);
    return status_code();
  }
  model->arena = arena;
  model->descriptor = -1;
  model->path = arena_string(arena, path);
  Status status = model->path ? open_checked(model, options) : status_code();
  if (status != OK) {
    if (status != E_USAGE)
      status_context("%s: ", path);
    model_close(model);
    return status;
  }
  *out = model;
  return OK;
}

void model_close(Model *model) {
  if (!model)
    return;
  model_bound(model);
  if (model->bodies)
    onnx__model_proto__free_unpacked(model->bodies, NULL);
  model_unmap(model);
  arena_destroy(model->arena);
}
