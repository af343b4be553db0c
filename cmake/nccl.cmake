# Wires over NCCL, in a build with CUDA where NCCL's header lies beside the toolkit's or the system's (-DNCCL_INCLUDE_DIR=…
# elsewhere). The library is loaded when processes with devices of their own meet: runtime/transport/nccl_library.c.
# Sets ONNXPIPE_HAS_NCCL.
set(ONNXPIPE_HAS_NCCL OFF)
if(ONNXPIPE_HAS_CUDA)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(NCCL_INCLUDE_DIR)
    set(ONNXPIPE_HAS_NCCL ON)
    target_compile_definitions(room_runtime PRIVATE ONNXPIPE_NCCL)
    target_include_directories(room_runtime SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${NCCL_INCLUDE_DIR})
    set_source_files_properties(runtime/transport/nccl_library.c PROPERTIES COMPILE_DEFINITIONS
      CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
  else()
    message(STATUS "no NCCL: nccl.h is not there, devices of different processes exchange through the host's memory")
  endif()
endif()
