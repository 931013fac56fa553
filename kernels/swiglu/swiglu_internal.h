/// Backends of swiglu.h: plain types, C++17. Arguments were checked; no-op cases never arrive here.
#pragma once

#include "kernels/swiglu/swiglu_arguments.h"

namespace sbora::kernels::internal {

void SwiGluReference(const SwiGluArguments& arguments);
void SwiGluBackwardReference(const SwiGluBackwardArguments& arguments);

void SwiGluCpu(const SwiGluArguments& arguments, VectorUnit unit);
void SwiGluBackwardCpu(const SwiGluBackwardArguments& arguments, VectorUnit unit);

/// Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchSwiGlu(const SwiGluArguments& arguments, void* stream);
const char* LaunchSwiGluBackward(const SwiGluBackwardArguments& arguments, void* stream);

}  // namespace sbora::kernels::internal
