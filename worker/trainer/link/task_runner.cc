#include "worker/trainer/link/task_runner.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/gguf_export.h"
#include "core/merge.h"
#include "core/model_import.h"
#include "core/peft_export.h"
#include "worker/trainer/link/task_convert.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

Status MultiRank(int32_t world_size) {
  return Unimplemented("MULTI_RANK", fmt::format("world_size={}: only training runs on several ranks; this task needs one slot",
                                                 world_size));
}

StatusOr<TaskEnd> Train(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  if (assignment.prepare_only()) {
    SBORA_ASSIGN_OR_RETURN(const auto request, ToPrepareRequest(assignment));
    SBORA_RETURN_IF_ERROR(PrepareTokenCaches(request, observer));
    return TaskEnd{};
  }
  SBORA_ASSIGN_OR_RETURN(const auto request, ToTrainRequest(assignment));
  SBORA_ASSIGN_OR_RETURN(const auto outcome, RunTraining(request, observer));
  if (outcome.stopped) return TaskEnd{.stopped = true, .result = {}};
  if (!request.gang.leads()) return TaskEnd{};
  return TaskEnd{.stopped = false, .result = ToProto(outcome)};
}

StatusOr<TaskEnd> EvaluateTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const auto request, ToEvaluateRequest(assignment));
  SBORA_ASSIGN_OR_RETURN(const auto outcome, Evaluate(request, observer));
  return TaskEnd{.stopped = false, .result = ToProto(outcome, request.inputs.rule.scoring)};
}

StatusOr<TaskEnd> GenerateTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const auto request, ToGenerateRequest(assignment));
  SBORA_ASSIGN_OR_RETURN(const auto texts, GenerateTexts(request, observer));
  worker::v1::TaskResult result;
  for (const auto& text : texts) result.mutable_generate()->add_texts(text);
  return TaskEnd{.stopped = false, .result = std::move(result)};
}

StatusOr<TaskEnd> ImportTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(auto source, DirectoryOf(assignment, "source"));
  // A GGUF file travels alone; a folder is meant otherwise.
  if (auto gguf = OnlyFile(source, ".gguf"); gguf.ok()) source = *gguf;
  core::ImportOptions options;
  if (assignment.task().import().max_shard_bytes() > 0) options.max_shard_bytes = assignment.task().import().max_shard_bytes();
  options.progress = [&](int64_t done, int64_t total) {
    observer.OnProgress({.step = done, .total_steps = total, .phase = fmt::format("importing ({} of {} tensors)", done, total)});
  };
  options.cancelled = [&] { return observer.StopRequested(); };
  const std::filesystem::path output = assignment.output_directory();
  SBORA_ASSIGN_OR_RETURN(const auto imported, core::ImportModel(source, output, options));
  SBORA_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(output / "config.json", kMaxConfigBytes));
  worker::v1::TaskResult result;
  auto* out = result.mutable_import();
  out->set_base_hash(imported.base_hash);
  out->set_architecture("LlamaForCausalLM");
  out->set_parameters(imported.parameter_count);
  out->set_context_tokens(static_cast<int32_t>(imported.config.max_position_embeddings));
  out->set_config_json(config_json);
  out->set_has_chat_template(imported.has_chat_template);
  if (imported.held_as.kind == core::Quantization::kNf4) out->set_quantization(sbora::v1::QUANTIZATION_NF4);
  out->set_double_quantization(imported.held_as.double_quantization);
  return TaskEnd{.stopped = false, .result = std::move(result)};
}

TaskEnd FilesOnly() {
  worker::v1::TaskResult result;
  result.mutable_files();
  return TaskEnd{.stopped = false, .result = std::move(result)};
}

/// "merging (3 of 17 tensors)", and the observer's stop. `observer` must outlive it.
core::MergeOptions Reporting(TaskObserver& observer, std::string what, std::string unit) {
  core::MergeOptions options;
  options.progress = [&observer, what = std::move(what), unit = std::move(unit)](int64_t done, int64_t total) {
    observer.OnProgress({.step = done, .total_steps = total, .phase = fmt::format("{} ({} of {} {})", what, done, total, unit)});
  };
  options.cancelled = [&observer] { return observer.StopRequested(); };
  return options;
}

StatusOr<TaskEnd> MergeTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(MergeRequest request, ToMergeRequest(assignment));
  core::MergeOptions reporting = Reporting(observer, "merging", "tensors");
  reporting.known_base_hash = request.options.merge.known_base_hash;
  request.options.merge = std::move(reporting);
  SBORA_RETURN_IF_ERROR(Merge(std::move(request)).status());
  return FilesOnly();
}

Status ExportModelGguf(const v1::TaskAssignment& assignment, const std::filesystem::path& model, TaskObserver& observer) {
  const core::MergeOptions reporting = Reporting(observer, "writing GGUF", "tensors");
  core::GgufExportOptions options;
  options.progress = reporting.progress;
  options.cancelled = reporting.cancelled;
  if (assignment.task().export_().gguf_type() == sbora::v1::GGUF_TYPE_Q8_0) options.weights = core::GgufWeights::kQ8_0;
  return core::ExportGguf(model, assignment.output_directory(), options).status();
}

/// Merges into a folder of its own beside the output, then writes the merged checkpoint as GGUF. What full fine-tuning
/// left is such a checkpoint already.
Status ExportMergedGguf(const v1::TaskAssignment& assignment, const std::filesystem::path& adapter, TaskObserver& observer) {
  const auto& task = assignment.task().export_();
  SBORA_ASSIGN_OR_RETURN(const core::AdapterConfig config, core::ReadAdapterConfig(adapter));
  if (config.method == core::AdapterMethod::kFull) return ExportModelGguf(assignment, adapter, observer);
  SBORA_ASSIGN_OR_RETURN(const auto model, DirectoryOf(assignment, "model"));
  const std::filesystem::path output = assignment.output_directory();
  SBORA_ASSIGN_OR_RETURN(const auto merged, TempDirectory::Create(output.parent_path(), "merged"));
  core::MergeOptions merge = Reporting(observer, "merging", "tensors");
  merge.known_base_hash = task.base_hash();
  SBORA_RETURN_IF_ERROR(core::MergeAdapter(model, adapter, merged.path(), merge).status());
  return ExportModelGguf(assignment, merged.path(), observer);
}

StatusOr<TaskEnd> ExportTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  const auto format = assignment.task().export_().format();
  SBORA_ASSIGN_OR_RETURN(const auto adapter, DirectoryOf(assignment, "adapter"));
  observer.OnProgress({.phase = "exporting"});
  if (format == sbora::v1::EXPORT_FORMAT_PEFT) {
    SBORA_RETURN_IF_ERROR(core::ExportPeft(adapter, assignment.output_directory()).status());
    return FilesOnly();
  }
  if (format == sbora::v1::EXPORT_FORMAT_PATCH) {
    SBORA_ASSIGN_OR_RETURN(const MergeBase base, ToMergeBase(assignment));
    const core::MergeOptions options = Reporting(observer, "writing the patch", "modules");
    SBORA_RETURN_IF_ERROR(WritePatch(base, adapter, assignment.output_directory(), options).status());
    return FilesOnly();
  }
  if (format == sbora::v1::EXPORT_FORMAT_GGUF) {
    SBORA_RETURN_IF_ERROR(ExportMergedGguf(assignment, adapter, observer));
    return FilesOnly();
  }
  return Unimplemented("EXPORT_FORMAT", fmt::format("export format {} is not known to this worker, which is older than the "
                                                    "server; update it, or use peft, patch or gguf",
                                                    static_cast<int>(format)));
}

StatusOr<TaskEnd> QuantizeTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const auto request, ToQuantizeRequest(assignment));
  SBORA_RETURN_IF_ERROR(QuantizeBase(request, observer).status());
  return FilesOnly();
}

}  // namespace

StatusOr<TaskEnd> RunTask(const v1::TaskAssignment& assignment, TaskObserver& observer) {
  const bool trains = assignment.task().has_train() && !assignment.prepare_only();
  if (assignment.world_size() > 1 && !trains) return MultiRank(assignment.world_size());
  std::error_code error;
  std::filesystem::create_directories(assignment.output_directory(), error);
  if (error && !assignment.prepare_only()) return FromErrno(error.value(), "making " + assignment.output_directory());
  switch (assignment.task().kind_case()) {
    case worker::v1::Task::kTrain:
      return Train(assignment, observer);
    case worker::v1::Task::kEvaluate:
      return EvaluateTask(assignment, observer);
    case worker::v1::Task::kGenerate:
      return GenerateTask(assignment, observer);
    case worker::v1::Task::kImport:
      return ImportTask(assignment, observer);
    case worker::v1::Task::kMerge:
      return MergeTask(assignment, observer);
    case worker::v1::Task::kExport:
      return ExportTask(assignment, observer);
    case worker::v1::Task::kQuantize:
      return QuantizeTask(assignment, observer);
    case worker::v1::Task::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("TASK_MALFORMED", "the assignment holds no task this trainer knows; is the agent newer?");
}

}  // namespace sbora::trainer
