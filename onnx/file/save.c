/* Writes the imported file again with trained weights. Invariant: every byte that is not the contents of a trained
 * initializer, the place of external data, a tensor that was split or restored, the inputs of the nodes that read such
 * ones, or a length around them is the imported file's; and both files are
 * complete on the disk before either takes its place: the weights under a new name, so that whenever it is ended there
 * is the old model or the new one. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "graph/narrow.h"
#include "onnx/file/beside.h"
#include "onnx/file/internal.h"

enum {
  NODE_INPUT = 1, /* fields of NodeProto, GraphProto and TensorProto */
  GRAPH_INITIALIZER = 5,
  GRAPH_INPUT = 11,
  ATTRIBUTE_FLOATS = 7,
  TENSOR_DIMS = 1,
  TENSOR_TYPE = 2,
  TENSOR_NAME = 8,
  EXTERNAL_DATA = 13,
  DATA_LOCATION = 14,
  DATA_ALIGNMENT = 64,   /* of tensors in the data file, … */
  PAGE_ALIGNMENT = 4096, /* … and of those that are worth mapping */
  MAPPED_BYTES = 1 << 16,
  MOST_FIELDS = 32 /* numbers of fields that are entered lie below */
};

/* Where the new contents of an initializer go. */
typedef struct {
  FILE *stream;
  uint64_t offset;
  int next_tied; /* the next initializer with the same owner, or -1 */
} Place;

/* The file is walked twice: the first time sizes are counted, the second time bytes are written. */
typedef struct {
  const Model *model;
  Arena *arena;
  const bool *also;     /* see model_save */
  const char *path;     /* of the new file */
  const char *location; /* of external data, as the new file says it */
  Place *places;        /* [n_initializers] */
  FILE *out, *data;     /* NULL while counting */
  uint64_t count;       /* bytes of the new file so far */
  uint64_t data_bytes;  /* of the data file so far */
  uint64_t *sizes;      /* new sizes of the messages that were entered, in file order */
  size_t n_sizes, sizes_capacity;
  int next_initializer; /* of the main graph */
  size_t next_node;     /* of the main graph */
  WirePath place;       /* of the message at hand */
} Rewriter;

/* Whether its contents are the run's and not the file's. */
static bool is_written(const Rewriter *w, int i) {
  const Initializer *initializer = &w->model->initializers[i];
  return initializer->trains || initializer->is_buffer || (w->also && w->also[i]);
}

static Status fail_write(const Rewriter *w) {
  return fail(E_IO, "%s: cannot be written: %s", w->path, strerror(errno));
}

static Status put(Rewriter *w, const void *data, size_t bytes) {
  w->count += bytes;
  return !w->out || fwrite(data, 1, bytes, w->out) == bytes ? OK : fail_write(w);
}

static Status put_prefix(Rewriter *w, int field, uint64_t length) {
  uint8_t text[20];
  size_t n = wire_put_varint(text, (uint64_t)field << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, 0);
  return put(w, text, n + wire_put_varint(text + n, length, 0));
}

static Status put_copy(Rewriter *w, const WireField *field) {
  Status status = put(w, w->model->file + field->begin, field->end - field->begin);
  size_t page = (size_t)sysconf(_SC_PAGESIZE), begin = (field->begin + page - 1) / page * page;
  if (w->out && !w->model->copied && field->end > begin + MAPPED_BYTES) /* what was copied need not stay in memory */
    madvise((void *)(w->model->file + begin), field->end - begin, MADV_DONTNEED);
  return status;
}

static Status put_property(Rewriter *w, const char *key, const char *value) {
  size_t k = strlen(key), v = strlen(value);
  TRY(put_prefix(w, EXTERNAL_DATA, 2 + wire_varint_bytes(k) + k + wire_varint_bytes(v) + v));
  TRY(put_prefix(w, 1, k));
  TRY(put(w, key, k));
  TRY(put_prefix(w, 2, v));
  return put(w, value, v);
}

static bool is_contents(uint32_t field) {
  return field == TENSOR_RAW_DATA || field == TENSOR_FLOAT_DATA || field == TENSOR_INT32_DATA ||
         field == TENSOR_INT64_DATA || field == TENSOR_DOUBLE_DATA || field == TENSOR_UINT64_DATA;
}

/* The contents of a trained initializer become raw_data (of an attribute, packed floats), where its first contents
 * stood; they are filled in last. */
static Status put_trained(Rewriter *w, int field, int initializer) {
  size_t bytes = initializer_file_bytes(w->model, initializer);
  TRY(put_prefix(w, field, bytes));
  w->places[initializer] = (Place){.stream = w->out, .offset = w->count, .next_tied = -1};
  w->count += bytes;
  if (w->out && fseeko(w->out, (off_t)bytes, SEEK_CUR))
    return fail_write(w);
  return OK;
}

/* The next place in the data file: says where, and copies what is there unless training changes it. */
static Status put_external(Rewriter *w, const TensorSource *source, int initializer) {
  uint64_t alignment = source->bytes >= MAPPED_BYTES ? PAGE_ALIGNMENT : DATA_ALIGNMENT;
  uint64_t offset = (w->data_bytes + alignment - 1) / alignment * alignment;
  char offset_text[24], length_text[24];
  snprintf(offset_text, sizeof offset_text, "%llu", (unsigned long long)offset);
  snprintf(length_text, sizeof length_text, "%llu", (unsigned long long)source->bytes);
  TRY(put_property(w, "location", w->location));
  TRY(put_property(w, "offset", offset_text));
  TRY(put_property(w, "length", length_text));
  w->data_bytes = offset + source->bytes;
  if (initializer >= 0 && is_written(w, initializer)) {
    w->places[initializer] = (Place){.stream = w->data, .offset = offset, .next_tied = -1};
    return OK;
  }
  if (!w->data || !source->bytes)
    return OK;
  TensorView view;
  Status status = tensor_map(w->model, source, &view);
  if (status != OK) {
    status_context("%s: ", w->model->path);
    return status;
  }
  bool written = fseeko(w->data, (off_t)offset, SEEK_SET) == 0 &&
                 fwrite(view.data, 1, (size_t)source->bytes, w->data) == source->bytes;
  tensor_unmap(&view);
  return written ? OK : fail_write(w);
}

/* Where an external tensor outside the initializer table lies: its few fields are unpacked by themselves. */
static Status locate(Rewriter *w, size_t begin, size_t end, TensorSource *source) {
  Onnx__TensorProto *proto = onnx__tensor_proto__unpack(NULL, end - begin, w->model->file + begin), *named;
  if (!proto)
    return fail(E_MEMORY, "out of memory: %zu bytes", end - begin);
  unsigned unknown = proto->base.n_unknown_fields;
  proto->base.n_unknown_fields = 0; /* the scanner's mark is not among them: these are the file's own */
  Status status = tensor_locate(w->model, proto, w->arena, source);
  proto->base.n_unknown_fields = unknown;
  if (status == OK && (status = ARENA_NEW(w->arena, named, 1)) == OK) {
    onnx__tensor_proto__init(named);
    named->name = arena_string(w->arena, proto_text(proto->name));
    named->data_type = proto->data_type;
    source->proto = named;
  }
  onnx__tensor_proto__free_unpacked(proto, NULL);
  return status;
}

/* Whether a tensor in the file has its contents elsewhere. */
static bool is_external(const uint8_t *file, const WireField *field) {
  uint64_t location;
  size_t at = field->payload;
  return field->number == DATA_LOCATION && wire_varint(file, field->end, &at, &location) &&
         location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
}

static Status rewrite_tensor(Rewriter *w, size_t begin, size_t end, int initializer) {
  const char *type = "TensorProto";
  const uint8_t *file = w->model->file;
  bool trains = initializer >= 0 && is_written(w, initializer), external = false, done = false;
  WireField field;
  for (size_t at = begin; at < end;) {
    TRY(wire_next(file, end, type, &at, &field));
    external |= is_external(file, &field);
  }
  TensorSource source;
  if (external && initializer >= 0)
    source = w->model->sources[initializer];
  else if (external)
    TRY(locate(w, begin, end, &source));
  for (size_t at = begin; at < end;) {
    TRY(wire_next(file, end, type, &at, &field));
    bool replaced = external ? field.number == EXTERNAL_DATA : trains && is_contents(field.number);
    if (!replaced)
      TRY(put_copy(w, &field));
    else if (!done)
      TRY(external ? put_external(w, &source, initializer) : put_trained(w, TENSOR_RAW_DATA, initializer));
    done |= replaced;
  }
  return OK;
}

/* Messages that may hold tensors somewhere inside. */
static bool is_entered(const ProtobufCMessageDescriptor *type) {
  return type == &onnx__graph_proto__descriptor || type == &onnx__node_proto__descriptor ||
         type == &onnx__attribute_proto__descriptor || type == &onnx__function_proto__descriptor ||
         type == &onnx__training_info_proto__descriptor || type == &onnx__sparse_tensor_proto__descriptor ||
         type == &onnx__tensor_proto__descriptor;
}

static Status rewrite_message(Rewriter *w, const ProtobufCMessageDescriptor *type, size_t begin, size_t end, int depth,
                              const Onnx__NodeProto *changed);

/* The inside of a message field, behind its length. */
static Status rewrite_inside(Rewriter *w, const ProtobufCFieldDescriptor *known, const WireField *field, int depth,
                             const Onnx__NodeProto *changed) {
  if (known->descriptor != &onnx__tensor_proto__descriptor)
    return rewrite_message(w, known->descriptor, field->payload, field->end, depth + 1, changed);
  bool is_initializer = depth == 1 && strcmp(known->name, "initializer") == 0; /* of the main graph */
  return rewrite_tensor(w, field->payload, field->end,
                        is_initializer ? w->next_initializer++ : initializer_at_path(w->model, &w->place));
}

/* The size of the message that is about to be written: known when it is written, for it was counted before. */
static Status next_size(Rewriter *w, uint64_t **size) {
  size_t index = w->n_sizes++;
  if (!w->out)
    TRY(ARENA_RESERVE(w->arena, w->sizes, index, w->sizes_capacity, index + 1));
  *size = &w->sizes[index];
  return OK;
}

static Status rewrite_field(Rewriter *w, const ProtobufCFieldDescriptor *known, const WireField *field, int depth,
                            const Onnx__NodeProto *changed) {
  size_t index = w->n_sizes;
  uint64_t *size;
  TRY(next_size(w, &size));
  if (!w->out) {
    uint64_t before = w->count;
    TRY(rewrite_inside(w, known, field, depth, changed));
    w->sizes[index] = w->count - before; /* the list may have moved */
  }
  size = &w->sizes[index];
  if (*size == field->end - field->payload) /* also where its length is written in an unusual way */
    TRY(put(w, w->model->file + field->begin, field->payload - field->begin));
  else
    TRY(put_prefix(w, (int)field->number, *size));
  return w->out ? rewrite_inside(w, known, field, depth, changed) : OK;
}

static Status put_text(Rewriter *w, int field, const char *text) {
  TRY(put_prefix(w, field, strlen(text)));
  return put(w, text, strlen(text));
}

static Status put_number(Rewriter *w, int field, uint64_t value) {
  uint8_t text[20];
  size_t n = wire_put_varint(text, (uint64_t)field << 3 | PROTOBUF_C_WIRE_TYPE_VARINT, 0);
  return put(w, text, n + wire_put_varint(text + n, value, 0));
}

/* The inputs of a node that reads other tensors than the file's. */
static Status put_inputs(Rewriter *w, const Onnx__NodeProto *node) {
  for (size_t k = 0; k < node->n_input; k++)
    TRY(put_text(w, NODE_INPUT, node->input[k]));
  return OK;
}

/* Contents that no training changes. */
static Status put_contents(Rewriter *w, int initializer) {
  size_t bytes = initializer_file_bytes(w->model, initializer);
  TRY(put_prefix(w, TENSOR_RAW_DATA, bytes));
  if (!w->out) {
    w->count += bytes;
    return OK;
  }
  void *data = malloc(bytes ? bytes : 1);
  Status status = data ? tensor_source_read(w->model, &w->model->sources[initializer], data, bytes)
                       : fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  if (status == OK)
    status = put(w, data, bytes);
  free(data);
  return status;
}

/* An initializer that the file does not have. */
static Status put_new_tensor(Rewriter *w, int initializer) {
  const Initializer *what = &w->model->initializers[initializer];
  const TensorSource *source = &w->model->sources[initializer];
  for (int i = 0; i < what->shape.rank; i++)
    TRY(put_number(w, TENSOR_DIMS, (uint64_t)what->shape.dim[i]));
  TRY(put_number(w, TENSOR_TYPE, (uint64_t)source->proto->data_type));
  TRY(put_text(w, TENSOR_NAME, what->name));
  if (!source->external)
    return is_written(w, initializer) ? put_trained(w, TENSOR_RAW_DATA, initializer) : put_contents(w, initializer);
  TRY(put_external(w, source, initializer));
  return put_number(w, DATA_LOCATION, ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL);
}

/* Before IR version 4 an initializer is an input of the graph, too. */
static Status put_new_input(Rewriter *w, int initializer) {
  const Initializer *what = &w->model->initializers[initializer];
  Onnx__TensorShapeProto__Dimension dims[MAX_RANK], *list[MAX_RANK];
  Onnx__TensorShapeProto shape = ONNX__TENSOR_SHAPE_PROTO__INIT;
  Onnx__TypeProto__Tensor tensor = ONNX__TYPE_PROTO__TENSOR__INIT;
  Onnx__TypeProto type = ONNX__TYPE_PROTO__INIT;
  Onnx__ValueInfoProto info = ONNX__VALUE_INFO_PROTO__INIT;
  for (int i = 0; i < what->shape.rank; i++) {
    onnx__tensor_shape_proto__dimension__init(&dims[i]);
    dims[i].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
    dims[i].dim_value = what->shape.dim[i];
    list[i] = &dims[i];
  }
  shape.n_dim = (size_t)what->shape.rank;
  shape.dim = list;
  tensor.elem_type = w->model->sources[initializer].proto->data_type;
  tensor.has_elem_type = true;
  tensor.shape = &shape;
  type.value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
  type.tensor_type = &tensor;
  info.name = (char *)what->name;
  info.type = &type;
  size_t bytes = onnx__value_info_proto__get_packed_size(&info);
  uint8_t *packed = arena_alloc(w->arena, bytes, 1);
  if (!packed)
    return status_code();
  onnx__value_info_proto__pack(&info, packed);
  TRY(put_prefix(w, GRAPH_INPUT, bytes));
  return put(w, packed, bytes);
}

/* At the end of the main graph. */
static Status put_new(Rewriter *w) {
  for (int i = w->model->n_file_initializers; i < w->model->n_initializers; i++) {
    size_t index = w->n_sizes;
    uint64_t *size;
    TRY(next_size(w, &size));
    if (!w->out) {
      uint64_t before = w->count;
      TRY(put_new_tensor(w, i));
      w->sizes[index] = w->count - before;
    }
    TRY(put_prefix(w, GRAPH_INITIALIZER, w->sizes[index]));
    if (w->out)
      TRY(put_new_tensor(w, i));
    if (w->model->proto->ir_version < 4)
      TRY(put_new_input(w, i));
  }
  return OK;
}

/* `changed`: the node that this message is, where its inputs are others than the file's. */
static Status rewrite_message(Rewriter *w, const ProtobufCMessageDescriptor *type, size_t begin, size_t end, int depth,
                              const Onnx__NodeProto *changed) {
  bool is_graph = depth == 1 && type == &onnx__graph_proto__descriptor; /* the main one */
  uint32_t seen[MOST_FIELDS] = {0};
  int weights = type == &onnx__attribute_proto__descriptor ? initializer_at_path(w->model, &w->place) : -1;
  bool trains = weights >= 0 && is_written(w, weights);
  if (changed)
    TRY(put_inputs(w, changed));
  for (size_t at = begin; at < end;) {
    WireField field;
    TRY(wire_next(w->model->file, end, type->short_name, &at, &field));
    const ProtobufCFieldDescriptor *known = protobuf_c_message_descriptor_get_field(type, field.number);
    bool enters = known && known->type == PROTOBUF_C_TYPE_MESSAGE && is_entered(known->descriptor);
    size_t node = is_graph && enters && known->descriptor == &onnx__node_proto__descriptor ? w->next_node++ : SIZE_MAX;
    NodeChange change = node == SIZE_MAX ? NODE_KEPT : w->model->changes[node];
    uint32_t which = field.number < MOST_FIELDS ? seen[field.number]++ : 0;
    if (change == NODE_GONE || (changed && field.number == NODE_INPUT))
      continue;
    if (trains && field.number == ATTRIBUTE_FLOATS) {
      if (which == 0)
        TRY(put_trained(w, ATTRIBUTE_FLOATS, weights));
      continue;
    }
    if (enters) {
      w->place.steps[w->place.n++] = field.number; /* the scanner has bounded the depth */
      w->place.steps[w->place.n++] = which;
      TRY(rewrite_field(w, known, &field, depth, change == NODE_INPUTS ? w->model->file_nodes[node] : NULL));
      w->place.n -= 2;
    } else
      TRY(put_copy(w, &field));
  }
  return is_graph ? put_new(w) : OK;
}

static Status walk(Rewriter *w, FILE *out, FILE *data) {
  w->out = out;
  w->data = data;
  w->count = w->data_bytes = 0;
  w->n_sizes = 0;
  w->next_initializer = 0;
  w->next_node = 0;
  w->place.n = 0;
  return rewrite_message(w, &onnx__model_proto__descriptor, 0, w->model->file_bytes, 0, NULL);
}

/* Once, or as often as the file has it. */
static Status fill(const Rewriter *w, const Place *place, const void *data, size_t bytes, int64_t copies) {
  bool good = fseeko(place->stream, (off_t)place->offset, SEEK_SET) == 0;
  for (int64_t k = 0; good && k < (copies ? copies : 1); k++)
    good = fwrite(data, 1, bytes, place->stream) == bytes;
  return good ? OK : fail_write(w);
}

/* B [columns, rows] from A [rows, columns]. */
static void transpose(const char *a, char *b, int64_t rows, int64_t columns, size_t width) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++)
      memcpy(b + (size_t)(j * rows + i) * width, a + (size_t)(i * columns + j) * width, width);
}

/* Asks for one parameter and writes it everywhere it stands. */
static Status fill_parameter(Rewriter *w, int i, WeightSource *source, void *context) {
  const Initializer *owner = &w->model->initializers[i];
  size_t bytes = (size_t)shape_elements(owner->shape) * dtype_bytes(owner->dtype), width = dtype_bytes(owner->dtype);
  char *data = malloc(bytes ? bytes : 1), *turned = NULL;
  Status status = data ? source(context, i, data, bytes) : fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  for (int k = 0; status == OK && k < w->model->n_frozen_rows; k++) {
    const FrozenRow *frozen = &w->model->frozen_rows[k];
    if (frozen->initializer == i)
      memcpy(data + (size_t)frozen->row * frozen->bytes, frozen->contents, frozen->bytes);
  }
  if (status == OK && owner->stored != owner->dtype) {
    int64_t n = shape_elements(owner->shape);
    narrow_write(owner->stored, (const float *)data, n, data); /* behind what is read */
    width = dtype_bytes(owner->stored);
    bytes = (size_t)n * width;
  }
  for (int at = i; at >= 0 && status == OK && bytes; at = w->places[at].next_tied) {
    bool transposed = w->model->initializers[at].tied_transposed;
    if (transposed && !turned && (turned = malloc(bytes)))
      transpose(data, turned, owner->shape.dim[0], owner->shape.dim[1], width);
    status = transposed && !turned ? fail(E_MEMORY, "out of memory: %zu bytes", bytes)
                                   : fill(w, &w->places[at], transposed ? turned : data, bytes, owner->copies);
  }
  free(data);
  free(turned);
  return status;
}

static Status write_both(Rewriter *w, FILE *out, FILE *data, WeightSource *source, void *context) {
  Status status = walk(w, out, data), sound = model_sound(w->model);
  if (sound != OK) { /* then what was read, or could not be, is nothing to go by */
    status_context("%s: ", w->model->path);
    return sound;
  }
  TRY(status);
  for (int i = w->model->n_initializers - 1; i >= 0; i--) {
    int owner = w->model->initializers[i].tied_to;
    if (owner >= 0) {
      w->places[i].next_tied = w->places[owner].next_tied;
      w->places[owner].next_tied = i;
    }
  }
  for (int i = 0; i < w->model->n_initializers; i++)
    if (is_written(w, i) && w->model->initializers[i].tied_to < 0)
      TRY(fill_parameter(w, i, source, context));
  return OK;
}

/* What could still go wrong when files take their places is made to go wrong before the first of them does. */
static Status settle(FileReplace *file) {
  if (fflush(file->stream) || ferror(file->stream) || fsync(fileno(file->stream)))
    return fail(E_IO, "%s: cannot be written: %s", file->path, strerror(errno));
  return OK;
}

/* The weights first, under a name that nothing had: until the model takes its place the old one has its own. */
static Status replace_files(Rewriter *w, const char *data_path, WeightSource *source, void *context) {
  FileReplace file = {0}, data = {0};
  TRY(file_replace_begin(w->path, &file));
  bool has_data = w->data_bytes > 0, placed = false;
  Status status = has_data ? file_replace_begin(data_path, &data) : OK;
  if (status == OK)
    status = write_both(w, file.stream, data.stream, source, context);
  if (status == OK && has_data)
    status = settle(&data);
  if (status == OK)
    status = settle(&file);
  if (status == OK && has_data)
    placed = (status = file_replace_commit(&data)) == OK;
  if (status == OK && (status = file_replace_commit(&file)) == OK)
    return OK;
  file_replace_abandon(&data);
  file_replace_abandon(&file);
  if (placed)
    unlink(data_path);
  return status;
}

/* The weights of the model that was replaced. Where this very run reads from them, it goes on doing so. */
static void remove_replaced(const Model *model, Arena *arena, const char *path, const char *name) {
  External *external = NULL;
  for (int i = 0; i < model->n_externals && !external; i++) {
    char *source = beside_path(arena, model->path, model->externals[i].location);
    char *replaced = beside_path(arena, path, name);
    if (!source || !replaced)
      return;
    if (file_same(source, replaced))
      external = &model->externals[i];
  }
  if (external && external->kept < 0) {
    char *source = beside_path(arena, model->path, external->location);
    external->kept = source ? open(source, O_RDONLY | O_CLOEXEC) : -1;
    if (external->kept < 0)
      return;
  }
  beside_remove(arena, path, name);
}

static Status save(const Model *model, Arena *arena, const char *path, const bool *also, WeightSource *source,
                   void *context) {
  Rewriter w = {.model = model, .arena = arena, .also = also, .path = path};
  const char *data_path, **replaced;
  int n_replaced;
  TRY(beside_choose(arena, path, &w.location));
  if (!(data_path = beside_path(arena, path, w.location)))
    return status_code();
  TRY(beside_list(arena, path, &replaced, &n_replaced));
  TRY(ARENA_NEW(arena, w.places, model->n_initializers));
  for (int i = 0; i < model->n_initializers; i++)
    w.places[i].next_tied = -1;
  TRY(walk(&w, NULL, NULL));
  TRY(replace_files(&w, data_path, source, context));
  for (int i = 0; i < n_replaced; i++)
    remove_replaced(model, arena, path, replaced[i]);
  return OK;
}

Status model_save(const Model *model, const char *path, const bool *also, WeightSource *source, void *context) {
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Status status = save(model, arena, path, also, source, context);
  arena_destroy(arena);
  return status;
}
