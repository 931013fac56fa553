#include "worker/trainer/checkpoint/checkpoint_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "common/file.h"
#include "core/manifest.h"

namespace sbora::trainer {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() : temp_(*TempDirectory::Create(fs::temp_directory_path(), "checkpoint-test")) {
    layout_.parameter_count = 6;
    layout_.factors = {{"b.sbora_B", {2, 2}, 0}, {"a.sbora_B", {1, 2}, 4}};
    layout_.indices = {{"b.sbora_index", {1, 3}}, {"a.sbora_index", {0, 7}}};
  }

  CheckpointStore Store(const std::string& run = "run") const {
    return {temp_.path(), layout_, {{"m", core::DType::kF32, {6}}, {"v", core::DType::kF32, {6}}}, run};
  }

  /// All values depend on the step.
  static std::vector<float> Values(int64_t step, float base) {
    std::vector<float> values;
    for (int i = 0; i < 6; ++i) values.push_back(base + 0.125f * static_cast<float>(i) + static_cast<float>(step));
    return values;
  }
  static TrainState State(int64_t step) {
    return {.step = step, .epoch = 0.1 * static_cast<double>(step), .trained_tokens = 100 * step, .seconds = 1.5,
            .last_loss = 1.0 / 3.0, .last_validation_loss = 0.1, .last_validation_step = step,
            .best_validation_loss = 0.1, .best_step = step,
            .place = {.ranks = 4, .threads = 2, .device = "cpu", .dtype = "float32", .form = "merged"}};
  }
  void Save(int64_t step) {
    auto store = Store();
    const auto parameters = Values(step, 0), m = Values(step, 10), v = Values(step, 20), best = Values(step, 30);
    const auto saved = store.Save(State(step), {.parameters = parameters,
                                                .optimizer = {std::as_bytes(std::span(m)), std::as_bytes(std::span(v))},
                                                .best = best});
    ASSERT_TRUE(saved.ok()) << saved.status();
  }
  /// Changes state.json, and the manifest with it.
  void EditState(int64_t step, const std::function<void(nlohmann::json&)>& edit) {
    auto json = nlohmann::json::parse(*ReadFile(Folder(step) / "state.json", 1 << 20));
    edit(json);
    ASSERT_TRUE(WriteFileAtomic(Folder(step) / "state.json", json.dump()).ok());
    fs::remove(Folder(step) / "manifest.json");
    const auto manifest = core::BuildManifest(Folder(step), {{"step", step}});
    ASSERT_TRUE(manifest.ok() && core::WriteManifest(Folder(step), *manifest).ok());
  }
  fs::path Folder(int64_t step) const { return temp_.path() / ("ckpt-" + std::to_string(step)); }
  std::set<std::string> Listing() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(temp_.path())) names.insert(entry.path().filename().string());
    return names;
  }

  TempDirectory temp_;
  AdapterLayout layout_;
};

std::string Slurp(const fs::path& path) { return *ReadFile(path, 1 << 20); }
void Spill(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

TEST_F(CheckpointTest, RoundTripIsExact) {
  Save(3);
  const auto found = Store().Verify(Folder(3));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->state, State(3));
  std::vector<float> parameters(6), m(6), v(6), best;
  const Status read = Store().Read(*found, {.parameters = parameters,
                                            .optimizer = {std::as_writable_bytes(std::span(m)), std::as_writable_bytes(std::span(v))},
                                            .best = &best});
  ASSERT_TRUE(read.ok()) << read;
  EXPECT_EQ(parameters, Values(3, 0));
  EXPECT_EQ(m, Values(3, 10));
  EXPECT_EQ(v, Values(3, 20));
  EXPECT_EQ(best, Values(3, 30));
}

TEST_F(CheckpointTest, MomentsOfAnotherShapeAreRefused) {
  Save(3);
  const CheckpointStore other(temp_.path(), layout_, {{"m", core::DType::kF32, {6}}, {"v", core::DType::kF32, {3, 2}}}, "run");
  EXPECT_EQ(other.Verify(Folder(3)).status().reason(), "CHECKPOINT_MOMENT_MISMATCH");
}

TEST_F(CheckpointTest, AFrozenTensorIsKeptWithTheAdapterAndMustBeTheJobs) {
  layout_.frozen = {{"a.lora_A.weight", {2, 2}, {0.5f, -1.25f, 1.0f / 3.0f, 0}}};
  Save(3);
  ASSERT_TRUE(Store().Verify(Folder(3)).ok());
  const auto file = core::SafetensorsFile::Open(Folder(3) / "adapter.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<float> stored(4);
  ASSERT_TRUE(core::ToFloat(core::DType::kF32, file->Tensor("a.lora_A.weight")->data, stored).ok());
  EXPECT_EQ(stored, layout_.frozen[0].values);
  layout_.frozen[0].values[3] = 1e-9f;
  const auto other = Store().Verify(Folder(3));
  EXPECT_EQ(other.status().reason(), "ADAPTER_TENSOR_MISMATCH");
  EXPECT_NE(other.status().message().find("a.lora_A.weight"), std::string::npos) << other.status();
}

TEST_F(CheckpointTest, KeepsTheNewestTwoAndNoTraceOfWriting) {
  for (const int64_t step : {1, 2, 3, 10}) Save(step);
  EXPECT_THAT(Listing(), testing::UnorderedElementsAre("ckpt-3", "ckpt-10"));
}

TEST_F(CheckpointTest, EmptyFolderMeansAFreshStart) {
  const auto report = Store().LoadNewest({});
  EXPECT_FALSE(report.checkpoint);
  EXPECT_TRUE(report.rejected.empty());
}

TEST_F(CheckpointTest, AlteredCheckpointIsNamedAndTheOneBeforeIsTaken) {
  struct Case {
    const char* title;
    std::function<void(const fs::path& newest, const fs::path& older)> alter;
  };
  const auto truncate = [](const char* file) {
    return [file](const fs::path& newest, const fs::path&) { fs::resize_file(newest / file, fs::file_size(newest / file) - 1); };
  };
  const auto flip = [](const char* file) {
    return [file](const fs::path& newest, const fs::path&) {
      std::string bytes = Slurp(newest / file);
      bytes[bytes.size() - 2] = static_cast<char>(bytes[bytes.size() - 2] ^ 0x10);
      Spill(newest / file, bytes);
    };
  };
  const auto swap = [](const char* file) {
    return [file](const fs::path& newest, const fs::path& older) { Spill(newest / file, Slurp(older / file)); };
  };
  const auto remove = [](const char* file) {
    return [file](const fs::path& newest, const fs::path&) { fs::remove(newest / file); };
  };
  const Case cases[] = {
      {"adapter truncated", truncate("adapter.safetensors")},
      {"optimizer truncated", truncate("optimizer.safetensors")},
      {"state truncated", truncate("state.json")},
      {"manifest truncated", [](const fs::path& newest, const fs::path&) { fs::resize_file(newest / "manifest.json", 20); }},
      {"manifest empty", [](const fs::path& newest, const fs::path&) { fs::resize_file(newest / "manifest.json", 0); }},
      {"adapter bit flip", flip("adapter.safetensors")},
      {"optimizer bit flip", flip("optimizer.safetensors")},
      {"state bit flip", flip("state.json")},
      {"adapter of another step", swap("adapter.safetensors")},
      {"optimizer of another step", swap("optimizer.safetensors")},
      {"state of another step", swap("state.json")},
      {"manifest of another step", swap("manifest.json")},
      {"manifest missing", remove("manifest.json")},
      {"optimizer missing", remove("optimizer.safetensors")},
      {"best adapter missing", remove("best_adapter.safetensors")},
  };
  for (const auto& [title, alter] : cases) {
    SCOPED_TRACE(title);
    fs::remove_all(Folder(4));
    fs::remove_all(Folder(8));
    Save(4);
    Save(8);
    alter(Folder(8), Folder(4));
    const auto report = Store().LoadNewest({});
    ASSERT_TRUE(report.checkpoint);
    EXPECT_EQ(report.checkpoint->state.step, 4);
    ASSERT_EQ(report.rejected.size(), 1u);
    EXPECT_EQ(report.rejected[0].folder, Folder(8));
    EXPECT_FALSE(report.rejected[0].why.message().empty());
  }
}

TEST_F(CheckpointTest, AManifestThatNamesTooLittleIsRefused) {
  Save(4);
  const std::string manifest = Slurp(Folder(4) / "manifest.json");
  fs::remove(Folder(4) / "optimizer.safetensors");
  std::string shorter = manifest;
  const size_t name = shorter.find("optimizer.safetensors");
  const size_t begin = shorter.rfind('{', name);
  size_t end = shorter.find('}', name) + 1;
  if (shorter[end] == ',') ++end;
  shorter.erase(begin, end - begin);
  Spill(Folder(4) / "manifest.json", shorter);
  EXPECT_EQ(Store().Verify(Folder(4)).status().reason(), "CHECKPOINT_INCOMPLETE");
}

TEST_F(CheckpointTest, AnotherRunIsRefused) {
  Save(4);
  EXPECT_EQ(Store("another").Verify(Folder(4)).status().reason(), "CHECKPOINT_OTHER_RUN");
}

TEST_F(CheckpointTest, OtherIndicesAreRefused) {
  Save(4);
  layout_.indices[0].values[1] = 2;
  EXPECT_EQ(Store().Verify(Folder(4)).status().reason(), "ADAPTER_TENSOR_MISMATCH");
}

TEST_F(CheckpointTest, ARejectedFolderOfTheSameStepIsReplaced) {
  Save(8);
  fs::resize_file(Folder(8) / "manifest.json", 0);
  Save(8);
  EXPECT_TRUE(Store().Verify(Folder(8)).ok());
  EXPECT_THAT(Listing(), testing::UnorderedElementsAre("ckpt-8"));
}

TEST_F(CheckpointTest, TheNewerOfLocalAndFetchedWins) {
  Save(4);
  const auto fetched = temp_.path() / "fetched";
  fs::rename(Folder(4), fetched);
  Save(2);
  EXPECT_EQ(Store().LoadNewest({fetched}).checkpoint->state.step, 4);
  Save(6);
  EXPECT_EQ(Store().LoadNewest({fetched}).checkpoint->state.step, 6);
}

TEST_F(CheckpointTest, OneThatDoesNotSayWhatComputedItIsStillGood) {
  Save(4);
  EditState(4, [](nlohmann::json& state) {
    EXPECT_EQ(state["threads"], 2);
    state["threads"] = -1;
  });
  EXPECT_EQ(Store().Verify(Folder(4)).status().reason(), "CHECKPOINT_STATE_MALFORMED");
  EditState(4, [](nlohmann::json& state) {
    state["threads"] = 2;
    state.erase("form");
  });
  const auto before_forms = Store().Verify(Folder(4));
  ASSERT_TRUE(before_forms.ok()) << before_forms.status();
  EXPECT_EQ(before_forms->state.place,
            (ComputePlace{.ranks = 4, .threads = 2, .device = "cpu", .dtype = "float32", .form = "plain"}));
  EditState(4, [](nlohmann::json& state) {
    EXPECT_EQ(state["ranks"], 4);
    state["ranks"] = 0;
  });
  EXPECT_EQ(Store().Verify(Folder(4)).status().reason(), "CHECKPOINT_STATE_MALFORMED");
  EditState(4, [](nlohmann::json& state) {
    for (const char* name : {"ranks", "threads", "device", "dtype"}) state.erase(name);
  });
  const auto loaded = Store().Verify(Folder(4));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->state.place, ComputePlace());
}

TEST_F(CheckpointTest, OneOfAnotherVersionIsNamedAndNotRead) {
  Save(4);
  Save(8);
  EditState(8, [](nlohmann::json& state) { state["version"] = 1000; });
  const auto report = Store().LoadNewest({});
  ASSERT_TRUE(report.checkpoint);
  EXPECT_EQ(report.checkpoint->state.step, 4);
  ASSERT_EQ(report.rejected.size(), 1u);
  const Status& why = report.rejected[0].why;
  EXPECT_EQ(why.code(), StatusCode::kUnimplemented);
  EXPECT_EQ(why.reason(), "CHECKPOINT_VERSION");
  EXPECT_THAT(why.message(), testing::HasSubstr((Folder(8) / "state.json").string() + ": version 1000 is not "));
}

TEST_F(CheckpointTest, AFolderLeftHalfWrittenIsNoCheckpoint) {
  Save(4);
  fs::create_directories(temp_.path() / ".writing-ckpt-9" / "ckpt-9");
  fs::create_directories(temp_.path() / "ckpt-x");
  const auto report = Store().LoadNewest({});
  EXPECT_EQ(report.checkpoint->state.step, 4);
  EXPECT_TRUE(report.rejected.empty());
}

}  // namespace
}  // namespace sbora::trainer
