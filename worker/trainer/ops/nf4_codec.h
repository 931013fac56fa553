/// The NF4 kernels (kernels/nf4/nf4.h) as core's merges and patches call them. Torch-free.
#pragma once

#include "core/nf4_merge.h"

namespace sbora::trainer {

/// On the CPU; `threads` share the blocks of a weight, whose bits do not depend on them. Its errors: INVALID_ARGUMENT
/// NF4_SCALE for values that are not finite, NF4_SHAPE when codes and scales are not those of `elements` weights.
core::Nf4Codec MakeNf4Codec(int threads);

}  // namespace sbora::trainer
