#include "client/compare_report.h"

#include <gmock/gmock.h>

#include <cmath>

#include "client/output/comparison_picture.h"
#include "client/output/resources.h"

namespace sbora::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::ComparedRun& AddRun(v1::ComparedMethod& method, uint64_t seed, double loss) {
  v1::ComparedRun& run = *method.add_runs();
  run.set_seed(seed);
  run.set_job("projects/default/fineTuningJobs/" + method.method() + "-s" + std::to_string(seed));
  run.set_state(v1::FineTuningJob::STATE_SUCCEEDED);
  run.mutable_result()->set_validation_loss(loss);
  run.mutable_result()->set_final_loss(loss + 1);
  run.mutable_result()->set_tokens_per_second(100 * loss);
  run.mutable_result()->set_peak_memory_bytes(3 << 20);
  run.set_artifact_bytes(2048);
  return run;
}

void AddEvaluation(v1::ComparedRun& run, double accuracy) {
  v1::ComparedEvaluation& evaluation = *run.add_evaluations();
  evaluation.set_title("mine");
  evaluation.set_state(v1::EvaluationJob::STATE_SUCCEEDED);
  evaluation.mutable_result()->set_samples(10);
  evaluation.mutable_result()->set_accuracy(accuracy);
  evaluation.mutable_result()->set_perplexity(4 * accuracy);
}

v1::ComparedMethod& AddMethod(v1::MethodComparison& comparison, const std::string& name, int rank, int64_t parameters) {
  v1::ComparedMethod& method = *comparison.add_methods();
  method.set_method(name);
  method.set_rank(rank);
  method.set_trainable_parameters(parameters);
  return method;
}

/// fa runs at three seeds, lora at three of which the second failed, full is refused.
v1::MethodComparison Comparison() {
  v1::MethodComparison comparison;
  comparison.set_name("cmp-1");
  comparison.mutable_spec()->set_model("projects/default/models/m");
  comparison.mutable_spec()->set_dataset("projects/default/datasets/d<&>");
  for (uint64_t seed : {1, 2, 3}) comparison.add_seeds(seed);
  v1::ComparedMethod& fa = AddMethod(comparison, "sbora_fa", 8, 1000);
  v1::ComparedMethod& lora = AddMethod(comparison, "lora", 8, 2500);
  AddMethod(comparison, "full", 0, 100'000).set_failure("full is not implemented yet [FEATURE_NOT_IMPLEMENTED]");
  AddEvaluation(AddRun(fa, 1, 1.0), 0.5);
  AddEvaluation(AddRun(fa, 2, 3.0), 0.5);
  AddEvaluation(AddRun(fa, 3, 2.0), 0.8);
  AddEvaluation(AddRun(lora, 1, 1.5), 0.6);
  AddRun(lora, 2, 99.0).set_state(v1::FineTuningJob::STATE_FAILED);
  lora.mutable_runs(1)->mutable_failure()->set_message("the loss is not finite");
  AddEvaluation(AddRun(lora, 3, 2.7), 0.6);
  v1::ComparedEvaluation& base = *comparison.add_base_evaluations();
  base.set_title("mine");
  base.set_state(v1::EvaluationJob::STATE_SUCCEEDED);
  base.mutable_result()->set_samples(10);
  base.mutable_result()->set_accuracy(0.25);
  base.mutable_result()->set_perplexity(11);
  return comparison;
}

TEST(SpreadTest, HasTheDeviationOfTheSample) {
  EXPECT_EQ(SpreadOf({}).count(), 0);
  const v1::Spread one = SpreadOf({2.5});
  EXPECT_EQ(one.mean(), 2.5);
  EXPECT_EQ(one.standard_deviation(), 0);
  const v1::Spread four = SpreadOf({2, 4, 4, 6});
  EXPECT_EQ(four.count(), 4);
  EXPECT_EQ(four.mean(), 4);
  EXPECT_DOUBLE_EQ(four.standard_deviation(), std::sqrt(8.0 / 3));
  EXPECT_EQ(four.minimum(), 2);
  EXPECT_EQ(four.maximum(), 6);
}

TEST(CompareReportTest, SpreadsAreOverRunsThatSucceededAndDifferencesArePairedBySeed) {
  v1::MethodComparison comparison = Comparison();
  Summarize(comparison);
  const v1::ComparedMethod& fa = comparison.methods(0);
  const v1::ComparedMethod& lora = comparison.methods(1);
  EXPECT_EQ(fa.validation_loss().mean(), 2);
  EXPECT_EQ(fa.validation_loss().standard_deviation(), 1);
  EXPECT_FALSE(fa.has_validation_loss_difference());
  EXPECT_EQ(lora.validation_loss().count(), 2);
  EXPECT_DOUBLE_EQ(lora.validation_loss().mean(), 2.1);
  // Seeds 1 and 3 alone: 1.5 - 1.0 and 2.7 - 2.0; the means of all runs would give 0.1.
  EXPECT_EQ(lora.validation_loss_difference().count(), 2);
  EXPECT_DOUBLE_EQ(lora.validation_loss_difference().mean(), 0.6);
  EXPECT_DOUBLE_EQ(fa.evaluations(0).accuracy().mean(), 0.6);
  EXPECT_NEAR(lora.evaluations(0).accuracy_difference().mean(), -0.05, 1e-12);
  EXPECT_NEAR(lora.evaluations(0).perplexity_difference().mean(), -0.2, 1e-12);
  EXPECT_EQ(lora.parameter_ratio(), 2.5);
  EXPECT_EQ(fa.parameter_ratio(), 1);
  EXPECT_EQ(fa.artifact_bytes().mean(), 2048);
  EXPECT_EQ(fa.failure(), "");
  EXPECT_THAT(lora.failure(), HasSubstr("lora-s2 FAILED: the loss is not finite"));
  EXPECT_THAT(comparison.methods(2).failure(), HasSubstr("not implemented"));
  EXPECT_FALSE(comparison.methods(2).has_validation_loss());
  EXPECT_FALSE(AllSucceeded(comparison));
}

TEST(CompareReportTest, AFigureThatNoRunHasStaysUnset) {
  v1::MethodComparison comparison;
  v1::ComparedRun& run = AddRun(AddMethod(comparison, "lora", 4, 10), 1, 1.0);
  run.mutable_result()->clear_validation_loss();
  run.mutable_result()->clear_peak_memory_bytes();
  run.set_artifact_bytes(0);
  Summarize(comparison);
  EXPECT_FALSE(comparison.methods(0).has_validation_loss());
  EXPECT_FALSE(comparison.methods(0).has_peak_memory_bytes());
  EXPECT_FALSE(comparison.methods(0).has_artifact_bytes());
  EXPECT_TRUE(comparison.methods(0).has_final_loss());
  EXPECT_TRUE(AllSucceeded(comparison));
  EXPECT_THAT(RenderSvg(comparison), HasSubstr("Training loss of the last step"));
}

TEST(CompareReportTest, AnEvaluationThatFailedIsToldInItsMethodsRow) {
  v1::MethodComparison comparison = Comparison();
  v1::ComparedEvaluation& evaluation = *comparison.mutable_methods(0)->mutable_runs(2)->mutable_evaluations(0);
  evaluation.set_state(v1::EvaluationJob::STATE_FAILED);
  evaluation.mutable_failure()->set_message("out of memory");
  Summarize(comparison);
  EXPECT_THAT(comparison.methods(0).failure(), HasSubstr("mine on seed 3 FAILED: out of memory"));
  EXPECT_EQ(comparison.methods(0).evaluations(0).accuracy().count(), 2);
}

TEST(CompareReportTest, TheTableHasARowForEachMethodAndTheBase) {
  v1::MethodComparison comparison = Comparison();
  comparison.add_notes("a note");
  Summarize(comparison);
  const std::string table = ToTable(comparison);
  EXPECT_THAT(table, HasSubstr("cmp-1: m on d<&>, 3 seeds, mean ± standard deviation, equal ranks"));
  EXPECT_THAT(table, HasSubstr("2.0000 ± 1.0000"));
  EXPECT_THAT(table, HasSubstr("+0.6000 ± 0.1414"));
  EXPECT_THAT(table, HasSubstr("25.00 %"));
  EXPECT_THAT(table, HasSubstr("\nfull      "));
  EXPECT_THAT(table, HasSubstr("\nfull: full is not implemented yet [FEATURE_NOT_IMPLEMENTED]"));
  EXPECT_THAT(table, HasSubstr("\nlora: lora-s2 FAILED"));
  EXPECT_THAT(table, HasSubstr("\na note\n"));
}

TEST(CompareReportTest, ThePictureStandsAloneAndEscapes) {
  v1::MethodComparison comparison = Comparison();
  Summarize(comparison);
  const std::string svg = RenderSvg(comparison);
  EXPECT_THAT(svg, ::testing::StartsWith("<svg xmlns="));
  EXPECT_THAT(svg, HasSubstr("d&lt;&amp;&gt;"));
  EXPECT_THAT(svg, Not(HasSubstr("d<&>")));
  EXPECT_THAT(svg, Not(HasSubstr("href")));
  for (const char* title : {"Validation loss", "mine: right answers", "mine: perplexity", "Training tokens a second",
                            "Peak memory of the trainer", "Artifact", "Trained parameters", "refused", "base 25.00 % (dashed)"}) {
    EXPECT_THAT(svg, HasSubstr(title));
  }
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  const std::string html = RenderHtml(comparison);
  EXPECT_THAT(html, HasSubstr("<!doctype html>"));
  EXPECT_THAT(html, HasSubstr(svg));
  EXPECT_THAT(html, HasSubstr("sbora_fa  8"));
}

}  // namespace
}  // namespace sbora::client
