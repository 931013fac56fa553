/// What a forward pass must know beside its batch. Plain data.
#pragma once

#include <cstdint>

namespace sbora::trainer {

/// Dropout masks are f(seed, epoch, sample id, module, token position, feature): no generator state exists, so any
/// packing, world size and resume sees the same masks. With training = false there is no dropout and no graph.
struct TrainContext {
  bool training = false;
  uint64_t seed = 0;
  int64_t epoch = 0;
  bool input_gradient = false;          ///< nothing trains: the graph goes down to the first layer's q, k and v all the same
  bool gradient_checkpointing = false;  ///< keep each layer's input alone and compute it again in the backward pass
};

}  // namespace sbora::trainer
