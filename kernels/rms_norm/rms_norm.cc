#include "kernels/rms_norm/rms_norm.h"

#include <fmt/format.h>

#include <cmath>

#include "common/status_macros.h"
#include "kernels/dispatch.h"
#include "kernels/rms_norm/rms_norm_internal.h"

namespace sbora::kernels {
namespace {

using internal::Offset;

bool IsNoOp(int64_t rows, int64_t columns) { return rows == 0 || columns == 0; }

/// The one validation: `pointers` are those that the operation needs.
Status Check(int64_t rows, int64_t columns, int64_t stride, float epsilon,
             std::initializer_list<internal::NamedPointer> pointers) {
  if (columns < 0 || stride < columns || !internal::ValidExtent(rows, stride)) {
    return InvalidArgument("RMS_NORM_SHAPE", fmt::format("rows={}, columns={}, stride={}: negative, too large, or a stride "
                                                         "below the columns",
                                                         rows, columns, stride));
  }
  if (!std::isfinite(epsilon) || epsilon < 0) {
    return InvalidArgument("RMS_NORM_EPSILON", fmt::format("epsilon={} must be finite and not negative", epsilon));
  }
  if (IsNoOp(rows, columns)) return OkStatus();
  if (const char* bad = internal::BadPointer(pointers)) {
    return InvalidArgument("RMS_NORM_POINTER", fmt::format("{} is null or not aligned to its elements", bad));
  }
  return OkStatus();
}

}  // namespace

Status RmsNorm(Device device, const RmsNormArguments& a, Stream stream) {
  const size_t element = SizeOf(a.dtype);
  const bool adds = a.add_TH != nullptr || a.sum_TH != nullptr;
  SBORA_RETURN_IF_ERROR(Check(a.rows, a.columns, a.columns, a.epsilon,
                              {{"x", a.x_TH, element},
                               {"w", a.w_H, element},
                               {"y", a.y_TH, element},
                               {"inverse", a.inverse_T, sizeof(float)},
                               {"add", adds ? a.add_TH : a.x_TH, element},
                               {"sum", adds ? a.sum_TH : a.y_TH, element}}));
  if (IsNoOp(a.rows, a.columns)) return OkStatus();
  return internal::RunBackend<RmsNormArguments>({"RmsNorm", internal::RmsNormReference, internal::RmsNormCpu,
                                                 SBORA_CUDA_LAUNCHER(LaunchRmsNorm)},
                                                device, a, stream);
}

Status RmsNormBackward(Device device, const RmsNormBackwardArguments& a, Stream stream) {
  const size_t element = SizeOf(a.dtype);
  SBORA_RETURN_IF_ERROR(Check(a.rows, a.columns, a.columns, /*epsilon=*/0,
                              {{"x", a.x_TH, element},
                               {"w", a.w_H, element},
                               {"inverse", a.inverse_T, sizeof(float)},
                               {"grad", a.grad_TH, element},
                               {"add", a.add_TH == nullptr ? a.x_TH : a.add_TH, element},
                               {"dx", a.dx_TH, element}}));
  if (IsNoOp(a.rows, a.columns)) return OkStatus();
  return internal::RunBackend<RmsNormBackwardArguments>({"RmsNormBackward", internal::RmsNormBackwardReference,
                                                         internal::RmsNormBackwardCpu,
                                                         SBORA_CUDA_LAUNCHER(LaunchRmsNormBackward)},
                                                        device, a, stream);
}

Status RmsNormWeightGradient(Device device, const RmsNormWeightArguments& a, Stream stream) {
  const size_t element = SizeOf(a.dtype);
  SBORA_RETURN_IF_ERROR(Check(a.rows, a.columns, a.stride, /*epsilon=*/0,
                              {{"x", a.x_TH, element},
                               {"inverse", a.inverse_T, sizeof(float)},
                               {"grad", a.grad_TH, element},
                               {"dw", a.dw_H, sizeof(float)}}));
  if (IsNoOp(a.rows, a.columns)) return OkStatus();
  return internal::RunBackend<RmsNormWeightArguments>({"RmsNormWeightGradient", internal::RmsNormWeightGradientReference,
                                                       internal::RmsNormWeightGradientCpu,
                                                       SBORA_CUDA_LAUNCHER(LaunchRmsNormWeightGradient)},
                                                      device, a, stream);
}

RmsNormArguments Part(const RmsNormArguments& arguments, int64_t begin, int64_t end) {
  RmsNormArguments part = arguments;
  const size_t element = SizeOf(part.dtype);
  const int64_t skipped = begin * part.columns;
  part.rows = end - begin;
  part.x_TH = Offset(part.x_TH, skipped, element);
  part.add_TH = Offset(part.add_TH, skipped, element);
  part.sum_TH = Offset(part.sum_TH, skipped, element);
  part.y_TH = Offset(part.y_TH, skipped, element);
  part.inverse_T = Offset(part.inverse_T, begin, sizeof(float));
  return part;
}

RmsNormBackwardArguments Part(const RmsNormBackwardArguments& arguments, int64_t begin, int64_t end) {
  RmsNormBackwardArguments part = arguments;
  const size_t element = SizeOf(part.dtype);
  const int64_t skipped = begin * part.columns;
  part.rows = end - begin;
  part.x_TH = Offset(part.x_TH, skipped, element);
  part.grad_TH = Offset(part.grad_TH, skipped, element);
  part.add_TH = Offset(part.add_TH, skipped, element);
  part.dx_TH = Offset(part.dx_TH, skipped, element);
  part.inverse_T = Offset(part.inverse_T, begin, sizeof(float));
  return part;
}

RmsNormWeightArguments Part(const RmsNormWeightArguments& arguments, int64_t begin, int64_t end) {
  RmsNormWeightArguments part = arguments;
  const size_t element = SizeOf(part.dtype);
  part.columns = end - begin;
  part.x_TH = Offset(part.x_TH, begin, element);
  part.grad_TH = Offset(part.grad_TH, begin, element);
  part.dw_H = Offset(part.dw_H, begin, sizeof(float));
  return part;
}

}  // namespace sbora::kernels
