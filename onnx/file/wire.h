/* The bytes of an ONNX file before protobuf-c sees them. Nobody outside onnx/ includes this.
 *
 * Invariant: what wire_scan lets through, protobuf-c unpacks without failing, in memory that is a small multiple of
 * the skeleton, at most WIRE_NESTING messages deep. */
#ifndef ONNX_FILE_WIRE_H
#define ONNX_FILE_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/arena.h"
#include "base/status.h"

enum {
  WIRE_NESTING = 100,           /* messages inside messages, as protobuf's own limit */
  WIRE_CUT_BYTES = 1024,        /* tensor contents longer than this stay out of the skeleton */
  WIRE_UNPACKED_FACTOR = 24,    /* unpacked bytes allowed for each byte of the skeleton, … */
  WIRE_UNPACKED_SPARE = 1 << 24 /* … and beyond */
};

/* Field numbers of TensorProto's contents. */
enum {
  TENSOR_FLOAT_DATA = 4,
  TENSOR_INT32_DATA = 5,
  TENSOR_STRING_DATA = 6,
  TENSOR_INT64_DATA = 7,
  TENSOR_RAW_DATA = 9,
  TENSOR_DOUBLE_DATA = 10,
  TENSOR_UINT64_DATA = 11
};

/* Contents of a tensor that the skeleton lacks. */
typedef struct {
  uint64_t offset, bytes; /* in the file: raw_data, or one packed typed field */
  int field;              /* TENSOR_RAW_DATA, TENSOR_FLOAT_DATA, … */
} WireCut;

typedef struct {
  uint8_t *skeleton; /* free() it after unpacking */
  size_t skeleton_bytes;
  WireCut *cuts; /* in the arena */
  size_t n_cuts;
  size_t unpacked_bytes; /* what unpacking allocates at most */
} WireScan;

/* One pass over a ModelProto: checks every tag, length, varint and string, and writes a skeleton without large tensor
 * contents, doc_strings and unknown fields. Fails E_MODEL with the byte where it went wrong, E_MEMORY. */
Status wire_scan(Arena *arena, const uint8_t *file, size_t bytes, WireScan *scan);

/* The index in WireScan.cuts of an unpacked TensorProto's contents, or -1: the skeleton holds them. */
int wire_cut_index(const ProtobufCMessage *tensor);

/* One field of a message. */
typedef struct {
  uint32_t number;
  int wire_type;
  size_t begin;   /* of the tag */
  size_t payload; /* of the value; behind the length where wire_type is PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED */
  size_t end;
} WireField;

/* The field at *at, which moves behind it. Fails E_MODEL naming `type` and the byte. */
Status wire_next(const uint8_t *file, size_t end, const char *type, size_t *at, WireField *field);

/* One varint; false when it is longer than ten bytes, exceeds 64 bits or runs into `end`. */
bool wire_varint(const uint8_t *file, size_t end, size_t *at, uint64_t *value);
/* Writes a varint of exactly `bytes` bytes (0: as few as possible); returns their number. */
size_t wire_put_varint(uint8_t *out, uint64_t value, size_t bytes);
size_t wire_varint_bytes(uint64_t value);

#endif
