#include "client/spec_docs.h"

#include <google/protobuf/descriptor.pb.h>

#include <algorithm>

#include "client/spec_docs_data.h"
#include "common/check.h"

namespace sbora::client {
namespace {

/// protoc's descriptor set with source info; the descriptors in generated code carry no comments.
struct Docs {
  google::protobuf::FileDescriptorSet files;
  google::protobuf::DescriptorPool pool;

  Docs() {
    SBORA_CHECK(files.ParseFromArray(kSpecDocs, static_cast<int>(sizeof(kSpecDocs))),
                "the carried descriptors are damaged");
    for (const auto& file : files.file())
      SBORA_CHECK(pool.BuildFile(file) != nullptr, "bad descriptor {}", file.name());
  }
};

}  // namespace

std::string FieldComment(const google::protobuf::FieldDescriptor& field) {
  static const Docs docs;
  const auto* described = docs.pool.FindFieldByName(field.full_name());
  google::protobuf::SourceLocation location;
  if (described == nullptr || !described->GetSourceLocation(&location)) return "";
  std::string text;
  for (const char c : location.leading_comments) {
    const char next = c == '\n' ? ' ' : c;
    if (next == ' ' && (text.empty() || text.back() == ' ')) continue;
    text += next;
  }
  text.erase(text.find_last_not_of(' ') + 1);
  // CLI11 would take backquotes and braces as they are; the proto's quotes read well without.
  std::erase(text, '`');
  return text;
}

}  // namespace sbora::client
