/* Parameters that the exporter expanded over a fixed batch: `token.expand(batch, -1, -1)` is folded into one
 * initializer with a copy for each sample, all of one parameter. Invariant: what is found is so by the exporter's
 * record, by its shape and by its contents. */
#include <string.h>

#include "onnx/file/internal.h"

/* Calls that the dynamo exporter names their results after: "expand", "expand_1". */
static const char *const repeating_calls[] = {"expand", "repeat", "tile", "broadcast_to"};
static const char *const lookups[] = {"embedding"};

static bool is_call(const char *name, const char *const *calls, size_t n) {
  for (size_t i = 0; i < n; i++) {
    size_t length = strlen(calls[i]);
    if (strncmp(name, calls[i], length) == 0 && (!name[length] || name[length] == '_'))
      return true;
  }
  return false;
}

/* Whether the file has `copies` equal parts of an initializer, one after the other, and whether a part is of equal
 * elements. */
static bool has_copies(const Initializer *what, const void *data, int64_t copies, bool *constant) {
  size_t width = dtype_bytes(what->stored);
  int64_t part = shape_elements(what->shape) / copies;
  *constant = true;
  for (int64_t k = 1; k < part && *constant; k++)
    *constant = memcmp(data, (const char *)data + (size_t)k * width, width) == 0;
  for (int64_t k = 1; k < copies; k++)
    if (memcmp(data, (const char *)data + (size_t)(k * part) * width, (size_t)part * width) != 0)
      return false;
  return true;
}

/* Over how many leading axes it is repeated: a call that repeats does so over the samples; a lookup of one row of a
 * table, as a token's kind, over as many axes as it is looked up for. */
static int copied_axes(const Model *model, const Initializer *what, const void *data) {
  bool repeats = is_call(what->name, repeating_calls, sizeof repeating_calls / sizeof *repeating_calls), constant;
  int64_t copies = 1;
  int axes = 0;
  if (repeats)
    return what->shape.dim[0] == model->fixed_batch && model->fixed_batch > 1 &&
           has_copies(what, data, what->shape.dim[0], &constant);
  for (int i = 0; i + 1 < what->shape.rank; i++) {
    copies *= what->shape.dim[i];
    if (has_copies(what, data, copies, &constant) && !constant && copies > 1)
      axes = i + 1;
  }
  return axes;
}

Status copies_find(Model *model) {
  for (int i = 0; i < model->n_initializers; i++) {
    Initializer *what = &model->initializers[i];
    TensorView view;
    if (!what->trains || strcmp(what->rule, "1f") != 0 || what->shape.rank < 2 || shape_elements(what->shape) < 2 ||
        !(is_call(what->name, repeating_calls, sizeof repeating_calls / sizeof *repeating_calls) ||
          is_call(what->name, lookups, sizeof lookups / sizeof *lookups)))
      continue;
    Status status = tensor_map(model, &model->sources[i], &view);
    if (status == E_IO) /* the weights are not there */
      continue;
    TRY(status);
    int axes = view.data ? copied_axes(model, what, view.data) : 0;
    tensor_unmap(&view);
    what->file_shape = what->shape;
    for (int k = 0; k < axes; k++) {
      what->copies = (what->copies ? what->copies : 1) * what->shape.dim[k];
      what->shape.dim[k] = 1;
    }
  }
  return OK;
}
