/// The trained part of the model: one small factor for each adapted linear layer, all in one flat buffer.
///
///     AdapterOptions options{.method = core::AdapterMethod::kSboraFa, .rank = 32, .alpha = 64, .dropout = 0.05};
///     options.modules = {{.layer = 0, .module = core::LinearModule::kQ, .index = index}};
///     SBORA_ASSIGN_OR_RETURN(auto adapter, AdapterSet::Create(config, options, at::kCPU));
///     model->ForwardLoss(batch, adapter.get(), context).backward();   // adds into adapter->gradients()
///
/// Optimiser, clipping, all-reduce and checkpoints see two contiguous float32 vectors, parameters() and gradients(),
/// laid out in the order in which a backward pass finishes them (last layer first; in a layer down, up, gate, o, v, k,
/// q). The views of one module alias them. Backward passes write the gradient views directly: no autograd leaf exists.
///
/// Ownership: owns all tensors; the model borrows it during a call. Threading: one thread at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"

namespace sbora::trainer {

struct AdapterModuleSpec {
  int64_t layer = 0;
  core::LinearModule module = core::LinearModule::kQ;
  std::vector<int32_t> index;  ///< [r] ascending, distinct; input columns for FA, output rows for FB
};

struct AdapterOptions {
  core::AdapterMethod method = core::AdapterMethod::kSboraFa;
  int64_t rank = 0;
  double alpha = 0;    ///< the update is scaled by alpha / rank
  double dropout = 0;  ///< in [0, 1); on the adapter's input only
  std::vector<AdapterModuleSpec> modules = {};  ///< in any order; each layer and module once
};

/// One adapted linear layer. Tensors alias the set's buffers.
struct AdapterModule {
  std::string name;  ///< core::ModulePath(layer, module)
  int64_t layer;
  core::LinearModule module;
  int64_t out_features;
  int64_t in_features;
  int64_t offset;      ///< of the first element in the flat buffers
  int64_t size;        ///< elements
  uint32_t dropout_id; ///< layer * 7 + module: keys the masks, so adding a target changes no other module's mask
  std::vector<int32_t> index;
  at::Tensor index_R;   ///< int32 on the device
  at::Tensor factor;    ///< f32: B [O, R] for FA, A [R, I] for FB; zeros at the start
  at::Tensor gradient;  ///< f32, same shape
};

class AdapterSet {
 public:
  /// Factors start at zero. Errors: INVALID_ARGUMENT (RANK_OUT_OF_RANGE, ALPHA_OUT_OF_RANGE, DROPOUT_OUT_OF_RANGE,
  /// TARGET_MODULES_EMPTY, TARGET_MODULE_DUPLICATE, LAYER_OUT_OF_RANGE, and those of core::CheckIndices); UNIMPLEMENTED
  /// (METHOD_UNIMPLEMENTED) for lora, dora and full.
  static StatusOr<std::unique_ptr<AdapterSet>> Create(const core::ModelConfig& config, const AdapterOptions& options,
                                                      at::Device device);

  core::AdapterMethod method() const { return method_; }
  int64_t rank() const { return rank_; }
  double scale() const { return scale_; }
  double dropout() const { return dropout_; }
  /// In backward order.
  const std::vector<AdapterModule>& modules() const { return modules_; }
  /// Null when that layer has no adapter.
  const AdapterModule* Find(int64_t layer, core::LinearModule module) const;

  /// [P] float32, contiguous. Write with in-place operations only: the module views alias it.
  const at::Tensor& parameters() const { return parameters_; }
  const at::Tensor& gradients() const { return gradients_; }
  int64_t parameter_count() const { return parameters_.numel(); }
  void ZeroGradients();

  /// W0 + the update, in float32 arithmetic, rounded once to w0_OI's dtype. Untouched columns or rows keep their bits.
  at::Tensor Merged(const AdapterModule& module, const at::Tensor& w0_OI) const;

  /// Called from the backward pass when the gradient of [offset, offset + size) has its contribution of this
  /// micro-batch. Empty: none. The loop starts all-reduces from it.
  void SetGradientReadyHook(std::function<void(const AdapterModule&)> hook) { gradient_ready_ = std::move(hook); }
  void NotifyGradientReady(const AdapterModule& module) const;

 private:
  AdapterSet() = default;

  core::AdapterMethod method_ = core::AdapterMethod::kSboraFa;
  int64_t rank_ = 0;
  double scale_ = 0;
  double dropout_ = 0;
  std::vector<AdapterModule> modules_;
  std::vector<int> by_linear_;  // layer * 7 + module -> position in modules_, or -1
  at::Tensor parameters_;
  at::Tensor gradients_;
  std::function<void(const AdapterModule&)> gradient_ready_;
};

}  // namespace sbora::trainer
