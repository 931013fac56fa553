#include "client/compare_plan.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>

#include <cmath>
#include <cstdlib>
#include <set>

#include "common/ids.h"
#include "core/adapter.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

core::ModelConfig Llama7B() {
  core::ModelConfig config;
  config.hidden_size = 4096;
  config.num_layers = 32;
  config.num_heads = 32;
  config.num_kv_heads = 32;
  config.head_dim = 128;
  config.intermediate_size = 11008;
  config.vocab_size = 32000;
  config.max_position_embeddings = 2048;
  return config;
}

v1::FineTuningSpec Job() {
  v1::FineTuningSpec spec;
  spec.set_model("projects/default/models/m");
  spec.set_dataset("projects/default/datasets/d");
  spec.mutable_adapter()->set_rank(32);
  return spec;
}

StatusOr<ComparePlan> Plan(const v1::FineTuningSpec& spec, std::vector<std::string> methods, int seeds = 2, bool match = false,
                           std::string name = "") {
  return PlanComparison(
      {.spec = spec, .methods = std::move(methods), .seeds = seeds, .match_parameters = match, .name = std::move(name)}, Llama7B());
}

TEST(ComparePlanTest, RunsOfOneSeedDifferInTheMethodAlone) {
  v1::FineTuningSpec job = Job();
  job.mutable_training()->set_seed(7);
  const auto plan = Plan(job, {"sbora_fa", "lora", "sbora_fb+nf4"}, 3);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->seeds, ElementsAre(7, 8, 9));
  EXPECT_THAT(plan->index_seeds, ElementsAre(1'000'007, 1'000'008, 1'000'009));
  std::set<std::string> ids, request_ids;
  for (size_t seed = 0; seed < 3; ++seed) {
    std::set<std::string> rest;
    for (const MethodPlan& method : plan->methods) {
      const auto request = RunRequest(*plan, method, seed, 0);
      v1::FineTuningSpec spec = request.fine_tuning_job().spec();
      EXPECT_EQ(spec.training().seed(), plan->seeds[seed]);
      EXPECT_EQ(spec.adapter().index_seed(), plan->index_seeds[seed]);
      EXPECT_EQ(request.fine_tuning_job().labels().at(std::string(kRunLabel)), RunDigest(spec));
      EXPECT_TRUE(IsUuid(request.request_id()));
      EXPECT_TRUE(CheckResourceId(request.fine_tuning_job_id(), "id").ok()) << request.fine_tuning_job_id();
      ids.insert(request.fine_tuning_job_id());
      request_ids.insert(request.request_id());
      spec.mutable_adapter()->clear_method();
      spec.clear_quantization();
      rest.insert(spec.SerializeAsString());
    }
    EXPECT_EQ(rest.size(), 1u);
  }
  EXPECT_EQ(ids.size(), 9u);
  EXPECT_EQ(request_ids.size(), 9u);
  EXPECT_EQ(plan->methods[2].method, "sbora_fb+nf4");
  EXPECT_EQ(plan->methods[2].spec.quantization(), v1::QUANTIZATION_NF4);
  EXPECT_EQ(plan->methods[0].trainable_parameters, 28'049'408);
  EXPECT_EQ(plan->methods[1].trainable_parameters, 56'098'816);
}

TEST(ComparePlanTest, TheSamePlanMakesTheSameRequestsAndMoreMethodsKeepThem) {
  const auto first = Plan(Job(), {"sbora_fa", "lora"}, 2);
  const auto more = Plan(Job(), {"dora", "lora", "sbora_fa"}, 3);
  ASSERT_TRUE(first.ok() && more.ok());
  EXPECT_EQ(first->name, more->name);
  using google::protobuf::util::MessageDifferencer;
  EXPECT_TRUE(MessageDifferencer::Equals(RunRequest(*first, first->methods[1], 1, 0), RunRequest(*more, more->methods[1], 1, 0)));
  EXPECT_NE(RunRequest(*first, first->methods[1], 1, 0).request_id(), RunRequest(*first, first->methods[1], 1, 1).request_id());
  v1::FineTuningSpec other = Job();
  other.mutable_training()->set_learning_rate(1e-3);
  EXPECT_NE(Plan(other, {"lora"})->name, first->name);
  EXPECT_EQ(Plan(other, {"lora"}, 1, false, "mine")->name, "mine");
}

// LoRA and DoRA at r count what FA counts at 2 r, on these shapes (method of the paper's Table 3).
TEST(ComparePlanTest, MatchedRanksHaveTheNearestCountsAndTheSameScale) {
  const auto plan = Plan(Job(), {"lora", "sbora_fa", "sbora_fb", "dora"}, 1, true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->methods[0].rank, 32);
  EXPECT_EQ(plan->methods[1].rank, 64);
  EXPECT_EQ(plan->methods[2].rank, 64);
  EXPECT_EQ(plan->methods[1].trainable_parameters, plan->methods[0].trainable_parameters);
  EXPECT_EQ(plan->methods[2].trainable_parameters, plan->methods[0].trainable_parameters);
  // DoRA's magnitudes are 876,544 parameters, half of what a rank has: ranks 31 and 32 are as near, the smaller one is taken.
  EXPECT_EQ(plan->methods[3].rank, 31);
  ASSERT_EQ(plan->notes.size(), 1u);
  EXPECT_THAT(plan->notes[0], HasSubstr("dora at rank 31"));
  for (const MethodPlan& method : plan->methods) EXPECT_DOUBLE_EQ(method.alpha / static_cast<double>(method.rank), 2);
  EXPECT_EQ(RunRequest(*plan, plan->methods[1], 0, 0).fine_tuning_job().spec().adapter().rank(), 64);
}

TEST(ComparePlanTest, TheNearestRankIsFoundByLookingAtAllOfThem) {
  core::AdapterSpec adapter;
  adapter.target_modules = {core::LinearModule::kQ, core::LinearModule::kK, core::LinearModule::kDown};
  core::ModelConfig model = Llama7B();
  model.hidden_size = 48;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 12;
  model.intermediate_size = 80;
  model.num_layers = 2;
  for (const auto method : {core::AdapterMethod::kSboraFa, core::AdapterMethod::kSboraFb, core::AdapterMethod::kLora,
                            core::AdapterMethod::kDora}) {
    adapter.method = method;
    const int64_t limit = method == core::AdapterMethod::kSboraFa ? 48 : 24;
    for (int64_t wanted = 1; wanted < 30'000; wanted += 991) {
      int64_t best = 1;
      const auto distance = [&](int64_t rank) {
        adapter.rank = rank;
        return std::abs(core::TrainableParameters(model, adapter) - wanted);
      };
      for (int64_t rank = 2; rank <= limit; ++rank) best = distance(rank) < distance(best) ? rank : best;
      ASSERT_EQ(MatchRank(model, adapter, wanted), best) << core::AdapterMethodName(method) << " " << wanted;
    }
  }
}

TEST(ComparePlanTest, RankStabilizedScalesByTheRoot) {
  v1::FineTuningSpec job = Job();
  job.mutable_adapter()->set_rank_stabilized(true);
  job.mutable_adapter()->set_alpha(16);
  const auto plan = Plan(job, {"lora", "sbora_fa"}, 1, true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_DOUBLE_EQ(plan->methods[1].alpha, 16 * std::sqrt(2.0));
}

TEST(ComparePlanTest, OptionsOfOtherMethodsAreLeftOutAndToldOf) {
  v1::FineTuningSpec job = Job();
  job.mutable_adapter()->set_frozen_a(v1::FROZEN_FACTOR_RANDOM);
  job.mutable_adapter()->set_share_indices(true);
  job.mutable_adapter()->set_dropout(0.05);
  const auto plan = Plan(job, {"sbora_fa", "lora", "full"}, 1, true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->methods[0].spec.adapter().share_indices());
  EXPECT_EQ(plan->methods[0].spec.adapter().frozen_a(), v1::FROZEN_FACTOR_UNSPECIFIED);
  EXPECT_EQ(plan->methods[1].spec.adapter().frozen_a(), v1::FROZEN_FACTOR_RANDOM);
  EXPECT_EQ(plan->methods[1].rank, 32);  // a frozen A leaves FA's count
  EXPECT_EQ(plan->methods[1].spec.adapter().dropout(), 0.05);
  EXPECT_FALSE(plan->methods[2].spec.adapter().has_dropout());
  EXPECT_EQ(plan->methods[2].rank, 0);
  EXPECT_EQ(plan->methods[2].trainable_parameters, core::ParameterCount(Llama7B()));
  EXPECT_THAT(plan->notes, ElementsAre("frozen_a holds for lora alone", "share_indices holds for sbora_fa alone",
                                       "dropout holds for adapters alone: full trains without", HasSubstr("full has no rank")));
}

TEST(ComparePlanTest, WhatCannotBeComparedIsAUsageError) {
  EXPECT_EQ(Plan(Job(), {}).status().reason(), "USAGE");
  EXPECT_THAT(Plan(Job(), {"sbora_fc"}).status().message(), HasSubstr("--methods"));
  EXPECT_THAT(Plan(Job(), {"lora", "lora+none"}).status().message(), HasSubstr("lora twice"));
  EXPECT_THAT(Plan(Job(), {"lora"}, 0).status().message(), HasSubstr("from 1 to 100"));
  EXPECT_EQ(Plan(Job(), {"lora"}, 1, false, "No Name").status().reason(), "BAD_RESOURCE_ID");
  v1::FineTuningSpec patterned = Job();
  (*patterned.mutable_adapter()->mutable_rank_pattern())["q"] = 4;
  EXPECT_TRUE(Plan(patterned, {"lora"}).ok());
  EXPECT_THAT(Plan(patterned, {"lora"}, 1, true).status().message(), HasSubstr("rank_pattern"));
}

TEST(ComparePlanTest, EvaluationsAreTasksOrPlainData) {
  v1::FineTuningSpec job = Job();
  job.mutable_data()->set_prompt_template(v1::PROMPT_TEMPLATE_ALPACA);
  const auto task = PlanEvaluation("boolq=boolq-test", job);
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->spec.dataset(), "boolq-test");
  EXPECT_EQ(task->spec.scoring(), v1::SCORING_ANSWER_WORD);
  const auto plain = PlanEvaluation("mine", job);
  ASSERT_TRUE(plain.ok());
  EXPECT_TRUE(plain->spec.perplexity());
  EXPECT_EQ(plain->spec.prompt_template(), v1::PROMPT_TEMPLATE_ALPACA);
  EXPECT_EQ(PlanEvaluation("bolq=x", job).status().reason(), "UNKNOWN_TASK");
  EXPECT_EQ(PlanEvaluation("boolq=", job).status().reason(), "USAGE");
  const auto plan = Plan(Job(), {"lora"});
  const auto request = EvaluationRequest(*plan, plain->spec, "uid", 0);
  EXPECT_TRUE(CheckResourceId(request.evaluation_job_id(), "id").ok());
  EXPECT_EQ(request.SerializeAsString(), EvaluationRequest(*plan, plain->spec, "uid", 0).SerializeAsString());
  EXPECT_NE(request.evaluation_job_id(), EvaluationRequest(*plan, plain->spec, "other", 0).evaluation_job_id());
  EXPECT_NE(request.request_id(), EvaluationRequest(*plan, plain->spec, "uid", 1).request_id());
}

TEST(DeriveUuidTest, IsAVersionFourOfItsContent) {
  for (const char* content : {"", "a", "b", "ab"}) {
    const std::string uuid = DeriveUuid(content);
    EXPECT_TRUE(IsUuid(uuid)) << uuid;
    EXPECT_EQ(uuid[14], '4');
    EXPECT_THAT(std::string("89ab"), HasSubstr(uuid.substr(19, 1)));
    EXPECT_EQ(uuid, DeriveUuid(content));
  }
  EXPECT_NE(DeriveUuid("a"), DeriveUuid("b"));
}

}  // namespace
}  // namespace sbora::client
