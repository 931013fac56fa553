/// What models, data sets and adapters have in common: get, list, delete.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>

#include "common/status.h"
#include "core/names.h"
#include "server/services/context.h"
#include "server/services/pages.h"

namespace sbora::server {

/// The row behind a full name. Errors: INVALID_ARGUMENT for a malformed name, NOT_FOUND <KIND>_NOT_FOUND.
StatusOr<ResourceRow> FindResource(const ServiceContext& services, const std::string& name, core::Collection collection,
                                   std::string_view field);
/// As FindResource, but a bare id lives in `project`.
StatusOr<ResourceRow> FindResourceOrId(const ServiceContext& services, const std::string& name, core::Collection collection,
                                       const std::string& project, std::string_view field);

/// The work that an earlier call with the same request_id made, to be asked before anything that the request refers to is
/// looked up; nullopt for a first call. Errors: INVALID_ARGUMENT BAD_REQUEST_ID and those of Coordinator::FindSubmitted.
StatusOr<std::optional<Work>> FindRepeat(const ServiceContext& services, const std::string& project, const std::string& request_id,
                                         const std::string& request_hash);

/// Lists one page of `kind` under the project `parent` into `out`, as messages made by ModelOf, DatasetOf or AdapterOf;
/// answers the token of the next page.
template <typename Message>
StatusOr<std::string> ListResources(const ServiceContext& services, ResourceKind kind, const std::string& parent, int page_size,
                                    const std::string& page_token, StatusOr<Message> (*convert)(const ResourceRow&),
                                    google::protobuf::RepeatedPtrField<Message>& out) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(parent, "parent"));
  const std::string query = fmt::format("{} {}", ResourceKindName(kind), project);
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(page_size, page_token, query));
  const auto read = [&](int size, const std::string& cursor) { return services.store().ListResources(kind, project, size, cursor); };
  SBORA_ASSIGN_OR_RETURN(const std::string next, FillPage(page, read, [](const ResourceRow& row) { return row.uid; }, convert, out));
  return PageToken(next, query);
}

Status DeleteResourceCall(const ServiceContext& services, const std::string& name, core::Collection collection,
                          const std::string& etag);

}  // namespace sbora::server
