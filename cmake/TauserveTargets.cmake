# Functions that every folder's CMakeLists uses, so that warnings, sanitizers and names are set in one place.
include_guard(GLOBAL)

find_program(CCACHE ccache)
if(CCACHE)
  # Checkouts in different folders, the image's among them, have what they compile in common, debug information included.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
endif()

add_library(tauserve_options INTERFACE)
target_include_directories(tauserve_options INTERFACE ${PROJECT_SOURCE_DIR})
# -Wno-restrict: g++ 12 sees overlaps in std::string that can't be (its bug 105651).
target_compile_options(tauserve_options INTERFACE -Wall -Wextra -Werror -Wno-sign-compare
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
if(TAUSERVE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(TAUSERVE_SANITIZER)
  add_compile_options(-fsanitize=${TAUSERVE_SANITIZER} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TAUSERVE_SANITIZER})
  if(TAUSERVE_SANITIZER STREQUAL "thread")
    add_compile_options(-Wno-tsan)  # Abseil's flags have a fence, which the sanitizer does not follow
  endif()
endif()

# tauserve_library(name SOURCES a.cc ... DEPS lib ...): a static library; without SOURCES, headers only.
function(tauserve_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  if(arg_SOURCES)
    add_library(${name} STATIC ${arg_SOURCES})
    target_link_libraries(${name} PUBLIC ${arg_DEPS} PRIVATE $<BUILD_INTERFACE:tauserve_options>)
    target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${arg_DEPS})
    target_include_directories(${name} INTERFACE ${PROJECT_SOURCE_DIR})
  endif()
endfunction()

# tauserve_executable(name SOURCES a.cc ... DEPS lib ...)
function(tauserve_executable name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE tauserve_options ${arg_DEPS})
endfunction()

set(TAUSERVE_PYTHON ${PROJECT_SOURCE_DIR}/.venv/bin/python)

# tauserve_pytest(name TIMEOUT seconds FILES test_a.py ... [ENVIRONMENT A=b ...]): one ctest entry for files, or folders, of
# this folder. TAUSERVE_BIN_DIR says where the programs are.
function(tauserve_pytest name)
  cmake_parse_arguments(arg "" "TIMEOUT" "FILES;ENVIRONMENT" ${ARGN})
  list(TRANSFORM arg_FILES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  add_test(NAME ${name} COMMAND ${TAUSERVE_PYTHON} -m pytest -q -p no:cacheprovider ${arg_FILES})
  list(PREPEND arg_ENVIRONMENT TAUSERVE_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${arg_ENVIRONMENT}")
endfunction()

# tauserve_comparison(name SCRIPT compare.py TOOL target TIMEOUT seconds): a script that compares what a program of ours says
# with an independent implementation; it gets the program's path.
function(tauserve_comparison name)
  cmake_parse_arguments(arg "" "SCRIPT;TOOL;TIMEOUT" "" ${ARGN})
  add_test(NAME ${name}
    COMMAND ${TAUSERVE_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT} $<TARGET_FILE:${arg_TOOL}>
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT})
endfunction()

# tauserve_test(name SOURCES a_test.cc ... DEPS lib ... [TIMEOUT seconds] [THREADS]): a GoogleTest program, one ctest entry.
# THREADS: there is something in it for the thread sanitizer, whose build leaves all others out.
function(tauserve_test name)
  cmake_parse_arguments(arg "THREADS" "TIMEOUT" "SOURCES;DEPS;ENVIRONMENT" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  tauserve_executable(${name} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${arg_ENVIRONMENT}")
  if(arg_THREADS)
    set_tests_properties(${name} PROPERTIES LABELS threads)
  elseif(TAUSERVE_SANITIZER STREQUAL "thread")
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endfunction()
