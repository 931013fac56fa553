/// Backends of adamw.h: plain types, C++17. Arguments were checked; no-op cases never arrive here.
#pragma once

#include "kernels/adamw/adamw_arguments.h"

namespace sbora::kernels::internal {

void UpdateAdamWReference(const AdamWArguments& arguments);
void UpdateAdamWCpu(const AdamWArguments& arguments, VectorUnit unit);
/// Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchUpdateAdamW(const AdamWArguments& arguments, void* stream);

}  // namespace sbora::kernels::internal
