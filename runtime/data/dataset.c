/* Data files against models. Invariant: after dataset_open every read that a run makes is within its array. */
#include "runtime/data/dataset.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/nearest.h"
#include "graph/narrow.h"

/* "x, y and z", as far as text holds it. */
static const char *list_names(const char *const *names, int n, char *text, size_t room) {
  size_t at = 0;
  text[0] = '\0';
  for (int i = 0; i < n && at < room; i++) {
    const char *before = i == 0 ? "" : i + 1 == n ? " and " : ", ";
    int wrote = snprintf(text + at, room - at, "%s'%s'", before, names[i]);
    at += wrote > 0 ? (size_t)wrote : 0;
  }
  return text;
}

/* The names of a shard's arrays, 64 at most. */
static int shard_names(const Shard *shard, const char *names[64]) {
  int n = 0;
  for (int f = 0; f < shard->n_files; f++)
    for (int i = 0; i < shard->files[f].n_arrays && n < 64; i++)
      names[n++] = shard->files[f].arrays[i].name;
  return n;
}

static const char *array_names(const Shard *shard, char *text, size_t room) {
  const char *names[64];
  return list_names(names, shard_names(shard, names), text, room);
}

/* The array that is nearest to a name and no other input's, for a message. */
static const char *array_hint(const Shard *shard, const ModelInput *inputs, int n_inputs, const char *name,
                              char text[NEAREST_BYTES]) {
  const char *all[64], *names[64];
  int there = shard_names(shard, all), n = 0;
  for (int i = 0; i < there; i++) {
    bool taken = false;
    for (int k = 0; k < n_inputs; k++)
      taken |= strcmp(inputs[k].name, all[i]) == 0;
    if (!taken)
      names[n++] = all[i];
  }
  return nearest_hint(name, names, n, text);
}

static const char *input_names(const ModelInput *inputs, int n_inputs, char *text, size_t room) {
  const char *names[64];
  int n = n_inputs < 64 ? n_inputs : 64;
  for (int i = 0; i < n; i++)
    names[i] = inputs[i].name;
  return list_names(names, n, text, room);
}

/* "[N,32]" of a model input. */
static const char *input_shape(const ModelInput *input, char *text, size_t room) {
  size_t at = (size_t)snprintf(text, room, "[");
  for (int i = 0; i < input->rank && at + 2 < room; i++) {
    int wrote = input->dim[i] >= 0 ? snprintf(text + at, room - at, "%s%lld", i ? "," : "", (long long)input->dim[i])
                                   : snprintf(text + at, room - at, "%s%s", i ? "," : "",
                                              input->dim_name[i] ? input->dim_name[i] : "?");
    at += wrote > 0 ? (size_t)wrote : 0;
  }
  if (at + 2 < room)
    snprintf(text + at, room - at, "]");
  return text;
}

static bool converts(DType from, DType to) {
  bool floats = dtype_is_float(from) && (to == F32 || to == F64);
  bool integers = !dtype_is_float(from) && !dtype_is_float(to) && from != BOOL && to != BOOL;
  return from == to || floats || integers;
}

/* NumPy has no such type: the bits of its numbers stand as integers. */
static bool is_bits(const ModelInput *input, const Array *array) {
  return (input->stored == BF16 && array->dtype == U16) ||
         (dtype_is_narrow(input->stored) && dtype_bytes(input->stored) == 1 && array->dtype == U8);
}

static Status check_input(const ModelInput *input, const Array *array, int *axis) {
  char shape[256];
  if (!converts(array->dtype, input->dtype) && !is_bits(input, array))
    return fail(E_SHAPE, "array '%s' is %s, the model's input '%s' %s", array->name, dtype_name(array->dtype),
                input->name, dtype_name(input->stored));
  *axis = input->batch_axis;
  if (input->rank < 0) {
    *axis = array->shape.rank > *axis ? *axis : -1;
    return OK;
  }
  bool fits = array->shape.rank == input->rank;
  for (int i = 0; fits && i < input->rank; i++)
    fits = i == *axis || input->dim[i] < 0 || input->dim[i] == array->shape.dim[i];
  if (!fits)
    return fail(E_SHAPE, "array '%s' is %s, the model's input '%s' %s", array->name, SHAPE_STR(array->shape),
                input->name, input_shape(input, shape, sizeof shape));
  return OK;
}

/* Takes the sizes of symbolic dimensions from the array; two arrays must not differ. */
static Status bind_dims(Dataset *data, const ModelInput *input, const Array *array, int axis) {
  for (int i = 0; i < input->rank; i++) {
    const char *name = input->dim_name[i];
    if (input->dim[i] >= 0 || !name || i == axis)
      continue;
    if (!*name && !(name = arena_format(data->source.arena, "%s.%d", input->name, i)))
      return status_code();
    int k = 0;
    while (k < data->n_dims && strcmp(data->dims[k].name, name) != 0)
      k++;
    if (k < data->n_dims && data->dims[k].value != array->shape.dim[i])
      return fail(E_SHAPE, "dimension '%s' is %lld in array '%s' and %lld in another", name,
                  (long long)array->shape.dim[i], array->name, (long long)data->dims[k].value);
    if (k == data->n_dims)
      data->dims[data->n_dims++] = (DimBinding){.name = name, .value = array->shape.dim[i]};
  }
  return OK;
}

/* Every array of a shard that counts samples counts the same number; *first: the one that was looked at first. */
static Status check_length(const Array *array, int axis, const Array **first, int64_t *samples) {
  if (array->shape.rank <= axis)
    return fail(E_SHAPE, "array '%s' %s has no axis %d that counts samples", array->name, SHAPE_STR(array->shape),
                axis);
  int64_t n = array->shape.dim[axis];
  if (!*first) {
    *first = array;
    *samples = n;
    return n ? OK : fail(E_SHAPE, "array '%s' has no samples: it is %s", array->name, SHAPE_STR(array->shape));
  }
  if (n != *samples)
    return fail(E_SHAPE, "array '%s' has %lld samples, array '%s' %lld", array->name, (long long)n, (*first)->name,
                (long long)*samples);
  return OK;
}

/* An array of a later shard is of the first one's type and, samples apart, shape; what is given once, the same. */
static Status check_alike(const Column *column, const Array *array, const char *path) {
  const Array *first = &column->pieces[0].array;
  Shape shape = array->shape;
  size_t bytes;
  if (column->axis >= 0 && column->axis < shape.rank)
    shape.dim[column->axis] = first->shape.dim[column->axis];
  if (array->dtype != first->dtype || !shape_equal(shape, first->shape))
    return fail(E_SHAPE, "array '%s' is %s %s, that of %s %s %s", array->name, dtype_name(array->dtype),
                SHAPE_STR(array->shape), path, dtype_name(first->dtype), SHAPE_STR(first->shape));
  if (column->axis >= 0)
    return OK;
  TRY(shape_bytes(shape, array->dtype, &bytes));
  return !bytes || memcmp(array->data, first->data, bytes) == 0
             ? OK
             : fail(E_SHAPE, "array '%s' is given once for all samples, and differs from that of %s", array->name,
                    path);
}

/* Adds a shard's array, whose samples follow those that are there. */
static Status add_piece(Column *column, const Array *array, const ArrayFile *file, const Source *source) {
  if (column->n_pieces) {
    TRY(check_alike(column, array, source->shards[0].path));
    if (column->axis < 0)
      return OK;
    column->pieces[column->n_pieces++] = (Piece){*array, file, column->shape.dim[column->axis]};
    if (!checked_add_i64(column->shape.dim[column->axis], array->shape.dim[column->axis],
                         &column->shape.dim[column->axis]))
      return fail(E_SHAPE, "array '%s': the number of samples overflows", array->name);
    return OK;
  }
  TRY(ARENA_NEW(source->arena, column->pieces, source->n_shards));
  column->name = array->name;
  column->dtype = array->dtype;
  column->shape = array->shape;
  column->repeats = file->repeats && file->repeats[array - file->arrays];
  column->pieces[column->n_pieces++] = (Piece){*array, file, 0};
  return OK;
}

/* The arrays of one shard, added to the columns of the inputs and, behind them, of the target. */
static Status add_shard(Dataset *data, const ModelInput *inputs, Column *columns, const Shard *shard) {
  char hint[NEAREST_BYTES], has[1024];
  bool begins = shard == data->source.shards;
  const Array *first = NULL;
  const ArrayFile *file;
  int64_t samples = 1; /* of nothing there are many: all that there is counts as one sample */
  for (int i = 0; i < data->n_inputs; i++) {
    const Array *array = shard_find(shard, inputs[i].name, &file);
    if (!array)
      return fail(E_SHAPE, "no array for the model's input '%s': the file has %s%s", inputs[i].name,
                  array_names(shard, has, sizeof has), array_hint(shard, inputs, data->n_inputs, inputs[i].name, hint));
    if (begins) {
      TRY(check_input(&inputs[i], array, &columns[i].axis));
      TRY(bind_dims(data, &inputs[i], array, columns[i].axis));
    }
    if (columns[i].axis >= 0)
      TRY(check_length(array, columns[i].axis, &first, &samples));
    TRY(add_piece(&columns[i], array, file, &data->source));
  }
  Column *target = &columns[data->n_inputs];
  const Array *array = shard_find(shard, "target", &file);
  for (int i = 0; i < data->n_inputs; i++)
    if (strcmp(inputs[i].name, "target") == 0)
      array = NULL; /* an input of that name */
  if (!begins && !array != !data->target)
    return fail(E_SHAPE, "%s array 'target', which %s has%s", array ? "has an" : "no", data->source.shards[0].path,
                array ? " not" : "");
  if (array)
    TRY(check_length(array, target->axis, &first, &samples));
  if (array && array->dtype == BOOL)
    return fail(E_SHAPE, "array 'target' is bool: save it as float32, or as int64 where it numbers classes");
  if (array)
    TRY(add_piece(target, array, file, &data->source));
  data->target = array ? target : NULL;
  data->samples = begins || !first ? samples : data->samples + samples;
  return OK;
}

/* Every array of the shard is for something. */
static Status refuse_unknown(const Dataset *data, const ModelInput *inputs, const Shard *shard) {
  char takes[1024];
  for (int f = 0; f < shard->n_files; f++)
    for (int i = 0; i < shard->files[f].n_arrays; i++) {
      const char *name = shard->files[f].arrays[i].name;
      bool known = strcmp(name, "target") == 0;
      for (int k = 0; k < data->n_inputs; k++)
        known |= strcmp(name, inputs[k].name) == 0;
      if (!known)
        return fail(E_SHAPE, "array '%s' is neither 'target' nor an input of the model, which takes %s", name,
                    input_names(inputs, data->n_inputs, takes, sizeof takes));
    }
  return OK;
}

static Status check_arrays(Dataset *data, const ModelInput *inputs, int target_axis) {
  Column *columns;
  int n_dims = 0;
  for (int i = 0; i < data->n_inputs; i++)
    n_dims += inputs[i].rank > 0 ? inputs[i].rank : 0;
  TRY(ARENA_NEW(data->source.arena, columns, data->n_inputs + 1));
  TRY(ARENA_NEW(data->source.arena, data->dims, n_dims));
  data->columns = columns;
  columns[data->n_inputs].axis = target_axis;
  for (int s = 0; s < data->source.n_shards; s++) {
    const Shard *shard = &data->source.shards[s];
    Status status = add_shard(data, inputs, columns, shard);
    if (status == OK)
      status = refuse_unknown(data, inputs, shard);
    if (status != OK) {
      status_context("%s: ", shard->path);
      return status;
    }
  }
  for (int i = 0; i < data->n_inputs; i++)
    if (is_bits(&inputs[i], &columns[i].pieces[0].array)) {
      columns[i].dtype = inputs[i].stored;
      for (int k = 0; k < columns[i].n_pieces; k++)
        columns[i].pieces[k].array.dtype = inputs[i].stored;
    }
  return OK;
}

/* Of what its source has open. */
static Status check(const Model *model, int target_axis, Dataset *data) {
  data->path = data->source.path;
  const ModelInput *inputs = model_inputs(model, &data->n_inputs);
  Status status = check_arrays(data, inputs, target_axis);
  if (status != OK)
    dataset_close(data);
  return status;
}

Status dataset_open(const char *path, const Model *model, int target_axis, Dataset *data) {
  *data = (Dataset){0};
  TRY(source_open(path, &data->source));
  return check(model, target_axis, data);
}

Status dataset_open_tokens(const TokenSpec *spec, const Model *model, Dataset *data) {
  *data = (Dataset){0};
  TRY(tokens_open(spec, model, &data->source));
  return check(model, 0, data);
}

static Column view_column(const Column *whole, int64_t first, int64_t samples) {
  Column column = *whole;
  column.begin += first;
  column.shape = column_shape(whole, samples);
  return column;
}

Status dataset_view(const Dataset *data, int64_t first, int64_t samples, Arena *arena, Dataset *view) {
  Column *columns;
  TRY(ARENA_NEW(arena, columns, data->n_inputs + 1));
  for (int i = 0; i < data->n_inputs; i++)
    columns[i] = view_column(&data->columns[i], first, samples);
  if (data->target)
    columns[data->n_inputs] = view_column(data->target, first, samples);
  *view = *data;
  view->source = (Source){0};
  view->samples = samples;
  view->columns = columns;
  view->target = data->target ? &columns[data->n_inputs] : NULL;
  return OK;
}

Status dataset_split(Dataset *data, int64_t samples, Dataset *rest) {
  Dataset part;
  int64_t first = data->samples - samples;
  TRY(dataset_view(data, first, samples, data->source.arena, rest));
  TRY(dataset_view(data, 0, first, data->source.arena, &part));
  part.source = data->source;
  *data = part;
  return OK;
}

Status dataset_need_target(const Dataset *data) {
  const char *names[64];
  char has[1024];
  int n = data->n_inputs < 64 ? data->n_inputs : 64;
  for (int i = 0; i < n; i++)
    names[i] = data->columns[i].name;
  return data->target ? OK
                      : fail(E_SHAPE, "%s: no array 'target': the file has %s", data->path,
                             list_names(names, n, has, sizeof has));
}

void dataset_settle(Dataset *data) {
  source_settle(&data->source);
}

Status dataset_unchanged(const Dataset *data) {
  return source_unchanged(&data->source);
}

void dataset_close(Dataset *data) {
  source_close(&data->source);
  *data = (Dataset){0};
}

const Column *dataset_column(const Feeder *feeder, ValueId input) {
  int n;
  const ModelInput *inputs = model_inputs(feeder->model, &n);
  if (input == feeder->graph->target && feeder->data->target)
    return feeder->data->target;
  for (int i = 0; i < n; i++)
    if (strcmp(inputs[i].name, graph_value(feeder->graph, input)->name) == 0)
      return &feeder->data->columns[i];
  return NULL;
}

Status dataset_feed(void *context, ValueId input, int microbatch, void *data, size_t bytes) {
  const Feeder *feeder = context;
  const Value *value = graph_value(feeder->graph, input);
  const Column *column = dataset_column(feeder, input);
  if (!column)
    return fail(E_MODEL, "%s: no array feeds the input '%s'", feeder->data->path, value->name);
  int64_t count = feeder->microbatch_size;
  Shape shape = column_shape(column, count);
  if ((size_t)shape_elements(shape) * dtype_bytes(value->dtype) != bytes)
    return fail(E_SHAPE, "%s: array '%s' gives %s, the graph's input '%s' is %s", feeder->data->path, column->name,
                SHAPE_STR(shape), value->name, SHAPE_STR(value->shape));
  return column_gather(column, feeder->indices + (int64_t)microbatch * count, count, value->dtype, data);
}
