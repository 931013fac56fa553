#include "core/nf4_patch.h"

#include <gmock/gmock.h>

#include "core/patch.h"
#include "tests/unit/core/tiny_nf4.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using testing::NewTempDirectory;
using testing::OddNf4Config;

std::string FileText(const fs::path& path) {
  const auto text = ReadFile(path, 1 << 30);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

class Nf4PatchTest : public ::testing::Test {
 protected:
  void Make(AdapterMethod method, bool double_quantization, int64_t max_shard_bytes = 1 << 30) {
    nested_ = double_quantization;
    testing::WriteTinyModel(Dir("base"), OddNf4Config());
    testing::WriteTinyNf4(Dir("base"), Dir("nf4"), double_quantization, max_shard_bytes);
    Adapter("task", method);
  }
  void Adapter(const std::string& name, AdapterMethod method, const std::string& base_hash = "") {
    testing::WriteTinyNf4Adapter(Dir(name), Dir("base"), name, {.method = method}, nested_, base_hash);
  }
  fs::path Dir(const std::string& name) const { return dir_.path() / name; }
  /// Every file of both folders, byte for byte.
  void ExpectSame(const fs::path& first, const fs::path& second) {
    std::set<std::string> names;
    for (const auto& dir : {first, second}) {
      for (const auto& entry : fs::directory_iterator(dir)) names.insert(entry.path().filename().string());
    }
    for (const std::string& name : names) {
      ASSERT_TRUE(fs::exists(first / name) && fs::exists(second / name)) << name;
      ASSERT_EQ(FileText(first / name), FileText(second / name)) << name;
    }
  }

  TempDirectory dir_ = NewTempDirectory();
  bool nested_ = true;
  const Nf4Codec codec_ = trainer::MakeNf4Codec(1);
};

class Nf4PatchCycleTest : public Nf4PatchTest, public ::testing::WithParamInterface<std::tuple<AdapterMethod, bool, int64_t>> {};

TEST_P(Nf4PatchCycleTest, AHundredMergesAndUnmergesGiveTheBaseBackWithItsManifest) {
  const auto [method, double_quantization, shard_bytes] = GetParam();
  Make(method, double_quantization, shard_bytes);
  const auto exported = ExportNf4Patch(Dir("nf4"), Dir("task"), Dir("patch"), codec_);
  ASSERT_TRUE(exported.ok()) << exported.status();
  // The merge takes the tokenizer from the plain base, a patch from the folder it changes.
  ASSERT_TRUE(MergeIntoNf4({Dir("nf4"), Dir("nf4")}, {{"task", Dir("task")}}, Dir("merged"), codec_, {}).ok());
  fs::path now = Dir("nf4");
  for (int cycle = 0; cycle < 100; ++cycle) {
    fs::remove_all(Dir("applied"));
    const auto applied = ApplyPatch(now, Dir("patch"), Dir("applied"));
    ASSERT_TRUE(applied.ok()) << applied.status() << " in cycle " << cycle;
    ASSERT_NO_FATAL_FAILURE(ExpectSame(Dir("applied"), Dir("merged"))) << cycle;
    fs::remove_all(Dir("restored"));
    const auto restored = ReversePatch(Dir("applied"), Dir("patch") / kPatchFile, Dir("restored"));
    ASSERT_TRUE(restored.ok()) << restored.status() << " in cycle " << cycle;
    ASSERT_NO_FATAL_FAILURE(ExpectSame(Dir("restored"), Dir("nf4"))) << cycle;
    now = Dir("restored");
  }
}
INSTANTIATE_TEST_SUITE_P(Cases, Nf4PatchCycleTest,
                         ::testing::Values(std::tuple{AdapterMethod::kSboraFa, true, int64_t{1} << 30},
                                           std::tuple{AdapterMethod::kSboraFb, true, int64_t{1} << 30},
                                           std::tuple{AdapterMethod::kSboraFb, false, int64_t{1} << 30},
                                           std::tuple{AdapterMethod::kSboraFa, false, int64_t{4000}}));

TEST_F(Nf4PatchTest, AMergedModelIsABaseLikeAnyOther) {
  Make(AdapterMethod::kSboraFa, true);
  ASSERT_TRUE(MergeIntoNf4({Dir("nf4"), Dir("base")}, {{"task", Dir("task")}}, Dir("first"), codec_, {}).ok());
  const std::string hash = Nf4ModelFolder::Open(Dir("first"))->config().merged_hash;
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb}) {  // beside, and across the columns
    const std::string name = "next-" + std::string(AdapterMethodName(method));
    Adapter(name, method, hash);
    ASSERT_TRUE(ExportNf4Patch(Dir("first"), Dir(name), Dir(name + "-patch"), codec_).ok());
    ASSERT_TRUE(MergeIntoNf4({Dir("first"), Dir("first")}, {{name, Dir(name)}}, Dir(name + "-merged"), codec_, {}).ok());
    const auto applied = ApplyPatch(Dir("first"), Dir(name + "-patch"), Dir(name + "-applied"));
    ASSERT_TRUE(applied.ok()) << applied.status();
    ASSERT_NO_FATAL_FAILURE(ExpectSame(Dir(name + "-applied"), Dir(name + "-merged")));
    const auto reversed = ReversePatch(Dir(name + "-merged"), Dir(name + "-patch"), Dir(name + "-restored"));
    ASSERT_TRUE(reversed.ok()) << reversed.status();
    ASSERT_NO_FATAL_FAILURE(ExpectSame(Dir(name + "-restored"), Dir("first")));
  }
}

TEST_F(Nf4PatchTest, EachModuleHasItsOwnRank) {
  Make(AdapterMethod::kSboraFb, true);
  const AdapterPattern pattern{.layers = {1}, .single = {}, .ranks = {{{1, LinearModule::kQ}, 5}}, .alphas = {}};
  testing::WriteTinyNf4Adapter(Dir("varied"), Dir("base"), "varied", {.method = AdapterMethod::kSboraFb, .pattern = pattern}, true);
  const auto written = ExportNf4Patch(Dir("nf4"), Dir("varied"), Dir("patch"), codec_);
  ASSERT_TRUE(written.ok()) << written.status();
  const auto file = SafetensorsFile::Open(Dir("patch") / kPatchFile);
  EXPECT_EQ(file->tensors().size(), 3u * 5u);  // layer 1 alone
  EXPECT_EQ(file->Tensor("model.layers.1.self_attn.q_proj.patch_index")->shape, (std::vector<int64_t>{5}));
  EXPECT_EQ(file->Tensor("model.layers.1.mlp.down_proj.patch_index")->shape, (std::vector<int64_t>{3}));
  ASSERT_TRUE(MergeIntoNf4({Dir("nf4"), Dir("nf4")}, {{"varied", Dir("varied")}}, Dir("merged"), codec_, {}).ok());
  ASSERT_TRUE(ApplyPatch(Dir("nf4"), Dir("patch"), Dir("applied")).ok());
  ASSERT_NO_FATAL_FAILURE(ExpectSame(Dir("applied"), Dir("merged")));
  ASSERT_TRUE(ReversePatch(Dir("applied"), Dir("patch"), Dir("restored")).ok());
  ASSERT_NO_FATAL_FAILURE(ExpectSame(Dir("restored"), Dir("nf4")));
}

TEST_F(Nf4PatchTest, HoldsOnlyWhatChanges) {
  Make(AdapterMethod::kSboraFb, true);
  const auto written = ExportNf4Patch(Dir("nf4"), Dir("task"), Dir("patch"), codec_);
  ASSERT_TRUE(written.ok()) << written.status();
  const auto file = SafetensorsFile::Open(Dir("patch") / kPatchFile);
  EXPECT_EQ(file->metadata().at("sbora_patch"), "2");
  EXPECT_EQ(file->metadata().at("base_merged"), "false");
  EXPECT_EQ(file->metadata().at("base_hash"), Nf4ModelFolder::Open(Dir("nf4"))->ComputeHash());
  EXPECT_EQ(file->tensors().size(), 6u * 5u);  // 2 layers, 3 targets: index, new rows, scales and codes, old codes
  const auto codes = file->Tensor("model.layers.1.mlp.down_proj.patch_new_codes");
  ASSERT_TRUE(codes.ok()) << codes.status();
  EXPECT_EQ(codes->shape, (std::vector<int64_t>{3, 38}));  // 75 inputs
}

TEST_F(Nf4PatchTest, WrongModelsAndDamageAreRefused) {
  Make(AdapterMethod::kSboraFb, true);
  ASSERT_TRUE(ExportNf4Patch(Dir("nf4"), Dir("task"), Dir("patch"), codec_).ok());
  ASSERT_TRUE(ApplyPatch(Dir("nf4"), Dir("patch"), Dir("applied")).ok());
  EXPECT_EQ(ApplyPatch(Dir("applied"), Dir("patch"), Dir("out")).status().reason(), "BASE_HASH_MISMATCH");
  const Status plain = ApplyPatch(Dir("base"), Dir("patch"), Dir("out")).status();
  EXPECT_EQ(plain.reason(), "BASE_HASH_MISMATCH");
  EXPECT_THAT(plain.message(), ::testing::HasSubstr("not be in NF4"));
  EXPECT_EQ(ReversePatch(Dir("nf4"), Dir("patch"), Dir("out")).status().reason(), "PATCH_NOT_APPLIED");
  testing::WriteTinyNf4(Dir("base"), Dir("plain-scales"), false);
  EXPECT_EQ(ApplyPatch(Dir("plain-scales"), Dir("patch"), Dir("out")).status().reason(), "BASE_HASH_MISMATCH");
  Adapter("lora", AdapterMethod::kLora);
  EXPECT_EQ(ExportNf4Patch(Dir("nf4"), Dir("lora"), Dir("out"), codec_).status().reason(), "EXPORT_METHOD");
  Adapter("stranger", AdapterMethod::kSboraFa, std::string(64, 'd'));
  EXPECT_EQ(ExportNf4Patch(Dir("nf4"), Dir("stranger"), Dir("out"), codec_).status().reason(), "BASE_HASH_MISMATCH");
  // The last bytes are old codes: without them there is no way back, but forward is whole.
  std::string text = FileText(Dir("patch") / kPatchFile);
  const std::string whole = text;
  text.back() = static_cast<char>(text.back() ^ 0x11);
  ASSERT_TRUE(WriteFileAtomic(Dir("patch") / kPatchFile, text).ok());
  EXPECT_EQ(ReversePatch(Dir("applied"), Dir("patch"), Dir("out")).status().reason(), "PATCH_CORRUPT");
  const auto at = whole.find("\"base_merged\":\"false\"");
  ASSERT_NE(at, std::string::npos);
  text = whole;
  text.replace(at, 21, "\"base_merged\":\"maybe\"");
  ASSERT_TRUE(WriteFileAtomic(Dir("patch") / kPatchFile, text).ok());
  EXPECT_EQ(ApplyPatch(Dir("nf4"), Dir("patch"), Dir("out")).status().reason(), "PATCH_MALFORMED");
  EXPECT_FALSE(fs::exists(Dir("out")));
}

}  // namespace
}  // namespace sbora::core
