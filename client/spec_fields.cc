#include "client/spec_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "common/status_macros.h"

namespace sbora::client {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::string_view kMethodField = "sbora.v1.AdapterSpec.method";
constexpr const char* kQuantizationField = "quantization";

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

void CollectLeaves(const Descriptor& type, const std::string& prefix, std::vector<LeafField>& out) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_map()) {
      CollectLeaves(*field->message_type(), prefix + field->name() + ".", out);
    } else {
      out.push_back({prefix + field->name(), field});
    }
  }
}

Status BadValue(const std::string& path, std::string_view text, const std::string& expected) {
  return InvalidArgument("BAD_FIELD_VALUE", fmt::format("{}: \"{}\" is not {}", path, text, expected))
      .WithMetadata("field", path)
      .WithMetadata("value", std::string(text))
      .WithViolation(path, fmt::format("must be {}", expected));
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

const EnumValueDescriptor* FindEnumValue(const EnumDescriptor& type, std::string_view text) {
  const std::string wanted = ToSnakeCase(text);
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor* value = type.value(i);
    if (value->number() == 0) continue;
    if (EnumShortName(*value) == wanted || value->name() == text) return value;
  }
  return nullptr;
}

template <typename Number, typename Setter>
Status StoreNumber(const std::string& path, std::string_view text, const char* expected, const Setter& store) {
  const auto value = ParseNumber<Number>(text);
  if (!value) return BadValue(path, text, expected);
  store(*value);
  return OkStatus();
}

Status StoreDouble(Message& message, const FieldDescriptor* field, const std::string& path, std::string_view text) {
  const auto value = ParseNumber<double>(text);
  if (!value || !std::isfinite(*value)) return BadValue(path, text, "a finite number");
  const Reflection& reflection = *message.GetReflection();
  field->is_repeated() ? reflection.AddDouble(&message, field, *value) : reflection.SetDouble(&message, field, *value);
  return OkStatus();
}

Status StoreBool(Message& message, const FieldDescriptor* field, const std::string& path, std::string_view text) {
  if (text != "true" && text != "false") return BadValue(path, text, "true or false");
  const Reflection& reflection = *message.GetReflection();
  field->is_repeated() ? reflection.AddBool(&message, field, text == "true")
                       : reflection.SetBool(&message, field, text == "true");
  return OkStatus();
}

Status StoreEnum(Message& message, const FieldDescriptor* field, const std::string& path, std::string_view text) {
  const EnumValueDescriptor* value = FindEnumValue(*field->enum_type(), text);
  if (value == nullptr) {
    return BadValue(path, text, fmt::format("one of {}", fmt::join(EnumShortNames(*field->enum_type()), ", ")));
  }
  const Reflection& reflection = *message.GetReflection();
  field->is_repeated() ? reflection.AddEnum(&message, field, value) : reflection.SetEnum(&message, field, value);
  return OkStatus();
}

/// Sets (or, when repeated, appends) one value.
Status StoreValue(Message& message, const FieldDescriptor* field, const std::string& path, std::string_view text) {
  const Reflection& reflection = *message.GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return StoreNumber<int32_t>(path, text, "a whole number of 32 bits", [&](int32_t value) {
        repeated ? reflection.AddInt32(&message, field, value) : reflection.SetInt32(&message, field, value);
      });
    case FieldDescriptor::CPPTYPE_INT64:
      return StoreNumber<int64_t>(path, text, "a whole number", [&](int64_t value) {
        repeated ? reflection.AddInt64(&message, field, value) : reflection.SetInt64(&message, field, value);
      });
    case FieldDescriptor::CPPTYPE_UINT32:
      return StoreNumber<uint32_t>(path, text, "a whole number from 0, of 32 bits", [&](uint32_t value) {
        repeated ? reflection.AddUInt32(&message, field, value) : reflection.SetUInt32(&message, field, value);
      });
    case FieldDescriptor::CPPTYPE_UINT64:
      return StoreNumber<uint64_t>(path, text, "a whole number from 0", [&](uint64_t value) {
        repeated ? reflection.AddUInt64(&message, field, value) : reflection.SetUInt64(&message, field, value);
      });
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return StoreDouble(message, field, path, text);
    case FieldDescriptor::CPPTYPE_BOOL:
      return StoreBool(message, field, path, text);
    case FieldDescriptor::CPPTYPE_ENUM:
      return StoreEnum(message, field, path, text);
    case FieldDescriptor::CPPTYPE_STRING:
      repeated ? reflection.AddString(&message, field, std::string(text))
               : reflection.SetString(&message, field, std::string(text));
      return OkStatus();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return BadValue(path, text, "a field that takes one value");
}

/// Adds one "name=value" to a map of strings to numbers.
Status StoreEntry(Message& message, const FieldDescriptor* field, const std::string& path, std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) return BadValue(path, text, "NAME=VALUE");
  const std::string name(text.substr(0, equals));
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
    const Message& there = reflection.GetRepeatedMessage(message, field, i);
    if (there.GetReflection()->GetString(there, there.GetDescriptor()->map_key()) == name) {
      return BadValue(path, text, fmt::format("new: {} is given twice", name));
    }
  }
  Message& entry = *reflection.AddMessage(&message, field);
  entry.GetReflection()->SetString(&entry, entry.GetDescriptor()->map_key(), name);
  return StoreValue(entry, entry.GetDescriptor()->map_value(), fmt::format("{}.{}", path, name), text.substr(equals + 1));
}

/// The message that holds the last part of a known path.
Message& OwnerOf(Message& root, const std::string& path) {
  Message* message = &root;
  const std::vector<std::string> parts = Split(path, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    message = message->GetReflection()->MutableMessage(message, field);
  }
  return *message;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string LeafName(std::string_view path) {
  const size_t dot = path.rfind('.');
  return std::string(dot == std::string_view::npos ? path : path.substr(dot + 1));
}

/// By the whole path first, then by the leaf's name anywhere: a key under the wrong parent is the usual mistake.
std::string NearestPath(const Descriptor& root, const std::string& path) {
  std::vector<std::string> paths;
  std::vector<std::string> leaves;
  for (const LeafField& leaf : LeafFields(root)) {
    paths.push_back(leaf.path);
    leaves.push_back(leaf.field->name());
  }
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i] == LeafName(path)) return paths[i];
  }
  if (const std::string near = Nearest(path, paths); !near.empty()) return near;
  const std::string leaf = Nearest(LeafName(path), leaves);
  if (leaf.empty()) return "";
  return paths[static_cast<size_t>(std::find(leaves.begin(), leaves.end(), leaf) - leaves.begin())];
}

}  // namespace

std::string LeafField::Flag() const {
  std::string flag = "--" + field->name();
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

bool LeafField::IsBool() const { return field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL; }

std::string LeafField::TypeText() const {
  if (field->is_map()) return "name=" + LeafField{"", field->message_type()->map_value()}.TypeText() + ",...";
  if (field->is_repeated()) return "a,b,c";
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "int";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true|false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return fmt::format("{}", fmt::join(EnumShortNames(*field->enum_type()), "|"));
    case FieldDescriptor::CPPTYPE_STRING:
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return "text";
}

std::vector<LeafField> LeafFields(const Descriptor& root) {
  std::vector<LeafField> leaves;
  CollectLeaves(root, "", leaves);
  return leaves;
}

std::string EnumShortName(const EnumValueDescriptor& value) {
  constexpr std::string_view kUnspecified = "UNSPECIFIED";
  const std::string& zero = value.type()->FindValueByNumber(0)->name();
  if (value.number() == 0 || !zero.ends_with(kUnspecified)) return "";
  std::string name = value.name().substr(zero.size() - kUnspecified.size());
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name;
}

std::vector<std::string> EnumShortNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) names.push_back(EnumShortName(*type.value(i)));
  }
  return names;
}

std::string ToSnakeCase(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isupper(byte) && !out.empty() && out.back() != '_' && !std::isupper(static_cast<unsigned char>(name[0]))) {
      out += '_';
    }
    out += c == '-' ? '_' : static_cast<char>(std::tolower(byte));
  }
  return out;
}

std::string Nearest(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    const size_t limit = std::max<size_t>(2, candidate.size() / 3);
    if (distance <= limit && (best.empty() || distance < best_distance)) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

StatusOr<LeafField> FindLeaf(const Descriptor& root, std::string_view path) {
  std::vector<std::string> parts = Split(path, '.');
  std::transform(parts.begin(), parts.end(), parts.begin(), [](const std::string& part) { return ToSnakeCase(part); });
  const std::string snake = fmt::format("{}", fmt::join(parts, "."));
  for (LeafField& leaf : LeafFields(root)) {
    if (leaf.path == snake) return std::move(leaf);
  }
  const std::string near = NearestPath(root, snake);
  const std::string hint = near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
  return InvalidArgument("UNKNOWN_FIELD", fmt::format("unknown field '{}'{}", path, hint))
      .WithMetadata("field", std::string(path))
      .WithMetadata("nearest", near);
}

Status SetField(Message& root, std::string_view path, std::string_view text) {
  SBORA_ASSIGN_OR_RETURN(const LeafField leaf, FindLeaf(*root.GetDescriptor(), path));
  if (leaf.field->is_repeated()) return SetRepeatedField(root, leaf.path, Split(text, ','));
  if (leaf.field->full_name() == kMethodField && text.find('+') != std::string_view::npos) {
    const size_t plus = text.find('+');
    if (root.GetDescriptor()->FindFieldByName(kQuantizationField) != nullptr) {
      SBORA_RETURN_IF_ERROR(SetField(root, kQuantizationField, text.substr(plus + 1)));
      text = text.substr(0, plus);
    }
  }
  return StoreValue(OwnerOf(root, leaf.path), leaf.field, leaf.path, text);
}

Status SetRepeatedField(Message& root, std::string_view path, const std::vector<std::string>& items) {
  SBORA_ASSIGN_OR_RETURN(const LeafField leaf, FindLeaf(*root.GetDescriptor(), path));
  if (!leaf.field->is_repeated()) return BadValue(leaf.path, fmt::format("{}", fmt::join(items, ",")), "one value");
  Message& owner = OwnerOf(root, leaf.path);
  owner.GetReflection()->ClearField(&owner, leaf.field);
  for (const std::string& item : items) {
    if (item.empty())
      return BadValue(leaf.path, fmt::format("{}", fmt::join(items, ",")), "a list without empty items");
    SBORA_RETURN_IF_ERROR(leaf.field->is_map() ? StoreEntry(owner, leaf.field, leaf.path, item)
                                               : StoreValue(owner, leaf.field, leaf.path, item));
  }
  return OkStatus();
}

}  // namespace sbora::client
