/// A function whose intermediate tensors are not kept: gradient checkpointing.
///
///     at::Tensor y = ops::Recomputed(x, /*trains=*/true, [pass](const at::Tensor& x) { return Layer(*pass, x); });
///
/// The forward pass runs `run` without a graph and keeps x alone. The backward pass runs it again, with a graph, and goes
/// backward through that at once. `run` must give the same bits each time: then gradients are those of run(x) itself, bit
/// for bit. `trains`: whether `run` has weights that collect gradients, so that it is differentiated even when x requires
/// no gradient. Without grad mode, or when nothing is to be differentiated, this is run(x).
/// What `run` refers to must outlive the graph. Errors: those of `run`.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace sbora::trainer::ops {

at::Tensor Recomputed(const at::Tensor& x, bool trains, std::function<at::Tensor(const at::Tensor&)> run);

}  // namespace sbora::trainer::ops
