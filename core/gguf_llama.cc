#include "core/gguf_llama.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <string_view>
#include <utility>

#include "common/check.h"

namespace sbora::core {

std::string GgufTensorName(const std::string& hf_name) {
  if (hf_name == "model.embed_tokens.weight") return "token_embd.weight";
  if (hf_name == "model.norm.weight") return "output_norm.weight";
  if (hf_name == "lm_head.weight") return "output.weight";
  constexpr std::string_view kPrefix = "model.layers.";
  const size_t dot = hf_name.find('.', kPrefix.size());
  const std::string layer = hf_name.substr(kPrefix.size(), dot - kPrefix.size());
  const std::string rest = hf_name.substr(dot + 1);
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"input_layernorm.weight", "attn_norm"},   {"post_attention_layernorm.weight", "ffn_norm"},
      {"self_attn.q_proj.weight", "attn_q"},     {"self_attn.k_proj.weight", "attn_k"},
      {"self_attn.v_proj.weight", "attn_v"},     {"self_attn.o_proj.weight", "attn_output"},
      {"mlp.gate_proj.weight", "ffn_gate"},      {"mlp.up_proj.weight", "ffn_up"},
      {"mlp.down_proj.weight", "ffn_down"}};
  for (const auto& [hf, gguf] : kNames) {
    if (rest == hf) return fmt::format("blk.{}.{}.weight", layer, gguf);
  }
  SBORA_CHECK(false, "no GGUF name for {}", hf_name);
}

bool HasPermutedRows(const std::string& hf_name) {
  return hf_name.ends_with("q_proj.weight") || hf_name.ends_with("k_proj.weight");
}

int64_t HfRowOfGgufRow(int64_t row, int64_t head_dim) {
  const int64_t head = row / head_dim;
  const int64_t within = row % head_dim;
  return head * head_dim + within % 2 * (head_dim / 2) + within / 2;
}

double Llama3RopeDivisor(const ModelConfig& config, int64_t i) {
  const RopeScaling& scaling = config.rope_scaling;
  SBORA_CHECK(scaling.type == RopeScalingType::kLlama3, "RoPE divisors of pair {} without llama3 scaling", i);
  const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
  const double wavelength = 2.0 * std::numbers::pi * std::pow(config.rope_theta, exponent);
  const auto original = static_cast<double>(scaling.original_max_position_embeddings);
  if (wavelength < original / scaling.high_freq_factor) return 1.0;
  if (wavelength > original / scaling.low_freq_factor) return scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
}

}  // namespace sbora::core
