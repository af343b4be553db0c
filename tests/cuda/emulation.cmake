# backend/cuda as host code, in a build that has no real one: emulated_cuda is what its tests link. Its kernels are compiled
# as C++ over emulate.h, its host's half over this folder's part of the CUDA runtime, of cuBLASLt and cuDNN.
include(CheckLanguage)
check_language(CXX)
if(ONNXPIPE_HAS_CUDA OR NOT CMAKE_CXX_COMPILER)
  return()
endif()
enable_language(CXX)

set(here ${CMAKE_CURRENT_SOURCE_DIR}/cuda)
set_source_files_properties(${CMAKE_SOURCE_DIR}/backend/cuda/blas.c ${CMAKE_SOURCE_DIR}/backend/cuda/cudnn_library.c
  PROPERTIES COMPILE_DEFINITIONS CUDA_LIBRARIES=".")
set_source_files_properties(${cuda_device_sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
add_library(emulated_cuda OBJECT EXCLUDE_FROM_ALL ${cuda_host_sources} ${cuda_device_sources}
  ${here}/emulate.cpp ${here}/runtime.cpp ${here}/graph.cpp ${here}/cublaslt.cpp ${here}/cudnn.cpp ${here}/linked.cpp)
# Programs that have the rooms' wires over NCCL, which is in the program itself, link these, too.
add_library(emulated_nccl OBJECT EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/runtime/transport/nccl.c
  ${CMAKE_SOURCE_DIR}/runtime/transport/nccl_library.c ${here}/nccl.cpp)
target_include_directories(emulated_nccl PRIVATE ${here} ${CMAKE_SOURCE_DIR})
target_compile_features(emulated_nccl PRIVATE cxx_std_17)
target_compile_definitions(emulated_nccl PRIVATE EMULATED ONNXPIPE_NCCL NCCL_FILES=NULL)
target_include_directories(emulated_cuda PUBLIC ${here} PRIVATE ${here}/linked ${CMAKE_SOURCE_DIR})
target_compile_features(emulated_cuda PRIVATE cxx_std_17)
target_compile_definitions(emulated_cuda PRIVATE EMULATED)
