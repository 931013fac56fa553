// `sbora-trainer bench` as people call it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/file.h"
#include "tests/testing/program.h"
#include "tests/testing/tiny_model.h"

namespace sbora::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

#ifdef SBORA_WITH_TASKS
constexpr bool kHasTokenizer = true;
#else
constexpr bool kHasTokenizer = false;
#endif

class BenchCommandTest : public ::testing::Test {
 protected:
  /// Its exit code; what it printed is in `output_`.
  int Bench(std::vector<std::string> flags) {
    flags.insert(flags.begin(), "bench");
    fs::remove(Path("output"));
    auto program = Program::Start(SBORA_TRAINER, flags, Path("output"));
    EXPECT_TRUE(program.ok()) << program.status();
    const auto exit = program->WaitForExit(std::chrono::seconds(60));
    EXPECT_TRUE(exit.ok()) << exit.status();
    output_ = *ReadFile(Path("output"), 1 << 20);
    return exit.ok() ? *exit : -1;
  }
  fs::path Path(const std::string& name) const { return temp_.path() / name; }

  TempDirectory temp_ = *TempDirectory::Create(fs::temp_directory_path(), "bench-test");
  std::string output_;
};

TEST_F(BenchCommandTest, MeasuresWhatItIsAskedFor) {
  if (!kHasTokenizer) GTEST_SKIP() << "this build has no tokenizer to make a token cache with";
  ASSERT_TRUE(WriteTinyModel(Path("model")).ok());
  ASSERT_TRUE(WriteTinyDataset(Path("data.jsonl"), 6).ok());
  ASSERT_EQ(Bench({"--model", Path("model"), "--data", Path("data.jsonl"), "--rank=4", "--micro-batch=2", "--steps=3",
                   "--threads=1", "--optimizer=adamw_8bit", "--output=json"}),
            0)
      << output_;
  const auto report = nlohmann::json::parse(output_, nullptr, false);
  ASSERT_TRUE(report.is_object()) << output_;
  EXPECT_EQ(report["steps"], 3);
  EXPECT_EQ(report["threads"], 1);
  EXPECT_EQ(report["randomWeights"], false);
  EXPECT_GT(report["tokensPerSecond"], 0);
  EXPECT_EQ(report["peakDeviceBytes"], 0);
}

TEST_F(BenchCommandTest, TakesTheLossOverWhatItIsAskedFor) {
  if (!kHasTokenizer) GTEST_SKIP() << "this build has no tokenizer to make a token cache with";
  ASSERT_TRUE(WriteTinyModel(Path("model")).ok());
  ASSERT_TRUE(WriteTinyDataset(Path("data.jsonl"), 6).ok());
  std::vector<double> losses;
  for (const char* loss_on : {"--loss-on=response", "--loss-on=all"}) {
    ASSERT_EQ(Bench({"--model", Path("model"), "--data", Path("data.jsonl"), "--rank=4", "--steps=1", "--micro-batch=2",
                     "--threads=1", "--output=json", loss_on}),
              0)
        << output_;
    losses.push_back(nlohmann::json::parse(output_)["firstLoss"]);
  }
  EXPECT_NE(losses[0], losses[1]);
}

TEST_F(BenchCommandTest, TellsTheFormThatItUsed) {
  if (!kHasTokenizer) GTEST_SKIP() << "this build has no tokenizer to make a token cache with";
  ASSERT_TRUE(WriteTinyModel(Path("model")).ok());
  ASSERT_TRUE(WriteTinyDataset(Path("data.jsonl"), 6).ok());
  const auto report = [&](std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--model", Path("model"), "--data", Path("data.jsonl"), "--rank=4", "--micro-batch=2",
                               "--steps=2", "--threads=1", "--output=json"});
    EXPECT_EQ(Bench(flags), 0) << output_;
    return nlohmann::json::parse(output_, nullptr, false);
  };
  const auto merged = report({});
  const auto plain = report({"--form=plain"});
  EXPECT_EQ(merged["adapterForm"], "merged");
  EXPECT_EQ(plain["adapterForm"], "plain");
  EXPECT_EQ(merged["firstLoss"], plain["firstLoss"]);  // the factors start at zero
  EXPECT_NEAR(merged["lastLoss"].get<double>(), plain["lastLoss"].get<double>(), 1e-5);
  EXPECT_NE(merged["lastLoss"], merged["firstLoss"]);
  EXPECT_EQ(merged["weightBytes"].get<int64_t>(),
            plain["weightBytes"].get<int64_t>() + 4 * plain["trainableParameters"].get<int64_t>());
  EXPECT_EQ(report({"--dropout=0.05"})["adapterForm"], "plain");
  EXPECT_EQ(report({"--method=lora"})["adapterForm"], "plain");
  const auto none = report({"--method=none"});
  EXPECT_EQ(none["adapterForm"], "none");
  EXPECT_EQ(none["trainableParameters"], 0);
  EXPECT_EQ(none["firstLoss"], plain["firstLoss"]);
  EXPECT_EQ(Bench({"--model", Path("model"), "--data", Path("data.jsonl"), "--rank=4", "--form=merged", "--dropout=0.1"}), 1);
  EXPECT_THAT(output_, HasSubstr("INVALID_ARGUMENT [COMPUTE_FORM_WRONG]: the adapter cannot be merged into the weights: "
                                 "dropout=0.1 masks the adapter's input alone"));
}

TEST_F(BenchCommandTest, BadFlagsAreNamedBeforeAnythingIsRead) {
  struct Case {
    std::vector<std::string> flags;
    const char* says;
  };
  const Case cases[] = {
      {{"--modle", "m"}, "INVALID_ARGUMENT [FLAG_UNKNOWN]: unknown flag \"--modle\"; known: --model, "},
      {{"--model=m"}, "INVALID_ARGUMENT [FLAG_MISSING]: --data is required"},
      {{"--model=m", "--data=d", "--optimizer=sgd"},
       "INVALID_ARGUMENT [OPTIMIZER_UNKNOWN]: --optimizer sgd is unknown; adamw and adamw_8bit are known"},
      {{"--model=m", "--data=d", "--loss-on=prompt"},
       "INVALID_ARGUMENT [LOSS_ON_UNKNOWN]: --loss-on prompt is unknown; response and all are known"},
      {{"--model=m", "--data=d", "--form=folded"},
       "INVALID_ARGUMENT [COMPUTE_FORM_UNKNOWN]: --form folded is unknown; auto, plain and merged are known"},
      {{"--model=m", "--data=d", "--dropout=1"}, "INVALID_ARGUMENT [FLAG_NOT_A_NUMBER]: --dropout"},
      {{"--model=m", "--data=d", "--dropout=some"}, "INVALID_ARGUMENT [FLAG_NOT_A_NUMBER]: --dropout"},
  };
  for (const auto& [flags, says] : cases) {
    EXPECT_EQ(Bench(flags), 2) << output_;
    EXPECT_THAT(output_, HasSubstr(says));
  }
}

TEST_F(BenchCommandTest, TextNeedsABuildWithATokenizer) {
  if (kHasTokenizer) GTEST_SKIP() << "this build has a tokenizer; build with -DSBORA_WITH_SERVICE=OFF";
  EXPECT_EQ(Bench({"--model=m", "--data=d.jsonl"}), 1);
  EXPECT_THAT(output_, HasSubstr("UNIMPLEMENTED [BENCH_DATA]: d.jsonl: this build has no tokenizer; give a .tokens file"));
}

}  // namespace
}  // namespace sbora::testing
