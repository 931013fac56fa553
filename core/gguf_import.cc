#include "core/gguf_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/gguf_llama.h"

namespace sbora::core {
namespace {

/// GGUF stores float32; the shortest decimal that rounds to it is what the author wrote (1e-05, not 9.99999974e-06).
double ShortestDecimal(double value) {
  const std::string text = fmt::format("{}", static_cast<float>(value));
  double result = value;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

StatusOr<int64_t> IntOr(const GgufFile& file, std::string_view key, int64_t fallback) {
  if (!file.Has(key)) return fallback;
  return file.Int(key);
}

/// LLaMA 3.1 and 3.2 files carry the divisors as a tensor and not the parameters they came from; the published
/// parameters differ in `factor` alone, which is the largest divisor. Anything else is refused.
StatusOr<RopeScaling> ScalingFromDivisors(const GgufTensor& tensor, const ModelConfig& config) {
  SBORA_ASSIGN_OR_RETURN(const std::vector<float> divisors, Dequantize(tensor));
  RopeScaling scaling{.type = RopeScalingType::kLlama3, .factor = 1.0, .low_freq_factor = 1.0, .high_freq_factor = 4.0,
                      .original_max_position_embeddings = 8192};
  for (const float divisor : divisors) scaling.factor = std::max(scaling.factor, ShortestDecimal(divisor));
  ModelConfig scaled = config;
  scaled.rope_scaling = scaling;
  bool match = static_cast<int64_t>(divisors.size()) == config.head_dim / 2;
  for (size_t i = 0; match && i < divisors.size(); ++i) {
    const double wanted = Llama3RopeDivisor(scaled, static_cast<int64_t>(i));
    match = std::abs(divisors[i] - wanted) <= 1e-3 * wanted;
  }
  if (match) return scaling;
  return Unimplemented("ROPE_SCALING_UNSUPPORTED",
                       "rope_freqs.weight does not follow LLaMA 3.1's scaling rule; import the original safetensors");
}

Status ReadRope(const GgufFile& file, ModelConfig& config) {
  config.rope_theta = 10000.0;
  if (file.Has("llama.rope.freq_base")) {
    SBORA_ASSIGN_OR_RETURN(const double theta, file.Float("llama.rope.freq_base"));
    config.rope_theta = ShortestDecimal(theta);
  }
  SBORA_ASSIGN_OR_RETURN(const int64_t rotary, IntOr(file, "llama.rope.dimension_count", config.head_dim));
  if (rotary != config.head_dim) {
    return Unimplemented("ROPE_SCALING_UNSUPPORTED", fmt::format("rotary dimensions {} of head_dim {}: partial rotary "
                                                                 "embeddings are not supported", rotary, config.head_dim));
  }
  if (const GgufTensor* divisors = file.Find(kGgufRopeDivisors); divisors != nullptr) {
    SBORA_ASSIGN_OR_RETURN(config.rope_scaling, ScalingFromDivisors(*divisors, config));
    return OkStatus();
  }
  if (!file.Has("llama.rope.scaling.type")) return OkStatus();
  SBORA_ASSIGN_OR_RETURN(const std::string type, file.String("llama.rope.scaling.type"));
  if (type == "none") return OkStatus();
  if (type != "linear") {
    return Unimplemented("ROPE_SCALING_UNSUPPORTED", fmt::format("RoPE scaling \"{}\" is not supported; none, linear and "
                                                                 "llama3 are", type.substr(0, 80)));
  }
  SBORA_ASSIGN_OR_RETURN(const double factor, file.Float("llama.rope.scaling.factor"));
  config.rope_scaling = {.type = RopeScalingType::kLinear, .factor = ShortestDecimal(factor)};
  return OkStatus();
}

Status ReadTokenIds(const GgufFile& file, ModelConfig& config) {
  const auto valid = [&](int64_t id) { return id >= 0 && id < config.vocab_size; };
  SBORA_ASSIGN_OR_RETURN(const int64_t bos, IntOr(file, "tokenizer.ggml.bos_token_id", -1));
  SBORA_ASSIGN_OR_RETURN(const int64_t pad, IntOr(file, "tokenizer.ggml.padding_token_id", -1));
  if (valid(bos)) config.bos_token_id = bos;
  if (valid(pad)) config.pad_token_id = pad;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    SBORA_ASSIGN_OR_RETURN(const int64_t eos, IntOr(file, key, -1));
    auto& ids = config.eos_token_ids;
    if (valid(eos) && std::find(ids.begin(), ids.end(), eos) == ids.end()) ids.push_back(eos);
  }
  return OkStatus();
}

DType StoredDType(uint32_t type) {
  if (type == static_cast<uint32_t>(GgmlType::kF16)) return DType::kF16;
  if (type == static_cast<uint32_t>(GgmlType::kBF16)) return DType::kBF16;
  return DType::kF32;
}

/// Rows back in HF order.
std::vector<std::byte> UnpermuteRows(std::span<const std::byte> data, int64_t rows, int64_t head_dim) {
  const size_t row_bytes = data.size() / static_cast<size_t>(rows);
  std::vector<std::byte> out(data.size());
  for (int64_t row = 0; row < rows; ++row) {
    const auto to = static_cast<size_t>(HfRowOfGgufRow(row, head_dim));
    std::memcpy(out.data() + to * row_bytes, data.data() + static_cast<size_t>(row) * row_bytes, row_bytes);
  }
  return out;
}

}  // namespace

StatusOr<ModelConfig> GgufModelConfig(const GgufFile& file) {
  SBORA_ASSIGN_OR_RETURN(const std::string architecture, file.String("general.architecture"));
  SBORA_ASSIGN_OR_RETURN(const int64_t experts, IntOr(file, "llama.expert_count", 0));
  if (architecture != "llama" || experts != 0) {
    return Unimplemented("ARCHITECTURE_UNSUPPORTED",
                         fmt::format("GGUF architecture \"{}\"{} is not supported; dense llama is (LLaMA, SmolLM2, "
                                     "TinyLlama)", architecture.substr(0, 80), experts != 0 ? " with experts" : ""))
        .WithMetadata("architecture", architecture.substr(0, 80));
  }
  ModelConfig config;
  SBORA_ASSIGN_OR_RETURN(config.hidden_size, file.Int("llama.embedding_length"));
  SBORA_ASSIGN_OR_RETURN(config.num_layers, file.Int("llama.block_count"));
  SBORA_ASSIGN_OR_RETURN(config.num_heads, file.Int("llama.attention.head_count"));
  SBORA_ASSIGN_OR_RETURN(config.num_kv_heads, IntOr(file, "llama.attention.head_count_kv", config.num_heads));
  SBORA_ASSIGN_OR_RETURN(config.intermediate_size, file.Int("llama.feed_forward_length"));
  SBORA_ASSIGN_OR_RETURN(config.max_position_embeddings, file.Int("llama.context_length"));
  SBORA_ASSIGN_OR_RETURN(const double eps, file.Float("llama.attention.layer_norm_rms_epsilon"));
  config.rms_norm_eps = ShortestDecimal(eps);
  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return InvalidArgument("MODEL_TENSOR_MISSING", "the GGUF file has no two-dimensional token_embd.weight");
  }
  config.vocab_size = embedding->shape[0];
  config.tie_word_embeddings = file.Find("output.weight") == nullptr;
  const GgufTensor* query = file.Find("blk.0.attn_q.weight");
  config.dtype = StoredDType(query == nullptr ? 0 : query->type);
  if (config.num_heads < 1) return InvalidArgument("CONFIG_INCONSISTENT", "llama.attention.head_count is below 1");
  SBORA_ASSIGN_OR_RETURN(config.head_dim, IntOr(file, "llama.attention.key_length", config.hidden_size / config.num_heads));
  SBORA_RETURN_IF_ERROR(ReadTokenIds(file, config));
  SBORA_RETURN_IF_ERROR(ReadRope(file, config));
  // The same limits and consistency rules as for HF configs.
  auto checked = ParseHfConfig(ToHfConfigJson(config));
  if (!checked.ok()) return checked.status().WithContext("the GGUF metadata");
  return checked;
}

StatusOr<std::vector<TensorSpec>> GgufTensorSpecs(const GgufFile& file, const ModelConfig& config) {
  std::vector<TensorSpec> specs = ExpectedTensors(config);
  std::set<std::string, std::less<>> used = {kGgufRopeDivisors};
  for (TensorSpec& spec : specs) {
    const std::string name = GgufTensorName(spec.name);
    const GgufTensor* tensor = file.Find(name);
    if (tensor == nullptr) {
      return InvalidArgument("MODEL_TENSOR_MISSING", fmt::format("the GGUF file lacks tensor \"{}\"", name));
    }
    if (tensor->shape != spec.shape) {
      return InvalidArgument("MODEL_TENSOR_SHAPE",
                             fmt::format("tensor \"{}\" has shape [{}], the metadata implies [{}]", name,
                                         fmt::join(tensor->shape, ", "), fmt::join(spec.shape, ", ")));
    }
    spec.dtype = StoredDType(tensor->type);
    used.insert(name);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    if (used.count(tensor.name) == 0) {
      return InvalidArgument("MODEL_TENSOR_UNEXPECTED",
                             fmt::format("the GGUF file holds tensor \"{}\", which a plain LLaMA does not have",
                                         tensor.name));
    }
  }
  return specs;
}

StatusOr<std::vector<std::byte>> GgufTensorBytes(const GgufFile& file, const ModelConfig& config,
                                                 const TensorSpec& spec) {
  const GgufTensor* tensor = file.Find(GgufTensorName(spec.name));
  SBORA_CHECK(tensor != nullptr, "{} vanished", spec.name);
  std::vector<std::byte> bytes;
  if (spec.dtype == DType::kF32) {
    SBORA_ASSIGN_OR_RETURN(const std::vector<float> values, Dequantize(*tensor));
    const auto view = std::as_bytes(std::span(values));
    bytes.assign(view.begin(), view.end());
  } else {
    bytes.assign(tensor->data.begin(), tensor->data.end());
  }
  if (!HasPermutedRows(spec.name)) return bytes;
  return UnpermuteRows(bytes, spec.shape[0], config.head_dim);
}

}  // namespace sbora::core
