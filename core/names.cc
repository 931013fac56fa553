#include "core/names.h"

#include <fmt/format.h>

#include "common/ids.h"
#include "common/status_macros.h"

namespace sbora::core {
namespace {

constexpr std::string_view kProjectPrefix = "projects/";

Status BadName(std::string_view name, std::string_view field, std::string_view pattern) {
  return InvalidArgument("BAD_RESOURCE_NAME",
                         fmt::format("{}='{}' is not of the form '{}'", field, name.substr(0, 200), pattern))
      .WithMetadata("name", std::string(name.substr(0, 200)))
      .WithViolation(field, fmt::format("must be of the form '{}'", pattern));
}

Status CheckId(std::string_view id, Collection collection, std::string_view field) {
  if (collection == Collection::kUploads || collection == Collection::kObjects || collection == Collection::kOperations) {
    if (IsUuid(id)) return OkStatus();
    return InvalidArgument("BAD_RESOURCE_ID", fmt::format("{}: '{}' is not a UUID", field, id.substr(0, 80)))
        .WithViolation(field, "the id must be a lower-case UUID");
  }
  return CheckResourceId(id, field);
}

}  // namespace

std::string_view CollectionName(Collection collection) {
  switch (collection) {
    case Collection::kModels: return "models";
    case Collection::kDatasets: return "datasets";
    case Collection::kFineTuningJobs: return "fineTuningJobs";
    case Collection::kEvaluationJobs: return "evaluationJobs";
    case Collection::kAdapters: return "adapters";
    case Collection::kUploads: return "uploads";
    case Collection::kObjects: return "objects";
    case Collection::kOperations: return "operations";
  }
  return "";
}

std::string ResourceName::ToString() const {
  return fmt::format("{}{}/{}/{}", kProjectPrefix, project, CollectionName(collection), id);
}

std::string ProjectName(std::string_view project) { return fmt::format("{}{}", kProjectPrefix, project); }

StatusOr<std::string> ParseProject(std::string_view name, std::string_view field) {
  if (!name.starts_with(kProjectPrefix)) return BadName(name, field, "projects/{project}");
  const std::string_view project = name.substr(kProjectPrefix.size());
  SBORA_RETURN_IF_ERROR(CheckResourceId(project, field));
  return std::string(project);
}

StatusOr<ResourceName> ParseName(std::string_view name, Collection collection, std::string_view field) {
  const std::string pattern = fmt::format("projects/{{project}}/{}/{{id}}", CollectionName(collection));
  const std::string middle = fmt::format("/{}/", CollectionName(collection));
  const size_t at = name.find(middle);
  if (!name.starts_with(kProjectPrefix) || at == std::string_view::npos) return BadName(name, field, pattern);
  ResourceName parsed{std::string(name.substr(kProjectPrefix.size(), at - kProjectPrefix.size())), collection,
                      std::string(name.substr(at + middle.size()))};
  SBORA_RETURN_IF_ERROR(CheckResourceId(parsed.project, field));
  SBORA_RETURN_IF_ERROR(CheckId(parsed.id, collection, field));
  return parsed;
}

StatusOr<ResourceName> ParseNameOrId(std::string_view name, Collection collection, std::string_view project,
                                     std::string_view field) {
  if (name.find('/') != std::string_view::npos) return ParseName(name, collection, field);
  SBORA_RETURN_IF_ERROR(CheckId(name, collection, field));
  return ResourceName{std::string(project), collection, std::string(name)};
}

}  // namespace sbora::core
