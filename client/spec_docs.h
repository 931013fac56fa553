/// The comments of the proto files, for --help: what is said once beside a field is what the user reads.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>

namespace sbora::client {

/// The leading comment of the field on one line; "" when the field is not of the files carried (cmake: spec_docs).
/// Thread-safe.
std::string FieldComment(const google::protobuf::FieldDescriptor& field);

}  // namespace sbora::client
