#include "worker/trainer/nn/generate.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/status_macros.h"
#include "core/counter_rng.h"
#include "worker/trainer/nn/beam_search.h"

namespace sbora::trainer {
namespace {

Status CheckBeams(const GenerateOptions& options, int64_t vocab) {
  const int64_t candidates = PromptBeams::CandidatesPerStep(options.num_beams, options.eos_ids.size());
  if (options.num_beams >= 1 && (options.num_beams == 1 || (options.temperature == 0 && candidates <= vocab)))
    return OkStatus();
  return InvalidArgument(
      "GENERATE_OPTIONS",
      fmt::format("num_beams={} with temperature={}: beams (1 or more) are searched without sampling "
                  "(temperature 0), and compare {} continuations of a vocabulary of {}",
                  options.num_beams, options.temperature, candidates, vocab));
}

Status CheckOptions(const GenerateOptions& options) {
  if (options.max_new_tokens < 0 || options.batch_size < 1 || !(options.temperature >= 0) || options.top_k < 0 ||
      !(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument(
        "GENERATE_OPTIONS",
        fmt::format("max_new_tokens={} (>= 0), batch_size={} (>= 1), temperature={} (>= 0), top_k={} (>= 0), top_p={} "
                    "(in (0, 1])",
                    options.max_new_tokens, options.batch_size, options.temperature, options.top_k, options.top_p));
  }
  return OkStatus();
}

Status CheckPrompts(const std::vector<std::vector<int64_t>>& prompts, const core::ModelConfig& config) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) return InvalidArgument("PROMPT_EMPTY", fmt::format("prompt {} has no tokens", i));
    if (static_cast<int64_t>(prompts[i].size()) > config.max_position_embeddings) {
      return InvalidArgument("PROMPT_TOO_LONG", fmt::format("prompt {} has {} tokens; the model's limit is {}", i,
                                                            prompts[i].size(), config.max_position_embeddings));
    }
    for (const int64_t id : prompts[i]) {
      if (id < 0 || id >= config.vocab_size) {
        return InvalidArgument("TOKEN_OUT_OF_RANGE",
                               fmt::format("prompt {} holds token {}, outside [0, {})", i, id, config.vocab_size));
      }
    }
  }
  return OkStatus();
}

int64_t ArgMax(const float* logits, int64_t vocab) { return std::max_element(logits, logits + vocab) - logits; }

}  // namespace

Status CheckFiniteLogits(const at::Tensor& logits_BV) {
  if (at::isfinite(logits_BV).all().item<bool>()) return OkStatus();
  return FailedPrecondition("NON_FINITE_LOGITS", "the model's logits hold NaN or infinite values, so no token can be chosen: its "
                                                 "weights, or the adapter's, are damaged; import the model again, or use "
                                                 "another adapter");
}

namespace {

/// A uniform number in [0, 1) that depends on nothing but its arguments.
double Uniform(uint64_t seed, uint64_t prompt, uint64_t step) {
  const core::PhiloxKey key = core::DeriveKey("sbora.generate.v1", seed);
  const auto words = core::Philox4x32({static_cast<uint32_t>(prompt), static_cast<uint32_t>(prompt >> 32),
                                       static_cast<uint32_t>(step), 0}, key);
  return (words[0] * 4294967296.0 + words[1]) * 0x1p-64;
}

int64_t Sample(const float* logits, int64_t vocab, const GenerateOptions& options, double uniform) {
  if (options.temperature == 0) return ArgMax(logits, vocab);
  std::vector<int64_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto higher = [&](int64_t a, int64_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (options.top_k > 0 && options.top_k < vocab) {
    std::nth_element(order.begin(), order.begin() + options.top_k, order.end(), higher);
    order.resize(static_cast<size_t>(options.top_k));
  }
  std::sort(order.begin(), order.end(), higher);
  std::vector<double> weights;
  weights.reserve(order.size());
  double total = 0;
  for (const int64_t id : order) {
    weights.push_back(std::exp((double{logits[id]} - double{logits[order.front()]}) / options.temperature));
    total += weights.back();
  }
  // Nucleus: the fewest of the likeliest tokens that hold top_p of the mass.
  size_t kept = 0;
  double mass = 0;
  while (kept < weights.size() && (kept == 0 || mass < options.top_p * total)) mass += weights[kept++];
  double left = uniform * mass;
  for (size_t i = 0; i < kept; ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

/// One batch of prompts, decoded to the end. Finished rows leave the batch once half of it is done.
class BatchDecoder {
 public:
  BatchDecoder(const LlamaModel& model, AdapterSet* adapter, const GenerateOptions& options,
               std::vector<std::vector<int64_t>> prompts, int64_t first_number)
      : model_(model), adapter_(adapter), options_(options), prompts_(std::move(prompts)), first_number_(first_number),
        results_(prompts_.size()), cache_(model.NewCache(static_cast<int64_t>(prompts_.size()), Capacity())) {
    rows_.resize(prompts_.size());
    std::iota(rows_.begin(), rows_.end(), size_t{0});
    live_.assign(prompts_.size(), true);
  }

  /// False when on_step asked to stop. Errors: those of CheckFiniteLogits.
  StatusOr<bool> Run(int64_t& tokens_so_far) {
    if (options_.max_new_tokens == 0) return true;
    at::Tensor logits_BV = model_.Prefill(prompts_, cache_, adapter_).cpu();
    for (int64_t step = 0;; ++step) {
      SBORA_RETURN_IF_ERROR(CheckFiniteLogits(logits_BV));
      std::vector<int64_t> next = Choose(logits_BV, step, tokens_so_far);
      if (std::none_of(live_.begin(), live_.end(), [](bool live) { return live; })) return true;
      if (options_.on_step && !options_.on_step(tokens_so_far)) {
        Cancel();
        return false;
      }
      Compact(next);
      logits_BV = model_.Step(next, cache_, adapter_).cpu();
    }
  }

  std::vector<Generation> TakeResults() { return std::move(results_); }

 private:
  int64_t Capacity() const {
    size_t longest = 0;
    for (const auto& prompt : prompts_) longest = std::max(longest, prompt.size());
    return std::min(static_cast<int64_t>(longest) + options_.max_new_tokens, model_.config().max_position_embeddings);
  }

  std::vector<int64_t> Choose(const at::Tensor& logits_BV, int64_t step, int64_t& tokens_so_far) {
    const int64_t vocab = logits_BV.size(1);
    std::vector<int64_t> next(rows_.size(), 0);
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!live_[i]) continue;
      const size_t row = rows_[i];
      const float* logits = logits_BV.const_data_ptr<float>() + static_cast<int64_t>(i) * vocab;
      const auto number = static_cast<uint64_t>(first_number_) + row;
      const double uniform =
          options_.temperature == 0 ? 0 : Uniform(options_.seed, number, static_cast<uint64_t>(step));
      const int64_t token = Sample(logits, vocab, options_, uniform);
      ++tokens_so_far;
      Generation& result = results_[row];
      if (std::find(options_.eos_ids.begin(), options_.eos_ids.end(), token) != options_.eos_ids.end()) {
        result.finish = FinishReason::kStop;
        live_[i] = false;
        continue;
      }
      result.ids.push_back(token);
      const auto length = static_cast<int64_t>(prompts_[row].size() + result.ids.size());
      live_[i] = static_cast<int64_t>(result.ids.size()) < options_.max_new_tokens &&
                 length < model_.config().max_position_embeddings;
      next[i] = token;
    }
    return next;
  }

  void Cancel() {
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (live_[i]) results_[rows_[i]].finish = FinishReason::kCancelled;
    }
  }

  void Compact(std::vector<int64_t>& next) {
    std::vector<int64_t> keep;
    for (size_t i = 0; i < live_.size(); ++i) {
      if (live_[i]) keep.push_back(static_cast<int64_t>(i));
    }
    if (keep.size() * 2 > live_.size()) return;
    std::vector<size_t> rows;
    std::vector<int64_t> tokens;
    for (const int64_t i : keep) {
      rows.push_back(rows_[static_cast<size_t>(i)]);
      tokens.push_back(next[static_cast<size_t>(i)]);
    }
    cache_.Keep(keep);
    rows_ = std::move(rows);
    next = std::move(tokens);
    live_.assign(rows_.size(), true);
  }

  const LlamaModel& model_;
  AdapterSet* adapter_;
  const GenerateOptions& options_;
  std::vector<std::vector<int64_t>> prompts_;
  int64_t first_number_;
  std::vector<Generation> results_;
  KvCache cache_;
  std::vector<size_t> rows_;  // batch row -> prompt
  std::vector<bool> live_;    // by batch row
};

}  // namespace

StatusOr<std::vector<Generation>> Generate(const LlamaModel& model, AdapterSet* adapter,
                                           const std::vector<std::vector<int64_t>>& prompts,
                                           const GenerateOptions& options) {
  SBORA_RETURN_IF_ERROR(CheckOptions(options));
  SBORA_RETURN_IF_ERROR(CheckBeams(options, model.config().vocab_size));
  SBORA_RETURN_IF_ERROR(CheckPrompts(prompts, model.config()));
  std::vector<Generation> results;
  results.reserve(prompts.size());
  int64_t tokens = 0;
  bool running = true;
  for (size_t begin = 0; begin < prompts.size(); begin += static_cast<size_t>(options.batch_size)) {
    const size_t end = std::min(prompts.size(), begin + static_cast<size_t>(options.batch_size));
    if (!running) {
      results.resize(results.size() + end - begin, Generation{.ids = {}, .finish = FinishReason::kCancelled});
      continue;
    }
    std::vector<std::vector<int64_t>> batch(prompts.begin() + static_cast<int64_t>(begin),
                                            prompts.begin() + static_cast<int64_t>(end));
    const auto decode = [&](auto decoder) -> Status {
      SBORA_ASSIGN_OR_RETURN(running, decoder.Run(tokens));
      for (Generation& generation : decoder.TakeResults()) results.push_back(std::move(generation));
      return OkStatus();
    };
    if (options.num_beams > 1) {
      SBORA_RETURN_IF_ERROR(decode(BeamDecoder(model, adapter, options, std::move(batch))));
    } else {
      const int64_t first_number = options.first_prompt + static_cast<int64_t>(begin);
      SBORA_RETURN_IF_ERROR(decode(BatchDecoder(model, adapter, options, std::move(batch), first_number)));
    }
  }
  return results;
}

}  // namespace sbora::trainer
