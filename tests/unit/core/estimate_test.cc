#include "core/estimate.h"

#include <gmock/gmock.h>

#include "common/file.h"
#include "core/adapter.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

using enum LinearModule;
const std::vector<LinearModule> kFive = {kQ, kK, kV, kUp, kDown};
const std::vector<LinearModule> kSeven(std::begin(kAllLinearModules), std::end(kAllLinearModules));

ModelConfig Load(const std::string& name) {
  const auto text = ReadFile(std::string(SBORA_SOURCE_DIR "/examples/configs/") + name + ".json", 1 << 20);
  SBORA_CHECK(text.ok(), "{}", text.status().ToString());
  const auto config = ParseHfConfig(*text);
  SBORA_CHECK(config.ok(), "{}: {}", name, config.status().ToString());
  return *config;
}

// The example configs are the published models.
TEST(ExampleConfigs, HaveThePublishedParameterCounts) {
  const std::pair<const char*, int64_t> models[] = {
      {"llama-7b", 6738415616},     {"llama-13b", 13015864320},    {"llama-3-8b", 8030261248},
      {"llama-3.1-8b", 8030261248}, {"llama-3.2-1b", 1235814400},  {"llama-3.2-3b", 3212749824},
      {"tinyllama-1.1b", 1100048384}, {"smollm2-135m", 134515008}};
  for (const auto& [name, count] : models) EXPECT_EQ(ParameterCount(Load(name)), count) << name;
}

TEST(ExampleConfigs, ParseRopeHeadsAndTies) {
  for (const auto& [name, factor] : {std::pair{"llama-3.1-8b", 8.0}, {"llama-3.2-1b", 32.0}, {"llama-3.2-3b", 32.0}}) {
    const ModelConfig config = Load(name);
    const RopeScaling scaling{.type = RopeScalingType::kLlama3, .factor = factor, .low_freq_factor = 1.0, .high_freq_factor = 4.0,
                              .original_max_position_embeddings = 8192};
    EXPECT_EQ(config.rope_scaling, scaling) << name;
    EXPECT_EQ(config.rope_theta, 500000.0) << name;
    EXPECT_EQ(config.dtype, DType::kBF16) << name;
  }
  EXPECT_EQ(Load("llama-3.2-1b").head_dim, 64);
  EXPECT_EQ(Load("llama-3.2-3b").head_dim, 128);
  EXPECT_TRUE(Load("llama-3.2-3b").tie_word_embeddings);
  EXPECT_FALSE(Load("llama-3-8b").tie_word_embeddings);
  EXPECT_EQ(Load("llama-7b").num_kv_heads, 32);
  EXPECT_EQ(Load("llama-7b").rope_theta, 10000.0);
  EXPECT_EQ(Load("smollm2-135m").rope_theta, 100000.0);  // of rope_parameters
  EXPECT_EQ(Load("tinyllama-1.1b").num_kv_heads, 4);
}

// The rows of the paper's tables, with the counts that follow from the shapes (its own Table 5 prints half of them).
struct CountRow {
  const char* model;
  bool seven;
  int64_t rank, lora, dora, fa, fb;
};
class ParameterCounts : public ::testing::TestWithParam<CountRow> {};
TEST_P(ParameterCounts, ComeOutExactly) {
  const CountRow& row = GetParam();
  const ModelConfig model = Load(row.model);
  const auto& targets = row.seven ? kSeven : kFive;
  EXPECT_EQ(TrainableParameters(model, AdapterMethod::kLora, row.rank, targets), row.lora);
  EXPECT_EQ(TrainableParameters(model, AdapterMethod::kDora, row.rank, targets), row.dora);
  EXPECT_EQ(TrainableParameters(model, AdapterMethod::kSboraFa, row.rank, targets), row.fa);
  EXPECT_EQ(TrainableParameters(model, AdapterMethod::kSboraFb, row.rank, targets), row.fb);
  EXPECT_EQ(TrainableParameters(model, AdapterMethod::kFull, row.rank, targets), ParameterCount(model));
}
INSTANTIATE_TEST_SUITE_P(Paper, ParameterCounts,
                         ::testing::Values(CountRow{"llama-7b", false, 32, 56098816, 56975360, 28049408, 28049408},
                                           CountRow{"llama-7b", false, 64, 112197632, 113074176, 56098816, 56098816},
                                           CountRow{"llama-3-8b", false, 32, 56623104, 57409536, 25165824, 31457280},
                                           CountRow{"llama-3-8b", false, 64, 113246208, 114032640, 50331648, 62914560},
                                           CountRow{"llama-7b", true, 64, 159907840, 161267712, 87031808, 72876032},
                                           CountRow{"llama-13b", true, 64, 250347520, 252477440, 136314880, 114032640},
                                           CountRow{"llama-3-8b", true, 64, 167772160, 169148416, 88080384, 79691776}));

TEST(ParameterCounts, FaAtTwiceTheRankIsLoraOnLlama7B) {
  const ModelConfig model = Load("llama-7b");
  for (const int64_t rank : {8, 16, 32, 64, 128}) {
    const int64_t lora = TrainableParameters(model, AdapterMethod::kLora, rank, kFive);
    EXPECT_EQ(TrainableParameters(model, AdapterMethod::kSboraFa, 2 * rank, kFive), lora) << rank;
    EXPECT_EQ(TrainableParameters(model, AdapterMethod::kSboraFb, 2 * rank, kFive), lora) << rank;
  }
}

// arXiv 2407.05413, Table 2, with d outputs and k inputs; written out once more from the matrix products it counts.
TEST(LinearOperations, AreTheTableOfThePaper) {
  const auto product = [](int64_t rows, int64_t inner) { return OperationCounts{rows * inner, rows * (inner - 1)}; };
  const auto sum = [](std::initializer_list<OperationCounts> parts, int64_t joined) {
    OperationCounts total{0, joined};  // adding the adapter's outputs to the layer's
    for (const OperationCounts& part : parts) {
      total.multiplications += part.multiplications;
      total.additions += part.additions;
    }
    return total;
  };
  for (const auto& [d, k, r] : {std::tuple{4096L, 4096L, 32L}, {11008L, 4096L, 64L}, {1024L, 4096L, 8L}, {3L, 5L, 1L}}) {
    const ModuleShape shape{d, k};
    EXPECT_EQ(LinearOperations(AdapterMethod::kFull, shape, r), product(d, k));
    EXPECT_EQ(LinearOperations(AdapterMethod::kLora, shape, r), sum({product(d, k), product(r, k), product(d, r)}, d));
    EXPECT_EQ(LinearOperations(AdapterMethod::kSboraFa, shape, r), sum({product(d, k), product(d, r)}, d));
    EXPECT_EQ(LinearOperations(AdapterMethod::kSboraFb, shape, r), sum({product(d, k), product(r, k)}, r));
  }
  EXPECT_EQ(LinearOperations(AdapterMethod::kLora, {2, 3}, 1), (OperationCounts{6 + 5, 4 + 2 + 0 + 2}));
  EXPECT_EQ(LinearOperations(AdapterMethod::kDora, {2, 3}, 1), (OperationCounts{6 + 5 + 2, 8}));
}

AdapterSpec Adapter(AdapterMethod method, int64_t rank, std::vector<LinearModule> targets) {
  AdapterSpec adapter;
  adapter.method = method;
  adapter.rank = rank;
  adapter.target_modules = std::move(targets);
  return adapter;
}

int64_t Kept(AdapterMethod method, const std::vector<LinearModule>& targets, const StepLoad& load = {.cuda = false, .tokens = 10, .supervised_tokens = 4, .samples = 2}) {
  return KeptActivationBytes(testing::TinyConfig(), Adapter(method, 2, targets), load, 4);
}

// TinyConfig: 2 layers, H 16, F 24, 4 heads of 4, 2 key heads. 10 tokens, 4 of them supervised, float32, r 2.
TEST(KeptActivations, AreThoseOfTheOperations) {
  constexpr int64_t kNorm = 16 * 4 + 4;                              // input, one float
  constexpr int64_t kAttention = (16 + 8 + 8 + 16) * 4 + 4 * 4;      // q, k, v, output, log-sum-exp
  constexpr int64_t kMlp = 2 * 24 * 4;                               // gate, up
  constexpr int64_t kOnce = 10 * 4 * 4 + 4 * (2 * 16 * 4 + 4);       // angles; last norm, gradient of the loss
  // The first norm of the first layer needs no gradient.
  constexpr int64_t kFrozen = 2 * (2 * kNorm + kAttention + kMlp) - kNorm;
  EXPECT_EQ(Kept(AdapterMethod::kSboraFa, kFive), 10 * (kFrozen + 2 * 5 * 2 * 4) + kOnce);
  // FB keeps the whole input: once for q, k, v, once for up, and down's.
  EXPECT_EQ(Kept(AdapterMethod::kSboraFb, kFive), 10 * (kFrozen + 2 * (16 + 16 + 24) * 4) + kOnce);
  EXPECT_EQ(Kept(AdapterMethod::kLora, kFive), 10 * (kFrozen + 2 * (16 + 16 + 24 + 5 * 2) * 4) + kOnce);
  // A frozen A has no gradient, which alone would need the inputs.
  AdapterSpec frozen = Adapter(AdapterMethod::kLora, 2, kFive);
  frozen.frozen_a = FrozenFactor::kRandom;
  const StepLoad load{.cuda = false, .tokens = 10, .supervised_tokens = 4, .samples = 2};
  EXPECT_EQ(KeptActivationBytes(testing::TinyConfig(), frozen, load, 4), 10 * (kFrozen + 2 * 5 * 2 * 4) + kOnce);
  const int64_t outputs = 16 + 8 + 8 + 24 + 16;  // d of q, k, v, up, down
  EXPECT_EQ(Kept(AdapterMethod::kDora, kFive), 10 * (kFrozen + 2 * (16 + 16 + 24 + 5 * 2 + outputs) * 4) + kOnce);
  // o's input is attention's output, which is kept anyway; gate shares up's.
  EXPECT_EQ(Kept(AdapterMethod::kSboraFb, kSeven), Kept(AdapterMethod::kSboraFb, kFive));
  EXPECT_EQ(Kept(AdapterMethod::kFull, kSeven), Kept(AdapterMethod::kSboraFb, kSeven) + 10 * kNorm);
}

TEST(KeptActivations, BeforeTheFirstAdaptedModuleNothingIsKept) {
  constexpr int64_t kOnce = 10 * 4 * 4 + 4 * (2 * 16 * 4 + 4);
  constexpr int64_t kSecond = 2 * (16 * 4 + 4) + (16 + 8 + 8 + 16) * 4 + 4 * 4 + 2 * 24 * 4;
  EXPECT_EQ(Kept(AdapterMethod::kSboraFa, {kDown}), 10 * (kSecond + 2 * 2 * 4) + kOnce);
}

TEST(KeptActivations, CheckpointingKeepsEachLayersInputAndOneLayer) {
  const ModelConfig model = testing::TinyConfig();  // two layers
  StepLoad load{.cuda = false, .tokens = 10, .supervised_tokens = 4, .samples = 2};
  constexpr int64_t kOnce = 10 * 4 * 4 + 4 * (2 * 16 * 4 + 4);  // angles, head
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kLora, AdapterMethod::kFull}) {
    load.gradient_checkpointing = false;
    const int64_t plain = (KeptActivationBytes(model, Adapter(method, 2, kSeven), load, 4) - kOnce) / 10;
    load.gradient_checkpointing = true;
    const int64_t kept = (KeptActivationBytes(model, Adapter(method, 2, kSeven), load, 4) - kOnce) / 10;
    // The first layer of an adapter has no gradient for its input, so that its first norm keeps nothing.
    const int64_t norm = 16 * 4 + 4;
    const int64_t second = method == AdapterMethod::kFull ? plain / 2 : (plain + norm) / 2;
    EXPECT_EQ(kept, 2 * 16 * 4 + second - 16 * 4) << AdapterMethodName(method);
  }
}

TEST(EstimateFlops, CheckpointingAddsOneForwardPassOfTheLayers) {
  ModelConfig model = testing::TinyConfig();
  model.num_layers = 1;
  StepLoad load{.cuda = false, .tokens = 10, .supervised_tokens = 4, .samples = 2};
  const double linear = 16 * 16 * 2 + 8 * 16 * 2 + 3 * 24 * 16;
  const double attention = 16 * 5;
  const auto added = [&](AdapterMethod method) {
    const AdapterSpec adapter = Adapter(method, 2, kFive);
    load.gradient_checkpointing = false;
    const double plain = EstimateFlops(model, adapter, load);
    load.gradient_checkpointing = true;
    return EstimateFlops(model, adapter, load) - plain;
  };
  const double outputs = 16 + 8 + 8 + 24 + 16, inputs = 4 * 16 + 24;  // of q, k, v, up, down
  EXPECT_DOUBLE_EQ(added(AdapterMethod::kFull), 2 * 10 * (linear + attention));
  EXPECT_DOUBLE_EQ(added(AdapterMethod::kSboraFa), 2 * 10 * (linear + attention + 2 * outputs));
  EXPECT_DOUBLE_EQ(added(AdapterMethod::kSboraFb), 2 * 10 * (linear + attention + 2 * inputs));
  EXPECT_DOUBLE_EQ(added(AdapterMethod::kLora), 2 * 10 * (linear + attention + 2 * (outputs + inputs)));
}

TEST(KeptActivations, FaSavesTheInputsOnLlama3) {
  const ModelConfig model = Load("llama-3-8b");
  const StepLoad load{.cuda = true, .tokens = 1000, .supervised_tokens = 100, .samples = 4};
  const int64_t fa = KeptActivationBytes(model, Adapter(AdapterMethod::kSboraFa, 32, kFive), load, 2);
  const int64_t fb = KeptActivationBytes(model, Adapter(AdapterMethod::kSboraFb, 32, kFive), load, 2);
  EXPECT_EQ(fb - fa, int64_t{1000} * 32 * (4096 + 4096 + 14336 - 5 * 32) * 2);
}

TEST(EstimateMemory, HoldsWeightsTwiceWhileLoadingAndNf4InHalfAByte) {
  const ModelConfig model = Load("llama-3-8b");
  JobSpec spec;
  spec.adapter = Adapter(AdapterMethod::kSboraFa, 64, kSeven);
  spec.data.cutoff_tokens = 512;
  const StepLoad load = FullLoad(spec, false);
  EXPECT_EQ(load.tokens, 2048);
  const MemoryEstimate memory = EstimateMemory(model, spec, load);
  EXPECT_EQ(memory.weights, 8030261248 * 4);
  EXPECT_EQ(memory.gradients, int64_t{88080384} * 4);
  EXPECT_EQ(memory.optimizer, int64_t{88080384} * 8);
  const int64_t indices = 2 * 7 * 32 * 64 * 4;
  EXPECT_EQ(memory.adapter, 2 * int64_t{88080384} * 4 + indices);  // merged: the columns of W0 are kept, too
  EXPECT_EQ(EstimateMemory(model, spec, FullLoad(spec, true)).adapter, int64_t{88080384} * 4 + indices);  // bfloat16: plain
  spec.adapter.dropout = 0.05;
  EXPECT_EQ(EstimateMemory(model, spec, load).adapter, int64_t{88080384} * 4 + indices);
  spec.adapter.dropout = 0;
  EXPECT_EQ(memory.loading, 8030261248 * (4 + 2) + kCpuRuntimeBytes);
  EXPECT_EQ(memory.peak(), std::max(memory.loading, memory.training()));
  spec.quantization = Quantization::kNf4;
  const MemoryEstimate nf4 = EstimateMemory(model, spec, FullLoad(spec, true));
  const int64_t linear = 8030261248 - 2 * int64_t{128256} * 4096 - 65 * 4096;
  // A nibble, 1/64 of a byte-wide scale and 1/16384 of a float for each weight; the rest in bfloat16.
  EXPECT_EQ(nf4.weights, linear / 2 + linear / 64 + linear / 4096 + (8030261248 - linear) * 2);
  EXPECT_EQ(nf4.runtime, 0);
  // On a CPU the quantised folder is what is mapped.
  EXPECT_EQ(EstimateMemory(model, spec, load).loading,
            2 * (linear / 2 + linear / 64 + linear / 4096) + (8030261248 - linear) * (2 + 4) + kCpuRuntimeBytes);
  spec.double_quantization = false;
  EXPECT_EQ(EstimateMemory(model, spec, FullLoad(spec, true)).weights, linear / 2 + linear / 16 + (8030261248 - linear) * 2);
  spec.quantization = Quantization::kNone;
  spec.adapter.method = AdapterMethod::kFull;
  const MemoryEstimate full = EstimateMemory(model, spec, FullLoad(spec, true));
  EXPECT_EQ(full.weights, 8030261248 * 4);  // float32 on a GPU, too
  EXPECT_EQ(full.adapter, 0);
  EXPECT_EQ(full.optimizer, 8030261248 * 8);
  const MemoryEstimate on_cpu = EstimateMemory(model, spec, FullLoad(spec, false));
  EXPECT_EQ(on_cpu.weights, 8030261248 * 4);  // they are what is trained: no second copy
  EXPECT_EQ(on_cpu.adapter, 0);
  EXPECT_EQ(on_cpu.gradients, 8030261248 * 4);
  EXPECT_EQ(on_cpu.optimizer, 8030261248 * 8);
  EXPECT_EQ(on_cpu.scratch, std::max(int64_t{128256} * 4096 * 4 + int64_t{128} * 128256 * 4,
                                     int64_t{2048} * (4 * 14336 + 2 * 4096) * 4));
  spec.keep_best = true;
  EXPECT_EQ(EstimateMemory(model, spec, FullLoad(spec, false)).adapter, 8030261248 * 4);
}

TEST(OptimizerBytes, SmallTensorsKeepFloatsAndLargeOnesTakeAQuarter) {
  ModelConfig model = testing::TinyConfig();  // tied; 16 wide, nothing of 4096 elements
  const AdapterSpec full = Adapter(AdapterMethod::kFull, 2, kSeven);
  EXPECT_EQ(OptimizerBytes(model, full, OptimizerKind::kAdamW), 8 * ParameterCount(model));
  EXPECT_EQ(OptimizerBytes(model, full, OptimizerKind::kAdamW8Bit), 8 * ParameterCount(model));
  model.vocab_size = 257;  // an embedding of 4112, in 17 blocks
  EXPECT_EQ(OptimizerBytes(model, full, OptimizerKind::kAdamW8Bit), 8 * (ParameterCount(model) - 4112) + 2 * (4112 + 17 * 4));
  const ModelConfig llama = Load("llama-3-8b");
  const AdapterSpec lora = Adapter(AdapterMethod::kLora, 64, kSeven);
  const int64_t trained = TrainableParameters(llama, AdapterMethod::kLora, 64, kSeven);
  EXPECT_EQ(OptimizerBytes(llama, lora, OptimizerKind::kAdamW), 8 * trained);
  EXPECT_EQ(OptimizerBytes(llama, lora, OptimizerKind::kAdamW8Bit), 2 * (trained + trained / 256 * 4));
  JobSpec spec;
  spec.adapter = lora;
  spec.training.optimizer = OptimizerKind::kAdamW8Bit;
  EXPECT_EQ(EstimateMemory(llama, spec, {.cuda = false, .tokens = 8, .supervised_tokens = 8, .samples = 1}).optimizer, 2 * (trained + trained / 256 * 4));
}

TEST(OptimizerBytes, FollowsLayersAndRanksOfThePattern) {
  const ModelConfig llama = Load("llama-3-8b");
  AdapterSpec some = Adapter(AdapterMethod::kSboraFa, 64, kSeven);
  const int64_t all_layers = OptimizerBytes(llama, some, OptimizerKind::kAdamW);
  some.pattern.layers = {24, 25, 26, 27, 28, 29, 30, 31};
  EXPECT_EQ(OptimizerBytes(llama, some, OptimizerKind::kAdamW) * 4, all_layers);
  AdapterSpec one = Adapter(AdapterMethod::kSboraFa, 64, kSeven);
  one.pattern.ranks[{.layer = 0, .module = LinearModule::kDown}] = 256;
  // Down's trained factor is [4096, r]: two float32 moments for each of 192 further columns.
  EXPECT_EQ(OptimizerBytes(llama, one, OptimizerKind::kAdamW), all_layers + int64_t{8} * 4096 * 192);
}

TEST(EstimateFlops, CountsProductsGradientsAttentionAndHead) {
  ModelConfig model = testing::TinyConfig();
  model.num_layers = 1;
  const StepLoad load{.cuda = false, .tokens = 10, .supervised_tokens = 4, .samples = 2};
  const double linear = 16 * 16 * 2 + 8 * 16 * 2 + 3 * 24 * 16;
  const double inputs_without_gradient = 16 * 16 + 8 * 16 * 2;  // q, k, v of the first layer
  const double attention = 3.5 * 16 * 5;
  const double head = 2 * 32 * 16;
  const double frozen = 10 * (2 * linear - inputs_without_gradient + attention) + 4 * head;
  const double fa = 10 * 2 * (2 * (16 + 8 + 8) + 3 * (24 + 16));  // d r: forward, factor, and the input where it has one
  EXPECT_DOUBLE_EQ(EstimateFlops(model, Adapter(AdapterMethod::kSboraFa, 2, kFive), load), 2 * (frozen + fa));
  const double fb = 10 * 2 * (2 * 3 * 16 + 3 * (16 + 24));
  EXPECT_DOUBLE_EQ(EstimateFlops(model, Adapter(AdapterMethod::kSboraFb, 2, kFive), load), 2 * (frozen + fb));
  const double lora = 10 * 2 * (3 * (16 + 8 + 8 + 24 + 16) + 2 * 3 * 16 + 3 * (16 + 24));
  EXPECT_DOUBLE_EQ(EstimateFlops(model, Adapter(AdapterMethod::kLora, 2, kFive), load), 2 * (frozen + lora));
  const double full = 10 * (3 * linear + attention) + 4 * 1.5 * head;
  EXPECT_DOUBLE_EQ(EstimateFlops(model, Adapter(AdapterMethod::kFull, 2, kSeven), load), 2 * full);
}

}  // namespace
}  // namespace sbora::core
