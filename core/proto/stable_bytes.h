/// A message as bytes for hashes, keys and stores.
#pragma once

#include <string>

#include "google/protobuf/message.h"

namespace sbora::core {

/// The same bytes for the same content in one program version: map entries have a fixed order.
std::string StableBytes(const google::protobuf::Message& message);

}  // namespace sbora::core
