# onnx/lower/bodies.onnx becomes `operator_bodies` in the program.
set(bodies ${CMAKE_SOURCE_DIR}/onnx/lower/bodies.onnx)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${bodies})
file(READ ${bodies} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/operator_bodies.c CONTENT
  "#include <stddef.h>\nextern const unsigned char operator_bodies[];\nextern const size_t operator_bodies_bytes;\n\
const unsigned char operator_bodies[] = {@bytes@};\nconst size_t operator_bodies_bytes = sizeof operator_bodies;\n" @ONLY)
target_sources(room_onnx PRIVATE ${CMAKE_BINARY_DIR}/operator_bodies.c)
