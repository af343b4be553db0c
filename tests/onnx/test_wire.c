/* The wire scanner: what it refuses, what it leaves out, and that it foresees what unpacking takes. */
#include "tests/onnx/build.h"

static Status scan_bytes(const void *data, size_t bytes, WireScan *scan, Arena *arena) {
  /* a copy of exactly this size, so that reading behind the end is seen */
  uint8_t *copy = malloc(bytes ? bytes : 1);
  memcpy(copy, data, bytes);
  Status status = wire_scan(arena, copy, bytes, scan);
  free(copy);
  return status;
}

static void damage_is_named(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t n;
    const char *message;
  } cases[] = {
      {"\x08", 1, "byte 0: field 1 of ModelProto is not a valid varint"},
      {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, "byte 0: field 1 of ModelProto is not a valid varint"},
      {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, "byte 0: field 1 of ModelProto is not a valid varint"},
      {"\x00\x01", 2, "byte 0: no field of a ModelProto begins here: the file is damaged or no ONNX model"},
      {"\x80", 1, "byte 0: no field of a ModelProto begins here: the file is damaged or no ONNX model"},
      {"\xf8\xff\xff\xff\xff\x01\x01", 7,
       "byte 0: no field of a ModelProto begins here: the file is damaged or no ONNX model"},
      {"\x0a\x01x", 3, "byte 0: ir_version of ModelProto has wire type 2"},
      {"\x0d\x01\x02\x03", 4, "byte 0: field 1 of ModelProto is cut off"},
      {"\x0b", 1, "byte 0: field 1 of ModelProto has wire type 3, which ONNX does not use"},
      {"\x3a\x05\x0a\x01", 4,
       "byte 0: field 7 of ModelProto claims 5 bytes, 2 are left: the file is truncated or damaged"},
      {"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11,
       "byte 0: field 7 of ModelProto claims 18446744073709551615 bytes, 0 are left: the file is truncated or damaged"},
      {"\x3a\x80", 2, "byte 0: field 7 of ModelProto has no valid length"},
      {"\x3a\x02\x0a\x05", 4,
       "byte 2: field 1 of GraphProto claims 5 bytes, 0 are left: the file is truncated or damaged"},
      {"\x08\x07\x08\x07", 4, "byte 2: ir_version of ModelProto is there twice"},
      {"\x12\x02\xc3\x28", 4, "byte 2: producer_name of ModelProto is not valid UTF-8"},
      {"\x12\x02\xc0\x80", 4, "byte 2: producer_name of ModelProto is not valid UTF-8"},
      {"\x12\x03\xed\xa0\x80", 5, "byte 2: producer_name of ModelProto is not valid UTF-8"},
      {"\x12\x03xy\0", 5, "byte 2: producer_name of ModelProto is not valid UTF-8"},
      {"\x12\x01\xe2", 3, "byte 2: producer_name of ModelProto is not valid UTF-8"},
      {"\x3a\x07\x2a\x05\x22\x03\x01\x02\x03", 9, "byte 4: float_data of TensorProto has 3 bytes, not a multiple of 4"},
      {"\x3a\x05\x2a\x03\x3a\x01\x80", 7, "byte 7: int64_data of TensorProto holds an invalid number"},
      /* two members of one oneof: a dimension that is a number and a name */
      {"\x3a\x10\x5a\x0e\x12\x0c\x0a\x0a\x12\x08\x0a\x06\x08\x05\x12\x01\x62\x00", 18,
       "byte 14: dim_param of Dimension is there twice"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    WireScan scan;
    assert_int_equal(scan_bytes(cases[i].bytes, cases[i].n, &scan, arena), E_MODEL);
    assert_string_equal(status_message(), cases[i].message);
    arena_destroy(arena);
  }
}

/* `depth` messages in one another: graph, node, attribute, graph, node, attribute, … */
static Bytes nested(int depth) {
  static const int fields[] = {6, 1, 5};
  Bytes inner = {0};
  for (int level = depth - 2; level >= 0; level--) {
    Bytes outer = {0};
    put_message(&outer, level ? fields[level % 3] : 7, inner);
    inner = outer;
  }
  return inner;
}

static void nesting_is_bounded(void **state) {
  (void)state;
  for (int depth = WIRE_NESTING - 1; depth <= 3000; depth += depth == WIRE_NESTING + 1 ? 2500 : 1) {
    Arena *arena = arena_create();
    Bytes model = nested(depth);
    WireScan scan;
    Status status = scan_bytes(model.data, model.bytes, &scan, arena);
    assert_int_equal(status, depth <= WIRE_NESTING ? OK : E_MODEL);
    if (status == OK) {
      Onnx__ModelProto *proto = onnx__model_proto__unpack(NULL, scan.skeleton_bytes, scan.skeleton);
      assert_non_null(proto);
      onnx__model_proto__free_unpacked(proto, NULL);
      free(scan.skeleton);
    } else {
      assert_non_null(strstr(status_message(), "messages are nested more than 100 deep"));
    }
    free(model.data);
    arena_destroy(arena);
  }
}

static void unpacked_size_is_bounded(void **state) {
  (void)state;
  Arena *arena = arena_create();
  enum { NODES = 400000 };
  Bytes model = {0}, graph = {.data = malloc(2 * NODES), .bytes = 2 * NODES};
  for (int i = 0; i < NODES; i++)
    memcpy(graph.data + 2 * i, "\x0a\x00", 2);
  put_message(&model, 7, graph);
  WireScan scan;
  assert_int_equal(scan_bytes(model.data, model.bytes, &scan, arena), E_MODEL);
  assert_non_null(strstr(status_message(), "of structure, more than the"));
  free(model.data);
  arena_destroy(arena);
}

/* An allocator that knows how much is out. */
typedef struct {
  size_t now, peak;
} Meter;

static void *metered_alloc(void *data, size_t bytes) {
  Meter *meter = data;
  size_t *block = malloc(bytes + 16);
  *block = bytes;
  meter->now += bytes;
  meter->peak = meter->now > meter->peak ? meter->now : meter->peak;
  return (char *)block + 16;
}

static void metered_free(void *data, void *pointer) {
  if (!pointer)
    return;
  size_t *block = (size_t *)((char *)pointer - 16);
  ((Meter *)data)->now -= *block;
  free(block);
}

static void unpacking_takes_what_was_foreseen(void **state) {
  (void)state;
  for (int i = 0; i < N_REFERENCE_CASES; i++) {
    Arena *arena = arena_create();
    size_t bytes;
    uint8_t *file = read_file(reference_path(i, "model.onnx"), &bytes);
    WireScan scan;
    ASSERT_OK(scan_bytes(file, bytes, &scan, arena));
    assert_true(scan.skeleton_bytes <= bytes);
    Meter meter = {0};
    ProtobufCAllocator allocator = {.alloc = metered_alloc, .free = metered_free, .allocator_data = &meter};
    Onnx__ModelProto *proto = onnx__model_proto__unpack(&allocator, scan.skeleton_bytes, scan.skeleton);
    assert_non_null(proto);
    assert_true(meter.peak <= scan.unpacked_bytes);
    assert_true(scan.unpacked_bytes <= 4 * meter.peak);
    onnx__model_proto__free_unpacked(proto, &allocator);
    assert_int_equal(meter.now, 0);
    free(scan.skeleton);
    free(file);
    arena_destroy(arena);
  }
}

static void large_contents_are_cut_out(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Bytes graph = {0}, numbers = {0}, packed = tensor("n", 7, 1, (int64_t[]){600});
  for (int i = 0; i < 600; i++)
    put_number(&numbers, 1000);
  put_message(&packed, TENSOR_INT64_DATA, numbers);
  put_message(&graph, 5, weight("small", 256, 0, 0, 1));
  put_message(&graph, 5, weight("large", 257, 0, 0, 1));
  put_message(&graph, 5, packed);
  put_text(&graph, 10, "a doc_string, which the skeleton does not need");
  put_text(&graph, 999, "an unknown field");
  Bytes model = model_of(8, 18, graph);
  WireScan scan;
  ASSERT_OK(scan_bytes(model.data, model.bytes, &scan, arena));
  assert_int_equal(scan.n_cuts, 2);
  assert_int_equal(scan.cuts[0].bytes, 4 * 257);
  assert_int_equal(scan.cuts[0].field, TENSOR_RAW_DATA);
  assert_memory_equal(model.data + scan.cuts[0].offset + 4, &(float){1}, 4);
  assert_int_equal(scan.cuts[1].bytes, 1200);
  assert_int_equal(scan.cuts[1].field, TENSOR_INT64_DATA);
  assert_true(scan.skeleton_bytes < 1024 + 100);
  Onnx__ModelProto *proto = onnx__model_proto__unpack(NULL, scan.skeleton_bytes, scan.skeleton);
  assert_non_null(proto);
  assert_null(proto->graph->doc_string);
  assert_int_equal(proto->graph->base.n_unknown_fields, 0);
  assert_int_equal(wire_cut_index(&proto->graph->initializer[0]->base), -1);
  assert_int_equal(proto->graph->initializer[0]->raw_data.len, 1024);
  assert_int_equal(wire_cut_index(&proto->graph->initializer[1]->base), 0);
  assert_int_equal(proto->graph->initializer[1]->raw_data.len, 0);
  assert_string_equal(proto->graph->initializer[1]->name, "large");
  assert_int_equal(wire_cut_index(&proto->graph->initializer[2]->base), 1);
  onnx__model_proto__free_unpacked(proto, NULL);
  free(scan.skeleton);
  free(model.data);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(damage_is_named),
      cmocka_unit_test(nesting_is_bounded),
      cmocka_unit_test(unpacked_size_is_bounded),
      cmocka_unit_test(unpacking_takes_what_was_foreseen),
      cmocka_unit_test(large_contents_are_cut_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
