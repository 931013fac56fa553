/// QSBoRA from end to end, on real programs: the NF4 base is evaluated, an adapter of it merged into NF4, the merged model
/// pulled, imported, evaluated and trained on, taken apart by its patch.
#include <gtest/gtest.h>

#include "core/nf4_model.h"
#include "core/patch.h"
#include "tests/integration/service/service_fixture.h"

namespace sbora::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

class ServiceNf4Test : public OwnServiceTest {
 protected:
  void Train(const std::string& id, v1::Method method, const std::string& model = "tiny") {
    auto spec = SmallSpec(12);
    spec.set_model(model);
    spec.set_quantization(v1::QUANTIZATION_NF4);
    spec.mutable_adapter()->set_method(method);
    spec.mutable_training()->set_learning_rate(1e-2);
    ASSERT_TRUE(service().Submit(id, spec).ok());
    const auto done = service().WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(done.ok()) << done.status() << service().Logs();
  }
  StatusOr<double> Loss(v1::EvaluationSpec spec) {
    v1::CreateEvaluationJobRequest request;
    spec.set_dataset("colors");
    spec.set_exact_match(false);
    *request.mutable_evaluation_job()->mutable_spec() = spec;
    SBORA_ASSIGN_OR_RETURN(auto job, client().CreateEvaluation(request));
    SBORA_ASSIGN_OR_RETURN(job, client().WaitEvaluation(job.name(), {}, {}));
    if (job.state() == v1::EvaluationJob::STATE_SUCCEEDED) return job.result().loss();
    return Internal("EVALUATION", job.failure().message());
  }
  double LossOfModel(const std::string& model, v1::Quantization quantization = v1::QUANTIZATION_UNSPECIFIED) {
    v1::EvaluationSpec spec;
    spec.set_model(model);
    spec.set_base_quantization(quantization);
    const auto loss = Loss(spec);
    EXPECT_TRUE(loss.ok()) << loss.status() << service().Logs();
    return loss.ok() ? *loss : -1;
  }
  double LossOfAdapter(const std::string& adapter) {
    v1::EvaluationSpec spec;
    spec.set_adapter(adapter);
    const auto loss = Loss(spec);
    EXPECT_TRUE(loss.ok()) << loss.status() << service().Logs();
    return loss.ok() ? *loss : -1;
  }
  Status Merge(const std::string& adapter, const std::string& name, v1::MergeTarget into = v1::MERGE_TARGET_UNSPECIFIED) {
    v1::MergeAdaptersRequest request;
    request.add_adapters(adapter);
    request.set_into(into);
    return PullResult<v1::MergeAdaptersResult>(client().MergeAdapters(request), name);
  }
};

TEST_F(ServiceNf4Test, AMergeIntoNf4IsAModelLikeAnyOther) {
  ASSERT_NO_FATAL_FAILURE(Train("fa", v1::METHOD_SBORA_FA));
  const double plain = LossOfModel("tiny"), quantised = LossOfModel("tiny", v1::QUANTIZATION_NF4), adapted = LossOfAdapter("fa");
  EXPECT_NE(plain, quantised);
  EXPECT_LT(adapted, quantised - 0.01);

  const Status merged = Merge("fa", "merged");
  ASSERT_TRUE(merged.ok()) << merged << service().Logs();
  const auto folder = core::Nf4ModelFolder::Open(Dir("merged"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const Status imported = service().ImportModel(Dir("merged"), "merged");
  ASSERT_TRUE(imported.ok()) << imported << service().Logs();
  const auto model = client().GetModel(client().ResourceName("models", "merged"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->quantization(), v1::QUANTIZATION_NF4);
  EXPECT_EQ(model->base_hash(), folder->config().merged_hash);
  EXPECT_NEAR(LossOfModel("merged"), adapted, 1e-5);
  v1::GenerateRequest generate;
  generate.set_model("merged");
  generate.add_prompts("color of item 3: ");
  EXPECT_TRUE(client().Generate(generate).ok());

  // Trained on again, merged again, into rows this time.
  ASSERT_NO_FATAL_FAILURE(Train("fb", v1::METHOD_SBORA_FB, "merged"));
  EXPECT_LT(LossOfAdapter("fb"), adapted);
  ASSERT_TRUE(Merge("fb", "twice").ok());
  EXPECT_TRUE(core::Nf4ModelFolder::Open(Dir("twice")).ok());
  EXPECT_EQ(Merge("fb", "never", v1::MERGE_TARGET_FLOAT).reason(), "NF4_MERGED_BASE");

  // And apart again: the patch of the second gives the first back.
  v1::ExportAdapterRequest request;
  request.set_name(client().ResourceName("adapters", "fb"));
  request.set_format(v1::EXPORT_FORMAT_PATCH);
  const Status patched = PullResult<v1::ExportAdapterResult>(client().ExportAdapter(request), "patch");
  ASSERT_TRUE(patched.ok()) << patched << service().Logs();
  const auto reversed = core::ReversePatch(Dir("twice"), Dir("patch"), Dir("once"));
  ASSERT_TRUE(reversed.ok()) << reversed.status();
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json"}) {
    EXPECT_EQ(*ReadFile(Dir("once") / file, 1 << 30), *ReadFile(Dir("merged") / file, 1 << 30)) << file;
  }
}

TEST_F(ServiceNf4Test, DenseAdaptersMergeIntoTheDequantisedBase) {
  ASSERT_NO_FATAL_FAILURE(Train("lora", v1::METHOD_LORA));
  EXPECT_EQ(Merge("lora", "never").reason(), "MERGE_DENSE_NF4");
  const Status merged = Merge("lora", "float", v1::MERGE_TARGET_FLOAT);
  ASSERT_TRUE(merged.ok()) << merged << service().Logs();
  ASSERT_TRUE(service().ImportModel(Dir("float"), "float").ok());
  EXPECT_NEAR(LossOfModel("float"), LossOfAdapter("lora"), 1e-4);
}

}  // namespace
}  // namespace sbora::testing
