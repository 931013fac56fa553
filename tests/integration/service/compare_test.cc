/// A comparison on real programs: methods trained, evaluated and reported by one command, and found again by the next.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/cli.h"
#include "core/adapter.h"
#include "core/peft_export.h"
#include "tests/integration/service/service_fixture.h"

namespace sbora::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class CompareServiceTest : public SharedServiceTest {
 protected:
  /// Of `sbora-client compare` on a job of a few steps.
  int Compare(const std::vector<std::string>& more) {
    const auto file = service().directory() / "job.yaml";
    std::ofstream(file) << "model: tiny\ndataset: colors\n"
                           "adapter: {rank: 4, target_modules: [q, v, down]}\n"
                           "data: {cutoff_tokens: 48, validation_samples: 5}\n"
                           "training: {max_steps: 6, batch_size: 4, micro_batch_size: 2, learning_rate: 1e-3}\n"
                           "resources: {threads: 1}\n";
    std::vector<std::string> arguments = {"compare", file.string(), "--server", service().address(), "--timeout", "300"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::ostringstream out, err;
    const client::ExitCode code = client::RunCli(arguments, {.out = out, .err = err, .terminal = false, .channel = nullptr});
    out_ = out.str();
    err_ = err.str();
    return static_cast<int>(code);
  }

  std::string out_;
  std::string err_;
};

TEST_F(CompareServiceTest, MethodsAreTrainedEvaluatedReportedAndFoundAgain) {
  const std::string picture = (service().directory() / "report.svg").string();
  const std::vector<std::string> command = {"--methods", "lora,sbora_fa,dora,sbora_fb+nf4", "--seeds", "2",
                                            "--match-parameters", "--evaluate", "colors", "--evaluation-samples", "6",
                                            "--name", "small", "--picture", picture, "--output", "json"};
  ASSERT_EQ(Compare(command), 0) << err_ << service().Logs();
  const Json report = Json::parse(out_);
  ASSERT_EQ(report["methods"].size(), 4u);
  for (const Json& method : report["methods"]) {
    SCOPED_TRACE(method["method"]);
    EXPECT_EQ(method["failure"], "");
    EXPECT_EQ(method["runs"].size(), 2u);
    for (const char* figure : {"validationLoss", "finalLoss", "tokensPerSecond", "peakMemoryBytes", "artifactBytes"}) {
      EXPECT_EQ(method[figure]["count"], 2) << figure;
      EXPECT_GT(method[figure]["mean"].get<double>(), 0) << figure;
    }
    EXPECT_GT(method["peakMemoryBytes"]["mean"].get<double>(), 32 << 20);  // LibTorch alone is more
    EXPECT_EQ(method["evaluations"][0]["perplexity"]["count"], 2);
    EXPECT_NEAR(method["parameterRatio"].get<double>(), 1.0, 0.15);
  }
  EXPECT_GT(report["methods"][1]["rank"].get<int>(), 4);  // FA trains less at LoRA's rank
  EXPECT_GT(report["baseEvaluations"][0]["result"]["perplexity"].get<double>(), 0);
  EXPECT_THAT(*ReadFile(picture, 1 << 20), HasSubstr("</svg>"));
  EXPECT_EQ(service().client().ListJobs({}, "")->fine_tuning_jobs_size(), 8);

  ASSERT_EQ(Compare(command), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("8 jobs, 8 of them were there"));
  EXPECT_EQ(Json::parse(out_), report);
  EXPECT_EQ(service().client().ListJobs({}, "")->fine_tuning_jobs_size(), 8);

  // A job that was deleted is run again, and alone.
  const std::string gone = service().client().ResourceName("fineTuningJobs", "small-lora-r4-s43");
  const auto before = service().AdapterHash("small-lora-r4-s43");
  ASSERT_TRUE(before.ok()) << before.status();
  ASSERT_TRUE(service().client().DeleteAdapter(service().client().ResourceName("adapters", "small-lora-r4-s43")).ok());
  ASSERT_TRUE(service().client().DeleteJob(gone).ok());
  ASSERT_EQ(Compare(command), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("8 jobs, 7 of them were there"));
  EXPECT_EQ(*service().AdapterHash("small-lora-r4-s43"), *before);  // the same data in the same order
}

TEST_F(CompareServiceTest, AMethodThatTheServiceRefusesIsARowOfTheReport) {
  // Rank 24 is more than v has rows, so FB cannot have it; FA can, on wider inputs.
  const int code = Compare({"--methods", "sbora_fa,sbora_fb", "--seeds", "1", "--rank", "24", "--name", "wide"});
  EXPECT_EQ(code, 1) << out_ << err_;
  EXPECT_THAT(err_, HasSubstr("sbora_fb will not run: "));
  EXPECT_THAT(out_, HasSubstr("sbora_fb: "));
  EXPECT_EQ(service().Get("wide-sbora-fa-r24-s42")->state(), v1::FineTuningJob::STATE_SUCCEEDED);
}

TEST_F(CompareServiceTest, AJobWithPatternsTrainsEachModuleAtItsRank) {
  auto spec = SmallSpec(6);
  for (const char* target : {"q", "down", "layers.1.v"}) spec.mutable_adapter()->add_target_modules(target);
  (*spec.mutable_adapter()->mutable_rank_pattern())["q"] = 2;
  (*spec.mutable_adapter()->mutable_rank_pattern())["layers.1.down"] = 6;
  (*spec.mutable_adapter()->mutable_alpha_pattern())["layers.1.down"] = 3;
  for (const v1::Method method : {v1::METHOD_SBORA_FA, v1::METHOD_SBORA_FB, v1::METHOD_LORA, v1::METHOD_DORA}) {
    spec.mutable_adapter()->set_method(method);
    const std::string id = "patterned-" + std::to_string(method);
    SCOPED_TRACE(id);
    const auto job = service().Submit(id, spec);
    ASSERT_TRUE(job.ok()) << job.status();
    const auto ended = service().WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, std::chrono::seconds(120));
    ASSERT_TRUE(ended.ok()) << ended.status() << service().Logs();
    EXPECT_GT(ended->result().peak_memory_bytes(), 0);
    EXPECT_EQ(ended->result().steps(), 6);
    const auto adapter = service().client().GetAdapter(service().client().ResourceName("adapters", id));
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    const auto pulled = service().directory() / id;
    ASSERT_TRUE(service().client().Pull(adapter->files(), adapter->manifest_sha256(), pulled, {}).ok());
    const auto folder = core::AdapterFolder::Open(pulled);
    ASSERT_TRUE(folder.ok()) << folder.status();
    int64_t trained = 0;
    for (const auto& module : folder->config().Modules()) {
      const int64_t wanted = module.module == core::LinearModule::kQ                          ? 2
                             : module.module == core::LinearModule::kDown && module.layer == 1 ? 6
                                                                                               : 4;
      EXPECT_EQ(module.rank, wanted);
      if (method == v1::METHOD_SBORA_FA || method == v1::METHOD_SBORA_FB) {
        EXPECT_EQ(std::ssize(*folder->Indices(module.layer, module.module)), wanted);
      }
    }
    for (const auto& tensor : folder->tensors().tensors()) {
      if (!tensor.name.ends_with("sbora_index")) trained += tensor.elements();
    }
    EXPECT_EQ(adapter->trainable_parameters(), trained);
    ASSERT_TRUE(core::ExportPeft(pulled, service().directory() / (id + "-peft")).ok());
    // The trainer reads it back: an evaluation computes with every module's rank and scale.
    v1::CreateEvaluationJobRequest evaluate;
    evaluate.mutable_evaluation_job()->mutable_spec()->set_adapter(adapter->name());
    evaluate.mutable_evaluation_job()->mutable_spec()->set_dataset("colors");
    evaluate.mutable_evaluation_job()->mutable_spec()->mutable_generation()->set_max_new_tokens(2);
    auto evaluation = service().client().CreateEvaluation(evaluate);
    ASSERT_TRUE(evaluation.ok()) << evaluation.status();
    evaluation = service().client().WaitEvaluation(evaluation->name(), {}, {});
    ASSERT_TRUE(evaluation.ok()) << evaluation.status();
    EXPECT_EQ(evaluation->state(), v1::EvaluationJob::STATE_SUCCEEDED) << evaluation->failure().message();
  }
}

}  // namespace
}  // namespace sbora::testing
