/// Identifiers. Server-made uids are UUIDv7 (sortable by time of creation) and alone appear in object keys and paths;
/// caller-made resource ids follow RFC 1034 and are labels.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora {

/// A random UUIDv4 / a time-ordered UUIDv7, lower-case with dashes (36 characters). Thread-safe.
std::string NewUuid4();
std::string NewUuid7();

/// True for 36 characters of canonical lower-case UUID text.
bool IsUuid(std::string_view text);

/// OK for [a-z]([a-z0-9-]{0,61}[a-z0-9])?; otherwise InvalidArgument BAD_RESOURCE_ID naming `field` and the rule.
Status CheckResourceId(std::string_view id, std::string_view field);

/// A pronounceable resource id such as "calm-otter-7f3a", for resources made without a name.
std::string NewResourceId();

}  // namespace sbora
