/* Arrays in .npz files. Invariant: what a file states is believed only after it was checked against the bytes that are
 * there; the directory of the zip is libzip's to judge. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include "base/checked.h"
#include "base/file.h"
#include "runtime/data/internal.h"
#include "runtime/data/npy.h"

/* Deflate makes at most this of one byte. */
enum { DEFLATE_RATIO = 1032 };

/* What is inflated is shared with other processes from so many bytes on. */
enum { SHARED_LEAST = 4 << 20 };

static uint64_t little(const unsigned char *at, int bytes) {
  uint64_t value = 0;
  for (int i = bytes; i-- > 0;)
    value = value << 8 | at[i];
  return value;
}

/* Where the central directory begins, by the record at the file's end; 0 where that is not plain. */
static uint64_t directory_offset(const unsigned char *map, size_t bytes) {
  for (size_t back = 22; back <= bytes && back < 22 + 65536; back++) {
    const unsigned char *end = map + bytes - back;
    if (little(end, 4) != 0x06054b50)
      continue;
    uint64_t at = little(end + 16, 4);
    if (at != UINT32_MAX)
      return at;
    if (back + 20 > bytes || little(end - 20, 4) != 0x07064b50)
      return 0;
    uint64_t wide = little(end - 12, 8);
    return wide < bytes && bytes - wide >= 56 && little(map + wide, 4) == 0x06064b50 ? little(map + wide + 48, 8) : 0;
  }
  return 0;
}

/* The local header's offset of a directory record: in the record, or in its zip64 field, behind the sizes that do not
 * fit either. UINT64_MAX where it is not there. */
static uint64_t local_offset(const unsigned char *record) {
  uint64_t at = little(record + 42, 4);
  if (at != UINT32_MAX)
    return at;
  const unsigned char *extra = record + 46 + little(record + 28, 2), *end = extra + little(record + 30, 2);
  while (end - extra >= 4) {
    uint64_t id = little(extra, 2), length = little(extra + 2, 2);
    uint64_t skip = 8 * ((little(record + 24, 4) == UINT32_MAX) + (uint64_t)(little(record + 20, 4) == UINT32_MAX));
    if (id == 1)
      return length >= skip + 8 && (uint64_t)(end - extra) >= 4 + length ? little(extra + 4 + skip, 8) : UINT64_MAX;
    if ((uint64_t)(end - extra) < 4 + length)
      break;
    extra += 4 + length;
  }
  return UINT64_MAX;
}

/* libzip does not tell where a member's bytes lie: for every stored member, offset[i], else 0. libzip has checked the
 * directory; whatever looks unusual here stays 0, and is read through libzip. */
static void find_stored(const unsigned char *map, size_t bytes, zip_int64_t n, uint64_t *offset) {
  uint64_t at = directory_offset(map, bytes);
  for (zip_int64_t i = 0; i < n; i++) {
    if (at == 0 || at > bytes || bytes - at < 46 || little(map + at, 4) != 0x02014b50)
      return;
    const unsigned char *record = map + at;
    uint64_t next = 46 + little(record + 28, 2) + little(record + 30, 2) + little(record + 32, 2);
    if (bytes - at < next)
      return;
    uint64_t local = local_offset(record);
    bool plain = little(record + 10, 2) == 0 && !(little(record + 8, 2) & 1); /* stored, not encrypted */
    if (plain && local < bytes && bytes - local >= 30 && little(map + local, 4) == 0x04034b50)
      offset[i] = local + 30 + little(map + local + 26, 2) + little(map + local + 28, 2);
    at += next;
  }
}

/* libzip calls failed allocations damage, or nothing. `errno` was 0 when the work on the file began. */
static Status fail_zip(Status code, const char *what, const char *reason) {
  return errno == ENOMEM ? fail(E_MEMORY, "%s: out of memory", what) : fail(code, "%s: %s", what, reason);
}

/* A member that is not mapped, whole, into memory of `size` bytes. Reading past its end makes libzip compare the
 * checksum. */
static Status inflate(zip_t *zip, zip_uint64_t index, uint64_t size, unsigned char *memory) {
  unsigned char beyond;
  zip_file_t *member = zip_fopen_index(zip, index, 0);
  if (!member)
    return fail_zip(E_MODEL, "cannot be read", zip_strerror(zip));
  uint64_t have = 0;
  zip_int64_t got = 1;
  while (have < size && (got = zip_fread(member, memory + have, size - have)) > 0)
    have += (uint64_t)got;
  if (got > 0)
    got = zip_fread(member, &beyond, 1);
  Status status = OK;
  if (got < 0)
    status = fail_zip(E_MODEL, "cannot be read", zip_file_strerror(member));
  else if (have < size || got > 0)
    status =
        fail(E_MODEL, "holds %s than the %llu bytes it states", got > 0 ? "more" : "less", (unsigned long long)size);
  zip_fclose(member);
  return status;
}

/* What a member may take, before anything is allocated for it. */
static Status check_size(const zip_stat_t *stat, const ArrayFile *file) {
  if (stat->comp_size > file->map.bytes)
    return fail(E_MODEL, "states %llu bytes in a file of %zu", (unsigned long long)stat->comp_size, file->map.bytes);
  if (stat->comp_method != ZIP_CM_STORE && stat->size / DEFLATE_RATIO > stat->comp_size + 1)
    return fail(E_MODEL, "states %llu bytes, more than %llu deflated ones can hold", (unsigned long long)stat->size,
                (unsigned long long)stat->comp_size);
  return OK;
}

/* Members of a zip, and where their bytes are found. */
typedef struct {
  zip_t *zip;
  zip_int64_t n;
  uint64_t *offset; /* [n]: in the file; 0: it has to be inflated */
  size_t *place;    /* [n]: then, among what is inflated */
} Archive;

static Status stat_member(const Archive *a, zip_int64_t i, zip_stat_t *stat) {
  if (zip_stat_index(a->zip, (zip_uint64_t)i, 0, stat) != 0)
    return fail(E_MODEL, "member %lld cannot be read: %s", (long long)i, zip_strerror(a->zip));
  if (!(stat->valid & ZIP_STAT_SIZE) || !(stat->valid & ZIP_STAT_COMP_SIZE) || !(stat->valid & ZIP_STAT_NAME))
    return fail(E_MODEL, "member %lld has no name or size", (long long)i);
  return OK;
}

/* Which members are inflated, and the *bytes that they take, each at a multiple of 64. */
static Status lay_out(const ArrayFile *file, Archive *a, size_t *bytes) {
  *bytes = 0;
  find_stored(file->map.data, file->map.bytes, a->n, a->offset);
  for (zip_int64_t i = 0; i < a->n; i++) {
    zip_stat_t stat;
    TRY(stat_member(a, i, &stat));
    uint64_t at = a->offset[i];
    if (at && stat.comp_size == stat.size && at <= file->map.bytes && stat.size <= file->map.bytes - at)
      continue;
    a->offset[i] = 0;
    a->place[i] = *bytes;
    Status status = check_size(&stat, file);
    if (status == OK && (!checked_add(*bytes, (stat.size + 63) / 64 * 64, bytes) || *bytes > INT64_MAX / 2))
      status = fail(E_MODEL, "the sizes up to here overflow");
    if (status != OK) {
      status_context("member '%s': ", stat.name);
      return status;
    }
  }
  return OK;
}

/* Inflates into memory that others will share, unless one of them has. */
static Status fill(ArrayFile *file, const Archive *a) {
  for (zip_int64_t i = 0; i < a->n; i++) {
    zip_stat_t stat;
    TRY(stat_member(a, i, &stat));
    Status status = a->offset[i] ? OK : inflate(a->zip, (zip_uint64_t)i, stat.size, file->spill.memory + a->place[i]);
    if (status != OK) {
      status_context("member '%s': ", stat.name);
      return status;
    }
  }
  return spill_finish(&file->spill);
}

/* A member's bytes: in the file, in what is shared, or inflated into the arena. */
static Status find_bytes(ArrayFile *file, const Archive *a, zip_int64_t i, uint64_t size, uint64_t *total,
                         const uint8_t **bytes) {
  if (a->offset[i] || file->spill.map.data) {
    *bytes = a->offset[i] ? file->map.data + a->offset[i] : file->spill.map.data + a->place[i];
    return OK;
  }
  TRY(array_charge(size, total));
  unsigned char *memory = arena_alloc(file->arena, size, 1);
  *bytes = memory;
  return memory ? inflate(a->zip, (zip_uint64_t)i, size, memory) : status_code();
}

static Status read_member(ArrayFile *file, const Archive *a, zip_int64_t i, uint64_t *total) {
  zip_stat_t stat;
  TRY(stat_member(a, i, &stat));
  size_t length = strlen(stat.name);
  if (length < 5 || strcmp(stat.name + length - 4, ".npy") != 0)
    return fail(E_MODEL, "member '%s' is no .npy array", stat.name);
  char *name = arena_string(file->arena, stat.name);
  if (!name)
    return status_code();
  name[length - 4] = '\0';
  if (array_find(file, name))
    return fail(E_MODEL, "member '%s' is there twice", stat.name);
  const uint8_t *bytes;
  Status status = find_bytes(file, a, i, stat.size, total, &bytes);
  if (status == OK)
    status = array_file_add(file, name, bytes, stat.size, total);
  if (status != OK)
    status_context("member '%s': ", stat.name);
  return status;
}

static Status read_members(ArrayFile *file, zip_t *zip) {
  Archive a = {.zip = zip, .n = zip_get_num_entries(zip, 0)};
  size_t bytes;
  uint64_t total = 0;
  if (a.n <= 0)
    return fail(E_MODEL, "holds no arrays");
  TRY(array_file_reserve(file, (size_t)a.n));
  TRY(ARENA_NEW(file->arena, a.offset, a.n));
  TRY(ARENA_NEW(file->arena, a.place, a.n));
  TRY(lay_out(file, &a, &bytes));
  if (bytes >= SHARED_LEAST && spill_open(file->arena, &file->stamp, bytes, &file->spill) == OK && file->spill.memory)
    TRY(fill(file, &a));
  errno = 0; /* where there is no room for a file, memory has to do */
  for (zip_int64_t i = 0; i < a.n; i++)
    TRY(read_member(file, &a, i, &total));
  return OK;
}

Status npz_read(ArrayFile *file) {
  zip_error_t error;
  zip_error_init(&error);
  errno = 0;
  zip_source_t *source = zip_source_buffer_create(file->map.data, file->map.bytes, 0, &error);
  zip_t *zip = source ? zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error) : NULL;
  if (!zip) {
    Status status = fail_zip(E_MODEL, "is no whole .npz file", zip_error_strerror(&error));
    zip_source_free(source);
    zip_error_fini(&error);
    return status;
  }
  Status status = read_members(file, zip);
  zip_discard(zip);
  zip_error_fini(&error);
  return status;
}

static Status add_member(Arena *arena, zip_t *zip, const Array *array) {
  char *header = arena_alloc(arena, NPY_HEADER_BYTES, 1), *name = arena_format(arena, "%s.npy", array->name);
  zip_buffer_fragment_t *parts;
  TRY(ARENA_NEW(arena, parts, 2));
  if (!header || !name)
    return status_code();
  size_t bytes;
  TRY(shape_bytes(array->shape, array->dtype, &bytes));
  parts[0] = (zip_buffer_fragment_t){(zip_uint8_t *)header, npy_write_header(array->dtype, array->shape, header)};
  parts[1] = (zip_buffer_fragment_t){(zip_uint8_t *)array->data, bytes};
  zip_source_t *source = zip_source_buffer_fragment(zip, parts, bytes ? 2 : 1, 0);
  zip_int64_t index = source ? zip_file_add(zip, name, source, ZIP_FL_ENC_UTF_8) : -1;
  /* a fixed time: the same arrays give the same bytes */
  if (index >= 0 && zip_set_file_compression(zip, (zip_uint64_t)index, ZIP_CM_STORE, 0) == 0 &&
      zip_file_set_dostime(zip, (zip_uint64_t)index, 0, 0x21, 0) == 0)
    return OK;
  Status status = fail_zip(E_IO, "cannot be added", zip_strerror(zip));
  status_context("array '%s': ", array->name);
  if (index < 0)
    zip_source_free(source);
  return status;
}

/* The archive into `aside`, through libzip. */
static Status write_archive(Arena *arena, const char *aside, const Array *arrays, int n_arrays) {
  int code = 0;
  errno = 0;
  zip_t *zip = zip_open(aside, ZIP_TRUNCATE | ZIP_CREATE, &code);
  if (!zip)
    return errno == ENOMEM ? fail(E_MEMORY, "out of memory") : fail(E_IO, "cannot be written (libzip error %d)", code);
  for (int i = 0; i < n_arrays; i++) {
    Status status = add_member(arena, zip, &arrays[i]);
    if (status != OK) {
      zip_discard(zip);
      return status;
    }
  }
  if (zip_close(zip) != 0) {
    Status status = fail_zip(E_IO, "cannot be written", zip_strerror(zip));
    zip_discard(zip);
    return status;
  }
  return OK;
}

Status array_file_write(const char *path, const Array *arrays, int n_arrays) {
  FileReplace file;
  TRY(file_replace_begin(path, &file));
  Arena *arena = arena_create();
  Status status = arena ? write_archive(arena, file.aside, arrays, n_arrays) : status_code();
  arena_destroy(arena);
  if (status == OK) { /* libzip has put a new file in the place of the one that was begun: this one is to be synced */
    int fresh = open(file.aside, O_RDONLY | O_CLOEXEC);
    if (fresh < 0 || fsync(fresh) != 0)
      status = fail(E_IO, "cannot be written: %s", strerror(errno));
    if (fresh >= 0)
      close(fresh);
  }
  if (status != OK) {
    status_context("%s: ", path);
    file_replace_abandon(&file);
    return status;
  }
  return file_replace_commit(&file);
}
