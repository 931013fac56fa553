/// How llama.cpp's GGUF files of a LLaMA differ from HF checkpoints: names, the order of q's and k's rows, and RoPE
/// divisors in place of RoPE parameters. Shared by import and export, so that they cannot part.
#pragma once

#include <cstdint>
#include <string>

#include "core/model_config.h"

namespace sbora::core {

/// The tensor of LLaMA 3.1's RoPE divisors: F32 [head_dim / 2].
inline constexpr char kGgufRopeDivisors[] = "rope_freqs.weight";

/// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight". REQUIRED: a name of ExpectedTensors.
std::string GgufTensorName(const std::string& hf_name);

/// True for q_proj and k_proj weights, whose rows llama.cpp stores for a rotary embedding of neighbouring pairs.
bool HasPermutedRows(const std::string& hf_name);
/// The HF row that GGUF row `row` holds: GGUF's (head, j, half) is HF's (head, half, j), with j in [0, head_dim / 2).
int64_t HfRowOfGgufRow(int64_t row, int64_t head_dim);

/// LLaMA 3.1's rule: how much the angular speed of pair `i` in [0, head_dim / 2) is divided. REQUIRED: kLlama3 scaling.
double Llama3RopeDivisor(const ModelConfig& config, int64_t i);

}  // namespace sbora::core
