/* Data files against models. Invariant: after dataset_open every read that a run makes is within its array. */
#include "runtime/data/dataset.h"

#include <stdio.h>
#include <string.h>

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

static const char *array_names(const ArrayFile *file, char *text, size_t room) {
  const char *names[64];
  int n = file->n_arrays < 64 ? file->n_arrays : 64;
  for (int i = 0; i < n; i++)
    names[i] = file->arrays[i].name;
  return list_names(names, n, text, room);
}

/* The array that is nearest to a name and no other input's, for a message. */
static const char *array_hint(const ArrayFile *file, const ModelInput *inputs, int n_inputs, const char *name,
                              char text[NEAREST_BYTES]) {
  const char *names[64];
  int n = 0;
  for (int i = 0; i < file->n_arrays && n < 64; i++) {
    bool taken = false;
    for (int k = 0; k < n_inputs; k++)
      taken |= strcmp(inputs[k].name, file->arrays[i].name) == 0;
    if (!taken)
      names[n++] = file->arrays[i].name;
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
  bool floats = (from == F32 || from == F64 || from == F16) && (to == F32 || to == F64);
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
    if (!*name && !(name = arena_format(data->file.arena, "%s.%d", input->name, i)))
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

/* Every array that counts samples counts the same number. */
static Status check_length(Dataset *data, const Array *array, int axis, const Array **first) {
  if (array->shape.rank <= axis)
    return fail(E_SHAPE, "array '%s' %s has no axis %d that counts samples", array->name, SHAPE_STR(array->shape),
                axis);
  int64_t samples = array->shape.dim[axis];
  if (!*first) {
    *first = array;
    data->samples = samples;
    return data->samples ? OK
                         : fail(E_SHAPE, "array '%s' has no samples: it is %s", array->name, SHAPE_STR(array->shape));
  }
  if (samples != data->samples)
    return fail(E_SHAPE, "array '%s' has %lld samples, array '%s' %lld", array->name, (long long)samples,
                (*first)->name, (long long)data->samples);
  return OK;
}

static Status check_arrays(Dataset *data, const ModelInput *inputs) {
  Arena *arena = data->file.arena;
  const Array *first = NULL;
  int n_dims = 0;
  char hint[NEAREST_BYTES], has[1024], takes[1024];
  for (int i = 0; i < data->n_inputs; i++)
    n_dims += inputs[i].rank > 0 ? inputs[i].rank : 0;
  TRY(ARENA_NEW(arena, data->arrays, data->n_inputs));
  TRY(ARENA_NEW(arena, data->axis, data->n_inputs));
  TRY(ARENA_NEW(arena, data->dims, n_dims));
  for (int i = 0; i < data->n_inputs; i++) {
    const Array *array = array_find(&data->file, inputs[i].name);
    if (!array)
      return fail(E_SHAPE, "no array for the model's input '%s': the file has %s%s", inputs[i].name,
                  array_names(&data->file, has, sizeof has),
                  array_hint(&data->file, inputs, data->n_inputs, inputs[i].name, hint));
    TRY(check_input(&inputs[i], array, &data->axis[i]));
    TRY(bind_dims(data, &inputs[i], array, data->axis[i]));
    if (data->axis[i] >= 0)
      TRY(check_length(data, array, data->axis[i], &first));
    data->arrays[i] = array;
  }
  data->target = array_find(&data->file, "target");
  for (int i = 0; i < data->n_inputs; i++)
    if (data->arrays[i] == data->target)
      data->target = NULL; /* an input of that name */
  if (data->target)
    TRY(check_length(data, data->target, data->target_axis, &first));
  if (data->target && data->target->dtype == BOOL)
    return fail(E_SHAPE, "array 'target' is bool: save it as float32, or as int64 where it numbers classes");
  for (int i = 0; i < data->file.n_arrays; i++) {
    const Array *array = &data->file.arrays[i];
    bool known = array == data->target;
    for (int k = 0; k < data->n_inputs; k++)
      known |= array == data->arrays[k];
    if (!known)
      return fail(E_SHAPE, "array '%s' is neither 'target' nor an input of the model, which takes %s", array->name,
                  input_names(inputs, data->n_inputs, takes, sizeof takes));
  }
  for (int i = 0; i < data->n_inputs; i++)
    if (is_bits(&inputs[i], data->arrays[i])) {
      Array *typed;
      TRY(ARENA_NEW(arena, typed, 1));
      *typed = *data->arrays[i];
      typed->dtype = inputs[i].stored;
      data->arrays[i] = typed;
    }
  if (!first) /* of nothing there are many: all that there is counts as one sample */
    data->samples = 1;
  return OK;
}

Status dataset_open(const char *path, const Model *model, int target_axis, Dataset *data) {
  *data = (Dataset){.target_axis = target_axis};
  TRY(array_file_open(path, &data->file));
  const ModelInput *inputs = model_inputs(model, &data->n_inputs);
  Status status = check_arrays(data, inputs);
  if (status != OK) {
    status_context("%s: ", path);
    dataset_close(data);
  }
  return status;
}

Status dataset_need_target(const Dataset *data) {
  char has[1024];
  return data->target ? OK
                      : fail(E_SHAPE, "%s: no array 'target': the file has %s", data->file.path,
                             array_names(&data->file, has, sizeof has));
}

void dataset_close(Dataset *data) {
  array_file_close(&data->file);
  *data = (Dataset){0};
}

Shape dataset_shape(const Array *array, int axis, int64_t samples) {
  Shape shape = array->shape;
  shape.dim[axis] = samples;
  return shape;
}

Status dataset_gather(const Array *array, int axis, const int64_t *indices, int64_t count, DType dtype, void *data) {
  int64_t outer = 1, row = 1, all = array->shape.dim[axis];
  char *to = data;
  for (int i = 0; i < array->shape.rank; i++)
    *(i < axis ? &outer : &row) *= i == axis ? 1 : array->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < count;) {
      int64_t run = 1; /* neighbours go in one piece */
      while (i + run < count && indices[i + run] == indices[i] + run)
        run++;
      TRY(array_convert(array, (o * all + indices[i]) * row, run * row, dtype, to));
      to += (size_t)(run * row) * dtype_bytes(dtype);
      i += run;
    }
  return OK;
}

Status dataset_feed(void *context, ValueId input, int microbatch, void *data, size_t bytes) {
  const Feeder *feeder = context;
  const Value *value = graph_value(feeder->graph, input);
  const Array *array = input == feeder->graph->target ? feeder->data->target : NULL;
  int n, axis = feeder->data->target_axis;
  const ModelInput *inputs = model_inputs(feeder->model, &n);
  for (int i = 0; i < n && !array; i++)
    if (strcmp(inputs[i].name, value->name) == 0) {
      array = feeder->data->arrays[i];
      axis = feeder->data->axis[i];
    }
  if (!array)
    return fail(E_MODEL, "no array feeds the input '%s'", value->name);
  int64_t count = feeder->microbatch_size;
  Shape shape = axis >= 0 ? dataset_shape(array, axis, count) : array->shape;
  if ((size_t)shape_elements(shape) * dtype_bytes(value->dtype) != bytes)
    return fail(E_SHAPE, "array '%s' gives %s, the graph's input '%s' is %s", array->name, SHAPE_STR(shape),
                value->name, SHAPE_STR(value->shape));
  const int64_t *indices = feeder->indices + (int64_t)microbatch * count;
  Status status = axis >= 0 ? dataset_gather(array, axis, indices, count, value->dtype, data)
                            : array_convert(array, 0, shape_elements(shape), value->dtype, data);
  Status unchanged = array_file_unchanged(&feeder->data->file);
  if (unchanged != OK) /* before what was read is found wrong */
    status = unchanged;
  if (status != OK)
    status_context("%s: ", feeder->data->file.path);
  return status;
}

Status sampler_create(Arena *arena, int64_t samples, int64_t epoch_length, int64_t batch, bool shuffle, uint64_t seed,
                      Sampler *sampler) {
  *sampler = (Sampler){
      .samples = samples, .epoch_length = epoch_length, .batch = batch, .shuffle = shuffle, .seed = seed, .epoch = -1};
  TRY(ARENA_NEW(arena, sampler->order, shuffle ? samples : 0));
  return ARENA_NEW(arena, sampler->indices, batch);
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* Uniform in 0 … n - 1: draws of the incomplete last interval are thrown away. */
static uint64_t random_below(uint64_t *state, uint64_t n) {
  uint64_t draw, limit = UINT64_MAX - UINT64_MAX % n;
  do
    draw = next_random(state);
  while (draw >= limit);
  return draw % n;
}

static void shuffle_epoch(Sampler *sampler, int64_t epoch) {
  uint64_t state = sampler->seed;
  state = next_random(&state) ^ (uint64_t)epoch; /* one stream an epoch: any epoch can be drawn without the others */
  for (int64_t i = 0; i < sampler->samples; i++)
    sampler->order[i] = i;
  for (int64_t i = sampler->samples - 1; i > 0; i--) {
    int64_t k = (int64_t)random_below(&state, (uint64_t)i + 1), swap = sampler->order[i];
    sampler->order[i] = sampler->order[k];
    sampler->order[k] = swap;
  }
  sampler->epoch = epoch;
}

void sampler_batch(Sampler *sampler, int64_t step) {
  for (int64_t i = 0; i < sampler->batch; i++) {
    int64_t position = step * sampler->batch + i, epoch = position / sampler->epoch_length;
    int64_t within = position % sampler->epoch_length;
    if (sampler->shuffle && epoch != sampler->epoch)
      shuffle_epoch(sampler, epoch);
    sampler->indices[i] = sampler->shuffle ? sampler->order[within] : within;
  }
}
