# CUDA from the pinned PyPI wheels that scripts/setup --cuda unpacks beside LibTorch (or any toolkit of that layout, or
# CUDA's own, by SBORA_CUDA_ROOT). nvcc is called by custom commands: the wheels are no toolkit that
# CMake's CUDA language recognises.
#   sbora_cudart                           link this; headers and runtime
#   sbora_cuda_sources(target a.cu ...)    compiles the files for SBORA_CUDA_ARCHITECTURES and adds them to the target
include_guard(GLOBAL)
set(SBORA_CUDA_ROOT "${SBORA_CACHE}/deps/torch-2.11.0-cuda/nvidia/cu13" CACHE PATH "Folder that holds bin/nvcc, include and lib")
set(SBORA_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities to compile for")
find_program(SBORA_NVCC nvcc PATHS "${SBORA_CUDA_ROOT}/bin" NO_DEFAULT_PATH)
if(NOT SBORA_NVCC)
  message(FATAL_ERROR "nvcc is not at ${SBORA_CUDA_ROOT}/bin. Run scripts/setup --cuda, set SBORA_CUDA_ROOT, or configure "
                      "with -DSBORA_WITH_CUDA=OFF.")
endif()
find_library(SBORA_CUDART NAMES cudart libcudart.so.13 REQUIRED NO_DEFAULT_PATH
             PATHS "${SBORA_CUDA_ROOT}/lib64" "${SBORA_CUDA_ROOT}/lib" "${SBORA_CUDA_ROOT}/targets/x86_64-linux/lib")
get_filename_component(_cudart_dir "${SBORA_CUDART}" DIRECTORY)
add_library(sbora_cudart SHARED IMPORTED GLOBAL)
set_target_properties(sbora_cudart PROPERTIES IMPORTED_LOCATION "${SBORA_CUDART}")
target_include_directories(sbora_cudart SYSTEM INTERFACE "${SBORA_CUDA_ROOT}/include")
target_link_options(sbora_cudart INTERFACE "-Wl,-rpath,${_cudart_dir}")

set(_gencode)
foreach(arch ${SBORA_CUDA_ARCHITECTURES})
  list(APPEND _gencode "-gencode=arch=compute_${arch},code=sm_${arch}")
endforeach()
# And the newest as PTX, which the driver compiles for GPUs that came later.
list(GET SBORA_CUDA_ARCHITECTURES -1 _newest)
list(APPEND _gencode "-gencode=arch=compute_${_newest},code=compute_${_newest}")
set(SBORA_NVCC_FLAGS ${_gencode} -O3 -std=c++17 -Xcompiler=-fPIC,-Wall,-Wextra --expt-relaxed-constexpr
                     "-I${CMAKE_SOURCE_DIR}")
if(SBORA_WARNINGS_AS_ERRORS)
  list(APPEND SBORA_NVCC_FLAGS -Werror=all-warnings)
endif()

function(sbora_cuda_sources target)
  foreach(source ${ARGN})
    set(input "${CMAKE_CURRENT_SOURCE_DIR}/${source}")
    set(output "${CMAKE_CURRENT_BINARY_DIR}/${source}.o")
    add_custom_command(
      OUTPUT "${output}"
      COMMAND "${SBORA_NVCC}" ${SBORA_NVCC_FLAGS} -MD -MF "${output}.d" -c "${input}" -o "${output}"
      DEPENDS "${input}" DEPFILE "${output}.d" COMMENT "nvcc ${source}" VERBATIM)
    target_sources(${target} PRIVATE "${output}")
    set_source_files_properties("${output}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  endforeach()
endfunction()
