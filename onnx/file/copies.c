/* Parameters that the exporter expanded over a fixed batch: `token.expand(batch, -1, -1)` is folded into one
 * initializer with a copy for each sample, all of one parameter. Invariant: what is found is so by the exporter's
 * record, by its shape and by its contents. */
#include <string.h>

#include "onnx/file/internal.h"

/* Whether its name is that of a call that repeats: the dynamo exporter's, "expand", "expand_1". */
static bool is_repeating_call(const char *name) {
  static const char *const calls[] = {"expand", "repeat", "tile", "broadcast_to"};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    size_t length = strlen(calls[i]);
    if (strncmp(name, calls[i], length) == 0 && (!name[length] || name[length] == '_'))
      return true;
  }
  return false;
}

static Status are_equal(const Model *model, int i, bool *equal) {
  const Initializer *what = &model->initializers[i];
  TensorView view;
  size_t part = initializer_file_bytes(model, i) / (size_t)what->shape.dim[0];
  *equal = false;
  Status status = tensor_map(model, &model->sources[i], &view);
  if (status == E_IO) /* the weights are not there */
    return OK;
  TRY(status);
  *equal = view.data != NULL;
  for (int64_t k = 1; *equal && k < what->shape.dim[0]; k++)
    *equal = memcmp(view.data, (const char *)view.data + (size_t)k * part, part) == 0;
  tensor_unmap(&view);
  return OK;
}

Status copies_find(Model *model) {
  for (int i = 0; i < model->n_initializers && model->fixed_batch > 1; i++) {
    Initializer *what = &model->initializers[i];
    bool equal;
    if (!what->trains || strcmp(what->rule, "1f") != 0 || what->shape.rank < 2 ||
        what->shape.dim[0] != model->fixed_batch || !is_repeating_call(what->name))
      continue;
    TRY(are_equal(model, i, &equal));
    if (!equal)
      continue;
    what->copies = what->shape.dim[0];
    what->shape.dim[0] = 1;
  }
  return OK;
}
