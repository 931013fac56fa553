/// A loaded model, with or without an adapter, for generation and for the loss of given answers. Torch-free border, as
/// train_session.h.
///
/// The base is held as the adapter's config says it was in training; without an adapter as the options say, and a model
/// that is in NF4 itself always so.
/// Errors: loading: those of LoadBase (base_model.h) and the adapter folder, FAILED_PRECONDITION BASE_HASH_MISMATCH,
/// BASE_QUANTIZATION_MISMATCH when the options ask for another form than the adapter's; computing:
/// INVALID_ARGUMENT for prompts that are empty, too long or hold unknown ids; RESOURCE_EXHAUSTED OOM_GPU, OOM_HOST;
/// CANCELLED when the observer asks to stop. Threading: one call at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"
#include "worker/trainer/session/device.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

struct GenerationSettings {
  int64_t max_new_tokens = 64;
  double temperature = 0;  ///< 0: greedy
  int64_t top_k = 0;       ///< 0: no limit
  double top_p = 1;
  uint64_t seed = 42;
  int64_t batch_size = 8;  ///< prompts decoded together
  int64_t num_beams = 1;   ///< above 1: beam search, with temperature 0 only
  std::vector<int64_t> eos_ids;
};

/// A whole text as ids; the loss counts the tokens that are supervised.
struct ScoredSample {
  std::vector<int64_t> ids;      ///< at least one
  std::vector<bool> supervised;  ///< as many; the first is never a target
};

struct LossTotal {
  double sum = 0;
  int64_t tokens = 0;
};

class InferenceSession {
 public:
  struct Options {
    std::filesystem::path model_dir;
    std::filesystem::path nf4_dir;      ///< a plain base in NF4; needed when it is to be held so
    std::filesystem::path adapter_dir;  ///< empty: the base model. A checkpoint of full fine-tuning takes the base's place
    std::string base_hash;              ///< of model_dir; the adapter must name the same. Empty: not checked
    std::optional<core::BaseQuantization> quantization = {};  ///< none: as adapter or model say
    DevicePlan device;
  };
  /// `observer` must outlive the session.
  static StatusOr<std::unique_ptr<InferenceSession>> Load(const Options& options, TaskObserver& observer);
  ~InferenceSession();

  const core::ModelConfig& config() const;

  /// One list of ids per prompt, without prompt and end token. `on_batch` gets the number of prompts done, after each
  /// batch; within one the observer hears OnAlive.
  StatusOr<std::vector<std::vector<int64_t>>> Generate(const std::vector<std::vector<int64_t>>& prompts,
                                                       const GenerationSettings& settings,
                                                       const std::function<void(int64_t done)>& on_batch);
  /// For each prompt the natural logarithm of the probability that each of `choices` is its next token. Prompts are
  /// packed, at most `batch_size` at a time.
  StatusOr<std::vector<std::vector<double>>> NextTokenLogProbabilities(std::span<const std::vector<int64_t>> prompts,
                                                                       std::span<const std::vector<int64_t>> choices,
                                                                       int64_t batch_size,
                                                                       const std::function<void(int64_t done)>& on_batch);
  /// Sum of -log p over all supervised tokens. Samples are packed, at most `batch_size` at a time.
  StatusOr<LossTotal> AnswerLoss(std::span<const ScoredSample> samples, int64_t batch_size,
                                 const std::function<void(int64_t done)>& on_batch);

 private:
  struct Impl;
  explicit InferenceSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::trainer
