/* Contents of tensors: raw, in typed fields, cut out of the skeleton, or in a file beside the model.
 * Invariant: a byte count is compared with dims × type before anything is read or allocated for it, and no path of
 * external data leaves the model's folder. */
#include "onnx/file/internal.h"

#include "graph/narrow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ONNX stores little-endian; this reads it as it lies");

static const struct {
  DType dtype;
  const char *name;
  int field; /* the typed field that may hold it */
} types[] = {
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT] = {F32, "FLOAT", TENSOR_FLOAT_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__UINT8] = {U8, "UINT8", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__INT8] = {I8, "INT8", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__UINT16] = {U16, "UINT16", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__INT16] = {I16, "INT16", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__INT32] = {I32, "INT32", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__INT64] = {I64, "INT64", TENSOR_INT64_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__STRING] = {DTYPE_NONE, "STRING", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__BOOL] = {BOOL, "BOOL", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT16] = {F16, "FLOAT16", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE] = {F64, "DOUBLE", TENSOR_DOUBLE_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__UINT32] = {U32, "UINT32", TENSOR_UINT64_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__UINT64] = {U64, "UINT64", TENSOR_UINT64_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__COMPLEX64] = {DTYPE_NONE, "COMPLEX64", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__COMPLEX128] = {DTYPE_NONE, "COMPLEX128", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__BFLOAT16] = {BF16, "BFLOAT16", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT8E4M3FN] = {F8E4M3FN, "FLOAT8E4M3FN", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT8E4M3FNUZ] = {F8E4M3FNUZ, "FLOAT8E4M3FNUZ", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT8E5M2] = {F8E5M2, "FLOAT8E5M2", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT8E5M2FNUZ] = {F8E5M2FNUZ, "FLOAT8E5M2FNUZ", TENSOR_INT32_DATA},
    [ONNX__TENSOR_PROTO__DATA_TYPE__UINT4] = {DTYPE_NONE, "UINT4", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__INT4] = {DTYPE_NONE, "INT4", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT4E2M1] = {DTYPE_NONE, "FLOAT4E2M1", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT8E8M0] = {DTYPE_NONE, "FLOAT8E8M0", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__UINT2] = {DTYPE_NONE, "UINT2", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__INT2] = {DTYPE_NONE, "INT2", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT6E2M3] = {DTYPE_NONE, "FLOAT6E2M3", 0},
    [ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT6E3M2] = {DTYPE_NONE, "FLOAT6E3M2", 0},
};
enum { N_TYPES = sizeof types / sizeof *types };

/* Several in a byte, the first one lowest; read as integers of 8 bits. */
static const struct {
  int32_t data_type;
  DType dtype;
  int bits;
} packed_types[] = {{ONNX__TENSOR_PROTO__DATA_TYPE__UINT4, U8, 4},
                    {ONNX__TENSOR_PROTO__DATA_TYPE__INT4, I8, 4},
                    {ONNX__TENSOR_PROTO__DATA_TYPE__UINT2, U8, 2},
                    {ONNX__TENSOR_PROTO__DATA_TYPE__INT2, I8, 2}};

int tensor_packed_bits(const Onnx__TensorProto *proto) {
  for (size_t i = 0; i < sizeof packed_types / sizeof *packed_types; i++)
    if (packed_types[i].data_type == proto->data_type)
      return packed_types[i].bits;
  return 0;
}

/* The type that contents of a tensor are read as. */
static DType read_type(const Onnx__TensorProto *proto) {
  for (size_t i = 0; i < sizeof packed_types / sizeof *packed_types; i++)
    if (packed_types[i].data_type == proto->data_type)
      return packed_types[i].dtype;
  return stored_from_onnx(proto->data_type);
}

/* Bytes that hold as many numbers. */
static uint64_t packed_bytes(uint64_t elements, int bits) {
  return elements / (uint64_t)(8 / bits) + (elements % (uint64_t)(8 / bits) != 0);
}

/* In place, from the last one on: none is overwritten before it is read. */
static void unpack(DType dtype, int bits, uint8_t *data, size_t elements) {
  int mask = (1 << bits) - 1, sign = dtype == I8 ? 1 << (bits - 1) : 0;
  size_t each = 8 / (size_t)bits;
  for (size_t i = elements; i-- > 0;) {
    int value = data[i / each] >> (i % each * (size_t)bits) & mask;
    data[i] = (uint8_t)((value ^ sign) - sign);
  }
}

DType stored_from_onnx(int32_t data_type) {
  return data_type >= 0 && data_type < N_TYPES ? types[data_type].dtype : DTYPE_NONE;
}

DType dtype_from_onnx(int32_t data_type) {
  return dtype_computed(stored_from_onnx(data_type));
}

const char *onnx_type_name(int32_t data_type) {
  return data_type > 0 && data_type < N_TYPES ? types[data_type].name : "unknown";
}

Status tensor_describe(const Onnx__TensorProto *proto, DType *dtype, Shape *shape) {
  const char *name = proto_text(proto->name);
  if (!proto->data_type)
    return fail(E_MODEL, "tensor '%s' says no data type", name);
  *dtype = read_type(proto);
  if (!*dtype)
    return fail(E_UNSUPPORTED, "tensor '%s': data type %d (%s) is not supported", name, proto->data_type,
                onnx_type_name(proto->data_type));
  if (proto->n_dims > MAX_RANK)
    return fail(E_UNSUPPORTED, "tensor '%s' has %zu dimensions; at most %d are supported", name, proto->n_dims,
                MAX_RANK);
  if (proto->segment)
    return fail(E_UNSUPPORTED, "tensor '%s' is stored in segments", name);
  *shape = shape_of((int)proto->n_dims, proto->dims);
  size_t bytes;
  Status status = shape_bytes(*shape, *dtype, &bytes);
  if (status != OK) {
    status_context("tensor '%s': ", name);
    return status_adopt(E_MODEL, status_message());
  }
  return OK;
}

/* A decimal number; false where it is none or too large. */
static bool parse_size(const char *text, uint64_t *value) {
  *value = 0;
  for (const char *c = text; *c; c++)
    if (*c < '0' || *c > '9' || __builtin_mul_overflow(*value, 10u, value) ||
        __builtin_add_overflow(*value, (uint64_t)(*c - '0'), value))
      return false;
  return *text != '\0';
}

/* Relative, and no component empty or ".."; the last one is a name. */
static bool location_stays_inside(const char *location) {
  for (const char *part = location;; part++) {
    size_t n = strcspn(part, "/\\");
    bool here = n == 1 && part[0] == '.';
    if (n == 0 || part[n] == '\\' || (n == 2 && part[0] == '.' && part[1] == '.'))
      return false;
    part += n;
    if (!*part)
      return !here;
  }
}

static Status locate_external(const Onnx__TensorProto *proto, Arena *arena, size_t bytes, TensorSource *source) {
  const char *name = proto_text(proto->name);
  const char *location = proto_property(proto->external_data, proto->n_external_data, "location");
  const char *offset = proto_property(proto->external_data, proto->n_external_data, "offset");
  const char *length = proto_property(proto->external_data, proto->n_external_data, "length");
  if (source->in_file || proto->raw_data.len)
    return fail(E_MODEL, "tensor '%s' has contents both in the file and outside", name);
  if (!location || !*location)
    return fail(E_MODEL, "tensor '%s' has external data without a location", name);
  if (!location_stays_inside(location))
    return fail(E_MODEL, "tensor '%s': external data '%s' would lie outside the model's folder", name, location);
  if (offset && !parse_size(offset, &source->offset))
    return fail(E_MODEL, "tensor '%s': offset '%s' of its external data is no number", name, offset);
  if (length && !parse_size(length, &source->bytes))
    return fail(E_MODEL, "tensor '%s': length '%s' of its external data is no number", name, length);
  if (!length)
    source->bytes = bytes;
  source->field = TENSOR_RAW_DATA;
  source->in_file = false;
  source->external = arena_string(arena, location);
  return source->external ? OK : status_code();
}

/* How many numbers the typed fields inside the skeleton hold; *field is the one that has any. */
static Status count_typed(const Onnx__TensorProto *proto, int *field, size_t *count) {
  struct {
    int field;
    size_t count;
  } fields[] = {{TENSOR_FLOAT_DATA, proto->n_float_data},   {TENSOR_INT32_DATA, proto->n_int32_data},
                {TENSOR_STRING_DATA, proto->n_string_data}, {TENSOR_INT64_DATA, proto->n_int64_data},
                {TENSOR_RAW_DATA, proto->raw_data.len},     {TENSOR_DOUBLE_DATA, proto->n_double_data},
                {TENSOR_UINT64_DATA, proto->n_uint64_data}};
  int found = 0;
  *field = 0;
  *count = 0;
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (fields[i].count) {
      found++;
      *field = fields[i].field;
      *count = fields[i].count;
    }
  return found > 1 ? fail(E_MODEL, "tensor '%s' has contents in more than one field", proto_text(proto->name)) : OK;
}

static Status bytes_differ(const TensorSource *source, DType dtype, Shape shape, uint64_t have, uint64_t want,
                           const char *unit) {
  const char *type = tensor_packed_bits(source->proto) ? onnx_type_name(source->proto->data_type) : dtype_name(dtype);
  return fail(E_MODEL, "tensor '%s': %s %s takes %llu %s, %llu are stored", proto_text(source->proto->name), type,
              SHAPE_STR(shape), (unsigned long long)want, unit, (unsigned long long)have);
}

Status tensor_locate(const Model *model, const Onnx__TensorProto *proto, Arena *arena, TensorSource *source) {
  DType dtype;
  Shape shape;
  size_t bytes, count;
  *source = (TensorSource){.proto = proto, .field = TENSOR_RAW_DATA};
  TRY(tensor_describe(proto, &dtype, &shape));
  TRY(shape_bytes(shape, dtype, &bytes));
  int cut = wire_cut_index(&proto->base), field, bits = tensor_packed_bits(proto);
  if (bits)
    bytes = (size_t)packed_bytes(bytes, bits);
  uint64_t elements = bytes / dtype_bytes(dtype); /* of what is packed, the bytes */
  TRY(count_typed(proto, &field, &count));
  if (cut >= 0) {
    if (field)
      return fail(E_MODEL, "tensor '%s' has contents in more than one field", proto_text(proto->name));
    field = model->cuts[cut].field;
    source->offset = model->cuts[cut].offset;
    source->bytes = model->cuts[cut].bytes;
    source->in_file = true;
  }
  if (proto->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
    TRY(locate_external(proto, arena, bytes, source));
  else if (field)
    source->field = field;
  if (source->field == TENSOR_RAW_DATA) {
    uint64_t have = source->external || source->in_file ? source->bytes : proto->raw_data.len;
    return have == bytes ? OK : bytes_differ(source, dtype, shape, have, bytes, "bytes");
  }
  if (source->field != (bits ? TENSOR_INT32_DATA : types[proto->data_type].field))
    return fail(E_MODEL, "tensor '%s' of %s has its contents in a field of another type", proto_text(proto->name),
                dtype_name(dtype));
  if (source->in_file && (dtype == F32 || dtype == F64)) /* packed, fixed width: stored like raw data */
    return source->bytes == bytes ? OK : bytes_differ(source, dtype, shape, source->bytes, bytes, "bytes");
  if (source->in_file) /* varints take one to ten bytes */
    return source->bytes >= elements && source->bytes / 10 <= elements
               ? OK
               : bytes_differ(source, dtype, shape, source->bytes, elements, "to ten times as many bytes");
  return count == elements ? OK : bytes_differ(source, dtype, shape, count, elements, "numbers");
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The folder REPOSITORY/blobs of a Hugging Face cache where `folder` is below REPOSITORY/snapshots; -1. */
static int open_blobs(int folder) {
  enum { MOST_LEVELS = 16 };
  struct stat here, snapshots;
  int at = dup(folder);
  for (int level = 0; at >= 0 && level < MOST_LEVELS; level++) {
    int up = openat(at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool found = up >= 0 && fstat(at, &here) == 0 && fstatat(up, "snapshots", &snapshots, AT_SYMLINK_NOFOLLOW) == 0 &&
                 same_file(&here, &snapshots);
    close(at);
    at = up;
    if (found && level == 0) /* beside the revisions, not in one */
      break;
    if (!found)
      continue;
    int blobs = openat(at, "blobs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(at);
    return blobs;
  }
  if (at >= 0)
    close(at);
  return -1;
}

/* The Hugging Face cache keeps files as links into the blobs of the same repository: such a link is followed, no other.
 * -1 with errno ELOOP where it leads elsewhere. */
static int open_blob(int folder, const char *link) {
  char target[4096];
  ssize_t n = readlinkat(folder, link, target, sizeof target - 1);
  int blobs = n > 0 && n < (ssize_t)sizeof target - 1 ? open_blobs(folder) : -1, file = -1;
  struct stat is, should;
  if (blobs < 0)
    return errno = ELOOP, -1;
  target[n] = '\0';
  char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
  if (slash && *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
    *slash = '\0';
    int to = openat(folder, slash == target ? "/" : target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (to >= 0 && fstat(to, &is) == 0 && fstat(blobs, &should) == 0 && same_file(&is, &should))
      file = openat(blobs, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (to >= 0)
      close(to);
  }
  close(blobs);
  if (file < 0)
    errno = ELOOP;
  return file;
}

/* Opens external data below the model's folder, following no link but those of a Hugging Face cache. */
Status tensor_open_external(const Model *model, const TensorSource *source, int *file) {
  const External *known = model_find_external(model, source->external);
  if (known && known->kept >= 0) {
    *file = fcntl(known->kept, F_DUPFD_CLOEXEC, 0);
    return *file >= 0 ? OK : fail(E_IO, "external data '%s' cannot be opened: %s", source->external, strerror(errno));
  }
  const char *name = proto_text(source->proto->name), *slash = strrchr(model->path, '/');
  char folder[4096] = ".";
  if (slash) {
    size_t n = slash == model->path ? 1 : (size_t)(slash - model->path);
    if (n >= sizeof folder)
      return fail(E_IO, "the path is too long");
    memcpy(folder, model->path, n);
    folder[n] = '\0';
  }
  int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (const char *part = source->external; at >= 0; part++) {
    size_t n = strcspn(part, "/");
    char component[256];
    snprintf(component, sizeof component, "%.*s", n < sizeof component ? (int)n : 0, part);
    part += n;
    int next = openat(at, component, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (*part ? O_DIRECTORY : 0));
    if (next < 0 && errno == ELOOP && !*part)
      next = open_blob(at, component);
    int reason = errno;
    close(at);
    errno = reason;
    at = next;
    if (!*part)
      break;
  }
  if (at < 0)
    return fail(E_IO, "tensor '%s': external data '%s' cannot be opened: %s", name, source->external,
                errno == ELOOP ? "it is a symbolic link" : strerror(errno));
  struct stat info;
  if (fstat(at, &info) || !S_ISREG(info.st_mode)) {
    close(at);
    return fail(E_IO, "tensor '%s': external data '%s' is not a regular file", name, source->external);
  }
  if ((uint64_t)info.st_size < source->offset || (uint64_t)info.st_size - source->offset < source->bytes) {
    close(at);
    return fail(E_MODEL, "tensor '%s': external data '%s' has %lld bytes, offset %llu and length %llu do not fit", name,
                source->external, (long long)info.st_size, (unsigned long long)source->offset,
                (unsigned long long)source->bytes);
  }
  Status status = known ? file_unchanged(at, &known->stamp) : OK;
  if (status != OK) {
    status_context("tensor '%s': external data '%s': ", name, source->external);
    close(at);
    return status;
  }
  *file = at;
  return OK;
}

size_t tensor_external_bytes(const Model *model, const TensorSource *source) {
  int file;
  struct stat info;
  if (tensor_open_external(model, source, &file) != OK)
    return 0;
  size_t bytes = fstat(file, &info) == 0 && info.st_size > 0 ? (size_t)info.st_size : 0;
  close(file);
  return bytes;
}

/* By reading, not from the mapping: pages of a mapping would count as this process's memory. */
static Status read_at(int file, const TensorSource *source, void *data) {
  for (uint64_t done = 0; done < source->bytes;) {
    size_t chunk = source->bytes - done < (1u << 30) ? (size_t)(source->bytes - done) : 1u << 30;
    ssize_t got = pread(file, (char *)data + done, chunk, (off_t)(source->offset + done));
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return fail(E_IO, "tensor '%s' cannot be read: %s", proto_text(source->proto->name),
                  got ? strerror(errno) : "the file became shorter");
    done += (uint64_t)got;
  }
  return OK;
}

static Status read_external(const Model *model, const TensorSource *source, void *data) {
  int file;
  TRY(tensor_open_external(model, source, &file));
  Status status = read_at(file, source, data);
  close(file);
  return status;
}

/* Stores one number of an integer field as `dtype`; false when it does not fit. */
static bool store(DType dtype, uint64_t value, void *data, size_t i) {
  int64_t wide = (int64_t)value;
  switch (dtype) {
  case I64:
  case U64:
    ((uint64_t *)data)[i] = value;
    return true;
  case U32:
    ((uint32_t *)data)[i] = (uint32_t)value;
    return value <= UINT32_MAX;
  case I32:
    ((int32_t *)data)[i] = (int32_t)wide;
    return wide >= INT32_MIN && wide <= INT32_MAX;
  case F16:
  case BF16:
  case U16:
    ((uint16_t *)data)[i] = (uint16_t)value;
    return wide >= (dtype == U16 ? 0 : INT16_MIN) && wide <= UINT16_MAX;
  case I16:
    ((int16_t *)data)[i] = (int16_t)wide;
    return wide >= INT16_MIN && wide <= INT16_MAX;
  case I8:
    ((int8_t *)data)[i] = (int8_t)wide;
    return wide >= INT8_MIN && wide <= INT8_MAX;
  case U8:
  case F8E4M3FN:
  case F8E4M3FNUZ:
  case F8E5M2:
  case F8E5M2FNUZ:
    ((uint8_t *)data)[i] = (uint8_t)value;
    return value <= UINT8_MAX;
  default:
    ((uint8_t *)data)[i] = value != 0;
    return true;
  }
}

/* Integer fields: packed varints in the file, or unpacked in the skeleton. */
static Status read_integers(const Model *model, const TensorSource *source, DType dtype, void *data, size_t elements) {
  const Onnx__TensorProto *proto = source->proto;
  size_t at = (size_t)source->offset, end = at + (size_t)source->bytes, i;
  for (i = 0; source->in_file ? at < end : i < elements; i++) {
    uint64_t value;
    if (i == elements)
      return fail(E_MODEL, "tensor '%s' holds more than %zu numbers", proto_text(proto->name), elements);
    if (!source->in_file)
      value = source->field == TENSOR_INT32_DATA   ? (uint64_t)(int64_t)proto->int32_data[i]
              : source->field == TENSOR_INT64_DATA ? (uint64_t)proto->int64_data[i]
                                                   : proto->uint64_data[i];
    else if (!wire_varint(model->file, end, &at, &value))
      return fail(E_MODEL, "tensor '%s' holds an invalid number at byte %zu", proto_text(proto->name), at);
    else if (source->field == TENSOR_INT32_DATA)
      value = (uint64_t)(int64_t)(int32_t)value; /* as protobuf reads an int32 */
    if (!store(dtype, value, data, i))
      return fail(E_MODEL, "tensor '%s': element %zu is %lld, which no %s can be", proto_text(proto->name), i,
                  (long long)value, dtype_name(dtype));
  }
  return i == elements
             ? OK
             : fail(E_MODEL, "tensor '%s' holds %zu numbers, its shape %zu", proto_text(proto->name), i, elements);
}

/* Contents that the skeleton holds as they are in memory. */
static const void *contents_in_proto(const TensorSource *source) {
  const Onnx__TensorProto *proto = source->proto;
  return source->field == TENSOR_RAW_DATA     ? (const void *)proto->raw_data.data
         : source->field == TENSOR_FLOAT_DATA ? (const void *)proto->float_data
                                              : (const void *)proto->double_data;
}

/* What is stored, as it lies there; integer fields as `dtype`. */
static Status read_stored(const Model *model, const TensorSource *source, DType dtype, void *data, size_t bytes) {
  if (source->external)
    return read_external(model, source, data);
  if (source->field != TENSOR_RAW_DATA && dtype != F32 && dtype != F64)
    return read_integers(model, source, dtype, data, bytes / dtype_bytes(dtype));
  if (source->in_file && model->copied) {
    memcpy(data, model->file + source->offset, (size_t)source->bytes);
  } else if (source->in_file) {
    TRY(read_at(model->descriptor, source, data));
    return model_sound(model);
  } else {
    memcpy(data, contents_in_proto(source), bytes);
  }
  return OK;
}

Status tensor_source_read(const Model *model, const TensorSource *source, void *data, size_t bytes) {
  DType dtype = read_type(source->proto);
  int bits = tensor_packed_bits(source->proto);
  if (!bytes)
    return OK;
  TRY(read_stored(model, source, bits ? U8 : dtype, data, bits ? (size_t)packed_bytes(bytes, bits) : bytes));
  if (bits)
    unpack(dtype, bits, data, bytes);
  bool is_typed = source->field != TENSOR_RAW_DATA && !source->external; /* those are 0 and 1 already */
  for (size_t i = 0; dtype == BOOL && !is_typed && i < bytes; i++)
    ((uint8_t *)data)[i] = ((uint8_t *)data)[i] != 0;
  return OK;
}

Status tensor_map(const Model *model, const TensorSource *source, TensorView *view) {
  bool is_plain =
      source->field == TENSOR_RAW_DATA || source->field == TENSOR_FLOAT_DATA || source->field == TENSOR_DOUBLE_DATA;
  int file = model->descriptor;
  *view = (TensorView){0};
  if (!source->external && (!source->in_file || !is_plain)) {
    view->data = is_plain ? contents_in_proto(source) : NULL;
    return OK;
  }
  if (!source->external && model->copied) {
    view->data = model->file + source->offset;
    return OK;
  }
  if (source->external)
    TRY(tensor_open_external(model, source, &file));
  Status status = mapped_open(file, source->offset, (size_t)source->bytes, &view->mapped);
  if (source->external)
    close(file);
  if (status != OK) {
    status_context("tensor '%s': ", proto_text(source->proto->name));
    return status;
  }
  view->data = view->mapped.data;
  view->damaged = &((Model *)model)->damaged;
  return OK;
}

void tensor_unmap(TensorView *view) {
  if (mapped_damaged(&view->mapped))
    atomic_store(view->damaged, true);
  mapped_close(&view->mapped);
  view->data = NULL;
}

static Status widen(Arena *arena, DType *dtype, Shape shape, const void **data) {
  float *numbers;
  int64_t n = shape_elements(shape);
  TRY(ARENA_NEW(arena, numbers, n));
  narrow_read(*dtype, *data, n, numbers);
  *data = numbers;
  *dtype = dtype_computed(*dtype);
  return OK;
}

Status tensor_read(const Model *model, const Onnx__TensorProto *proto, Arena *arena, DType *dtype, Shape *shape,
                   const void **data) {
  TensorSource source;
  size_t bytes;
  TRY(tensor_locate(model, proto, arena, &source));
  TRY(tensor_describe(proto, dtype, shape));
  TRY(shape_bytes(*shape, *dtype, &bytes));
  if (source.external) { /* the file must be there before memory is taken for what it claims */
    int file;
    TRY(tensor_open_external(model, &source, &file));
    close(file);
  }
  void *contents = arena_alloc(arena, bytes, 1);
  if (!contents)
    return status_code();
  *data = contents;
  TRY(tensor_source_read(model, &source, contents, bytes));
  return dtype_is_narrow(*dtype) ? widen(arena, dtype, *shape, data) : OK;
}
