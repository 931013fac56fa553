#include "client/spec_yaml.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <yaml-cpp/yaml.h>

#include <set>
#include <vector>

#include "client/spec_fields.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

class YamlReader {
 public:
  YamlReader(std::string_view source, Message& root) : source_(source), root_(root) {}

  Status ReadMap(const YAML::Node& map, const Descriptor& type, const std::string& prefix) {
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) return At(entry.first, "BAD_YAML", "a key must be a plain word");
      SBORA_RETURN_IF_ERROR(ReadEntry(entry.first, entry.second, type, prefix));
    }
    return OkStatus();
  }

 private:
  Status At(const YAML::Node& node, std::string_view reason, const std::string& message) const {
    return InvalidArgument(reason, fmt::format("{}:{}: {}", source_, node.Mark().line + 1, message));
  }

  Status AtNode(const YAML::Node& node, const Status& status) const {
    return status.WithContext(fmt::format("{}:{}", source_, node.Mark().line + 1));
  }

  Status ReadEntry(const YAML::Node& key, const YAML::Node& value, const Descriptor& type, const std::string& prefix) {
    const std::string path = prefix + ToSnakeCase(key.Scalar());
    const FieldDescriptor* field = type.FindFieldByName(ToSnakeCase(key.Scalar()));
    if (field == nullptr) return AtNode(key, Unknown(type, key.Scalar(), prefix));
    if (!seen_.insert(path).second) return At(key, "DUPLICATE_FIELD", fmt::format("'{}' is given twice", path));
    if (field->is_map() && value.IsMap()) return ReadEntries(value, path);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_map()) {
      if (value.IsNull()) return OkStatus();
      if (!value.IsMap()) return At(value, "BAD_FIELD_VALUE", fmt::format("'{}' must be a map of its fields", path));
      return ReadMap(value, *field->message_type(), path + ".");
    }
    if (value.IsSequence() && field->is_repeated()) return ReadList(value, path);
    if (!value.IsScalar()) return At(value, "BAD_FIELD_VALUE", fmt::format("'{}' must be one value", path));
    if (const Status status = SetField(root_, path, value.Scalar()); !status.ok()) return AtNode(value, status);
    return OkStatus();
  }

  Status ReadList(const YAML::Node& list, const std::string& path) {
    std::vector<std::string> items;
    for (const YAML::Node& item : list) {
      if (!item.IsScalar())
        return At(item, "BAD_FIELD_VALUE", fmt::format("'{}' must be a list of plain values", path));
      items.push_back(item.Scalar());
    }
    if (const Status status = SetRepeatedField(root_, path, items); !status.ok()) return AtNode(list, status);
    return OkStatus();
  }

  /// A map of names to numbers: {q: 8, layers.0.v: 4}.
  Status ReadEntries(const YAML::Node& map, const std::string& path) {
    std::vector<std::string> items;
    for (const auto& entry : map) {
      if (!entry.first.IsScalar() || !entry.second.IsScalar()) {
        return At(entry.first, "BAD_FIELD_VALUE", fmt::format("'{}' must be a map of names to numbers", path));
      }
      items.push_back(fmt::format("{}={}", entry.first.Scalar(), entry.second.Scalar()));
    }
    if (const Status status = SetRepeatedField(root_, path, items); !status.ok()) return AtNode(map, status);
    return OkStatus();
  }

  Status Unknown(const Descriptor& type, const std::string& key, const std::string& prefix) const {
    std::vector<std::string> siblings;
    for (int i = 0; i < type.field_count(); ++i) siblings.push_back(type.field(i)->name());
    const std::string near = Nearest(ToSnakeCase(key), siblings);
    if (near.empty()) return FindLeaf(*root_.GetDescriptor(), prefix + key).status();
    return InvalidArgument("UNKNOWN_FIELD",
                           fmt::format("unknown field '{}{}'; did you mean '{}{}'?", prefix, key, prefix, near))
        .WithMetadata("field", prefix + key)
        .WithMetadata("nearest", prefix + near);
  }

  std::string source_;
  Message& root_;  // must outlive
  std::set<std::string> seen_;
};

}  // namespace

Status ParseSpecYaml(std::string_view text, std::string_view source, Message& root) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.size() > 1) {
      return InvalidArgument("BAD_YAML", fmt::format("{}: holds {} documents, expected one", source, documents.size()));
    }
    if (documents.empty()) return OkStatus();
    const YAML::Node& document = documents.front();
    if (document.IsNull()) return OkStatus();
    if (!document.IsMap()) {
      return InvalidArgument("BAD_YAML", fmt::format("{}: must be a map of fields such as 'model: NAME'", source));
    }
    return YamlReader(source, root).ReadMap(document, *root.GetDescriptor(), "");
  } catch (const YAML::Exception& error) {
    return InvalidArgument("BAD_YAML", fmt::format("{}:{}: {}", source, error.mark.line + 1, error.msg));
  }
}

Status ReadSpecFile(const std::filesystem::path& path, Message& root) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxSpecFileBytes));
  return ParseSpecYaml(text, path.string(), root);
}

}  // namespace sbora::client
