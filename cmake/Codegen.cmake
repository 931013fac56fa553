# Protobuf and gRPC code out of proto/, plus the google/api, google/rpc and google/longrunning protos that scripts/setup
# takes from the googleapis-common-protos package.
find_package(Protobuf MODULE REQUIRED)
find_package(gRPC CONFIG REQUIRED)
set(SBORA_GOOGLEAPIS "${SBORA_CACHE}/deps/googleapis" CACHE PATH "Folder that holds google/rpc/status.proto")
if(NOT EXISTS "${SBORA_GOOGLEAPIS}/google/longrunning/operations.proto")
  message(FATAL_ERROR "The googleapis protos are not at ${SBORA_GOOGLEAPIS}. Run scripts/setup.")
endif()

# sbora_proto_library(NAME ROOT dir PROTOS a.proto ... [DEPS ...]): the messages, free of gRPC.
# sbora_grpc_library(NAME ROOT dir PROTOS a.proto ... DEPS ...): the services of the same files.
function(sbora_proto_library name)
  sbora_codegen(${name} "cpp_out" ".pb" "" ${ARGN})
  target_link_libraries(sbora_${name} PUBLIC protobuf::libprotobuf)
endfunction()

function(sbora_grpc_library name)
  sbora_codegen(${name} "grpc_out" ".grpc.pb" "--plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>" ${ARGN})
  target_link_libraries(sbora_${name} PUBLIC gRPC::grpc++)
endfunction()

function(sbora_codegen name flag suffix plugin)
  cmake_parse_arguments(ARG "" "ROOT" "PROTOS;DEPS" ${ARGN})
  set(out "${CMAKE_BINARY_DIR}/gen/${name}")
  file(MAKE_DIRECTORY "${out}")
  set(srcs)
  foreach(proto ${ARG_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem "${proto}")
    add_custom_command(
      OUTPUT "${out}/${stem}${suffix}.cc" "${out}/${stem}${suffix}.h"
      COMMAND protobuf::protoc "--${flag}=${out}" ${plugin} -I "${ARG_ROOT}" -I "${SBORA_GOOGLEAPIS}" "${ARG_ROOT}/${proto}"
      DEPENDS "${ARG_ROOT}/${proto}" VERBATIM)
    list(APPEND srcs "${out}/${stem}${suffix}.cc")
  endforeach()
  add_library(sbora_${name} STATIC ${srcs})
  add_library(sbora::${name} ALIAS sbora_${name})
  target_include_directories(sbora_${name} SYSTEM PUBLIC "${out}")
  target_compile_options(sbora_${name} PRIVATE -w -O1)
  target_link_libraries(sbora_${name} PUBLIC ${ARG_DEPS})
  set(deps ${ARG_DEPS})
  # Generated headers include each other: the order of generation follows the order of libraries.
  foreach(dep ${deps})
    if(TARGET ${dep})
      get_target_property(real ${dep} ALIASED_TARGET)
      if(real)
        add_dependencies(sbora_${name} ${real})
      endif()
    endif()
  endforeach()
endfunction()
