/// What a user does, on real programs: import, upload, submit, watch, pause, cancel, pull, export, merge, evaluate; and
/// what they are told when they get it wrong.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "core/adapter.h"
#include "core/full_checkpoint.h"
#include "core/peft_export.h"
#include "tests/integration/service/service_fixture.h"

namespace sbora::testing {
namespace {

using std::chrono::seconds;

using ServiceTest = SharedServiceTest;

TEST_F(ServiceTest, AJobRunsToItsAdapterWhichCanBePulledExportedMergedAndEvaluated) {
  auto spec = SmallSpec(12);
  spec.mutable_data()->set_validation_samples(5);
  const auto job = service().Submit("whole", spec);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_GT(job->trainable_parameters(), 0);
  int64_t metrics = 0;
  const auto ended = service().client().Watch(job->name(), {}, [&](const v1::WatchFineTuningJobResponse& message) {
    metrics += message.has_metric() ? 1 : 0;
    return OkStatus();
  });
  ASSERT_TRUE(ended.ok()) << ended.status() << service().Logs();
  ASSERT_EQ(ended->state(), v1::FineTuningJob::STATE_SUCCEEDED) << ended->failure().message() << service().Logs();
  EXPECT_EQ(metrics, 12);

  const auto adapter = service().client().GetAdapter(ended->adapter());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_TRUE(adapter->has_validation_loss());
  const auto pulled = service().directory() / "pulled";
  ASSERT_TRUE(service().client().Pull(adapter->files(), adapter->manifest_sha256(), pulled, {}).ok());
  EXPECT_TRUE(std::filesystem::exists(pulled / "adapter_model.safetensors"));

  v1::ExportAdapterRequest request;
  request.set_name(adapter->name());
  request.set_format(v1::EXPORT_FORMAT_PEFT);
  auto operation = service().client().ExportAdapter(request);
  ASSERT_TRUE(operation.ok()) << operation.status();
  operation = service().client().WaitOperation(*operation, {}, {});
  ASSERT_TRUE(operation.ok() && !operation->has_error()) << operation->error().message();
  v1::ExportAdapterResult exported;
  ASSERT_TRUE(operation->response().UnpackTo(&exported));
  EXPECT_EQ(exported.files_size(), 2);

  request.set_format(v1::EXPORT_FORMAT_GGUF);
  operation = service().client().ExportAdapter(request);
  ASSERT_TRUE(operation.ok()) << operation.status();
  operation = service().client().WaitOperation(*operation, {}, {});
  ASSERT_TRUE(operation.ok() && !operation->has_error()) << operation->error().message();
  ASSERT_TRUE(operation->response().UnpackTo(&exported));
  ASSERT_EQ(exported.files_size(), 1);
  EXPECT_EQ(exported.files(0).path(), "model-f16.gguf");

  v1::MergeAdaptersRequest merge;
  merge.add_adapters(adapter->name());
  operation = service().client().MergeAdapters(merge);
  ASSERT_TRUE(operation.ok()) << operation.status();
  operation = service().client().WaitOperation(*operation, {}, {});
  ASSERT_TRUE(operation.ok() && !operation->has_error()) << operation->error().message();

  v1::CreateEvaluationJobRequest evaluate;
  evaluate.mutable_evaluation_job()->mutable_spec()->set_adapter(adapter->name());
  evaluate.mutable_evaluation_job()->mutable_spec()->set_dataset("colors");
  evaluate.mutable_evaluation_job()->mutable_spec()->mutable_generation()->set_max_new_tokens(4);
  auto evaluation = service().client().CreateEvaluation(evaluate);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  evaluation = service().client().WaitEvaluation(evaluation->name(), {}, {});
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_EQ(evaluation->state(), v1::EvaluationJob::STATE_SUCCEEDED) << evaluation->failure().message();
  const auto evaluations = service().client().ListEvaluations({});
  ASSERT_TRUE(evaluations.ok()) << evaluations.status();
  EXPECT_EQ(evaluations->evaluation_jobs(0).name(), evaluation->name());
  EXPECT_EQ(service().client().CancelEvaluation(evaluation->name()).status().reason(), "JOB_ENDED");
  EXPECT_TRUE(service().client().DeleteEvaluation(evaluation->name()).ok());
  EXPECT_EQ(service().client().GetEvaluation(evaluation->name()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(evaluation->result().samples(), 37);
  EXPECT_GT(evaluation->result().loss(), 0.0);
}

TEST_F(ServiceTest, AJobOnAnNf4BaseIsRepeatableAndItsAdapterKeepsToThatBase) {
  auto spec = SmallSpec(12);
  spec.set_quantization(v1::QUANTIZATION_NF4);
  for (const char* id : {"on-nf4", "on-nf4-again"}) {  // the second finds the base in the worker's cache
    ASSERT_TRUE(service().Submit(id, spec).ok());
    const auto done = service().WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(done.ok()) << done.status() << service().Logs();
  }
  EXPECT_EQ(*service().AdapterHash("on-nf4"), *service().AdapterHash("on-nf4-again"));
  const auto adapter = service().client().GetAdapter(service().client().ResourceName("adapters", "on-nf4"));
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->quantization(), v1::QUANTIZATION_NF4);
  EXPECT_TRUE(adapter->double_quantization());

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

TEST_F(ServiceTest, LoraAndDoraRunToAdaptersThatOthersCanLoad) {
  auto lora = SmallSpec(6);
  lora.mutable_adapter()->set_method(v1::METHOD_LORA);
  auto frozen = lora;
  frozen.mutable_adapter()->set_frozen_a(v1::FROZEN_FACTOR_RANDOM);
  frozen.mutable_adapter()->set_rank_stabilized(true);
  auto dora = SmallSpec(6);
  dora.mutable_adapter()->set_method(v1::METHOD_DORA);
  for (const auto& [id, spec] : {std::pair{"lora", lora}, {"lora-fa", frozen}, {"dora", dora}}) {
    SCOPED_TRACE(id);
    const auto job = service().Submit(id, spec);
    ASSERT_TRUE(job.ok()) << job.status();
    const auto ended = service().WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(ended.ok()) << ended.status() << service().Logs();
    const auto adapter = service().client().GetAdapter(service().client().ResourceName("adapters", id));
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ(adapter->method(), spec.adapter().method() == v1::METHOD_DORA ? "dora" : "lora");

    const auto pulled = service().directory() / id;
    ASSERT_TRUE(service().client().Pull(adapter->files(), adapter->manifest_sha256(), pulled, {}).ok());
    const auto folder = core::AdapterFolder::Open(pulled);
    ASSERT_TRUE(folder.ok()) << folder.status();
    int64_t trained = 0;
    for (const auto& tensor : folder->tensors().tensors()) {
      const bool is_a = tensor.name.ends_with("lora_A.weight");
      if (!is_a || folder->config().frozen_a == core::FrozenFactor::kNone) trained += tensor.elements();
    }
    EXPECT_EQ(adapter->trainable_parameters(), trained);
    EXPECT_EQ(folder->config().rank_stabilized, spec.adapter().rank_stabilized());
    ASSERT_TRUE(core::ExportPeft(pulled, service().directory() / (std::string(id) + "-peft")).ok());
  }
}

TEST_F(ServiceTest, FullFineTuningLeavesACheckpointThatIsPulledEvaluatedAndImported) {
  auto spec = SmallSpec(8);
  spec.mutable_adapter()->set_method(v1::METHOD_FULL);
  EXPECT_EQ(service().Submit("full-dropout", spec).status().code(), StatusCode::kInvalidArgument);
  spec.mutable_adapter()->set_dropout(0);
  ASSERT_TRUE(service().Submit("full", spec).ok());
  const auto done = service().WaitForState("full", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(done.ok()) << done.status() << service().Logs();
  EXPECT_EQ(done->trainable_parameters(), core::ParameterCount(TinyModelConfig()));
  const auto adapter = service().client().GetAdapter(service().client().ResourceName("adapters", "full"));
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->method(), "full");
  EXPECT_EQ(adapter->rank(), 0);
  const auto pulled = service().directory() / "full-pulled";
  ASSERT_TRUE(service().client().Pull(adapter->files(), adapter->manifest_sha256(), pulled, {}).ok());
  const auto checkpoint = core::OpenFullCheckpoint(pulled, adapter->base_hash());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();

  v1::CreateEvaluationJobRequest evaluate;
  evaluate.mutable_evaluation_job()->mutable_spec()->set_adapter(adapter->name());
  evaluate.mutable_evaluation_job()->mutable_spec()->set_dataset("colors");
  evaluate.mutable_evaluation_job()->mutable_spec()->mutable_generation()->set_max_new_tokens(2);
  auto evaluation = service().client().CreateEvaluation(evaluate);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  evaluation = service().client().WaitEvaluation(evaluation->name(), {}, {});
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_EQ(evaluation->state(), v1::EvaluationJob::STATE_SUCCEEDED) << evaluation->failure().message();

  v1::MergeAdaptersRequest merge;
  merge.add_adapters(adapter->name());
  EXPECT_EQ(service().client().MergeAdapters(merge).status().reason(), "FULL_CHECKPOINT");
  EXPECT_TRUE(service().ImportModel(pulled, "tiny-tuned").ok());  // and further work can start from it
}

TEST_F(ServiceTest, ThePausedJobGoesOnFromItsCheckpointAndEndsWithTheSameBytes) {
  ASSERT_TRUE(service().Submit("undisturbed", SmallSpec(400)).ok());
  ASSERT_TRUE(service().WaitForState("undisturbed", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120)).ok()) << service().Logs();

  const auto id = HitARunningJob("paused", [&](const std::string& job) {
    EXPECT_TRUE(service().Submit(job, SmallSpec(400)).ok());
    EXPECT_TRUE(service().WaitForStep(job, 10, seconds(120)).ok());
    const Status pause = service().client().PauseJob(Job(job)).status();
    EXPECT_TRUE(pause.ok() || pause.reason() == "JOB_ENDED") << pause;
    // A result that was on its way is committed all the same.
    const auto paused = service().WaitForState(job, v1::FineTuningJob::STATE_PAUSED, seconds(120));
    if (paused.ok()) return true;
    EXPECT_EQ(service().Get(job)->state(), v1::FineTuningJob::STATE_SUCCEEDED) << paused.status() << service().Logs();
    return HasFailure();
  });
  ASSERT_TRUE(id.ok()) << id.status() << service().Logs();
  EXPECT_TRUE(service().Trainers().empty());
  ASSERT_TRUE(service().client().ResumeJob(Job(*id)).ok());
  const auto done = service().WaitForState(*id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(done.ok()) << done.status() << service().Logs();
  EXPECT_EQ(*service().AdapterHash(*id), *service().AdapterHash("undisturbed"));
}

TEST_F(ServiceTest, CancelEndsTheGangWithinSeconds) {
  ASSERT_TRUE(service().Submit("cancelled", SmallSpec(1'000'000)).ok());
  ASSERT_TRUE(service().WaitForStep("cancelled", 2, seconds(120)).ok()) << service().Logs();
  ASSERT_TRUE(service().client().CancelJob(Job("cancelled")).ok());
  EXPECT_TRUE(service().WaitForState("cancelled", v1::FineTuningJob::STATE_CANCELLED, seconds(15)).ok()) << service().Logs();
  EXPECT_TRUE(WaitUntil([&] { return service().Trainers().empty(); }, seconds(10)));
  const auto again = service().client().CancelJob(Job("cancelled"));
  EXPECT_EQ(again.status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(ServiceTest, TheSameRequestIdMakesOneJob) {
  v1::CreateFineTuningJobRequest request;
  request.set_request_id("5f0c8f0a-6f0e-4a51-9a67-0a7b3f1f2c11");
  request.set_fine_tuning_job_id("once");
  *request.mutable_fine_tuning_job()->mutable_spec() = SmallSpec(1);
  const auto first = service().client().Submit(request);
  const auto second = service().client().Submit(request);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->uid(), second->uid());
  *request.mutable_fine_tuning_job()->mutable_spec() = SmallSpec(2);
  const auto other = service().client().Submit(request);
  EXPECT_EQ(other.status().reason(), "REQUEST_ID_REUSED") << other.status();
}

TEST_F(ServiceTest, BadSpecsAreRefusedBeforeAWorkerIsTaken) {
  auto spec = SmallSpec(1);
  spec.mutable_adapter()->set_rank(100000);
  auto refused = service().Submit("too-wide", spec);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument) << refused.status();
  ASSERT_FALSE(refused.status().violations().empty());
  EXPECT_EQ(refused.status().violations()[0].field, "fine_tuning_job.spec.adapter.rank");

  spec = SmallSpec(1);
  spec.mutable_adapter()->add_target_modules("attention");
  refused = service().Submit("no-module", spec);
  ASSERT_FALSE(refused.status().violations().empty());
  EXPECT_EQ(refused.status().violations()[0].field, "fine_tuning_job.spec.adapter.target_modules");

  spec = SmallSpec(1);
  spec.set_model("nobody");
  EXPECT_EQ(service().Submit("no-model", spec).status().code(), StatusCode::kNotFound);
}

TEST_F(ServiceTest, BadDataIsRefusedWithItsLine) {
  const auto file = service().directory() / "broken.jsonl";
  std::ofstream(file) << "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 7}\n";
  const Status status = service().UploadDataset(file, "broken");
  EXPECT_EQ(status.reason(), "INVALID_DATASET") << status;
  EXPECT_NE(status.ToString().find("2"), std::string::npos) << status;
  const auto missing = service().client().GetDataset(service().client().ResourceName("datasets", "broken"));
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
}

TEST_F(ServiceTest, ABaseThatIsNoLlamaIsRefused) {
  const auto folder = service().directory() / "gpt2";
  ASSERT_TRUE(WriteTinyModel(folder).ok());
  std::ofstream(folder / "config.json") << R"({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 8})";
  const Status status = service().ImportModel(folder, "gpt2");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("GPT2LMHeadModel"), std::string::npos) << status;
}

TEST_F(ServiceTest, ATruncatedModelIsRefused) {
  const auto folder = service().directory() / "short";
  ASSERT_TRUE(WriteTinyModel(folder).ok());
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") {
      std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) - 16);
    }
  }
  const Status status = service().ImportModel(folder, "short");
  EXPECT_FALSE(status.ok());
  const auto missing = service().client().GetModel(service().client().ResourceName("models", "short"));
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace sbora::testing
