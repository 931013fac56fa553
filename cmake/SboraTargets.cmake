# sbora_library(NAME SRCS ... [DEPS ...] [PRIVATE_DEPS ...]): static library sbora_NAME with the alias sbora::NAME.
# sbora_executable(NAME SRCS ... DEPS ...): program NAME in build/bin.
# sbora_test(NAME SRCS ... DEPS ... LABEL unit|contract|integration|numerics|gpu [TIMEOUT seconds]): one GoogleTest
#   program, one ctest entry. Data for tests is found through SBORA_SOURCE_DIR and SBORA_BINARY_DIR.

# ccache hits across checkouts and build folders: paths below the checkout count as relative, and precompiled headers are
# taken at their word.
find_program(SBORA_CCACHE ccache)
if(SBORA_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${SBORA_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
find_program(SBORA_MOLD mold)
if(SBORA_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# OFF for a compiler that nobody has tried yet, where a new warning should not end a measurement.
option(SBORA_WARNINGS_AS_ERRORS "Refuse code that the compilers warn of" ON)
add_library(sbora_options INTERFACE)
target_compile_features(sbora_options INTERFACE cxx_std_20)
target_compile_options(sbora_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wno-sign-conversion
                                               -Wswitch-enum>)
if(SBORA_WARNINGS_AS_ERRORS)
  target_compile_options(sbora_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
target_include_directories(sbora_options INTERFACE "${CMAKE_SOURCE_DIR}")

function(sbora_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(sbora_${name} STATIC ${ARG_SRCS})
  add_library(sbora::${name} ALIAS sbora_${name})
  target_link_libraries(sbora_${name} PUBLIC ${ARG_DEPS} PRIVATE sbora_options ${ARG_PRIVATE_DEPS})
  target_include_directories(sbora_${name} PUBLIC "${CMAKE_SOURCE_DIR}")
endfunction()

function(sbora_executable name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE sbora_options ${ARG_DEPS})
endfunction()

function(sbora_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SRCS;DEPS" ${ARGN})
  if(NOT SBORA_BUILD_TESTS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)  # for a hang; a test that takes a second takes a minute where other programs have the disk
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE sbora_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE SBORA_SOURCE_DIR="${CMAKE_SOURCE_DIR}" SBORA_BINARY_DIR="${CMAKE_BINARY_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
