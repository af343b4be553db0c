/* Rows that stay as they are: --freeze-row TENSOR=ROW. Invariant: what is frozen is noted once, with its contents,
 * before anything trains, so that saving need not read the file again. */
#include <stdlib.h>
#include <string.h>

#include "onnx/file/internal.h"

static Status parse(const Model *model, const char *text, int *initializer, int64_t *row) {
  const char *equals = strrchr(text, '=');
  char *end = NULL, *name;
  *row = equals ? strtoll(equals + 1, &end, 10) : -1;
  if (!equals || end == equals + 1 || *end || *row < 0)
    return fail(E_USAGE, "--freeze-row: '%s' is not TENSOR=ROW with a row from 0", text);
  if (!(name = arena_format(model->arena, "%.*s", (int)(equals - text), text)))
    return status_code();
  *initializer = model_find_initializer(model, name);
  return *initializer >= 0 ? OK
                           : fail(E_USAGE, "--freeze-row '%s': %s has no initializer '%s'", text, model->path, name);
}

static Status read_row(const Model *model, FrozenRow *frozen) {
  const Initializer *what = &model->initializers[frozen->initializer];
  size_t all;
  TRY(shape_bytes(what->shape, what->dtype, &all));
  frozen->bytes = all / (size_t)what->shape.dim[0];
  char *contents = arena_alloc(model->arena, frozen->bytes, 1), *whole = malloc(all ? all : 1);
  if (!contents || !whole) {
    free(whole);
    return contents ? fail(E_MEMORY, "out of memory: %zu bytes", all) : status_code();
  }
  Status status = initializer_read(model, frozen->initializer, whole);
  if (status == OK)
    memcpy(contents, whole + (size_t)frozen->row * frozen->bytes, frozen->bytes);
  else if (status == E_IO) /* a plan needs no weights */
    memset(contents, 0, frozen->bytes);
  free(whole);
  frozen->contents = contents;
  return status == E_IO ? OK : status;
}

static Status take(Model *model, const char *text) {
  FrozenRow frozen = {0};
  TRY(parse(model, text, &frozen.initializer, &frozen.row));
  const Initializer *what = &model->initializers[frozen.initializer];
  if (!what->trains)
    return fail(E_USAGE, "--freeze-row '%s': '%s' does not train anyway", text, what->name);
  if (what->tied_transposed || what->copies)
    return fail(E_USAGE, "--freeze-row '%s': '%s' is %s%s, whose rows are others", text, what->name,
                what->copies ? "repeated" : "the transpose of ",
                what->copies ? "" : model->initializers[what->tied_to].name);
  if (what->tied_to >= 0)
    frozen.initializer = what->tied_to;
  if (!what->shape.rank || frozen.row >= what->shape.dim[0])
    return fail(E_USAGE, "--freeze-row '%s': '%s' is %s, row %lld is outside", text, what->name, SHAPE_STR(what->shape),
                (long long)frozen.row);
  for (int k = 0; k < model->n_frozen_rows; k++)
    if (model->frozen_rows[k].initializer == frozen.initializer && model->frozen_rows[k].row == frozen.row)
      return OK;
  TRY(read_row(model, &frozen));
  model->frozen_rows[model->n_frozen_rows++] = frozen;
  return OK;
}

Status frozen_rows_take(Model *model, const TrainOptions *options) {
  if (!options || !options->n_freeze_row)
    return OK;
  TRY(ARENA_NEW(model->arena, model->frozen_rows, options->n_freeze_row));
  for (int i = 0; i < options->n_freeze_row; i++)
    TRY(take(model, options->freeze_row[i]));
  return OK;
}

const FrozenRow *model_frozen_rows(const Model *model, int *count) {
  *count = model->n_frozen_rows;
  return model->frozen_rows;
}
