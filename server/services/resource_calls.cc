#include "server/services/resource_calls.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "server/services/requests.h"

namespace sbora::server {

StatusOr<ResourceRow> FindResource(const ServiceContext& services, const std::string& name, core::Collection collection,
                                   std::string_view field) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, collection, field));
  return services.store().GetResource(parsed.ToString());
}

StatusOr<ResourceRow> FindResourceOrId(const ServiceContext& services, const std::string& name, core::Collection collection,
                                       const std::string& project, std::string_view field) {
  if (name.empty()) return Required(field);
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseNameOrId(name, collection, project, field));
  if (parsed.project != project) {
    return InvalidArgument("OTHER_PROJECT", fmt::format("{} is not in projects/{}", name, project)).WithViolation(field, "must be in the same project");
  }
  return services.store().GetResource(parsed.ToString());
}

Status ListResources(const ServiceContext& services, ResourceKind kind, const std::string& parent, int page_size,
                     const std::string& page_token, const std::function<Status(const ResourceRow&)>& add,
                     std::string& next_page_token) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(parent, "parent"));
  const std::string query = fmt::format("{} {}", ResourceKindName(kind), project);
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(page_size, page_token, query));
  SBORA_ASSIGN_OR_RETURN(const Page<ResourceRow> rows, services.store().ListResources(kind, project, page.size, page.cursor));
  for (const ResourceRow& row : rows.rows) SBORA_RETURN_IF_ERROR(add(row));
  next_page_token = PageToken(rows.next_cursor, query);
  return OkStatus();
}

Status DeleteResourceCall(const ServiceContext& services, const std::string& name, core::Collection collection,
                          const std::string& etag) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, collection, "name"));
  SBORA_ASSIGN_OR_RETURN(const int64_t version, VersionOf(etag));
  return services.coordinator->Write({DeleteResource{parsed.ToString(), version}});
}

}  // namespace sbora::server
