#include "worker/agent/token_cache_key.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/sha256.h"

namespace sbora::agent {
namespace {

worker::v1::Task MakeTask() {
  worker::v1::Task task;
  for (const auto& [group, path] : std::vector<std::pair<std::string, std::string>>{
           {"model", "model.safetensors"}, {"model", "tokenizer.json"}, {"dataset", "d.jsonl"}}) {
    auto* input = task.add_inputs();
    input->set_name(group);
    auto* file = input->add_files();
    file->set_path(path);
    file->set_sha256(Sha256Hex(path));
  }
  task.mutable_train()->mutable_spec()->mutable_data()->set_cutoff_tokens(128);
  return task;
}

TEST(TokenCacheKeyTest, ChangesWithWhatDecidesTheContentOnly) {
  const auto key = TokenCacheKey(MakeTask());
  ASSERT_TRUE(key.has_value());
  const auto with = [](const std::function<void(worker::v1::Task&)>& change) {
    worker::v1::Task task = MakeTask();
    change(task);
    return TokenCacheKey(task);
  };
  const auto other = Sha256Hex("other");
  EXPECT_EQ(with([&](auto& t) { t.mutable_inputs(0)->mutable_files(0)->set_sha256(other); }), key);
  EXPECT_EQ(with([&](auto& t) { t.mutable_train()->mutable_spec()->mutable_training()->set_learning_rate(1); }), key);
  EXPECT_NE(with([&](auto& t) { t.mutable_inputs(1)->mutable_files(0)->set_sha256(other); }), key);
  EXPECT_NE(with([&](auto& t) { t.mutable_inputs(2)->mutable_files(0)->set_sha256(other); }), key);
  EXPECT_NE(with([&](auto& t) { t.mutable_train()->mutable_spec()->mutable_data()->set_cutoff_tokens(64); }), key);
  EXPECT_NE(with([&](auto& t) { t.mutable_train()->mutable_spec()->mutable_training()->set_seed(7); }), key);
  EXPECT_NE(with([&](auto& t) { t.mutable_train()->add_mixture_formats(sbora::v1::DATASET_FORMAT_CHAT); }), key);
  EXPECT_NE(with([&](auto& t) {
              *t.add_inputs() = t.inputs(2);
              t.mutable_inputs(3)->set_name("dataset-1");
            }),
            key);
  // Weights and grouping decide the order, not the content: such jobs share a cache.
  EXPECT_EQ(with([&](auto& t) { t.mutable_train()->mutable_spec()->add_dataset_weights(0.5); }), key);
  EXPECT_EQ(with([&](auto& t) { t.mutable_train()->mutable_spec()->mutable_training()->set_group_by_length(true); }),
            key);
}

TEST(TokenCacheKeyTest, OnlyForTraining) {
  worker::v1::Task task;
  task.mutable_evaluate();
  EXPECT_FALSE(TokenCacheKey(task).has_value());
}

}  // namespace
}  // namespace sbora::agent
