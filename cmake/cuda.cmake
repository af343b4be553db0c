# The CUDA backend, where the toolkit is: ONNXPIPE_CUDA=AUTO (the default) builds it if there is one, ON insists, OFF
# leaves it out.
# Sets ONNXPIPE_HAS_CUDA. Device code is for the architectures of CMAKE_CUDA_ARCHITECTURES: by default what the toolkit
# knows of 8.0, 9.0, 10.0, and code that later ones translate when they load it.
set(ONNXPIPE_CUDA AUTO CACHE STRING "the CUDA backend: AUTO, ON, OFF")
set(ONNXPIPE_HAS_CUDA OFF)
file(GLOB cuda_host_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/backend/cuda/*.c)
file(GLOB cuda_device_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/backend/cuda/*.cu)

if(ONNXPIPE_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    find_package(CUDAToolkit REQUIRED)
    set(known "80-real;90-real;100")
    if(CUDAToolkit_VERSION VERSION_LESS 12.8)
      set(known "80-real;90")
    endif()
    set(CMAKE_CUDA_ARCHITECTURES "${known}" CACHE STRING "architectures that device code is made for")
    enable_language(CUDA)
    set(ONNXPIPE_HAS_CUDA ON)
  elseif(ONNXPIPE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ONNXPIPE_CUDA=ON, and there is no CUDA compiler: put nvcc on PATH or set CMAKE_CUDA_COMPILER")
  endif()
endif()

if(ONNXPIPE_HAS_CUDA)
  target_sources(room_backend PRIVATE ${cuda_host_sources} ${cuda_device_sources})
  target_compile_definitions(room_backend PUBLIC ONNXPIPE_CUDA)
  # what a target takes over when it is made, before the language was there
  set_target_properties(room_backend PROPERTIES CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}"
    CUDA_VISIBILITY_PRESET hidden)
  target_compile_options(room_backend PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++17;-Xcompiler=-Wall,-Wextra>")
  if(CUDAToolkit_VERSION_MAJOR EQUAL 13) # others warn of other things
    target_compile_options(room_backend PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
  endif()
  # draws have the host's bits, whose products and sums are rounded apart
  set_source_files_properties(backend/cuda/random.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
  target_include_directories(room_backend SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  set_source_files_properties(backend/cuda/blas.c backend/cuda/cudnn_library.c PROPERTIES COMPILE_DEFINITIONS
    CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
  # they are large: blas.c loads cuBLASLt when a device is opened, cudnn_library.c cuDNN for the first convolution
  target_link_libraries(room_backend PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
endif()
