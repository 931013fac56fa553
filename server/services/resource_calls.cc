#include "server/services/resource_calls.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "server/services/requests.h"

namespace sbora::server {
namespace {

std::string_view KindOf(core::Collection collection) {
  switch (collection) {
    case core::Collection::kModels: return "MODEL";
    case core::Collection::kDatasets: return "DATASET";
    case core::Collection::kAdapters: return "ADAPTER";
    case core::Collection::kFineTuningJobs:
    case core::Collection::kEvaluationJobs:
    case core::Collection::kOperations:
    case core::Collection::kUploads:
    case core::Collection::kObjects: break;
  }
  return "RESOURCE";
}

StatusOr<ResourceRow> Read(const ServiceContext& services, const core::ResourceName& name) {
  StatusOr<ResourceRow> row = services.store().GetResource(name.ToString());
  if (row.ok()) return row;
  return NameMissing(row.status(), KindOf(name.collection), name.ToString());
}

}  // namespace


StatusOr<ResourceRow> FindResource(const ServiceContext& services, const std::string& name, core::Collection collection,
                                   std::string_view field) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, collection, field));
  return Read(services, parsed);
}

StatusOr<ResourceRow> FindResourceOrId(const ServiceContext& services, const std::string& name, core::Collection collection,
                                       const std::string& project, std::string_view field) {
  if (name.empty()) return Required(field);
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseNameOrId(name, collection, project, field));
  if (parsed.project != project) {
    return InvalidArgument("OTHER_PROJECT", fmt::format("{} is not in projects/{}", name, project)).WithViolation(field, "must be in the same project");
  }
  return Read(services, parsed);
}

StatusOr<std::optional<Work>> FindRepeat(const ServiceContext& services, const std::string& project, const std::string& request_id,
                                         const std::string& request_hash) {
  SBORA_RETURN_IF_ERROR(CheckRequestId(request_id));
  return services.coordinator->FindSubmitted(project, request_id, request_hash);
}

Status DeleteResourceCall(const ServiceContext& services, const std::string& name, core::Collection collection,
                          const std::string& etag) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, collection, "name"));
  SBORA_ASSIGN_OR_RETURN(const int64_t tag, TagOf(etag));
  return NameMissing(services.coordinator->Write({DeleteResource{parsed.ToString(), tag}}), KindOf(collection), parsed.ToString());
}

}  // namespace sbora::server
