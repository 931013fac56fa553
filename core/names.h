/// Resource names: `projects/{p}/models/{m}` and its relatives. The only parser and printer of them.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora::core {

/// The collections that live inside a project; the text between the project and the id.
enum class Collection { kModels, kDatasets, kFineTuningJobs, kEvaluationJobs, kAdapters, kUploads, kObjects, kOperations };

/// "models", "datasets", "fineTuningJobs", "evaluationJobs", "adapters", "uploads", "objects", "operations".
std::string_view CollectionName(Collection collection);

struct ResourceName {
  std::string project;
  Collection collection = Collection::kModels;
  std::string id;

  std::string ToString() const;
  bool operator==(const ResourceName&) const = default;
};

/// "projects/{project}".
std::string ProjectName(std::string_view project);

/// `{p}` of "projects/{p}". Errors: INVALID_ARGUMENT BAD_RESOURCE_NAME with a violation for `field`.
StatusOr<std::string> ParseProject(std::string_view name, std::string_view field);

/// A full name of that collection. Ids of uploads, objects and operations are UUIDs, of all others RFC 1034 labels.
/// Errors: INVALID_ARGUMENT BAD_RESOURCE_NAME, BAD_RESOURCE_ID, with a violation for `field`.
StatusOr<ResourceName> ParseName(std::string_view name, Collection collection, std::string_view field);

/// As ParseName, but also takes a bare id, which then lives in `project`.
StatusOr<ResourceName> ParseNameOrId(std::string_view name, Collection collection, std::string_view project,
                                     std::string_view field);

}  // namespace sbora::core
