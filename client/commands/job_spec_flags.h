/// How a job's spec is given on the command line: job.yaml, a flag for each field, --set. Later ones win.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "client/sbora_client.h"
#include "client/spec_flags.h"
#include "common/status.h"

namespace sbora::client {

struct JobSpecFlags {
  std::string file;
  std::vector<std::string> sets;
  std::unique_ptr<SpecFlags> spec;

  /// `file_option`: "-f,--file". Fields in `leave_out` (paths) get no flag.
  void Declare(CLI::App& app, const std::string& file_option, const std::set<std::string>& leave_out = {});
  /// The spec, with full names of model and data sets. Errors: those of the readers, FIELD_REQUIRED for a missing model or
  /// data set.
  StatusOr<v1::FineTuningSpec> Build(const Client& client) const;
};

/// "NAME=VALUE" of `flag`. Errors: INVALID_ARGUMENT USAGE.
StatusOr<std::pair<std::string, std::string>> SplitPair(const std::string& text, const char* flag);

}  // namespace sbora::client
