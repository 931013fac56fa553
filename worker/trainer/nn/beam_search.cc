#include "worker/trainer/nn/beam_search.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "worker/trainer/nn/kv_cache.h"

namespace sbora::trainer {

PromptBeams::PromptBeams(int64_t beams, int64_t limit) : beams_(beams), limit_(limit), running_(1), ids_(1) {}

int64_t PromptBeams::CandidatesPerStep(int64_t beams, size_t eos_ids) {
  return std::max<int64_t>(2, 1 + static_cast<int64_t>(eos_ids)) * beams;
}

void PromptBeams::Advance(std::span<const Continuation> best, const std::vector<int64_t>& eos_ids) {
  ++length_;
  const auto length = static_cast<float>(length_);
  std::vector<Continuation> running;
  std::vector<std::vector<int64_t>> ids;
  for (size_t i = 0; i < best.size(); ++i) {
    const Continuation& next = best[i];
    const bool stops = std::find(eos_ids.begin(), eos_ids.end(), next.token) != eos_ids.end();
    if (!stops && length_ < limit_) {
      if (std::ssize(running) == beams_) continue;
      running.push_back(next);
      ids.push_back(ids_[static_cast<size_t>(next.beam)]);
      ids.back().push_back(next.token);
    } else if (static_cast<int64_t>(i) < beams_) {
      Generation answer{.ids = ids_[static_cast<size_t>(next.beam)],
                        .finish = stops ? FinishReason::kStop : FinishReason::kLength};
      if (!stops) answer.ids.push_back(next.token);
      finished_.push_back({std::move(answer), next.score / length});
    }
  }
  std::stable_sort(finished_.begin(), finished_.end(),
                   [](const Finished& a, const Finished& b) { return a.score > b.score; });
  const bool full = std::ssize(finished_) >= beams_;
  if (full) finished_.resize(static_cast<size_t>(beams_));
  running_ = std::move(running);
  ids_ = std::move(ids);
  done_ = running_.empty() || (full && !(running_.front().score / length > finished_.back().score));
}

Generation PromptBeams::Best() const {
  SBORA_CHECK(done_ && !finished_.empty(), "the beams are still running after {} tokens", length_);
  return finished_.front().answer;
}

BeamDecoder::BeamDecoder(const LlamaModel& model, AdapterSet* adapter, const GenerateOptions& options,
                         std::vector<std::vector<int64_t>> prompts)
    : model_(model),
      adapter_(adapter),
      options_(options),
      prompts_(std::move(prompts)),
      results_(prompts_.size()),
      live_(prompts_.size()) {
  std::iota(live_.begin(), live_.end(), size_t{0});
  for (size_t i = 0; i < prompts_.size(); ++i) beams_.emplace_back(options_.num_beams, Limit(i));
}

int64_t BeamDecoder::Limit(size_t prompt) const {
  const int64_t room = model_.config().max_position_embeddings - std::ssize(prompts_[prompt]);
  return std::max<int64_t>(1, std::min(options_.max_new_tokens, room));
}

StatusOr<bool> BeamDecoder::Run(int64_t& tokens_so_far) {
  if (options_.max_new_tokens == 0) return true;
  int64_t capacity = 0;
  for (size_t i = 0; i < prompts_.size(); ++i) capacity = std::max(capacity, std::ssize(prompts_[i]) + Limit(i));
  KvCache cache = model_.NewCache(std::ssize(prompts_), capacity);
  at::Tensor logits_BV = model_.Prefill(prompts_, cache, adapter_);
  for (;;) {
    SBORA_RETURN_IF_ERROR(CheckFiniteLogits(logits_BV));
    Advance(logits_BV);
    tokens_so_far += std::ssize(live_);
    const auto [rows, tokens] = NextRows();
    if (live_.empty()) return true;
    if (options_.on_step && !options_.on_step(tokens_so_far)) {
      for (const size_t prompt : live_) results_[prompt].finish = FinishReason::kCancelled;
      return false;
    }
    cache.Keep(rows);
    logits_BV = model_.Step(tokens, cache, adapter_);
  }
}

void BeamDecoder::Advance(const at::Tensor& logits_BV) {
  const auto prompts = std::ssize(live_);
  const int64_t vocab = logits_BV.size(1);
  std::vector<float> scores;
  for (const size_t prompt : live_) {
    for (const auto& beam : beams_[prompt].running()) scores.push_back(beam.score);
  }
  const at::Tensor score_B1 = at::tensor(scores, at::kFloat).unsqueeze(1).to(logits_BV.device());
  const at::Tensor sum_PW = (at::log_softmax(logits_BV, 1) + score_B1).view({prompts, width_ * vocab});
  const int64_t count = PromptBeams::CandidatesPerStep(options_.num_beams, options_.eos_ids.size());
  auto [best_PC, index_PC] = sum_PW.topk(count, 1);
  best_PC = best_PC.cpu();
  index_PC = index_PC.cpu();
  for (int64_t p = 0; p < prompts; ++p) {
    const float* best = best_PC.const_data_ptr<float>() + p * count;
    const int64_t* index = index_PC.const_data_ptr<int64_t>() + p * count;
    std::vector<PromptBeams::Continuation> candidates;
    for (int64_t c = 0; c < count; ++c) candidates.push_back({index[c] / vocab, index[c] % vocab, best[c]});
    beams_[live_[static_cast<size_t>(p)]].Advance(candidates, options_.eos_ids);
  }
}

std::pair<std::vector<int64_t>, std::vector<int64_t>> BeamDecoder::NextRows() {
  std::vector<int64_t> rows;
  std::vector<int64_t> tokens;
  std::vector<size_t> live;
  for (size_t i = 0; i < live_.size(); ++i) {
    const PromptBeams& beams = beams_[live_[i]];
    if (beams.done()) {
      results_[live_[i]] = beams.Best();
      continue;
    }
    live.push_back(live_[i]);
    for (const auto& beam : beams.running()) {
      rows.push_back(static_cast<int64_t>(i) * width_ + beam.beam);
      tokens.push_back(beam.token);
    }
  }
  live_ = std::move(live);
  width_ = options_.num_beams;
  return {std::move(rows), std::move(tokens)};
}

}  // namespace sbora::trainer
