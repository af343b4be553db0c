/* The wire scanner: reads every byte that protobuf-c will read, before it does, and leaves the weights behind.
 * Invariant: nothing is read outside [begin, end) of the message at hand, and the estimate of what unpacking takes
 * never falls below what protobuf-c allocates. */
#include "onnx/file/wire.h"

#include <stdlib.h>
#include <string.h>

#include "onnx.pb-c.h"

/* A field number that TensorProto does not have: carries the index of the contents that were cut out. */
enum { CUT_FIELD = 1000 };

/* What malloc adds to an allocation, and what protobuf-c keeps for each field of a message while it unpacks it
 * beyond the sixteen on its stack (40 bytes, in slabs that double). */
enum { MALLOC_BYTES = 24, MEMBER_BYTES = 80, FREE_MEMBERS = 16 };

typedef struct {
  const uint8_t *file;
  WireScan *scan;
  Arena *arena;
  size_t out_capacity, cuts_capacity;
} Scanner;

size_t wire_varint_bytes(uint64_t value) {
  size_t bytes = 1;
  for (; value >= 0x80; value >>= 7)
    bytes++;
  return bytes;
}

size_t wire_put_varint(uint8_t *out, uint64_t value, size_t bytes) {
  if (!bytes)
    bytes = wire_varint_bytes(value);
  for (size_t i = 0; i < bytes; i++, value >>= 7)
    out[i] = (uint8_t)((value & 0x7f) | (i + 1 < bytes ? 0x80 : 0));
  return bytes;
}

bool wire_varint(const uint8_t *file, size_t end, size_t *at, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 70 && *at < end; shift += 7) {
    uint8_t byte = file[(*at)++];
    if (shift == 63 && byte > 1)
      return false;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80))
      return true;
  }
  return false;
}

Status wire_next(const uint8_t *file, size_t end, const char *type, size_t *at, WireField *field) {
  size_t begin = *at;
  uint64_t tag, length = 0;
  if (!wire_varint(file, end, at, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
    return fail(E_MODEL, "byte %zu: no field of a %s begins here: the file is damaged or no ONNX model", begin, type);
  *field = (WireField){.number = (uint32_t)(tag >> 3), .wire_type = (int)(tag & 7), .begin = begin, .payload = *at};
  size_t left = end - *at;
  switch (field->wire_type) {
  case PROTOBUF_C_WIRE_TYPE_VARINT:
    if (!wire_varint(file, end, at, &length))
      return fail(E_MODEL, "byte %zu: field %u of %s is not a valid varint", begin, field->number, type);
    break;
  case PROTOBUF_C_WIRE_TYPE_64BIT:
  case PROTOBUF_C_WIRE_TYPE_32BIT:
    length = field->wire_type == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : 4;
    if (length > left)
      return fail(E_MODEL, "byte %zu: field %u of %s is cut off", begin, field->number, type);
    *at += length;
    break;
  case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
    if (!wire_varint(file, end, at, &length))
      return fail(E_MODEL, "byte %zu: field %u of %s has no valid length", begin, field->number, type);
    left = end - *at;
    if (length > left)
      return fail(E_MODEL, "byte %zu: field %u of %s claims %llu bytes, %zu are left: the file is truncated or damaged",
                  begin, field->number, type, (unsigned long long)length, left);
    field->payload = *at;
    *at += length;
    break;
  default:
    return fail(E_MODEL, "byte %zu: field %u of %s has wire type %d, which ONNX does not use", begin, field->number,
                type, field->wire_type);
  }
  field->end = *at;
  return OK;
}

static Status reserve(Scanner *s, size_t bytes) {
  size_t need = s->scan->skeleton_bytes + bytes; /* both are at most the file's size */
  if (need <= s->out_capacity)
    return OK;
  size_t capacity = s->out_capacity * 2 > need ? s->out_capacity * 2 : need + 4096;
  uint8_t *grown = realloc(s->scan->skeleton, capacity);
  if (!grown)
    return fail(E_MEMORY, "out of memory: %zu bytes for the skeleton of the model", capacity);
  s->scan->skeleton = grown;
  s->out_capacity = capacity;
  return OK;
}

static Status put(Scanner *s, const void *data, size_t bytes) {
  TRY(reserve(s, bytes));
  memcpy(s->scan->skeleton + s->scan->skeleton_bytes, data, bytes);
  s->scan->skeleton_bytes += bytes;
  return OK;
}

static Status put_varint(Scanner *s, uint64_t value) {
  uint8_t bytes[10];
  return put(s, bytes, wire_put_varint(bytes, value, 0));
}

/* UTF-8 without NUL: names become C strings and JSON. */
static bool is_text(const uint8_t *text, size_t bytes) {
  for (size_t i = 0; i < bytes;) {
    uint8_t c = text[i++];
    int follow = c < 0x80 ? 0 : c < 0xc2 ? -1 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf5 ? 3 : -1;
    if (!c || follow < 0 || (size_t)follow > bytes - i)
      return false;
    uint32_t point = follow ? c & (0x3fu >> follow) : c;
    for (int k = 0; k < follow; k++, i++) {
      if ((text[i] & 0xc0) != 0x80)
        return false;
      point = point << 6 | (text[i] & 0x3f);
    }
    if ((follow == 2 && point < 0x800) || (follow == 3 && (point < 0x10000 || point > 0x10ffff)) ||
        (point >= 0xd800 && point < 0xe000))
      return false;
  }
  return true;
}

static int wire_type_of(ProtobufCType type) {
  switch (type) {
  case PROTOBUF_C_TYPE_FLOAT:
  case PROTOBUF_C_TYPE_FIXED32:
  case PROTOBUF_C_TYPE_SFIXED32:
    return PROTOBUF_C_WIRE_TYPE_32BIT;
  case PROTOBUF_C_TYPE_DOUBLE:
  case PROTOBUF_C_TYPE_FIXED64:
  case PROTOBUF_C_TYPE_SFIXED64:
    return PROTOBUF_C_WIRE_TYPE_64BIT;
  case PROTOBUF_C_TYPE_STRING:
  case PROTOBUF_C_TYPE_BYTES:
  case PROTOBUF_C_TYPE_MESSAGE:
    return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
  default:
    return PROTOBUF_C_WIRE_TYPE_VARINT;
  }
}

static size_t element_bytes(ProtobufCType type) {
  return type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : 8;
}

static bool is_contents(const ProtobufCFieldDescriptor *field) {
  return (field->type == PROTOBUF_C_TYPE_BYTES && field->id == TENSOR_RAW_DATA) ||
         (field->flags & PROTOBUF_C_FIELD_FLAG_PACKED);
}

/* Checks the numbers of a packed field and counts them into the estimate. */
static Status scan_packed(Scanner *s, const char *type, const ProtobufCFieldDescriptor *field, const WireField *at) {
  size_t bytes = at->end - at->payload, count = 0;
  int wire_type = wire_type_of(field->type);
  if (wire_type == PROTOBUF_C_WIRE_TYPE_VARINT) {
    uint64_t value;
    for (size_t i = at->payload; i < at->end; count++)
      if (!wire_varint(s->file, at->end, &i, &value))
        return fail(E_MODEL, "byte %zu: %s of %s holds an invalid number", i, field->name, type);
  } else {
    size_t width = wire_type == PROTOBUF_C_WIRE_TYPE_32BIT ? 4 : 8;
    if (bytes % width)
      return fail(E_MODEL, "byte %zu: %s of %s has %zu bytes, not a multiple of %zu", at->begin, field->name, type,
                  bytes, width);
    count = bytes / width;
  }
  s->scan->unpacked_bytes += count * element_bytes(field->type);
  return OK;
}

static Status cut(Scanner *s, const WireField *at) {
  WireScan *scan = s->scan;
  TRY(ARENA_RESERVE(s->arena, scan->cuts, scan->n_cuts, s->cuts_capacity, scan->n_cuts + 1));
  scan->cuts[scan->n_cuts] = (WireCut){.offset = at->payload, .bytes = at->end - at->payload, .field = (int)at->number};
  TRY(put_varint(s, CUT_FIELD << 3 | PROTOBUF_C_WIRE_TYPE_VARINT));
  TRY(put_varint(s, scan->n_cuts++));
  scan->unpacked_bytes += 2 * MALLOC_BYTES + sizeof(ProtobufCMessageUnknownField) + 8;
  return OK;
}

static Status scan_message(Scanner *s, const ProtobufCMessageDescriptor *type, size_t begin, size_t end, int depth);

/* A submessage: the length stands in front of what is not yet written, so it is filled in afterwards. It takes as
 * many bytes as the original's, since a message only shrinks. */
static Status scan_submessage(Scanner *s, const ProtobufCFieldDescriptor *field, const WireField *at, int depth) {
  size_t width = wire_varint_bytes(at->end - at->payload);
  TRY(put_varint(s, (uint64_t)field->id << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED));
  TRY(put(s, (uint8_t[10]){0}, width));
  size_t start = s->scan->skeleton_bytes;
  TRY(scan_message(s, field->descriptor, at->payload, at->end, depth + 1));
  wire_put_varint(s->scan->skeleton + start - width, s->scan->skeleton_bytes - start, width);
  return OK;
}

/* A known field of the right wire type, not cut out. */
static Status scan_field(Scanner *s, const char *type, const ProtobufCFieldDescriptor *field, const WireField *at,
                         int depth) {
  size_t bytes = at->end - at->payload;
  if (field->type == PROTOBUF_C_TYPE_MESSAGE)
    return scan_submessage(s, field, at, depth);
  if (field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_BYTES) {
    if (field->type == PROTOBUF_C_TYPE_STRING && !is_text(s->file + at->payload, bytes))
      return fail(E_MODEL, "byte %zu: %s of %s is not valid UTF-8", at->payload, field->name, type);
    s->scan->unpacked_bytes += bytes + 1 + MALLOC_BYTES;
  } else if (at->wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
    TRY(scan_packed(s, type, field, at));
  }
  TRY(put_varint(s, (uint64_t)field->id << 3 | (uint64_t)at->wire_type));
  if (at->wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
    TRY(put_varint(s, bytes));
  return put(s, s->file + at->payload, bytes);
}

/* Bit that stands for a field, or for the oneof that it belongs to. */
static uint64_t seen_bit(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *field) {
  unsigned i = (unsigned)(field - type->fields);
  if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
    for (i = 0; type->fields[i].quantifier_offset != field->quantifier_offset; i++)
      ;
  return 1ull << i;
}

static Status scan_message(Scanner *s, const ProtobufCMessageDescriptor *type, size_t begin, size_t end, int depth) {
  if (depth > WIRE_NESTING)
    return fail(E_MODEL, "byte %zu: messages are nested more than %d deep", begin, WIRE_NESTING);
  const char *name = type->short_name;
  bool is_tensor = type == &onnx__tensor_proto__descriptor, was_cut = false;
  uint64_t seen = 0;
  size_t members = 0;
  s->scan->unpacked_bytes += type->sizeof_message + MALLOC_BYTES;
  for (size_t at = begin; at < end;) {
    WireField wire;
    TRY(wire_next(s->file, end, name, &at, &wire));
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type, wire.number);
    if (!field || strcmp(field->name, "doc_string") == 0)
      continue;
    bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
    bool packed = repeated && wire.wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    if (wire.wire_type != wire_type_of(field->type) && !packed)
      return fail(E_MODEL, "byte %zu: %s of %s has wire type %d", wire.begin, field->name, name, wire.wire_type);
    uint64_t bit = seen_bit(type, field);
    if (seen & bit && !repeated)
      return fail(E_MODEL, "byte %zu: %s of %s is there twice", wire.begin, field->name, name);
    if (repeated)
      s->scan->unpacked_bytes += element_bytes(field->type) + (seen & bit ? 0 : MALLOC_BYTES);
    seen |= bit;
    if (++members > FREE_MEMBERS)
      s->scan->unpacked_bytes += MEMBER_BYTES;
    if (is_tensor && is_contents(field) && wire.end - wire.payload > WIRE_CUT_BYTES &&
        wire.wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
      if (was_cut)
        return fail(E_MODEL, "byte %zu: the contents of a tensor are in more than one piece", wire.begin);
      was_cut = true;
      TRY(cut(s, &wire));
    } else {
      TRY(scan_field(s, name, field, &wire, depth));
    }
  }
  return OK;
}

Status wire_scan(Arena *arena, const uint8_t *file, size_t bytes, WireScan *scan) {
  *scan = (WireScan){0};
  Scanner s = {.file = file, .scan = scan, .arena = arena};
  Status status = reserve(&s, 1);
  if (status == OK)
    status = scan_message(&s, &onnx__model_proto__descriptor, 0, bytes, 1);
  size_t limit = scan->skeleton_bytes * WIRE_UNPACKED_FACTOR + WIRE_UNPACKED_SPARE;
  if (status == OK && scan->unpacked_bytes > limit)
    status = fail(E_MODEL, "unpacking would take %zu bytes for %zu of structure, more than the %zu allowed",
                  scan->unpacked_bytes, scan->skeleton_bytes, limit);
  if (status != OK) {
    free(scan->skeleton);
    scan->skeleton = NULL;
  }
  return status;
}

int wire_cut_index(const ProtobufCMessage *tensor) {
  uint64_t value = 0;
  size_t at = 0;
  if (!tensor->n_unknown_fields ||
      !wire_varint(tensor->unknown_fields[0].data, tensor->unknown_fields[0].len, &at, &value))
    return -1;
  return (int)value;
}
