/// The trained part of the model: a few small tensors for each adapted linear layer, all in one flat buffer.
///
///     AdapterOptions options{.method = core::AdapterMethod::kLora, .rank = 32, .alpha = 64, .dropout = 0.05};
///     options.modules = {{.layer = 0, .module = core::LinearModule::kQ}};
///     SBORA_ASSIGN_OR_RETURN(auto adapter, AdapterSet::Create(config, options, at::kCPU));
///     const auto weight = [&](int64_t layer, auto module) { return model->Weight(layer, module); };
///     SBORA_RETURN_IF_ERROR(adapter->Initialize(seed, weight));
///     model->ForwardLoss(batch, adapter.get(), context).backward();   // adds into adapter->gradients()
///
/// The two flat vectors (trained_parameters.h) are laid out in the order in which a backward pass finishes them (last
/// layer first; in a layer down, up, gate, o, v, k, q; in a module as core::ModuleTensors lists them). The views of one
/// module alias them. Backward passes write the gradient views directly: no autograd leaf exists.
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
#include "worker/trainer/nn/trained_parameters.h"

namespace sbora::trainer {

struct AdapterModuleSpec {
  int64_t layer = 0;
  core::LinearModule module = core::LinearModule::kQ;
  std::vector<int32_t> index = {};  ///< SBoRA: [r] ascending, distinct; input columns for FA, output rows for FB
  int64_t rank = 0;                 ///< 0 for the options'
  double alpha = 0;                 ///< 0 for the options'
};

struct AdapterOptions {
  core::AdapterMethod method = core::AdapterMethod::kSboraFa;
  int64_t rank = 0;    ///< of modules that name none
  double alpha = 0;    ///< the same; the update is scaled by core::AdapterScale
  double dropout = 0;  ///< in [0, 1); on the adapter's input only
  bool rank_stabilized = false;
  core::FrozenFactor frozen_a = core::FrozenFactor::kNone;  ///< kLora only
  std::vector<AdapterModuleSpec> modules = {};              ///< in any order; each layer and module once
};

/// A tensor of one module, float32, of core::ModuleTensor's name and shape. Trained: `value` and `gradient` alias the
/// set's buffers from `offset` on. Frozen: `value` is the set's own and `gradient` is undefined.
struct AdapterTensor {
  core::ModuleTensor spec;
  int64_t offset = 0;
  at::Tensor value;
  at::Tensor gradient;
};

/// One adapted linear layer.
struct AdapterModule {
  std::string name;  ///< core::ModulePath(layer, module)
  int64_t layer = 0;
  core::LinearModule module = core::LinearModule::kQ;
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t rank = 0;
  double scale = 0;         ///< core::AdapterScale of its alpha and rank
  int64_t offset = 0;       ///< of the first trained element in the flat buffers
  int64_t size = 0;         ///< trained elements
  uint32_t dropout_id = 0;  ///< layer * 7 + module: keys the masks, so adding a target changes no other module's mask
  std::vector<int32_t> index = {};
  at::Tensor index_R = {};                  ///< int32 on the device; SBoRA only
  std::vector<AdapterTensor> tensors = {};  ///< of core::ModuleTensors, all but the index

  /// REQUIRED: the method has such a tensor. A [R, I], B [O, R], Magnitude [O].
  const AdapterTensor& Tensor(core::TensorRole role) const;
  const AdapterTensor& A() const { return Tensor(core::TensorRole::kA); }
  const AdapterTensor& B() const { return Tensor(core::TensorRole::kB); }
  const AdapterTensor& Magnitude() const { return Tensor(core::TensorRole::kMagnitude); }
};

class AdapterSet : public TrainedParameters {
 public:
  /// The base's [O, I] of a linear layer.
  using WeightOf = std::function<at::Tensor(int64_t layer, core::LinearModule module)>;

  /// All tensors start at zero: fill them from an artifact or with Initialize. Errors: INVALID_ARGUMENT
  /// (RANK_OUT_OF_RANGE, ALPHA_OUT_OF_RANGE, DROPOUT_OUT_OF_RANGE, FROZEN_FACTOR_METHOD, TARGET_MODULES_EMPTY,
  /// TARGET_MODULE_DUPLICATE, LAYER_OUT_OF_RANGE, INDICES_MISMATCH, METHOD_NO_ADAPTER for full, and those of
  /// core::CheckIndices).
  static StatusOr<std::unique_ptr<AdapterSet>> Create(const core::ModelConfig& config, const AdapterOptions& options,
                                                      at::Device device);

  /// What training starts from: A as core::DrawLoraA draws it, DoRA's magnitudes at the row norms of W0, all else zero,
  /// so that the adapted model is the base. SBoRA needs neither seed nor weight. `alive` is called before each module: large
  /// orthonormal factors take seconds each.
  /// Errors: INVALID_ARGUMENT ZERO_WEIGHT_ROW for DoRA when a row of W0 has no direction.
  Status Initialize(uint64_t seed, const WeightOf& weight, const std::function<void()>& alive = {});

  core::AdapterMethod method() const { return method_; }
  double dropout() const { return dropout_; }
  /// In backward order.
  const std::vector<AdapterModule>& modules() const { return modules_; }
  /// Null when that layer has no adapter.
  const AdapterModule* Find(int64_t layer, core::LinearModule module) const;

  /// DoRA: |W0 + s B A| of each output row, [O] float32, without forming the sum. Computed when the parameters have
  /// changed since the last call (one product of W0 with A^T), else remembered; so is |W0|. REQUIRED: the same w0_OI
  /// every time.
  at::Tensor RowNorms(const AdapterModule& module, const at::Tensor& w0_OI) const;

  /// What the adapted layer multiplies by, in float32 arithmetic, rounded once to w0_OI's dtype: W0 + s B A, for DoRA
  /// with its rows brought to the length m. SBoRA: untouched columns or rows keep their bits.
  at::Tensor Merged(const AdapterModule& module, const at::Tensor& w0_OI) const;

  /// Called from the backward pass when the gradient of [offset, offset + size) has its contribution of this
  /// micro-batch. Empty: none. The loop starts all-reduces from it.
  void SetGradientReadyHook(std::function<void(const AdapterModule&)> hook) { gradient_ready_ = std::move(hook); }
  void NotifyGradientReady(const AdapterModule& module) const;

 private:
  /// Of one module.
  struct NormCache {
    at::Tensor base_square_O;   // |W0|^2, f32
    at::Tensor norm_O;          // |W0 + s B A|, f32
    int64_t version = -1;       // of the parameters that norm_O belongs to
  };

  AdapterSet() = default;
  void AddModule(const core::ModelConfig& config, const AdapterOptions& options, AdapterModuleSpec spec);
  void Allocate(at::Device device);
  NormCache& Norms(const AdapterModule& module, const at::Tensor& w0_OI) const;
  at::Tensor MergedDense(const AdapterModule& module, const at::Tensor& w0_OI) const;

  core::AdapterMethod method_ = core::AdapterMethod::kSboraFa;
  core::FrozenFactor frozen_a_ = core::FrozenFactor::kNone;
  double dropout_ = 0;
  std::vector<AdapterModule> modules_;
  std::vector<int> by_linear_;  // layer * 7 + module -> position in modules_, or -1
  mutable std::vector<NormCache> norms_;  // as modules_; empty unless DoRA
  std::function<void(const AdapterModule&)> gradient_ready_;
};

}  // namespace sbora::trainer
