/// Backends of nf4.h. Arguments were checked; no-op cases never arrive here.
#pragma once

#include "kernels/nf4/nf4.h"

namespace sbora::kernels::internal {

/// The validations for every device, one for each operation.
Status CheckQuantize(int64_t elements, const void* weight, const void* codes, const void* scales);
Status CheckMatrix(const Nf4Matrix& matrix, const void* codes, const void* scales, const void* out_RC);
Status CheckScaleArguments(int64_t blocks, const void* scales, const void* scale_codes, const void* group_scales,
                           const void* offset);

void QuantizeNf4Reference(int64_t elements, DType dtype, const void* weight, uint8_t* codes, float* scales);
void DequantizeNf4Reference(const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out_RC);
void QuantizeScalesReference(int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales,
                             float* offset);
void DequantizeScalesReference(int64_t blocks, const uint8_t* scale_codes, const float* group_scales, float offset,
                               float* scales);

void QuantizeNf4Cpu(int64_t elements, DType dtype, const void* weight, uint8_t* codes, float* scales);
void DequantizeNf4Cpu(const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out_RC);
void QuantizeScalesCpu(int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales, float* offset);
void DequantizeScalesCpu(int64_t blocks, const uint8_t* scale_codes, const float* group_scales, float offset,
                         float* scales);

}  // namespace sbora::kernels::internal
