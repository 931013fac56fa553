/// Backends of factor_gradient.h. Shapes were checked; no-op cases never arrive here.
#pragma once

#include "kernels/factor_gradient/factor_gradient.h"

namespace sbora::kernels::internal {

/// Sums in double, rounded once.
void FactorGradientReference(const FactorGradientShape& shape, const float* left, const float* right, float scale, float* out);
/// REQUIRED: AVX-512F.
void FactorGradientAvx512(const FactorGradientShape& shape, const float* left, const float* right, float scale, float* out);

}  // namespace sbora::kernels::internal
