/// `sbora-client compare` against the in-process server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/model_config.h"
#include "tests/unit/client/cli_fixture.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::client {
namespace {

using ::testing::HasSubstr;

class CompareTest : public CliTest {
 protected:
  CompareTest() {
    v1::Model& model = server_.models["projects/default/models/m"];
    model.set_name("projects/default/models/m");
    model.set_uid("model-uid");
    model.set_config_json(core::ToHfConfigJson(core::testing::TinyConfig()));
    server_.finish_jobs = true;
    server_.keep_evaluations = true;
  }

  int Run(std::vector<std::string> more) {
    std::vector<std::string> arguments = {"compare", "--model", "m", "--dataset", "d", "--rank", "4"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return CliTest::Run(arguments);
  }

  /// Calls that would have made a job.
  int64_t Made() const {
    return std::count_if(server_.creates.begin(), server_.creates.end(), [](const auto& r) { return !r.validate_only(); });
  }
};

TEST_F(CompareTest, RunsEveryMethodAtEverySeedAndAgainNone) {
  const std::string picture = (folder_.path() / "report.html").string();
  const std::vector<std::string> command = {"--methods", "sbora_fa,lora,sbora_fb+nf4", "--seeds", "2", "--seed", "5",
                                            "--output", "json", "--picture", picture};
  ASSERT_EQ(Run(command), 0) << err_;
  EXPECT_EQ(Made(), 6);
  const auto report = nlohmann::json::parse(out_);
  ASSERT_EQ(report["methods"].size(), 3u);
  EXPECT_EQ(report["methods"][2]["method"], "sbora_fb+nf4");
  EXPECT_EQ(report["seeds"], (nlohmann::json{"5", "6"}));
  EXPECT_DOUBLE_EQ(report["methods"][1]["validationLoss"]["mean"].get<double>(), 3.055);  // METHOD_LORA is 3
  EXPECT_DOUBLE_EQ(report["methods"][1]["validationLossDifference"]["mean"].get<double>(), 2);
  EXPECT_EQ(report["methods"][0]["artifactBytes"]["mean"], 2048);
  EXPECT_THAT(*ReadFile(picture, 1 << 20), HasSubstr("</svg>"));
  EXPECT_THAT(err_, HasSubstr("6 jobs, 0 of them were there"));

  const size_t calls = server_.creates.size();
  ASSERT_EQ(Run(command), 0) << err_;
  EXPECT_EQ(server_.creates.size(), calls);  // not even a check: everything is there
  EXPECT_THAT(err_, HasSubstr("6 jobs, 6 of them were there"));
  ASSERT_EQ(Run({"--methods", "sbora_fa,lora,sbora_fb+nf4", "--seeds", "3", "--seed", "5"}), 0) << err_;
  EXPECT_EQ(Made(), 9);
}

TEST_F(CompareTest, ARefusedMethodIsToldBeforeAnythingStartsAndDoesNotHideTheRest) {
  server_.refusals[v1::METHOD_FULL] = Unimplemented("FEATURE_NOT_IMPLEMENTED", "full is not implemented yet; use lora");
  EXPECT_EQ(Run({"--methods", "full,lora", "--seeds", "1"}), 1);
  EXPECT_THAT(err_, HasSubstr("full will not run: full is not implemented yet; use lora [FEATURE_NOT_IMPLEMENTED]"));
  EXPECT_LT(err_.find("full will not run"), err_.find("1 jobs"));
  EXPECT_THAT(out_, HasSubstr("full: full is not implemented yet"));
  EXPECT_THAT(out_, HasSubstr("3.4200"));
  EXPECT_EQ(Made(), 1);
  EXPECT_EQ(Run({"--methods", "full", "--seeds", "1"}), 9);  // nothing is left to compare
  EXPECT_EQ(Made(), 1);
}

TEST_F(CompareTest, AFailedRunIsToldInItsRow) {
  ASSERT_EQ(Run({"--methods", "lora,dora", "--seeds", "2", "--name", "mine", "--validate-only", "--output", "json"}), 0) << err_;
  EXPECT_EQ(Made(), 0);
  server_.failing_jobs.insert("projects/default/fineTuningJobs/mine-lora-r4-s43");
  EXPECT_EQ(Run({"--methods", "lora,dora", "--seeds", "2", "--name", "mine"}), 1);
  EXPECT_THAT(out_, HasSubstr("lora: mine-lora-r4-s43 FAILED: the loss is not finite"));
  EXPECT_THAT(out_, HasSubstr("+1.0000"));  // dora less lora, of seed 42 alone
}

TEST_F(CompareTest, BaseAndAdaptersAreEvaluatedOnce) {
  const std::vector<std::string> command = {"--methods",  "lora,dora", "--seeds",  "2", "--evaluate", "mine", "--evaluate", "boolq=b",
                                            "--evaluation-samples", "10", "--output", "json"};
  ASSERT_EQ(Run(command), 0) << err_;
  const auto report = nlohmann::json::parse(out_);
  EXPECT_EQ(report["baseEvaluations"].size(), 2u);
  EXPECT_EQ(report["baseEvaluations"][0]["result"]["accuracy"], 0.5);
  EXPECT_EQ(report["methods"][1]["evaluations"][1]["title"], "boolq=b");
  EXPECT_EQ(report["methods"][1]["evaluations"][1]["accuracy"]["count"], 2);
  const auto made = [&] {
    return std::count_if(server_.evaluations.begin(), server_.evaluations.end(), [](const auto& r) { return !r.validate_only(); });
  };
  EXPECT_EQ(made(), 2 * (1 + 4));
  for (const auto& request : server_.evaluations) EXPECT_EQ(request.evaluation_job().spec().max_samples(), 10);
  ASSERT_EQ(Run(command), 0) << err_;
  EXPECT_EQ(made(), 2 * (1 + 4));
}

TEST_F(CompareTest, AnotherJobOfThatNameIsNotTakenForARun) {
  ASSERT_EQ(Run({"--methods", "lora", "--seeds", "1", "--name", "mine"}), 0) << err_;
  EXPECT_EQ(Run({"--methods", "lora", "--seeds", "1", "--name", "mine", "--learning-rate", "0.5"}), 4);
  EXPECT_THAT(err_, HasSubstr("[COMPARISON_EXISTS]"));
  EXPECT_EQ(Made(), 1);
}

TEST_F(CompareTest, WhatIsWrongWithTheCommandIsSaidFirst) {
  EXPECT_EQ(Run({"--methods", "lora", "--picture", "report.png"}), 2);
  EXPECT_EQ(Run({"--methods", "mora"}), 2);
  EXPECT_EQ(Run({"--methods", "lora", "--evaluate", "mmlu=x"}), 2);
  EXPECT_THAT(err_, HasSubstr("--few-shot-dataset"));
  server_.models.clear();
  EXPECT_EQ(Run({"--methods", "lora"}), 3);
  EXPECT_TRUE(server_.creates.empty());
}

}  // namespace
}  // namespace sbora::client
