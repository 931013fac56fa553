#include "client/output/resources.h"

#include <fmt/format.h>

#include <algorithm>
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

std::string ToTable(const v1::FineTuningJob& job) {
  const v1::FineTuningSpec& spec = job.spec();
  const v1::JobProgress& progress = job.progress();
  return FormatFields(
      {{"name", job.name()},
       {"state", StateName(job.state())},
       {"reason", EndText(job.termination_reason(), job.failure())},
       {"model", spec.model()},
       {"dataset", spec.dataset()},
       {"method", fmt::format("{}, rank {}", MethodText(spec), spec.adapter().rank())},
       {"trainable", job.trainable_parameters() == 0 ? "" : FormatCount(job.trainable_parameters())},
       {"step", Steps(progress)},
       {"loss", Number(progress.loss())},
       {"validation loss", Number(progress.validation_loss())},
       {"tokens/s", Number(progress.tokens_per_second())},
       {"attempt", job.attempt() == 0 ? "" : fmt::format("{} ({} recoveries)", job.attempt(), job.recovery_count())},
       {"worker", job.worker()},
       {"device", job.resolved_device()},
       {"created", FormatTime(job.create_time())},
       {"started", FormatTime(job.start_time())},
       {"ended", FormatTime(job.end_time())},
       {"adapter", job.adapter()}});
}

std::string ToTable(const v1::ListFineTuningJobsResponse& jobs) {
  Rows rows;
  for (const v1::FineTuningJob& job : jobs.fine_tuning_jobs()) {
    rows.push_back({ShortName(job.name()), StateName(job.state()), MethodText(job.spec()),
                    ShortName(job.spec().model()), ShortName(job.spec().dataset()), Steps(job.progress()),
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
  Rows rows;
  for (const auto& module : estimate.modules()) {
    rows.push_back({module.module(), FormatCount(module.trainable_parameters())});
  }
  return FormatFields({{"trainable parameters", FormatCount(estimate.trainable_parameters())},
                       {"artifact", FormatBytes(estimate.artifact_bytes())}}) +
         (rows.empty() ? "" : FormatTable({"MODULE", "TRAINABLE"}, rows));
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

std::string ToTable(const v1::EvaluationJob& job) {
  const v1::EvaluationResult& result = job.result();
  std::string out = FormatFields({{"name", job.name()},
                                  {"state", StateName(job.state())},
                                  {"reason", EndText(job.termination_reason(), job.failure())},
                                  {"model", job.spec().model()},
                                  {"adapter", job.spec().adapter()},
                                  {"dataset", job.spec().dataset()}});
  if (!job.has_result()) return out;
  out += FormatFields({{"exact match", fmt::format("{:.1f} % ({} of {})", 100.0 * result.exact_match(),
                                                   result.exact_matches(), result.samples())},
                       {"loss", fmt::format("{:.4f}", result.loss())},
                       {"perplexity", fmt::format("{:.4g}", result.perplexity())}});
  constexpr int kShown = 3;
  constexpr size_t kWidth = 160;
  for (int i = 0; i < std::min(kShown, result.examples_size()); ++i) {
    const v1::EvaluationExample& example = result.examples(i);
    out += fmt::format("\nexample {} ({})\n  prompt     {}\n  reference  {}\n  output     {}\n", example.index(),
                       example.match() ? "match" : "no match", OneLine(example.prompt(), kWidth),
                       OneLine(example.reference(), kWidth), OneLine(example.output(), kWidth));
  }
  return out;
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
