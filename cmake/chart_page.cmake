# partitioner/report/chart.html becomes `chart_page` in the program.
set(page ${CMAKE_SOURCE_DIR}/partitioner/report/chart.html)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${page})
file(READ ${page} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/chart_page.c CONTENT
  "extern const char chart_page[];\nconst char chart_page[] = {@bytes@ 0};\n" @ONLY)
target_sources(room_partitioner PRIVATE ${CMAKE_BINARY_DIR}/chart_page.c)
