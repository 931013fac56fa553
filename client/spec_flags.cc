#include "client/spec_flags.h"

#include <fmt/format.h>

#include "client/spec_docs.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

/// "adapter.rank" -> "adapter"; the help lists flags under these.
std::string GroupOf(const std::string& path) {
  const size_t dot = path.find('.');
  return dot == std::string::npos ? "spec" : "spec: " + path.substr(0, dot);
}

}  // namespace

SpecFlags::SpecFlags(CLI::App& app, const google::protobuf::Descriptor& root, const std::set<std::string>& leave_out) {
  for (LeafField& leaf : LeafFields(root)) {
    if (leave_out.contains(leaf.path)) continue;
    auto flag = std::make_unique<Flag>();
    const std::string name = leaf.Flag();
    const std::string help = FieldComment(*leaf.field);
    flag->option = leaf.IsBool() ? app.add_flag(fmt::format("{},!--no-{}", name, name.substr(2)), flag->text, help)
                                 : app.add_option(name, flag->text, help)->option_text(leaf.TypeText());
    flag->option->group(GroupOf(leaf.path));
    flag->leaf = std::move(leaf);
    flags_.push_back(std::move(flag));
  }
}

Status SpecFlags::Apply(google::protobuf::Message& root) const {
  for (const auto& flag : flags_) {
    if (flag->option->count() == 0) continue;
    SBORA_RETURN_IF_ERROR(SetField(root, flag->leaf.path, flag->text));
  }
  // A method may carry its quantization; a flag that says otherwise is a mistake of the caller's.
  for (const auto& flag : flags_) {
    if (flag->option->count() == 0 || flag->leaf.path != "quantization") continue;
    const std::unique_ptr<google::protobuf::Message> asked(root.New());
    SBORA_RETURN_IF_ERROR(SetField(*asked, flag->leaf.path, flag->text));
    const auto* field = flag->leaf.field;
    const auto& reflection = *root.GetReflection();
    if (reflection.GetEnumValue(root, field) != reflection.GetEnumValue(*asked, field)) {
      return InvalidArgument("BAD_FIELD_VALUE",
                             fmt::format("--quantization {} contradicts the one in --method", flag->text))
          .WithViolation("quantization", "must agree with the method's");
    }
  }
  return OkStatus();
}

}  // namespace sbora::client
