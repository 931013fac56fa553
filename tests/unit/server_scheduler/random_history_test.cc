// Seeded random histories of users, agents, time and crashes against the promises:
//   P1 nothing accepted is lost; P3 at most one commit of each job, by the holder of the newest epoch;
//   P4 no two gangs of one job live at once, where a gang lives from its start until it has ended, was told to stop, or
//   fenced itself; epochs rise; what was answered is in the store.
//   P5 the parts of a gang over several workers hold all its ranks, each once, and are told where to meet only when the part
//   with rank 0 has said where and all have said that they are ready.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "tests/unit/server_scheduler/harness.h"

namespace sbora::server {
namespace {

using core::JobState;
using core::TerminationReason;
using std::chrono::milliseconds;

/// What one agent really does, whatever the coordinator believes: a gang, or its part of one.
struct Gang {
  core::LeaseId lease;
  int32_t first_rank = 0;
  int32_t world_size = 0;
  bool ready = false;  // and has said so
  bool met = false;  // it knows where, or needs not
  std::string job;
  MonotonicTime renewed_at;  // when the call that was last answered with a renewal was sent
  int64_t items = 0;
  int64_t step = 0;
  StopReason stop = StopReason::kNone;
  bool dead = false;  // fenced itself; the agent says so as soon as it gets through
};

class Simulation {
 public:
  /// Two of the agents may share gangs, or all of them.
  explicit Simulation(uint32_t seed) : random_(seed), sharing_(seed % 2 == 0 ? kAgents : kAgents - 1) {}

  void Step() {
    switch (Draw(12)) {
      case 0: Submit(); break;
      case 1: UserAction(); break;
      case 2: RestartAgent(); break;
      case 3: if (Draw(3) == 0) Crash(); break;
      case 4: h_.clock().Advance(milliseconds(Draw(40'000))); h_.scheduler().Tick(h_.At()); break;
      case 5: CommitSomeJob(); break;
      case 6: h_.Commit(1 + Draw(2)); break;
      default: Sync(Draw(kAgents)); break;
    }
    h_.clock().Advance(milliseconds(Draw(2'000)));
    FenceThemselves();
    Check();
  }

  /// Lets everything that can end do so.
  void Finish() {
    for (int round = 0; round < 4000 && !AllEnded(); ++round) {
      for (const std::string& name : jobs_) {
        if (h_.State(name) == JobState::kPaused) h_.scheduler().Resume(name, 0, h_.At(), nullptr).status().IgnoreError("");
      }
      for (int agent = 0; agent < kAgents; ++agent) Sync(agent);
      CommitSomeJob();
      h_.Pass(milliseconds(3'000));
      FenceThemselves();
      Check();
    }
    for (const std::string& name : jobs_) {
      EXPECT_TRUE(core::IsTerminal(h_.Stored(name).state)) << name << " hangs in " << core::JobStateName(h_.State(name));
    }
  }

  /// Jobs that a gang over several workers has finished.
  int shared_commits() const { return shared_commits_; }

 private:
  static constexpr int kAgents = 3;
  using Agent = std::map<std::string, Gang>;

  int Draw(int below) { return std::uniform_int_distribution<int>(0, below - 1)(random_); }
  std::string Name(int agent) const { return fmt::format("w{}", agent); }

  bool AllEnded() {
    for (const std::string& name : jobs_) {
      if (!core::IsTerminal(h_.State(name))) return false;
    }
    return true;
  }

  void Submit() {
    if (jobs_.size() >= 12) return;
    jobs_.push_back(h_.Submit(fmt::format("j{}", jobs_.size()), 1 + Draw(2 * sharing_), Draw(3)));
  }

  void UserAction() {
    if (jobs_.empty()) return;
    const std::string& name = jobs_[static_cast<size_t>(Draw(static_cast<int>(jobs_.size())))];
    const int what = Draw(8);
    if (what < 3) h_.scheduler().Pause(name, 0, h_.At(), nullptr).status().IgnoreError("any state");
    if (what >= 3 && what < 7) h_.scheduler().Resume(name, 0, h_.At(), nullptr).status().IgnoreError("any state");
    if (what == 7) h_.scheduler().Cancel(name, 0, h_.At(), nullptr).status().IgnoreError("any state");
  }

  void RestartAgent() {
    if (Draw(4) != 0) return;
    const int agent = Draw(kAgents);
    gangs_[agent].clear();  // parent death takes the gangs along
    ++instance_[agent];
    acknowledged_[agent] = 0;
  }

  void Crash() {
    h_.Restart();
    for (const auto& [name, uid] : committed_) EXPECT_EQ(h_.Stored(name).committed_lease, uid);
  }

  void Sync(int agent) {
    const MonotonicTime sent = h_.clock().Now();
    SyncRequest request = h_.Report(Name(agent), 2);
    request.instance_uuid = fmt::format("{}-{}", Name(agent), instance_[agent]);
    request.acknowledged_sequence = acknowledged_[agent];
    request.draining = Draw(20) == 0;
    if (agent < sharing_) request.gang_address = Name(agent) + ".cluster";
    std::set<std::string> ended;
    for (auto& [uid, gang] : gangs_[agent]) {
      const bool runs = gang.met && Draw(3) != 0;
      AttemptReport report = Harness::Attempt(gang.lease, runs ? AttemptPhase::kRunning : AttemptPhase::kPreparing);
      report.ready = gang.ready || Draw(2) == 0;
      if (report.ready && gang.world_size > 0 && gang.first_rank == 0) report.rendezvous = MeetingOf(gang.job, gang.lease.epoch);
      if (Draw(3) == 0) report.items.push_back(Harness::Checkpoint(++gang.items, gang.step += 10));
      if (gang.dead || gang.stop != StopReason::kNone || Draw(25) == 0) {
        report.phase = AttemptPhase::kEnded;
        report.reason = gang.dead                           ? TerminationReason::kWorkerLost
                        : gang.stop == StopReason::kPause     ? TerminationReason::kPausedByUser
                        : gang.stop == StopReason::kPreempt ? TerminationReason::kPreempted
                        : runs && gang.first_rank > 0 && Draw(2) == 0 ? TerminationReason::kDone
                        : Draw(3) == 0                      ? TerminationReason::kNoSpace
                                                            : TerminationReason::kTrainerError;
        if (gang.stop == StopReason::kGangEnded) report.failure.reason = "GANG_ENDED";
        ended.insert(uid);
      }
      request.attempts.push_back(std::move(report));
    }
    if (Draw(10) == 0) return;  // the call is lost; items already counted are repeated never: only their absence matters
    if (!h_.scheduler().Synchronize(request, h_.At(), nullptr).ok()) return;
    for (const AttemptReport& report : request.attempts) {
      Gang& gang = gangs_[agent].at(report.lease.uid);
      gang.ready = gang.ready || report.ready;
    }
    for (const std::string& uid : ended) gangs_[agent].erase(uid);
    while (h_.Commit() > 0) {
    }
    h_.clock().Advance(milliseconds(Draw(1'500)));
    const SyncResponse answer = h_.Answer(request);
    if (Draw(8) == 0) return;  // the answer is lost
    acknowledged_[agent] = answer.sequence;
    for (const RenewDecision& renewed : answer.renewed) {
      const auto gang = gangs_[agent].find(renewed.lease.uid);
      if (gang == gangs_[agent].end()) continue;
      gang->second.renewed_at = sent;
      if (!renewed.rendezvous.empty()) Meet(gang->second, renewed.rendezvous);
    }
    for (const StopDecision& stop : answer.stop) {
      const auto gang = gangs_[agent].find(stop.lease.uid);
      if (gang == gangs_[agent].end()) continue;
      gang->second.stop = stop.reason;
      if (stop.reason == StopReason::kFenced) gangs_[agent].erase(gang);
    }
    for (const StartDecision& start : answer.start) {
      if (gangs_[agent].contains(start.lease.uid)) continue;
      EXPECT_GE(start.lease.epoch, newest_epoch_[start.resource]) << "an epoch came back: " << start.resource;
      newest_epoch_[start.resource] = start.lease.epoch;
      TakePart(start);
      auto stored = h_.store().GetWork(start.resource);
      ASSERT_TRUE(stored.ok());
      EXPECT_GE(stored->row.epoch, start.lease.epoch) << "a lease left before it was stored";
      gangs_[agent][start.lease.uid] = Gang{.lease = start.lease,
                                            .first_rank = start.first_rank,
                                            .world_size = start.world_size,
                                            .ready = false,
                                            .met = start.world_size == 0,
                                            .job = start.resource,
                                            .renewed_at = sent,
                                            .items = 0,
                                            .step = std::max<int64_t>(start.checkpoint_step, 0),
                                            .stop = StopReason::kNone,
                                            .dead = false};
    }
  }

  static std::string MeetingOf(const std::string& job, int64_t epoch) { return fmt::format("{} of {}", epoch, job); }

  /// A start that left: no rank of an epoch goes to two leases.
  void TakePart(const StartDecision& start) {
    const int ranks = h_.Row(start.resource).ranks;
    EXPECT_EQ(start.world_size == 0, static_cast<int>(start.slots.size()) == ranks);
    EXPECT_TRUE(start.world_size == 0 || start.world_size == ranks);
    for (size_t i = 0; i < start.slots.size(); ++i) {
      const int32_t rank = start.first_rank + static_cast<int32_t>(i);
      EXPECT_LT(rank, ranks);
      const auto [holder, fresh] = holders_[{start.resource, start.lease.epoch}].emplace(rank, start.lease.uid);
      EXPECT_TRUE(fresh) << "rank " << rank << " of " << start.resource << " was given to " << holder->second << " before";
    }
  }

  /// It is told where to meet: all the others have taken their parts up, and those that still are there are ready.
  void Meet(Gang& gang, const std::string& rendezvous) {
    gang.met = true;
    EXPECT_EQ(rendezvous, MeetingOf(gang.job, gang.lease.epoch));
    EXPECT_EQ(static_cast<int32_t>(holders_[{gang.job, gang.lease.epoch}].size()), gang.world_size);
    for (const auto& [agent, gangs] : gangs_) {
      for (const auto& [uid, other] : gangs) {
        EXPECT_TRUE(other.ready || other.job != gang.job || other.lease.epoch != gang.lease.epoch) << uid;
      }
    }
  }

  void FenceThemselves() {
    const MonotonicTime now = h_.clock().Now();
    for (auto& [agent, gangs] : gangs_) {
      for (auto& [uid, gang] : gangs) gang.dead = gang.dead || now - gang.renewed_at >= std::chrono::seconds(30);
    }
  }

  void CommitSomeJob() {
    for (auto& [agent, gangs] : gangs_) {
      for (auto& [uid, gang] : gangs) {
        if (gang.dead || !gang.met || Draw(3) != 0) continue;
        CommitRequest request;
        request.worker = Name(agent);
        request.instance_uuid = fmt::format("{}-{}", Name(agent), instance_[agent]);
        request.lease = gang.lease;
        request.result = uid;
        bool durable = false;
        const Status status =
            h_.scheduler().CommitAttempt(request, h_.At(), [&durable](const Status& s) { durable = s.ok(); });
        if (status.ok() && Draw(4) == 0) {  // a refusal leaves behind a barrier, as in Coordinator
          Crash();  // before or after the batch: the answer is lost, the agent asks again later
        } else {
          while (h_.Commit() > 0) {
          }
        }
        EXPECT_TRUE(gang.first_rank == 0 || !status.ok()) << "a part without rank 0 has committed";
        if (status.ok() && durable) {
          shared_commits_ += gang.world_size > 0 && !committed_.contains(gang.job) ? 1 : 0;
          EXPECT_TRUE(committed_.emplace(gang.job, uid).second || committed_[gang.job] == uid) << "two commits of one job";
          EXPECT_EQ(h_.Stored(gang.job).result, uid);
        }
        if (durable || (!status.ok() && gang.first_rank == 0)) gangs.erase(uid);
        return;
      }
    }
  }

  void Check() {
    std::map<std::string, const Gang*> running;
    for (const auto& [agent, gangs] : gangs_) {
      for (const auto& [uid, gang] : gangs) {
        if (gang.dead) continue;
        const auto [other, alone] = running.emplace(gang.job, &gang);
        EXPECT_TRUE(alone || gang.lease.epoch == other->second->lease.epoch)
            << "two gangs of " << gang.job << ": " << uid << " and " << other->second->lease.uid;
      }
    }
  }

  std::mt19937 random_;
  const int sharing_;  // so many agents take part in gangs over several
  Harness h_;
  std::vector<std::string> jobs_;
  std::map<int, Agent> gangs_;
  std::map<int, int> instance_;
  std::map<int, int64_t> acknowledged_;
  std::map<std::string, int64_t> newest_epoch_;
  /// rank -> lease, by job and epoch, of all that were ever given out
  std::map<std::pair<std::string, int64_t>, std::map<int32_t, std::string>> holders_;
  std::map<std::string, std::string> committed_;
  int shared_commits_ = 0;
};

TEST(RandomHistory, KeepsThePromises) {
  const char* const asked = std::getenv("SBORA_SIMULATION_SEEDS");  // more of them in scripts/check_all
  const uint32_t seeds = asked != nullptr ? static_cast<uint32_t>(std::strtoul(asked, nullptr, 10)) : 40;
  int shared_commits = 0;
  for (uint32_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Simulation simulation(seed);
    for (int step = 0; step < 250; ++step) simulation.Step();
    simulation.Finish();
    if (::testing::Test::HasFailure()) return;
    shared_commits += simulation.shared_commits();
  }
  EXPECT_GT(shared_commits, 0) << "no history had a gang over several workers that came to its end";
}

// The same short history, with the process killed after each number of committed transitions in turn.
TEST(RandomHistory, SurvivesACrashAtEveryCommitBoundary) {
  for (size_t boundary = 0;; ++boundary) {
    SCOPED_TRACE(fmt::format("crash after {} transitions", boundary));
    Harness h;
    const std::string name = h.Submit("a");
    size_t left = boundary;
    bool crashed = false;
    const auto commit = [&] {
      while (!crashed) {
        if (left == 0) {
          h.Restart();
          crashed = true;
          return;
        }
        if (h.Commit(1) == 0) return;
        --left;
      }
      while (h.Commit() > 0) {
      }
    };
    core::LeaseId lease;
    for (int round = 0; round < 20 && !core::IsTerminal(h.State(name)); ++round) {
      SyncRequest request = h.Report("w");
      request.acknowledged_sequence = round;
      if (!lease.uid.empty()) request.attempts = {Harness::Attempt(lease, AttemptPhase::kRunning)};
      ASSERT_TRUE(h.scheduler().Synchronize(request, h.At(), nullptr).ok());
      const bool crashed_before = crashed;
      commit();
      h.clock().Advance(std::chrono::seconds(1));
      if (crashed && !crashed_before) continue;  // the report died with the process: the agent reports again
      const SyncResponse answer = h.Answer(request);
      if (!answer.start.empty()) {
        EXPECT_EQ(h.Stored(name).epoch, answer.start[0].lease.epoch);
        lease = answer.start[0].lease;
      }
      if (h.State(name) == JobState::kRunning) {
        CommitRequest done;
        done.worker = "w";
        done.instance_uuid = "w-1";
        done.lease = lease;
        done.result = "r";
        h.scheduler().CommitAttempt(done, h.At(), nullptr).IgnoreError("repeated after the crash");
        commit();
      }
    }
    const WorkRow row = h.Stored(name);
    EXPECT_EQ(row.state, JobState::kSucceeded);
    EXPECT_EQ(row.result, "r");
    auto events = h.store().ListEvents(row.uid, 0, 100);
    ASSERT_TRUE(events.ok());
    for (size_t i = 0; i < events->size(); ++i) EXPECT_EQ((*events)[i].sequence, static_cast<int64_t>(i) + 1);
    if (!crashed) break;
  }
}

}  // namespace
}  // namespace sbora::server
