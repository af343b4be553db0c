# protoc-c makes C from the pinned schema at build time.
find_program(PROTOC_C protoc-c REQUIRED)
set(schema_dir ${CMAKE_BINARY_DIR}/schema)
add_custom_command(
  OUTPUT ${schema_dir}/onnx.pb-c.c ${schema_dir}/onnx.pb-c.h
  COMMAND ${CMAKE_COMMAND} -E make_directory ${schema_dir}
  COMMAND ${PROTOC_C} --c_out=${schema_dir} --proto_path=${CMAKE_SOURCE_DIR}/onnx onnx.proto
  DEPENDS ${CMAKE_SOURCE_DIR}/onnx/onnx.proto)
add_library(onnx_schema STATIC ${schema_dir}/onnx.pb-c.c)
target_compile_options(onnx_schema PRIVATE -w)
target_include_directories(onnx_schema SYSTEM PUBLIC ${schema_dir})
target_link_libraries(onnx_schema PUBLIC PkgConfig::PROTOBUF_C)
