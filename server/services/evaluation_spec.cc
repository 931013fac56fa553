#include "server/services/evaluation_spec.h"

#include <fmt/format.h>

#include <numeric>

#include "common/status_macros.h"
#include "core/proto/convert.h"
#include "data/evaluation_set.h"
#include "server/services/dataset_check.h"

namespace sbora::server {
namespace {

constexpr int kMaxPrompts = 64;
constexpr size_t kMaxPromptBytes = 64 * 1024;
constexpr size_t kMaxPromptsBytes = 2 << 20;  ///< together: they go to a worker in one message
constexpr int kMaxBeams = 16;
constexpr int kMinAnswerWords = 2;
constexpr int kMaxAnswerWords = 64;
constexpr int kMaxFewShots = 32;
constexpr int kDefaultFewShots = 5;

data::Scoring ToData(v1::Scoring scoring) {
  switch (scoring) {
    case v1::SCORING_ANSWER_WORD: return data::Scoring::kAnswerWord;
    case v1::SCORING_LAST_NUMBER: return data::Scoring::kLastNumber;
    case v1::SCORING_OPTION_LETTER_PAPER: return data::Scoring::kOptionLetterPaper;
    case v1::SCORING_OPTION_LETTER_STRICT: return data::Scoring::kOptionLetterStrict;
    case v1::SCORING_CHOICE_LIKELIHOOD: return data::Scoring::kChoiceLikelihood;
    case v1::SCORING_CHOICE_LIKELIHOOD_SPACED: return data::Scoring::kChoiceLikelihoodSpaced;
    case v1::SCORING_UNSPECIFIED:
    case v1::SCORING_EXACT_MATCH:
    case v1::Scoring_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::Scoring_INT_MAX_SENTINEL_DO_NOT_USE_: break;
  }
  return data::Scoring::kExactMatch;
}

Status CheckGeneration(const v1::GenerationSpec& spec, const std::string& prefix, Status bad) {
  const auto range = [&](bool good, const char* field, const std::string& rule) {
    if (!good) bad = bad.WithViolation(prefix + field, rule);
  };
  range(!spec.has_max_new_tokens() || (spec.max_new_tokens() >= 1 && spec.max_new_tokens() <= 4096), "max_new_tokens",
        "must be 1 to 4096");
  range(!spec.has_temperature() || (spec.temperature() >= 0 && spec.temperature() <= 100), "temperature",
        "must be 0 (greedy) to 100");
  range(!spec.has_top_k() || spec.top_k() >= 0, "top_k", "must be 0 (no limit) or more");
  range(!spec.has_top_p() || (spec.top_p() > 0 && spec.top_p() <= 1), "top_p", "must be above 0 and at most 1");
  range(!spec.has_batch_size() || (spec.batch_size() >= 1 && spec.batch_size() <= 256), "batch_size",
        "must be 1 to 256");
  range(!spec.has_num_beams() || (spec.num_beams() >= 1 && spec.num_beams() <= kMaxBeams), "num_beams",
        fmt::format("must be 1 to {}", kMaxBeams));
  range(spec.num_beams() <= 1 || spec.temperature() == 0, "num_beams",
        "must be 1 with a temperature above 0: beams are not sampled");
  return bad;
}

Status CheckSubject(const std::string& model, const std::string& adapter, const std::string& prefix, Status bad) {
  if (model.empty() && adapter.empty()) {
    bad = bad.WithViolation(prefix + "model", "name a model, or an adapter in `adapter`");
  }
  return bad;
}

Status CheckScoring(const v1::EvaluationSpec& spec, const std::string& prefix, Status bad) {
  const auto rule = [&](bool good, const char* field, const std::string& text) {
    if (!good) bad = bad.WithViolation(prefix + field, text);
  };
  rule(v1::Scoring_IsValid(spec.scoring()), "scoring", "must be one of Scoring");
  const bool answers = !spec.has_exact_match() || spec.exact_match();
  const bool exact = spec.scoring() == v1::SCORING_UNSPECIFIED || spec.scoring() == v1::SCORING_EXACT_MATCH;
  rule(answers || exact, "exact_match", "must be true when `scoring` asks for answers");
  const int words = spec.answer_words_size();
  if (spec.scoring() == v1::SCORING_ANSWER_WORD) {
    rule(words >= kMinAnswerWords && words <= kMaxAnswerWords, "answer_words",
         fmt::format("{} words; {} to {} are taken", words, kMinAnswerWords, kMaxAnswerWords));
  } else {
    rule(words == 0, "answer_words", "needs SCORING_ANSWER_WORD");
  }
  for (int i = 0; i < words; ++i)
    rule(!spec.answer_words(i).empty(), "answer_words", fmt::format("word {} is empty", i));
  const bool likelihood = data::ByLikelihood(ToData(spec.scoring()));
  rule(likelihood || spec.few_shot_dataset().empty(), "few_shot_dataset",
       "needs SCORING_CHOICE_LIKELIHOOD or ..._SPACED");
  rule(spec.few_shots() >= 0 && spec.few_shots() <= kMaxFewShots, "few_shots",
       fmt::format("must be 0 to {}", kMaxFewShots));
  rule(spec.few_shots() == 0 || !spec.few_shot_dataset().empty(), "few_shot_dataset",
       "must be set when few_shots is above 0");
  const bool own_prompt =
      spec.prompt_template() != v1::PROMPT_TEMPLATE_UNSPECIFIED && spec.prompt_template() != v1::PROMPT_TEMPLATE_AUTO;
  rule(!likelihood || !own_prompt, "prompt_template", "must be left out: likelihood scoring has a prompt of its own");
  return bad;
}

template <typename Spec>
Status CheckBaseQuantization(const Spec& spec, const std::string& prefix, Status bad) {
  if (!v1::Quantization_IsValid(spec.base_quantization())) {
    bad = bad.WithViolation(prefix + "base_quantization", "must be QUANTIZATION_NONE or QUANTIZATION_NF4, or left out");
  }
  if (spec.has_double_quantization() && spec.base_quantization() != v1::QUANTIZATION_NF4) {
    bad = bad.WithViolation(prefix + "double_quantization", "needs base_quantization QUANTIZATION_NF4");
  }
  return bad;
}

std::string Describe(const BaseForm& form) {
  return std::string(core::Describe({.kind = form.quantization == v1::QUANTIZATION_NF4 ? core::Quantization::kNf4
                                                                                       : core::Quantization::kNone,
                                     .double_quantization = form.double_quantization}));
}

template <typename Resource>
BaseForm FormOf(const Resource& resource) {
  if (resource.quantization() != v1::QUANTIZATION_NF4) return {};
  return {v1::QUANTIZATION_NF4, resource.double_quantization()};
}

/// Problems of records belong to the field that names the data, their place goes into the text.
Status InRequest(const Status& status) {
  if (status.violations().empty()) return status;
  Status found(status.code(), status.reason(), status.message());
  for (const auto& [key, value] : status.metadata()) found = found.WithMetadata(key, value);
  for (const FieldViolation& violation : status.violations()) {
    found = found.WithViolation("evaluation_job.spec.dataset", fmt::format("{}: {}", violation.field, violation.description));
  }
  return found;
}

}  // namespace

Status CheckEvaluationSpec(const v1::EvaluationSpec& spec) {
  const std::string prefix = "evaluation_job.spec.";
  Status bad = InvalidArgument("INVALID_SPEC", "the evaluation cannot be made; see the field violations");
  bad = CheckSubject(spec.model(), spec.adapter(), prefix, bad);
  if (spec.dataset().empty()) bad = bad.WithViolation(prefix + "dataset", "must be set");
  if (!core::ParsePromptTemplate(spec.prompt_template()).ok()) {
    bad = bad.WithViolation(prefix + "prompt_template", "must be one of PromptTemplate");
  }
  if (!core::ParseDevice(spec.device()).ok()) bad = bad.WithViolation(prefix + "device", "must be one of Device");
  if (spec.max_samples() < 0) bad = bad.WithViolation(prefix + "max_samples", "must be 0 (all) or more");
  if (spec.threads() < 0 || spec.threads() > 1024) bad = bad.WithViolation(prefix + "threads", "must be 0 to 1024");
  bad = CheckBaseQuantization(spec, prefix, bad);
  bad = CheckScoring(spec, prefix, bad);
  bad = CheckGeneration(spec.generation(), prefix + "generation.", bad);
  return bad.violations().empty() ? OkStatus() : bad;
}

void FillGenerationDefaults(v1::GenerationSpec& spec) {
  if (!spec.has_max_new_tokens()) spec.set_max_new_tokens(64);
  if (!spec.has_temperature()) spec.set_temperature(0);
  if (!spec.has_top_k()) spec.set_top_k(0);
  if (!spec.has_top_p()) spec.set_top_p(1);
  if (!spec.has_seed()) spec.set_seed(42);
  if (!spec.has_batch_size()) spec.set_batch_size(8);
  if (!spec.has_num_beams()) spec.set_num_beams(1);
}

void FillEvaluationDefaults(v1::EvaluationSpec& spec) {
  if (spec.prompt_template() == v1::PROMPT_TEMPLATE_UNSPECIFIED) spec.set_prompt_template(v1::PROMPT_TEMPLATE_AUTO);
  if (spec.device() == v1::DEVICE_UNSPECIFIED) spec.set_device(v1::DEVICE_AUTO);
  if (spec.scoring() == v1::SCORING_UNSPECIFIED) spec.set_scoring(v1::SCORING_EXACT_MATCH);
  if (!spec.has_exact_match()) spec.set_exact_match(true);
  if (!spec.has_perplexity()) spec.set_perplexity(spec.scoring() == v1::SCORING_EXACT_MATCH);
  if (!spec.has_few_shots()) spec.set_few_shots(spec.few_shot_dataset().empty() ? 0 : kDefaultFewShots);
  FillGenerationDefaults(*spec.mutable_generation());
}

StatusOr<BaseForm> ResolveBaseForm(v1::Quantization asked, std::optional<bool> double_quantization, const v1::Model& model,
                                   const v1::Adapter* adapter, const std::string& field_prefix) {
  const BaseForm given = adapter != nullptr ? FormOf(*adapter) : FormOf(model);
  if (asked == v1::QUANTIZATION_UNSPECIFIED) return given;
  BaseForm wanted;
  if (asked == v1::QUANTIZATION_NF4) wanted = {asked, double_quantization.value_or(true)};
  const bool bound = adapter != nullptr || given.quantization == v1::QUANTIZATION_NF4;
  const bool same = wanted.quantization == given.quantization && wanted.double_quantization == given.double_quantization;
  if (!bound || same) return wanted;
  return FailedPrecondition("BASE_QUANTIZATION_MISMATCH",
                            fmt::format("{} {} {}, the request asks for {}; leave base_quantization out",
                                        adapter != nullptr ? adapter->name() : model.name(),
                                        adapter != nullptr ? "was trained on its base held as" : "is held as", Describe(given),
                                        Describe(wanted)))
      .WithViolation(field_prefix + "base_quantization", fmt::format("must be left out, or {}", Describe(given)));
}

Status CheckGenerateRequest(const v1::GenerateRequest& request) {
  Status bad = InvalidArgument("INVALID_REQUEST", "the text cannot be generated; see the field violations");
  bad = CheckSubject(request.model(), request.adapter(), "", bad);
  if (request.prompts().empty() || request.prompts_size() > kMaxPrompts) {
    bad =
        bad.WithViolation("prompts", fmt::format("{} prompts; 1 to {} are taken", request.prompts_size(), kMaxPrompts));
  }
  for (int i = 0; i < request.prompts_size() && i < kMaxPrompts; ++i) {
    if (request.prompts(i).size() <= kMaxPromptBytes) continue;
    bad = bad.WithViolation(fmt::format("prompts[{}]", i),
                            fmt::format("{} bytes exceed {}", request.prompts(i).size(), kMaxPromptBytes));
  }
  const size_t together = std::accumulate(request.prompts().begin(), request.prompts().end(), size_t{0},
                                          [](size_t sum, const std::string& prompt) { return sum + prompt.size(); });
  if (together > kMaxPromptsBytes) {
    bad = bad.WithViolation("prompts", fmt::format("{} bytes together exceed {}", together, kMaxPromptsBytes));
  }
  if (!core::ParsePromptTemplate(request.prompt_template()).ok()) {
    bad = bad.WithViolation("prompt_template", "must be one of PromptTemplate");
  }
  bad = CheckBaseQuantization(request, "", bad);
  bad = CheckGeneration(request.generation(), "generation.", bad);
  return bad.violations().empty() ? OkStatus() : bad;
}

Status CheckEvaluationData(const v1::EvaluationSpec& spec, const EvaluationFiles& files) {
  data::EvaluationInputs inputs;
  inputs.dataset = files.dataset;
  inputs.format = ToDataFormat(files.format);
  inputs.rule = {.scoring = ToData(spec.scoring()),
                 .answer_words = {spec.answer_words().begin(), spec.answer_words().end()}};
  inputs.few_shot_dataset = files.few_shots;
  inputs.few_shot_format = ToDataFormat(files.few_shot_format);
  inputs.few_shots = spec.few_shots();
  return InRequest(data::CheckEvaluationSet(inputs));
}

}  // namespace sbora::server
