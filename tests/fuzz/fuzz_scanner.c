/* Whatever the scanner lets through, protobuf-c unpacks. */
#include <stdlib.h>

#include "onnx.pb-c.h"
#include "onnx/file/wire.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  Arena *arena = arena_create();
  WireScan scan;
  if (arena && wire_scan(arena, data, bytes, &scan) == OK) {
    Onnx__ModelProto *model = onnx__model_proto__unpack(NULL, scan.skeleton_bytes, scan.skeleton);
    fuzz_check(model != NULL, "the scanner let through what protobuf-c refuses");
    onnx__model_proto__free_unpacked(model, NULL);
    free(scan.skeleton);
  }
  arena_destroy(arena);
  return 0;
}
