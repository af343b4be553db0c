# What users get: the shared library, the program on top of it, the pages made from the program's own tables, and
# `cmake --install`. Whoever links with the library sees onnxpipe_* and nothing else.
include(GNUInstallDirs)
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
file(RELATIVE_PATH library_from_program /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
set(CMAKE_INSTALL_RPATH "$ORIGIN/${library_from_program}")

add_library(libonnxpipe SHARED $<TARGET_OBJECTS:room_runtime>)
target_link_libraries(libonnxpipe PRIVATE room_onnx room_partitioner room_backend PkgConfig::LIBZIP)
if(ONNXPIPE_MPI)
  target_link_libraries(libonnxpipe PRIVATE MPI::MPI_C)
endif()
target_include_directories(libonnxpipe INTERFACE ${CMAKE_SOURCE_DIR})
set_target_properties(libonnxpipe PROPERTIES OUTPUT_NAME onnxpipe VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C)

file(GLOB tool_sources CONFIGURE_DEPENDS tools/*.c)
add_executable(onnxpipe ${tool_sources})
target_link_libraries(onnxpipe PRIVATE libonnxpipe)

# The manual page and the completion: templates filled in from the tables that the program parses and helps with.
add_executable(onnxpipe_pages tools/pages/pages.c tools/help.c)
target_link_libraries(onnxpipe_pages PRIVATE libonnxpipe)
function(page output template)
  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/${output}
    COMMAND onnxpipe_pages ${CMAKE_SOURCE_DIR}/${template} ${CMAKE_BINARY_DIR}/${output}
    DEPENDS onnxpipe_pages ${CMAKE_SOURCE_DIR}/${template})
endfunction()
page(onnxpipe.1 docs/onnxpipe.1.in)
page(onnxpipe.bash tools/pages/onnxpipe.bash.in)
add_custom_target(pages ALL DEPENDS ${CMAKE_BINARY_DIR}/onnxpipe.1 ${CMAKE_BINARY_DIR}/onnxpipe.bash)
add_dependencies(onnxpipe pages) # whoever builds the program alone can install

file(RELATIVE_PATH prefix_from_pkgconfig /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/onnxpipe.pc.in onnxpipe.pc @ONLY)

install(TARGETS onnxpipe libonnxpipe)
install(PROGRAMS tools/launch.sh TYPE BIN RENAME onnxpipe-launch)
install(FILES runtime/onnxpipe.h TYPE INCLUDE)
install(FILES ${CMAKE_BINARY_DIR}/onnxpipe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/onnxpipe.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${CMAKE_BINARY_DIR}/onnxpipe.bash
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME onnxpipe)
install(FILES README.md CHANGELOG.md LICENSE NOTICE docs/training.md TYPE DOC)
install(DIRECTORY examples TYPE DOC)
