// Regions in the store: the precondition inside the transaction, and the ends of a reservation.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include "common/file.h"
#include "core/region.h"
#include "server/store/sqlite_store.h"

namespace sbora::server {
namespace {

using core::JobState;

constexpr const char* kBase = "base-hash";

class RegionsStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    store_.reset();
    auto store = OpenSqliteStore({.path = directory_.path() / "sbora.db", .readers = 2});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }
  Status Write(std::vector<Mutation> mutations) {
    const WriteSet set{.mutations = std::move(mutations), .may_fail = true};
    const WriteSet* const sets[] = {&set};
    auto result = store_->Commit(sets);
    return result.ok() ? result->front() : result.status();
  }
  static std::string Adapter(const std::string& id) { return "projects/default/adapters/" + id; }
  static WorkRow Row(const std::string& id) {
    WorkRow row;
    row.uid = "uid-" + id;
    row.project = "default";
    row.id = id;
    row.name = "projects/default/fineTuningJobs/" + id;
    row.version = 1;
    row.state = JobState::kQueued;
    return row;
  }
  static PutWork Insert(const std::string& id) {
    return {.row = Row(id), .payload = std::make_shared<WorkPayload>(), .uses = {}, .reserves = {Adapter(id)}};
  }
  static PutWork End(const std::string& id, JobState state) {
    WorkRow row = Row(id);
    row.version = 2;
    row.state = state;
    return {.row = row, .payload = nullptr, .uses = {}, .reserves = {}};
  }
  static PutRegions Regions(const std::string& id, std::vector<int32_t> indices, const std::string& base = kBase) {
    const core::RegionSet set = {{.base_hash = base,
                                  .module = "m",
                                  .shape = {8, 8},
                                  .axis = core::RegionAxis::kInput,
                                  .indices = std::move(indices)}};
    return {.row = {.name = Adapter(id),
                    .project = "default",
                    .base_hash = base,
                    .work_uid = "uid-" + id,
                    .regions = core::ToJson(set)},
            .avoid = {},
            .avoid_all = false,
            .seen = 0};
  }
  HeldRegions List(const std::string& base = kBase) {
    auto held = store_->ListRegions("default", base);
    EXPECT_TRUE(held.ok()) << held.status();
    return held.ok() ? *std::move(held) : HeldRegions{};
  }

  TempDirectory directory_ = *TempDirectory::Create(::testing::TempDir(), "regions");
  std::unique_ptr<Store> store_;
};

TEST_F(RegionsStoreTest, WhoAsksMustHaveSeenEverybodyItMeets) {
  ASSERT_TRUE(Write({Insert("a"), Regions("a", {0, 1})}).ok());
  const int64_t seen = List().sequence;
  ASSERT_TRUE(Write({Insert("b"), Regions("b", {2, 3})}).ok());

  PutRegions late = Regions("c", {3, 4});
  late.avoid_all = true;
  late.seen = seen;
  const Status moved = Write({Insert("c"), late});
  EXPECT_EQ(moved.code(), StatusCode::kAborted);
  EXPECT_EQ(moved.reason(), "REGIONS_MOVED");
  EXPECT_FALSE(store_->GetWork(Row("c").name).ok()) << "the job must not be there without its regions";
  EXPECT_EQ(List().rows.size(), 2u);

  late.avoid_all = false;
  late.avoid = {Adapter("a")};
  EXPECT_TRUE(Write({Insert("c"), late}).ok()) << "b was not asked about";
  PutRegions apart = Regions("d", {5, 6});
  apart.avoid_all = true;
  apart.seen = seen;
  EXPECT_TRUE(Write({Insert("d"), apart}).ok()) << "newer ones that it does not meet are no reason";
  PutRegions elsewhere = Regions("e", {0, 1}, "another-base");
  elsewhere.avoid_all = true;
  EXPECT_TRUE(Write({Insert("e"), elsewhere}).ok());
  EXPECT_EQ(List("another-base").rows.size(), 1u);
}

TEST_F(RegionsStoreTest, TheFirstOfTwoInOneBatchWins) {
  PutRegions first = Regions("a", {1}), second = Regions("b", {1});
  first.avoid_all = second.avoid_all = true;
  const WriteSet sets[] = {{.mutations = {Insert("a"), first}, .may_fail = true},
                           {.mutations = {Insert("b"), second}, .may_fail = true}};
  const WriteSet* const batch[] = {&sets[0], &sets[1]};
  const auto results = store_->Commit(batch);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_TRUE((*results)[0].ok());
  EXPECT_EQ((*results)[1].reason(), "REGIONS_MOVED");
}

TEST_F(RegionsStoreTest, AReservationEndsWithTheJobsFailureOrTheAdapter) {
  for (const char* id : {"failed", "cancelled", "done"}) ASSERT_TRUE(Write({Insert(id), Regions(id, {1})}).ok());
  ASSERT_TRUE(Write({End("failed", JobState::kFailed)}).ok());
  ASSERT_TRUE(Write({End("cancelled", JobState::kCancelled)}).ok());
  const ResourceRow adapter{.kind = ResourceKind::kAdapter,
                            .uid = "adapter",
                            .project = "default",
                            .id = "done",
                            .name = Adapter("done"),
                            .version = 1,
                            .create_ms = 1,
                            .payload = ""};
  ASSERT_TRUE(Write({InsertResource{adapter, "uid-done"}, End("done", JobState::kSucceeded)}).ok());
  Open();
  ASSERT_EQ(List().rows.size(), 1u);
  EXPECT_EQ(List().rows[0].name, Adapter("done"));
  const int64_t sequence = List().sequence;
  ASSERT_TRUE(Write({DeleteWork{.uid = "uid-done"}}).ok());
  EXPECT_TRUE(store_->FindRegions(Adapter("done"))->has_value());
  ASSERT_TRUE(Write({DeleteResource{.name = Adapter("done")}}).ok());
  EXPECT_FALSE(store_->FindRegions(Adapter("done"))->has_value());
  EXPECT_EQ(List().sequence, sequence) << "a sequence that was given out is never given again";
}

TEST_F(RegionsStoreTest, WhatWasMadeBeforeRegionsWereRecordedIsNamed) {
  EXPECT_EQ(List().unrecorded, "");
  ASSERT_TRUE(Write({Insert("old")}).ok());
  EXPECT_EQ(List().unrecorded, Row("old").name);
  ASSERT_TRUE(Write({End("old", JobState::kFailed)}).ok());
  EXPECT_EQ(List().unrecorded, "");
  const ResourceRow adapter{.kind = ResourceKind::kAdapter,
                            .uid = "adapter",
                            .project = "default",
                            .id = "older",
                            .name = Adapter("older"),
                            .version = 1,
                            .create_ms = 1,
                            .payload = ""};
  ASSERT_TRUE(Write({InsertResource{adapter, ""}}).ok());
  EXPECT_EQ(List().unrecorded, Adapter("older"));
}

}  // namespace
}  // namespace sbora::server
