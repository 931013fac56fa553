/// The real sbora-worker with the scripted trainer, a coordinator in memory, and a data folder.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"
#include "tests/integration/agent/fake_coordinator.h"
#include "tests/integration/agent/worker_process.h"

namespace sbora::agent {

namespace fs = std::filesystem;
using LeaseView = FakeCoordinator::LeaseView;

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempDirectory::Create(fs::temp_directory_path(), "sbora-agent-test");
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_ = std::make_unique<TempDirectory>(*std::move(folder));
  }

  std::unique_ptr<WorkerProcess> StartWorker(std::vector<std::string> more = {}) {
    std::vector<std::string> flags = {"--server", coordinator_.address(), "--name", "worker", "--data-dir",
                                      data_dir().string(), "--cpu-slots", "2", "--trainer", SBORA_STUB_TRAINER,
                                      "--drain-seconds", "60"};
    flags.insert(flags.end(), more.begin(), more.end());
    return std::make_unique<WorkerProcess>(flags, log());
  }

  fs::path data_dir() const { return folder_->path() / "data"; }
  fs::path log() const { return folder_->path() / "log"; }
  std::string LogText() const {
    std::ifstream in(log());
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  /// Lets the ranks of an attempt on past their "wait_at".
  void LetGo(const std::string& uid) { std::ofstream(data_dir() / "attempts" / uid / "go").put('\n'); }
  bool WaitForEnd(const std::string& uid) {
    return coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.ended.has_value(); });
  }
  bool WaitForStep(const std::string& uid, int64_t step) {
    return coordinator_.WaitFor(uid, [&](const LeaseView& view) {
      return std::any_of(view.items.begin(), view.items.end(), [&](const auto& item) {
        return item.second.has_metric() && item.second.metric().step() >= step;
      });
    });
  }
  std::vector<int64_t> CheckpointSteps(const LeaseView& view) {
    std::vector<int64_t> steps;
    for (const auto& [sequence, item] : view.items) {
      if (item.has_checkpoint()) steps.push_back(item.checkpoint().step());
    }
    return steps;
  }
  /// The largest file of the cache.
  fs::path CachedWeights() {
    fs::path largest;
    for (const auto& item : fs::directory_iterator(data_dir() / "cache" / "files")) {
      if (largest.empty() || item.file_size() > fs::file_size(largest)) largest = item.path();
    }
    return largest;
  }
  /// Another byte in the same place, as a disk that rots: size and times stay.
  static void Rot(const fs::path& path) {
    const auto modified = fs::last_write_time(path);
    fs::permissions(path, fs::perms::owner_write, fs::perm_options::add);
    std::fstream(path, std::ios::in | std::ios::out | std::ios::binary).put('?');
    fs::last_write_time(path, modified);
  }
  /// Attempts end with their folders removed; the removal may be a moment behind the report of a fenced one.
  bool WaitForNoAttemptFolders() {
    return WaitUntil([&] { return fs::is_empty(data_dir() / "attempts"); });
  }

  FakeCoordinator coordinator_;
  std::unique_ptr<TempDirectory> folder_;
};

}  // namespace sbora::agent
