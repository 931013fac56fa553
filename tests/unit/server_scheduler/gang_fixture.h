/// Agents of several workers played by hand: what each holds is reported with each of its calls.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/server_scheduler/scheduler_fixture.h"

namespace sbora::server {

class GangTest : public SchedulerTest {
 protected:
  struct Agent {
    int slots = 0;
    std::string address;
    int instance = 1;
    std::map<std::string, AttemptReport> holds;   // by lease uid
    std::map<std::string, StartDecision> started;  // by name of the work: the newest
    SyncResponse told;                             // the newest answer
  };

  /// Worker `name` calls for the first time. Without an address it takes no part in gangs over several workers.
  void Join(const std::string& name, int slots, const std::string& address) {
    agents_[name].slots = slots;
    agents_[name].address = address;
    Call(name);
  }
  void Join(const std::string& name, int slots) { Join(name, slots, name + ".cluster"); }

  SyncRequest ReportOf(const std::string& name) const {
    const Agent& agent = agents_.at(name);
    SyncRequest request = h_.Report(name, agent.slots);
    request.instance_uuid = fmt::format("{}-{}", name, agent.instance);
    request.gang_address = agent.address;
    for (const auto& [uid, report] : agent.holds) request.attempts.push_back(report);
    return request;
  }
  /// A call with all it holds. What it is to start it holds from then on, preparing; what has ended it forgets.
  const SyncResponse& Call(const std::string& name) {
    Agent& agent = agents_.at(name);
    agent.told = h_.Sync(ReportOf(name));
    std::erase_if(agent.holds, [](const auto& item) { return item.second.phase == AttemptPhase::kEnded; });
    for (auto& [uid, report] : agent.holds) report.items.clear();
    for (const StartDecision& start : agent.told.start) {
      agent.holds[start.lease.uid] = Harness::Attempt(start.lease, AttemptPhase::kPreparing);
      agent.started[start.resource] = start;
    }
    return agent.told;
  }
  void CallAll() {
    for (const auto& [name, agent] : agents_) Call(name);
  }
  void Restart(const std::string& name) {
    agents_.at(name).holds.clear();
    ++agents_.at(name).instance;
    Call(name);
  }

  /// The report of what worker `name` holds of `work`.
  AttemptReport& Held(const std::string& name, const std::string& work) {
    return agents_.at(name).holds.at(agents_.at(name).started.at(work).lease.uid);
  }
  const StartDecision& Started(const std::string& name, const std::string& work) { return agents_.at(name).started.at(work); }

  /// Submits a gang of `ranks`, to begin on these workers, in the order of their ranks.
  std::string Spread(const std::string& id, int ranks, const std::vector<std::string>& names) {
    const std::string work = h_.Submit(id, ranks);
    Take(work, names);
    return work;
  }
  /// These workers call and take up their parts of `work`, which begin in this order.
  void Take(const std::string& work, const std::vector<std::string>& names) {
    int32_t first_rank = 0;
    for (const std::string& name : names) {
      Call(name);
      ASSERT_TRUE(agents_.at(name).started.contains(work)) << name << " got no part of " << work;
      EXPECT_EQ(Started(name, work).first_rank, first_rank) << name;
      first_rank += static_cast<int32_t>(Started(name, work).slots.size());
    }
    EXPECT_EQ(first_rank, h_.Row(work).ranks);
  }
  void Ready(const std::string& name, const std::string& work, const std::string& rendezvous = "") {
    Held(name, work).ready = true;
    Held(name, work).rendezvous = rendezvous;
    Call(name);
  }
  void Running(const std::string& name, const std::string& work) {
    Held(name, work).phase = AttemptPhase::kRunning;
    Held(name, work).ready = false;  // the phase says it
    Call(name);
  }
  /// All ready, then all running; the first one leads.
  void RunGang(const std::string& work, const std::vector<std::string>& names) {
    for (const std::string& name : names) Ready(name, work, name == names.front() ? name + ":4711" : "");
    for (const std::string& name : names) Running(name, work);
    EXPECT_EQ(h_.State(work), core::JobState::kRunning);
  }
  void EndPart(const std::string& name, const std::string& work, core::TerminationReason reason, const std::string& why = "",
               const std::string& message = "") {
    AttemptReport& report = Held(name, work);
    report.phase = AttemptPhase::kEnded;
    report.reason = reason;
    report.failure = {.code = why.empty() ? 0 : 13, .reason = why, .message = message};
    Call(name);
  }
  /// What worker `name` is told to do with what it holds of `work`; it holds nothing else.
  StopReason ToldToStop(const std::string& name) {
    const SyncResponse& answer = Call(name);
    return answer.stop.empty() ? StopReason::kNone : answer.stop.front().reason;
  }
  std::string Told(const std::string& name) const {
    const auto& renewed = agents_.at(name).told.renewed;
    return renewed.empty() ? "" : renewed.front().rendezvous;
  }
  Status CommitBy(const std::string& name, const std::string& work) {
    CommitRequest request;
    request.worker = name;
    request.instance_uuid = fmt::format("{}-{}", name, agents_.at(name).instance);
    request.lease = Started(name, work).lease;
    request.result = "result";
    const Status status = h_.scheduler().CommitAttempt(request, h_.At(), [](const Status&) {});
    while (h_.Commit() > 0) {
    }
    if (status.ok()) agents_.at(name).holds.erase(request.lease.uid);
    return status;
  }
  std::vector<std::string> EventsOf(const std::string& work, const std::string& type) {
    std::vector<std::string> messages;
    const auto events = h_.store().ListEvents(h_.Stored(work).uid, 0, 1000);
    for (const EventRow& event : *events) {
      if (event.type == type) messages.push_back(event.message);
    }
    return messages;
  }
  /// How many attempts ended for `reason`.
  int64_t Ended(core::TerminationReason reason) {
    for (const auto& [ended, count] : h_.scheduler().Snapshot(h_.At()).attempts_ended) {
      if (ended == reason) return count;
    }
    return 0;
  }
  int64_t AttemptsEnded() {
    int64_t all = 0;
    for (const auto& [ended, count] : h_.scheduler().Snapshot(h_.At()).attempts_ended) all += count;
    return all;
  }
  int Leases() { return h_.scheduler().Snapshot(h_.At()).leases; }

  std::map<std::string, Agent> agents_;
};

}  // namespace sbora::server
