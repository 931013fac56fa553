#include "worker/trainer/session/torch_runtime.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "worker/trainer/session/device_check.h"

namespace sbora::trainer {
namespace {

StatusOr<at::ScalarType> ResolveDtype(core::ComputeDtype dtype, at::Device device) {
  switch (dtype) {
    case core::ComputeDtype::kAuto:
      return device.is_cuda() ? at::kBFloat16 : at::kFloat;
    case core::ComputeDtype::kFloat32:
      return at::kFloat;
    case core::ComputeDtype::kBFloat16:
      if (device.is_cuda()) return at::kBFloat16;
      return Unimplemented("COMPUTE_DTYPE", "compute_dtype=bfloat16 is for CUDA devices; use float32 on a CPU");
  }
  return Internal("COMPUTE_DTYPE", "unknown compute dtype");
}

StatusOr<at::Device> CudaDevice(std::string_view name) {
  constexpr std::string_view kCuda = "cuda:";
  int index = -1;
  if (name.starts_with(kCuda)) {
    const std::string_view digits = name.substr(kCuda.size());
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (parsed.ptr != digits.data() + digits.size()) index = -1;
  }
  if (index < 0) {
    return InvalidArgument("DEVICE_UNKNOWN", fmt::format("device \"{}\" is neither \"cpu\" nor \"cuda:N\"", name));
  }
  const int devices = at::globalContext().hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (index >= devices) {
    return Unimplemented("DEVICE_UNAVAILABLE",
                         fmt::format("device \"{}\": this build on this machine has {} CUDA devices; use device cpu{}",
                                     name, devices, devices == 0 ? "" : fmt::format(" or cuda:0 to cuda:{}", devices - 1)));
  }
  const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(index));
  // Ours for good: kernels of our own are launched on the thread's current device.
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
  return device;
}

}  // namespace

StatusOr<TorchPlan> SetUpTorch(const DevicePlan& plan) {
  TorchPlan result;
  if (plan.device != "cpu") {
    SBORA_ASSIGN_OR_RETURN(result.device, CudaDevice(plan.device));
    // cuBLAS needs a fixed workspace to repeat its sums in the same order.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  }
  SBORA_ASSIGN_OR_RETURN(result.dtype, ResolveDtype(plan.dtype, result.device));
  if (plan.threads > 0) UseThreads(plan.threads);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
  if (!result.device.is_cpu()) {
    SBORA_RETURN_IF_ERROR(Guarded([&] { return CheckDevice({.device = result.device, .dtype = result.dtype}); }));
  }
  return result;
}

ComputePlace CurrentPlace(int64_t ranks, at::Device device, at::ScalarType dtype, core::ComputeForm form) {
  return {.ranks = ranks, .threads = at::get_num_threads(), .device = device.is_cuda() ? "cuda" : "cpu",
          .dtype = dtype == at::kBFloat16 ? "bfloat16" : "float32",
          .form = std::string(core::ComputeFormName(form))};
}

void UseThreads(int64_t threads) { at::set_num_threads(static_cast<int>(threads)); }

Status StatusFromCurrentException() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    return ResourceExhausted("OOM_GPU", fmt::format("the device ran out of memory; lower micro_batch_size or "
                                                    "cutoff_tokens: {}", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    // The CPU allocator has no exception type of its own.
    if (text.find("DefaultCPUAllocator: can't allocate memory") != std::string::npos) {
      return ResourceExhausted("OOM_HOST", fmt::format("the host ran out of memory; lower micro_batch_size or "
                                                       "cutoff_tokens: {}", text));
    }
    return Internal("TORCH_ERROR", error.what());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("OOM_HOST", "the host ran out of memory; lower micro_batch_size or cutoff_tokens");
  } catch (const std::exception& error) {
    return Internal("TRAINER_EXCEPTION", error.what());
  }
}

}  // namespace sbora::trainer
