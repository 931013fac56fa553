/// Backends of rms_norm.h: plain types, C++17. Arguments were checked; no-op cases never arrive here.
#pragma once

#include "kernels/rms_norm/rms_norm_arguments.h"

namespace sbora::kernels::internal {

void RmsNormReference(const RmsNormArguments& arguments);
void RmsNormBackwardReference(const RmsNormBackwardArguments& arguments);
void RmsNormWeightGradientReference(const RmsNormWeightArguments& arguments);

void RmsNormCpu(const RmsNormArguments& arguments, VectorUnit unit);
void RmsNormBackwardCpu(const RmsNormBackwardArguments& arguments, VectorUnit unit);
void RmsNormWeightGradientCpu(const RmsNormWeightArguments& arguments, VectorUnit unit);

/// Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchRmsNorm(const RmsNormArguments& arguments, void* stream);
const char* LaunchRmsNormBackward(const RmsNormBackwardArguments& arguments, void* stream);
const char* LaunchRmsNormWeightGradient(const RmsNormWeightArguments& arguments, void* stream);

}  // namespace sbora::kernels::internal
