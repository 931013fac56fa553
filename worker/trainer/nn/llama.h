/// A LLaMA-family decoder with frozen weights and an optional adapter, or with all weights trained.
///
///     SBORA_ASSIGN_OR_RETURN(auto model, LlamaModel::Load(dir, {}));
///     LossResult loss = model->ForwardLoss(batch, adapter.get(), {.training = true, .seed = 1, .epoch = 0});
///     (loss.sum / global_count).backward();
///
/// Memory: frozen layers keep no activations beyond what their input gradient needs (norm inputs, gate and up, and
/// attention's q, k, v, output); what an adapted layer keeps beyond that, ops/*_linear.h say.
/// With TrainContext::gradient_checkpointing each layer keeps its input alone, and one layer at a time what the above
/// says; losses and gradients have the same bits either way. Logits exist for supervised rows only, a chunk at a time.
/// Types: weights and activations in Options::dtype (float32 on CPU), adapter factors, gradients and losses float32.
/// Linear weights of an NF4 base stay in 4 bits and are de-quantised for each use into one buffer as large as the
/// largest of them (ops/linear_weight.h).
/// Errors: construction returns Status. Compute calls throw c10::Error as LibTorch does (session.cc is the border);
/// broken batches abort (SBORA_CHECK): the token cache is validated before it gets here.
/// Threading: one call at a time; uses at::get_num_threads() threads. Deterministic per (build, machine, threads).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"
#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/nn/full_weights.h"
#include "worker/trainer/nn/kv_cache.h"
#include "worker/trainer/nn/packed_batch.h"
#include "worker/trainer/nn/train_context.h"

namespace sbora::trainer {

struct LayerPass;
template <typename Linear>
struct LlamaTensors;

struct LossResult {
  at::Tensor sum;  ///< f32 scalar: sum of -log p(target) over supervised rows; part of a graph when training
  int64_t count;   ///< supervised rows
};

class LlamaModel {
 public:
  struct Options {
    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;
    /// Load and Random: linear weights become NF4 one after the other, for speed and memory measurements. A run reads a
    /// folder that was made once (LoadNf4), which is nf4 whatever stands here.
    core::BaseQuantization quantization = {};
    /// Ticks after each tensor; for progress counters.
    std::function<void(int64_t tensors_done, int64_t tensors_total)> progress = nullptr;
    /// A sign of life: called after each layer of every forward pass, of training, scoring and generation alike, and
    /// after the backward pass of each linear layer whose weight is trained.
    std::function<void()> layer_done = nullptr;
  };

  /// Reads config.json and *.safetensors (one file, or shards with an index) as core's model import writes them.
  /// Errors: those of core::ModelFolder::Open, naming file and tensor; of QuantizeWeight. Running out of memory throws, as LibTorch does.
  static StatusOr<std::unique_ptr<LlamaModel>> Load(const std::filesystem::path& dir, const Options& options);

  /// Reads an NF4 base as core::WriteNf4Model makes it, or a merged one (core/nf4_merge.h).
  /// Errors: those of core::Nf4ModelFolder::Open. Running out of memory throws.
  static StatusOr<std::unique_ptr<LlamaModel>> LoadNf4(const std::filesystem::path& dir, const Options& options);

  /// Seeded uniform weights (standard deviation 0.02, norms 1), the same bits on every machine; for benchmarks and tests.
  static StatusOr<std::unique_ptr<LlamaModel>> Random(const core::ModelConfig& config, uint64_t seed,
                                                      const Options& options);
  ~LlamaModel();

  const core::ModelConfig& config() const;
  at::Device device() const;
  at::ScalarType dtype() const;

  /// [O, I] of one linear layer; the model's own tensor (changing it changes the model), or a copy of an NF4 weight.
  at::Tensor Weight(int64_t layer, core::LinearModule module) const;
  /// The checkpoint's tensors by Hugging Face name, in a fixed order; shares storage, except of NF4 weights, which are
  /// de-quantised copies. For merging and saving.
  std::vector<std::pair<std::string, at::Tensor>> NamedTensors() const;

  /// Bytes of all weights as they are kept.
  int64_t WeightBytes() const;

  /// Makes the model trainable itself: its weights move into one flat vector, which they alias from then on, and each
  /// training pass without an adapter adds to that vector's gradients. Once in a model's life.
  /// Errors: INVALID_ARGUMENT FULL_ON_QUANTIZED_BASE; UNIMPLEMENTED FULL_DTYPE unless the weights are float32.
  StatusOr<std::unique_ptr<FullWeights>> TrainAllWeights();

  /// Merges this adapter into the weights of its modules (ops/merged_weight.h) until EndMerged. Passes with it then cost no
  /// product beside the frozen ones; all else, passes with another adapter or none included, sees W0, as copies. Each
  /// adapted weight keeps a slice as large as its factor. REQUIRED: as MergedWeight; no adapter is merged.
  void BeginMerged(const AdapterSet& adapter);
  /// Gives the weights their bits back. No-op when nothing is merged.
  void EndMerged();
  /// Linear weights are NF4.
  bool quantized() const;

  /// Sum of losses over the supervised rows. With context.training the result carries a graph: backward() adds into
  /// adapter->gradients(), or those of TrainAllWeights. A null adapter means the model alone. Model and adapter must
  /// outlive the graph. REQUIRED: no adapter when all weights are trained and context.training is set.
  LossResult ForwardLoss(const PackedBatch& batch, AdapterSet* adapter, const TrainContext& context) const;

  /// [rows, vocab] float32 logits of these rows of the batch; no graph, no dropout.
  at::Tensor Logits(const PackedBatch& batch, const std::vector<int64_t>& rows, AdapterSet* adapter) const;

  /// Generation. Prefill reads one prompt per row (each non-empty), Step one token per row; both return [B, vocab]
  /// float32 logits for the next token. See generate.h for the loop.
  KvCache NewCache(int64_t batch, int64_t capacity) const;
  at::Tensor Prefill(const std::vector<std::vector<int64_t>>& prompts, KvCache& cache, AdapterSet* adapter) const;
  at::Tensor Step(const std::vector<int64_t>& tokens, KvCache& cache, AdapterSet* adapter) const;

 private:
  struct Weights;
  explicit LlamaModel(std::unique_ptr<Weights> weights);
  std::shared_ptr<LayerPass> NewPass(const AdapterSet* adapter) const;
  /// Null: the weights are frozen in this pass.
  const LlamaTensors<at::Tensor>* GradientsFor(const AdapterSet* adapter, const TrainContext& context) const;
  at::Tensor Hidden(const PackedBatch& batch, const std::vector<int64_t>& rows, AdapterSet* adapter,
                    const TrainContext& context) const;
  at::Tensor Head(const at::Tensor& h_TH) const;

  std::unique_ptr<Weights> weights_;
};

}  // namespace sbora::trainer
