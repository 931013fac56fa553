#include "worker/agent/nf4_base_key.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "common/file.h"
#include "common/sha256.h"
#include "core/adapter.h"
#include "core/nf4_config.h"

namespace sbora::agent {
namespace {

namespace fs = std::filesystem;

worker::v1::Task WithModel() {
  worker::v1::Task task;
  auto* model = task.add_inputs();
  model->set_name("model");
  for (const char* path : {"config.json", "model.safetensors", "tokenizer.json"}) {
    auto* file = model->add_files();
    file->set_path(path);
    file->set_sha256(Sha256Hex(path));
  }
  return task;
}

worker::v1::Task TrainTask() {
  worker::v1::Task task = WithModel();
  task.mutable_train()->mutable_spec()->set_quantization(v1::QUANTIZATION_NF4);
  task.mutable_train()->set_base_hash(Sha256Hex("base"));
  return task;
}

std::optional<Nf4BaseNeed> NeedOf(const worker::v1::Task& task, const fs::path& inputs = {}) {
  auto need = Nf4BaseNeedOf(task, inputs);
  EXPECT_TRUE(need.ok()) << need.status();
  return need.ok() ? *need : std::nullopt;
}

TEST(Nf4BaseKeyTest, ChangesWithTheWeightsTheConfigAndTheKindOnly) {
  const auto need = NeedOf(TrainTask());
  ASSERT_TRUE(need);
  EXPECT_TRUE(need->quantize.has_quantize());
  EXPECT_TRUE(need->quantize.quantize().double_quantization());
  EXPECT_EQ(need->quantize.quantize().base_hash(), Sha256Hex("base"));
  const auto key_with = [](const std::function<void(worker::v1::Task&)>& change) {
    worker::v1::Task task = TrainTask();
    change(task);
    return NeedOf(task)->key;
  };
  const auto other = Sha256Hex("other");
  EXPECT_EQ(key_with([&](auto& t) { t.mutable_inputs(0)->mutable_files(2)->set_sha256(other); }), need->key);
  EXPECT_EQ(key_with([&](auto& t) { t.mutable_train()->mutable_spec()->mutable_adapter()->set_rank(3); }), need->key);
  EXPECT_NE(key_with([&](auto& t) { t.mutable_inputs(0)->mutable_files(0)->set_sha256(other); }), need->key);
  EXPECT_NE(key_with([&](auto& t) { t.mutable_inputs(0)->mutable_files(1)->set_sha256(other); }), need->key);
  EXPECT_NE(key_with([&](auto& t) { t.mutable_train()->mutable_spec()->set_double_quantization(false); }), need->key);
}

TEST(Nf4BaseKeyTest, PlainTasksNeedNone) {
  worker::v1::Task task = TrainTask();
  task.mutable_train()->mutable_spec()->clear_quantization();
  EXPECT_FALSE(NeedOf(task));
  task = WithModel();
  task.mutable_evaluate();
  EXPECT_FALSE(NeedOf(task));
  task.mutable_merge();
  EXPECT_FALSE(NeedOf(task));
}

core::AdapterConfig TinyAdapterConfig() {
  core::AdapterConfig config;
  config.rank = 2;
  config.alpha = 4;
  config.target_modules = {core::LinearModule::kQ};
  config.base_config.hidden_size = 16;
  config.base_config.num_layers = 1;
  config.base_config.num_heads = config.base_config.num_kv_heads = 4;
  config.base_config.head_dim = 4;
  config.base_config.intermediate_size = 24;
  config.base_config.vocab_size = 32;
  config.base_config.max_position_embeddings = 64;
  config.base_hash = Sha256Hex("base");
  config.base_quantization = {.kind = core::Quantization::kNf4, .double_quantization = true};
  return config;
}

void Write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  ASSERT_TRUE(WriteFileAtomic(file, text).ok());
}

TEST(Nf4BaseKeyTest, TasksWithAnAdapterFollowItAndShareTheTrainingsBase) {
  const auto temp = TempDirectory::Create(fs::temp_directory_path(), "sbora-nf4-key");
  ASSERT_TRUE(temp.ok());
  for (const char* group : {"adapter", "adapter-0"}) {
    Write(temp->path() / group / "adapter_config.json", core::ToJson(TinyAdapterConfig()));
  }
  const auto with = [](const char* group) {
    worker::v1::Task task = WithModel();
    task.add_inputs()->set_name(group);
    return task;
  };
  worker::v1::Task evaluate = with("adapter"), generate = with("adapter"), merge = with("adapter-0"), patch = with("adapter");
  evaluate.mutable_evaluate()->set_base_hash(Sha256Hex("base"));
  generate.mutable_generate()->set_base_hash(Sha256Hex("base"));
  merge.mutable_merge()->set_base_hash(Sha256Hex("base"));
  patch.mutable_export_()->set_base_hash(Sha256Hex("base"));
  patch.mutable_export_()->set_format(v1::EXPORT_FORMAT_PATCH);
  for (const worker::v1::Task& task : {evaluate, generate, merge, patch}) {
    const auto need = NeedOf(task, temp->path());
    ASSERT_TRUE(need) << task.kind_case();
    EXPECT_EQ(need->key, NeedOf(TrainTask())->key);
  }
  patch.mutable_export_()->set_format(v1::EXPORT_FORMAT_PEFT);  // reads the adapter alone
  EXPECT_FALSE(NeedOf(patch, temp->path()));
  core::AdapterConfig full = TinyAdapterConfig();
  full.method = core::AdapterMethod::kFull;
  full.base_quantization = {};
  Write(temp->path() / "adapter" / "sbora_config.json", core::ToJson(full));
  EXPECT_FALSE(NeedOf(evaluate, temp->path()));  // a whole checkpoint takes the base's place
  fs::remove(temp->path() / "adapter" / "sbora_config.json");
  Write(temp->path() / "adapter" / "adapter_config.json", "{");
  EXPECT_EQ(Nf4BaseNeedOf(evaluate, temp->path()).status().reason(), "ADAPTER_CONFIG_MALFORMED");
}

TEST(Nf4BaseKeyTest, EvaluationAndGenerationOfABaseSayItThemselves) {
  worker::v1::Task evaluate = WithModel(), generate = WithModel();
  evaluate.mutable_evaluate()->set_base_hash(Sha256Hex("base"));
  generate.mutable_generate()->set_base_hash(Sha256Hex("base"));
  EXPECT_FALSE(NeedOf(evaluate));
  evaluate.mutable_evaluate()->mutable_spec()->set_base_quantization(v1::QUANTIZATION_NF4);
  generate.mutable_generate()->mutable_request()->set_base_quantization(v1::QUANTIZATION_NF4);
  for (const worker::v1::Task& task : {evaluate, generate}) {
    ASSERT_TRUE(NeedOf(task));
    EXPECT_EQ(NeedOf(task)->key, NeedOf(TrainTask())->key);
  }
  evaluate.mutable_evaluate()->mutable_spec()->set_double_quantization(false);
  EXPECT_NE(NeedOf(evaluate)->key, NeedOf(TrainTask())->key);
  evaluate.mutable_evaluate()->mutable_spec()->set_base_quantization(v1::QUANTIZATION_NONE);
  EXPECT_FALSE(NeedOf(evaluate));
}

TEST(Nf4BaseKeyTest, AModelThatIsInNf4ItselfNeedsNone) {
  const auto temp = TempDirectory::Create(fs::temp_directory_path(), "sbora-nf4-key");
  ASSERT_TRUE(temp.ok());
  const core::Nf4Config merged{.model = TinyAdapterConfig().base_config, .double_quantization = true,
                               .base_hash = Sha256Hex("base"), .merged_hash = Sha256Hex("merged")};
  Write(temp->path() / "model" / "config.json", core::ToJson(merged));
  EXPECT_FALSE(NeedOf(TrainTask(), temp->path()));
}

}  // namespace
}  // namespace sbora::agent
