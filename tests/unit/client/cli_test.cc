#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file.h"
#include "common/ids.h"
#include "core/patch.h"
#include "tests/unit/client/cli_fixture.h"
#include "tests/unit/core/tiny_adapter.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(CliTest, SubmitSendsFileFlagsAndSetsInThatOrder) {
  const std::string file = (folder_.path() / "job.yaml").string();
  ASSERT_TRUE(WriteFileAtomic(file, "model: m\ndataset: d\nadapter: {rank: 8, alpha: 16}\ntraining: {seed: 1}\n").ok());
  ASSERT_EQ(Run({"submit", "--file", file, "--rank", "16", "--seed", "2", "--set", "training.seed=3", "--method",
                 "sbora_fb", "--name", "tickets-1", "--label", "team=a", "--output", "json"}),
            0)
      << err_;
  ASSERT_EQ(server_.creates.size(), 1u);
  const auto& request = server_.creates[0];
  const v1::FineTuningSpec& spec = request.fine_tuning_job().spec();
  EXPECT_EQ(request.parent(), "projects/default");
  EXPECT_EQ(request.fine_tuning_job_id(), "tickets-1");
  EXPECT_TRUE(IsUuid(request.request_id()));
  EXPECT_EQ(request.fine_tuning_job().labels().at("team"), "a");
  EXPECT_EQ(spec.model(), "projects/default/models/m");
  EXPECT_EQ(spec.dataset(), "projects/default/datasets/d");
  EXPECT_EQ(spec.adapter().rank(), 16);
  EXPECT_DOUBLE_EQ(spec.adapter().alpha(), 16);
  EXPECT_EQ(spec.adapter().method(), v1::METHOD_SBORA_FB);
  EXPECT_EQ(spec.training().seed(), 3u);
  EXPECT_THAT(out_, HasSubstr("\"name\": \"projects/default/fineTuningJobs/tickets-1\""));
  EXPECT_THAT(out_, HasSubstr("\"recoveryCount\": 0"));
}

TEST_F(CliTest, SubmitRepeatsAfterUnavailableWithTheSameRequestId) {
  server_.create_failures = 2;
  ASSERT_EQ(Run({"jobs", "submit", "--model", "m", "--dataset", "d"}), 0) << err_;
  ASSERT_EQ(server_.creates.size(), 3u);
  EXPECT_EQ(server_.creates[0].request_id(), server_.creates[2].request_id());
}

TEST_F(CliTest, SubmitWaitsAndPrintsTheEndedJobOnStdoutOnly) {
  WatchEndsWith(v1::FineTuningJob::STATE_SUCCEEDED);
  ASSERT_EQ(Run({"submit", "--model", "m", "--dataset", "d", "--name", "tickets-1", "--wait", "--output", "json"}), 0)
      << err_;
  EXPECT_THAT(out_, StartsWith("{\n \"name\""));
  EXPECT_THAT(out_, HasSubstr("STATE_SUCCEEDED"));
  EXPECT_THAT(err_, HasSubstr("RUNNING"));
  EXPECT_THAT(err_, HasSubstr("sbora-client pull tickets-1 -o DIR"));
}

TEST_F(CliTest, EndOfAWatchedJobIsTheExitCode) {
  WatchEndsWith(v1::FineTuningJob::STATE_FAILED);
  server_.watch_messages.back().mutable_job()->mutable_failure()->set_code(8);
  server_.watch_messages.back().mutable_job()->mutable_failure()->set_reason("OOM_HOST");
  server_.watch_messages.back().mutable_job()->mutable_failure()->set_message("out of memory at step 3");
  EXPECT_EQ(Run({"watch", "tickets-1"}), 1);
  EXPECT_THAT(err_, HasSubstr("out of memory at step 3 [OOM_HOST]"));
  WatchEndsWith(v1::FineTuningJob::STATE_CANCELLED);
  EXPECT_EQ(Run({"jobs", "watch", "tickets-1"}), 8);
}

TEST_F(CliTest, WatchInJsonWritesOneMessageALine) {
  WatchEndsWith(v1::FineTuningJob::STATE_SUCCEEDED);
  server_.watch_breaks = {1};
  ASSERT_EQ(Run({"watch", "tickets-1", "--output", "json"}), 0) << err_;
  EXPECT_EQ(std::count(out_.begin(), out_.end(), '\n'), 2);
  EXPECT_THAT(out_, StartsWith("{\"sequence\":\"1\",\"job\":{"));
}

TEST_F(CliTest, FollowedLogsShowEachChangeOfState) {
  WatchEndsWith(v1::FineTuningJob::STATE_SUCCEEDED);
  server_.watch_messages.insert(server_.watch_messages.begin(), EventMessage(0, "hidden: its sequence is not new"));
  server_.watch_messages.insert(server_.watch_messages.begin() + 2, EventMessage(2, "checkpoint of step 10"));
  server_.watch_messages.back().set_sequence(3);
  ASSERT_EQ(Run({"jobs", "logs", "tickets-1", "--follow"}), 0) << err_;
  EXPECT_EQ(std::count(out_.begin(), out_.end(), '\n'), 3) << out_;
  EXPECT_THAT(out_, HasSubstr("-> STATE_RUNNING"));
  EXPECT_THAT(out_, HasSubstr("checkpoint of step 10"));
  EXPECT_THAT(out_, HasSubstr("-> STATE_SUCCEEDED"));
}

TEST_F(CliTest, ServerErrorsGetCodeReasonViolationsAndHint) {
  server_.create_error =
      InvalidArgument("INVALID_SPEC", "1 field is wrong").WithViolation("spec.adapter.rank", "too large");
  EXPECT_EQ(Run({"submit", "--model", "m", "--dataset", "d"}), 2);
  EXPECT_EQ(
      err_,
      "error: 1 field is wrong [INVALID_SPEC]\n  spec.adapter.rank: too large\nhint: sbora-client submit --help\n");
  EXPECT_EQ(out_, "");
  server_.create_error = AlreadyExists("JOB_EXISTS", "there is one");
  EXPECT_EQ(Run({"submit", "--model", "m", "--dataset", "d"}), 4);
  EXPECT_EQ(Run({"jobs", "get", "nothing"}), 3);
  EXPECT_EQ(Run({"jobs", "cancel", "x"}), 9);  // the fake server has no such call
}

TEST_F(CliTest, UsageErrorsNameTheNearestAndEndWithTwo) {
  EXPECT_EQ(Run({"submit", "--modle", "m"}), 2);
  EXPECT_THAT(err_, HasSubstr("did you mean --model instead of --modle?"));
  EXPECT_THAT(err_, HasSubstr("hint: sbora-client submit --help"));
  EXPECT_EQ(Run({"jbos", "list"}), 2);
  EXPECT_THAT(err_, HasSubstr("did you mean jobs instead of jbos?"));
  EXPECT_EQ(Run({}), 2);
  EXPECT_EQ(Run({"jobs", "get"}), 2);
  EXPECT_EQ(Run({"server", "info", "--output", "xml"}), 2);
  EXPECT_EQ(Run({"submit", "--dataset", "d"}), 2);
  EXPECT_THAT(err_, HasSubstr("--model is required"));
  EXPECT_EQ(Run({"submit", "--model", "m", "--dataset", "d", "--rank", "many"}), 2);
  EXPECT_THAT(err_, HasSubstr("adapter.rank: \"many\" is not a whole number"));
  EXPECT_TRUE(server_.creates.empty());
}

TEST_F(CliTest, GlobalFlagsAreTakenAnywhere) {
  ASSERT_EQ(Run({"--output", "json", "server", "info"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\"httpAddress\": \"127.0.0.1:7401\""));
  ASSERT_EQ(Run({"server", "info", "--output=yaml"}), 0) << err_;
  EXPECT_THAT(out_, StartsWith("version: \"1.2.3\"\naddress: \"127.0.0.1:7400\"\n"));
  ASSERT_EQ(Run({"submit", "--model", "m", "--dataset", "d", "--project", "lab"}), 0) << err_;
  EXPECT_EQ(server_.creates[0].fine_tuning_job().spec().model(), "projects/lab/models/m");
}

TEST_F(CliTest, ListsPageUpToTheLimitOrToTheEnd) {
  server_.page_items = 8;
  ASSERT_EQ(Run({"jobs", "list", "--limit", "5", "--state", "running,queued"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("j4"));
  EXPECT_THAT(out_, Not(HasSubstr("j5")));
  EXPECT_THAT(err_, HasSubstr("--all"));
  EXPECT_EQ(server_.lists[0].filter(), "state = RUNNING OR state = QUEUED");
  ASSERT_EQ(Run({"jobs", "list", "--all", "--output", "json"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("j7"));
  EXPECT_THAT(out_, HasSubstr("\"nextPageToken\": \"\""));
  EXPECT_EQ(Run({"jobs", "list", "--state", "jogging"}), 2);
}

TEST_F(CliTest, PullTakesAJobsNameAndChecksHashes) {
  v1::Adapter& adapter = server_.adapters["projects/default/adapters/tickets-1"];
  adapter.set_name("projects/default/adapters/tickets-1");
  *adapter.add_files() = server_.AddFile("adapter_config.json", "{}");
  const std::string target = (folder_.path() / "out").string();
  ASSERT_EQ(Run({"pull", kJob, "-o", target}), 0) << err_;
  EXPECT_TRUE(std::filesystem::exists(target + "/adapter_config.json"));
  EXPECT_EQ(Run({"adapters", "pull", "tickets-1", "-o", target}), 4);
  EXPECT_THAT(err_, HasSubstr("--force"));
  server_.objects["projects/default/objects/adapter_config.json"] = "[]";
  EXPECT_EQ(Run({"pull", "tickets-1", "-o", target, "--force"}), 7);
}

TEST_F(CliTest, PullOfAJobWithoutAdapterSaysItsState) {
  server_.jobs[kJob].set_state(v1::FineTuningJob::STATE_RUNNING);
  const std::vector<std::string> pull = {"pull", "tickets-1", "-o", (folder_.path() / "out").string()};
  EXPECT_EQ(Run(pull), 4);
  EXPECT_EQ(err_,
            "error: job tickets-1 is RUNNING: it has an adapter once it has SUCCEEDED; follow it with sbora-client "
            "watch tickets-1 [JOB_NOT_SUCCEEDED]\n");
  server_.jobs[kJob].set_state(v1::FineTuningJob::STATE_FAILED);
  EXPECT_EQ(Run(pull), 4);
  EXPECT_THAT(err_, HasSubstr("job tickets-1 is FAILED: it left no adapter; sbora-client jobs get tickets-1 says why "
                              "[JOB_NOT_SUCCEEDED]"));
  server_.jobs[kJob].set_state(v1::FineTuningJob::STATE_SUCCEEDED);  // and its adapter was deleted
  EXPECT_EQ(Run(pull), 3);
  EXPECT_THAT(err_, HasSubstr("[ADAPTER_NOT_FOUND]"));
}

TEST_F(CliTest, ImportUploadsAndWaitsForTheOperation) {
  const std::string file = (folder_.path() / "m.gguf").string();
  ASSERT_TRUE(WriteFileAtomic(file, "GGUF").ok());
  v1::Model model;
  model.set_name("projects/default/models/m");
  server_.operation_response.PackFrom(model);
  ASSERT_EQ(Run({"models", "import", file, "--name", "m", "--output", "json"}), 0) << err_;
  ASSERT_EQ(server_.imports.size(), 1u);
  EXPECT_EQ(server_.imports[0].model_id(), "m");
  EXPECT_EQ(server_.imports[0].files(0).path(), "m.gguf");
  EXPECT_EQ(server_.uploads[server_.imports[0].files(0).upload()], "GGUF");
  EXPECT_THAT(out_, HasSubstr("projects/default/models/m"));
}

TEST_F(CliTest, AnOperationThatAnswersWithAnotherMessageIsAFault) {
  const std::string file = (folder_.path() / "m.gguf").string();
  ASSERT_TRUE(WriteFileAtomic(file, "GGUF").ok());
  server_.adapters["projects/default/adapters/a"].set_name("projects/default/adapters/a");
  server_.operation_response.PackFrom(v1::Dataset());
  const std::string target = (folder_.path() / "out").string();
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"models", "import", file}, "sbora.v1.Model"},
      {{"adapters", "export", "a", "-o", target}, "sbora.v1.ExportAdapterResult"},
      {{"adapters", "merge", "a", "-o", target}, "sbora.v1.MergeAdaptersResult"}};
  for (const auto& [command, expected] : cases) {
    EXPECT_EQ(Run(command), 10) << command[1];
    EXPECT_THAT(err_, HasSubstr("operations/o1 answers with \"type.googleapis.com/sbora.v1.Dataset\" instead of "));
    EXPECT_THAT(err_, HasSubstr("instead of " + expected + "; "));
    EXPECT_THAT(err_, HasSubstr("of one version? [BAD_OPERATION_RESPONSE]"));
  }
  EXPECT_FALSE(std::filesystem::exists(target));
}

TEST_F(CliTest, FailedOperationEndsWithOne) {
  const std::string file = (folder_.path() / "m.gguf").string();
  ASSERT_TRUE(WriteFileAtomic(file, "GGUF").ok());
  server_.operation_error.set_code(3);
  server_.operation_error.set_message("truncated tensor data");
  EXPECT_EQ(Run({"models", "import", file}), 1);
  EXPECT_THAT(err_, HasSubstr("truncated tensor data"));
  server_.operation_error.set_code(1);
  EXPECT_EQ(Run({"models", "import", file}), 8);
}

TEST_F(CliTest, UploadTurnsAFolderOfCsvFilesIntoOneSet) {
  const std::filesystem::path questions = folder_.path() / "test";
  std::filesystem::create_directory(questions);
  ASSERT_TRUE(WriteFileAtomic(questions / "anatomy_test.csv", "q,a,b,c,d,C\n").ok());
  ASSERT_EQ(Run({"datasets", "upload", questions.string(), "--name", "mmlu"}), 0) << err_;
  ASSERT_EQ(server_.datasets.size(), 1u);
  EXPECT_EQ(server_.uploads[server_.datasets[0].upload()],
            "{\"subject\":\"anatomy\",\"question\":\"q\",\"choices\":[\"a\",\"b\",\"c\",\"d\"],\"answer\":\"C\"}\n");
  ASSERT_TRUE(WriteFileAtomic(questions / "anatomy_test.csv", "q,a,b,c,d,E\n").ok());
  EXPECT_EQ(Run({"datasets", "upload", questions.string(), "--name", "mmlu"}), 2);
  EXPECT_THAT(err_, HasSubstr("line 1: answer \"E\""));
}

TEST_F(CliTest, GeneratePrintsTheTexts) {
  ASSERT_EQ(Run({"generate", "--model", "m", "--prompt", "one", "--prompt", "two, three", "--prompt-template", "chat"}),
            0)
      << err_;
  EXPECT_THAT(std::vector<std::string>(server_.generates[0].prompts().begin(), server_.generates[0].prompts().end()),
              ElementsAre("one", "two, three"));
  EXPECT_EQ(server_.generates[0].prompt_template(), v1::PROMPT_TEMPLATE_CHAT);
  EXPECT_EQ(out_, "echo one\n---\necho two, three\n");
}

TEST_F(CliTest, EstimateTakesALocalConfig) {
  const std::string file = (folder_.path() / "config.json").string();
  ASSERT_TRUE(WriteFileAtomic(file, "{\"hidden_size\": 4}").ok());
  ASSERT_EQ(Run({"estimate", "--model-config", file, "--method", "lora", "--output", "json"}), 0) << err_;
  EXPECT_EQ(server_.estimates[0].model_config_json(), "{\"hidden_size\": 4}");
  EXPECT_THAT(out_, HasSubstr("\"trainableParameters\": \"123456\""));
  EXPECT_EQ(Run({"estimate", "--method", "lora"}), 2);
  const std::string job = (folder_.path() / "job.yaml").string();
  ASSERT_TRUE(WriteFileAtomic(job, "model: m\nadapter: {method: dora, rank: 8}\n").ok());
  ASSERT_EQ(Run({"estimate", job, "--rank", "16", "--tokens-per-sample", "40.5", "--supervised-share", "0.5"}), 0) << err_;
  EXPECT_EQ(server_.estimates[1].spec().adapter().method(), v1::METHOD_DORA);
  EXPECT_EQ(server_.estimates[1].spec().adapter().rank(), 16);
  EXPECT_EQ(server_.estimates[1].tokens_per_sample(), 40.5);
  EXPECT_EQ(server_.estimates[1].supervised_share(), 0.5);
  EXPECT_THAT(out_, HasSubstr("trainable parameters  123,456"));
}

TEST_F(CliTest, AModelIsExportedAndItsHashesChecked) {
  v1::Model& model = server_.models["projects/default/models/m"];
  model.set_name("projects/default/models/m");
  *model.add_files() = server_.AddFile("config.json", "{}");
  const std::string target = (folder_.path() / "out").string();
  ASSERT_EQ(Run({"models", "export", "m", "-o", target}), 0) << err_;
  EXPECT_TRUE(std::filesystem::exists(target + "/config.json"));
  EXPECT_EQ(Run({"models", "export", "m", "-o", target}), 4);
  EXPECT_THAT(err_, HasSubstr("--force"));
  server_.objects["projects/default/objects/config.json"] = "[]";
  EXPECT_EQ(Run({"models", "export", "m", "-o", target, "--force"}), 7);
  EXPECT_EQ(Run({"models", "export", "other", "-o", target, "--force"}), 3);
}

TEST_F(CliTest, WhatTheServerHasNotYetSaysSo) {
  server_.create_error = Unimplemented("FEATURE_NOT_IMPLEMENTED", "full fine-tuning is not implemented yet");
  EXPECT_EQ(Run({"submit", "--model", "m", "--dataset", "d", "--method", "full"}), 9);
  EXPECT_THAT(err_, HasSubstr("full fine-tuning is not implemented yet"));
}

TEST_F(CliTest, DiffShowsVerdictsAndWhereAdaptersMeet) {
  v1::AdapterPair& exact = *server_.comparison.add_pairs();
  exact.set_first("projects/default/adapters/a");
  exact.set_second("projects/default/adapters/b");
  exact.set_merges_exactly(true);
  v1::AdapterPair& meeting = *server_.comparison.add_pairs();
  meeting.set_first("projects/default/adapters/a");
  meeting.set_second("projects/default/adapters/c");
  v1::ModuleOverlap& module = *meeting.add_modules();
  module.set_module("model.layers.0.self_attn.q_proj");
  module.set_first_axis("input");
  module.set_second_axis("input");
  module.set_shared_coordinates(3);
  module.set_shared_weights(1728);
  module.set_share(0.09375);
  server_.comparison.mutable_changed_weights()->set_changed(1000);
  server_.comparison.mutable_changed_weights()->set_in_targets(40000);
  server_.comparison.mutable_changed_weights()->set_in_model(100000);
  ASSERT_EQ(Run({"adapters", "diff", "a", "b", "c"}), 0) << err_;
  ASSERT_EQ(server_.comparisons.size(), 1u);
  EXPECT_EQ(server_.comparisons[0].parent(), "projects/default");
  EXPECT_THAT(server_.comparisons[0].adapters(), ElementsAre("a", "b", "c"));
  EXPECT_THAT(out_, ::testing::ContainsRegex("a +b +yes +0 of 0"));
  EXPECT_THAT(out_, ::testing::ContainsRegex("a +c +no +1 of 1"));
  EXPECT_THAT(out_, ::testing::ContainsRegex("q_proj +input, input +3 +1,728 +9.38 %"));
  EXPECT_THAT(out_, HasSubstr("1,000 of 40,000 weights of the target modules changed (2.5 %), 1 % of the model"));
  ASSERT_EQ(Run({"adapters", "diff", "a", "b", "--output", "json"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\"mergesExactly\": true"));
  EXPECT_EQ(Run({"adapters", "diff"}), 2);
}

TEST_F(CliTest, MergeSendsWeightsAndSaysWhatStayed) {
  for (const char* id : {"a", "b"}) {
    const std::string name = std::string("projects/default/adapters/") + id;
    server_.adapters[name].set_name(name);
  }
  v1::MergeAdaptersResult result;
  *result.add_files() = server_.AddFile("config.json", "{}");
  server_.operation_response.PackFrom(result);
  v1::AdapterOperationMetadata metadata;
  metadata.mutable_changed_weights()->set_changed(5);
  metadata.mutable_changed_weights()->set_in_targets(1000);
  metadata.mutable_changed_weights()->set_in_model(2000);
  server_.operation_metadata.PackFrom(metadata);
  const std::string target = (folder_.path() / "merged").string();
  ASSERT_EQ(Run({"adapters", "merge", "--weights", "0.5,2", "a", "b", "--allow-overlap", "-o", target}), 0) << err_;
  ASSERT_EQ(server_.merges.size(), 1u);
  EXPECT_THAT(server_.merges[0].weights(), ElementsAre(0.5, 2.0));
  EXPECT_TRUE(server_.merges[0].allow_overlap());
  EXPECT_EQ(server_.merges[0].into(), v1::MERGE_TARGET_UNSPECIFIED);
  EXPECT_THAT(err_, HasSubstr("5 of 1,000 weights of the target modules changed (0.5 %)"));
  EXPECT_TRUE(std::filesystem::exists(target + "/config.json"));
  // Rows of an NF4 base are rounded again, which the caller should know.
  v1::Adapter& rows = server_.adapters["projects/default/adapters/b"];
  rows.set_method("sbora_fb");
  rows.set_quantization(v1::QUANTIZATION_NF4);
  ASSERT_EQ(Run({"adapters", "merge", "b", "-o", target, "--force"}), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("evaluate the merged model"));
  ASSERT_EQ(Run({"adapters", "merge", "b", "--into", "float", "-o", target, "--force"}), 0) << err_;
  EXPECT_EQ(server_.merges.back().into(), v1::MERGE_TARGET_FLOAT);
  EXPECT_THAT(err_, ::testing::Not(HasSubstr("evaluate the merged model")));
  EXPECT_EQ(Run({"adapters", "merge", "b", "--into", "int8", "-o", target, "--force"}), 2);
}

TEST_F(CliTest, APatchIsAppliedAndReversedWithoutAServer) {
  const auto path = [this](const std::string& name) { return (folder_.path() / name).string(); };
  core::testing::WriteTinyModel(path("base"), core::testing::TinyConfig(core::DType::kBF16));
  core::testing::WriteTinyAdapter(path("adapter"), path("base"), "task");
  ASSERT_TRUE(core::ExportPatch(path("base"), path("adapter"), path("patch")).ok());
  ASSERT_EQ(Run({"adapters", "apply-patch", path("patch"), "--model-folder", path("base"), "-o", path("merged")}), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("wrote 3 files"));
  EXPECT_EQ(Run({"adapters", "apply-patch", path("patch"), "--model-folder", path("merged"), "-o", path("twice")}), 4);
  EXPECT_THAT(err_, HasSubstr("BASE_HASH_MISMATCH"));
  ASSERT_EQ(Run({"adapters", "reverse-patch", path("patch"), "--model-folder", path("merged"), "-o", path("restored")}), 0) << err_;
  EXPECT_EQ(ReadFile(path("restored") + "/model.safetensors", 1 << 20).value(),
            ReadFile(path("base") + "/model.safetensors", 1 << 20).value());
}

TEST_F(CliTest, HelpAndVersionGoToStdout) {
  EXPECT_EQ(Run({"--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("Exit codes: 0 ok"));
  EXPECT_EQ(Run({"submit", "--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("--learning-rate number"));
  EXPECT_THAT(out_, HasSubstr("sbora_fa|sbora_fb|lora|dora|full"));
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(out_, StartsWith("sbora-client 0."));
  EXPECT_EQ(err_, "");
}

TEST_F(CliTest, CompletionKnowsVerbsAndFlags) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    ASSERT_EQ(Run({"completion", shell}), 0) << err_;
    EXPECT_THAT(out_, HasSubstr("learning-rate")) << shell;
    EXPECT_THAT(out_, HasSubstr("drain")) << shell;
  }
  EXPECT_EQ(Run({"completion", "tcsh"}), 2);
}

}  // namespace
}  // namespace sbora::client
