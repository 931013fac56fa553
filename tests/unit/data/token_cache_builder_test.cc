#include "data/token_cache_builder.h"

#include <gmock/gmock.h>

#include <fstream>
#include <set>
#include <utility>

#include "data/token_cache.h"
#include "tests/unit/data/tiny_text_model.h"

namespace sbora::data {
namespace {

using core::CutoffPolicy;

class TokenCacheBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 20; ++i) {
      text += "{\"prompt\":\"ask" + std::to_string(i) + "\",\"completion\":\"" + std::string(static_cast<size_t>(i + 1), 'y') + "\"}\n";
    }
    Put(text);
    options_.cutoff_tokens = 64;
  }
  void Put(const std::string& text) { std::ofstream(inputs_.dataset, std::ios::binary) << text; }
  StatusOr<TokenCacheFiles> Build() { return BuildTokenCache(inputs_, dir_.path() / "cache", options_); }

  TempDirectory dir_ = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  TextModel model_ = testing::OpenTinyTextModel(dir_.path() / "model");
  TokenCacheInputs inputs_{.dataset = dir_.path() / "data.jsonl", .validation_dataset = {}, .model = &model_};
  TokenCacheOptions options_;
};

TEST_F(TokenCacheBuilderTest, BuildsVerifiesAndReuses) {
  const auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_FALSE(files->reused);
  const auto cache = TokenCache::Open(files->train, {.verify = true, .expected_key = *TokenCacheKey(inputs_, options_)});
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->size(), 20);
  EXPECT_EQ(files->report.train.samples, 20);
  EXPECT_EQ(files->report.train.tokens, cache->tokens());
  EXPECT_EQ(files->report.train.supervised_tokens, cache->supervised_tokens());
  EXPECT_EQ(files->report.format, DatasetFormat::kPromptCompletion);
  EXPECT_EQ(files->report.example, "ask0[[y<|im_end|>]]");
  EXPECT_TRUE(CheckUsable(files->report).ok());
  EXPECT_TRUE(files->validation.empty());
  const auto again = Build();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->reused);
  EXPECT_EQ(ToJson(again->report), ToJson(files->report));
  std::string bytes = ReadFile(files->train, 1 << 20).value();
  bytes[300] = static_cast<char>(bytes[300] ^ 1);
  std::ofstream(files->train, std::ios::binary) << bytes;
  const auto repaired = Build();
  EXPECT_FALSE(repaired->reused);
  EXPECT_TRUE(TokenCache::Open(repaired->train).ok());
}

TEST_F(TokenCacheBuilderTest, KeyFollowsWhatDecidesTheContent) {
  std::set<std::string> keys = {*TokenCacheKey(inputs_, options_)};
  const auto add = [&](auto change) {
    TokenCacheOptions other = options_;
    change(other);
    EXPECT_TRUE(keys.insert(*TokenCacheKey(inputs_, other)).second);
  };
  add([](auto& o) { o.cutoff_tokens = 63; });
  add([](auto& o) { o.source_cutoff_tokens = 3; });
  add([](auto& o) { o.target_cutoff_tokens = 3; });
  add([](auto& o) { o.cutoff_policy = CutoffPolicy::kDrop; });
  add([](auto& o) { o.loss_on = core::LossOn::kAll; });
  add([](auto& o) { o.prompt_template = core::PromptTemplate::kChat; });
  add([](auto& o) { o.validation_samples = 2; });
  TokenCacheOptions seed = options_;
  seed.split_seed = 1;
  EXPECT_EQ(keys.count(*TokenCacheKey(inputs_, seed)), 1u);  // without a split the seed decides nothing
  Put("{\"prompt\":\"a\",\"completion\":\"b\"}\n");
  EXPECT_TRUE(keys.insert(*TokenCacheKey(inputs_, options_)).second);
}

TEST_F(TokenCacheBuilderTest, CutoffPolicies) {
  options_.cutoff_tokens = 15;  // "ask" + digits + y's + end: longer from i = 10 on
  auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->report.train.samples, 20);
  EXPECT_EQ(files->report.train.max_tokens, 15);
  const int64_t cut = files->report.truncated_samples;
  EXPECT_GT(cut, 5);
  options_.cutoff_policy = CutoffPolicy::kDrop;
  files = Build();
  EXPECT_EQ(files->report.dropped_samples, cut);
  EXPECT_EQ(files->report.train.samples, 20 - cut);
  options_.cutoff_policy = CutoffPolicy::kReject;
  files = Build();
  EXPECT_EQ(files.status().reason(), "SAMPLE_TOO_LONG");
  EXPECT_THAT(files.status().message(), ::testing::HasSubstr("line 11"));
  const auto report = ValidateDataset(inputs_, options_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->rejected_samples, cut);
  EXPECT_EQ(CheckUsable(*report).reason(), "SAMPLE_TOO_LONG");
  EXPECT_EQ(report->first_rejection->line, 11);
}

TEST_F(TokenCacheBuilderTest, SourceAndTargetHaveCutoffsOfTheirOwn) {
  options_.source_cutoff_tokens = 2;
  options_.target_cutoff_tokens = 3;
  const auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  const auto cache = TokenCache::Open(files->train);
  for (int64_t i = 0; i < cache->size(); ++i) {
    EXPECT_LE(cache->Sample(i).ids.size(), 5u);
    EXPECT_THAT(cache->Sample(i).supervised.subspan(0, 2), ::testing::Each(0));
    EXPECT_EQ(cache->Sample(i).supervised[2], 1);
  }
}

TEST_F(TokenCacheBuilderTest, RefusesDataWithNothingToLearn) {
  options_.cutoff_tokens = 3;
  EXPECT_EQ(Build().status().reason(), "ALL_LABELS_MASKED");
  options_.cutoff_policy = CutoffPolicy::kDrop;
  EXPECT_EQ(Build().status().reason(), "DATASET_ALL_DROPPED");
  Put("");
  EXPECT_EQ(Build().status().reason(), "DATASET_EMPTY");
}

TEST_F(TokenCacheBuilderTest, ValidationDataWithNothingToLearnIsRefusedToo) {
  inputs_.validation_dataset = dir_.path() / "validation.jsonl";
  ASSERT_TRUE(WriteFileAtomic(inputs_.validation_dataset, "{\"prompt\":\"" + std::string(80, 'x') + "\",\"completion\":\"b\"}\n").ok());
  EXPECT_EQ(Build().status().reason(), "VALIDATION_EMPTY");
  options_.cutoff_policy = CutoffPolicy::kReject;
  const Status rejected = Build().status();
  EXPECT_EQ(rejected.reason(), "SAMPLE_TOO_LONG");
  EXPECT_THAT(rejected.message(), ::testing::HasSubstr("validation data: line 1, byte 0"));
}

TEST_F(TokenCacheBuilderTest, BadRecordsAreToldBeforeAnythingIsWritten) {
  Put("{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\"}\n");
  const auto files = Build();
  EXPECT_EQ(files.status().reason(), "DATASET_INVALID");
  EXPECT_THAT(files.status().message(), ::testing::HasSubstr("line 2, byte 32"));
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path() / "cache"));
  const auto report = ValidateDataset(inputs_, options_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bad_records, 1);
  EXPECT_EQ(report->train.samples, 1);
}

TEST_F(TokenCacheBuilderTest, SplitIsDeterministicAndDisjoint) {
  options_.validation_samples = 5;
  const auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  const auto train = TokenCache::Open(files->train);
  const auto validation = TokenCache::Open(files->validation);
  EXPECT_EQ(train->size(), 15);
  EXPECT_EQ(validation->size(), 5);
  std::set<std::vector<int32_t>> seen;
  for (const auto* cache : {&*train, &*validation}) {
    for (int64_t i = 0; i < cache->size(); ++i) seen.insert({cache->Sample(i).ids.begin(), cache->Sample(i).ids.end()});
  }
  EXPECT_EQ(seen.size(), 20u);
  options_.validation_samples = 20;
  EXPECT_EQ(Build().status().reason(), "VALIDATION_TOO_LARGE");
}

TEST_F(TokenCacheBuilderTest, AMixtureIsOneCacheOfSeveralParts) {
  options_.cutoff_tokens = 2000;
  const auto alpaca = dir_.path() / "alpaca.jsonl";
  std::ofstream(alpaca) << "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"c\",\"output\":\"d\"}\n";
  inputs_.mixture = {{inputs_.dataset, DatasetFormat::kPromptCompletion, "plain"},
                     {alpaca, DatasetFormat::kAuto, "told"}};
  const std::filesystem::path plain = std::exchange(inputs_.dataset, {});
  const auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(TokenCache::Open(files->train)->part_sizes(), ::testing::ElementsAre(20, 2));
  ASSERT_EQ(files->report.datasets.size(), 2u);
  EXPECT_EQ(files->report.records, 22);
  EXPECT_EQ(files->report.datasets[1].name, "told");
  EXPECT_EQ(files->report.datasets[1].records, 2);
  EXPECT_EQ(files->report.datasets[0].train.tokens + files->report.datasets[1].train.tokens,
            files->report.train.tokens);
  inputs_.mixture[1].name = "renamed";  // a name is no content
  const auto again = Build();
  EXPECT_TRUE(again->reused);
  EXPECT_EQ(again->report.datasets.at(1).name, "renamed");

  const std::string key = *TokenCacheKey(inputs_, options_);
  TokenCacheInputs other = inputs_;
  std::swap(other.mixture[0], other.mixture[1]);
  EXPECT_NE(*TokenCacheKey(other, options_), key);
  other = inputs_;
  other.mixture[1].format = DatasetFormat::kAlpaca;
  EXPECT_NE(*TokenCacheKey(other, options_), key);
  std::ofstream(alpaca, std::ios::app) << "{\"instruction\":\"e\",\"output\":\"f\"}\n";
  EXPECT_NE(*TokenCacheKey(inputs_, options_), key);

  // The split is over the records of all: some of either are held out, and none is lost.
  options_.validation_samples = 12;
  const auto split = Build();
  ASSERT_TRUE(split.ok()) << split.status();
  const auto& shares = split->report.datasets;
  EXPECT_EQ(shares[0].train.samples + shares[0].validation_samples, 20);
  EXPECT_EQ(shares[1].train.samples + shares[1].validation_samples, 3);
  EXPECT_EQ(shares[0].validation_samples + shares[1].validation_samples, 12);
  EXPECT_EQ(TokenCache::Open(split->validation)->size(), 12);

  std::ofstream(alpaca) << "{\"instruction\":\"a\"}\n";
  EXPECT_THAT(Build().status().message(), ::testing::HasSubstr("data set renamed: "));
  EXPECT_TRUE(std::filesystem::exists(plain));
}

TEST_F(TokenCacheBuilderTest, AMixtureNeedsSamplesAndAShareOfEachDataSet) {
  const auto other = dir_.path() / "other.jsonl";
  std::ofstream(other) << "{\"prompt\":\"" << std::string(80, 'x') << "\",\"completion\":\"y\"}\n";
  inputs_.mixture = {{inputs_.dataset, DatasetFormat::kAuto, "one"}, {other, DatasetFormat::kAuto, "two"}};
  const Status empty = Build().status();
  EXPECT_EQ(empty.reason(), "MIXTURE_PART_EMPTY");
  EXPECT_THAT(empty.message(), ::testing::HasSubstr("data set two"));
  options_.cutoff_tokens = 200;
  auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  const std::vector<double> weights = {3, 1};
  ASSERT_TRUE(PlanMixture(weights, 8, files->report).ok());
  EXPECT_EQ(files->report.datasets[0].epoch_samples, 6);
  EXPECT_EQ(files->report.datasets[1].epoch_samples, 2);
  EXPECT_THAT(Summary(files->report), ::testing::HasSubstr("; two: 1 samples, "));
  EXPECT_THAT(Summary(files->report), ::testing::HasSubstr("2 drawn in each epoch"));
  const Status unseen = PlanMixture(std::vector<double>{1000, 1}, 8, files->report);
  EXPECT_EQ(unseen.reason(), "MIXTURE_PART_UNSEEN");
  EXPECT_THAT(unseen.message(), ::testing::HasSubstr("data set two"));
}

TEST_F(TokenCacheBuilderTest, ValidationFileOfAnotherFormat) {
  options_.cutoff_tokens = 2000;  // the alpaca template alone is long
  options_.reader.format = DatasetFormat::kPromptCompletion;
  inputs_.validation_dataset = dir_.path() / "validation.jsonl";
  std::ofstream(inputs_.validation_dataset) << "{\"instruction\":\"v\",\"input\":\"\",\"output\":\"w\"}\n";
  const std::string key = *TokenCacheKey(inputs_, options_);
  options_.validation_format = DatasetFormat::kPromptCompletion;
  EXPECT_EQ(*TokenCacheKey(inputs_, options_), key);
  EXPECT_EQ(Build().status().reason(), "DATASET_INVALID");
  options_.validation_format = DatasetFormat::kAlpaca;
  EXPECT_NE(*TokenCacheKey(inputs_, options_), key);
  const auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->report.train.samples, 20);
  EXPECT_EQ(files->report.validation.samples, 1);
}

TEST_F(TokenCacheBuilderTest, ValidationFileAndCancel) {
  inputs_.validation_dataset = dir_.path() / "validation.jsonl";
  std::ofstream(inputs_.validation_dataset) << "{\"prompt\":\"v\",\"completion\":\"w\"}\n";
  const auto files = Build();
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->report.validation.samples, 1);
  EXPECT_EQ(TokenCache::Open(files->validation)->size(), 1);
  options_.cutoff_tokens = 65;
  options_.cancelled = [] { return true; };
  EXPECT_EQ(Build().status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace sbora::data
