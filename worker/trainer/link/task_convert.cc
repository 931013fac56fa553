#include "worker/trainer/link/task_convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "common/file.h"
#include "common/status_macros.h"
#include "common/text.h"
#include "core/nf4_config.h"
#include "core/proto/convert.h"

namespace sbora::trainer {
namespace {

constexpr int kExamplesInResult = 20;
constexpr size_t kMaxExampleBytes = 8 * 1024;  // of each text; examples.jsonl has all of it
constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMaxNewTokens = 4096;
constexpr char kTrainSuffix[] = ".train.tokens";
constexpr char kValidationSuffix[] = ".validation.tokens";

std::filesystem::path OptionalDirectory(const v1::TaskAssignment& assignment, const std::string& name) {
  const auto found = assignment.directories().find(name);
  return found == assignment.directories().end() ? std::filesystem::path() : std::filesystem::path(found->second);
}

StatusOr<OverWorkers> ToOverWorkers(const v1::GangOverWorkers& gang) {
  const size_t colon = gang.rendezvous().rfind(':');
  int port = 0;
  const char* const end = gang.rendezvous().data() + gang.rendezvous().size();
  const bool split = colon != std::string::npos && colon > 0;
  const auto parsed = split ? std::from_chars(gang.rendezvous().data() + colon + 1, end, port) : std::from_chars_result{};
  if (!split || parsed.ec != std::errc() || parsed.ptr != end || port <= 0 || port > 65535 || gang.address().empty()) {
    return InvalidArgument("TASK_MALFORMED", fmt::format("rank 0 is to be met at \"{}\", which is no host:port, from \"{}\"",
                                                         gang.rendezvous(), gang.address()));
  }
  return OverWorkers{.store_host = gang.rendezvous().substr(0, colon),
                     .store_port = static_cast<uint16_t>(port),
                     .listener = gang.listener() > 0 ? gang.listener() : -1,
                     .address = gang.address(),
                     .first_local_rank = gang.first_local_rank(),
                     .local_ranks = gang.local_ranks()};
}

StatusOr<data::DatasetFormat> ParseFormat(sbora::v1::DatasetFormat format) {
  switch (format) {
    case sbora::v1::DATASET_FORMAT_UNSPECIFIED:
      return data::DatasetFormat::kAuto;
    case sbora::v1::DATASET_FORMAT_ALPACA:
      return data::DatasetFormat::kAlpaca;
    case sbora::v1::DATASET_FORMAT_PROMPT_COMPLETION:
      return data::DatasetFormat::kPromptCompletion;
    case sbora::v1::DATASET_FORMAT_CHAT:
      return data::DatasetFormat::kChat;
    case sbora::v1::DATASET_FORMAT_CHOICE: return data::DatasetFormat::kChoice;
    case sbora::v1::DatasetFormat_INT_MIN_SENTINEL_DO_NOT_USE_:
    case sbora::v1::DatasetFormat_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return InvalidArgument("TASK_MALFORMED", fmt::format("dataset_format is {}", static_cast<int>(format)));
}

StatusOr<data::Scoring> ParseScoring(sbora::v1::Scoring scoring) {
  switch (scoring) {
    case sbora::v1::SCORING_UNSPECIFIED:
    case sbora::v1::SCORING_EXACT_MATCH: return data::Scoring::kExactMatch;
    case sbora::v1::SCORING_ANSWER_WORD: return data::Scoring::kAnswerWord;
    case sbora::v1::SCORING_LAST_NUMBER: return data::Scoring::kLastNumber;
    case sbora::v1::SCORING_OPTION_LETTER_PAPER: return data::Scoring::kOptionLetterPaper;
    case sbora::v1::SCORING_OPTION_LETTER_STRICT: return data::Scoring::kOptionLetterStrict;
    case sbora::v1::SCORING_CHOICE_LIKELIHOOD: return data::Scoring::kChoiceLikelihood;
    case sbora::v1::SCORING_CHOICE_LIKELIHOOD_SPACED: return data::Scoring::kChoiceLikelihoodSpaced;
    case sbora::v1::Scoring_INT_MIN_SENTINEL_DO_NOT_USE_:
    case sbora::v1::Scoring_INT_MAX_SENTINEL_DO_NOT_USE_: break;
  }
  return InvalidArgument("TASK_MALFORMED", fmt::format("scoring is {}", static_cast<int>(scoring)));
}

StatusOr<MergeTarget> ParseMergeTarget(sbora::v1::MergeTarget target) {
  switch (target) {
    case sbora::v1::MERGE_TARGET_UNSPECIFIED: return MergeTarget::kAsTrained;
    case sbora::v1::MERGE_TARGET_NF4: return MergeTarget::kNf4;
    case sbora::v1::MERGE_TARGET_FLOAT: return MergeTarget::kFloat;
    case sbora::v1::MergeTarget_INT_MIN_SENTINEL_DO_NOT_USE_:
    case sbora::v1::MergeTarget_INT_MAX_SENTINEL_DO_NOT_USE_: break;
  }
  return InvalidArgument("TASK_MALFORMED", fmt::format("into is {}", static_cast<int>(target)));
}

/// How a request without an adapter wants the base; none when it leaves that open.
template <typename Spec>
std::optional<core::BaseQuantization> AskedQuantization(const Spec& spec) {
  if (spec.base_quantization() == sbora::v1::QUANTIZATION_UNSPECIFIED) return std::nullopt;
  if (spec.base_quantization() != sbora::v1::QUANTIZATION_NF4) return core::BaseQuantization{};
  return core::BaseQuantization{.kind = core::Quantization::kNf4,
                                .double_quantization = !spec.has_double_quantization() || spec.double_quantization()};
}

DevicePlan DeviceOf(const v1::TaskAssignment& assignment, core::ComputeDtype dtype, int64_t spec_threads) {
  const bool fixed = spec_threads > 0;
  return {.device = assignment.device().empty() ? "cpu" : assignment.device(),
          .dtype = dtype,
          .threads = fixed ? static_cast<int>(spec_threads) : assignment.threads(),
          .threads_fixed = fixed};
}

StatusOr<GenerationSettings> ParseGeneration(const sbora::v1::GenerationSpec& spec) {
  GenerationSettings settings;
  if (spec.has_max_new_tokens()) settings.max_new_tokens = spec.max_new_tokens();
  if (spec.has_temperature()) settings.temperature = spec.temperature();
  if (spec.has_top_k()) settings.top_k = spec.top_k();
  if (spec.has_top_p()) settings.top_p = spec.top_p();
  if (spec.has_seed()) settings.seed = spec.seed();
  if (spec.has_batch_size()) settings.batch_size = spec.batch_size();
  if (spec.has_num_beams()) settings.num_beams = spec.num_beams();
  const bool good = settings.max_new_tokens >= 1 && settings.max_new_tokens <= kMaxNewTokens &&
                    settings.temperature >= 0 && settings.top_k >= 0 && settings.top_p > 0 && settings.top_p <= 1 &&
                    settings.batch_size >= 1 && settings.num_beams >= 1;
  if (!good) {
    return InvalidArgument(
        "GENERATE_OPTIONS",
        fmt::format("max_new_tokens={} (1 to {}), temperature={} (0 or above), top_k={} (0 or above), "
                    "top_p={} (above 0, at most 1), batch_size={} (1 or above), num_beams={} (1 or "
                    "above): out of range",
                    settings.max_new_tokens, kMaxNewTokens, settings.temperature, settings.top_k, settings.top_p,
                    settings.batch_size, settings.num_beams));
  }
  return settings;
}

/// As the coordinator stored it, and once more against the model: a cutoff may have waited for it.
StatusOr<core::JobSpec> ResolvedSpec(const worker::v1::TrainTask& task, const std::filesystem::path& model_dir) {
  SBORA_ASSIGN_OR_RETURN(auto spec, core::ParseSpec(task.spec()));
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(model_dir / "config.json", kMaxConfigBytes));
  SBORA_ASSIGN_OR_RETURN(const auto form, core::ParseModelForm(text));
  SBORA_RETURN_IF_ERROR(core::ResolveAgainstModel(form.config, spec));
  return spec;
}

}  // namespace

StatusOr<std::filesystem::path> DirectoryOf(const v1::TaskAssignment& assignment, const std::string& name) {
  const auto found = assignment.directories().find(name);
  if (found != assignment.directories().end()) return std::filesystem::path(found->second);
  return InvalidArgument("TASK_MALFORMED", fmt::format("the task has no folder \"{}\"", name));
}

namespace {

Status ReadMixture(const v1::TaskAssignment& assignment, PrepareRequest& request) {
  const auto& task = assignment.task().train();
  if (static_cast<size_t>(task.mixture_formats_size()) != request.spec.datasets.size()) {
    return InvalidArgument("TASK_MALFORMED", fmt::format("{} formats for a mixture of {} data sets",
                                                         task.mixture_formats_size(), request.spec.datasets.size()));
  }
  for (int i = 0; i < task.mixture_formats_size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(request.mixture.emplace_back(), DirectoryOf(assignment, fmt::format("dataset-{}", i)));
    SBORA_ASSIGN_OR_RETURN(request.mixture_formats.emplace_back(), ParseFormat(task.mixture_formats(i)));
  }
  return OkStatus();
}

}  // namespace

StatusOr<PrepareRequest> ToPrepareRequest(const v1::TaskAssignment& assignment) {
  const auto& task = assignment.task().train();
  PrepareRequest request;
  SBORA_ASSIGN_OR_RETURN(request.model_dir, DirectoryOf(assignment, "model"));
  SBORA_ASSIGN_OR_RETURN(request.spec, ResolvedSpec(task, request.model_dir));
  if (request.spec.datasets.empty()) {
    SBORA_ASSIGN_OR_RETURN(request.dataset, DirectoryOf(assignment, "dataset"));
  }
  SBORA_RETURN_IF_ERROR(ReadMixture(assignment, request));
  request.validation_dataset = OptionalDirectory(assignment, "validation");
  SBORA_ASSIGN_OR_RETURN(request.dataset_format, ParseFormat(task.dataset_format()));
  SBORA_ASSIGN_OR_RETURN(request.validation_format, ParseFormat(task.validation_format()));
  SBORA_ASSIGN_OR_RETURN(request.token_cache_dir, DirectoryOf(assignment, "token_cache"));
  request.validation_cache_dir = OptionalDirectory(assignment, "validation_cache");
  return request;
}

StatusOr<TrainRequest> ToTrainRequest(const v1::TaskAssignment& assignment) {
  const auto& task = assignment.task().train();
  TrainRequest request;
  SBORA_ASSIGN_OR_RETURN(request.model_dir, DirectoryOf(assignment, "model"));
  SBORA_ASSIGN_OR_RETURN(request.spec, ResolvedSpec(task, request.model_dir));
  for (const auto& entry : task.indices()) {
    request.indices.push_back({entry.module(), {entry.indices().begin(), entry.indices().end()}});
  }
  request.base_hash = task.base_hash();
  request.nf4_dir = OptionalDirectory(assignment, "nf4");
  SBORA_ASSIGN_OR_RETURN(const auto token_cache, DirectoryOf(assignment, "token_cache"));
  SBORA_ASSIGN_OR_RETURN(request.token_cache, OnlyFile(token_cache, kTrainSuffix));
  if (const auto validation = OptionalDirectory(assignment, "validation_cache"); !validation.empty()) {
    SBORA_ASSIGN_OR_RETURN(request.validation_cache, OnlyFile(validation, kValidationSuffix));
  }
  request.output_dir = assignment.output_directory();
  request.checkpoint_dir = assignment.checkpoint_directory();
  for (const char* name : {"checkpoint", "checkpoint_before"}) {
    if (const auto checkpoint = OptionalDirectory(assignment, name); !checkpoint.empty()) request.resume_from.push_back(checkpoint);
  }
  request.device = DeviceOf(assignment, request.spec.compute_dtype, request.spec.threads);
  request.gang = {.rank = assignment.rank(),
                  .world_size = assignment.world_size(),
                  .rendezvous_file = assignment.rendezvous_file()};
  if (assignment.has_gang()) {
    SBORA_ASSIGN_OR_RETURN(request.gang.over_workers, ToOverWorkers(assignment.gang()));
  }
  if (request.gang.rank < 0 || request.gang.rank >= request.gang.world_size) {
    return InvalidArgument("TASK_MALFORMED", fmt::format("rank {} of {}", request.gang.rank, request.gang.world_size));
  }
  return request;
}

StatusOr<EvaluateRequest> ToEvaluateRequest(const v1::TaskAssignment& assignment) {
  const auto& task = assignment.task().evaluate();
  const auto& spec = task.spec();
  EvaluateRequest request;
  SBORA_ASSIGN_OR_RETURN(request.model.model_dir, DirectoryOf(assignment, "model"));
  request.model.nf4_dir = OptionalDirectory(assignment, "nf4");
  request.model.adapter_dir = OptionalDirectory(assignment, "adapter");
  request.model.base_hash = task.base_hash();
  request.model.quantization = AskedQuantization(spec);
  request.model.device = DeviceOf(assignment, core::ComputeDtype::kAuto, spec.threads());
  data::EvaluationInputs& inputs = request.inputs;
  SBORA_ASSIGN_OR_RETURN(inputs.dataset, DirectoryOf(assignment, "dataset"));
  SBORA_ASSIGN_OR_RETURN(inputs.format, ParseFormat(task.dataset_format()));
  SBORA_ASSIGN_OR_RETURN(inputs.rule.scoring, ParseScoring(spec.scoring()));
  inputs.rule.answer_words.assign(spec.answer_words().begin(), spec.answer_words().end());
  inputs.max_samples = spec.max_samples();
  inputs.few_shot_dataset = OptionalDirectory(assignment, "few_shots");
  SBORA_ASSIGN_OR_RETURN(inputs.few_shot_format, ParseFormat(task.few_shot_format()));
  inputs.few_shots = spec.few_shots();
  SBORA_ASSIGN_OR_RETURN(request.prompt_template, core::ParsePromptTemplate(spec.prompt_template()));
  SBORA_ASSIGN_OR_RETURN(request.generation, ParseGeneration(spec.generation()));
  request.answers = !spec.has_exact_match() || spec.exact_match();
  request.perplexity = !spec.has_perplexity() || spec.perplexity();
  request.output_dir = assignment.output_directory();
  return request;
}

StatusOr<GenerateTextRequest> ToGenerateRequest(const v1::TaskAssignment& assignment) {
  const auto& task = assignment.task().generate();
  GenerateTextRequest request;
  SBORA_ASSIGN_OR_RETURN(request.model.model_dir, DirectoryOf(assignment, "model"));
  request.model.nf4_dir = OptionalDirectory(assignment, "nf4");
  request.model.adapter_dir = OptionalDirectory(assignment, "adapter");
  request.model.base_hash = task.base_hash();
  request.model.quantization = AskedQuantization(task.request());
  request.model.device = DeviceOf(assignment, core::ComputeDtype::kAuto, 0);
  request.prompts.assign(task.request().prompts().begin(), task.request().prompts().end());
  request.chat = task.request().prompt_template() == sbora::v1::PROMPT_TEMPLATE_CHAT;
  SBORA_ASSIGN_OR_RETURN(request.generation, ParseGeneration(task.request().generation()));
  request.output_dir = assignment.output_directory();
  return request;
}

StatusOr<QuantizeRequest> ToQuantizeRequest(const v1::TaskAssignment& assignment) {
  const auto& task = assignment.task().quantize();
  QuantizeRequest request;
  SBORA_ASSIGN_OR_RETURN(request.model_dir, DirectoryOf(assignment, "model"));
  request.output_dir = assignment.output_directory();
  request.double_quantization = task.double_quantization();
  request.base_hash = task.base_hash();
  request.threads = assignment.threads();
  return request;
}

StatusOr<MergeBase> ToMergeBase(const v1::TaskAssignment& assignment) {
  MergeBase base;
  SBORA_ASSIGN_OR_RETURN(base.model_dir, DirectoryOf(assignment, "model"));
  base.nf4_dir = OptionalDirectory(assignment, "nf4");
  base.threads = std::max(1, assignment.threads());
  return base;
}

StatusOr<MergeRequest> ToMergeRequest(const v1::TaskAssignment& assignment) {
  const auto& task = assignment.task().merge();
  MergeRequest request;
  SBORA_ASSIGN_OR_RETURN(request.base, ToMergeBase(assignment));
  SBORA_ASSIGN_OR_RETURN(request.into, ParseMergeTarget(task.into()));
  for (const worker::v1::MergeInput& input : task.adapters()) {
    SBORA_ASSIGN_OR_RETURN(const auto directory, DirectoryOf(assignment, input.group()));
    request.adapters.push_back({.name = input.name(), .dir = directory, .weight = input.weight()});
  }
  if (request.adapters.empty()) {
    SBORA_ASSIGN_OR_RETURN(const auto directory, DirectoryOf(assignment, "adapter"));
    request.adapters.push_back({.name = "adapter", .dir = directory});
  }
  request.output_dir = assignment.output_directory();
  request.options.allow_overlap = task.allow_overlap();
  request.options.merge.known_base_hash = task.base_hash();
  return request;
}

worker::v1::TaskResult ToProto(const TrainOutcome& outcome) {
  worker::v1::TaskResult result;
  auto* train = result.mutable_train();
  train->set_steps(outcome.steps);
  train->set_trained_tokens(outcome.trained_tokens);
  train->set_final_loss(outcome.final_loss);
  if (outcome.validation_loss) train->set_validation_loss(*outcome.validation_loss);
  train->set_kept_step(outcome.kept_step);
  train->set_seconds(outcome.seconds);
  train->set_supervised_share(outcome.supervised_share);
  train->set_peak_memory_bytes(outcome.peak_memory_bytes);
  return result;
}

worker::v1::TaskResult ToProto(const EvaluateOutcome& outcome, data::Scoring scoring) {
  const auto share = [](int64_t part, int64_t all) {
    return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, all));
  };
  worker::v1::TaskResult result;
  auto* evaluate = result.mutable_evaluate();
  evaluate->set_samples(outcome.samples);
  evaluate->set_correct(outcome.correct);
  evaluate->set_accuracy(share(outcome.correct, outcome.samples));
  if (scoring == data::Scoring::kExactMatch) {
    evaluate->set_exact_matches(evaluate->correct());
    evaluate->set_exact_match(evaluate->accuracy());
  }
  evaluate->set_unanswered(outcome.unanswered);
  evaluate->set_prompts_too_long(outcome.prompts_too_long);
  evaluate->set_subject_mean(outcome.SubjectMean());
  evaluate->set_loss(outcome.loss);
  evaluate->set_perplexity(outcome.perplexity);
  for (const auto& [name, tally] : outcome.subjects) {
    auto* subject = evaluate->add_subjects();
    subject->set_subject(name);
    subject->set_samples(tally.samples);
    subject->set_correct(tally.correct);
    subject->set_accuracy(share(tally.correct, tally.samples));
  }
  for (const auto& example : outcome.examples) {
    if (evaluate->examples_size() == kExamplesInResult) break;
    auto* out = evaluate->add_examples();
    out->set_index(example.index);
    out->set_prompt(CutText(example.prompt, kMaxExampleBytes));
    out->set_reference(CutText(example.reference, kMaxExampleBytes));
    out->set_output(CutText(example.output, kMaxExampleBytes));
    out->set_match(example.match);
    out->set_answer(CutText(example.answer.value_or(""), kMaxExampleBytes));
    out->set_expected(CutText(example.expected, kMaxExampleBytes));
    out->set_subject(CutText(example.subject, kMaxExampleBytes));
    out->mutable_choice_log_probabilities()->Assign(example.choice_log_probabilities.begin(),
                                                    example.choice_log_probabilities.end());
  }
  return result;
}

}  // namespace sbora::trainer
