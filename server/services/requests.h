/// Shared pieces of requests: pages, etags, request ids, names.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "common/status.h"
#include "core/names.h"
#include "sbora/v1/adapter.pb.h"
#include "sbora/v1/model.pb.h"
#include "server/store/rows.h"

namespace sbora::server {

inline constexpr int kDefaultPageSize = 50;
inline constexpr int kMaxPageSize = 1000;

struct PageRequest {
  int size = kDefaultPageSize;
  std::string cursor;  ///< empty for the first page
};

/// `query` is everything but page_size and page_token, so that a token fits its own query only.
/// Errors: INVALID_ARGUMENT BAD_PAGE_SIZE for a negative size, BAD_PAGE_TOKEN.
StatusOr<PageRequest> ParsePage(int page_size, const std::string& page_token, std::string_view query);
/// Empty for an empty cursor.
std::string PageToken(std::string_view cursor, std::string_view query);
/// A cursor that is a number; 0 stands for the first page. Errors: as ParsePage.
StatusOr<int64_t> NumberCursor(const std::string& cursor, int64_t first);

/// `tag` is a row's ChangeTag.
std::string EtagOf(int64_t tag);
/// 0 for an empty etag. An etag that we never made matches nothing: ABORTED ETAG_MISMATCH.
StatusOr<int64_t> TagOf(const std::string& etag);

/// OK for empty and for UUIDs. Errors: INVALID_ARGUMENT BAD_REQUEST_ID.
Status CheckRequestId(const std::string& request_id);
/// SHA-256 over the method and the message with its request_id left out.
std::string RequestHash(std::string_view method, const google::protobuf::Message& request);

/// `id`, checked, or a made-up one when empty.
StatusOr<std::string> ResourceIdOrNew(const std::string& id, std::string_view field);
std::string FullName(const std::string& project, core::Collection collection, const std::string& id);

/// Parses what we stored ourselves. Errors: DATA_LOSS STORED_MESSAGE_MALFORMED naming `what`.
Status ParseStored(std::string_view bytes, std::string_view what, google::protobuf::Message& message);

/// A NOT_FOUND of the store in the caller's words: "<kind>_NOT_FOUND", with the name as metadata `resource`. Any other
/// status stays.
Status NameMissing(const Status& status, std::string_view kind, std::string_view name);

/// FAILED_PRECONDITION BASE_MISMATCH: the model is another one than the adapter was trained on.
Status BaseMismatch(std::string_view adapter_name, const v1::Adapter& adapter, const v1::Model& model);

/// ALREADY_EXISTS NAME_TAKEN, as the scheduler says it.
Status NameTaken(const std::string& name);

/// `status` with `prefix` before the field of each violation: who embeds a message knows where it lies in the request.
Status PrefixFields(const Status& status, std::string_view prefix);

/// UNIMPLEMENTED FEATURE_NOT_IMPLEMENTED naming it.
Status NotImplementedYet(std::string_view feature);
/// INVALID_ARGUMENT FIELD_REQUIRED with a violation.
Status Required(std::string_view field);

}  // namespace sbora::server
