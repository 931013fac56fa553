#include "server/services/adapter_service.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "common/ids.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/nf4_merge.h"
#include "core/proto/stable_bytes.h"
#include "core/region.h"
#include "server/services/convert.h"
#include "server/services/job_planner.h"
#include "server/services/job_regions.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"

namespace sbora::server {
namespace {

constexpr int kMaxMerged = 64;

Status CheckFormat(v1::ExportFormat format) {
  if (format == v1::EXPORT_FORMAT_PEFT || format == v1::EXPORT_FORMAT_PATCH || format == v1::EXPORT_FORMAT_GGUF) return OkStatus();
  return InvalidArgument("BAD_EXPORT_FORMAT", fmt::format("format={} is not known", static_cast<int>(format)))
      .WithViolation("format", "must be EXPORT_FORMAT_PEFT, EXPORT_FORMAT_PATCH or EXPORT_FORMAT_GGUF");
}

Status CheckGgufType(const v1::ExportAdapterRequest& request) {
  const v1::GgufType type = request.gguf_type();
  const bool known = type == v1::GGUF_TYPE_UNSPECIFIED || type == v1::GGUF_TYPE_F16 || type == v1::GGUF_TYPE_Q8_0;
  if (known && (type == v1::GGUF_TYPE_UNSPECIFIED || request.format() == v1::EXPORT_FORMAT_GGUF)) return OkStatus();
  const std::string what = known ? "is for EXPORT_FORMAT_GGUF only" : "must be GGUF_TYPE_F16 or GGUF_TYPE_Q8_0";
  return InvalidArgument("BAD_GGUF_TYPE", fmt::format("gguf_type={} {}", static_cast<int>(type), what)).WithViolation("gguf_type", what);
}

void AddInput(worker::v1::Task& task, const std::string& name, const google::protobuf::RepeatedPtrField<v1::File>& files) {
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name(name);
  *group.mutable_files() = files;
}

/// Regions of those adapters that have any on record: the trainer checks the rest.
StatusOr<std::vector<core::RegionHolder>> RecordedHolders(const ServiceContext& services, const std::vector<std::string>& adapters) {
  std::vector<core::RegionHolder> holders;
  for (const std::string& adapter : adapters) {
    SBORA_ASSIGN_OR_RETURN(const std::optional<RegionRow> row, services.store().FindRegions(adapter));
    if (!row) continue;
    SBORA_ASSIGN_OR_RETURN(core::RegionSet regions, core::ParseRegions(row->regions));
    holders.push_back({adapter, std::move(regions)});
  }
  return holders;
}

Status CheckMergeRequest(const v1::MergeAdaptersRequest& request) {
  if (request.adapters().empty()) return Required("adapters");
  if (request.adapters_size() > kMaxMerged) {
    return InvalidArgument("ADAPTERS_COUNT", fmt::format("{} adapters are named, at most {} can be merged at once",
                                                         request.adapters_size(), kMaxMerged))
        .WithViolation("adapters", fmt::format("must name at most {}", kMaxMerged));
  }
  if (request.weights_size() != 0 && request.weights_size() != request.adapters_size()) {
    return InvalidArgument("WEIGHTS_COUNT", fmt::format("{} weights for {} adapters; give one each, or none for 1 each",
                                                        request.weights_size(), request.adapters_size()))
        .WithViolation("weights", "must be as many as adapters, or none");
  }
  for (int i = 0; i < request.weights_size(); ++i) {
    if (std::isfinite(request.weights(i))) continue;
    return InvalidArgument("WEIGHT_NOT_FINITE", fmt::format("weights[{}] is {}", i, request.weights(i)))
        .WithViolation(fmt::format("weights[{}]", i), "must be a finite number");
  }
  return OkStatus();
}

bool IsNf4(const v1::Adapter& adapter) { return adapter.quantization() == v1::QUANTIZATION_NF4; }

/// One base in one form, no name twice.
Status CheckMergeAdapters(const std::vector<v1::Adapter>& adapters) {
  std::set<std::string> names;
  for (const v1::Adapter& adapter : adapters) {
    if (!names.insert(adapter.name()).second) {
      return InvalidArgument("ADAPTER_DUPLICATE", fmt::format("{} is named twice; give it one weight instead", adapter.name()))
          .WithViolation("adapters", "must be distinct");
    }
    const v1::Adapter& first = adapters.front();
    const bool same_form = IsNf4(adapter) == IsNf4(first) && adapter.double_quantization() == first.double_quantization();
    if (adapter.base_hash() == first.base_hash() && same_form) continue;
    if (!same_form) {
      return FailedPrecondition("BASES_DIFFER", fmt::format("{} and {} were trained on bases held in different ways (NF4 or not, "
                                                            "double quantisation or not); merge them one by one",
                                                            first.name(), adapter.name()))
          .WithMetadata("first", first.name())
          .WithMetadata("second", adapter.name());
    }
    return FailedPrecondition("BASES_DIFFER",
                              fmt::format("{} was trained on {} (base {}), {} on {} (base {}); only adapters of one base can be "
                                          "merged",
                                          adapters.front().name(), adapters.front().model(), adapters.front().base_hash(),
                                          adapter.name(), adapter.model(), adapter.base_hash()))
        .WithMetadata("first", adapters.front().name())
        .WithMetadata("second", adapter.name());
  }
  return OkStatus();
}

/// The merge of `adapters` as the trainer gets it.
worker::v1::Task MergeTaskOf(const v1::MergeAdaptersRequest& request, const v1::Model& model, const std::vector<v1::Adapter>& adapters) {
  worker::v1::Task task;
  AddInput(task, "model", model.files());
  worker::v1::MergeTask& merge = *task.mutable_merge();
  merge.set_base_hash(adapters.front().base_hash());
  merge.set_allow_overlap(request.allow_overlap());
  merge.set_into(request.into());
  for (size_t i = 0; i < adapters.size(); ++i) {
    const std::string group = adapters.size() == 1 ? "adapter" : fmt::format("adapter-{}", i);
    AddInput(task, group, adapters[i].files());
    worker::v1::MergeInput& input = *merge.add_adapters();
    input.set_name(adapters[i].name());
    input.set_group(group);
    input.set_weight(request.weights().empty() ? 1.0 : request.weights(static_cast<int>(i)));
  }
  return task;
}

/// GGUF holds the original weights plus an adapter; of an NF4 base that is another model.
Status CheckFloatBase(const v1::Adapter& adapter) {
  if (adapter.quantization() != v1::QUANTIZATION_NF4) return OkStatus();
  return Unimplemented("MERGE_QUANTIZED_BASE",
                       fmt::format("{} was trained on {} in NF4; added to the original weights it is another model. Merge it "
                                   "(adapters merge, or --into float for a plain checkpoint of the de-quantised base), or "
                                   "export it for PEFT and load it on a 4-bit model",
                                   adapter.name(), adapter.model()));
}

bool IsFull(const v1::Adapter& adapter) { return adapter.method() == core::AdapterMethodName(core::AdapterMethod::kFull); }

/// Full fine-tuning leaves no adapter that could be written in another form or added to anything. `wanted`: "PEFT's format",
/// "merging".
Status CheckIsAdapter(const v1::Adapter& adapter, std::string_view wanted) {
  if (!IsFull(adapter)) return OkStatus();
  const std::string_view id = std::string_view(adapter.name()).substr(adapter.name().rfind('/') + 1);
  return FailedPrecondition("FULL_CHECKPOINT",
                            fmt::format("{} is fully fine-tuned: it is a whole Hugging Face checkpoint already, and {} is for "
                                        "adapters. Download it with 'sbora-client adapters pull {} -o DIR', or take --format gguf",
                                        adapter.name(), wanted, id))
      .WithMetadata("adapter", adapter.name());
}

/// That such a merge makes sense for each adapter, as far as it is known without their files.
Status CheckMergeTarget(v1::MergeTarget into, const v1::Adapter& adapter) {
  if (!v1::MergeTarget_IsValid(into)) {
    return InvalidArgument("BAD_MERGE_TARGET", fmt::format("into={} is not known", static_cast<int>(into)))
        .WithViolation("into", "must be MERGE_TARGET_NF4 or MERGE_TARGET_FLOAT, or left out");
  }
  if (into == v1::MERGE_TARGET_FLOAT || (into == v1::MERGE_TARGET_UNSPECIFIED && !IsNf4(adapter))) return OkStatus();
  SBORA_ASSIGN_OR_RETURN(const core::AdapterMethod method, core::ParseAdapterMethod(adapter.method()));
  core::AdapterConfig config;
  config.method = method;
  config.base_model = adapter.model();
  if (IsNf4(adapter)) config.base_quantization = {.kind = core::Quantization::kNf4, .double_quantization = adapter.double_quantization()};
  return core::CheckMergeableIntoNf4(adapter.name(), config);
}

/// A model in NF4 has no plain form to merge into.
Status CheckMergeBase(v1::MergeTarget into, const v1::Model& model) {
  if (into != v1::MERGE_TARGET_FLOAT || model.quantization() != v1::QUANTIZATION_NF4) return OkStatus();
  return FailedPrecondition("NF4_MERGED_BASE", fmt::format("{} is itself in NF4, with adapters merged in, and has no float form; "
                                                           "merge into NF4 (leave `into` out)",
                                                           model.name()))
      .WithViolation("into", "must not be MERGE_TARGET_FLOAT for this base");
}

}  // namespace

StatusOr<bool> AdapterServiceImpl::Repeated(const std::string& project, const std::string& request_id,
                                            const std::string& request_hash, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const auto earlier, FindRepeat(services_, project, request_id, request_hash));
  if (!earlier) return false;
  SBORA_ASSIGN_OR_RETURN(operation, OperationOf(*earlier, services_.coordinator->Progress(earlier->row.uid)));
  return true;
}

Status AdapterServiceImpl::SubmitOperation(const PlannedOperation& planned, google::longrunning::Operation& operation) {
  if (planned.validate_only) {
    operation.mutable_metadata()->PackFrom(planned.metadata);
    return OkStatus();
  }
  SubmitRequest submit;
  submit.kind = planned.kind;
  submit.project = planned.project;
  submit.uid = NewUuid7();
  submit.id = submit.uid;
  submit.name = OperationName(planned.project, submit.uid);
  submit.validated = true;
  submit.uses = planned.uses;
  submit.payload = {core::StableBytes(planned.metadata), core::StableBytes(planned.task)};
  submit.request_id = planned.request_id;
  submit.request_hash = planned.request_hash;
  SBORA_ASSIGN_OR_RETURN(const Work work, services_.coordinator->Submit(std::move(submit)));
  SBORA_ASSIGN_OR_RETURN(operation, OperationOf(work, services_.coordinator->Progress(work.row.uid)));
  return OkStatus();
}

Status AdapterServiceImpl::Export(const v1::ExportAdapterRequest& request, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(request.name(), core::Collection::kAdapters, "name"));
  const std::string hash = RequestHash("ExportAdapter", request);
  SBORA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (!request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const bool repeated, Repeated(name.project, request.request_id(), hash, operation));
    if (repeated) return OkStatus();
  }
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, request.name(), core::Collection::kAdapters, "name"));
  SBORA_RETURN_IF_ERROR(CheckFormat(request.format()));
  SBORA_RETURN_IF_ERROR(CheckGgufType(request));
  SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, AdapterOf(row));
  PlannedOperation planned{.kind = WorkKind::kExport, .project = row.project, .task = {}, .metadata = {}, .uses = {row.name},
                           .request_id = request.request_id(), .request_hash = hash, .validate_only = request.validate_only()};
  planned.metadata.set_adapter(row.name);
  planned.task.mutable_export_()->set_format(request.format());
  AddInput(planned.task, "adapter", adapter.files());
  if (request.format() == v1::EXPORT_FORMAT_PEFT) SBORA_RETURN_IF_ERROR(CheckIsAdapter(adapter, "PEFT's format"));
  if (request.format() == v1::EXPORT_FORMAT_PATCH) SBORA_RETURN_IF_ERROR(AddPatchInputs(adapter, planned));
  if (request.format() == v1::EXPORT_FORMAT_GGUF) {
    SBORA_RETURN_IF_ERROR(CheckFloatBase(adapter));
    if (!IsFull(adapter)) SBORA_RETURN_IF_ERROR(AddModelInput(adapter, planned).status());
    planned.task.mutable_export_()->set_gguf_type(request.gguf_type());
    planned.task.mutable_export_()->set_base_hash(adapter.base_hash());
  }
  return SubmitOperation(planned, operation);
}

Status AdapterServiceImpl::AddPatchInputs(const v1::Adapter& adapter, PlannedOperation& planned) const {
  SBORA_RETURN_IF_ERROR(CheckIsAdapter(adapter, "a patch"));
  SBORA_ASSIGN_OR_RETURN(const core::AdapterMethod method, core::ParseAdapterMethod(adapter.method()));
  if (!core::UsesIndices(method)) {
    return FailedPrecondition("EXPORT_METHOD", fmt::format("{} is a {} adapter, which changes all weights of its targets: a patch "
                                                           "would be as large as they are; merge it instead",
                                                           adapter.name(), adapter.method()))
        .WithViolation("format", "EXPORT_FORMAT_PATCH is for sbora_fa and sbora_fb");
  }
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, AddModelInput(adapter, planned));
  planned.task.mutable_export_()->set_base_hash(adapter.base_hash());
  SBORA_ASSIGN_OR_RETURN(const core::ModelConfig config, ModelConfigOf(model));
  SBORA_ASSIGN_OR_RETURN(const auto holders, RecordedHolders(services_, {adapter.name()}));
  if (!holders.empty()) *planned.metadata.mutable_changed_weights() = ToProto(core::CountChangedWeights(config, holders));
  return OkStatus();
}

StatusOr<v1::Model> AdapterServiceImpl::AddModelInput(const v1::Adapter& adapter, PlannedOperation& planned) const {
  SBORA_ASSIGN_OR_RETURN(v1::Model model, BaseOf(adapter, "name"));
  AddInput(planned.task, "model", model.files());
  planned.uses.push_back(model.name());
  return model;
}

StatusOr<v1::Model> AdapterServiceImpl::BaseOf(const v1::Adapter& adapter, std::string_view field) const {
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, adapter.model(), core::Collection::kModels, field));
  SBORA_ASSIGN_OR_RETURN(v1::Model model, ModelOf(row));
  // Another model may have been imported under the base's name.
  if (adapter.base_hash() != model.base_hash()) return BaseMismatch(adapter.name(), adapter, model);
  return model;
}

Status AdapterServiceImpl::Merge(const v1::MergeAdaptersRequest& request, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  const std::string hash = RequestHash("MergeAdapters", request);
  SBORA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (!request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const bool repeated, Repeated(project, request.request_id(), hash, operation));
    if (repeated) return OkStatus();
  }
  SBORA_RETURN_IF_ERROR(CheckMergeRequest(request));
  PlannedOperation planned{.kind = WorkKind::kMerge, .project = project, .task = {}, .metadata = {}, .uses = {},
                           .request_id = request.request_id(), .request_hash = hash, .validate_only = request.validate_only()};
  std::vector<v1::Adapter> adapters;
  for (int i = 0; i < request.adapters_size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResourceOrId(services_, request.adapters(i), core::Collection::kAdapters,
                                                                   project, fmt::format("adapters[{}]", i)));
    SBORA_ASSIGN_OR_RETURN(v1::Adapter adapter, AdapterOf(row));
    SBORA_RETURN_IF_ERROR(CheckIsAdapter(adapter, "merging"));
    SBORA_RETURN_IF_ERROR(CheckMergeTarget(request.into(), adapter));
    adapters.push_back(std::move(adapter));
    planned.uses.push_back(row.name);
    planned.metadata.add_adapters(row.name);
  }
  planned.metadata.set_adapter(adapters.front().name());
  SBORA_RETURN_IF_ERROR(CheckMergeAdapters(adapters));
  SBORA_ASSIGN_OR_RETURN(const std::vector<core::RegionHolder> holders, RecordedHolders(services_, planned.uses));
  if (!request.allow_overlap()) SBORA_RETURN_IF_ERROR(core::CheckMergesExactly(holders));
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, BaseOf(adapters.front(), "adapters[0]"));
  SBORA_RETURN_IF_ERROR(CheckMergeBase(request.into(), model));
  SBORA_ASSIGN_OR_RETURN(const core::ModelConfig config, ModelConfigOf(model));
  // Against the de-quantised base; the plain one's weights all move.
  if (holders.size() == adapters.size() && (request.into() != v1::MERGE_TARGET_FLOAT || !IsNf4(adapters.front()))) {
    *planned.metadata.mutable_changed_weights() = ToProto(core::CountChangedWeights(config, holders));
  }
  planned.task = MergeTaskOf(request, model, adapters);
  planned.uses.push_back(model.name());
  return SubmitOperation(planned, operation);
}

grpc::Status AdapterServiceImpl::GetAdapter(grpc::ServerContext* context, const v1::GetAdapterRequest* request, v1::Adapter* adapter) {
  return Unary(services_, *context, "sbora.v1.AdapterService/GetAdapter", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, request->name(), core::Collection::kAdapters, "name"));
    SBORA_ASSIGN_OR_RETURN(*adapter, AdapterOf(row));
    return OkStatus();
  });
}

grpc::Status AdapterServiceImpl::ListAdapters(grpc::ServerContext* context, const v1::ListAdaptersRequest* request,
                                              v1::ListAdaptersResponse* response) {
  return Unary(services_, *context, "sbora.v1.AdapterService/ListAdapters", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(*response->mutable_next_page_token(),
                           ListResources(services_, ResourceKind::kAdapter, request->parent(), request->page_size(), request->page_token(),
                                         AdapterOf, *response->mutable_adapters()));
    return OkStatus();
  });
}

grpc::Status AdapterServiceImpl::DeleteAdapter(grpc::ServerContext* context, const v1::DeleteAdapterRequest* request,
                                               google::protobuf::Empty*) {
  return Unary(services_, *context, "sbora.v1.AdapterService/DeleteAdapter", [&](const Call&) {
    return DeleteResourceCall(services_, request->name(), core::Collection::kAdapters, request->etag());
  });
}

grpc::Status AdapterServiceImpl::ExportAdapter(grpc::ServerContext* context, const v1::ExportAdapterRequest* request,
                                               google::longrunning::Operation* operation) {
  return Unary(services_, *context, "sbora.v1.AdapterService/ExportAdapter", [&](const Call&) { return Export(*request, *operation); });
}

grpc::Status AdapterServiceImpl::MergeAdapters(grpc::ServerContext* context, const v1::MergeAdaptersRequest* request,
                                               google::longrunning::Operation* operation) {
  return Unary(services_, *context, "sbora.v1.AdapterService/MergeAdapters", [&](const Call&) { return Merge(*request, *operation); });
}

grpc::Status AdapterServiceImpl::CompareAdapters(grpc::ServerContext* context, const v1::CompareAdaptersRequest* request,
                                                 v1::CompareAdaptersResponse* response) {
  return Unary(services_, *context, "sbora.v1.AdapterService/CompareAdapters", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(*response, server::CompareAdapters(services_, *request));
    return OkStatus();
  });
}

}  // namespace sbora::server
