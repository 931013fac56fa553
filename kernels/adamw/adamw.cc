#include "kernels/adamw/adamw.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "kernels/adamw/adamw_internal.h"
#include "kernels/adamw_check.h"
#include "kernels/dispatch.h"

namespace sbora::kernels {
namespace {

/// The one validation.
Status Check(const AdamWArguments& a) {
  if (!internal::InRange(a.step)) return InvalidArgument("ADAMW_STEP", internal::RangeOf(a.step));
  if (!internal::ValidExtent(1, a.elements) || !internal::ValidExtent(a.elements, 1)) {
    return InvalidArgument("ADAMW_SHAPE", fmt::format("{} elements: negative or too many", a.elements));
  }
  if (a.elements == 0) return OkStatus();
  const auto optional = [&](const float* pointer) { return pointer == nullptr ? a.m : pointer; };
  if (const char* bad = internal::BadPointer({{"parameters", a.parameters, sizeof(float)},
                                              {"gradients", a.gradients, sizeof(float)},
                                              {"m", a.m, sizeof(float)},
                                              {"v", a.v, sizeof(float)},
                                              {"gradient_factor", optional(a.gradient_factor), sizeof(float)},
                                              {"skip", optional(a.skip), sizeof(float)}})) {
    return InvalidArgument("ADAMW_POINTER", fmt::format("{} is null or not aligned to its elements", bad));
  }
  return OkStatus();
}

}  // namespace

Status UpdateAdamW(Device device, const AdamWArguments& a, Stream stream) {
  SBORA_RETURN_IF_ERROR(Check(a));
  if (a.elements == 0) return OkStatus();
  return internal::RunBackend<AdamWArguments>({"UpdateAdamW", internal::UpdateAdamWReference, internal::UpdateAdamWCpu,
                                               SBORA_CUDA_LAUNCHER(LaunchUpdateAdamW)},
                                              device, a, stream);
}

AdamWArguments Part(const AdamWArguments& arguments, int64_t begin, int64_t end) {
  AdamWArguments part = arguments;
  part.elements = end - begin;
  part.parameters = internal::Offset(part.parameters, begin, sizeof(float));
  part.gradients = internal::Offset(part.gradients, begin, sizeof(float));
  part.m = internal::Offset(part.m, begin, sizeof(float));
  part.v = internal::Offset(part.v, begin, sizeof(float));
  return part;
}

}  // namespace sbora::kernels
