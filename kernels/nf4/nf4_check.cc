#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "kernels/nf4/nf4_internal.h"

namespace sbora::kernels {
namespace {

// 8 bytes an element stay addressable.
constexpr int64_t kMaxElements = std::numeric_limits<int64_t>::max() / 8;

Status CheckCount(const char* what, int64_t count) {
  if (count >= 0 && count <= kMaxElements) return OkStatus();
  return InvalidArgument("NF4_SHAPE", fmt::format("{}={} is outside [0, {}]", what, count, kMaxElements));
}

Status NullPointer(const char* what) { return InvalidArgument("NF4_POINTER", fmt::format("{} is null", what)); }

}  // namespace

Status CheckScales(std::span<const float> scales) {
  for (size_t i = 0; i < scales.size(); ++i) {
    if (std::isfinite(scales[i]) && scales[i] >= 0) continue;
    return InvalidArgument("NF4_SCALE",
                           fmt::format("scale[{}]={} must be finite and not negative: the weight's elements {} to {} hold "
                                       "a value that is not a number or not finite",
                                       i, scales[i], i * kNf4BlockSize, (i + 1) * kNf4BlockSize - 1));
  }
  return OkStatus();
}

namespace internal {

Status CheckQuantize(int64_t elements, const void* weight, const void* codes, const void* scales) {
  if (Status status = CheckCount("elements", elements); !status.ok() || elements == 0) return status;
  if (weight == nullptr) return NullPointer("weight");
  if (codes == nullptr) return NullPointer("codes");
  if (scales == nullptr) return NullPointer("scales");
  return OkStatus();
}

Status CheckMatrix(const Nf4Matrix& matrix, const void* codes, const void* scales, const void* out_RC) {
  for (const auto& [what, count] : {std::pair{"rows", matrix.rows}, {"columns", matrix.columns},
                                    {"first_element", matrix.first_element}}) {
    if (Status status = CheckCount(what, count); !status.ok()) return status;
  }
  if (matrix.rows == 0 || matrix.columns == 0) return OkStatus();
  if (matrix.stride < matrix.columns) {
    return InvalidArgument("NF4_STRIDE", fmt::format("stride={} must be at least columns={}", matrix.stride,
                                                     matrix.columns));
  }
  if (matrix.stride > kMaxElements / matrix.rows ||
      matrix.first_element > kMaxElements - matrix.rows * matrix.columns) {
    return InvalidArgument("NF4_SHAPE", fmt::format("rows={} of stride={} from element {} exceed {} elements",
                                                    matrix.rows, matrix.stride, matrix.first_element, kMaxElements));
  }
  if (codes == nullptr) return NullPointer("codes");
  if (scales == nullptr) return NullPointer("scales");
  if (out_RC == nullptr) return NullPointer("out");
  return OkStatus();
}

Status CheckScaleArguments(int64_t blocks, const void* scales, const void* scale_codes, const void* group_scales,
                           const void* offset) {
  if (Status status = CheckCount("blocks", blocks); !status.ok() || blocks == 0) return status;
  if (scales == nullptr) return NullPointer("scales");
  if (scale_codes == nullptr) return NullPointer("scale_codes");
  if (group_scales == nullptr) return NullPointer("group_scales");
  if (offset == nullptr) return NullPointer("offset");
  return OkStatus();
}

}  // namespace internal
}  // namespace sbora::kernels
