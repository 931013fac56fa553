/// Runs the command line in this process against a FakeServer.
#pragma once

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "client/cli.h"
#include "common/file.h"
#include "tests/unit/client/fake_server.h"

namespace sbora::client {

inline constexpr const char* kJob = "projects/default/fineTuningJobs/tickets-1";

class CliTest : public ::testing::Test {
 protected:
  int Run(const std::vector<std::string>& arguments) {
    std::ostringstream out;
    std::ostringstream err;
    const ExitCode code = RunCli(arguments, {.out = out, .err = err, .terminal = false, .channel = server_.Channel()});
    out_ = out.str();
    err_ = err.str();
    return static_cast<int>(code);
  }
  void WatchEndsWith(v1::FineTuningJob::State state) {
    server_.jobs[kJob].set_name(kJob);
    server_.watch_messages = {JobMessage(1, kJob, v1::FineTuningJob::STATE_RUNNING), JobMessage(2, kJob, state)};
  }

  FakeServer server_;
  TempDirectory folder_ = *TempDirectory::Create(::testing::TempDir(), "cli");
  std::string out_;
  std::string err_;
};

}  // namespace sbora::client
