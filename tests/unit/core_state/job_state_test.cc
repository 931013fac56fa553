#include "core/job_state.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

namespace sbora::core {
namespace {

// One row for each state, one letter for each event in the order of AllJobEvents: the state it leads to, '.' for none.
// V validating, Q queued, S starting, R running, p pausing, P paused, r recovering, c cancelling, D succeeded, F, X.
const std::map<JobState, std::string> kExpected = {
    // validated refused granted started committed ended held retry givenup pause resume cancel timeout
    {JobState::kValidating, "QF.........XF"}, {JobState::kQueued, "..S......P.XF"},
    {JobState::kStarting, "...RDrP.Fp.cF"},   {JobState::kRunning, "....DrP.Fp.cF"},
    {JobState::kPausing, "....DPP.F..cF"},    {JobState::kPaused, "..........QX."},
    {JobState::kRecovering, ".......Q.P.XF"}, {JobState::kCancelling, ".....X..X...."},
    {JobState::kSucceeded, "............."},  {JobState::kFailed, "............."},
    {JobState::kCancelled, "............."},
};

char Letter(std::optional<JobState> state) {
  if (!state) return '.';
  const std::string letters = "VQSRpPrcDFX";
  return letters.at(static_cast<size_t>(*state) - 1);
}

TEST(JobState, EveryPairOfStateAndEvent) {
  ASSERT_EQ(AllJobStates().size(), kExpected.size());
  for (const JobState state : AllJobStates()) {
    std::string got;
    for (const JobEvent event : AllJobEvents()) got += Letter(NextState(state, event));
    EXPECT_EQ(got, kExpected.at(state)) << JobStateName(state);
  }
}

TEST(JobState, TerminalStatesHaveNoWayOutAndOthersHaveOne) {
  for (const JobState state : AllJobStates()) {
    bool way_out = false;
    for (const JobEvent event : AllJobEvents()) way_out |= NextState(state, event).has_value();
    EXPECT_EQ(way_out, !IsTerminal(state)) << JobStateName(state);
  }
}

TEST(JobState, OnlyLeaseHoldersMayCommitAndCancellingMayNot) {
  for (const JobState state : AllJobStates()) {
    if (MayCommit(state)) {
      EXPECT_TRUE(MayHoldLease(state)) << JobStateName(state);
    }
  }
  EXPECT_TRUE(MayHoldLease(JobState::kCancelling));
  EXPECT_FALSE(MayCommit(JobState::kCancelling));
}

TEST(JobState, NamesAreUniqueAndParseBack) {
  std::set<std::string_view> names;
  for (const JobState state : AllJobStates()) {
    EXPECT_EQ(ParseJobState(JobStateName(state)), state);
    names.insert(JobStateName(state));
  }
  EXPECT_EQ(names.size(), AllJobStates().size());
  EXPECT_EQ(ParseJobState("running"), std::nullopt);
  std::set<std::string_view> events;
  for (const JobEvent event : AllJobEvents()) events.insert(JobEventName(event));
  EXPECT_EQ(events.size(), AllJobEvents().size());
}

TEST(JobState, LossOfAWorkerIsNotAnAttempt) {
  EXPECT_FALSE(CountsAsAttempt(TerminationReason::kWorkerLost));
  EXPECT_FALSE(CountsAsAttempt(TerminationReason::kPreempted));
  EXPECT_FALSE(CountsAsAttempt(TerminationReason::kPausedByUser));
  EXPECT_TRUE(CountsAsAttempt(TerminationReason::kHang));
  EXPECT_FALSE(IsWorthRetrying(TerminationReason::kNonFinite));
  EXPECT_TRUE(IsWorthRetrying(TerminationReason::kOomHost));
  EXPECT_TRUE(NeedsAPerson(TerminationReason::kNoSpace));
  EXPECT_FALSE(NeedsAPerson(TerminationReason::kOomHost));
}

}  // namespace
}  // namespace sbora::core
