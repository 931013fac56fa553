/// Ends of a wait that are not the awaited thing's: Ctrl-C and --timeout. What was waited for goes on at the server.
#pragma once

#include <atomic>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "common/file.h"
#include "common/status.h"

namespace sbora::client {

/// While it lives, the first SIGINT or SIGTERM requests a stop of `token()` and a second one ends the program as usual;
/// `--timeout` requests it too. One object at a time in a process (a signal has one handler).
class WaitScope {
 public:
  explicit WaitScope(std::optional<double> timeout_seconds);
  ~WaitScope();
  WaitScope(const WaitScope&) = delete;
  WaitScope& operator=(const WaitScope&) = delete;

  std::stop_token token() const { return stop_.get_token(); }
  /// What a stopped wait is to the user: Cancelled INTERRUPTED or DeadlineExceeded WAIT_TIMEOUT with `goes_on` in the
  /// message. Any other status stays.
  Status Explain(const Status& status, const std::string& goes_on) const;

 private:
  void Listen();

  std::stop_source stop_;
  std::atomic<bool> interrupted_ = false;
  std::atomic<bool> timed_out_ = false;
  const std::optional<double> timeout_seconds_;
  UniqueFd read_end_;
  UniqueFd write_end_;
  std::jthread listener_;  // waits for the signal's byte, the object's end, or the deadline
};

}  // namespace sbora::client
