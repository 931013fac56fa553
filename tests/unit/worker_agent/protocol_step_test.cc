#include "worker/agent/protocol_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/ids.h"

namespace sbora::agent {
namespace {

namespace wp = worker::v1;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

wp::Lease MakeLease(const std::vector<std::string>& slots, int64_t epoch = 1) {
  wp::Lease lease;
  lease.mutable_id()->set_uid(NewUuid7());
  lease.mutable_id()->set_epoch(epoch);
  for (const auto& slot : slots) lease.add_slots(slot);
  lease.mutable_task()->mutable_train();
  return lease;
}

HeldAttempt Held(const wp::Lease& lease, bool ended = false) {
  return {.lease_uid = lease.id().uid(), .epoch = lease.id().epoch(),
          .slots = {lease.slots().begin(), lease.slots().end()}, .reported_ended = ended};
}

class StepTest : public ::testing::Test {
 protected:
  ProtocolState state_{.slot_ids = {"cpu-0", "cpu-1"}, .finished = {}};
  wp::SynchronizeResponse answer_;
};

TEST_F(StepTest, StartsALeaseOnce) {
  const wp::Lease lease = MakeLease({"cpu-0"});
  *answer_.add_start() = lease;
  *answer_.add_start() = lease;
  EXPECT_THAT(Step(state_, {}, answer_).start, SizeIs(1));
  EXPECT_THAT(Step(state_, {Held(lease)}, answer_).start, IsEmpty());
}

TEST_F(StepTest, NeverStartsAFinishedLeaseAgain) {
  const wp::Lease lease = MakeLease({"cpu-0"});
  *answer_.add_start() = lease;
  state_.NoteFinished(lease.id().uid());
  EXPECT_THAT(Step(state_, {}, answer_).start, IsEmpty());
}

TEST_F(StepTest, WaitsForBusySlots) {
  const wp::Lease running = MakeLease({"cpu-0"});
  *answer_.add_start() = MakeLease({"cpu-0", "cpu-1"});
  const Decision busy = Step(state_, {Held(running)}, answer_);
  EXPECT_THAT(busy.start, IsEmpty());
  EXPECT_THAT(busy.refuse, IsEmpty());
  EXPECT_THAT(Step(state_, {Held(running, /*ended=*/true)}, answer_).start, SizeIs(1));
}

TEST_F(StepTest, TwoStartsNeverShareASlot) {
  *answer_.add_start() = MakeLease({"cpu-0"});
  *answer_.add_start() = MakeLease({"cpu-0"});
  EXPECT_THAT(Step(state_, {}, answer_).start, SizeIs(1));
}

TEST_F(StepTest, RefusesWhatCanNeverRun) {
  *answer_.add_start() = MakeLease({"gpu-7"});
  *answer_.add_start() = MakeLease({});
  wp::Lease unknown = MakeLease({"cpu-0"});
  unknown.clear_task();
  *answer_.add_start() = unknown;
  wp::Lease path = MakeLease({"cpu-0"});
  path.mutable_id()->set_uid("../../etc");
  *answer_.add_start() = path;
  wp::Lease outside = MakeLease({"cpu-0", "cpu-1"});
  outside.set_first_rank(2);
  outside.set_world_size(3);
  *answer_.add_start() = outside;
  const Decision decision = Step(state_, {}, answer_);
  EXPECT_THAT(decision.start, IsEmpty());
  ASSERT_THAT(decision.refuse, SizeIs(5));
  EXPECT_EQ(decision.refuse[0].why.reason(), "UNKNOWN_SLOT");
  EXPECT_EQ(decision.refuse[1].why.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(decision.refuse[1].why.reason(), "LEASE_WITHOUT_SLOTS");
  EXPECT_THAT(decision.refuse[1].why.message(), HasSubstr(answer_.start(1).id().uid()));
  EXPECT_EQ(decision.refuse[2].why.reason(), "UNKNOWN_TASK");
  EXPECT_EQ(decision.refuse[3].why.reason(), "BAD_LEASE");
  EXPECT_EQ(decision.refuse[4].why.reason(), "BAD_LEASE");
  EXPECT_THAT(decision.refuse[4].why.message(), HasSubstr("2 ranks from 2 on, of 3 in all"));
}

TEST_F(StepTest, APartOfAGangStartsAndIsToldWhereItMeets) {
  wp::Lease part = MakeLease({"cpu-0", "cpu-1"});
  part.set_first_rank(1);
  part.set_world_size(3);
  *answer_.add_start() = part;
  EXPECT_THAT(Step(state_, {}, answer_).start, SizeIs(1));
  auto* renewed = answer_.add_renewed();
  *renewed->mutable_id() = part.id();
  EXPECT_EQ(Step(state_, {Held(part)}, answer_).renew.at(0).rendezvous, "");
  renewed->set_rendezvous("10.0.0.1:4711");
  EXPECT_EQ(Step(state_, {Held(part)}, answer_).renew.at(0).rendezvous, "10.0.0.1:4711");
}

TEST_F(StepTest, DrainingTakesNothing) {
  *answer_.add_start() = MakeLease({"cpu-0"});
  state_.draining = true;
  EXPECT_THAT(Step(state_, {}, answer_).start, IsEmpty());
  state_.draining = false;
  answer_.set_drain(true);
  const Decision decision = Step(state_, {}, answer_);
  EXPECT_THAT(decision.start, IsEmpty());
  EXPECT_TRUE(decision.drain);
}

TEST_F(StepTest, RenewsOnlyTheSameEpoch) {
  const wp::Lease lease = MakeLease({"cpu-0"}, 7);
  auto* renewed = answer_.add_renewed();
  *renewed->mutable_id() = lease.id();
  renewed->set_acknowledged_item(12);
  Decision decision = Step(state_, {Held(lease)}, answer_);
  ASSERT_THAT(decision.renew, SizeIs(1));
  EXPECT_EQ(decision.renew[0].acknowledged_item, 12);
  renewed->mutable_id()->set_epoch(6);
  EXPECT_THAT(Step(state_, {Held(lease)}, answer_).renew, IsEmpty());
}

TEST_F(StepTest, ForgetsAnEndThatWasTakenIn) {
  const wp::Lease lease = MakeLease({"cpu-0"});
  EXPECT_THAT(Step(state_, {Held(lease, true)}, answer_).forget, SizeIs(1));
  EXPECT_THAT(Step(state_, {Held(lease, false)}, answer_).forget, IsEmpty());
  *answer_.add_renewed()->mutable_id() = lease.id();
  EXPECT_THAT(Step(state_, {Held(lease, true)}, answer_).forget, IsEmpty());
}

TEST_F(StepTest, StopsOnlyWhatIsHeld) {
  const wp::Lease lease = MakeLease({"cpu-0"});
  auto* stop = answer_.add_stop();
  *stop->mutable_id() = lease.id();
  stop->set_reason(wp::StopLease::REASON_PAUSE);
  EXPECT_THAT(Step(state_, {}, answer_).stop, IsEmpty());
  const Decision decision = Step(state_, {Held(lease)}, answer_);
  ASSERT_THAT(decision.stop, SizeIs(1));
  EXPECT_EQ(decision.stop[0].order, StopOrder::kPause);
}

TEST_F(StepTest, SequenceNeverFalls) {
  answer_.set_sequence(5);
  Step(state_, {}, answer_);
  answer_.set_sequence(3);
  Step(state_, {}, answer_);
  EXPECT_EQ(state_.acknowledged_sequence, 5);
}

TEST(TimingTest, DefaultsForMissingAndSillyValues) {
  wp::LeaseTiming timing;
  timing.set_self_fence_seconds(-1);
  timing.set_hang_seconds(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(TimingOf(timing).self_fence, std::chrono::seconds(30));
  EXPECT_EQ(TimingOf(timing).hang, std::chrono::seconds(120));
}

TEST(OrderTest, StrongerOrdersWin) {
  GangControl control(MonotonicTime{});
  control.Stop(StopOrder::kCancel);
  control.Stop(StopOrder::kPause);
  EXPECT_EQ(control.order(), StopOrder::kCancel);
}

TEST(OrderTest, TheEndOfAnotherPartKillsAndKeepsCheckpoints) {
  const StopOrder order = OrderOf(wp::StopLease::REASON_GANG_ENDED);
  EXPECT_EQ(order, StopOrder::kGangEnded);
  EXPECT_FALSE(AsksForCheckpoint(order));
  EXPECT_TRUE(KeepsCheckpoints(order));
  EXPECT_FALSE(KeepsCheckpoints(StopOrder::kCancel));
}

TEST(OrderTest, RenewalsNeverGoBack) {
  GangControl control(MonotonicTime(std::chrono::seconds(9)));
  control.Renew(MonotonicTime(std::chrono::seconds(5)));
  EXPECT_EQ(control.renewed(), MonotonicTime(std::chrono::seconds(9)));
}

TEST(HangLimitTest, TenTimesTheMedianStep) {
  EXPECT_EQ(HangLimit(std::chrono::seconds(120), {}), std::chrono::seconds(120));
  EXPECT_EQ(HangLimit(std::chrono::seconds(120), {1, 2, 3}), std::chrono::seconds(120));
  EXPECT_EQ(HangLimit(std::chrono::seconds(120), {90, 20, 1}), std::chrono::seconds(200));
}

}  // namespace
}  // namespace sbora::agent
