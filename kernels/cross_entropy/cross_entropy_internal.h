/// Backends of cross_entropy.h: plain types, C++17. Arguments were checked; no-op cases never arrive here.
#pragma once

#include "kernels/cross_entropy/cross_entropy_arguments.h"

namespace sbora::kernels::internal {

void CrossEntropyReference(const CrossEntropyArguments& arguments);
void CrossEntropyCpu(const CrossEntropyArguments& arguments, VectorUnit unit);
/// Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchCrossEntropy(const CrossEntropyArguments& arguments, void* stream);

}  // namespace sbora::kernels::internal
