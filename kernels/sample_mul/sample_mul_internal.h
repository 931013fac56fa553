/// Backends of sample_mul.h. Arguments were checked by CheckShape; no-op cases never arrive here.
#pragma once

#include "kernels/sample_mul/sample_mul.h"

namespace sbora::kernels::internal {

/// The one validation for every device.
Status CheckShape(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, const void* narrow_TR);

void GatherColumnsReference(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR);
void ScatterAddColumnsReference(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R,
                                const void* narrow_TR, float scale);
void WriteColumnsReference(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                           const float* factor_TR, float scale);

void GatherColumnsCpu(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR);
void ScatterAddColumnsCpu(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                          float scale);
void WriteColumnsCpu(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                     const float* factor_TR, float scale);

}  // namespace sbora::kernels::internal
