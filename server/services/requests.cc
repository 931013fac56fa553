#include "server/services/requests.h"

#include <fmt/format.h>

#include <charconv>

#include "common/ids.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/proto/stable_bytes.h"

namespace sbora::server {
namespace {

constexpr size_t kSealChars = 16;

std::string Seal(std::string_view cursor, std::string_view query) {
  return Sha256Hex(fmt::format("{}\n{}", query, cursor)).substr(0, kSealChars);
}

std::string ToHex(std::string_view bytes) {
  std::string hex;
  for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return hex;
}

bool FromHex(std::string_view hex, std::string& bytes) {
  if (hex.size() % 2 != 0) return false;
  for (size_t i = 0; i < hex.size(); i += 2) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(hex.data() + i, hex.data() + i + 2, value, 16);
    if (error != std::errc() || end != hex.data() + i + 2) return false;
    bytes += static_cast<char>(value);
  }
  return true;
}

Status BadToken() {
  return InvalidArgument("BAD_PAGE_TOKEN", "page_token is not one that this query gave; start again without it")
      .WithViolation("page_token", "must be the next_page_token of the same query");
}

}  // namespace

StatusOr<PageRequest> ParsePage(int page_size, const std::string& page_token, std::string_view query) {
  if (page_size < 0) {
    return InvalidArgument("BAD_PAGE_SIZE", fmt::format("page_size={} is negative", page_size))
        .WithViolation("page_size", "must be 0 (for 50) or more; above 1000 counts as 1000");
  }
  PageRequest page;
  page.size = page_size == 0 ? kDefaultPageSize : std::min(page_size, kMaxPageSize);
  if (page_token.empty()) return page;
  if (page_token.size() <= kSealChars || page_token.size() > 1024 ||
      !FromHex(std::string_view(page_token).substr(kSealChars), page.cursor) ||
      page_token.substr(0, kSealChars) != Seal(page.cursor, query)) {
    return BadToken();
  }
  return page;
}

std::string PageToken(std::string_view cursor, std::string_view query) {
  return cursor.empty() ? "" : Seal(cursor, query) + ToHex(cursor);
}

StatusOr<int64_t> NumberCursor(const std::string& cursor, int64_t first) {
  if (cursor.empty()) return first;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(cursor.data(), cursor.data() + cursor.size(), value);
  if (error != std::errc() || end != cursor.data() + cursor.size()) return BadToken();
  return value;
}

std::string EtagOf(int64_t tag) { return fmt::format("{:015x}", tag); }

StatusOr<int64_t> TagOf(const std::string& etag) {
  if (etag.empty()) return int64_t{0};
  int64_t tag = 0;
  const char* end = etag.data() + etag.size();
  const auto parsed = std::from_chars(etag.data(), end, tag, 16);
  if (parsed.ec == std::errc() && parsed.ptr == end && tag > 0 && EtagOf(tag) == etag) return tag;
  return Aborted("ETAG_MISMATCH", fmt::format("etag \"{}\" is not the resource's; read it again", etag.substr(0, 64)));
}

Status CheckRequestId(const std::string& request_id) {
  if (request_id.empty() || IsUuid(request_id)) return OkStatus();
  return InvalidArgument("BAD_REQUEST_ID", "request_id is not a lower-case UUID")
      .WithViolation("request_id", "must be a UUID such as 5c0d9c1e-2f1c-4b6e-9d5e-0b3f7c9f2a11, or empty");
}

std::string RequestHash(std::string_view method, const google::protobuf::Message& request) {
  std::unique_ptr<google::protobuf::Message> copy(request.New());
  copy->CopyFrom(request);
  if (const auto* field = copy->GetDescriptor()->FindFieldByName("request_id")) copy->GetReflection()->ClearField(copy.get(), field);
  return Sha256Hex(fmt::format("{}\n{}", method, core::StableBytes(*copy)));
}

StatusOr<std::string> ResourceIdOrNew(const std::string& id, std::string_view field) {
  if (id.empty()) return NewResourceId();
  SBORA_RETURN_IF_ERROR(CheckResourceId(id, field));
  return id;
}

std::string FullName(const std::string& project, core::Collection collection, const std::string& id) {
  return core::ResourceName{project, collection, id}.ToString();
}

Status ParseStored(std::string_view bytes, std::string_view what, google::protobuf::Message& message) {
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return OkStatus();
  return DataLoss("STORED_MESSAGE_MALFORMED", fmt::format("the stored {} of {} bytes cannot be read; the server's "
                                                          "database is damaged, restore it from a backup",
                                                          what, bytes.size()));
}

Status NameMissing(const Status& status, std::string_view kind, std::string_view name) {
  if (status.reason() != "RESOURCE_NOT_FOUND" && status.reason() != "WORK_NOT_FOUND") return status;
  return NotFound(fmt::format("{}_NOT_FOUND", kind), fmt::format("{} does not exist", name)).WithMetadata("resource", std::string(name));
}

Status BaseMismatch(std::string_view adapter_name, const v1::Adapter& adapter, const v1::Model& model) {
  return FailedPrecondition("BASE_MISMATCH", fmt::format("{} was trained on the base {}, and {} is {}; import the base it was trained on",
                                                         adapter_name, adapter.base_hash(), model.name(), model.base_hash()));
}

Status NameTaken(const std::string& name) {
  return AlreadyExists("NAME_TAKEN", fmt::format("{} exists or is being made; choose another id", name)).WithMetadata("resource", name);
}

Status PrefixFields(const Status& status, std::string_view prefix) {
  if (status.ok()) return status;
  Status prefixed(status.code(), status.reason(), status.message());
  for (const auto& [key, value] : status.metadata()) prefixed = prefixed.WithMetadata(key, value);
  for (const FieldViolation& violation : status.violations()) {
    prefixed = prefixed.WithViolation(fmt::format("{}{}", prefix, violation.field), violation.description);
  }
  return prefixed;
}

Status NotImplementedYet(std::string_view feature) {
  return Unimplemented("FEATURE_NOT_IMPLEMENTED", fmt::format("{} is not built yet", feature)).WithMetadata("feature", std::string(feature));
}

Status Required(std::string_view field) {
  return InvalidArgument("FIELD_REQUIRED", fmt::format("{} is required", field)).WithViolation(field, "must be set");
}

}  // namespace sbora::server
