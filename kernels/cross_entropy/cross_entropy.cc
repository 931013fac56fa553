#include "kernels/cross_entropy/cross_entropy.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "kernels/cross_entropy/cross_entropy_internal.h"
#include "kernels/dispatch.h"

namespace sbora::kernels {
namespace {

bool IsNoOp(const CrossEntropyArguments& a) { return a.rows == 0 || a.columns == 0; }

/// The one validation.
Status Check(const CrossEntropyArguments& a) {
  if (a.columns < 0 || a.stride < a.columns || !internal::ValidExtent(a.rows, a.stride)) {
    return InvalidArgument("CROSS_ENTROPY_SHAPE", fmt::format("rows={}, columns={}, stride={}: negative, too large, or a "
                                                              "stride below the columns",
                                                              a.rows, a.columns, a.stride));
  }
  if (IsNoOp(a)) return OkStatus();
  if (const char* bad = internal::BadPointer({{"logits", a.logits_SV, SizeOf(a.dtype)},
                                              {"target", a.target_S, sizeof(int64_t)},
                                              {"loss", a.loss_S, sizeof(float)}})) {
    return InvalidArgument("CROSS_ENTROPY_POINTER", fmt::format("{} is null or not aligned to its elements", bad));
  }
  return OkStatus();
}

}  // namespace

Status CrossEntropy(Device device, const CrossEntropyArguments& a, Stream stream) {
  SBORA_RETURN_IF_ERROR(Check(a));
  if (IsNoOp(a)) return OkStatus();
  return internal::RunBackend<CrossEntropyArguments>({"CrossEntropy", internal::CrossEntropyReference,
                                                      internal::CrossEntropyCpu, SBORA_CUDA_LAUNCHER(LaunchCrossEntropy)},
                                                     device, a, stream);
}

CrossEntropyArguments Part(const CrossEntropyArguments& arguments, int64_t begin, int64_t end) {
  CrossEntropyArguments part = arguments;
  part.rows = end - begin;
  part.logits_SV = internal::Offset(part.logits_SV, begin * part.stride, SizeOf(part.dtype));
  part.target_S = internal::Offset(part.target_S, begin, sizeof(int64_t));
  part.loss_S = internal::Offset(part.loss_S, begin, sizeof(float));
  return part;
}

}  // namespace sbora::kernels
