/// Fields of a request message by name: what turns flags, `--set path=value` and YAML into a spec, by reflection, so
/// that a field added to the proto is at once a flag and a key.
///
///     v1::FineTuningSpec spec;
///     SBORA_RETURN_IF_ERROR(SetField(spec, "adapter.method", "sbora_fa+nf4"));   // sets quantization too
///
/// Pure functions, thread-safe.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::client {

/// A scalar, string or enum field (repeated or not), or a map of names to numbers, below a root message.
struct LeafField {
  /// From the root, in proto names: "adapter.target_modules".
  std::string path;
  const google::protobuf::FieldDescriptor* field = nullptr;  // generated code's own, lives for ever

  /// "--target-modules".
  std::string Flag() const;
  bool IsBool() const;
  /// What a value looks like: "int", "number", "text", "true|false", "a,b,c", "name=int,..." or the enum's names joined by
  /// '|'.
  std::string TypeText() const;
};

/// All leaves, depth first in order of declaration.
std::vector<LeafField> LeafFields(const google::protobuf::Descriptor& root);

/// "METHOD_SBORA_FA" -> "sbora_fa"; "" for the unspecified value.
std::string EnumShortName(const google::protobuf::EnumValueDescriptor& value);
/// Every short name but the unspecified one, in order.
std::vector<std::string> EnumShortNames(const google::protobuf::EnumDescriptor& type);

/// "targetModules" and "target-modules" -> "target_modules".
std::string ToSnakeCase(std::string_view name);

/// Sets the leaf at `path` (each part in snake_case or lowerCamelCase). Lists are separated by commas and replaced as a
/// whole, as are maps: "q=8,layers.0.v=4". A method may carry its quantization: "sbora_fa+nf4".
/// Errors: InvalidArgument UNKNOWN_FIELD naming the nearest known path, BAD_FIELD_VALUE naming path, value and what is
/// accepted; each with a field violation.
Status SetField(google::protobuf::Message& root, std::string_view path, std::string_view text);

/// The same for a list (or map) whose items (of "name=value") are given one by one.
Status SetRepeatedField(google::protobuf::Message& root, std::string_view path, const std::vector<std::string>& items);

/// The leaf at `path`, or UNKNOWN_FIELD as above.
StatusOr<LeafField> FindLeaf(const google::protobuf::Descriptor& root, std::string_view path);

/// The candidate with the least edit distance, "" when none is near (more than a third of its length away).
std::string Nearest(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace sbora::client
