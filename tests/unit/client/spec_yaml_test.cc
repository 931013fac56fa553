#include "client/spec_yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sbora/v1/spec.pb.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Status Parse(std::string_view text, v1::FineTuningSpec* spec = nullptr) {
  v1::FineTuningSpec own;
  return ParseSpecYaml(text, "job.yaml", spec == nullptr ? own : *spec);
}

TEST(ParseSpecYaml, TakesBothSpellingsAndNesting) {
  v1::FineTuningSpec spec;
  const Status status = Parse(R"(
model: smollm2
validationDataset: held
adapter: {method: sbora_fa+nf4, rank: 32, target_modules: [q, v]}
training:
  learningRate: 2e-3
  seed: 7
validation: {keep_best: true}
limits:
)",
                              &spec);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(spec.model(), "smollm2");
  EXPECT_EQ(spec.validation_dataset(), "held");
  EXPECT_EQ(spec.quantization(), v1::QUANTIZATION_NF4);
  EXPECT_EQ(spec.adapter().rank(), 32);
  EXPECT_THAT(spec.adapter().target_modules(), ElementsAre("q", "v"));
  EXPECT_DOUBLE_EQ(spec.training().learning_rate(), 2e-3);
  EXPECT_TRUE(spec.validation().keep_best());
}

TEST(ParseSpecYaml, UnknownKeyIsNamedWithLineAndNearest) {
  const Status status = Parse("model: m\nadapter:\n  rnak: 3\n");
  EXPECT_EQ(status.reason(), "UNKNOWN_FIELD");
  EXPECT_EQ(status.message(), "job.yaml:3: unknown field 'adapter.rnak'; did you mean 'adapter.rank'?");
}

TEST(ParseSpecYaml, KeyUnderTheWrongParentIsFound) {
  const Status status = Parse("rank: 3\n");
  EXPECT_THAT(status.message(), HasSubstr("did you mean 'adapter.rank'?"));
}

TEST(ParseSpecYaml, WrongShapesAreRefused) {
  EXPECT_EQ(Parse("- a\n- b\n").reason(), "BAD_YAML");
  EXPECT_EQ(Parse("model: [a, b]\n").reason(), "BAD_FIELD_VALUE");
  EXPECT_EQ(Parse("adapter: 3\n").reason(), "BAD_FIELD_VALUE");
  EXPECT_EQ(Parse("model: {a: b}\n").reason(), "BAD_FIELD_VALUE");
  EXPECT_EQ(Parse("model: a\nmodel: b\n").reason(), "DUPLICATE_FIELD");
  EXPECT_EQ(Parse("model: a\n\"model\": b\n").reason(), "DUPLICATE_FIELD");
  EXPECT_EQ(Parse("[a]: b\n").reason(), "BAD_YAML");
}

TEST(ParseSpecYaml, BadSyntaxNamesTheLine) {
  for (const char* text : {"model: a\ntraining: {\n", "model: a\nadapter: b: c\n", "model: a\n\tdataset: b\n"}) {
    const Status status = Parse(text);
    EXPECT_EQ(status.reason(), "BAD_YAML") << text;
    EXPECT_THAT(status.message(), ::testing::MatchesRegex("job.yaml:[23]: .*")) << text;
  }
}

TEST(ParseSpecYaml, AMapOfNamesToNumbersIsAMap) {
  v1::FineTuningSpec spec;
  ASSERT_TRUE(ParseSpecYaml("adapter:\n  rank_pattern: {q: 8, layers.0.v: 4}\n  alphaPattern:\n    q: 1.5\n", "job.yaml", spec).ok());
  EXPECT_EQ(spec.adapter().rank_pattern().at("layers.0.v"), 4);
  EXPECT_EQ(spec.adapter().alpha_pattern().at("q"), 1.5);
  for (const char* text : {"adapter: {rank_pattern: {q: [1]}}\n", "adapter: {rank_pattern: {q: x}}\n", "adapter: {rank: {q: 1}}\n"}) {
    const Status status = ParseSpecYaml(text, "job.yaml", spec);
    EXPECT_EQ(status.reason(), "BAD_FIELD_VALUE") << text;
    EXPECT_THAT(status.message(), HasSubstr("job.yaml:1")) << text;
  }
}

TEST(ParseSpecYaml, TakesOneDocument) {
  EXPECT_TRUE(Parse("").ok());
  EXPECT_TRUE(Parse("# nothing\n").ok());
  const Status status = Parse("model: a\n---\nmodel: b\n");
  EXPECT_EQ(status.reason(), "BAD_YAML");
}

TEST(ParseSpecYaml, BadValueKeepsItsViolation) {
  const Status status = Parse("training:\n  max_steps: many\n");
  EXPECT_THAT(status.message(), HasSubstr("job.yaml:2: training.max_steps: \"many\" is not a whole number"));
  ASSERT_EQ(status.violations().size(), 1u);
  EXPECT_EQ(status.violations()[0].field, "training.max_steps");
}

TEST(ReadSpecFile, TheExampleJobIsValid) {
  v1::FineTuningSpec spec;
  const Status status = ReadSpecFile(SBORA_SOURCE_DIR "/examples/job.yaml", spec);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(spec.adapter().method(), v1::METHOD_SBORA_FA);
  EXPECT_EQ(spec.dataset(), "tickets");
}

TEST(ReadSpecFile, MissingFileIsNotFound) {
  v1::FineTuningSpec spec;
  EXPECT_EQ(ReadSpecFile("/nonexistent/job.yaml", spec).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace sbora::client
