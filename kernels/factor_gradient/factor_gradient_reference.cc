#include "kernels/factor_gradient/factor_gradient_internal.h"

namespace sbora::kernels::internal {

void FactorGradientReference(const FactorGradientShape& shape, const float* left, const float* right, float scale, float* out) {
  for (int64_t m = 0; m < shape.rows; ++m) {
    for (int64_t n = 0; n < shape.columns; ++n) {
      double sum = 0;
      for (int64_t t = 0; t < shape.tokens; ++t) {
        sum += double{left[t * shape.left_stride + m]} * double{right[t * shape.right_stride + n]};
      }
      float& element = out[m * shape.out_stride + n];
      element = static_cast<float>(double{element} + double{scale} * sum);
    }
  }
}

}  // namespace sbora::kernels::internal
