/// The shape of a LLaMA-family model: LLaMA 1, 2, 3, 3.1, 3.2, SmolLM2, TinyLlama and others of the same architecture.
///
/// Parsing is strict: what this trainer would compute differently from the original is refused by name, never ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/dtype.h"
#include "core/safetensors.h"

namespace sbora::core {

enum class RopeScalingType { kNone, kLinear, kLlama3 };

struct RopeScaling {
  RopeScalingType type = RopeScalingType::kNone;
  double factor = 1.0;
  // kLlama3 only:
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 8192;

  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;  ///< tokens
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  std::optional<int64_t> pad_token_id;
  DType dtype = DType::kF32;  ///< of the stored weights; F32, F16 or BF16

  bool operator==(const ModelConfig&) const = default;
};

/// Parses the text of an HF config.json, in transformers 4 and 5 style (`rope_theta` + `rope_scaling` or
/// `rope_parameters`; `torch_dtype` or `dtype`).
/// Errors: INVALID_ARGUMENT CONFIG_MALFORMED (no JSON object, missing or ill-typed field, field named in a violation),
/// CONFIG_INCONSISTENT (e.g. heads not a multiple of KV heads); UNIMPLEMENTED ARCHITECTURE_UNSUPPORTED,
/// ROPE_SCALING_UNSUPPORTED, ATTENTION_BIAS_UNSUPPORTED, MLP_BIAS_UNSUPPORTED, SLIDING_WINDOW_UNSUPPORTED,
/// ACTIVATION_UNSUPPORTED, QUANTIZED_CHECKPOINT_UNSUPPORTED.
StatusOr<ModelConfig> ParseHfConfig(std::string_view json_text);

/// A config.json that transformers 4 and 5 both read. ParseHfConfig(ToHfConfigJson(c)) == c.
std::string ToHfConfigJson(const ModelConfig& config);

/// The seven linear layers of a block, in the order of the forward pass.
enum class LinearModule { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr LinearModule kAllLinearModules[] = {LinearModule::kQ,    LinearModule::kK,  LinearModule::kV,
                                                     LinearModule::kO,    LinearModule::kGate, LinearModule::kUp,
                                                     LinearModule::kDown};
/// "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj".
std::string_view LinearModuleName(LinearModule module);
/// Accepts "q_proj" and the short "q". Errors: INVALID_ARGUMENT TARGET_MODULE_UNKNOWN listing the seven names.
StatusOr<LinearModule> ParseLinearModule(std::string_view name);
/// "model.layers.3.self_attn.q_proj": HF module name without ".weight".
std::string ModulePath(int64_t layer, LinearModule module);

/// Weight of d x k: out_features x in_features.
struct ModuleShape {
  int64_t out_features = 0;  ///< d
  int64_t in_features = 0;   ///< k

  bool operator==(const ModuleShape&) const = default;
};
ModuleShape LinearModuleShape(const ModelConfig& config, LinearModule module);

/// All tensors of a checkpoint with HF names and shapes, dtype = config.dtype, in forward order. `lm_head.weight` is
/// there only when embeddings are not tied.
std::vector<TensorSpec> ExpectedTensors(const ModelConfig& config);
/// Elements of all ExpectedTensors.
int64_t ParameterCount(const ModelConfig& config);

}  // namespace sbora::core
