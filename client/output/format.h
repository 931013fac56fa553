/// Messages as text: protobuf JSON (every field, lowerCamelCase, 64-bit integers as strings), the same as YAML, and the
/// small pieces tables are made of. Pure functions.
#pragma once

#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::client {

enum class OutputFormat { kTable, kJson, kYaml };

/// Ends with a line feed. `one_line` is for streams (one message a line).
std::string ToJson(const google::protobuf::Message& message, bool one_line = false);
/// The same content, in protobuf JSON's order.
std::string ToYaml(const google::protobuf::Message& message);

/// Rows under a header, columns as wide as their widest cell, two spaces between; no trailing blanks.
std::string FormatTable(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);
/// "name   value" lines; pairs with an empty value are left out.
std::string FormatFields(const std::vector<std::pair<std::string, std::string>>& fields);

/// 1536 -> "1.5 KiB".
std::string FormatBytes(int64_t bytes);
/// 134515008 -> "134,515,008".
std::string FormatCount(int64_t count);
/// Seconds -> "42 s", "3 min 20 s", "2 h 5 min".
std::string FormatSeconds(double seconds);
/// "2026-11-23 22:14:03" UTC; "" for an unset time.
std::string FormatTime(const google::protobuf::Timestamp& time);
/// The last part of a resource name.
std::string ShortName(std::string_view name);
/// At most `width` bytes on one line, line feeds as spaces, cut with "...".
std::string OneLine(std::string_view text, size_t width);

}  // namespace sbora::client
