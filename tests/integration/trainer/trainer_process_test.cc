// The real program through its socket, on a tiny model: what the agent relies on.
#include <cmath>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/integration/trainer/trainer_fixture.h"

namespace sbora::testing {
namespace {

TEST_F(TrainerProcessTest, TrainsAndLeavesACheckedAdapter) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  ASSERT_EQ(reference_.metrics.size(), 10u);
  for (int i = 0; i < 10; ++i) {
    const auto& metric = reference_.metrics[static_cast<size_t>(i)];
    EXPECT_EQ(metric.step(), i + 1);
    EXPECT_EQ(metric.attempt(), 2);
    EXPECT_TRUE(std::isfinite(metric.loss()));
    EXPECT_GT(metric.tokens_per_second(), 0);
    EXPECT_EQ(metric.has_validation_loss(), (i + 1) % 3 == 0 || i + 1 == 10) << "step " << i + 1;
  }
  EXPECT_LT(reference_.metrics.back().loss(), reference_.metrics.front().loss());
  EXPECT_DOUBLE_EQ(reference_.metrics.front().learning_rate(), 0.01);
  EXPECT_GT(reference_.ticks, 10);
  std::vector<std::string> folders;
  for (const auto& checkpoint : reference_.checkpoints) folders.push_back(checkpoint.directory());
  EXPECT_THAT(folders, ::testing::ElementsAre("ckpt-2", "ckpt-4", "ckpt-6", "ckpt-8"));

  ASSERT_TRUE(reference_.result && reference_.result->has_train());
  const auto& result = reference_.result->train();
  EXPECT_EQ(result.steps(), 10);
  EXPECT_EQ(result.trained_tokens(), reference_.metrics.back().trained_tokens());
  double best = 1e9;
  for (const auto& metric : reference_.metrics) {
    if (metric.has_validation_loss()) best = std::min(best, metric.validation_loss());
  }
  EXPECT_EQ(result.validation_loss(), best);

  const fs::path output = Path("reference") / "output";
  const auto adapter = core::AdapterFolder::Open(output);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->config().base_hash, base_hash_);
  const auto drawn = core::DrawIndices(42, "model.layers.1.mlp.down_proj", 64, kRank);
  EXPECT_EQ(*adapter->Indices(1, core::LinearModule::kDown), *drawn);
  EXPECT_EQ(std::distance(fs::directory_iterator(output), {}), 2);  // the rehearsal left nothing
}

TEST_F(TrainerProcessTest, EveryLogLineIsJsonAndSaysWhichAttempt) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  // The last line is that of the reader's thread, at the end of file.
  RunTrainer(TrainAssignment("cut", 100000), Log(), [](TrainerProcess& process, const auto& message) {
    if (message.has_metric()) process.CloseSocket();
  });
  std::istringstream lines(Slurp(Log()));
  std::string last;
  for (std::string text; std::getline(lines, text); last = text) {
    const auto line = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(line.is_object()) << text;
    EXPECT_EQ(line.value("program", ""), "sbora-trainer") << text;
    EXPECT_EQ(line.value("job", ""), "projects/default/fineTuningJobs/test") << text;
    EXPECT_EQ(line.value("attempt", 0), 2) << text;
    EXPECT_EQ(line.value("epoch", 0), 5) << text;
  }
  EXPECT_THAT(last, ::testing::HasSubstr("trainer ends at once"));
}

TEST_F(TrainerProcessTest, MicroBatchesDoNotChangeTheLosses) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  TaskAssignment task = TrainAssignment("whole");
  task.mutable_task()->mutable_train()->mutable_spec()->mutable_training()->set_micro_batch_size(5);
  const TrainerRun whole = RunTrainer(task, Log());
  ASSERT_EQ(whole.exit_code, 0);
  for (size_t i = 0; i < whole.metrics.size(); ++i) {
    EXPECT_NEAR(whole.metrics[i].loss(), reference_.metrics[i].loss(), 1e-4) << "step " << i + 1;
  }
}

TEST_F(TrainerProcessTest, EndOfFileFromTheAgentEndsItAtOnce) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  auto process = TrainerProcess::Start(TrainAssignment("orphan", /*steps=*/100'000), Log());
  ASSERT_TRUE(process.ok());
  while (const auto message = process->Next()) {
    if (message->has_metric()) break;
  }
  process->CloseSocket();
  EXPECT_EQ(process->Wait(), 4);
}

TEST_F(TrainerProcessTest, WithoutRenewalsItFencesItself) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  TaskAssignment task = TrainAssignment("fenced", /*steps=*/100'000);
  task.set_self_fence_seconds(1.5);
  EXPECT_EQ(RunTrainer(task, Log()).exit_code, 5);
}

TEST_F(TrainerProcessTest, SigtermMeansCheckpointAndPreempted) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  const TrainerRun run = RunTrainer(TrainAssignment("term", /*steps=*/100'000), Log(),
                                    [](TrainerProcess& process, const TrainerMessage& message) {
                                      if (message.has_metric() && message.metric().step() == 3) process.Signal(SIGTERM);
                                    });
  EXPECT_EQ(run.exit_code, 3);
  ASSERT_FALSE(run.checkpoints.empty());
  EXPECT_EQ(run.checkpoints.back().step(), run.metrics.back().step());
}

TEST_F(TrainerProcessTest, ANumberThatIsNotFiniteStopsTheRunAndKeepsTheCheckpoint) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  TaskAssignment task = TrainAssignment("nan");
  auto& spec = *task.mutable_task()->mutable_train()->mutable_spec();
  spec.mutable_training()->set_learning_rate(1e37);
  spec.mutable_training()->set_schedule(sbora::v1::SCHEDULE_CONSTANT);
  spec.mutable_checkpoint()->set_checkpoint_every_steps(1);
  const TrainerRun run = RunTrainer(task, Log());
  EXPECT_EQ(run.exit_code, 1);
  ASSERT_TRUE(run.error);
  EXPECT_EQ(run.error->failure().reason(), "NON_FINITE");
  EXPECT_EQ(run.error->reason(), sbora::v1::TERMINATION_REASON_NON_FINITE);
  EXPECT_FALSE(run.result);
}

TEST_F(TrainerProcessTest, WeightsThatTheLastUpdateSpoiledAreNotCommitted) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  TaskAssignment task = TrainAssignment("spoiled", 1);
  task.mutable_directories()->erase("validation_cache");
  auto& spec = *task.mutable_task()->mutable_train()->mutable_spec();
  spec.mutable_validation()->set_keep_best(false);
  spec.mutable_training()->set_learning_rate(1e39);  // loss and gradient of the only step are finite
  const TrainerRun run = RunTrainer(task, Log());
  EXPECT_EQ(run.exit_code, 1);
  ASSERT_TRUE(run.error) << Slurp(Log());
  EXPECT_EQ(run.error->failure().reason(), "NON_FINITE");
  EXPECT_FALSE(fs::exists(Path("spoiled") / "output" / "adapter_model.safetensors"));
}

TEST_F(TrainerProcessTest, ADamagedTokenCacheIsNotTheUsersFault) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  for (const auto& item : fs::directory_iterator(Path("token_cache"))) {
    if (item.path().extension() == ".tokens") fs::resize_file(item.path(), 100);
  }
  const TrainerRun run = RunTrainer(TrainAssignment("damaged"), Log());
  ASSERT_TRUE(run.error) << Slurp(Log());
  EXPECT_EQ(run.error->failure().code(), static_cast<int>(StatusCode::kDataLoss));
  EXPECT_EQ(run.error->reason(), sbora::v1::TERMINATION_REASON_TRAINER_ERROR);
}

TEST_F(TrainerProcessTest, BadInputIsNamed) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  struct Case {
    const char* title;
    std::function<void(TaskAssignment&)> spoil;
    const char* reason;
  };
  const Case cases[] = {
      {"more ranks than the job asks for", [](TaskAssignment& task) { task.set_world_size(2); }, "WORLD_SIZE"},
      {"a rank that the gang does not have", [](TaskAssignment& task) { task.set_rank(1); }, "TASK_MALFORMED"},
      {"preparing on two ranks",
       [](TaskAssignment& task) {
         task.set_world_size(2);
         task.set_prepare_only(true);
       },
       "MULTI_RANK"},
      {"no task", [](TaskAssignment& task) { task.clear_task(); }, "TASK_MALFORMED"},
      {"no model", [](TaskAssignment& task) { task.mutable_directories()->erase("model"); }, "TASK_MALFORMED"},
      {"no caches", [](TaskAssignment& task) { task.mutable_directories()->erase("token_cache"); }, "TASK_MALFORMED"},
      {"indices of a module missing",
       [](TaskAssignment& task) { task.mutable_task()->mutable_train()->mutable_indices()->RemoveLast(); },
       "INDICES_MISMATCH"},
      {"unknown device", [](TaskAssignment& task) { task.set_device("tpu"); }, "DEVICE_UNKNOWN"},
      {"bad data",
       [this](TaskAssignment& task) {
         std::ofstream(Path("dataset") / "data.jsonl", std::ios::app) << "{\"prompt\": \n";
         task.set_prepare_only(true);
       },
       "DATASET_INVALID"},
  };
  for (const auto& [title, spoil, reason] : cases) {
    SCOPED_TRACE(title);
    TaskAssignment task = TrainAssignment("bad");
    spoil(task);
    const TrainerRun run = RunTrainer(task, Log());
    EXPECT_EQ(run.exit_code, 1);
    ASSERT_TRUE(run.error);
    EXPECT_EQ(run.error->failure().reason(), reason) << run.error->failure().message();
    EXPECT_EQ(run.error->reason(), sbora::v1::TERMINATION_REASON_INVALID_INPUT);
  }
}

TEST_F(TrainerProcessTest, QuantisesTrainsAndEvaluatesOnAnNf4Base) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  TaskAssignment quantize = Assignment("nf4");
  quantize.mutable_task()->mutable_quantize()->set_base_hash(base_hash_);
  quantize.mutable_task()->mutable_quantize()->set_double_quantization(true);
  ASSERT_EQ(RunTrainer(quantize, Log()).exit_code, 0) << Slurp(Log());
  const fs::path nf4 = Path("nf4") / "output";

  TaskAssignment train = TrainAssignment("on-nf4");
  auto& spec = *train.mutable_task()->mutable_train()->mutable_spec();
  spec.set_quantization(sbora::v1::QUANTIZATION_NF4);
  EXPECT_EQ(RunTrainer(train, Log()).error->failure().reason(), "NF4_BASE_MISSING");
  (*train.mutable_directories())["nf4"] = nf4.string();
  const TrainerRun trained = RunTrainer(train, Log());
  ASSERT_EQ(trained.exit_code, 0) << Slurp(Log());
  EXPECT_NE(trained.FindEvent("QUANTIZED_BASE"), nullptr);
  EXPECT_LT(trained.metrics.back().loss(), trained.metrics.front().loss());
  const auto adapter = core::AdapterFolder::Open(Path("on-nf4") / "output");
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->config().base_quantization,
            (core::BaseQuantization{.kind = core::Quantization::kNf4, .double_quantization = true}));
  spec.set_double_quantization(false);
  EXPECT_EQ(RunTrainer(train, Log()).error->failure().reason(), "NF4_BASE_MISMATCH");

  TaskAssignment evaluate = Assignment("evaluate");
  (*evaluate.mutable_directories())["adapter"] = (Path("on-nf4") / "output").string();
  evaluate.mutable_task()->mutable_evaluate()->set_base_hash(base_hash_);
  evaluate.mutable_task()->mutable_evaluate()->mutable_spec()->mutable_generation()->set_max_new_tokens(2);
  EXPECT_EQ(RunTrainer(evaluate, Log()).error->failure().reason(), "NF4_BASE_MISSING");
  (*evaluate.mutable_directories())["nf4"] = nf4.string();
  const TrainerRun evaluated = RunTrainer(evaluate, Log());
  ASSERT_EQ(evaluated.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(evaluated.result->evaluate().samples(), kSamples);

  evaluate.mutable_task()->mutable_evaluate()->mutable_spec()->set_base_quantization(sbora::v1::QUANTIZATION_NONE);
  EXPECT_EQ(RunTrainer(evaluate, Log()).error->failure().reason(), "BASE_QUANTIZATION_MISMATCH");
  evaluate.mutable_task()->mutable_evaluate()->mutable_spec()->clear_base_quantization();

  // The base under NF4, without an adapter.
  TaskAssignment base = Assignment("base-on-nf4");
  base.mutable_task()->mutable_evaluate()->set_base_hash(base_hash_);
  base.mutable_task()->mutable_evaluate()->mutable_spec()->mutable_generation()->set_max_new_tokens(2);
  const TrainerRun plain = RunTrainer(base, Log());
  base.mutable_task()->mutable_evaluate()->mutable_spec()->set_base_quantization(sbora::v1::QUANTIZATION_NF4);
  EXPECT_EQ(RunTrainer(base, Log()).error->failure().reason(), "NF4_BASE_MISSING");
  (*base.mutable_directories())["nf4"] = nf4.string();
  const TrainerRun on_nf4 = RunTrainer(base, Log());
  ASSERT_TRUE(plain.result && on_nf4.result) << Slurp(Log());
  EXPECT_NE(on_nf4.FindEvent("QUANTIZED_BASE"), nullptr);
  EXPECT_NE(on_nf4.result->evaluate().loss(), plain.result->evaluate().loss());
  EXPECT_NE(on_nf4.result->evaluate().loss(), evaluated.result->evaluate().loss());

  TaskAssignment merge = Assignment("merge");
  (*merge.mutable_directories())["adapter"] = (Path("on-nf4") / "output").string();
  merge.mutable_task()->mutable_merge()->set_base_hash(base_hash_);
  EXPECT_EQ(RunTrainer(merge, Log()).error->failure().reason(), "NF4_BASE_MISSING");
  (*merge.mutable_directories())["nf4"] = nf4.string();
  ASSERT_EQ(RunTrainer(merge, Log()).exit_code, 0) << Slurp(Log());
  // The merged folder is a model: evaluated as it is, it has the adapter's loss.
  TaskAssignment merged = Assignment("merged");
  (*merged.mutable_directories())["model"] = (Path("merge") / "output").string();
  merged.mutable_task()->mutable_evaluate()->mutable_spec()->mutable_generation()->set_max_new_tokens(2);
  const TrainerRun of_merged = RunTrainer(merged, Log());
  ASSERT_EQ(of_merged.exit_code, 0) << Slurp(Log());
  EXPECT_NEAR(of_merged.result->evaluate().loss(), evaluated.result->evaluate().loss(), 1e-5);
  EXPECT_EQ(of_merged.result->evaluate().correct(), evaluated.result->evaluate().correct());
  merged.mutable_task()->mutable_evaluate()->mutable_spec()->set_base_quantization(sbora::v1::QUANTIZATION_NONE);
  EXPECT_EQ(RunTrainer(merged, Log()).error->failure().reason(), "NF4_BASE_MISMATCH");
  // As float, too.
  TaskAssignment dequantised = merge;
  dequantised.set_output_directory((Path("float") / "output").string());
  dequantised.mutable_task()->mutable_merge()->set_into(sbora::v1::MERGE_TARGET_FLOAT);
  ASSERT_EQ(RunTrainer(dequantised, Log()).exit_code, 0) << Slurp(Log());
  (*merged.mutable_directories())["model"] = (Path("float") / "output").string();
  const TrainerRun of_float = RunTrainer(merged, Log());
  ASSERT_EQ(of_float.exit_code, 0) << Slurp(Log());
  EXPECT_NEAR(of_float.result->evaluate().loss(), evaluated.result->evaluate().loss(), 1e-5);

  fs::resize_file(nf4 / "model.safetensors", fs::file_size(nf4 / "model.safetensors") - 1);
  EXPECT_EQ(RunTrainer(evaluate, Log()).error->failure().code(), static_cast<int>(StatusCode::kDataLoss));
}

TEST_F(TrainerProcessTest, EvaluatesGeneratesExportsAndMerges) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  const std::string adapter = (Path("reference") / "output").string();

  TaskAssignment evaluate = Assignment("evaluate");
  (*evaluate.mutable_directories())["adapter"] = adapter;
  auto& evaluation = *evaluate.mutable_task()->mutable_evaluate();
  evaluation.set_base_hash(base_hash_);
  evaluation.mutable_spec()->set_max_samples(7);
  evaluation.mutable_spec()->mutable_generation()->set_max_new_tokens(4);
  evaluation.mutable_spec()->mutable_generation()->set_batch_size(3);
  const TrainerRun evaluated = RunTrainer(evaluate, Log());
  ASSERT_EQ(evaluated.exit_code, 0) << Slurp(Log());
  const auto& result = evaluated.result->evaluate();
  EXPECT_EQ(result.samples(), 7);
  EXPECT_EQ(result.examples_size(), 7);
  EXPECT_EQ(result.examples(3).prompt(), "add 3 3 = ");
  EXPECT_EQ(result.examples(3).reference(), "6");
  EXPECT_NEAR(result.perplexity(), std::exp(result.loss()), 1e-9);
  EXPECT_EQ(evaluated.last_progress.step(), 7);
  const std::string lines = Slurp(Path("evaluate") / "output" / "examples.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 7);

  evaluation.set_base_hash(std::string(64, '0'));
  EXPECT_EQ(RunTrainer(evaluate, Log()).error->failure().reason(), "BASE_HASH_MISMATCH");

  TaskAssignment generate = Assignment("generate");
  auto& request = *generate.mutable_task()->mutable_generate()->mutable_request();
  request.add_prompts("hello");
  request.add_prompts("you");
  request.set_prompt_template(sbora::v1::PROMPT_TEMPLATE_CHAT);
  request.mutable_generation()->set_max_new_tokens(3);
  const TrainerRun generated = RunTrainer(generate, Log());
  ASSERT_EQ(generated.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(generated.result->generate().texts_size(), 2);

  TaskAssignment exported = Assignment("export");
  (*exported.mutable_directories())["adapter"] = adapter;
  exported.mutable_task()->mutable_export_()->set_format(sbora::v1::EXPORT_FORMAT_PEFT);
  EXPECT_EQ(RunTrainer(exported, Log()).exit_code, 0) << Slurp(Log());
  EXPECT_TRUE(fs::exists(Path("export") / "output" / "adapter_config.json"));

  TaskAssignment newer = exported;
  newer.mutable_task()->mutable_export_()->set_format(static_cast<sbora::v1::ExportFormat>(99));
  const TrainerRun unknown = RunTrainer(newer, Log());
  ASSERT_TRUE(unknown.error.has_value());
  EXPECT_EQ(unknown.error->failure().reason(), "EXPORT_FORMAT");
  EXPECT_THAT(unknown.error->failure().message(), ::testing::HasSubstr("export format 99 is not known"));

  TaskAssignment gguf = Assignment("gguf");
  (*gguf.mutable_directories())["adapter"] = adapter;
  auto& gguf_task = *gguf.mutable_task()->mutable_export_();
  gguf_task.set_format(sbora::v1::EXPORT_FORMAT_GGUF);
  gguf_task.set_gguf_type(sbora::v1::GGUF_TYPE_Q8_0);
  gguf_task.set_base_hash(base_hash_);
  EXPECT_EQ(RunTrainer(gguf, Log()).exit_code, 0) << Slurp(Log());
  EXPECT_TRUE(fs::exists(Path("gguf") / "output" / "model-q8_0.gguf"));
  EXPECT_FALSE(fs::exists(Path("gguf") / "output" / "model.safetensors"));

  TaskAssignment merged = Assignment("merge");
  (*merged.mutable_directories())["adapter"] = adapter;
  merged.mutable_task()->mutable_merge()->set_base_hash(base_hash_);
  EXPECT_EQ(RunTrainer(merged, Log()).exit_code, 0) << Slurp(Log());

  // The merged model is a model: its loss on the references is the adapter's.
  TaskAssignment check = evaluate;
  check.mutable_directories()->erase("adapter");
  (*check.mutable_directories())["model"] = (Path("merge") / "output").string();
  check.mutable_task()->mutable_evaluate()->clear_base_hash();
  const TrainerRun of_merged = RunTrainer(check, Log());
  ASSERT_EQ(of_merged.exit_code, 0) << Slurp(Log());
  EXPECT_NEAR(of_merged.result->evaluate().loss(), result.loss(), 1e-4);
}

TEST_F(TrainerProcessTest, ImportsAFolder) {
  TaskAssignment task = Assignment("import");
  (*task.mutable_directories())["source"] = Path("model").string();
  task.mutable_task()->mutable_import();
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(run.result->import().base_hash(), base_hash_);
  EXPECT_TRUE(run.result->import().has_chat_template());
  EXPECT_EQ(run.result->import().architecture(), "LlamaForCausalLM");
  EXPECT_EQ(run.result->import().parameters(), core::ParameterCount(TinyModelConfig()));
}

}  // namespace
}  // namespace sbora::testing
