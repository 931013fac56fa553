// Whole sessions in this process on a tiny model: what they tell their surroundings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/r_index.h"
#include "tests/testing/tiny_model.h"
#include "worker/trainer/session/inference_session.h"
#include "worker/trainer/session/train_session.h"
#include "worker/trainer/tasks/prepare.h"

namespace sbora::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kLayers = 2;
constexpr int kModules = 2 * kLayers;  // q and down in each layer

/// Counts what it is told.
class Counter : public TaskObserver {
 public:
  void OnProgress(const TaskProgress&) override {}
  void OnAlive() override { ++alive; }
  void OnMetrics(const StepMetrics&) override { ++steps; }
  void OnCheckpoint(int64_t, const std::string&, std::optional<double>) override {}
  void OnEvent(EventLevel, std::string_view, const std::string&) override {}
  bool StopRequested() override { return false; }

  int64_t alive = 0;
  int64_t steps = 0;
};

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() : temp_(*TempDirectory::Create(fs::temp_directory_path(), "session-test")) {
    EXPECT_TRUE(testing::WriteTinyModel(Path("model"), {.num_layers = kLayers}).ok());
    EXPECT_TRUE(testing::WriteTinyDataset(Path("dataset") / "data.jsonl", 14).ok());
  }
  fs::path Path(const std::string& name) const { return temp_.path() / name; }

  /// Two steps of five samples in micro-batches of two; four samples to validate.
  core::JobSpec Spec() const {
    core::JobSpec spec;
    spec.adapter.rank = 4;
    spec.adapter.target_modules = {core::LinearModule::kQ, core::LinearModule::kDown};
    spec.data.cutoff_tokens = 64;
    spec.data.validation_samples = 4;
    spec.training.batch_size = 5;
    spec.training.micro_batch_size = 2;
    spec.training.max_steps = 2;
    spec.checkpoint_every_seconds = 0;
    return spec;
  }

  StatusOr<TrainRequest> Prepared() {
    TrainRequest request;
    request.spec = Spec();
    request.model_dir = Path("model");
    request.output_dir = Path("output");
    request.checkpoint_dir = Path("checkpoints");
    request.device.threads = 1;
    PrepareRequest prepare;
    prepare.spec = request.spec;
    prepare.model_dir = request.model_dir;
    prepare.dataset = Path("dataset");
    prepare.token_cache_dir = Path("token_cache");
    prepare.validation_cache_dir = Path("validation_cache");
    fs::create_directories(prepare.token_cache_dir);
    fs::create_directories(prepare.validation_cache_dir);
    Counter counter;
    SBORA_RETURN_IF_ERROR(PrepareTokenCaches(prepare, counter));
    SBORA_ASSIGN_OR_RETURN(request.token_cache, OnlyFile(prepare.token_cache_dir, ".train.tokens"));
    SBORA_ASSIGN_OR_RETURN(request.validation_cache, OnlyFile(prepare.validation_cache_dir, ".validation.tokens"));
    const auto config = testing::TinyModelConfig({.num_layers = kLayers});
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (const auto module : request.spec.adapter.target_modules) {
        const std::string path = core::ModulePath(layer, module);
        const int64_t width = core::LinearModuleShape(config, module).in_features;
        SBORA_ASSIGN_OR_RETURN(auto index, core::DrawIndices(42, path, width, request.spec.adapter.rank));
        request.indices.push_back({path, std::move(index)});
      }
    }
    return request;
  }

  StatusOr<std::unique_ptr<InferenceSession>> LoadModel(Counter& counter) const {
    InferenceSession::Options options;
    options.model_dir = Path("model");
    options.device.threads = 1;
    return InferenceSession::Load(options, counter);
  }

  TempDirectory temp_;
};

TEST_F(SessionTest, EachLayerOfAForwardAndEachModuleOfABackwardPassIsASignOfLife) {
  const auto request = Prepared();
  ASSERT_TRUE(request.ok()) << request.status();
  Counter counter;
  const auto outcome = RunTraining(*request, counter);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(counter.steps, 2);
  const int64_t micro_batches = 2 * 3;
  const int64_t validation_batches = 2;
  EXPECT_EQ(counter.alive, micro_batches * (kLayers + kModules) + validation_batches * kLayers);
}

TEST_F(SessionTest, ScoringAndGenerationGiveSignsOfLifeInEachLayer) {
  Counter counter;
  const auto session = LoadModel(counter);
  ASSERT_TRUE(session.ok()) << session.status();
  const ScoredSample samples[] = {{.ids = {1, 2, 3}, .supervised = {false, true, true}}};
  ASSERT_TRUE((*session)->AnswerLoss(samples, 1, [](int64_t) {}).ok());
  EXPECT_EQ(counter.alive, kLayers);
  counter.alive = 0;
  ASSERT_TRUE((*session)->Generate({{1, 2, 3}}, {.max_new_tokens = 3, .eos_ids = {}}, [](int64_t) {}).ok());
  EXPECT_EQ(counter.alive, 3 * kLayers);  // the prompt, then two of the three new tokens
}

TEST_F(SessionTest, AModelWithDamagedNumbersGivesNoFigures) {
  const fs::path file = Path("model") / "model.safetensors";
  std::string bytes = ReadFile(file, 1 << 24).value();
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const auto header = nlohmann::json::parse(bytes.substr(sizeof(header_bytes), header_bytes));
  const auto at = sizeof(header_bytes) + header_bytes + header["model.norm.weight"]["data_offsets"][0].get<uint64_t>();
  bytes.replace(at, 4, "\xC0\x7F\xC0\x7F");  // NaN in float32 and in bfloat16
  ASSERT_TRUE(WriteFileAtomic(file, bytes).ok());
  Counter counter;
  const auto session = LoadModel(counter);
  ASSERT_TRUE(session.ok()) << session.status();
  const ScoredSample samples[] = {{.ids = {1, 2, 3}, .supervised = {false, true, true}}};
  EXPECT_EQ((*session)->AnswerLoss(samples, 1, [](int64_t) {}).status().reason(), "NON_FINITE_LOSS");
  EXPECT_EQ((*session)->Generate({{1, 2, 3}}, {.max_new_tokens = 3, .eos_ids = {}}, [](int64_t) {}).status().reason(), "NON_FINITE_LOGITS");
  const std::vector<int64_t> prompts[] = {{1, 2, 3}};
  const std::vector<int64_t> choices[] = {{4, 5}};
  EXPECT_EQ((*session)->NextTokenLogProbabilities(prompts, choices, 1, [](int64_t) {}).status().reason(), "NON_FINITE_LOGITS");
}

TEST_F(SessionTest, AFolderMustHoldOneDataset) {
  Counter counter;
  PrepareRequest prepare;
  prepare.spec = Spec();
  prepare.model_dir = Path("model");
  prepare.dataset = Path("dataset");
  prepare.token_cache_dir = Path("token_cache");
  fs::copy_file(Path("dataset") / "data.jsonl", Path("dataset") / "more.jsonl");
  const Status ambiguous = PrepareTokenCaches(prepare, counter);
  EXPECT_EQ(ambiguous.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ambiguous.reason(), "INPUT_AMBIGUOUS");
  for (const char* text : {"data.jsonl", "more.jsonl", "one file was expected"}) {
    EXPECT_THAT(ambiguous.message(), HasSubstr(text));
  }
  EXPECT_THAT(ambiguous.message(), StartsWith(Path("dataset").string()));

  prepare.dataset = Path("nothing");
  fs::create_directories(Path("nothing") / "folder");
  const Status missing = PrepareTokenCaches(prepare, counter);
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_EQ(missing.reason(), "INPUT_MISSING");
  EXPECT_EQ(missing.message(), Path("nothing").string() + " holds no regular file");
  EXPECT_EQ(OnlyFile(Path("dataset"), ".gguf").status().message(), Path("dataset").string() + " holds no .gguf file");
}

TEST_F(SessionTest, WeightsOfAnotherMixtureThanTheCachesAreRefused) {
  auto request = Prepared();
  ASSERT_TRUE(request.ok()) << request.status();
  request->spec.dataset_weights = {1, 2};
  Counter counter;
  const Status refused = RunTraining(*request, counter).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.reason(), "MIXTURE_WEIGHTS");
  EXPECT_EQ(refused.message(), request->token_cache.string() + " holds 1 data sets, the job has 2 weights");
}

TEST_F(SessionTest, AnAdapterOfAModelOfAnotherShapeIsRefused) {
  const auto request = Prepared();
  ASSERT_TRUE(request.ok()) << request.status();
  Counter counter;
  ASSERT_TRUE(RunTraining(*request, counter).ok());
  InferenceSession::Options options;
  options.model_dir = Path("wider");
  options.adapter_dir = request->output_dir;
  options.device.threads = 1;
  ASSERT_TRUE(testing::WriteTinyModel(options.model_dir, {.hidden_size = 48, .num_layers = kLayers}).ok());
  const Status refused = InferenceSession::Load(options, counter).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.reason(), "BASE_CONFIG_MISMATCH");
  EXPECT_THAT(refused.message(), StartsWith("model.layers."));
  EXPECT_THAT(refused.message(), HasSubstr(".sbora_B has 128 elements, this model's shape asks for 192; the adapter "));
}

}  // namespace
}  // namespace sbora::trainer
