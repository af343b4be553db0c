/* Safetensors. Invariant: what a header states is believed only after it was checked against the bytes that are there;
 * every byte behind the header belongs to exactly one tensor. */
#include "runtime/data/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/json.h"

/* As the format's own reader has it. */
enum { MOST_HEADER_BYTES = 100000000 };

static const char metadata_key[] = "__metadata__";

static const struct {
  const char *name;
  DType dtype;
} types[] = {{"F64", F64},
             {"F32", F32},
             {"F16", F16},
             {"BF16", BF16},
             {"I64", I64},
             {"I32", I32},
             {"I16", I16},
             {"I8", I8},
             {"U64", U64},
             {"U32", U32},
             {"U16", U16},
             {"U8", U8},
             {"BOOL", BOOL},
             {"F8_E4M3", F8E4M3FN},
             {"F8_E5M2", F8E5M2},
             {"F8_E4M3FNUZ", F8E4M3FNUZ},
             {"F8_E5M2FNUZ", F8E5M2FNUZ}};
enum { TYPES = sizeof types / sizeof *types };

static DType find_type(const char *name) {
  for (int i = 0; name && i < TYPES; i++)
    if (strcmp(types[i].name, name) == 0)
      return types[i].dtype;
  return DTYPE_NONE;
}

static const char *type_name(DType dtype) {
  for (int i = 0; i < TYPES; i++)
    if (types[i].dtype == dtype)
      return types[i].name;
  return NULL;
}

static Status read_shape(const json_t *json, Shape *shape) {
  size_t n = json_array_size(json);
  if (!json_is_array(json))
    return fail(E_MODEL, "has no shape");
  if (n > MAX_RANK)
    return fail(E_MODEL, "has %zu dimensions, more than %d", n, MAX_RANK);
  *shape = (Shape){.rank = (int)n};
  for (size_t i = 0; i < n; i++) {
    const json_t *dim = json_array_get(json, i);
    if (!json_is_integer(dim) || json_integer_value(dim) < 0)
      return fail(E_MODEL, "has a shape that is none");
    shape->dim[i] = json_integer_value(dim);
  }
  return OK;
}

/* One tensor, of `bytes` bytes behind the header: its array, with data where they begin. */
static Status read_tensor(const json_t *json, const uint8_t *data, size_t bytes, Array *array) {
  const json_t *offsets = json_object_get(json, "data_offsets");
  const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  const char *type = json_string_value(json_object_get(json, "dtype"));
  size_t needs;
  if (!(array->dtype = find_type(type)))
    return fail(E_MODEL, "has %s%s", type ? "the unknown type " : "no type", type ? type : "");
  TRY(read_shape(json_object_get(json, "shape"), &array->shape));
  TRY(shape_bytes(array->shape, array->dtype, &needs));
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
    return fail(E_MODEL, "has no data_offsets");
  long long from = json_integer_value(begin), to = json_integer_value(end);
  if (from < 0 || to < from || (unsigned long long)to > bytes)
    return fail(E_MODEL, "lies at bytes %lld to %lld of %zu", from, to, bytes);
  if ((size_t)(to - from) != needs)
    return fail(E_MODEL, "has %lld bytes, %s %s takes %zu", to - from, type, SHAPE_STR(array->shape), needs);
  array->data = data + from;
  return OK;
}

static size_t array_bytes(const Array *array) {
  return (size_t)shape_elements(array->shape) * dtype_bytes(array->dtype);
}

/* By place; empty ones before what begins where they lie. */
static int compare_places(const void *a, const void *b) {
  const Array *x = a, *y = b;
  if (x->data != y->data)
    return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
  size_t n = array_bytes(x), m = array_bytes(y);
  return n < m ? -1 : n > m;
}

/* Of arrays in order: each begins where the one before ends. */
static Status check_places(const ArrayFile *file, const uint8_t *data, size_t bytes) {
  const uint8_t *end = data;
  for (int i = 0; i < file->n_arrays; i++) {
    const Array *array = &file->arrays[i];
    const uint8_t *begin = array->data;
    if (begin != end)
      return fail(E_MODEL, "tensor '%s' begins at byte %td, the one before it ends at %td", array->name, begin - data,
                  end - data);
    end = begin + array_bytes(array);
  }
  return end == data + bytes ? OK : fail(E_MODEL, "the tensors end at byte %td of %zu", end - data, bytes);
}

static Status read_tensors(ArrayFile *file, json_t *header, const uint8_t *data, size_t bytes) {
  const char *key;
  json_t *json;
  TRY(ARENA_NEW(file->arena, file->arrays, json_object_size(header)));
  TRY(ARENA_NEW(file->arena, file->was_fortran, json_object_size(header)));
  json_object_foreach(header, key, json) {
    Array *array = &file->arrays[file->n_arrays];
    if (strcmp(key, metadata_key) == 0)
      continue;
    if (!(array->name = arena_string(file->arena, key)))
      return status_code();
    Status status = json_is_object(json) ? read_tensor(json, data, bytes, array) : fail(E_MODEL, "is no object");
    if (status != OK) {
      status_context("tensor '%s' ", key);
      return status;
    }
    file->n_arrays++;
  }
  if (file->n_arrays)
    qsort(file->arrays, (size_t)file->n_arrays, sizeof *file->arrays, compare_places);
  return check_places(file, data, bytes);
}

static Status read_file(ArrayFile *file) {
  size_t bytes;
  uint64_t length = 0;
  json_t *header;
  json_error_t error;
  TRY(file_open(file->path, &file->descriptor, &bytes));
  file->stamp = file_stamp(file->descriptor);
  if (bytes < 8)
    return fail(E_MODEL, "is no safetensors file: %zu bytes", bytes);
  TRY(mapped_open(file->descriptor, 0, bytes, &file->map));
  for (int i = 8; i-- > 0;)
    length = length << 8 | file->map.data[i];
  if (length > bytes - 8 || length > MOST_HEADER_BYTES)
    return fail(E_MODEL, "is no safetensors file: a header of %llu bytes in a file of %zu", (unsigned long long)length,
                bytes);
  char *text = arena_alloc(file->arena, length + 1, 1);
  if (!text)
    return status_code();
  memcpy(text, file->map.data + 8, length);
  if (memchr(text, 0, length))
    return fail(E_MODEL, "is no safetensors file: its header has a zero byte");
  TRY(json_read(text, &header, &error));
  if (!header)
    return fail(E_MODEL, "is no safetensors file: its header is no JSON: %s", error.text);
  Status status = !json_is_object(header) ? fail(E_MODEL, "is no safetensors file: its header is no JSON object")
                                          : read_tensors(file, header, file->map.data + 8 + length, bytes - 8 - length);
  json_decref(header);
  return status == OK ? array_file_unchanged(file) : status;
}

Status safetensors_open(const char *path, ArrayFile *file) {
  *file = (ArrayFile){.arena = arena_create(), .descriptor = -1, .map.guard = -1};
  if (!file->arena)
    return status_code();
  Status status = (file->path = arena_string(file->arena, path)) ? read_file(file) : status_code();
  if (status != OK) {
    status_context("%s: ", path);
    array_file_close(file);
  }
  return status;
}

/* How many bytes the character takes that begins here; 0: it is none of UTF-8. (RFC 3629, section 4.) */
static int character_bytes(const unsigned char *c) {
  int n = *c < 0x80 ? 1 : *c >= 0xc2 && *c < 0xe0 ? 2 : *c >= 0xe0 && *c < 0xf0 ? 3 : *c >= 0xf0 && *c < 0xf5 ? 4 : 0;
  for (int i = 1; i < n; i++)
    if ((c[i] & 0xc0) != 0x80)
      return 0;
  bool wrong = (*c == 0xe0 && c[1] < 0xa0) || (*c == 0xed && c[1] >= 0xa0) || (*c == 0xf0 && c[1] < 0x90) ||
               (*c == 0xf4 && c[1] >= 0x90);
  return wrong ? 0 : n;
}

Status safetensors_check_name(const char *name) {
  if (strcmp(name, metadata_key) == 0)
    return fail(E_MODEL, "a tensor of a safetensors file cannot be called '%s'", name);
  for (const unsigned char *c = (const unsigned char *)name; *c; c += character_bytes(c))
    if (!character_bytes(c))
      return fail(E_MODEL, "a tensor of a safetensors file cannot be called '%s', which is not UTF-8", name);
  return OK;
}

static void add_name(Text *text, const char *name) {
  text_add_char(text, '"');
  for (const char *c = name; *c; c++)
    if (*c == '"' || *c == '\\')
      text_add(text, "\\%c", *c);
    else if ((unsigned char)*c < 0x20)
      text_add(text, "\\u%04x", (unsigned)*c);
    else
      text_add_char(text, *c);
  text_add_char(text, '"');
}

/* The header with its length in front, padded so that the tensors begin aligned. `order`: where each array stands. */
static Status make_header(const Array *arrays, int n, const int *order, Text *text) {
  size_t at = 0;
  text_add_bytes(text, "\0\0\0\0\0\0\0\0", 8);
  text_add(text, "{\"%s\":{\"format\":\"pt\"}", metadata_key); /* what readers of the Hugging Face layout ask for */
  for (int i = 0; i < n; i++) {
    const Array *array = &arrays[order[i]];
    TRY(safetensors_check_name(array->name));
    if (!type_name(array->dtype))
      return fail(E_UNSUPPORTED, "safetensors have no %s, which '%s' is", dtype_name(array->dtype), array->name);
    text_add_char(text, ',');
    add_name(text, array->name);
    text_add(text, ":{\"dtype\":\"%s\",\"shape\":[", type_name(array->dtype));
    for (int d = 0; d < array->shape.rank; d++)
      text_add(text, "%s%lld", d ? "," : "", (long long)array->shape.dim[d]);
    text_add(text, "],\"data_offsets\":[%zu,%zu]}", at, at + array_bytes(array));
    at += array_bytes(array);
  }
  text_add_char(text, '}');
  while (!text->failed && text->length % 8)
    text_add_char(text, ' ');
  if (!text_whole(text))
    return status_code();
  for (int i = 0; i < 8; i++)
    text->data[i] = (char)((text->length - 8) >> 8 * i);
  return OK;
}

static Status put(FILE *stream, const void *data, size_t bytes, size_t *total, uLong *crc) {
  if (bytes && fwrite(data, 1, bytes, stream) != bytes)
    return fail(E_IO, "cannot be written: %s", strerror(errno));
  *crc = bytes ? crc32_z(*crc, data, bytes) : *crc;
  *total += bytes;
  return OK;
}

Status safetensors_write(FILE *stream, const Array *arrays, int n_arrays, size_t *bytes, uint32_t *crc) {
  int *order = malloc((size_t)n_arrays * sizeof *order + 1), n = 0;
  Text header = {0};
  size_t total = 0;
  uLong sum = crc32_z(0, NULL, 0);
  if (!order)
    return fail(E_MEMORY, "out of memory");
  for (size_t width = 8; width; width /= 2)
    for (int i = 0; i < n_arrays; i++)
      if (dtype_bytes(arrays[i].dtype) == width)
        order[n++] = i;
  Status status = make_header(arrays, n, order, &header);
  if (status == OK)
    status = put(stream, header.data, header.length, &total, &sum);
  for (int i = 0; i < n && status == OK; i++)
    status = put(stream, arrays[order[i]].data, array_bytes(&arrays[order[i]]), &total, &sum);
  text_free(&header);
  free(order);
  if (bytes)
    *bytes = total;
  if (crc)
    *crc = (uint32_t)sum;
  return status;
}

Status safetensors_file_write(const char *path, const Array *arrays, int n_arrays) {
  FileReplace file;
  TRY(file_replace_begin(path, &file));
  Status status = safetensors_write(file.stream, arrays, n_arrays, NULL, NULL);
  if (status == OK)
    return file_replace_commit(&file);
  status_context("%s: ", path);
  file_replace_abandon(&file);
  return status;
}
