/// Evaluation (exact match, loss, perplexity) and generation on text. Torch-free: the model sits behind
/// InferenceSession.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "data/dataset_reader.h"
#include "worker/trainer/session/inference_session.h"

namespace sbora::trainer {

struct EvaluateRequest {
  InferenceSession::Options model;
  std::filesystem::path dataset;  ///< file, or a folder that holds one file
  data::DatasetFormat dataset_format = data::DatasetFormat::kAuto;
  core::PromptTemplate prompt_template = core::PromptTemplate::kAuto;
  GenerationSettings generation;  ///< eos_ids are the model's
  int64_t max_samples = 0;        ///< the first so many; 0: all
  bool exact_match = true;
  bool perplexity = true;
  std::filesystem::path output_dir;  ///< receives examples.jsonl
};

struct EvaluatedExample {
  int64_t index = 0;  ///< in the data set
  std::string prompt;
  std::string reference = {};
  std::string output = {};  ///< empty without exact_match
  bool match = false;  ///< output equals reference, both trimmed of white space
};

struct EvaluateOutcome {
  int64_t samples = 0;
  int64_t exact_matches = 0;
  double loss = 0;        ///< mean over the responses' tokens; 0 without perplexity
  double perplexity = 0;  ///< exp(loss); 0 without perplexity
  std::vector<EvaluatedExample> examples = {};  ///< all of them
};

/// Progress counts samples. A prompt longer than the model's context counts as wrong, with a PROMPTS_TOO_LONG event.
/// Errors: INVALID_ARGUMENT DATASET_EMPTY, PROMPT_TOO_LONG (all of them) and those of reader, templates and InferenceSession.
StatusOr<EvaluateOutcome> Evaluate(const EvaluateRequest& request, TaskObserver& observer);

struct GenerateTextRequest {
  InferenceSession::Options model;
  std::vector<std::string> prompts;
  bool chat = false;  ///< each prompt is one user turn of the model's chat template; else the text itself
  GenerationSettings generation;
  std::filesystem::path output_dir;  ///< receives generations.jsonl
};

/// One text for each prompt. Errors: as Evaluate.
StatusOr<std::vector<std::string>> GenerateTexts(const GenerateTextRequest& request, TaskObserver& observer);

}  // namespace sbora::trainer
