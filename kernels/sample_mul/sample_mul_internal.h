/// Backends of sample_mul.h. Arguments were checked by CheckShape; no-op cases never arrive here.
#pragma once

#include "kernels/sample_mul/sample_mul.h"

namespace sbora::kernels::internal {

/// The one validation for every device.
Status CheckShape(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, const void* narrow_TR);

void GatherColumnsReference(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR);
void ScatterAddColumnsReference(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R,
                                const void* narrow_TR, float scale);

void GatherColumnsCpu(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR);
void ScatterAddColumnsCpu(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                          float scale);

/// Null on success, else CUDA's text (static storage). Plain C++ types only: the .cu file sees no Status.
const char* GatherColumnsCuda(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR,
                              Stream stream);
const char* ScatterAddColumnsCuda(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R,
                                  const void* narrow_TR, float scale, Stream stream);

}  // namespace sbora::kernels::internal
