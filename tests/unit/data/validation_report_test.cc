#include "data/validation_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sbora::data {
namespace {

TEST(TokenStatistics, QuantilesAreExactForShortSamples) {
  TokenStatisticsBuilder builder;
  for (int64_t length = 1; length <= 100; ++length) builder.Add(length, 1);
  const auto s = builder.Finish();
  EXPECT_EQ(s.samples, 100);
  EXPECT_EQ(s.tokens, 5050);
  EXPECT_EQ(s.min_tokens, 1);
  EXPECT_EQ(s.max_tokens, 100);
  EXPECT_EQ(s.median_tokens, 50);
  EXPECT_EQ(s.p95_tokens, 95);
  EXPECT_DOUBLE_EQ(s.mean_tokens(), 50.5);
}

TEST(TokenStatistics, QuantilesOfLongSamplesAreWithinASixteenth) {
  TokenStatisticsBuilder builder;
  for (int i = 0; i < 99; ++i) builder.Add(100'000, 1);
  builder.Add(5'000'000, 1);
  const auto s = builder.Finish();
  EXPECT_NEAR(static_cast<double>(s.median_tokens), 100'000, 100'000 / 16.0);
  EXPECT_EQ(TokenStatisticsBuilder().Finish().median_tokens, 0);
}

TEST(ValidationReport, RoundTripsThroughJson) {
  ValidationReport report;
  report.format = DatasetFormat::kChat;
  report.prompt_template = "chat";
  report.records = 3;
  report.bad_records = 1;
  report.errors = {{.line = 4, .byte_offset = 77, .reason = "INVALID_UTF8", .message = "bad \xff byte"}};
  report.datasets = {
      {.name = "a", .records = 2, .train = {.samples = 1, .tokens = 9}, .validation_samples = 1, .epoch_samples = 7}};
  report.train = {.samples = 2, .tokens = 10, .supervised_tokens = 4, .min_tokens = 4, .max_tokens = 6,
                  .median_tokens = 4, .p95_tokens = 6};
  report.example = "x";
  const auto json = nlohmann::json::parse(ToJson(report));
  EXPECT_EQ(json["errors"][0]["byteOffset"], 77);
  EXPECT_EQ(json["train"]["supervisedShare"], 0.4);
  EXPECT_FALSE(json["ok"].get<bool>());
  const auto back = ParseValidationReport(ToJson(report));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(ToJson(*back), ToJson(report));
  EXPECT_FALSE(ParseValidationReport("{}").has_value());
  EXPECT_FALSE(ParseValidationReport("nope").has_value());
}

}  // namespace
}  // namespace sbora::data
