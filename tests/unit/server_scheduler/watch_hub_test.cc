#include "server/scheduler/watch_hub.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <atomic>

#include "common/file.h"
#include "server/store/sqlite_store.h"

namespace sbora::server {
namespace {

class WatchHubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto directory = TempDirectory::Create(::testing::TempDir(), "watch");
    ASSERT_TRUE(directory.ok());
    directory_ = std::make_unique<TempDirectory>(std::move(*directory));
    auto store = OpenSqliteStore({.path = directory_->path() / "sbora.db", .readers = 1});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    WorkRow row;
    row.uid = "work";
    row.project = "default";
    row.id = "w";
    row.name = "projects/default/fineTuningJobs/w";
    row.version = 1;
    row_ = row;
    Write({PutWork{.row = row, .payload = std::make_shared<WorkPayload>(), .uses = {}, .reserves = {}}});
    hub_ = std::make_unique<WatchHub>(*store_);
  }

  void Write(std::vector<Mutation> mutations) {
    const WriteSet set{.mutations = std::move(mutations), .may_fail = false};
    const WriteSet* const sets[] = {&set};
    const auto result = store_->Commit(sets);
    ASSERT_TRUE(result.ok()) << result.status();
  }
  void Store(int64_t from, int64_t to) {
    std::vector<Mutation> mutations;
    for (int64_t i = from; i <= to; ++i) {
      if (i % 3 == 0) {
        mutations.push_back(PutMetric{{.work_uid = "work", .attempt = 1, .step = i, .sequence = i, .payload = "p"}});
      } else {
        mutations.push_back(AddEvent{{.work_uid = "work", .sequence = i, .time_ms = 0, .level = 1, .type = "LOG",
                                      .message = "m", .attempt = 1}});
      }
    }
    Write(std::move(mutations));
  }
  void Publish(int64_t from, int64_t to, bool last = false) {
    std::vector<WatchItem> items;
    for (int64_t i = from; i <= to; ++i) {
      WatchItem item;
      item.sequence = i;
      items.push_back(std::move(item));
    }
    hub_->Publish("work", std::move(items), last);
  }
  /// Takes what is there and checks that sequences go on without gap or repeat.
  int64_t Drain(Watcher& watcher, int64_t after) {
    while (true) {
      const auto item = watcher.Next();
      if (!item.ok() || !item->has_value()) return after;
      EXPECT_EQ((*item)->sequence, after + 1);
      after = (*item)->sequence;
    }
  }

  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<sbora::server::Store> store_;
  std::unique_ptr<WatchHub> hub_;
  WorkRow row_;
};

TEST_F(WatchHubTest, ReplayThenLiveWithoutGapOrRepeat) {
  Store(1, 300);
  std::atomic<int> woken = 0;
  auto watcher = hub_->Watch("work", 100, [&] { ++woken; });
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  EXPECT_EQ((*(*watcher)->Next())->sequence, 101);
  // Committed and published while the replay is under way: both ways lead to the watcher.
  Store(301, 320);
  Publish(301, 320);
  EXPECT_EQ(Drain(**watcher, 101), 320);
  Store(321, 330);
  Publish(321, 330);
  EXPECT_EQ(Drain(**watcher, 320), 330);
  EXPECT_EQ(woken, 2);
}

TEST_F(WatchHubTest, ProgressThatTheReplayHasPassedDoesNotGoBackwards) {
  Store(1, 10);
  auto watcher = hub_->Watch("work", 0, nullptr);
  ASSERT_TRUE(watcher.ok());
  WatchItem progress;
  progress.kind = WatchItem::Kind::kProgress;
  progress.sequence = 3;
  hub_->Publish("work", {progress}, false);
  EXPECT_EQ((*(*watcher)->Next())->sequence, 1);
  for (int64_t i = 2; i <= 10; ++i) EXPECT_EQ((*(*watcher)->Next())->sequence, i);
  const auto live = (*watcher)->Next();
  ASSERT_TRUE(live.ok() && live->has_value());
  EXPECT_EQ((*live)->kind, WatchItem::Kind::kProgress);
  EXPECT_EQ((*live)->sequence, 10);
}

TEST_F(WatchHubTest, AFloodDuringReplayIsReadFromTheStore) {
  Store(1, 10);
  auto watcher = hub_->Watch("work", 0, nullptr);
  ASSERT_TRUE(watcher.ok());
  Store(11, 1000);
  Publish(11, 1000);
  EXPECT_EQ(Drain(**watcher, 0), 1000);
}

TEST_F(WatchHubTest, ASlowWatcherIsCutOffAndTakesUpAgain) {
  auto watcher = hub_->Watch("work", 0, nullptr);
  ASSERT_TRUE(watcher.ok());
  EXPECT_EQ(Drain(**watcher, 0), 0);
  Store(1, 300);
  Publish(1, 256);
  Publish(257, 300);
  const auto cut = (*watcher)->Next();
  ASSERT_FALSE(cut.ok());
  EXPECT_EQ(cut.status().reason(), "WATCH_TOO_SLOW");
  auto again = hub_->Watch("work", 0, nullptr);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(Drain(**again, 0), 300);
}

TEST_F(WatchHubTest, EndsAfterTheLastItem) {
  auto watcher = hub_->Watch("work", 0, nullptr);
  ASSERT_TRUE(watcher.ok());
  Store(1, 2);
  Publish(1, 2, /*last=*/true);
  EXPECT_EQ(Drain(**watcher, 0), 2);
  EXPECT_EQ((*watcher)->Next().status().reason(), "WATCH_ENDED");
  row_.version = 2;
  row_.state = core::JobState::kFailed;
  Write({PutWork{.row = row_, .payload = nullptr, .uses = {}, .reserves = {}}});
  auto late = hub_->Watch("work", 1, nullptr);
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(Drain(**late, 1), 2);
  EXPECT_EQ((*late)->Next().status().reason(), "WATCH_ENDED");
  EXPECT_EQ(hub_->Watch("nobody", 0, nullptr).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(hub_->watchers(), 2u) << "a failed watch leaves nothing behind";
}

}  // namespace
}  // namespace sbora::server
