/// Batched text generation on token ids: greedy, sampled or by beam search (beam_search.h), with a KV cache.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/status.h"
#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/nn/llama.h"

namespace sbora::trainer {

struct GenerateOptions {
  int64_t max_new_tokens = 64;
  std::vector<int64_t> eos_ids = {};  ///< generation of a row ends with any of them; not part of the answer
  double temperature = 0;        ///< 0 = greedy (argmax, lowest id on ties)
  int64_t top_k = 0;             ///< 0 = off
  double top_p = 1;              ///< 1 = off
  uint64_t seed = 0;             ///< sampling is f(seed, prompt number, step): batching changes no draw
  int64_t first_prompt = 0;      ///< number of prompts[0], for callers that split a list
  int64_t batch_size = 64;       ///< prompts decoded together
  int64_t num_beams = 1;         ///< above 1: beam search, which takes no temperature, top_k and top_p
  /// Called after each decoded step with the number of tokens so far; return false to stop early. May be empty.
  std::function<bool(int64_t tokens)> on_step = nullptr;
};

enum class FinishReason { kStop, kLength, kCancelled };

struct Generation {
  std::vector<int64_t> ids;  ///< without the prompt and without the end token
  FinishReason finish = FinishReason::kLength;
};

/// One Generation per prompt, in order. A prompt and its answer never exceed config().max_position_embeddings: such a
/// row ends with kLength. Errors: INVALID_ARGUMENT (PROMPT_EMPTY, PROMPT_TOO_LONG, TOKEN_OUT_OF_RANGE,
/// GENERATE_OPTIONS).
StatusOr<std::vector<Generation>> Generate(const LlamaModel& model, AdapterSet* adapter,
                                           const std::vector<std::vector<int64_t>>& prompts,
                                           const GenerateOptions& options);

/// FAILED_PRECONDITION NON_FINITE_LOGITS when any is NaN or infinite: of damaged weights some token would be the likeliest.
Status CheckFiniteLogits(const at::Tensor& logits_BV);

}  // namespace sbora::trainer
