#include "client/output/resources.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/output/format.h"
#include "client/spec_fields.h"

namespace sbora::client {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string WithoutPrefix(const std::string& name, std::string_view prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

std::string Number(double value) { return value == 0.0 ? "" : fmt::format("{:.4g}", value); }

std::string Steps(const v1::JobProgress& progress) {
  if (progress.total_steps() == 0) return "";
  return fmt::format("{}/{}", progress.step(), progress.total_steps());
}

std::string MethodText(const v1::FineTuningSpec& spec) {
  const auto* type = v1::Method_descriptor();
  std::string text = EnumShortName(*type->FindValueByNumber(spec.adapter().method()));
  if (spec.quantization() == v1::QUANTIZATION_NF4) text += "+nf4";
  return text;
}

std::string MethodText(const v1::Adapter& adapter) {
  return adapter.method() + (adapter.quantization() == v1::QUANTIZATION_NF4 ? "+nf4" : "");
}

std::string EndText(v1::TerminationReason reason, const v1::Failure& failure) {
  if (!failure.message().empty()) return fmt::format("{} [{}]", failure.message(), failure.reason());
  if (reason == v1::TERMINATION_REASON_UNSPECIFIED || reason == v1::TERMINATION_REASON_DONE) return "";
  return WithoutPrefix(v1::TerminationReason_Name(reason), "TERMINATION_REASON_");
}

std::string FileList(const google::protobuf::RepeatedPtrField<v1::File>& files) {
  std::string text;
  for (const v1::File& file : files) {
    if (!text.empty()) text += ", ";
    text += fmt::format("{} ({})", file.path(), FormatBytes(file.size_bytes()));
  }
  return text;
}

std::string WorkerState(v1::Worker::State state) { return WithoutPrefix(v1::Worker::State_Name(state), "STATE_"); }

std::string FormatText(v1::DatasetFormat format) {
  return EnumShortName(*v1::DatasetFormat_descriptor()->FindValueByNumber(format));
}

std::string FormatCapacity(const v1::RegionCapacity& capacity) {
  Rows rows;
  for (const auto& module : capacity.modules()) {
    rows.push_back({module.module(), FormatCount(module.coordinates()), FormatCount(module.free()),
                    FormatCount(module.adapters_left())});
  }
  return fmt::format("room beside {} adapters and jobs of this base: {} more of this rank, largest rank {}\n",
                     FormatCount(capacity.holders()), FormatCount(capacity.adapters_left()),
                     FormatCount(capacity.largest_rank())) +
         FormatTable({"MODULE", "COORDINATES", "FREE", "ADAPTERS LEFT"}, rows);
}

/// "base", or "base+nf4" where it was held so.
std::string ModelText(const v1::EvaluationSpec& spec, std::string name) {
  return std::move(name) + (spec.base_quantization() == v1::QUANTIZATION_NF4 ? "+nf4" : "");
}

std::string ScoringText(v1::Scoring scoring) {
  const auto* value = v1::Scoring_descriptor()->FindValueByNumber(scoring);
  return value == nullptr ? std::to_string(scoring) : EnumShortName(*value);
}

std::string Percent(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

std::string AccuracyText(const v1::EvaluationResult& result) {
  return fmt::format("{} ({} of {})", Percent(result.accuracy()), result.correct(), result.samples());
}

/// Was the loss asked for? It is above 0 then.
bool Measured(const v1::EvaluationResult& result) { return result.perplexity() > 0; }

/// Of the accuracy: samples taken as independent.
double StandardError(const v1::EvaluationResult& result) {
  if (result.samples() == 0) return 0;
  return std::sqrt(result.accuracy() * (1 - result.accuracy()) / static_cast<double>(result.samples()));
}

std::string ExampleText(const v1::EvaluationExample& example) {
  constexpr size_t kWidth = 160;
  std::string out = fmt::format("\nexample {} ({})\n  prompt     {}\n", example.index(),
                                example.match() ? "match" : "no match", OneLine(example.prompt(), kWidth));
  if (example.choice_log_probabilities_size() == 0) {
    out += fmt::format("  reference  {}\n  output     {}\n", OneLine(example.reference(), kWidth),
                       OneLine(example.output(), kWidth));
  }
  if (example.expected() != example.reference())
    out += fmt::format("  expected   {}\n  answer     {}\n", example.expected(), example.answer());
  return out;
}

std::string Within(double percent) { return percent == 0.0 ? "" : fmt::format(" (within {:.0f} %)", percent); }

std::string MemoryText(const v1::EstimateFineTuningJobResponse::MemoryEstimate& memory) {
  if (memory.peak_bytes() == 0) return "";
  return FormatFields({{"peak memory", FormatBytes(memory.peak_bytes()) + Within(memory.error_percent())},
                       {"  weights", FormatBytes(memory.weights_bytes())},
                       {"  adapter", FormatBytes(memory.adapter_bytes())},
                       {"  gradients", FormatBytes(memory.gradient_bytes())},
                       {"  optimizer", FormatBytes(memory.optimizer_bytes())},
                       {"  activations", FormatBytes(memory.activation_bytes())},
                       {"  scratch", FormatBytes(memory.scratch_bytes())},
                       {"  program", memory.runtime_bytes() == 0 ? "" : FormatBytes(memory.runtime_bytes())},
                       {"while loading", memory.loading_bytes() == 0 ? "" : FormatBytes(memory.loading_bytes())}});
}

std::string TimeText(const v1::EstimateFineTuningJobResponse& estimate) {
  if (!estimate.has_time()) return "";
  const auto& time = estimate.time();
  const std::string total = time.seconds() == 0 ? "" : fmt::format("{} for {} steps{}", FormatSeconds(time.seconds()), time.steps(),
                                                                   Within(time.error_percent()));
  return FormatFields({{"time", total},
                       {"step", fmt::format("{:.3g} s{}", time.seconds_per_step(), Within(time.error_percent()))},
                       {"tokens/s", Number(time.tokens_per_second())},
                       {"measured by", time.measured_by()}});
}

}  // namespace

std::string StateName(v1::FineTuningJob::State state) {
  return WithoutPrefix(v1::FineTuningJob::State_Name(state), "STATE_");
}

std::string StateName(v1::EvaluationJob::State state) {
  return WithoutPrefix(v1::EvaluationJob::State_Name(state), "STATE_");
}

std::string ToTable(const v1::Model& model) {
  return FormatFields({{"name", model.name()},
                       {"architecture", model.architecture()},
                       {"parameters", FormatCount(model.parameters())},
                       {"context", fmt::format("{} tokens", model.context_tokens())},
                       {"chat template", model.has_chat_template() ? "yes" : "no"},
                       {"size", FormatBytes(model.size_bytes())},
                       {"base hash", model.base_hash()},
                       {"created", FormatTime(model.create_time())},
                       {"files", FileList(model.files())}});
}

std::string ToTable(const v1::ListModelsResponse& models) {
  Rows rows;
  for (const v1::Model& model : models.models()) {
    rows.push_back({ShortName(model.name()), model.architecture(), FormatCount(model.parameters()),
                    FormatBytes(model.size_bytes()), FormatTime(model.create_time())});
  }
  return FormatTable({"NAME", "ARCHITECTURE", "PARAMETERS", "SIZE", "CREATED"}, rows);
}

std::string ToTable(const v1::Dataset& dataset) {
  const v1::ValidationReport& report = dataset.validation_report();
  std::string out =
      FormatFields({{"name", dataset.name()},
                    {"format", FormatText(dataset.format())},
                    {"samples", FormatCount(report.samples())},
                    {"invalid", report.invalid_samples() == 0 ? "" : FormatCount(report.invalid_samples())},
                    {"size", FormatBytes(dataset.file().size_bytes())},
                    {"created", FormatTime(dataset.create_time())}});
  for (const v1::DatasetProblem& problem : report.problems()) {
    out += fmt::format("line {}, byte {}: {} [{}]\n", problem.line(), problem.byte_offset(), problem.message(),
                       problem.reason());
  }
  return out;
}

std::string ToTable(const v1::ListDatasetsResponse& datasets) {
  Rows rows;
  for (const v1::Dataset& dataset : datasets.datasets()) {
    rows.push_back({ShortName(dataset.name()), FormatText(dataset.format()),
                    FormatCount(dataset.validation_report().samples()), FormatBytes(dataset.file().size_bytes()),
                    FormatTime(dataset.create_time())});
  }
  return FormatTable({"NAME", "FORMAT", "SAMPLES", "SIZE", "CREATED"}, rows);
}

namespace {

/// The data sets of a mixture with their weights.
std::string MixtureText(const v1::FineTuningSpec& spec) {
  std::string text;
  for (int i = 0; i < spec.datasets_size(); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", ShortName(spec.datasets(i)));
    if (i < spec.dataset_weights_size()) text += fmt::format(" ({:g})", spec.dataset_weights(i));
  }
  return text;
}

std::string DatasetText(const v1::FineTuningSpec& spec) {
  if (spec.datasets_size() == 0) return ShortName(spec.dataset());
  const std::string first = ShortName(spec.datasets(0));
  return spec.datasets_size() == 1 ? first : fmt::format("{} +{}", first, spec.datasets_size() - 1);
}

}  // namespace

std::string ToTable(const v1::FineTuningJob& job) {
  const v1::FineTuningSpec& spec = job.spec();
  const v1::JobProgress& progress = job.progress();
  return FormatFields(
      {{"name", job.name()},
       {"state", StateName(job.state())},
       {"reason", EndText(job.termination_reason(), job.failure())},
       {"model", spec.model()},
       {"dataset", spec.dataset()},
       {"datasets", MixtureText(spec)},
       {"method", fmt::format("{}, rank {}{}", MethodText(spec), spec.adapter().rank(),
                              spec.adapter().rank_pattern_size() > 0 ? " and others by module" : "")},
       {"trainable", job.trainable_parameters() == 0 ? "" : FormatCount(job.trainable_parameters())},
       {"step", Steps(progress)},
       {"loss", Number(progress.loss())},
       {"validation loss", Number(progress.validation_loss())},
       {"tokens/s", Number(job.has_result() ? job.result().tokens_per_second() : progress.tokens_per_second())},
       {"peak memory", job.result().peak_memory_bytes() == 0 ? "" : FormatBytes(job.result().peak_memory_bytes())},
       {"attempt", job.attempt() == 0 ? "" : fmt::format("{} ({} recoveries)", job.attempt(), job.recovery_count())},
       {"worker", job.worker()},
       {"device", job.resolved_device()},
       {"created", FormatTime(job.create_time())},
       {"started", FormatTime(job.start_time())},
       {"ended", FormatTime(job.end_time())},
       {"adapter", job.adapter()}}) +
         (job.has_region_capacity() ? "\n" + FormatCapacity(job.region_capacity()) : "");
}

std::string ToTable(const v1::ListFineTuningJobsResponse& jobs) {
  Rows rows;
  for (const v1::FineTuningJob& job : jobs.fine_tuning_jobs()) {
    rows.push_back({ShortName(job.name()), StateName(job.state()), MethodText(job.spec()),
                    ShortName(job.spec().model()), DatasetText(job.spec()), Steps(job.progress()),
                    Number(job.progress().loss()), FormatTime(job.create_time())});
  }
  return FormatTable({"NAME", "STATE", "METHOD", "MODEL", "DATASET", "STEP", "LOSS", "CREATED"}, rows);
}

std::string FormatEvent(const v1::FineTuningEvent& event) {
  return fmt::format("{} {:<5} {}  {}", FormatTime(event.time()),
                     WithoutPrefix(v1::FineTuningEvent::Level_Name(event.level()), "LEVEL_"), event.type(),
                     event.message());
}

std::string ToTable(const v1::ListFineTuningEventsResponse& events) {
  std::string out;
  for (const v1::FineTuningEvent& event : events.events()) out += FormatEvent(event) + "\n";
  return out;
}

std::string ToTable(const v1::ListFineTuningMetricsResponse& metrics) {
  Rows rows;
  for (const v1::MetricPoint& point : metrics.metrics()) {
    rows.push_back({std::to_string(point.step()), fmt::format("{:.2f}", point.epoch()),
                    fmt::format("{:.4f}", point.loss()),
                    point.has_validation_loss() ? fmt::format("{:.4f}", point.validation_loss()) : "",
                    fmt::format("{:.3g}", point.learning_rate()), fmt::format("{:.3g}", point.gradient_norm()),
                    fmt::format("{:.0f}", point.tokens_per_second()), FormatCount(point.trained_tokens())});
  }
  return FormatTable({"STEP", "EPOCH", "LOSS", "VALIDATION", "RATE", "GRADIENT", "TOKENS/S", "TOKENS"}, rows);
}

std::string ToTable(const v1::EstimateFineTuningJobResponse& estimate) {
  std::string out = FormatFields({{"trainable parameters", FormatCount(estimate.trainable_parameters())},
                                  {"artifact", FormatBytes(estimate.artifact_bytes())}});
  Rows rows;
  for (const auto& module : estimate.modules()) {
    rows.push_back({module.module(), FormatCount(module.trainable_parameters()), FormatCount(module.multiplications()),
                    FormatCount(module.additions())});
  }
  if (!rows.empty()) out += FormatTable({"MODULE", "TRAINABLE", "MULTIPLICATIONS", "ADDITIONS"}, rows);
  if (estimate.has_changed_weights()) out += FormatFields({{"merge", FormatChanged(estimate.changed_weights())}});
  out += MemoryText(estimate.memory()) + TimeText(estimate);
  if (estimate.has_region_capacity()) out += "\n" + FormatCapacity(estimate.region_capacity());
  for (const std::string& note : estimate.notes()) out += "note: " + note + "\n";
  return out;
}

std::string ToTable(const v1::Adapter& adapter) {
  return FormatFields({{"name", adapter.name()},
                       {"job", adapter.fine_tuning_job()},
                       {"model", adapter.model()},
                       {"method", fmt::format("{}, rank {}", MethodText(adapter), adapter.rank())},
                       {"trainable", FormatCount(adapter.trainable_parameters())},
                       {"size", FormatBytes(adapter.size_bytes())},
                       {"final loss", Number(adapter.final_loss())},
                       {"validation loss", adapter.has_validation_loss() ? Number(adapter.validation_loss()) : ""},
                       {"manifest", adapter.manifest_sha256()},
                       {"created", FormatTime(adapter.create_time())},
                       {"files", FileList(adapter.files())}});
}

std::string ToTable(const v1::ListAdaptersResponse& adapters) {
  Rows rows;
  for (const v1::Adapter& adapter : adapters.adapters()) {
    rows.push_back({ShortName(adapter.name()), MethodText(adapter), std::to_string(adapter.rank()),
                    ShortName(adapter.model()), FormatBytes(adapter.size_bytes()), Number(adapter.final_loss()),
                    FormatTime(adapter.create_time())});
  }
  return FormatTable({"NAME", "METHOD", "RANK", "MODEL", "SIZE", "LOSS", "CREATED"}, rows);
}

std::string ToTable(const v1::ListFineTuningCheckpointsResponse& checkpoints) {
  Rows rows;
  for (const v1::FineTuningCheckpoint& checkpoint : checkpoints.checkpoints()) {
    int64_t bytes = 0;
    for (const v1::File& file : checkpoint.files()) bytes += file.size_bytes();
    rows.push_back({std::to_string(checkpoint.step()), std::to_string(checkpoint.attempt()), FormatBytes(bytes),
                    checkpoint.has_validation_loss() ? Number(checkpoint.validation_loss()) : "",
                    FormatTime(checkpoint.create_time())});
  }
  return FormatTable({"STEP", "ATTEMPT", "SIZE", "VALIDATION LOSS", "CREATED"}, rows);
}

std::string FormatChanged(const v1::ChangedWeights& changed) {
  const auto percent = [&](int64_t of) {
    return of == 0 ? 0.0 : 100.0 * static_cast<double>(changed.changed()) / static_cast<double>(of);
  };
  return fmt::format("{} of {} weights of the target modules changed ({:.3g} %), {:.3g} % of the model",
                     FormatCount(changed.changed()), FormatCount(changed.in_targets()), percent(changed.in_targets()),
                     percent(changed.in_model()));
}

std::string ToTable(const v1::CompareAdaptersResponse& comparison) {
  constexpr size_t kShown = 20;
  Rows verdicts, meetings;
  std::string reasons;
  for (const v1::AdapterPair& pair : comparison.pairs()) {
    int64_t meeting = 0;
    for (const v1::ModuleOverlap& module : pair.modules()) {
      if (module.shared_weights() == 0) continue;
      ++meeting;
      meetings.push_back({ShortName(pair.first()), ShortName(pair.second()), module.module(),
                          fmt::format("{}, {}", module.first_axis(), module.second_axis()),
                          module.axis_conflict() ? "axes cross" : FormatCount(module.shared_coordinates()),
                          FormatCount(module.shared_weights()), fmt::format("{:.2f} %", 100.0 * module.share())});
    }
    verdicts.push_back({ShortName(pair.first()), ShortName(pair.second()), pair.merges_exactly() ? "yes" : "no",
                        fmt::format("{} of {}", meeting, pair.modules_size())});
    if (pair.modules().empty() && !pair.reason().empty()) reasons += pair.reason() + "\n";
  }
  std::string out = FormatTable({"FIRST", "SECOND", "MERGES EXACTLY", "MODULES THAT MEET"}, verdicts) + reasons;
  const size_t more = meetings.size() > kShown ? meetings.size() - kShown : 0;
  meetings.resize(meetings.size() - more);
  if (!meetings.empty()) {
    out += "\n" + FormatTable({"FIRST", "SECOND", "MODULE", "AXES", "SHARED", "WEIGHTS", "OF THE SMALLER"}, meetings);
  }
  if (more > 0) out += fmt::format("and {} more: --output json lists them\n", more);
  if (comparison.has_changed_weights()) out += "\na merge of all: " + FormatChanged(comparison.changed_weights()) + "\n";
  return out;
}

std::string ToTable(const v1::EvaluationJob& job) {
  const v1::EvaluationResult& result = job.result();
  std::string out = FormatFields({{"name", job.name()},
                                  {"state", StateName(job.state())},
                                  {"reason", EndText(job.termination_reason(), job.failure())},
                                  {"model", ModelText(job.spec(), job.spec().model())},
                                  {"adapter", job.spec().adapter()},
                                  {"dataset", job.spec().dataset()},
                                  {"scoring", ScoringText(job.spec().scoring())}});
  if (!job.has_result()) return out;
  const bool exact = job.spec().scoring() <= v1::SCORING_EXACT_MATCH;
  out += FormatFields({{exact ? "exact match" : "accuracy", AccuracyText(result)},
                       {"subject mean", result.subjects_size() == 0 ? "" : Percent(result.subject_mean())},
                       {"unanswered", exact ? "" : std::to_string(result.unanswered())},
                       {"too long", result.prompts_too_long() == 0 ? "" : std::to_string(result.prompts_too_long())},
                       {"loss", Measured(result) ? fmt::format("{:.4f}", result.loss()) : ""},
                       {"perplexity", Measured(result) ? fmt::format("{:.4g}", result.perplexity()) : ""}});
  if (result.subjects_size() > 0) {
    Rows rows;
    for (const v1::SubjectScore& subject : result.subjects()) {
      rows.push_back({subject.subject(), Percent(subject.accuracy()),
                      fmt::format("{} of {}", subject.correct(), subject.samples())});
    }
    out += "\n" + FormatTable({"SUBJECT", "ACCURACY", "RIGHT"}, rows);
  }
  constexpr int kShown = 3;
  for (int i = 0; i < std::min(kShown, result.examples_size()); ++i) out += ExampleText(result.examples(i));
  return out;
}

std::string ToTable(const v1::ListEvaluationJobsResponse& jobs) {
  Rows rows;
  for (const v1::EvaluationJob& job : jobs.evaluation_jobs()) {
    rows.push_back({ShortName(job.name()), StateName(job.state()), ModelText(job.spec(), ShortName(job.spec().model())),
                    ShortName(job.spec().adapter()), ShortName(job.spec().dataset()), ScoringText(job.spec().scoring()),
                    job.has_result() ? Percent(job.result().accuracy()) : "", FormatTime(job.create_time())});
  }
  return FormatTable({"NAME", "STATE", "MODEL", "ADAPTER", "DATASET", "SCORING", "ACCURACY", "CREATED"}, rows);
}

std::string ToTable(const v1::EvaluationComparison& comparison) {
  std::vector<std::string> header = {""};
  Rows rows;
  const auto row = [&](const std::string& title, const auto& cell) {
    std::vector<std::string> cells = {title};
    for (int i = 0; i < comparison.evaluations_size(); ++i) cells.push_back(cell(i));
    rows.push_back(std::move(cells));
  };
  const auto result = [&](int i) -> const v1::EvaluationResult& { return comparison.evaluations(i).result(); };
  for (const v1::EvaluationJob& job : comparison.evaluations()) header.push_back(ShortName(job.name()));
  row("model", [&](int i) {
    const v1::EvaluationSpec& spec = comparison.evaluations(i).spec();
    return ModelText(spec, ShortName(spec.model()));
  });
  row("adapter", [&](int i) { return ShortName(comparison.evaluations(i).spec().adapter()); });
  row("accuracy", [&](int i) { return Percent(result(i).accuracy()); });
  row("standard error", [&](int i) { return Percent(StandardError(result(i))); });
  row("right", [&](int i) { return fmt::format("{} of {}", result(i).correct(), result(i).samples()); });
  row("unanswered", [&](int i) { return std::to_string(result(i).unanswered()); });
  const auto paired = [&](const std::string& title, const auto& cell) {
    row(title, [&](int i) { return i == 0 ? std::string() : cell(comparison.against_first(i - 1)); });
  };
  paired("gained", [](const v1::PairedComparison& pair) { return std::to_string(pair.gained()); });
  paired("lost", [](const v1::PairedComparison& pair) { return std::to_string(pair.lost()); });
  paired("p (McNemar)", [](const v1::PairedComparison& pair) { return fmt::format("{:.3g}", pair.p_value()); });
  if (comparison.evaluations_size() > 0 && Measured(result(0))) {
    row("loss", [&](int i) { return fmt::format("{:.4f}", result(i).loss()); });
    row("perplexity", [&](int i) { return fmt::format("{:.4g}", result(i).perplexity()); });
  }
  if (comparison.evaluations_size() > 0 && result(0).subjects_size() > 0) {
    row("subject mean", [&](int i) { return Percent(result(i).subject_mean()); });
    for (int s = 0; s < result(0).subjects_size(); ++s) {
      row(result(0).subjects(s).subject(),
          [&](int i) { return s < result(i).subjects_size() ? Percent(result(i).subjects(s).accuracy()) : ""; });
    }
  }
  return FormatTable(header, rows);
}

std::string ToTable(const v1::GenerateResponse& generated) {
  std::string out;
  for (int i = 0; i < generated.texts_size(); ++i) {
    if (i > 0) out += "---\n";
    out += generated.texts(i) + "\n";
  }
  return out;
}

std::string ToTable(const v1::ServerInfo& info) {
  return FormatFields(
      {{"version", info.version()},
       {"address", info.address()},
       {"http address", info.http_address()},
       {"store", info.store()},
       {"object store", info.object_store()},
       {"started", FormatTime(info.start_time())},
       {"worker protocol", fmt::format("{} to {}", info.worker_protocol_min(), info.worker_protocol_max())}});
}

std::string ToTable(const v1::Worker& worker) {
  v1::ListWorkersResponse one;
  *one.add_workers() = worker;
  return ToTable(one);
}

std::string ToTable(const v1::ListWorkersResponse& workers) {
  Rows rows;
  for (const v1::Worker& worker : workers.workers()) {
    rows.push_back({ShortName(worker.name()), WorkerState(worker.state()), worker.host(),
                    fmt::format("{}/{}", worker.slots_used(), worker.slots_total()), std::to_string(worker.gpus_size()),
                    worker.version(), FormatTime(worker.last_seen_time())});
  }
  return FormatTable({"NAME", "STATE", "HOST", "SLOTS", "GPUS", "VERSION", "LAST SEEN"}, rows);
}

}  // namespace sbora::client
