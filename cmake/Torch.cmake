# LibTorch out of the pinned PyPI wheel that scripts/setup unpacks into ${SBORA_CACHE}/deps. Own imported targets:
# the wheel's TorchConfig.cmake pulls in all of CUDA, and a CPU build needs none of it.
#   sbora_torch   link this; carries include folders, ABI and RPATH
set(SBORA_TORCH_VERSION 2.11.0)
if(SBORA_WITH_CUDA)
  set(_torch_flavour cuda)
else()
  set(_torch_flavour cpu)
endif()
set(SBORA_TORCH_ROOT "${SBORA_CACHE}/deps/torch-${SBORA_TORCH_VERSION}-${_torch_flavour}" CACHE PATH
    "Folder that holds torch/ and nvidia/ side by side")
if(NOT EXISTS "${SBORA_TORCH_ROOT}/torch/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch is not at ${SBORA_TORCH_ROOT}. Run scripts/setup, or configure with -DSBORA_WITH_TORCH=OFF.")
endif()

set(_torch_lib "${SBORA_TORCH_ROOT}/torch/lib")
set(_cuda_lib "${SBORA_TORCH_ROOT}/nvidia/cu13/lib")
foreach(lib c10 torch_cpu)
  add_library(sbora_${lib} SHARED IMPORTED)
  set_target_properties(sbora_${lib} PROPERTIES IMPORTED_LOCATION "${_torch_lib}/lib${lib}.so")
endforeach()
add_library(sbora_torch INTERFACE)
# Behind the system's headers: the wheel carries another fmt (and other libraries' headers) than the one we link.
target_compile_options(sbora_torch INTERFACE "SHELL:-idirafter ${SBORA_TORCH_ROOT}/torch/include"
                                             "SHELL:-idirafter ${SBORA_TORCH_ROOT}/torch/include/torch/csrc/api/include")
target_link_libraries(sbora_torch INTERFACE sbora_torch_cpu sbora_c10 Threads::Threads)
if(SBORA_WITH_CUDA)
  # Nothing of ours calls into these: linked by force, their load registers the CUDA backend.
  target_link_options(sbora_torch INTERFACE "-Wl,--no-as-needed" "${_torch_lib}/libtorch.so" "${_torch_lib}/libtorch_cuda.so"
                                            "${_torch_lib}/libc10_cuda.so" "-Wl,--as-needed")
endif()
target_compile_definitions(sbora_torch INTERFACE USE_C10D_GLOO)
# at::parallel_for is a template of LibTorch's headers: compiled without OpenMP it runs on one thread, and nothing says so.
# The runtime is LibTorch's own.
target_compile_options(sbora_torch INTERFACE -fopenmp)
target_link_libraries(sbora_torch INTERFACE "${_torch_lib}/libgomp.so.1")
target_link_options(sbora_torch INTERFACE "-Wl,-rpath,${_torch_lib}" "-Wl,-rpath,${_cuda_lib}" -Wl,--allow-shlib-undefined)

# sbora_use_torch_pch(target): shares the precompiled LibTorch headers of worker/trainer/ops. Programs are compiled with
# -fPIC then, as libraries are: a precompiled header serves one setting only.
function(sbora_use_torch_pch target)
  target_precompile_headers(${target} REUSE_FROM sbora_trainer_ops)
  get_target_property(_type ${target} TYPE)
  if(_type STREQUAL "EXECUTABLE")
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
endfunction()
