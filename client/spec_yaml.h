/// job.yaml -> a spec message. The keys are the message's fields in snake_case or lowerCamelCase, nested as it is:
///
///     model: smollm2
///     dataset: tickets
///     adapter: {method: sbora_fa, rank: 32, target_modules: [q, v]}
///     training:
///       learning_rate: 2e-3
///
/// A map of names to numbers is a map: rank_pattern: {q: 8, layers.0.v: 4}.
#pragma once

#include <google/protobuf/message.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora::client {

inline constexpr int64_t kMaxSpecFileBytes = 1 << 20;

/// Sets in `root` what `text` says and leaves the rest. `source` names the text in errors ("job.yaml:12: ...").
/// Errors, all InvalidArgument: BAD_YAML (not YAML, or not a map), UNKNOWN_FIELD (with the nearest known key),
/// DUPLICATE_FIELD, BAD_FIELD_VALUE.
Status ParseSpecYaml(std::string_view text, std::string_view source, google::protobuf::Message& root);

/// ParseSpecYaml of a file; also its read errors and OutOfRange FILE_TOO_LARGE.
Status ReadSpecFile(const std::filesystem::path& path, google::protobuf::Message& root);

}  // namespace sbora::client
