/// A tiny model, its data and train tasks for the real sbora-trainer.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <string>
#include <utility>

#include "common/file.h"
#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/r_index.h"
#include "tests/integration/trainer/trainer_process.h"
#include "tests/testing/tiny_model.h"

namespace sbora::testing {

namespace fs = std::filesystem;
using trainer::v1::TaskAssignment;
using trainer::v1::TrainerMessage;

inline constexpr int kSamples = 22;
inline constexpr int kRank = 4;

inline std::string Slurp(const fs::path& path) { return *ReadFile(path, 64 << 20); }

class TrainerProcessTest : public ::testing::Test {
 protected:
  TrainerProcessTest() : temp_(*TempDirectory::Create(fs::temp_directory_path(), "trainer-test")) {
    EXPECT_TRUE(WriteTinyModel(Path("model")).ok());
    EXPECT_TRUE(WriteTinyDataset(Path("dataset") / "data.jsonl", kSamples).ok());
    base_hash_ = core::ModelFolder::Open(Path("model"))->ComputeBaseHash();
  }

  fs::path Path(const std::string& name) const { return temp_.path() / name; }
  fs::path Log() const { return Path("trainer.log"); }
  /// Step of the newest checkpoint: a run goes on for a moment before a kill takes it, and may make one more.
  int64_t NewestCheckpoint(const std::string& work) const {
    int64_t newest = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(Path(work) / "checkpoints")) {
      const std::string name = entry.path().filename();
      if (name.starts_with("ckpt-")) newest = std::max<int64_t>(newest, std::stoll(name.substr(5)));
    }
    return newest;
  }

  TaskAssignment Assignment(const std::string& work) const {
    TaskAssignment task;
    (*task.mutable_directories())["model"] = Path("model").string();
    (*task.mutable_directories())["dataset"] = Path("dataset").string();
    task.set_output_directory((Path(work) / "output").string());
    task.set_checkpoint_directory((Path(work) / "checkpoints").string());
    task.set_world_size(1);
    task.set_device("cpu");
    task.set_threads(1);
    task.set_self_fence_seconds(120);
    task.set_attempt(2);
    task.set_epoch(5);
    task.set_job("projects/default/fineTuningJobs/test");
    return task;
  }

  /// 22 samples less 4 held out in batches of 5: the fourth step of each epoch has 3. Dropout on.
  TaskAssignment TrainAssignment(const std::string& work, int64_t steps = 10) const {
    TaskAssignment task = Assignment(work);
    for (const char* cache : {"token_cache", "validation_cache"}) {
      fs::create_directories(Path(cache));
      (*task.mutable_directories())[cache] = Path(cache).string();
    }
    auto& train = *task.mutable_task()->mutable_train();
    auto& spec = *train.mutable_spec();
    spec.set_model("tiny");
    spec.set_dataset("sums");
    spec.mutable_adapter()->set_rank(kRank);
    spec.mutable_adapter()->set_dropout(0.1);
    spec.mutable_adapter()->add_target_modules("q");
    spec.mutable_adapter()->add_target_modules("down");
    spec.mutable_data()->set_validation_samples(4);
    spec.mutable_training()->set_max_steps(steps);
    spec.mutable_training()->set_batch_size(5);
    spec.mutable_training()->set_micro_batch_size(2);
    spec.mutable_training()->set_learning_rate(0.01);
    spec.mutable_validation()->set_validate_every_steps(3);
    spec.mutable_validation()->set_keep_best(true);
    spec.mutable_checkpoint()->set_checkpoint_every_steps(2);
    spec.mutable_checkpoint()->set_checkpoint_every_seconds(0);
    train.set_base_hash(base_hash_);
    const auto config = TinyModelConfig();
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (const auto module : {core::LinearModule::kQ, core::LinearModule::kDown}) {
        const std::string path = core::ModulePath(layer, module);
        const auto drawn = core::DrawIndices(42, path, core::LinearModuleShape(config, module).in_features, kRank);
        auto* indices = train.add_indices();
        indices->set_module(path);
        for (const int32_t index : *drawn) indices->add_indices(index);
      }
    }
    return task;
  }

  /// The same task with SBoRA-FB, whose indices are output rows.
  static void UseFb(TaskAssignment& task) {
    auto& train = *task.mutable_task()->mutable_train();
    train.mutable_spec()->mutable_adapter()->set_method(sbora::v1::METHOD_SBORA_FB);
    train.clear_indices();
    const auto config = TinyModelConfig();
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (const auto module : {core::LinearModule::kQ, core::LinearModule::kDown}) {
        const std::string path = core::ModulePath(layer, module);
        auto* indices = train.add_indices();
        indices->set_module(path);
        const auto drawn = core::DrawIndices(42, path, core::LinearModuleShape(config, module).out_features, kRank);
        for (const int32_t index : *drawn) indices->add_indices(index);
      }
    }
  }

  void Prepare() {
    TaskAssignment task = TrainAssignment("prepare");
    task.set_prepare_only(true);
    const TrainerRun run = RunTrainer(task, Log());
    ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
    ASSERT_NE(run.FindEvent("DATA_PREPARED"), nullptr);
    ASSERT_FALSE(fs::is_empty(Path("token_cache")));
    ASSERT_FALSE(fs::is_empty(Path("validation_cache")));
  }

  std::string AdapterBytes(const std::string& work) const {
    return Slurp(Path(work) / "output" / "adapter_model.safetensors");
  }

  /// A run of `task`, whose folder is `work`, that is killed at its checkpoint of step 4, and has it still. It goes on until
  /// the kill takes it: one that got too far is run again, for a machine may stand still longer than a tiny model trains.
  TrainerRun KillAtCheckpointFour(const std::string& work, const TaskAssignment& task) const {
    TrainerRun run;
    for (int tries = 0; tries < 10; ++tries) {
      fs::remove_all(Path(work));
      run = RunTrainer(task, Log(), [](TrainerProcess& process, const TrainerMessage& message) {
        if (message.has_checkpoint() && message.checkpoint().step() == 4) process.Signal(SIGKILL);
      });
      if (run.exit_code != 0 && fs::exists(Path(work) / "checkpoints" / "ckpt-4")) break;
    }
    return run;
  }

  /// The adapter of a run that nothing disturbed.
  void TrainUndisturbed() {
    ASSERT_NO_FATAL_FAILURE(Prepare());
    reference_ = RunTrainer(TrainAssignment("reference"), Log());
    ASSERT_EQ(reference_.exit_code, 0) << Slurp(Log());
  }

  TempDirectory temp_;
  std::string base_hash_;
  TrainerRun reference_;
};

}  // namespace sbora::testing
