#include "worker/trainer/nn/llama_weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numbers>
#include <type_traits>

#include "common/status_macros.h"
#include "core/counter_rng.h"
#include "core/model_folder.h"
#include "core/nf4_model.h"
#include "worker/trainer/ops/quantize_weight.h"

namespace sbora::trainer {
namespace {

StatusOr<at::ScalarType> TorchDType(core::DType dtype) {
  switch (dtype) {
    case core::DType::kF32: return at::kFloat;
    case core::DType::kF16: return at::kHalf;
    case core::DType::kBF16: return at::kBFloat16;
    case core::DType::kBool: case core::DType::kU8: case core::DType::kI8: case core::DType::kI16:
    case core::DType::kU16: case core::DType::kI32: case core::DType::kU32: case core::DType::kF64:
    case core::DType::kI64: case core::DType::kU64: break;
  }
  return InvalidArgument("DTYPE_UNSUPPORTED", fmt::format("{} is no weight dtype", core::DTypeName(dtype)));
}

/// Copies out of the mapping: its bytes may be unaligned, and the file may be evicted afterwards.
StatusOr<at::Tensor> Read(const core::TensorView& view, const LlamaModel::Options& options) {
  SBORA_ASSIGN_OR_RETURN(const at::ScalarType stored, TorchDType(view.dtype));
  at::Tensor tensor = at::empty(view.shape, at::TensorOptions().dtype(stored));
  SBORA_CHECK(tensor.nbytes() == view.data.size(), "{}: {} bytes for {}", view.name, view.data.size(), tensor.nbytes());
  auto* target = static_cast<std::byte*>(tensor.mutable_data_ptr());
  at::parallel_for(0, static_cast<int64_t>(view.data.size()), int64_t{1} << 20, [&](int64_t begin, int64_t end) {
    std::memcpy(target + begin, view.data.data() + begin, static_cast<size_t>(end - begin));
  });
  return tensor.to(options.device, options.dtype);
}

/// HF's rotary frequencies; float32 in its order of operations, since an ulp here is an angle at position 10,000.
at::Tensor InverseFrequency(const core::ModelConfig& config) {
  const at::Tensor exponent = at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat) / config.head_dim;
  at::Tensor frequency = at::reciprocal(at::pow(at::Scalar(config.rope_theta), exponent));
  const core::RopeScaling& scaling = config.rope_scaling;
  switch (scaling.type) {
    case core::RopeScalingType::kNone: return frequency;
    case core::RopeScalingType::kLinear: return frequency / scaling.factor;
    case core::RopeScalingType::kLlama3: break;
  }
  const auto context = static_cast<double>(scaling.original_max_position_embeddings);
  const at::Tensor wavelength = at::reciprocal(frequency) * (2 * std::numbers::pi);
  const double low_wavelength = context / scaling.low_freq_factor;
  const double high_wavelength = context / scaling.high_freq_factor;
  const at::Tensor smooth = (at::reciprocal(wavelength) * context - scaling.low_freq_factor) /
                            (scaling.high_freq_factor - scaling.low_freq_factor);
  const at::Tensor blended = (1 - smooth) * frequency / scaling.factor + smooth * frequency;
  at::Tensor scaled = at::where(wavelength > low_wavelength, frequency / scaling.factor, frequency);
  const at::Tensor medium = (wavelength >= high_wavelength).logical_and(wavelength <= low_wavelength);
  return at::where(medium, blended, scaled);
}

/// Uniform with standard deviation 0.02 out of 24 random bits: integer arithmetic and one product, so the same bits
/// everywhere.
at::Tensor RandomTensor(const core::TensorSpec& spec, uint64_t seed, const LlamaModel::Options& options) {
  if (spec.shape.size() == 1) return at::ones(spec.shape, at::TensorOptions(options.device).dtype(options.dtype));
  at::Tensor tensor = at::empty(spec.shape, at::kFloat);
  auto* values = tensor.mutable_data_ptr<float>();
  const core::PhiloxKey key = core::DeriveKey("sbora.random_weights.v1", seed, spec.name);
  constexpr float kStep = 0.02f * 1.7320508f / 8388608.0f;
  const int64_t groups = (tensor.numel() + 3) / 4;
  at::parallel_for(0, groups, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const auto words = core::Philox4x32({static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), 0, 0}, key);
      for (int64_t lane = 0; lane < 4 && group * 4 + lane < tensor.numel(); ++lane) {
        const auto centred = static_cast<int32_t>(words[static_cast<size_t>(lane)] >> 8) - 8388608;
        values[group * 4 + lane] = static_cast<float>(centred) * kStep;
      }
    }
  });
  return tensor.to(options.device, options.dtype);
}

template <typename T>
at::Tensor ToTensor(const std::vector<T>& values, at::ScalarType dtype, at::Device device) {
  if (values.empty()) return {};
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, dtype);
  std::memcpy(tensor.mutable_data_ptr(), values.data(), values.size() * sizeof(T));
  return tensor.to(device);
}

ops::Nf4Tensors ToTensors(const core::Nf4Parts& parts, const core::ModuleShape& shape, at::Device device) {
  ops::Nf4Tensors tensors{.out_features = shape.out_features,
                          .in_features = shape.in_features,
                          .codes = ToTensor(parts.codes, at::kByte, device),
                          .scales = ToTensor(parts.scales, at::kFloat, device),
                          .scale_codes = ToTensor(parts.scale_codes, at::kByte, device),
                          .group_scales = ToTensor(parts.group_scales, at::kFloat, device),
                          .offset = parts.offset.empty() ? 0.0f : parts.offset.front(),
                          .row_index = parts.row_index};
  if (!parts.row_index.empty()) {
    std::vector<uint8_t> codes;
    for (const int32_t row : parts.row_index) {
      const std::vector<uint8_t> of_row = core::Nf4RowCodes(parts, shape, row);
      codes.insert(codes.end(), of_row.begin(), of_row.end());
    }
    const auto rows = std::ssize(parts.row_index);
    tensors.row_codes = ToTensor(codes, at::kByte, device).view({rows, -1});
    tensors.row_scales = ToTensor(parts.row_scales, at::kFloat, device).view({rows, -1});
  }
  if (!parts.column_index.empty()) {
    tensors.column_index = ToTensor(parts.column_index, at::kInt, device).to(at::kLong);
    tensors.columns = ToTensor(parts.columns, at::kFloat, device).view({shape.out_features, -1});
  }
  return tensors;
}

core::DType CoreDType(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kHalf) return core::DType::kF16;
  return tensor.scalar_type() == at::kBFloat16 ? core::DType::kBF16 : core::DType::kF32;
}

StatusOr<ops::LinearWeight> Quantized(const std::string& name, const at::Tensor& w_OI, const LlamaModel::Options& options,
                                      const std::shared_ptr<ops::DequantizeScratch>& scratch) {
  const at::Tensor host_OI = w_OI.cpu().contiguous();
  const core::TensorView view{.name = name,
                              .dtype = CoreDType(host_OI),
                              .shape = host_OI.sizes().vec(),
                              .data = {static_cast<const std::byte*>(host_OI.const_data_ptr()), host_OI.nbytes()}};
  const auto parts = QuantizeWeight(view, options.quantization.double_quantization, at::get_num_threads());
  if (!parts.ok()) return parts.status().WithContext("quantising " + name);
  return ops::LinearWeight(ToTensors(*parts, {.out_features = w_OI.size(0), .in_features = w_OI.size(1)}, options.device),
                           options.dtype, scratch);
}

/// Calls `found` with the tensor or ops::LinearWeight that `name` stands for.
template <typename Tensors, typename Found>
void Find(Tensors& tensors, const std::string& name, const Found& found) {
  if (name == "model.embed_tokens.weight") return found(tensors.embedding_VH);
  if (name == "model.norm.weight") return found(tensors.norm_H);
  if (name == "lm_head.weight") return found(tensors.head_VH);
  for (size_t i = 0; i < tensors.layers.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    if (!name.starts_with(fmt::format("model.layers.{}.", layer))) continue;
    if (name.ends_with(".input_layernorm.weight")) return found(tensors.layers[i].attention_norm_H);
    if (name.ends_with(".post_attention_layernorm.weight")) return found(tensors.layers[i].mlp_norm_H);
    for (const core::LinearModule module : core::kAllLinearModules) {
      if (name != core::ModulePath(layer, module) + ".weight") continue;
      return found(tensors.layers[i].linear[static_cast<size_t>(module)]);
    }
  }
  SBORA_CHECK(false, "{} is no tensor of a LLaMA", name);
}

}  // namespace

LlamaModel::Weights::Weights(const core::ModelConfig& model, const Options& load_options)
    : config(model), options(load_options), scratch(std::make_shared<ops::DequantizeScratch>()) {
  layers.resize(static_cast<size_t>(model.num_layers));
}

Status LlamaModel::Weights::Set(const std::string& name, at::Tensor tensor) {
  Status status;
  Find(static_cast<LlamaWeights&>(*this), name, [&](auto& place) {
    if constexpr (std::is_same_v<std::decay_t<decltype(place)>, ops::LinearWeight>) {
      if (options.quantization.kind == core::Quantization::kNf4) {
        auto quantized = Quantized(name, tensor, options, scratch);
        if (quantized.ok()) {
          place = *std::move(quantized);
        } else {
          status = quantized.status();
        }
        return;
      }
    }
    place = std::move(tensor);
  });
  return status;
}

at::Tensor LlamaModel::Weights::Get(const std::string& name) const {
  at::Tensor result;
  Find(static_cast<const LlamaWeights&>(*this), name, [&](const auto& place) {
    if constexpr (std::is_same_v<std::decay_t<decltype(place)>, at::Tensor>) {
      result = place;
    } else {
      result = place.Materialize();
    }
  });
  return result;
}

void LlamaModel::Weights::MoveInto(const FullWeights& full) {
  LlamaGradients& views = gradients.emplace();
  views.layers.resize(layers.size());
  if (config.tie_word_embeddings) head_VH = at::Tensor();  // it would keep the embedding's old storage
  for (const FullWeights::Entry& entry : full.entries()) {
    const at::Tensor value = full.Value(entry);
    Find(static_cast<LlamaWeights&>(*this), entry.spec.name, [&](auto& place) {
      if constexpr (std::is_same_v<std::decay_t<decltype(place)>, ops::LinearWeight>) {
        value.copy_(place.Dense());
      } else {
        value.copy_(place);
      }
      place = value;  // frees the old storage before the next weight is copied
    });
    Find(views, entry.spec.name, [&](at::Tensor& place) { place = full.Gradient(entry); });
  }
  if (!config.tie_word_embeddings) return;
  head_VH = embedding_VH;
  views.head_VH = views.embedding_VH;
}

void LlamaModel::Weights::Finish() {
  if (config.tie_word_embeddings) head_VH = embedding_VH;
  inverse_frequency_D2 = InverseFrequency(config).to(options.device);
}

StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::Load(const std::filesystem::path& dir, const Options& options) {
  SBORA_ASSIGN_OR_RETURN(const core::ModelFolder folder, core::ModelFolder::Open(dir));
  auto weights = std::make_unique<Weights>(folder.config(), options);
  const std::vector<core::TensorSpec> specs = core::ExpectedTensors(folder.config());
  int64_t done = 0;
  for (const core::TensorSpec& spec : specs) {
    SBORA_ASSIGN_OR_RETURN(const core::TensorView view, folder.Tensor(spec.name));
    SBORA_ASSIGN_OR_RETURN(at::Tensor tensor, Read(view, options));
    SBORA_RETURN_IF_ERROR(weights->Set(spec.name, std::move(tensor)));
    if (options.progress) options.progress(++done, static_cast<int64_t>(specs.size()));
  }
  for (const core::SafetensorsFile& shard : folder.shards()) shard.Evict();
  weights->Finish();
  return std::unique_ptr<LlamaModel>(new LlamaModel(std::move(weights)));
}

StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::LoadNf4(const std::filesystem::path& dir, const Options& options) {
  SBORA_ASSIGN_OR_RETURN(const core::Nf4ModelFolder folder, core::Nf4ModelFolder::Open(dir, options.layer_done));
  const core::ModelConfig& config = folder.config().model;
  auto weights = std::make_unique<Weights>(config, options);
  const std::vector<core::TensorSpec> specs = core::ExpectedTensors(config);
  const auto total = static_cast<int64_t>(specs.size());
  int64_t done = 0;
  for (const core::TensorSpec& spec : specs) {
    const auto view = folder.Tensor(spec.name);
    if (!view.ok()) continue;  // a linear weight; its tensors have other names
    SBORA_ASSIGN_OR_RETURN(at::Tensor tensor, Read(*view, options));
    SBORA_RETURN_IF_ERROR(weights->Set(spec.name, std::move(tensor)));
    if (options.progress) options.progress(++done, total);
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const core::LinearModule module : core::kAllLinearModules) {
      SBORA_ASSIGN_OR_RETURN(const core::Nf4Parts parts, folder.Weight(layer, module));
      weights->layers[static_cast<size_t>(layer)].linear[static_cast<size_t>(module)] = ops::LinearWeight(
          ToTensors(parts, core::LinearModuleShape(config, module), options.device), options.dtype,
          weights->scratch);
      if (options.progress) options.progress(++done, total);
    }
  }
  for (const core::SafetensorsFile& shard : folder.shards()) shard.Evict();
  weights->Finish();
  return std::unique_ptr<LlamaModel>(new LlamaModel(std::move(weights)));
}

StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::Random(const core::ModelConfig& config, uint64_t seed,
                                                         const Options& options) {
  auto weights = std::make_unique<Weights>(config, options);
  const std::vector<core::TensorSpec> specs = core::ExpectedTensors(config);
  int64_t done = 0;
  for (const core::TensorSpec& spec : specs) {
    SBORA_RETURN_IF_ERROR(weights->Set(spec.name, RandomTensor(spec, seed, options)));
    if (options.progress) options.progress(++done, static_cast<int64_t>(specs.size()));
  }
  weights->Finish();
  return std::unique_ptr<LlamaModel>(new LlamaModel(std::move(weights)));
}

StatusOr<std::unique_ptr<FullWeights>> LlamaModel::TrainAllWeights() {
  if (weights_->options.quantization.kind != core::Quantization::kNone || weights_->layers.front().linear.front().quantized()) {
    return InvalidArgument("FULL_ON_QUANTIZED_BASE",
                           "the weights of an NF4 base cannot be trained themselves; train an adapter on it (sbora_fa, sbora_fb, "
                           "lora, dora), or all weights of the plain base");
  }
  if (dtype() != at::kFloat) {
    return Unimplemented("FULL_DTYPE", fmt::format("full fine-tuning trains float32 weights, these are {}; set "
                                                   "resources.compute_dtype to float32",
                                                   c10::toString(dtype())));
  }
  SBORA_CHECK(!weights_->gradients, "the weights are trained already");
  auto full = FullWeights::Create(weights_->config, device());
  weights_->MoveInto(*full);
  return full;
}

std::vector<std::pair<std::string, at::Tensor>> LlamaModel::NamedTensors() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const core::TensorSpec& spec : core::ExpectedTensors(weights_->config)) {
    tensors.emplace_back(spec.name, weights_->Get(spec.name));
  }
  return tensors;
}

int64_t LlamaModel::WeightBytes() const {
  int64_t bytes = static_cast<int64_t>(weights_->embedding_VH.nbytes() + weights_->norm_H.nbytes());
  if (!weights_->config.tie_word_embeddings) bytes += static_cast<int64_t>(weights_->head_VH.nbytes());
  for (const LlamaWeights::Layer& layer : weights_->layers) {
    bytes += static_cast<int64_t>(layer.attention_norm_H.nbytes() + layer.mlp_norm_H.nbytes());
    for (const ops::LinearWeight& weight : layer.linear) bytes += weight.Bytes();
  }
  return bytes;
}

}  // namespace sbora::trainer
