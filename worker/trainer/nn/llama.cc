#include "worker/trainer/nn/llama.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/nn/layer_pass.h"
#include "worker/trainer/nn/llama_weights.h"
#include "worker/trainer/ops/attention.h"
#include "worker/trainer/ops/chunked_loss.h"
#include "worker/trainer/ops/frozen_layers.h"

namespace sbora::trainer {
namespace {

at::Tensor LongTensor(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(at::ArrayRef<int64_t>(values), at::kLong).to(device);
}

bool HasGraph(const AdapterSet* adapter, const LlamaGradients* gradients, const TrainContext& context) {
  return context.training && (adapter != nullptr || gradients != nullptr || context.input_gradient);
}

void SetAngles(LayerPass& pass, const std::vector<int64_t>& positions, const at::Tensor& inverse_frequency_D2) {
  const at::Tensor angles =
      LongTensor(positions, inverse_frequency_D2.device()).to(at::kFloat).unsqueeze(1) * inverse_frequency_D2;
  pass.cos_TD2 = angles.cos();
  pass.sin_TD2 = angles.sin();
}

ops::DropoutPlan PlanDropout(const PackedBatch& batch, const AdapterSet& adapter, const TrainContext& context) {
  if (!context.training || adapter.dropout() == 0) return {};
  auto rows = std::make_shared<ops::DropoutRows>();
  rows->key = ops::MakeDropoutKey(context.seed, context.epoch);
  for (int64_t n = 0; n < batch.samples(); ++n) {
    const auto sample = static_cast<size_t>(n);
    const int64_t length = batch.cu_seqlens[sample + 1] - batch.cu_seqlens[sample];
    rows->sample_T.insert(rows->sample_T.end(), static_cast<size_t>(length), batch.sample_ids[sample]);
  }
  for (const int64_t position : batch.positions) rows->position_T.push_back(static_cast<uint32_t>(position));
  return {.rows = std::move(rows), .probability = static_cast<float>(adapter.dropout())};
}

void CheckBatch(const PackedBatch& batch, const core::ModelConfig& config) {
  SBORA_CHECK(batch.tokens() > 0 && batch.positions.size() == batch.ids.size(), "{} ids, {} positions",
              batch.ids.size(), batch.positions.size());
  SBORA_CHECK(batch.cu_seqlens.size() == batch.sample_ids.size() + 1 && batch.cu_seqlens.front() == 0 &&
                  batch.cu_seqlens.back() == batch.tokens(),
              "{} samples, borders [{}, {}] for {} tokens", batch.sample_ids.size(), batch.cu_seqlens.front(),
              batch.cu_seqlens.back(), batch.tokens());
  SBORA_CHECK(batch.supervised_rows.size() == batch.targets.size(), "{} supervised rows, {} targets",
              batch.supervised_rows.size(), batch.targets.size());
  for (const auto* ids : {&batch.ids, &batch.targets}) {
    for (const int64_t id : *ids) SBORA_CHECK(id >= 0 && id < config.vocab_size, "token {} of {}", id, config.vocab_size);
  }
  for (const int64_t row : batch.supervised_rows) {
    SBORA_CHECK(row >= 0 && row < batch.tokens(), "supervised row {} of {}", row, batch.tokens());
  }
}

}  // namespace

LlamaModel::LlamaModel(std::unique_ptr<Weights> weights) : weights_(std::move(weights)) {}
LlamaModel::~LlamaModel() = default;

const core::ModelConfig& LlamaModel::config() const { return weights_->config; }
at::Device LlamaModel::device() const { return weights_->options.device; }
at::ScalarType LlamaModel::dtype() const { return weights_->options.dtype; }

at::Tensor LlamaModel::Weight(int64_t layer, core::LinearModule module) const {
  return weights_->layers.at(static_cast<size_t>(layer)).linear[static_cast<size_t>(module)].Materialize();
}

void LlamaModel::BeginMerged(const AdapterSet& adapter) {
  for (const AdapterModule& module : adapter.modules()) {
    LlamaWeights::Layer& layer = weights_->layers.at(static_cast<size_t>(module.layer));
    layer.linear[static_cast<size_t>(module.module)].BeginMerged(adapter, module);
  }
}

void LlamaModel::EndMerged() {
  for (LlamaWeights::Layer& layer : weights_->layers) {
    for (ops::LinearWeight& weight : layer.linear) weight.EndMerged();
  }
}

bool LlamaModel::quantized() const { return weights_->layers.front().linear.front().quantized(); }

std::shared_ptr<LayerPass> LlamaModel::NewPass(const AdapterSet* adapter) const {
  return std::make_shared<LayerPass>(LayerPass{.config = &weights_->config, .layer_done = &weights_->options.layer_done,
                                               .weights = weights_.get(), .adapter = adapter});
}

at::Tensor LlamaModel::Hidden(const PackedBatch& batch, const std::vector<int64_t>& rows, AdapterSet* adapter,
                              const TrainContext& context) const {
  CheckBatch(batch, weights_->config);
  const std::shared_ptr<LayerPass> pass = NewPass(adapter);
  const LlamaGradients* const gradients = GradientsFor(adapter, context);
  pass->gradients = gradients;
  pass->input_gradient = context.input_gradient;
  pass->train = HasGraph(adapter, gradients, context);
  pass->recompute = pass->train && context.gradient_checkpointing;
  at::AutoGradMode grad_mode(pass->train);
  if (adapter != nullptr) pass->dropout = PlanDropout(batch, *adapter, context);
  SetAngles(*pass, batch.positions, weights_->inverse_frequency_D2);
  // By value: a graph that computes layers again outlives the batch.
  pass->attend = [head_dim = weights_->config.head_dim, borders = ops::MakeSampleBorders(batch.cu_seqlens, device())](
                     int64_t, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return ops::PackedCausalAttention(q, k, v, head_dim, borders);
  };
  const at::Tensor ids_T = LongTensor(batch.ids, device());
  const at::Tensor embedded_TH =
      gradients == nullptr ? at::embedding(weights_->embedding_VH, ids_T)
                           : ops::TrainedEmbedding(ids_T, weights_->embedding_VH, pass->GradientOf(gradients->embedding_VH));
  const at::Tensor h_TH = RunLayers(pass, embedded_TH);
  return ops::RmsNorm(h_TH.index_select(0, LongTensor(rows, device())), weights_->norm_H, weights_->config.rms_norm_eps,
                      gradients == nullptr ? at::Tensor() : gradients->norm_H);
}

const LlamaGradients* LlamaModel::GradientsFor(const AdapterSet* adapter, const TrainContext& context) const {
  if (!context.training || !weights_->gradients) return nullptr;
  SBORA_CHECK(adapter == nullptr, "an adapter is trained beside frozen weights, and all weights of this model are trained");
  return &*weights_->gradients;
}

LossResult LlamaModel::ForwardLoss(const PackedBatch& batch, AdapterSet* adapter, const TrainContext& context) const {
  const LlamaGradients* const gradients = GradientsFor(adapter, context);
  at::AutoGradMode grad_mode(HasGraph(adapter, gradients, context));
  const at::Tensor hidden_SH = Hidden(batch, batch.supervised_rows, adapter, context);
  const at::Tensor targets_S = LongTensor(batch.targets, device());
  const at::Tensor sum = ops::ChunkedCrossEntropy(hidden_SH, weights_->head_VH, targets_S, ops::kLossChunkRows,
                                                  gradients == nullptr ? at::Tensor() : gradients->head_VH);
  return {sum, static_cast<int64_t>(batch.targets.size())};
}

at::Tensor LlamaModel::Logits(const PackedBatch& batch, const std::vector<int64_t>& rows, AdapterSet* adapter) const {
  at::NoGradGuard no_grad;
  return at::mm(Hidden(batch, rows, adapter, {}), weights_->head_VH.t()).to(at::kFloat);
}

KvCache LlamaModel::NewCache(int64_t batch, int64_t capacity) const {
  const core::ModelConfig& config = weights_->config;
  return KvCache(config.num_layers, batch, config.num_kv_heads, config.head_dim, capacity,
                 at::TensorOptions(device()).dtype(dtype()));
}

at::Tensor LlamaModel::Prefill(const std::vector<std::vector<int64_t>>& prompts, KvCache& cache,
                               AdapterSet* adapter) const {
  at::NoGradGuard no_grad;
  SBORA_CHECK(static_cast<int64_t>(prompts.size()) == cache.batch(), "{} prompts for a cache of {}", prompts.size(),
              cache.batch());
  PackedBatch batch;
  std::vector<int64_t> last_rows;
  for (const std::vector<int64_t>& prompt : prompts) {
    SBORA_CHECK(!prompt.empty(), "prompt {} is empty", last_rows.size());
    batch.Append(0, prompt);
    last_rows.push_back(batch.tokens() - 1);
    const auto row = static_cast<int64_t>(last_rows.size()) - 1;
    cache.Reserve(static_cast<int64_t>(prompt.size()));
    cache.SetLength(row, static_cast<int64_t>(prompt.size()));
  }
  CheckBatch(batch, weights_->config);
  const std::shared_ptr<LayerPass> pass = NewPass(adapter);
  SetAngles(*pass, batch.positions, weights_->inverse_frequency_D2);
  const int64_t head_dim = weights_->config.head_dim;
  const ops::SampleBorders borders = ops::MakeSampleBorders(batch.cu_seqlens, device());
  pass->attend = [&](int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    for (int64_t n = 0; n < batch.samples(); ++n) {
      const int64_t begin = batch.cu_seqlens[static_cast<size_t>(n)];
      const int64_t length = batch.cu_seqlens[static_cast<size_t>(n) + 1] - begin;
      const auto store = [&](at::Tensor& side, const at::Tensor& packed) {
        side[n].narrow(1, 0, length).copy_(packed.narrow(0, begin, length).view({length, -1, head_dim}).transpose(0, 1));
      };
      store(cache.keys(layer), k);
      store(cache.values(layer), v);
    }
    return ops::PackedCausalAttention(q, k, v, head_dim, borders);
  };
  const at::Tensor h_TH = RunLayers(pass, at::embedding(weights_->embedding_VH, LongTensor(batch.ids, device())));
  return Head(h_TH.index_select(0, LongTensor(last_rows, device())));
}

at::Tensor LlamaModel::Step(const std::vector<int64_t>& tokens, KvCache& cache, AdapterSet* adapter) const {
  at::NoGradGuard no_grad;
  const int64_t batch = cache.batch();
  SBORA_CHECK(static_cast<int64_t>(tokens.size()) == batch, "{} tokens for a cache of {}", tokens.size(), batch);
  const std::vector<int64_t> positions = cache.lengths();
  const int64_t span = cache.max_length() + 1;
  cache.Reserve(span);
  for (int64_t row = 0; row < batch; ++row) cache.SetLength(row, positions[static_cast<size_t>(row)] + 1);
  const std::shared_ptr<LayerPass> pass = NewPass(adapter);
  SetAngles(*pass, positions, weights_->inverse_frequency_D2);
  const int64_t head_dim = weights_->config.head_dim;
  const int64_t kv_heads = weights_->config.num_kv_heads;
  const at::Tensor position_B = LongTensor(positions, device());
  const at::Tensor row_B = at::arange(batch, position_B.options());
  const at::Tensor mask =
      (at::arange(span, position_B.options()).unsqueeze(0) <= position_B.unsqueeze(1)).view({batch, 1, 1, span});
  pass->attend = [&](int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto append = [&](at::Tensor& side, const at::Tensor& x) {
      side.transpose(1, 2).index_put_({row_B, position_B}, x.view({batch, kv_heads, head_dim}));
      return side.narrow(2, 0, span);
    };
    // One query per sequence: the query heads of a key head's group stand in the place of query positions.
    const at::Tensor out = at::scaled_dot_product_attention(q.view({batch, kv_heads, -1, head_dim}),
                                                            append(cache.keys(layer), k),
                                                            append(cache.values(layer), v), mask);
    return out.reshape({batch, -1});
  };
  return Head(RunLayers(pass, at::embedding(weights_->embedding_VH, LongTensor(tokens, device()))));
}

at::Tensor LlamaModel::Head(const at::Tensor& h_TH) const {
  const at::Tensor normed_TH = ops::RmsNorm(h_TH, weights_->norm_H, weights_->config.rms_norm_eps);
  return at::mm(normed_TH, weights_->head_VH.t()).to(at::kFloat);
}

}  // namespace sbora::trainer
