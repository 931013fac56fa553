/// What the tests of the scheduler share: one worker "w" that takes jobs, ends them and commits.
#pragma once

#include <string>
#include <utility>

#include "tests/unit/server_scheduler/harness.h"

namespace sbora::server {

class SchedulerTest : public ::testing::Test {
 protected:
  /// Submits `id`, gives it to worker "w" and lets it run.
  core::LeaseId Run(const std::string& name) {
    const SyncResponse granted = h_.Sync(h_.Report("w"));
    SBORA_CHECK(granted.start.size() == 1, "{} starts", granted.start.size());
    SBORA_CHECK(granted.start[0].resource == name, "{}", granted.start[0].resource);
    SyncRequest running = h_.Report("w");
    running.attempts = {Harness::Attempt(granted.start[0].lease, AttemptPhase::kRunning)};
    h_.Sync(running);
    return granted.start[0].lease;
  }
  SyncResponse SyncWith(AttemptReport report) {
    SyncRequest request = h_.Report("w");
    request.attempts = {std::move(report)};
    return h_.Sync(std::move(request));
  }
  SyncResponse End(const core::LeaseId& lease, core::TerminationReason reason) {
    AttemptReport report = Harness::Attempt(lease, AttemptPhase::kEnded);
    report.reason = reason;
    report.failure = {.code = 13, .reason = "X", .message = "said the trainer"};
    return SyncWith(std::move(report));
  }
  Status CommitAttempt(const core::LeaseId& lease, const std::string& worker = "w") {
    CommitRequest request;
    request.worker = worker;
    request.instance_uuid = worker + "-1";
    request.lease = lease;
    request.result = "result";
    const Status status = h_.scheduler().CommitAttempt(request, h_.At(), [](const Status&) {});
    while (h_.Commit() > 0) {
    }
    return status;
  }

  Harness h_;
};

}  // namespace sbora::server
