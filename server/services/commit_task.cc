// The coordinator's half of a commit: what the agent uploaded is compared with what it claims, the manifest is put
// create-only, then one transaction of the scheduler makes result and resources visible together.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/failpoint.h"
#include "common/ids.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "common/text.h"
#include "core/adapter.h"
#include "core/manifest.h"
#include "core/names.h"
#include "core/proto/convert.h"
#include "core/proto/stable_bytes.h"
#include "sbora/v1/adapter.pb.h"
#include "sbora/v1/model.pb.h"
#include "server/services/convert.h"
#include "server/services/requests.h"
#include "server/services/stored_files.h"
#include "server/services/worker_service.h"

namespace sbora::server {
namespace {

constexpr int kMaxResultExamples = 20;
constexpr size_t kMaxExampleBytes = 8 * 1024;  ///< of each text; examples_file has all of it
/// A manifest whose commit failed is swept away after this; a commit that is still being repeated renews it.
constexpr std::chrono::hours kManifestLife{24};

/// One commit on its way: what is collected before the scheduler is asked.
struct Pending {
  Work work;
  worker::v1::Task task;
  google::protobuf::RepeatedPtrField<v1::File> files;  // checked
  std::vector<Mutation> mutations;
  std::string result;
};

Status CheckResultKind(WorkKind kind, const worker::v1::TaskResult& result) {
  const auto wanted = [kind] {
    switch (kind) {
      case WorkKind::kTrain: return worker::v1::TaskResult::kTrain;
      case WorkKind::kEvaluate: return worker::v1::TaskResult::kEvaluate;
      case WorkKind::kGenerate: return worker::v1::TaskResult::kGenerate;
      case WorkKind::kImport: return worker::v1::TaskResult::kImport;
      case WorkKind::kMerge:
      case WorkKind::kExport: return worker::v1::TaskResult::kFiles;
    }
    return worker::v1::TaskResult::KIND_NOT_SET;
  }();
  if (result.kind_case() == wanted) return OkStatus();
  return InvalidArgument("RESULT_KIND", fmt::format("the result is not one of a {} task", WorkKindName(kind)))
      .WithViolation("result", "must be of the lease's task");
}

Status CheckFiles(const ServiceContext& services, const worker::v1::CommitAttemptRequest& request, Pending& pending) {
  for (const v1::File& file : request.files()) {
    if (file.path() == core::kManifestFile) {
      return InvalidArgument("RESERVED_FILE_NAME", "manifest.json is written by the coordinator alone")
          .WithViolation("files", "must not hold manifest.json");
    }
    SBORA_ASSIGN_OR_RETURN(const ObjectRow row, CheckStoredFile(services, pending.work.row.project, file));
    // The row says what FinishUpload saw; the store must still have it.
    SBORA_ASSIGN_OR_RETURN(const ObjectInfo info, services.objects->Head(row.key));
    if (static_cast<int64_t>(info.size_bytes) != row.size_bytes) {
      return DataLoss("OBJECT_SIZE", fmt::format("{} has {} bytes in the object store, not {}", file.object(), info.size_bytes, row.size_bytes));
    }
    *pending.files.Add() = file;
  }
  std::sort(pending.files.begin(), pending.files.end(), [](const v1::File& a, const v1::File& b) { return a.path() < b.path(); });
  for (int i = 1; i < pending.files.size(); ++i) {
    if (pending.files[i].path() != pending.files[i - 1].path()) continue;
    return InvalidArgument("DUPLICATE_FILE", fmt::format("{} is there twice", pending.files[i].path())).WithViolation("files", "paths must differ");
  }
  return OkStatus();
}

void OwnFiles(const google::protobuf::RepeatedPtrField<v1::File>& files, const std::string& owner, Pending& pending) {
  for (const v1::File& file : files) pending.mutations.push_back(AddObjectOwner{UidOfObject(file.object()), owner});
}

int64_t TotalBytes(const google::protobuf::RepeatedPtrField<v1::File>& files) {
  int64_t total = 0;
  for (const v1::File& file : files) total += file.size_bytes();
  return total;
}

ResourceRow NewResource(const ServiceContext& services, ResourceKind kind, const Work& work, const std::string& name) {
  ResourceRow row;
  row.kind = kind;
  row.uid = NewUuid7();
  row.project = work.row.project;
  row.id = name.substr(name.rfind('/') + 1);
  row.name = name;
  row.create_ms = ToUnixMillis(services.clock->WallNow());
  return row;
}

std::string ManifestText(const Pending& pending, const core::LeaseId& lease, const worker::v1::TrainResult& result) {
  core::Manifest manifest;
  for (const v1::File& file : pending.files) manifest.files.push_back({file.path(), file.size_bytes(), file.sha256()});
  manifest.summary = {{"job", pending.work.row.name},
                      {"job_uid", pending.work.row.uid},
                      {"attempt", pending.work.row.attempt},
                      {"epoch", lease.epoch},
                      {"steps", result.steps()},
                      {"trained_tokens", result.trained_tokens()},
                      {"final_loss", result.final_loss()},
                      {"kept_step", result.kept_step()},
                      {"seconds", result.seconds()},
                      {"supervised_share", result.supervised_share()},
                      {"peak_memory_bytes", result.peak_memory_bytes()}};
  if (result.has_validation_loss()) manifest.summary["validation_loss"] = result.validation_loss();
  return core::ToJson(manifest);
}

/// Puts the manifest under a key that only this epoch uses and adds its file. A repeat finds its own bytes there.
Status PutManifest(const ServiceContext& services, const core::LeaseId& lease, const std::string& text, Pending& pending) {
  const WorkRow& row = pending.work.row;
  const std::string key = fmt::format("projects/{}/manifests/{}/{}.json", row.project, row.uid, lease.epoch);
  // Until the commit names the key in a row of its own, only this leads to the bytes.
  const int64_t due_ms = ToUnixMillis(services.clock->WallNow() + kManifestLife);
  SBORA_RETURN_IF_ERROR(services.coordinator->Write({DoomKey{row.project, key, due_ms}}));
  FailPoint("commit.before_manifest");
  const Status put = services.objects->Put(key, text, PutMode::kCreate);
  FailPoint("commit.after_manifest");
  if (!put.ok() && put.code() != StatusCode::kAlreadyExists) return put;
  if (!put.ok()) {
    SBORA_ASSIGN_OR_RETURN(const std::string there, services.objects->Get(key, core::kMaxManifestBytes));
    if (there != text) {
      return FailedPrecondition("MANIFEST_EXISTS", fmt::format("another manifest is at {}; this attempt cannot commit", key));
    }
  }
  const ObjectRow object{row.project, NewUuid7(), key, static_cast<int64_t>(text.size()), Sha256Hex(text),
                         ToUnixMillis(services.clock->WallNow())};
  v1::File& file = *pending.files.Add();
  file.set_path(std::string(core::kManifestFile));
  file.set_size_bytes(object.size_bytes);
  file.set_sha256(object.sha256);
  file.set_object(FullName(row.project, core::Collection::kObjects, object.uid));
  pending.mutations.push_back(InsertObject{object});
  return OkStatus();
}

/// What a run of this method must have brought, by name: the trainer has opened what it wrote.
Status CheckTrainedFiles(v1::Method method, const Pending& pending) {
  const auto there = [&pending](std::string_view name) {
    return std::any_of(pending.files.begin(), pending.files.end(), [name](const v1::File& file) { return file.path() == name; });
  };
  const auto require = [](bool holds, std::string_view needed) {
    if (holds) return OkStatus();
    return InvalidArgument("FILE_MISSING", fmt::format("the result of this job needs {}", needed))
        .WithViolation("files", fmt::format("{} is missing", needed));
  };
  if (method == v1::METHOD_FULL) {
    SBORA_RETURN_IF_ERROR(require(there(core::kFullConfigFile), core::kFullConfigFile));
    SBORA_RETURN_IF_ERROR(require(there("config.json"), "config.json"));
    return require(there("model.safetensors") || there("model.safetensors.index.json"), "model.safetensors or shards with their index");
  }
  SBORA_RETURN_IF_ERROR(require(there(core::kAdapterConfigFile), core::kAdapterConfigFile));
  return require(there(core::kAdapterModelFile), core::kAdapterModelFile);
}

Status CommitTrain(const ServiceContext& services, const core::LeaseId& lease, const worker::v1::TaskResult& result, Pending& pending) {
  v1::FineTuningJob job;
  SBORA_RETURN_IF_ERROR(ParseStored(pending.work.payload->spec, "fine-tuning job", job));
  SBORA_RETURN_IF_ERROR(CheckTrainedFiles(job.spec().adapter().method(), pending));
  const std::string manifest = ManifestText(pending, lease, result.train());
  SBORA_RETURN_IF_ERROR(PutManifest(services, lease, manifest, pending));

  const std::string name = FullName(pending.work.row.project, core::Collection::kAdapters, pending.work.row.id);
  SBORA_ASSIGN_OR_RETURN(const core::AdapterMethod method, core::ParseMethod(job.spec().adapter().method()));
  v1::Adapter adapter;
  adapter.set_fine_tuning_job(pending.work.row.name);
  adapter.set_model(job.spec().model());
  adapter.set_base_hash(pending.task.train().base_hash());
  adapter.set_method(std::string(core::AdapterMethodName(method)));
  adapter.set_rank(job.spec().adapter().rank());
  adapter.set_quantization(job.spec().quantization());
  if (job.spec().quantization() == v1::QUANTIZATION_NF4) adapter.set_double_quantization(job.spec().double_quantization());
  adapter.set_trainable_parameters(job.trainable_parameters());
  adapter.set_size_bytes(TotalBytes(pending.files));
  *adapter.mutable_files() = pending.files;
  adapter.set_manifest_sha256(Sha256Hex(manifest));
  adapter.set_final_loss(result.train().final_loss());
  if (result.train().has_validation_loss()) adapter.set_validation_loss(result.train().validation_loss());
  ResourceRow row = NewResource(services, ResourceKind::kAdapter, pending.work, name);
  row.payload = core::StableBytes(adapter);
  pending.mutations.push_back(InsertResource{std::move(row), pending.work.row.uid});
  OwnFiles(pending.files, name, pending);
  pending.result = core::StableBytes(result);
  return OkStatus();
}

Status CommitImport(const ServiceContext& services, const worker::v1::ImportResult& result, Pending& pending) {
  if (!IsSha256Hex(result.base_hash()) || result.config_json().empty() || pending.files.empty()) {
    return InvalidArgument("RESULT_INCOMPLETE", "an imported model needs files, base_hash and config_json")
        .WithViolation("result.import", "base_hash, config_json and files must be set");
  }
  v1::ImportModelMetadata metadata;
  SBORA_RETURN_IF_ERROR(ParseStored(pending.work.payload->spec, "import", metadata));
  v1::Model model;
  model.set_display_name(metadata.display_name());
  model.set_base_hash(result.base_hash());
  model.set_architecture(result.architecture());
  model.set_parameters(result.parameters());
  model.set_context_tokens(result.context_tokens());
  model.set_config_json(result.config_json());
  model.set_has_chat_template(result.has_chat_template());
  model.set_quantization(result.quantization());
  if (result.quantization() == v1::QUANTIZATION_NF4) model.set_double_quantization(result.double_quantization());
  *model.mutable_files() = pending.files;
  model.set_size_bytes(TotalBytes(pending.files));
  ResourceRow row = NewResource(services, ResourceKind::kModel, pending.work, metadata.model());
  row.payload = core::StableBytes(model);
  SBORA_ASSIGN_OR_RETURN(const v1::Model shown, ModelOf(row));
  google::protobuf::Any response;
  response.PackFrom(shown);
  pending.result = core::StableBytes(response);
  OwnFiles(pending.files, row.name, pending);
  pending.mutations.insert(pending.mutations.begin(), InsertResource{std::move(row), pending.work.row.uid});
  return OkStatus();
}

void CommitEvaluate(const worker::v1::TaskResult& result, Pending& pending) {
  worker::v1::TaskResult complete = result;
  v1::EvaluationResult& evaluation = *complete.mutable_evaluate();
  while (evaluation.examples_size() > kMaxResultExamples) evaluation.mutable_examples()->RemoveLast();
  for (v1::EvaluationExample& example : *evaluation.mutable_examples()) {
    example.set_prompt(CutText(example.prompt(), kMaxExampleBytes));
    example.set_reference(CutText(example.reference(), kMaxExampleBytes));
    example.set_output(CutText(example.output(), kMaxExampleBytes));
    example.set_answer(CutText(example.answer(), kMaxExampleBytes));
    example.set_expected(CutText(example.expected(), kMaxExampleBytes));
    example.set_subject(CutText(example.subject(), kMaxExampleBytes));
  }
  if (!pending.files.empty()) *evaluation.mutable_examples_file() = pending.files[0];
  OwnFiles(pending.files, pending.work.row.uid, pending);
  pending.result = core::StableBytes(complete);
}

template <typename Result>
void CommitOperation(Pending& pending) {
  Result result;
  *result.mutable_files() = pending.files;
  google::protobuf::Any response;
  response.PackFrom(result);
  pending.result = core::StableBytes(response);
  OwnFiles(pending.files, pending.work.row.uid, pending);
}

Status Prepare(const ServiceContext& services, const worker::v1::CommitAttemptRequest& request, const core::LeaseId& lease, Pending& pending) {
  switch (pending.work.row.kind) {
    case WorkKind::kTrain: return CommitTrain(services, lease, request.result(), pending);
    case WorkKind::kImport: return CommitImport(services, request.result().import(), pending);
    case WorkKind::kEvaluate: CommitEvaluate(request.result(), pending); return OkStatus();
    case WorkKind::kGenerate: pending.result = core::StableBytes(request.result()); return OkStatus();
    case WorkKind::kMerge: CommitOperation<v1::MergeAdaptersResult>(pending); return OkStatus();
    case WorkKind::kExport: CommitOperation<v1::ExportAdapterResult>(pending); return OkStatus();
  }
  return Internal("UNKNOWN_WORK", "this kind of work has no commit");
}

}  // namespace

Status CommitTask(const ServiceContext& services, const worker::v1::CommitAttemptRequest& request) {
  const core::LeaseId lease{request.lease().uid(), request.lease().epoch()};
  if (lease.uid.empty()) return Required("lease");
  Pending pending;
  bool committed = false;
  SBORA_ASSIGN_OR_RETURN(pending.work, services.coordinator->CheckLease(lease, &committed));
  if (committed) return OkStatus();
  SBORA_RETURN_IF_ERROR(ParseStored(pending.work.payload->task, "task", pending.task));
  SBORA_RETURN_IF_ERROR(CheckResultKind(pending.work.row.kind, request.result()));
  SBORA_RETURN_IF_ERROR(CheckFiles(services, request, pending));
  SBORA_RETURN_IF_ERROR(Prepare(services, request, lease, pending));

  CommitRequest commit;
  commit.worker = request.worker();
  commit.instance_uuid = request.instance_uuid();
  commit.lease = lease;
  commit.result = std::move(pending.result);
  commit.resources = std::move(pending.mutations);
  SBORA_ASSIGN_OR_RETURN(commit.items, ReportItemsOf(services, request.items()));
  return services.coordinator->CommitAttempt(std::move(commit));
}

}  // namespace sbora::server
