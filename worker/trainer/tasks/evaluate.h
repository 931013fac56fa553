/// Evaluation (answers scored by a rule, loss, perplexity) and generation on text. Torch-free: the model sits behind
/// InferenceSession.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "data/evaluation_set.h"
#include "worker/trainer/session/inference_session.h"

namespace sbora::trainer {

struct EvaluateRequest {
  InferenceSession::Options model;
  data::EvaluationInputs inputs;  ///< each data set: file, or a folder that holds one file
  core::PromptTemplate prompt_template = core::PromptTemplate::kAuto;  ///< not by likelihood, which has its own prompt
  GenerationSettings generation;  ///< eos_ids are the model's
  bool answers = true;            ///< generate or choose answers and score them by inputs.rule
  bool perplexity = true;
  std::filesystem::path output_dir;  ///< receives examples.jsonl
};

struct EvaluatedExample {
  int64_t index = 0;  ///< in the data set
  std::string prompt;
  std::string reference = {};  ///< the record's response
  std::string expected = {};   ///< what `answer` is compared with
  std::string subject = {};
  std::string output = {};  ///< all that was generated; empty without answers and by likelihood
  std::optional<std::string> answer = {};  ///< what the rule found
  bool match = false;
  std::vector<double> choice_log_probabilities = {};  ///< by likelihood: of each choice's letter
};

struct SubjectTally {
  int64_t samples = 0;
  int64_t correct = 0;
};

struct EvaluateOutcome {
  int64_t samples = 0;
  int64_t correct = 0;
  int64_t unanswered = 0;        ///< wrong ones without an answer
  int64_t prompts_too_long = 0;  ///< of these: never asked
  std::map<std::string, SubjectTally> subjects = {};  ///< of records that have one
  double loss = 0;        ///< mean over the responses' tokens; 0 without perplexity
  double perplexity = 0;  ///< exp(loss); 0 without perplexity
  std::vector<EvaluatedExample> examples = {};  ///< all of them

  /// Mean of the subjects' accuracies; the accuracy of all when there are no subjects.
  double SubjectMean() const;
};

/// Progress counts samples. A prompt longer than the model's context counts as wrong, with a PROMPTS_TOO_LONG event; by
/// likelihood it first loses few-shot questions from the end, with a FEW_SHOTS_LEFT_OUT event, as Hendrycks' test has
/// it. Errors: INVALID_ARGUMENT PROMPT_TOO_LONG (all of them), CHOICE_TOKENS_ALIKE (the tokenizer begins two letters
/// with one token), and those of data::ReadEvaluationSet, templates and InferenceSession.
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
