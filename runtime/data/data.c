/* Files of arrays, and the conversion of what is in them. Invariant: an array's data has as many bytes as its type and
 * shape say. */
#include "runtime/data/data.h"

#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "graph/narrow.h"
#include "runtime/data/internal.h"
#include "runtime/data/npy.h"

Status array_charge(uint64_t bytes, uint64_t *total) {
  uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
  *total += bytes;
  if (*total > memory)
    return fail(E_MEMORY, "the arrays up to here take %llu bytes, this machine has %llu", (unsigned long long)*total,
                (unsigned long long)memory);
  return OK;
}

/* The bytes in C order, in the arena: the file has the first axis run fastest. */
static Status turn(Arena *arena, Array *array, uint64_t *total) {
  const Shape s = array->shape;
  const char *from = array->data;
  size_t bytes, element = dtype_bytes(array->dtype), step[MAX_RANK], next = element, offset = 0;
  int64_t at[MAX_RANK] = {0};
  TRY(shape_bytes(s, array->dtype, &bytes));
  TRY(array_charge(bytes, total));
  char *to = arena_alloc(arena, bytes, 1);
  if (!to)
    return status_code();
  for (int i = 0; i < s.rank; i++, next *= (size_t)s.dim[i - 1])
    step[i] = next;
  for (size_t done = 0; done < bytes; done += element) {
    memcpy(to + done, from + offset, element);
    for (int i = s.rank - 1; i >= 0; i--) {
      offset += step[i];
      if (++at[i] < s.dim[i])
        break;
      offset -= step[i] * (size_t)s.dim[i];
      at[i] = 0;
    }
  }
  array->data = to;
  return OK;
}

Status array_file_reserve(ArrayFile *file, size_t n) {
  TRY(ARENA_NEW(file->arena, file->arrays, n));
  return ARENA_NEW(file->arena, file->was_fortran, n);
}

Status array_file_add(ArrayFile *file, const char *name, const uint8_t *bytes, uint64_t n, uint64_t *total) {
  Array *array = &file->arrays[file->n_arrays];
  size_t begin = 0;
  bool fortran = false;
  TRY(npy_read_header(bytes, n, n, &array->dtype, &array->shape, &fortran, &begin));
  array->name = name;
  array->data = bytes + begin;
  fortran &= array->shape.rank > 1;
  if (fortran)
    TRY(turn(file->arena, array, total));
  file->was_fortran[file->n_arrays++] = fortran;
  return OK;
}

/* One array, named after its file. */
static Status read_npy(ArrayFile *file) {
  const char *slash = strrchr(file->path, '/');
  char *name = arena_string(file->arena, slash ? slash + 1 : file->path);
  uint64_t total = 0;
  if (!name)
    return status_code();
  size_t length = strlen(name);
  if (length > 4 && strcmp(name + length - 4, ".npy") == 0)
    name[length - 4] = '\0';
  TRY(array_file_reserve(file, 1));
  return array_file_add(file, name, file->map.data, file->map.bytes, &total);
}

static Status map_file(ArrayFile *file) {
  size_t bytes;
  TRY(file_open(file->path, &file->descriptor, &bytes));
  file->stamp = file_stamp(file->descriptor);
  return bytes ? mapped_open(file->descriptor, 0, bytes, &file->map) : fail(E_MODEL, "is empty");
}

static Status open_file(ArrayFile *file, bool flat) {
  TRY(map_file(file));
  bool is_array = file->map.bytes > 6 && memcmp(file->map.data, "\x93NUMPY", 6) == 0;
  Status status = is_array ? read_npy(file) : flat ? OK : npz_read(file), unchanged = array_file_unchanged(file);
  return unchanged == OK ? status : unchanged;
}

static Status open_path(const char *path, bool flat, ArrayFile *file) {
  *file = (ArrayFile){.arena = arena_create(), .descriptor = -1, .map.guard = -1};
  if (!file->arena)
    return status_code();
  Status status = (file->path = arena_string(file->arena, path)) ? open_file(file, flat) : status_code();
  if (status != OK) {
    status_context("%s: ", path);
    array_file_close(file);
  }
  return status;
}

Status array_file_open(const char *path, ArrayFile *file) {
  return open_path(path, false, file);
}

Status array_file_open_flat(const char *path, ArrayFile *file) {
  return open_path(path, true, file);
}

void array_file_settle(ArrayFile *file) {
  spill_settle(&file->spill);
}

void array_file_close(ArrayFile *file) {
  if (file->arena && file->descriptor >= 0)
    close(file->descriptor);
  spill_close(&file->spill);
  mapped_close(&file->map);
  arena_destroy(file->arena);
  *file = (ArrayFile){0};
}

Status array_file_unchanged(const ArrayFile *file) {
  if (!file->map.base)
    return OK;
  TRY(file_unchanged(file->descriptor, &file->stamp));
  if (mapped_damaged(&file->spill.map))
    return fail(E_IO, "the file that it was inflated to became shorter while it was in use");
  return mapped_damaged(&file->map) ? fail(E_IO, "became shorter while it was in use") : OK;
}

const Array *array_find(const ArrayFile *file, const char *name) {
  for (int i = 0; i < file->n_arrays; i++)
    if (strcmp(file->arrays[i].name, name) == 0)
      return &file->arrays[i];
  return NULL;
}

static double load_float(const void *at, DType dtype) {
  float f;
  double d;
  uint16_t h;
  switch (dtype) {
  case F32:
    return memcpy(&f, at, sizeof f), f;
  case F64:
    return memcpy(&d, at, sizeof d), d;
  default: /* a narrow one */
    h = *(const uint8_t *)at;
    if (dtype_bytes(dtype) == 2)
      memcpy(&h, at, sizeof h);
    return narrow_value(dtype, h);
  }
}

static bool is_signed(DType dtype) {
  return dtype == I64 || dtype == I32 || dtype == I16 || dtype == I8;
}

static bool is_integer(DType dtype) {
  return is_signed(dtype) || dtype == U8 || dtype == U16 || dtype == U32 || dtype == U64;
}

/* Sign-extended bits of an integer of any type. */
static int64_t load_integer(const void *at, DType dtype) {
  int bytes = (int)dtype_bytes(dtype), shift = 64 - 8 * bytes;
  uint64_t bits = 0;
  memcpy(&bits, at, (size_t)bytes); /* hosts are little-endian */
  bits <<= shift;
  return is_signed(dtype) ? (int64_t)bits >> shift : (int64_t)(bits >> shift);
}

static Status convert_integer(const void *from, DType from_type, DType to_type, int64_t position, void *to) {
  int64_t value = load_integer(from, from_type);
  int bits = 8 * (int)dtype_bytes(to_type);
  bool negative = is_signed(from_type) && value < 0, fits;
  if (is_signed(to_type))
    fits = negative ? value >= INT64_MIN >> (64 - bits) : (uint64_t)value <= (uint64_t)INT64_MAX >> (64 - bits);
  else
    fits = !negative && (uint64_t)value <= UINT64_MAX >> (64 - bits);
  if (!fits && negative)
    return fail(E_MODEL, "value %lld at position %lld does not fit %s", (long long)value, (long long)position,
                dtype_name(to_type));
  if (!fits)
    return fail(E_MODEL, "value %llu at position %lld does not fit %s", (unsigned long long)value, (long long)position,
                dtype_name(to_type));
  memcpy(to, &value, (size_t)bits / 8);
  return OK;
}

static bool readable_float(DType dtype) {
  return dtype_is_float(dtype);
}

Status array_convert(const Array *array, int64_t first, int64_t count, DType dtype, void *data) {
  size_t from_bytes = dtype_bytes(array->dtype), to_bytes = dtype_bytes(dtype);
  const char *from = (const char *)array->data + (size_t)first * from_bytes;
  if (array->dtype == dtype) {
    if (count)
      memcpy(data, from, (size_t)count * to_bytes);
    return OK;
  }
  bool integers = is_integer(array->dtype) && is_integer(dtype);
  if (!integers && !(readable_float(array->dtype) && (dtype == F32 || dtype == F64)))
    return fail(E_SHAPE, "array '%s' is %s, which does not convert to %s", array->name, dtype_name(array->dtype),
                dtype_name(dtype));
  for (int64_t i = 0; i < count; i++) {
    char *to = (char *)data + (size_t)i * to_bytes;
    const char *at = from + (size_t)i * from_bytes;
    if (integers) {
      Status status = convert_integer(at, array->dtype, dtype, first + i, to);
      if (status != OK) {
        status_context("array '%s': ", array->name);
        return status;
      }
      continue;
    }
    double value = load_float(at, array->dtype);
    if (dtype == F64)
      memcpy(to, &value, sizeof value);
    else
      memcpy(to, &(float){(float)value}, sizeof(float));
  }
  return OK;
}

void array_store_as(Array *array, DType stored) {
  int64_t n = shape_elements(array->shape);
  float *numbers = (float *)array->data;
  if (!dtype_is_narrow(stored) || array->dtype != F32)
    return;
  if (stored == F16) {
    narrow_write(F16, numbers, n, numbers);
    array->dtype = F16;
  }
  for (int64_t i = 0; i < n && stored != F16; i++)
    numbers[i] = (float)narrow_value(stored, narrow_bits(stored, numbers[i], false));
}
