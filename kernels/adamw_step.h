/// A step of AdamW, for the operations that make one: plain types, C++17, since nvcc reads them too.
#pragma once

#include <cmath>
#include <cstdint>

namespace sbora::kernels {

struct AdamWStep {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double learning_rate = 0;
  int64_t step = 1;  ///< t, from 1
};

namespace internal {

/// What all elements of a step share. Each is a float64 expression of AdamWStep, rounded once.
struct AdamWFactors {
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float epsilon;
  float root_correction2;  ///< sqrt(1 - beta2^t)
  float keep;              ///< 1 - rate * decay
  float negative_rate;     ///< -rate / (1 - beta1^t)
};

inline AdamWFactors FactorsOf(const AdamWStep& step) {
  const auto t = static_cast<double>(step.step);
  return {static_cast<float>(step.beta1),
          static_cast<float>(1.0 - step.beta1),
          static_cast<float>(step.beta2),
          static_cast<float>(1.0 - step.beta2),
          static_cast<float>(step.epsilon),
          static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, t))),
          static_cast<float>(1.0 - step.learning_rate * step.weight_decay),
          static_cast<float>(-step.learning_rate / (1.0 - std::pow(step.beta1, t)))};
}

}  // namespace internal
}  // namespace sbora::kernels
