/* .npy headers. Invariant: the parser looks at no byte outside the header's stated length. */
#include "runtime/data/npy.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"

static const struct {
  const char *text;
  DType dtype;
} types[] = {{"f4", F32}, {"f8", F64}, {"f2", F16}, {"i8", I64}, {"i4", I32}, {"i2", I16},
             {"i1", I8},  {"u1", U8},  {"u2", U16}, {"u4", U32}, {"u8", U64}, {"b1", BOOL}},
  /* The bits of a bfloat16 or a float8, as Python's ml_dtypes are written. */
    bits[] = {{"V2", U16}, {"V1", U8}, {"f1", U8}};
enum { TYPES = sizeof types / sizeof *types, BITS = sizeof bits / sizeof *bits };

typedef struct {
  const char *at, *end;
} Cursor;

static void skip_space(Cursor *c) {
  while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
    c->at++;
}

static bool take(Cursor *c, char expected) {
  skip_space(c);
  if (c->at == c->end || *c->at != expected)
    return false;
  c->at++;
  return true;
}

/* A quoted string without escapes, at most size - 1 bytes. */
static bool take_string(Cursor *c, char *text, size_t size) {
  skip_space(c);
  if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
    return false;
  char quote = *c->at++;
  size_t n = 0;
  while (c->at < c->end && *c->at != quote && n + 1 < size)
    text[n++] = *c->at++;
  text[n] = '\0';
  return take(c, quote);
}

static bool take_word(Cursor *c, const char *word) {
  skip_space(c);
  size_t n = strlen(word);
  if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
    return false;
  c->at += n;
  return true;
}

static bool take_number(Cursor *c, int64_t *number) {
  skip_space(c);
  const char *first = c->at;
  *number = 0;
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
    if (!checked_mul_i64(*number, 10, number) || !checked_add_i64(*number, *c->at - '0', number))
      return false;
  return c->at > first;
}

static Status read_type(const char *text, DType *dtype) {
  if (text[0] == '>')
    return fail(E_MODEL, "type '%s' is big-endian: save it with .astype('<%s')", text, text + 1);
  const char *plain = text[0] == '<' || text[0] == '|' || text[0] == '=' ? text + 1 : text;
  for (int i = 0; i < TYPES; i++)
    if (strcmp(plain, types[i].text) == 0) {
      *dtype = types[i].dtype;
      return OK;
    }
  for (int i = 0; i < BITS; i++)
    if (strcmp(plain, bits[i].text) == 0) {
      *dtype = bits[i].dtype;
      return OK;
    }
  return fail(E_MODEL, "type '%s' is not a number type that is read here", text);
}

static Status read_shape(Cursor *c, Shape *shape) {
  *shape = (Shape){0};
  if (!take(c, '('))
    return fail(E_MODEL, "the header's shape is no tuple");
  while (!take(c, ')')) {
    int64_t dim;
    if (!take_number(c, &dim))
      return fail(E_MODEL, "the header's shape is no tuple of numbers");
    if (shape->rank == MAX_RANK)
      return fail(E_MODEL, "more than %d axes", MAX_RANK);
    shape->dim[shape->rank++] = dim;
    if (!take(c, ',')) {
      if (!take(c, ')'))
        return fail(E_MODEL, "the header's shape is no tuple of numbers");
      break;
    }
  }
  return OK;
}

/* "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }" */
static Status read_dictionary(Cursor c, DType *dtype, Shape *shape, bool *fortran) {
  bool has_type = false, has_order = false, has_shape = false;
  if (!take(&c, '{'))
    return fail(E_MODEL, "the .npy header is no dictionary");
  while (!take(&c, '}')) {
    char key[32], type[32];
    if (!take_string(&c, key, sizeof key) || !take(&c, ':'))
      return fail(E_MODEL, "the .npy header is no dictionary");
    if (strcmp(key, "descr") == 0) {
      skip_space(&c);
      if (c.at < c.end && *c.at == '[')
        return fail(E_MODEL, "a record type is not an array of numbers");
      if (!take_string(&c, type, sizeof type))
        return fail(E_MODEL, "the header's type is no string");
      TRY(read_type(type, dtype));
      has_type = true;
    } else if (strcmp(key, "fortran_order") == 0) {
      *fortran = take_word(&c, "True");
      if (!*fortran && !take_word(&c, "False"))
        return fail(E_MODEL, "the header's fortran_order is neither True nor False");
      has_order = true;
    } else if (strcmp(key, "shape") == 0) {
      TRY(read_shape(&c, shape));
      has_shape = true;
    } else {
      return fail(E_MODEL, "the .npy header has the unknown key '%s'", key);
    }
    if (!take(&c, ',') && !take(&c, '}'))
      return fail(E_MODEL, "the .npy header is no dictionary");
    else if (c.at[-1] == '}')
      break;
  }
  if (!has_type || !has_order || !has_shape)
    return fail(E_MODEL, "the .npy header lacks '%s'", !has_type ? "descr" : !has_order ? "fortran_order" : "shape");
  return OK;
}

Status npy_read_header(const unsigned char *bytes, size_t n, uint64_t total, DType *dtype, Shape *shape, bool *fortran,
                       size_t *begin) {
  if (n < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
    return fail(E_MODEL, "no .npy array");
  int major = bytes[6];
  if (major < 1 || major > 3 || (major > 1 && n < 12))
    return fail(E_MODEL, ".npy version %d is unknown", major);
  size_t front = major == 1 ? 10 : 12, length = bytes[8] | (size_t)bytes[9] << 8;
  if (major > 1)
    length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
  if (length > n - front)
    return fail(E_MODEL, "the .npy header of %zu bytes is cut off", length);
  const char *text = (const char *)bytes + front;
  TRY(read_dictionary((Cursor){text, text + length}, dtype, shape, fortran));
  size_t need;
  TRY(shape_bytes(*shape, *dtype, &need));
  *begin = front + length;
  if (total - *begin != need)
    return fail(E_MODEL, "%s %s needs %zu bytes, there are %llu", dtype_name(*dtype), SHAPE_STR(*shape), need,
                (unsigned long long)(total - *begin));
  return OK;
}

size_t npy_write_header(DType dtype, Shape shape, char header[NPY_HEADER_BYTES]) {
  const char *type = "";
  for (int i = 0; i < TYPES; i++)
    if (types[i].dtype == dtype)
      type = types[i].text;
  char *at = header + 10;
  size_t room = NPY_HEADER_BYTES - 10;
  int n = snprintf(at, room, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                   dtype_bytes(dtype) == 1 ? '|' : '<', type);
  for (int i = 0; i < shape.rank; i++)
    n += snprintf(at + n, room - (size_t)n, "%lld,%s", (long long)shape.dim[i], i + 1 < shape.rank ? " " : "");
  n += snprintf(at + n, room - (size_t)n, "), }");
  size_t length = ((size_t)n + 10 + 1 + 63) / 64 * 64; /* the elements begin at a multiple of 64 */
  memset(at + n, ' ', length - 10 - (size_t)n);
  header[length - 1] = '\n';
  memcpy(header, "\x93NUMPY\x01\x00", 8);
  header[8] = (char)((length - 10) & 255);
  header[9] = (char)((length - 10) >> 8);
  return length;
}
