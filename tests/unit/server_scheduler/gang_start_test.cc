// Gangs over several workers: where they go, and how their ranks come to meet.
#include <gmock/gmock.h>

#include "tests/unit/server_scheduler/gang_fixture.h"

namespace sbora::server {
namespace {

using core::JobState;
using core::TerminationReason;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(GangTest, GoesOverTwoWorkersWhenNoneHasTheSlots) {
  Join("a", 2);
  Join("b", 2);
  const std::string work = Spread("gang", 3, {"a", "b"});
  const StartDecision& first = Started("a", work);
  const StartDecision& second = Started("b", work);
  EXPECT_THAT(first.slots, ElementsAre("s0", "s1"));
  EXPECT_THAT(second.slots, ElementsAre("s0"));
  EXPECT_EQ(first.world_size, 3);
  EXPECT_EQ(second.world_size, 3);
  EXPECT_NE(first.lease.uid, second.lease.uid);
  EXPECT_EQ(first.lease.epoch, second.lease.epoch);
  EXPECT_EQ(second.attempt, 1);
  EXPECT_EQ(h_.Row(work).attempt, 1);
  EXPECT_EQ(h_.Row(work).worker, "a") << "the part with rank 0 speaks for the gang";
  EXPECT_THAT(EventsOf(work, "STATE_CHANGED"), ::testing::Contains(HasSubstr("QUEUED -> STARTING: attempt 1 on workers a, b")));
  const SchedulerSnapshot snapshot = h_.scheduler().Snapshot(h_.At());
  EXPECT_EQ(snapshot.leases, 2);
  EXPECT_EQ(snapshot.slots_used, 3);
  EXPECT_EQ(snapshot.granted_total, 1) << "one attempt";
  for (const WorkerView& view : h_.scheduler().ListWorkers()) EXPECT_THAT(view.leases, ElementsAre(work));
}

TEST_F(GangTest, TakesTheRoomiestWorkersFirstSoThatThePartsAreFew) {
  Join("a", 2);
  Join("b", 4);
  Join("c", 3);
  Join("d", 3);
  const std::string six = Spread("six", 6, {"b", "c"});
  EXPECT_EQ(Started("c", six).slots.size(), 2u);
  const std::string five = Spread("five", 5, {"d", "a"});
  EXPECT_EQ(Leases(), 4);
}

TEST_F(GangTest, GoesOverThreeWorkers) {
  for (const char* name : {"a", "b", "c"}) Join(name, 2);
  const std::string work = Spread("gang", 6, {"a", "b", "c"});
  EXPECT_EQ(Started("c", work).first_rank, 4);
  EXPECT_EQ(Started("c", work).world_size, 6);
}

TEST_F(GangTest, StartsWithAllItsPartsOrNone) {
  Join("a", 2);
  Join("b", 2);
  const std::string small = h_.Submit("small");
  Call("a");
  const std::string gang = h_.Submit("gang", 4);
  CallAll();
  EXPECT_EQ(h_.State(gang), JobState::kQueued);
  EXPECT_EQ(Leases(), 1) << "half a gang holds slots";
  EndPart("a", small, TerminationReason::kNonFinite);
  Take(gang, {"a", "b"});
}

TEST_F(GangTest, IsNotStarvedBySmallJobsBehindIt) {
  Join("a", 2);
  Join("b", 2);
  Join("alone", 1, "");
  const std::string long_one = h_.Submit("long", 2);
  CallAll();
  const std::string gang = h_.Submit("gang", 4);
  const std::string small = h_.Submit("small");
  const std::string smaller = h_.Submit("smaller");
  CallAll();
  EXPECT_TRUE(agents_["alone"].started.contains(small)) << "what cannot serve the gang serves others";
  EXPECT_EQ(h_.State(smaller), JobState::kQueued) << "a job behind the gang took a slot that it waits for";
  const std::string first = agents_["a"].started.contains(long_one) ? "a" : "b";
  EndPart(first, long_one, TerminationReason::kNonFinite);
  CallAll();
  EXPECT_EQ(h_.State(gang), JobState::kStarting);
  EXPECT_EQ(h_.State(smaller), JobState::kQueued);
}

TEST_F(GangTest, WaitsForOneWorkerThatHasTheSlots) {
  Join("big", 4);
  Join("a", 2);
  Join("b", 2);
  const std::string busy = h_.Submit("busy", 3);
  Call("big");
  const std::string gang = h_.Submit("gang", 4);
  const std::string small = h_.Submit("small");
  CallAll();
  EXPECT_EQ(h_.State(gang), JobState::kQueued) << "a gang on one worker needs no network";
  EXPECT_TRUE(agents_["a"].started.contains(small) || agents_["b"].started.contains(small));
  EndPart("big", busy, TerminationReason::kNonFinite);
  Take(gang, {"big"});
  EXPECT_EQ(Started("big", gang).slots.size(), 4u);
  EXPECT_EQ(Started("big", gang).first_rank, 0);
  EXPECT_EQ(Started("big", gang).world_size, 0) << "a gang on one worker is told nothing of parts";
}

TEST_F(GangTest, WorkersWithoutAnAddressTakeNoPart) {
  Join("a", 2);
  Join("b", 2, "");
  const std::string gang = h_.Submit("gang", 3);
  const std::string small = h_.Submit("small", 2);
  CallAll();
  EXPECT_EQ(h_.State(gang), JobState::kQueued);
  EXPECT_NE(h_.State(small), JobState::kQueued) << "work that nobody can take holds up nobody";
  EXPECT_EQ(Leases(), 1);
  EndPart(agents_["a"].holds.empty() ? "b" : "a", small, TerminationReason::kNonFinite);
  EXPECT_EQ(h_.State(gang), JobState::kQueued);
  agents_["b"].address = "b.cluster";
  Call("b");
  EXPECT_EQ(h_.State(gang), JobState::kStarting);
}

TEST_F(GangTest, IsNotMadeOfSlotsOfTwoKinds) {
  Join("a", 2);
  SyncRequest gpus = h_.Report("g", 1);
  gpus.gang_address = "g.cluster";
  gpus.slots.push_back({.id = "gpu0", .device = DeviceKind::kCuda});
  h_.Sync(gpus);
  const std::string three = h_.Submit("three", 3);
  EXPECT_EQ(h_.State(three), JobState::kStarting) << "two CPU slots and one more";
  const std::string four = h_.Submit("four", 4);
  EXPECT_EQ(h_.State(four), JobState::kQueued);
}

TEST_F(GangTest, WhatNoWorkersTogetherCouldTakeIsTold) {
  Join("a", 2);
  Join("b", 2);
  Join("c", 3, "");
  const std::string five = h_.Submit("five", 5);
  const std::string four = h_.Submit("four", 4);
  for (int i = 0; i < 4; ++i) {
    h_.Pass(seconds(4));
    CallAll();
  }
  EXPECT_THAT(EventsOf(five, "NO_WORKER"),
              ElementsAre(HasSubstr("waits for a worker with 5 CPU or CUDA slot(s); 3 ready worker(s) are connected, the largest "
                                    "with 3 CPU and 0 CUDA slots; 2 of them may share a gang (--gang-address), with 4 CPU and "
                                    "0 CUDA slots together")));
  EXPECT_THAT(EventsOf(four, "NO_WORKER"), IsEmpty());
}

TEST_F(GangTest, IsToldWhereToMeetOnceAllAreReady) {
  for (const char* name : {"a", "b", "c"}) Join(name, 1);
  const std::string work = Spread("gang", 3, {"a", "b", "c"});
  Ready("a", work, "a.cluster:4711");
  Ready("b", work);
  EXPECT_EQ(Told("a") + Told("b") + Told("c"), "");
  const SyncRequest held = ReportOf("b");
  EXPECT_FALSE(h_.scheduler().Answer(held, /*force=*/false, h_.At())->has_value()) << "no news yet";
  Ready("c", work);
  EXPECT_EQ(Told("c"), "a.cluster:4711");
  const auto news = h_.scheduler().Answer(held, /*force=*/false, h_.At());
  ASSERT_TRUE(news->has_value()) << "a waiting call learns of it at once";
  ASSERT_EQ((*news)->renewed.size(), 1u);
  EXPECT_EQ((*news)->renewed[0].rendezvous, "a.cluster:4711");
  EXPECT_FALSE(h_.scheduler().Answer(held, /*force=*/false, h_.At())->has_value()) << "it is news once";
  for (const char* name : {"a", "b"}) {
    Call(name);
    EXPECT_EQ(Told(name), "a.cluster:4711") << name;
  }
}

TEST_F(GangTest, IsNotToldWhereToMeetBeforeRankZeroHasSaidSo) {
  Join("a", 1);
  Join("b", 1);
  const std::string work = Spread("gang", 2, {"a", "b"});
  Ready("b", work);
  Ready("a", work);
  EXPECT_EQ(Told("a"), "");
  Ready("a", work, "a.cluster:4711");
  EXPECT_EQ(Told("a"), "a.cluster:4711");
  // Another address than before is news again.
  Ready("a", work, "a.cluster:4712");
  Call("b");
  EXPECT_EQ(Told("b"), "a.cluster:4712");
}

TEST_F(GangTest, OnOneWorkerIsToldNoAddress) {
  Join("a", 2);
  const std::string work = Spread("gang", 2, {"a"});
  Ready("a", work, "a.cluster:4711");
  EXPECT_EQ(Told("a"), "");
}

TEST_F(GangTest, MeetsAlsoAfterTheServerWasStartedAgain) {
  for (const char* name : {"a", "b", "c"}) Join(name, 1);
  const std::string work = Spread("gang", 3, {"a", "b", "c"});
  Ready("a", work, "a.cluster:4711");
  Ready("b", work);
  Ready("c", work);
  Call("a");
  Running("a", work);  // b has not been told yet
  h_.Restart();
  Call("b");
  EXPECT_EQ(Told("b"), "") << "whether the others are ready is not known any more";
  Call("c");
  Call("a");
  EXPECT_EQ(Told("a"), "a.cluster:4711") << "who runs was ready";
  Call("b");
  EXPECT_EQ(Told("b"), "a.cluster:4711");
  for (const char* name : {"b", "c"}) Running(name, work);
  EXPECT_EQ(h_.State(work), JobState::kRunning);
  ASSERT_TRUE(CommitBy("a", work).ok());
  EXPECT_EQ(h_.Stored(work).state, JobState::kSucceeded);
  EXPECT_EQ(h_.Stored(work).attempt, 1);
}

TEST_F(GangTest, ProgressMetricsAndCheckpointsAreRankZerosAndEventsEverybodys) {
  Join("a", 1);
  Join("b", 1);
  const std::string work = Spread("gang", 2, {"a", "b"});
  Ready("a", work, "a:4711");
  Ready("b", work);
  Running("b", work);
  EXPECT_EQ(h_.State(work), JobState::kStarting) << "the part with rank 0 has not started";
  Running("a", work);
  const auto items = [](const std::string& from, int64_t step) {
    return std::vector<ReportItem>{{.sequence = 1, .item = MetricItem{.step = step, .payload = from}},
                                   {.sequence = 2, .item = EventItem{.time_ms = 1, .level = 1, .type = "LOG", .message = from}},
                                   Harness::Checkpoint(3, step)};
  };
  Held("a", work).items = items("of a", 10);
  Held("a", work).progress = "progress of a";
  Held("b", work).items = items("of b", 20);
  Held("b", work).progress = "progress of b";
  Call("a");
  Call("b");
  EXPECT_EQ(agents_["b"].told.renewed[0].acknowledged_item, 3);
  EXPECT_EQ(h_.scheduler().Progress(h_.Row(work).uid), "progress of a");
  EXPECT_EQ(h_.Row(work).checkpoint_step, 10);
  const auto metrics = h_.store().ListMetrics(h_.Row(work).uid, -1, 10);
  ASSERT_EQ(metrics->size(), 1u);
  EXPECT_EQ(metrics->at(0).payload, "of a");
  EXPECT_THAT(EventsOf(work, "LOG"), ElementsAre("of a", "of b"));
}

}  // namespace
}  // namespace sbora::server
