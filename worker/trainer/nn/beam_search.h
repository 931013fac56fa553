/// Beam search of one batch of prompts over a KV cache; generate.h is the way in.
///
/// It decides as transformers 5 does with do_sample=False, length_penalty=1 and early_stopping=False, which published
/// results were made with (num_beams=4 in LLM-Adapters' and SBoRA's evaluations):
///   - each step takes the max(2, 1 + end tokens) x beams best continuations of a prompt's running beams, by the sum of
///     their tokens' log-probabilities; the best of them that do not end are the next running beams;
///   - one that ends (by an end token, or at the limit of length) is kept as finished only if it is among the best
///     `beams` of these; its score is the sum over the number of its tokens, the end token among them; the `beams` best
///     finished ones are kept;
///   - a prompt is done at its limit, or once there are `beams` finished ones and the best running beam's sum over its
///     length is no better than the worst of them. The answer is the best finished one.
/// Scores are float32 and prompts independent of one another, so batching changes nothing but the order of sums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/trainer/nn/generate.h"

namespace sbora::trainer {

/// The beams of one prompt, without a model. Not thread-safe.
class PromptBeams {
 public:
  struct Continuation {
    int64_t beam = 0;  ///< of the running ones
    int64_t token = 0;
    float score = 0;  ///< the beam's score and the token's log-probability
  };

  /// Begins with one empty beam. `limit`: tokens an answer may have, at least 1.
  PromptBeams(int64_t beams, int64_t limit);

  /// One step: `best` holds the best continuations in descending order, CandidatesPerStep of them.
  void Advance(std::span<const Continuation> best, const std::vector<int64_t>& eos_ids);
  static int64_t CandidatesPerStep(int64_t beams, size_t eos_ids);

  bool done() const { return done_; }
  /// Running beams, best first: 1 before the first step, then `beams`. Of each the beam it came from in the step
  /// before, its last token, and its score.
  const std::vector<Continuation>& running() const { return running_; }
  /// REQUIRED: done().
  Generation Best() const;

 private:
  struct Finished {
    Generation answer;
    float score = 0;
  };

  int64_t beams_;
  int64_t limit_;
  int64_t length_ = 0;
  bool done_ = false;
  std::vector<Continuation> running_;
  std::vector<std::vector<int64_t>> ids_;  // of the running beams
  std::vector<Finished> finished_;         // best first
};

/// Decodes one batch with options.num_beams beams to the end. REQUIRED: prompts and options are checked, as Generate
/// does.
class BeamDecoder {
 public:
  /// All must outlive it.
  BeamDecoder(const LlamaModel& model, AdapterSet* adapter, const GenerateOptions& options,
              std::vector<std::vector<int64_t>> prompts);

  /// False when on_step asked to stop; unfinished prompts are kCancelled then. Adds one for each prompt and step to
  /// `tokens_so_far`. Errors: those of CheckFiniteLogits.
  StatusOr<bool> Run(int64_t& tokens_so_far);
  std::vector<Generation> TakeResults() { return std::move(results_); }

 private:
  int64_t Limit(size_t prompt) const;
  /// Advances every live prompt by the logits of its running beams' next tokens.
  void Advance(const at::Tensor& logits_BV);
  /// Takes results of prompts that are done; returns cache rows and tokens of the others' beams for the next step.
  std::pair<std::vector<int64_t>, std::vector<int64_t>> NextRows();

  const LlamaModel& model_;
  AdapterSet* adapter_;
  const GenerateOptions& options_;
  std::vector<std::vector<int64_t>> prompts_;
  std::vector<Generation> results_;
  std::vector<PromptBeams> beams_;  // by prompt
  std::vector<size_t> live_;        // prompts in the cache, in order
  int64_t width_ = 1;               // beams of each live prompt in the cache
};

}  // namespace sbora::trainer
