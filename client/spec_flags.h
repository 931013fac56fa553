/// Command-line flags made from a message's fields: `learning_rate` is --learning-rate, a bool also takes --no-NAME.
#pragma once

#include <google/protobuf/message.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/spec_fields.h"
#include "common/status.h"

namespace sbora::client {

/// Owns what the parser writes to; must live until the command has run.
class SpecFlags {
 public:
  /// Adds a flag for each leaf of `root` except the paths in `leave_out`. Leaf names must be unique.
  SpecFlags(CLI::App& app, const google::protobuf::Descriptor& root, const std::set<std::string>& leave_out = {});

  /// Sets the fields whose flags were given, in order of declaration. Errors: those of SetField, and BAD_FIELD_VALUE
  /// for `--method X+nf4` beside a --quantization that differs.
  Status Apply(google::protobuf::Message& root) const;

 private:
  struct Flag {
    LeafField leaf;
    std::string text;
    CLI::Option* option = nullptr;  // the app's
  };
  std::vector<std::unique_ptr<Flag>> flags_;  // pointers: the parser keeps addresses
};

}  // namespace sbora::client
