/// What one answer of the coordinator means for the agent: a pure function over plain values, without threads, clocks
/// or sockets. The loop around it (agent.cc) sends requests and carries out decisions.
#pragma once

#include <chrono>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "sbora/worker/v1/worker.pb.h"
#include "worker/agent/gang.h"

namespace sbora::agent {

inline constexpr int kProtocolMin = 1;
inline constexpr int kProtocolMax = 1;

/// One attempt, as the request that was answered told it.
struct HeldAttempt {
  std::string lease_uid;
  int64_t epoch = 0;
  std::vector<std::string> slots;
  bool reported_ended = false;
};

struct Decision {
  struct Stop {
    std::string lease_uid;
    StopOrder order = StopOrder::kNone;
  };
  struct Renewal {
    std::string lease_uid;
    int64_t acknowledged_item = 0;
    /// Of a gang over several workers that may start.
    std::string rendezvous;
  };
  struct Refusal {
    worker::v1::Lease lease;
    Status why;
  };
  std::vector<worker::v1::Lease> start;
  /// Leases that can never run here; to be reported as ended.
  std::vector<Refusal> refuse;
  std::vector<Stop> stop;
  /// Renewed as of the moment the request was sent.
  std::vector<Renewal> renew;
  /// Ended attempts whose end the coordinator has taken in.
  std::vector<std::string> forget;
  bool drain = false;
  Duration next_call_after{};
};

/// What outlives one answer.
struct ProtocolState {
  std::set<std::string> slot_ids;
  bool draining = false;
  int64_t acknowledged_sequence = 0;
  /// Uids of attempts that came to their end here; a repeated start of one of them is an answer that crossed ours.
  std::deque<std::string> finished;

  void NoteFinished(std::string lease_uid);
};

/// A start for a held or finished lease, or for slots that are still in use, is left out: the coordinator repeats it.
Decision Step(ProtocolState& state, const std::vector<HeldAttempt>& reported,
              const worker::v1::SynchronizeResponse& answer);

/// The order behind a reason of the wire; unknown reasons of newer coordinators are kFenced, which harms nobody.
StopOrder OrderOf(worker::v1::StopLease::Reason reason);

/// The lease's timing with the defaults (5, 30, 60, 120 s) for what it leaves out.
struct Timing {
  Duration renew_every = std::chrono::seconds(5);
  Duration self_fence = std::chrono::seconds(30);
  Duration hang = std::chrono::seconds(120);
};
Timing TimingOf(const worker::v1::LeaseTiming& timing);

}  // namespace sbora::agent
