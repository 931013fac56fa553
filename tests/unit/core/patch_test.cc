#include "core/patch.h"

#include <gmock/gmock.h>

#include "core/adapter.h"
#include "core/model_folder.h"
#include "tests/unit/core/tiny_adapter.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::NewTempDirectory;
using testing::TinyConfig;
using testing::WriteTinyAdapter;
using testing::WriteTinyModel;

std::string FileText(const fs::path& path) {
  const auto text = ReadFile(path, 1 << 30);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

class PatchTest : public ::testing::Test {
 protected:
  void Make(AdapterMethod method, DType dtype, int64_t max_shard_bytes = 1 << 30) {
    WriteTinyModel(base_, TinyConfig(dtype), max_shard_bytes);
    WriteTinyAdapter(adapter_, base_, "task", {.method = method});
  }
  fs::path Dir(const std::string& name) const { return dir_.path() / name; }
  /// Overwrites a byte of the patch, counted from its end.
  void Damage(size_t from_end) {
    std::string text = FileText(Dir("patch") / kPatchFile);
    text[text.size() - from_end] = static_cast<char>(text[text.size() - from_end] ^ 0x40);
    ASSERT_TRUE(WriteFileAtomic(Dir("patch") / kPatchFile, text).ok());
  }

  TempDirectory dir_ = NewTempDirectory();
  fs::path base_ = dir_.path() / "base";
  fs::path adapter_ = dir_.path() / "adapter";
};

class PatchCycleTest : public PatchTest, public ::testing::WithParamInterface<std::tuple<AdapterMethod, DType>> {};

// What subtraction cannot do: after a hundred rounds the base is the base, to the last bit of its file.
TEST_P(PatchCycleTest, AHundredMergesAndUnmergesGiveTheBaseBack) {
  Make(std::get<0>(GetParam()), std::get<1>(GetParam()));
  ASSERT_TRUE(ExportPatch(base_, adapter_, Dir("patch")).ok());
  ASSERT_TRUE(MergeAdapter(base_, adapter_, Dir("merged")).ok());
  const std::string base = FileText(base_ / "model.safetensors");
  const std::string merged = FileText(Dir("merged") / "model.safetensors");
  ASSERT_NE(base, merged);
  fs::path now = base_;
  for (int cycle = 0; cycle < 100; ++cycle) {
    fs::remove_all(Dir("applied"));
    const auto applied = ApplyPatch(now, Dir("patch"), Dir("applied"));
    ASSERT_TRUE(applied.ok()) << applied.status() << " in cycle " << cycle;
    ASSERT_EQ(FileText(Dir("applied") / "model.safetensors"), merged) << cycle;
    fs::remove_all(Dir("restored"));
    const auto restored = ReversePatch(Dir("applied"), Dir("patch") / kPatchFile, Dir("restored"));
    ASSERT_TRUE(restored.ok()) << restored.status() << " in cycle " << cycle;
    ASSERT_EQ(FileText(Dir("restored") / "model.safetensors"), base) << cycle;
    now = Dir("restored");
  }
  EXPECT_EQ(FileText(now / "config.json"), FileText(base_ / "config.json"));
  EXPECT_EQ(FileText(now / "tokenizer.json"), FileText(base_ / "tokenizer.json"));
}

INSTANTIATE_TEST_SUITE_P(Cases, PatchCycleTest,
                         ::testing::Combine(::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb),
                                            ::testing::Values(DType::kF32, DType::kBF16)));

TEST_F(PatchTest, HoldsOnlyWhatChangesAndWhoseItIs) {
  Make(AdapterMethod::kSboraFa, DType::kBF16, 2000);
  const auto written = ExportPatch(base_, adapter_, Dir("patch"));
  ASSERT_TRUE(written.ok()) << written.status();
  const auto file = SafetensorsFile::Open(Dir("patch") / kPatchFile);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("base_hash"), ModelFolder::Open(base_)->ComputeBaseHash());
  EXPECT_EQ(file->metadata().at("axis"), "input");
  EXPECT_EQ(file->tensors().size(), 18u);  // 2 layers, 3 targets
  const auto now = file->Tensor("model.layers.0.self_attn.k_proj.patch_new");
  ASSERT_TRUE(now.ok()) << now.status();
  EXPECT_EQ(now->shape, (std::vector<int64_t>{8, 3}));
  EXPECT_EQ(now->dtype, DType::kBF16);
  int64_t values = 0;
  for (const TensorView& view : file->tensors()) values += view.name.ends_with("patch_new") ? view.elements() : 0;
  EXPECT_EQ(values, CountChangedWeights(TinyConfig(), AdapterMethod::kSboraFa, 3,
                                        {LinearModule::kQ, LinearModule::kK, LinearModule::kDown})
                        .changed);
  // Across shards, too, base plus patch is the merge.
  ASSERT_TRUE(MergeAdapter(base_, adapter_, Dir("merged")).ok());
  ASSERT_TRUE(ApplyPatch(base_, Dir("patch"), Dir("applied")).ok());
  const std::string merged_hash = ModelFolder::Open(Dir("merged"))->ComputeBaseHash();
  EXPECT_EQ(ModelFolder::Open(Dir("applied"))->ComputeBaseHash(), merged_hash);
  EXPECT_EQ(file->metadata().at("patched_hash"), merged_hash);
}

TEST_F(PatchTest, RefusesTheWrongModelInBothDirections) {
  Make(AdapterMethod::kSboraFb, DType::kF32);
  ASSERT_TRUE(ExportPatch(base_, adapter_, Dir("patch")).ok());
  ASSERT_TRUE(ApplyPatch(base_, Dir("patch"), Dir("applied")).ok());
  const auto twice = ApplyPatch(Dir("applied"), Dir("patch"), Dir("out"));
  EXPECT_EQ(twice.status().reason(), "BASE_HASH_MISMATCH");
  EXPECT_EQ(twice.status().code(), StatusCode::kFailedPrecondition);
  const auto early = ReversePatch(base_, Dir("patch"), Dir("out"));
  EXPECT_EQ(early.status().reason(), "PATCH_NOT_APPLIED");
  WriteTinyModel(Dir("half"), TinyConfig(DType::kBF16));
  EXPECT_EQ(ApplyPatch(Dir("half"), Dir("patch"), Dir("out")).status().reason(), "BASE_HASH_MISMATCH");
  // Another adapter merged in: base plus something else.
  WriteTinyAdapter(Dir("other"), base_, "other", {.method = AdapterMethod::kSboraFb});
  ASSERT_TRUE(MergeAdapter(base_, Dir("other"), Dir("other-merged")).ok());
  EXPECT_EQ(ReversePatch(Dir("other-merged"), Dir("patch"), Dir("out")).status().reason(), "PATCH_NOT_APPLIED");
  EXPECT_FALSE(fs::exists(Dir("out")));
  EXPECT_EQ(ExportPatch(Dir("applied"), adapter_, Dir("out")).status().reason(), "BASE_HASH_MISMATCH");
}

TEST_F(PatchTest, RefusesDamagedAndForeignFiles) {
  Make(AdapterMethod::kSboraFa, DType::kF32);
  EXPECT_EQ(ApplyPatch(base_, Dir("patch"), Dir("out")).status().reason(), "PATCH_FILE_MISSING");
  ASSERT_TRUE(ExportPatch(base_, adapter_, Dir("patch")).ok());
  EXPECT_EQ(ApplyPatch(base_, adapter_ / kAdapterModelFile, Dir("out")).status().reason(), "PATCH_MALFORMED");
  // The file ends with patch_new and patch_old of layer 1's q_proj, 16 x 3 floats each. A wrong old value gives no base
  // to go back to, a wrong new one not the promised result.
  ASSERT_TRUE(ApplyPatch(base_, Dir("patch"), Dir("applied")).ok());
  Damage(1);
  EXPECT_EQ(ReversePatch(Dir("applied"), Dir("patch"), Dir("out")).status().reason(), "PATCH_CORRUPT");
  Damage(1);
  Damage(16 * 3 * 4 + 1);
  const auto damaged = ApplyPatch(base_, Dir("patch"), Dir("out"));
  EXPECT_EQ(damaged.status().reason(), "PATCH_CORRUPT") << damaged.status();
  EXPECT_FALSE(fs::exists(Dir("out")));
}

TEST_F(PatchTest, MethodsThatChangeEverythingHaveNoPatch) {
  Make(AdapterMethod::kLora, DType::kF32);
  const auto refused = ExportPatch(base_, adapter_, Dir("patch"));
  EXPECT_EQ(refused.status().reason(), "EXPORT_METHOD");
  EXPECT_THAT(refused.status().message(), HasSubstr("merge the adapter instead"));
}

}  // namespace
}  // namespace sbora::core
