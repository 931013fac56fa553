#include "kernels/factor_gradient/factor_gradient.h"

#include <fmt/format.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/dispatch.h"
#include "kernels/factor_gradient/factor_gradient_internal.h"

namespace sbora::kernels {
namespace {

Status CheckShape(const FactorGradientShape& s) {
  if (s.tokens >= 0 && s.rows >= 0 && s.columns >= 0 && s.left_stride >= s.rows && s.right_stride >= s.columns &&
      s.out_stride >= s.columns) {
    return OkStatus();
  }
  return InvalidArgument("FACTOR_GRADIENT_SHAPE",
                         fmt::format("tokens={}, rows={}, columns={} with strides {}, {} and {}: extents must not be negative, "
                                     "and strides not below the rows' and columns' number",
                                     s.tokens, s.rows, s.columns, s.left_stride, s.right_stride, s.out_stride));
}

}  // namespace

bool HasFactorGradient(Device device) {
  switch (device) {
    case Device::kCpuReference: return true;
    case Device::kCpu: return internal::BestVectorUnit() == VectorUnit::kAvx512;
    case Device::kCuda: return false;
  }
  return false;
}

Status FactorGradient(Device device, const FactorGradientShape& shape, const float* left_TM, const float* right_TN,
                      float scale, float* out_MN) {
  SBORA_CHECK(HasFactorGradient(device), "device {} has no FactorGradient", static_cast<int>(device));
  SBORA_RETURN_IF_ERROR(CheckShape(shape));
  if (shape.tokens == 0 || shape.rows == 0 || shape.columns == 0) return OkStatus();
  if (device == Device::kCpuReference) {
    internal::FactorGradientReference(shape, left_TM, right_TN, scale, out_MN);
  } else {
    internal::FactorGradientAvx512(shape, left_TM, right_TN, scale, out_MN);
  }
  return OkStatus();
}

}  // namespace sbora::kernels
