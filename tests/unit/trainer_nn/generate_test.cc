#include "worker/trainer/nn/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/nn/beam_search.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using testing::MaxDifference;
using testing::RandomIds;
using testing::TinyAdapter;
using testing::TinyConfig;
using testing::TinyModel;

std::vector<std::vector<int64_t>> Prompts() { return {RandomIds(9, 1), RandomIds(1, 2), RandomIds(17, 3), RandomIds(4, 4)}; }

at::Tensor FullLogits(const LlamaModel& model, const std::vector<int64_t>& ids, AdapterSet* adapter) {
  PackedBatch batch;
  batch.Append(0, ids);
  return model.Logits(batch, {batch.tokens() - 1}, adapter);
}

std::vector<int64_t> SlowGreedy(const LlamaModel& model, std::vector<int64_t> ids, int64_t count, AdapterSet* adapter) {
  const size_t prompt = ids.size();
  for (int64_t i = 0; i < count; ++i) ids.push_back(FullLogits(model, ids, adapter).argmax().item<int64_t>());
  return {ids.begin() + static_cast<int64_t>(prompt), ids.end()};
}

TEST(KvCache, StepsEqualTheFullForwardOnARaggedBatch) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(AdapterMethod::kSboraFb);
  std::vector<std::vector<int64_t>> rows = Prompts();
  KvCache cache = model->NewCache(4, 3);  // too small: it must grow
  at::Tensor logits = model->Prefill(rows, cache, adapter.get());
  for (int64_t step = 0; step < 6; ++step) {
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_LT(MaxDifference(logits.slice(0, static_cast<int64_t>(i), static_cast<int64_t>(i) + 1),
                              FullLogits(*model, rows[i], adapter.get())), 1e-4) << "row " << i << " step " << step;
    }
    if (step == 3) {
      cache.Keep({2, 0});
      rows = {rows[2], rows[0]};
    }
    std::vector<int64_t> next;
    for (size_t i = 0; i < rows.size(); ++i) next.push_back(static_cast<int64_t>((step * 7 + static_cast<int64_t>(i) * 13) % 61));
    for (size_t i = 0; i < rows.size(); ++i) rows[i].push_back(next[i]);
    logits = model->Step(next, cache, adapter.get());
  }
}

class GenerateMethodTest : public ::testing::TestWithParam<AdapterMethod> {};
INSTANTIATE_TEST_SUITE_P(Methods, GenerateMethodTest,
                         ::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kLora, AdapterMethod::kDora),
                         [](const auto& info) { return std::string(core::AdapterMethodName(info.param)); });

TEST_P(GenerateMethodTest, GreedyEqualsRepeatedFullForwards) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  for (const int64_t batch_size : {1, 3, 64}) {
    auto results = Generate(*model, adapter.get(), Prompts(), {.max_new_tokens = 12, .batch_size = batch_size});
    ASSERT_TRUE(results.ok());
    for (size_t i = 0; i < results->size(); ++i) {
      EXPECT_EQ((*results)[i].ids, SlowGreedy(*model, Prompts()[i], 12, adapter.get()));
      EXPECT_EQ((*results)[i].finish, FinishReason::kLength);
    }
  }
}

TEST(Generate, StopsAtAnEndTokenWhileTheOthersGoOn) {
  const auto model = TinyModel();
  const std::vector<int64_t> longest = SlowGreedy(*model, Prompts()[0], 12, nullptr);
  const int64_t end = longest[4];
  auto results = Generate(*model, nullptr, Prompts(), {.max_new_tokens = 12, .eos_ids = {end}});
  ASSERT_TRUE(results.ok());
  for (size_t i = 0; i < results->size(); ++i) {
    std::vector<int64_t> expected = SlowGreedy(*model, Prompts()[i], 12, nullptr);
    const auto at = std::find(expected.begin(), expected.end(), end);
    EXPECT_EQ((*results)[i].finish, at == expected.end() ? FinishReason::kLength : FinishReason::kStop);
    expected.erase(at, expected.end());
    EXPECT_EQ((*results)[i].ids, expected);
  }
  EXPECT_EQ((*results)[0].finish, FinishReason::kStop);
}

TEST(Generate, SamplingIsAFunctionOfSeedAndPromptNumberNotOfBatching) {
  const auto model = TinyModel();
  const auto run = [&](uint64_t seed, int64_t batch_size) {
    auto results = Generate(*model, nullptr, Prompts(),
                            {.max_new_tokens = 10, .temperature = 1.5, .top_k = 20, .top_p = 0.95, .seed = seed,
                             .batch_size = batch_size});
    std::vector<std::vector<int64_t>> ids;
    for (const Generation& result : *results) ids.push_back(result.ids);
    return ids;
  };
  EXPECT_EQ(run(1, 64), run(1, 2));
  EXPECT_NE(run(1, 64), run(2, 64));
  auto greedy = Generate(*model, nullptr, Prompts(), {.max_new_tokens = 10});
  auto top_one = Generate(*model, nullptr, Prompts(), {.max_new_tokens = 10, .temperature = 5, .top_k = 1});
  for (size_t i = 0; i < greedy->size(); ++i) EXPECT_EQ((*greedy)[i].ids, (*top_one)[i].ids);
}

TEST(Generate, TopKAndTopPBoundTheChoice) {
  const auto model = TinyModel();
  const std::vector<int64_t> prompt = RandomIds(6, 8);
  const at::Tensor sorted = std::get<1>(FullLogits(*model, prompt, nullptr)[0].sort(0, /*descending=*/true));
  const std::set<int64_t> best{sorted[0].item<int64_t>(), sorted[1].item<int64_t>(), sorted[2].item<int64_t>()};
  std::set<int64_t> seen;
  const std::vector<std::vector<int64_t>> copies(64, prompt);
  auto results = Generate(*model, nullptr, copies, {.max_new_tokens = 1, .temperature = 100, .top_k = 3});
  for (const Generation& result : *results) seen.insert(result.ids[0]);
  EXPECT_EQ(seen, best);
  auto nucleus = Generate(*model, nullptr, copies, {.max_new_tokens = 1, .temperature = 1, .top_p = 1e-9});
  for (const Generation& result : *nucleus) EXPECT_EQ(result.ids[0], sorted[0].item<int64_t>());
}

TEST(Generate, HonoursTheModelsLengthAndCancellation) {
  const auto model = TinyModel();
  auto full = Generate(*model, nullptr, {RandomIds(60, 1), RandomIds(64, 2)}, {.max_new_tokens = 100});
  EXPECT_EQ((*full)[0].ids.size(), 4u);
  EXPECT_EQ((*full)[0].finish, FinishReason::kLength);
  int64_t calls = 0;
  GenerateOptions options{.max_new_tokens = 10, .batch_size = 2};
  options.on_step = [&](int64_t) { return ++calls < 3; };
  auto cut = Generate(*model, nullptr, Prompts(), options);
  ASSERT_EQ(cut->size(), 4u);
  EXPECT_EQ((*cut)[0].ids.size(), 3u);
  EXPECT_EQ((*cut)[3].finish, FinishReason::kCancelled);
}

using Step = std::vector<PromptBeams::Continuation>;

TEST(PromptBeams, KeepsFinishedOnesByMeanAndStopsWhenNoneCanGetBetter) {
  PromptBeams beams(2, 10);
  beams.Advance(Step{{0, 5, -0.1F}, {0, 9, -0.5F}, {0, 6, -0.7F}, {0, 7, -0.9F}}, {9});
  ASSERT_EQ(beams.running().size(), 2U);
  EXPECT_EQ(beams.running()[0].token, 5);
  EXPECT_EQ(beams.running()[1].token, 6);
  EXPECT_FALSE(beams.done());  // one finished: the empty answer, at -0.5
  beams.Advance(Step{{0, 9, -0.4F}, {1, 9, -0.9F}, {0, 1, -1.2F}, {1, 2, -1.3F}}, {9});
  EXPECT_TRUE(beams.done());  // finished at -0.2 and -0.45; the best running one is at -0.6
  EXPECT_EQ(beams.Best().ids, std::vector<int64_t>{5});
  EXPECT_EQ(beams.Best().finish, FinishReason::kStop);
}

TEST(PromptBeams, GoesOnWhileARunningOneCouldReplaceTheWorst) {
  PromptBeams beams(2, 10);
  beams.Advance(Step{{0, 9, -0.5F}, {0, 8, -0.6F}, {0, 1, -0.7F}, {0, 2, -0.8F}, {0, 3, -0.9F}, {0, 4, -1.F}}, {8, 9});
  EXPECT_TRUE(beams.done());  // -0.7 over one token is worse than both
  EXPECT_TRUE(beams.Best().ids.empty());
  PromptBeams others(2, 10);
  others.Advance(Step{{0, 1, -0.1F}, {0, 2, -0.2F}, {0, 9, -5.F}, {0, 3, -6.F}}, {9});
  EXPECT_EQ(others.running().size(), 2U);  // the end token is not among the best two: not kept
  others.Advance(Step{{0, 9, -3.F}, {1, 9, -3.2F}, {0, 1, -3.4F}, {1, 1, -3.5F}}, {9});
  EXPECT_TRUE(others.done());
  EXPECT_EQ(others.Best().ids, std::vector<int64_t>{1});
  PromptBeams third(1, 10);
  third.Advance(Step{{0, 9, -2.F}, {0, 1, -1.9F}}, {9});
  EXPECT_FALSE(third.done());  // -1.9 beats -2
}

TEST(PromptBeams, EndsAtTheLimitWithTheBestOfAll) {
  PromptBeams beams(2, 2);
  beams.Advance(Step{{0, 1, -1.F}, {0, 2, -2.F}, {0, 3, -3.F}, {0, 4, -4.F}}, {});
  beams.Advance(Step{{1, 7, -2.1F}, {0, 5, -2.2F}, {0, 6, -9.F}, {1, 6, -9.F}}, {});
  EXPECT_TRUE(beams.done());
  EXPECT_EQ(beams.Best().ids, (std::vector<int64_t>{2, 7}));
  EXPECT_EQ(beams.Best().finish, FinishReason::kLength);
}

TEST(BeamSearch, ScoresNoWorseThanGreedyAndDoesNotDependOnBatching) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(AdapterMethod::kSboraFa);
  // Without end tokens all answers have one length, so the mean that beams are judged by is the sum.
  const auto score = [&](std::vector<int64_t> ids, const std::vector<int64_t>& answer) {
    double sum = 0;
    for (const int64_t token : answer) {
      sum += FullLogits(*model, ids, adapter.get()).log_softmax(1)[0][token].item<double>();
      ids.push_back(token);
    }
    return sum;
  };
  auto greedy = Generate(*model, adapter.get(), Prompts(), {.max_new_tokens = 6});
  auto all = Generate(*model, adapter.get(), Prompts(), {.max_new_tokens = 6, .num_beams = 4});
  auto single = Generate(*model, adapter.get(), Prompts(), {.max_new_tokens = 6, .batch_size = 1, .num_beams = 4});
  ASSERT_TRUE(greedy.ok() && all.ok() && single.ok());
  for (size_t i = 0; i < Prompts().size(); ++i) {
    EXPECT_EQ((*all)[i].ids, (*single)[i].ids);
    EXPECT_EQ((*all)[i].ids.size(), 6U);
    EXPECT_GE(score(Prompts()[i], (*all)[i].ids), score(Prompts()[i], (*greedy)[i].ids) - 1e-4);
  }
  auto full = Generate(*model, nullptr, {RandomIds(60, 1)}, {.max_new_tokens = 100, .num_beams = 3});
  EXPECT_EQ((*full)[0].ids.size(), 4U);
  GenerateOptions stop{.max_new_tokens = 10, .num_beams = 2};
  int64_t calls = 0;
  stop.on_step = [&](int64_t) { return ++calls < 3; };
  EXPECT_EQ((*Generate(*model, nullptr, Prompts(), stop))[0].finish, FinishReason::kCancelled);
}

TEST(Generate, OfLogitsThatAreNotFiniteNoTokenIsChosen) {
  const auto model = TinyModel();
  for (auto& [name, tensor] : model->NamedTensors()) {
    if (name == "model.embed_tokens.weight") tensor[60].fill_(NAN);  // the head's row of one token
  }
  for (const GenerateOptions& options : {GenerateOptions{}, GenerateOptions{.temperature = 1}, GenerateOptions{.num_beams = 2}}) {
    const Status refused = Generate(*model, nullptr, {{1, 2, 3}}, options).status();
    EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
    EXPECT_EQ(refused.reason(), "NON_FINITE_LOGITS");
  }
}

TEST(Generate, BadPromptsAreErrors) {
  const auto model = TinyModel();
  const auto reason = [&](std::vector<std::vector<int64_t>> prompts, GenerateOptions options = {}) {
    auto results = Generate(*model, nullptr, prompts, options);
    return results.ok() ? std::string("OK") : results.status().reason();
  };
  EXPECT_EQ(reason({{1}, {}}), "PROMPT_EMPTY");
  EXPECT_EQ(reason({RandomIds(65, 1)}), "PROMPT_TOO_LONG");
  EXPECT_EQ(reason({{61}}), "TOKEN_OUT_OF_RANGE");
  EXPECT_EQ(reason({{1}}, {.top_p = 0}), "GENERATE_OPTIONS");
  EXPECT_EQ(reason({{1}}, {.num_beams = 0}), "GENERATE_OPTIONS");
  EXPECT_EQ(reason({{1}}, {.temperature = 1, .num_beams = 2}), "GENERATE_OPTIONS");
  EXPECT_EQ(reason({{1}}, {.num_beams = 31}), "GENERATE_OPTIONS");  // 62 continuations of 61 tokens
}

}  // namespace
}  // namespace sbora::trainer
