// NF4 through the API: evaluations of a quantised base, merges into NF4, models that are in NF4 themselves.
#include "core/nf4_config.h"
#include "tests/contract/server/contract_fixture.h"
#include "tests/unit/data/tiny_text_model.h"

namespace sbora::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Adapters = v1::AdapterService::Stub;
using Evaluations = v1::EvaluationService::Stub;

class Nf4Test : public ContractTest {
 protected:
  void SetUp() override {
    ContractTest::SetUp();
    MakeModel("base");
    MakeDataset("data");
  }

  /// An adapter of job `id`, on `model` held as asked.
  void Train(const std::string& id, v1::Method method, v1::Quantization quantization, bool double_quantization = true,
             const std::string& model = "base") {
    v1::CreateFineTuningJobRequest request = GoodJob(id);
    v1::FineTuningSpec& spec = *request.mutable_fine_tuning_job()->mutable_spec();
    spec.set_model(model);
    spec.set_quantization(quantization);
    spec.set_double_quantization(double_quantization);
    spec.mutable_adapter()->set_method(method);
    v1::FineTuningJob job;
    const grpc::Status created = Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, request, &job);
    ASSERT_TRUE(created.ok()) << FromGrpc(created);
    FinishJob(id);
  }

  /// What an import of a merge into NF4 leaves.
  void MakeMergedModel(const std::string& id) {
    google::longrunning::Operation operation;
    ASSERT_TRUE(ImportModel(id, &operation).ok());
    const worker::v1::Lease lease = NextLease();
    v1::GetModelRequest base;
    base.set_name("projects/default/models/base");
    v1::Model plain;
    ASSERT_TRUE(Call(*models_, &v1::ModelService::Stub::GetModel, base, &plain).ok());
    const auto shapes = core::ParseHfConfig(plain.config_json());
    ASSERT_TRUE(shapes.ok()) << shapes.status();
    const core::Nf4Config config{.model = *shapes, .double_quantization = true, .base_hash = std::string(64, 'a'),
                                 .merged_hash = std::string(64, 'e')};
    worker::v1::TaskResult result;
    worker::v1::ImportResult& import = *result.mutable_import();
    import.set_base_hash(config.merged_hash);
    import.set_architecture("LlamaForCausalLM");
    import.set_context_tokens(256);
    import.set_config_json(core::ToJson(config));
    import.set_quantization(v1::QUANTIZATION_NF4);
    import.set_double_quantization(true);
    const grpc::Status committed = Commit(lease, result, {{"config.json", core::ToJson(config)},
                                                          {"tokenizer.json", data::testing::TinyTokenizerJson()},
                                                          {"tokenizer_config.json", R"({"eos_token": "<|im_end|>"})"},
                                                          {"model.safetensors", "nf4"}});
    ASSERT_TRUE(committed.ok()) << FromGrpc(committed);
  }

  grpc::Status Merge(const std::vector<std::string>& names, v1::MergeTarget into = v1::MERGE_TARGET_UNSPECIFIED) {
    v1::MergeAdaptersRequest request;
    request.set_parent(kProject);
    for (const std::string& name : names) request.add_adapters(name);
    request.set_into(into);
    request.set_validate_only(true);
    operation_ = {};
    return Call(*adapters_, &Adapters::MergeAdapters, request, &operation_);
  }
  grpc::Status Evaluate(const v1::EvaluationSpec& wanted) {
    v1::CreateEvaluationJobRequest request;
    request.set_parent(kProject);
    *request.mutable_evaluation_job()->mutable_spec() = wanted;
    request.mutable_evaluation_job()->mutable_spec()->set_dataset("data");
    return Call(*evaluations_, &Evaluations::CreateEvaluationJob, request, &evaluation_);
  }

  /// What the worker is told of the next evaluation, which then ends: the worker has one slot.
  v1::EvaluationSpec RunEvaluation() {
    const worker::v1::Lease lease = NextLease();
    EXPECT_TRUE(lease.task().has_evaluate()) << lease.DebugString();
    worker::v1::TaskResult result;
    result.mutable_evaluate()->set_samples(1);
    EXPECT_TRUE(Commit(lease, result, {{"examples.jsonl", "{}\n"}}).ok());
    return lease.task().evaluate().spec();
  }

  google::longrunning::Operation operation_;
  v1::EvaluationJob evaluation_;
};

TEST_F(Nf4Test, ABaseIsEvaluatedUnderNf4AndTheJobSaysSo) {
  v1::EvaluationSpec spec;
  spec.set_model("base");
  ASSERT_TRUE(Evaluate(spec).ok());
  EXPECT_EQ(evaluation_.spec().base_quantization(), v1::QUANTIZATION_NONE);
  EXPECT_FALSE(RunEvaluation().has_double_quantization());
  spec.set_base_quantization(v1::QUANTIZATION_NF4);
  ASSERT_TRUE(Evaluate(spec).ok());
  EXPECT_EQ(evaluation_.spec().base_quantization(), v1::QUANTIZATION_NF4);
  EXPECT_TRUE(evaluation_.spec().double_quantization());
  const v1::EvaluationSpec leased = RunEvaluation();
  EXPECT_EQ(leased.base_quantization(), v1::QUANTIZATION_NF4);
  EXPECT_TRUE(leased.double_quantization());
  spec.set_double_quantization(false);
  ASSERT_TRUE(Evaluate(spec).ok());
  EXPECT_FALSE(evaluation_.spec().double_quantization());
  spec.set_base_quantization(v1::QUANTIZATION_UNSPECIFIED);
  EXPECT_THAT(ViolatedFields(Evaluate(spec)), ElementsAre("evaluation_job.spec.double_quantization"));
  spec.set_base_quantization(static_cast<v1::Quantization>(77));
  spec.clear_double_quantization();
  EXPECT_THAT(ViolatedFields(Evaluate(spec)), ElementsAre("evaluation_job.spec.base_quantization"));
}

TEST_F(Nf4Test, AnAdapterKeepsTheFormOfItsBase) {
  Train("on-nf4", v1::METHOD_SBORA_FA, v1::QUANTIZATION_NF4, false);
  v1::EvaluationSpec spec;
  spec.set_adapter("on-nf4");
  ASSERT_TRUE(Evaluate(spec).ok());
  EXPECT_EQ(evaluation_.spec().base_quantization(), v1::QUANTIZATION_NF4);
  EXPECT_FALSE(evaluation_.spec().double_quantization());
  spec.set_base_quantization(v1::QUANTIZATION_NF4);  // with double quantisation, by default
  const grpc::Status other = Evaluate(spec);
  EXPECT_TRUE(Fails(other, grpc::FAILED_PRECONDITION, "BASE_QUANTIZATION_MISMATCH"));
  EXPECT_THAT(other.error_message(), HasSubstr("leave base_quantization out"));
  EXPECT_THAT(ViolatedFields(other), ElementsAre("evaluation_job.spec.base_quantization"));
  spec.set_double_quantization(false);
  EXPECT_TRUE(Evaluate(spec).ok());
  v1::GenerateRequest generate;
  generate.set_parent(kProject);
  generate.set_adapter("on-nf4");
  generate.add_prompts("x");
  generate.set_base_quantization(v1::QUANTIZATION_NONE);
  v1::GenerateResponse response;
  EXPECT_TRUE(Fails(Call(*evaluations_, &Evaluations::Generate, generate, &response), grpc::FAILED_PRECONDITION,
                    "BASE_QUANTIZATION_MISMATCH"));
}

TEST_F(Nf4Test, MergesGoIntoTheBaseAsItWasHeldOrIntoFloat) {
  Train("fa", v1::METHOD_SBORA_FA, v1::QUANTIZATION_NF4);
  Train("lora", v1::METHOD_LORA, v1::QUANTIZATION_NF4);
  Train("dora", v1::METHOD_DORA, v1::QUANTIZATION_NF4);
  Train("plain", v1::METHOD_SBORA_FB, v1::QUANTIZATION_NONE);
  Train("plain-scales", v1::METHOD_SBORA_FA, v1::QUANTIZATION_NF4, false);
  for (const v1::MergeTarget into : {v1::MERGE_TARGET_UNSPECIFIED, v1::MERGE_TARGET_NF4, v1::MERGE_TARGET_FLOAT}) {
    const grpc::Status merged = Merge({"fa"}, into);
    ASSERT_TRUE(merged.ok()) << FromGrpc(merged);
    v1::AdapterOperationMetadata metadata;
    ASSERT_TRUE(operation_.metadata().UnpackTo(&metadata));
    EXPECT_EQ(metadata.has_changed_weights(), into != v1::MERGE_TARGET_FLOAT);
  }
  for (const char* dense : {"lora", "dora"}) {
    const grpc::Status refused = Merge({dense});
    EXPECT_TRUE(Fails(refused, grpc::FAILED_PRECONDITION, "MERGE_DENSE_NF4"));
    EXPECT_THAT(refused.error_message(), HasSubstr("--into float"));
    EXPECT_TRUE(Merge({dense}, v1::MERGE_TARGET_FLOAT).ok()) << dense;
  }
  EXPECT_TRUE(Fails(Merge({"plain"}, v1::MERGE_TARGET_NF4), grpc::FAILED_PRECONDITION, "ADAPTER_NOT_NF4"));
  EXPECT_TRUE(Merge({"plain"}).ok());
  EXPECT_TRUE(Fails(Merge({"fa", "plain"}, v1::MERGE_TARGET_FLOAT), grpc::FAILED_PRECONDITION, "BASES_DIFFER"));
  EXPECT_TRUE(Fails(Merge({"fa", "plain-scales"}), grpc::FAILED_PRECONDITION, "BASES_DIFFER"));
  EXPECT_TRUE(Fails(Merge({"fa"}, static_cast<v1::MergeTarget>(9)), grpc::INVALID_ARGUMENT, "BAD_MERGE_TARGET"));
  v1::ExportAdapterRequest request;
  request.set_name("projects/default/adapters/fa");
  request.set_format(v1::EXPORT_FORMAT_GGUF);
  EXPECT_TRUE(Fails(Call(*adapters_, &Adapters::ExportAdapter, request, &operation_), grpc::UNIMPLEMENTED, "MERGE_QUANTIZED_BASE"));
  request.set_format(v1::EXPORT_FORMAT_PATCH);
  ASSERT_TRUE(Call(*adapters_, &Adapters::ExportAdapter, request, &operation_).ok());
  EXPECT_EQ(NextLease().task().export_().base_hash(), std::string(64, 'a'));
}

TEST_F(Nf4Test, AModelInNf4IsHeldAsItIs) {
  MakeMergedModel("merged");
  v1::GetModelRequest get;
  get.set_name("projects/default/models/merged");
  v1::Model model;
  ASSERT_TRUE(Call(*models_, &v1::ModelService::Stub::GetModel, get, &model).ok());
  EXPECT_EQ(model.quantization(), v1::QUANTIZATION_NF4);
  EXPECT_EQ(model.base_hash(), std::string(64, 'e'));
  v1::EvaluationSpec spec;
  spec.set_model("merged");
  ASSERT_TRUE(Evaluate(spec).ok());
  EXPECT_EQ(evaluation_.spec().base_quantization(), v1::QUANTIZATION_NF4);
  RunEvaluation();
  spec.set_base_quantization(v1::QUANTIZATION_NONE);
  EXPECT_TRUE(Fails(Evaluate(spec), grpc::FAILED_PRECONDITION, "BASE_QUANTIZATION_MISMATCH"));
  v1::CreateFineTuningJobRequest request = GoodJob("next");
  request.mutable_fine_tuning_job()->mutable_spec()->set_model("merged");
  v1::FineTuningJob job;
  const auto create = [&] { return Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, request, &job); };
  const grpc::Status plain = create();
  EXPECT_TRUE(Fails(plain, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_THAT(ViolatedFields(plain), ElementsAre("fine_tuning_job.spec.quantization"));
  request.mutable_fine_tuning_job()->mutable_spec()->set_quantization(v1::QUANTIZATION_NF4);
  request.mutable_fine_tuning_job()->mutable_spec()->set_double_quantization(false);
  EXPECT_THAT(ViolatedFields(create()), ElementsAre("fine_tuning_job.spec.double_quantization"));
  Train("next", v1::METHOD_SBORA_FA, v1::QUANTIZATION_NF4, true, "merged");
  EXPECT_TRUE(Merge({"next"}).ok());
  EXPECT_TRUE(Fails(Merge({"next"}, v1::MERGE_TARGET_FLOAT), grpc::FAILED_PRECONDITION, "NF4_MERGED_BASE"));
}

}  // namespace
}  // namespace sbora::server
