# tenax_add_room(NAME SOURCES a.cc ... HEADERS a.h ... DEPS targets ...)
#
# A room is a folder, a namespace tenax::NAME, an include prefix and this target tenax_NAME. Headers are listed so that
# tests can compile each on its own (tests/lint).
function(tenax_add_room NAME)
  cmake_parse_arguments(ROOM "" "" "SOURCES;HEADERS;DEPS" ${ARGN})
  if(ROOM_SOURCES)
    add_library(tenax_${NAME} STATIC ${ROOM_SOURCES} ${ROOM_HEADERS})
    set(scope PUBLIC)
    target_link_libraries(tenax_${NAME} PRIVATE tenax_warnings)
  else()
    add_library(tenax_${NAME} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(tenax_${NAME} ${scope} ${PROJECT_SOURCE_DIR})
  target_link_libraries(tenax_${NAME} ${scope} ${ROOM_DEPS})
endfunction()

# tenax_add_test(ROOM SOURCES x_test.cc ... DEPS targets ... [LABELS word]): one GoogleTest program a room, each test
# listed by CTest and labelled with the word or, without one, with the room.
function(tenax_add_test ROOM)
  cmake_parse_arguments(T "" "" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT T_LABELS)
    set(T_LABELS ${ROOM})
  endif()
  add_executable(tenax_${ROOM}_test ${T_SOURCES})
  target_include_directories(tenax_${ROOM}_test PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(tenax_${ROOM}_test PRIVATE tenax_warnings ${T_DEPS} GTest::gtest GTest::gtest_main)
  gtest_discover_tests(tenax_${ROOM}_test DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 600 LABELS "${T_LABELS}")
endfunction()
