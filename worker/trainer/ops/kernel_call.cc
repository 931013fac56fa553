#include "worker/trainer/ops/kernel_call.h"

#include "common/check.h"
#ifdef SBORA_WITH_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace sbora::trainer::ops {
namespace {

thread_local bool use_references = false;

}  // namespace

ReferenceKernels::ReferenceKernels() { use_references = true; }
ReferenceKernels::~ReferenceKernels() { use_references = false; }

KernelPlace PlaceOf(const at::Tensor& tensor) {
  if (tensor.is_cpu()) {
    return {.device = use_references ? kernels::Device::kCpuReference : kernels::Device::kCpu, .stream = nullptr};
  }
#ifdef SBORA_WITH_CUDA
  if (tensor.is_cuda()) {
    return {.device = kernels::Device::kCuda, .stream = c10::cuda::getCurrentCUDAStream(tensor.get_device()).stream()};
  }
#endif
  SBORA_CHECK(false, "this build has no kernels for {}", tensor.device().str());
}

kernels::DType KernelDType(at::ScalarType type) {
  if (type == at::kFloat) return kernels::DType::kF32;
  if (type == at::kHalf) return kernels::DType::kF16;
  SBORA_CHECK(type == at::kBFloat16, "no kernel takes {}", c10::toString(type));
  return kernels::DType::kBF16;
}

}  // namespace sbora::trainer::ops
