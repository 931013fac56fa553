/// What adamw8bit.cc dispatches to; arguments are checked already.
#pragma once

#include "kernels/adamw8bit/adamw8bit.h"
#include "kernels/adamw8bit/adamw8bit_factors.h"

namespace sbora::kernels::internal {

void UpdateAdamW8BitCpu(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients,
                        const Moment8Bit& m, const Moment8Bit& v);
void UpdateAdamW32BitCpu(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients, float* m,
                         float* v);
void DequantizeMomentCpu(MomentKind kind, int64_t elements, const uint8_t* codes, const float* scales, float* values);

}  // namespace sbora::kernels::internal
