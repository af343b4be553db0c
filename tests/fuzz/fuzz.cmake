# The harnesses of libFuzzer: tests/fuzz/run.sh builds and runs them.
foreach(what scanner importer bind)
  add_executable(fuzz_${what} tests/fuzz/fuzz_${what}.c tests/fuzz/fuzz.c tests/fuzz/mutate.c)
  target_link_libraries(fuzz_${what} PRIVATE room_onnx room_backend)
  target_link_options(fuzz_${what} PRIVATE -fsanitize=fuzzer)
endforeach()
