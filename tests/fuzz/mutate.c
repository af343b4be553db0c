/* A message as a tree of its fields. Invariant: a field is taken for a message where its contents parse as one. */
#include "tests/fuzz/mutate.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "onnx/file/wire.h"

enum { MOST_FIELDS = 20000, DEPTH = 24, TEXT = 48 };

typedef struct {
  uint32_t number;
  int wire_type;
  const uint8_t *contents; /* of a field that is no message; a varint's value is `value` */
  size_t bytes;
  uint64_t value;
  int first, next; /* fields inside it, fields behind it; -1: none */
  bool is_message;
} Field;

typedef struct {
  Field *fields;
  int n;
  uint64_t random;
} Tree;

static uint64_t draw(Tree *t, uint64_t n) {
  t->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
  uint64_t z = t->random;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (z ^ z >> 31) % n;
}

/* The fields of a message as a list; -2 where it is none or too large. */
static int parse(Tree *t, const uint8_t *data, size_t bytes, int depth) {
  int first = -1, last = -1, before = t->n;
  for (size_t at = 0; at < bytes;) {
    WireField f;
    if (t->n == MOST_FIELDS || wire_next(data, bytes, "message", &at, &f) != OK) {
      t->n = before;
      return -2;
    }
    int i = t->n++;
    t->fields[i] = (Field){.number = f.number, .wire_type = f.wire_type, .first = -1, .next = -1};
    Field *field = &t->fields[i];
    field->contents = data + f.payload;
    field->bytes = f.end - f.payload;
    if (f.wire_type == PROTOBUF_C_WIRE_TYPE_VARINT) {
      size_t from = f.payload;
      wire_varint(data, f.end, &from, &field->value);
    } else if (f.wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED && depth < DEPTH && field->bytes > 1) {
      int inside = parse(t, field->contents, field->bytes, depth + 1);
      t->fields[i].is_message = inside != -2;
      t->fields[i].first = inside < 0 ? -1 : inside;
    }
    if (last >= 0)
      t->fields[last].next = i;
    else
      first = i;
    last = i;
  }
  return first;
}

static size_t list_bytes(const Tree *t, int field);

static size_t contents_bytes(const Tree *t, const Field *f) {
  if (f->wire_type == PROTOBUF_C_WIRE_TYPE_VARINT)
    return wire_varint_bytes(f->value);
  return f->is_message ? list_bytes(t, f->first) : f->bytes;
}

static size_t field_bytes(const Tree *t, const Field *f) {
  size_t bytes = contents_bytes(t, f), tag = wire_varint_bytes((uint64_t)f->number << 3 | (unsigned)f->wire_type);
  bool prefixed = f->wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
  return tag + bytes + (prefixed ? wire_varint_bytes(bytes) : 0);
}

static size_t list_bytes(const Tree *t, int field) {
  size_t bytes = 0;
  for (int i = field; i >= 0; i = t->fields[i].next)
    bytes += field_bytes(t, &t->fields[i]);
  return bytes;
}

static uint8_t *write_list(const Tree *t, int field, uint8_t *out) {
  for (int i = field; i >= 0; i = t->fields[i].next) {
    const Field *f = &t->fields[i];
    out += wire_put_varint(out, (uint64_t)f->number << 3 | (unsigned)f->wire_type, 0);
    if (f->wire_type == PROTOBUF_C_WIRE_TYPE_VARINT) {
      out += wire_put_varint(out, f->value, 0);
      continue;
    }
    if (f->wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
      out += wire_put_varint(out, contents_bytes(t, f), 0);
    if (f->is_message) {
      out = write_list(t, f->first, out);
    } else {
      memcpy(out, f->contents, f->bytes);
      out += f->bytes;
    }
  }
  return out;
}

/* Numbers that dimensions, types, axes, versions and counts trip over. */
static uint64_t draw_number(Tree *t, uint64_t was) {
  static const int64_t edges[] = {0,       1,         2,         3,         7,         8,        9,
                                  16,      -1,        -2,        INT32_MAX, INT64_MAX, 1 << 16,  1 << 20,
                                  1 << 30, 1ll << 40, 1ll << 62, INT64_MIN, INT32_MIN, -1000000, 1000003};
  switch (draw(t, 4)) {
  case 0:
    return was + 1 - draw(t, 3);
  case 1:
    return draw(t, 40);
  case 2:
    return was ^ 1ull << draw(t, 64);
  default:
    return (uint64_t)edges[draw(t, sizeof edges / sizeof *edges)];
  }
}

/* A field that is like this one (of its number, mostly), anywhere. */
static int draw_alike(Tree *t, int like) {
  for (int tries = 0; tries < 64; tries++) {
    int i = (int)draw(t, (uint64_t)t->n);
    if (t->fields[i].wire_type == t->fields[like].wire_type &&
        (t->fields[i].number == t->fields[like].number || !draw(t, 8)))
      return i;
  }
  return like;
}

/* Some bytes become others, the number of bytes perhaps too. */
static void change_bytes(Tree *t, Field *f, uint8_t *room) {
  size_t n = f->bytes < TEXT ? f->bytes : TEXT;
  memcpy(room, f->contents, n);
  if (n)
    room[draw(t, n)] = (uint8_t)draw(t, 256);
  if (n && draw(t, 2) == 0)
    n = draw(t, n + 1);
  f->contents = room;
  f->bytes = n;
}

static void change(Tree *t, uint8_t *room) {
  int i = (int)draw(t, (uint64_t)t->n);
  for (int tries = 0; tries < 3 && t->fields[i].is_message; tries++)
    i = (int)draw(t, (uint64_t)t->n);
  Field *f = &t->fields[i], was = *f;
  int other = draw_alike(t, i);
  switch (draw(t, 12)) {
  case 0: /* dropped: what follows comes in its place */
    if (was.next >= 0)
      *f = t->fields[was.next];
    return;
  case 1: /* doubled */
    if (t->n < MOST_FIELDS) {
      t->fields[t->n] = was;
      f->next = t->n++;
    }
    return;
  case 2: /* changes its place with the next */
    if (was.next >= 0) {
      Field next = t->fields[was.next];
      int after = next.next;
      t->fields[was.next] = was;
      t->fields[was.next].next = after;
      next.next = was.next;
      *f = next;
    }
    return;
  case 3:
    f->number = 1 + (uint32_t)draw(t, 26);
    return;
  default:
    break;
  }
  if (was.wire_type == PROTOBUF_C_WIRE_TYPE_VARINT) {
    f->value = draw(t, 3) ? draw_number(t, was.value) : t->fields[other].value;
  } else if (!was.is_message && draw(t, 3) == 0) {
    change_bytes(t, f, room);
  } else if (!t->fields[other].is_message) { /* a name, a type, a text, contents of elsewhere */
    f->contents = t->fields[other].contents;
    f->bytes = t->fields[other].bytes;
    f->is_message = false;
  }
}

size_t mutate_message(uint8_t *data, size_t bytes, size_t capacity, uint64_t seed) {
  enum { MOST_CHANGES = 6 };
  uint8_t room[MOST_CHANGES][TEXT], *copy = malloc(bytes + 1);
  Tree t = {.fields = malloc((MOST_FIELDS + 1) * sizeof *t.fields), .random = seed};
  size_t result = 0;
  if (copy && t.fields) {
    memcpy(copy, data, bytes);
    int first = parse(&t, copy, bytes, 0);
    if (first >= 0) {
      for (uint64_t i = 0, n = 1 + draw(&t, MOST_CHANGES); i < n; i++)
        change(&t, room[i]);
      result = list_bytes(&t, first);
      if (result <= capacity)
        write_list(&t, first, data);
      else
        result = 0;
    }
  }
  free(t.fields);
  free(copy);
  return result;
}
