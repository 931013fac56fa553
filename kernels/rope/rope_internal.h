/// Backends of rope.h: plain types, C++17. Arguments were checked; no-op cases never arrive here.
#pragma once

#include "kernels/rope/rope_arguments.h"

namespace sbora::kernels::internal {

void RopeReference(const RopeArguments& arguments);
void RopeCpu(const RopeArguments& arguments, VectorUnit unit);
/// Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchRope(const RopeArguments& arguments, void* stream);

}  // namespace sbora::kernels::internal
