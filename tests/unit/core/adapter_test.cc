#include "core/adapter.h"

#include <gmock/gmock.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "core/r_index.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

using testing::NewTempDirectory;
using testing::TinyConfig;

ModelConfig Llama(int64_t hidden, int64_t layers, int64_t heads, int64_t kv_heads, int64_t ffn) {
  ModelConfig config;
  config.hidden_size = hidden;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = hidden / heads;
  config.intermediate_size = ffn;
  config.vocab_size = 32000;
  return config;
}
const std::vector<LinearModule> kFive = {LinearModule::kQ, LinearModule::kK, LinearModule::kV, LinearModule::kUp,
                                         LinearModule::kDown};
const std::vector<LinearModule> kSeven(std::begin(kAllLinearModules), std::end(kAllLinearModules));

struct CountCase {
  ModelConfig base;
  std::vector<LinearModule> targets;
  int64_t rank;
  int64_t lora, dora, fa, fb;
};

// The table of docs: exact counts of trained parameters, published for LoRA, DoRA and SBoRA.
TEST(TrainableParameters, EqualThePublishedCounts) {
  const ModelConfig l7 = Llama(4096, 32, 32, 32, 11008);
  const ModelConfig l13 = Llama(5120, 40, 40, 40, 13824);
  const ModelConfig l3 = Llama(4096, 32, 32, 8, 14336);
  const CountCase cases[] = {
      {l7, kFive, 32, 56'098'816, 56'975'360, 28'049'408, 28'049'408},
      {l7, kFive, 64, 112'197'632, 113'074'176, 56'098'816, 56'098'816},
      {l3, kFive, 32, 56'623'104, 57'409'536, 25'165'824, 31'457'280},
      {l3, kFive, 64, 113'246'208, 114'032'640, 50'331'648, 62'914'560},
      {l7, kSeven, 64, 159'907'840, 161'267'712, 87'031'808, 72'876'032},
      {l13, kSeven, 64, 250'347'520, 252'477'440, 136'314'880, 114'032'640},
      {l3, kSeven, 64, 167'772'160, 169'148'416, 88'080'384, 79'691'776},
  };
  for (const CountCase& c : cases) {
    EXPECT_EQ(TrainableParameters(c.base, AdapterMethod::kLora, c.rank, c.targets), c.lora);
    EXPECT_EQ(TrainableParameters(c.base, AdapterMethod::kDora, c.rank, c.targets), c.dora);
    EXPECT_EQ(TrainableParameters(c.base, AdapterMethod::kSboraFa, c.rank, c.targets), c.fa);
    EXPECT_EQ(TrainableParameters(c.base, AdapterMethod::kSboraFb, c.rank, c.targets), c.fb);
    // A frozen leaves B [d, r]: what FA trains.
    EXPECT_EQ(TrainableParameters(c.base, AdapterMethod::kLora, c.rank, c.targets, FrozenFactor::kRandom), c.fa);
  }
}

AdapterConfig TinyAdapter(AdapterMethod method) {
  AdapterConfig config;
  config.method = method;
  config.rank = 4;
  config.alpha = 8;
  config.dropout = 0.05;
  config.target_modules = kSeven;
  config.seed = ~uint64_t{0};
  config.index_generator_version = UsesIndices(method) ? kIndexGeneratorVersion : 0;
  config.base_model = "tiny \"model\"";
  config.base_hash = std::string(64, 'a');
  config.base_config = TinyConfig();
  return config;
}

TEST(AdapterConfigJson, RoundTrips) {
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora,
                                     AdapterMethod::kDora, AdapterMethod::kFull}) {
    const AdapterConfig config = TinyAdapter(method);
    const auto parsed = ParseAdapterConfig(ToJson(config));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, config);
    EXPECT_EQ(*ParseAdapterMethod(AdapterMethodName(method)), method);
  }
  EXPECT_EQ(ParseAdapterMethod("adalora").status().reason(), "METHOD_UNKNOWN");
  AdapterConfig frozen = TinyAdapter(AdapterMethod::kLora);
  frozen.rank_stabilized = true;
  for (const FrozenFactor kind : {FrozenFactor::kNone, FrozenFactor::kRandom, FrozenFactor::kOrthonormal}) {
    frozen.frozen_a = kind;
    EXPECT_EQ(*ParseAdapterConfig(ToJson(frozen)), frozen);
    EXPECT_EQ(*ParseFrozenFactor(FrozenFactorName(kind)), kind);
  }
  EXPECT_EQ(ParseFrozenFactor("B").status().reason(), "FROZEN_FACTOR_UNKNOWN");
}

TEST(AdapterConfigJson, AnAdapterFromBeforeTheVariantsIsPlain) {
  auto json = nlohmann::json::parse(ToJson(TinyAdapter(AdapterMethod::kLora)));
  json.erase("rank_stabilized");
  json.erase("frozen_a");
  EXPECT_EQ(*ParseAdapterConfig(json.dump()), TinyAdapter(AdapterMethod::kLora));
}

TEST(AdapterScale, DividesByTheRankOrItsRoot) {
  AdapterConfig config = TinyAdapter(AdapterMethod::kSboraFa);  // rank 4, alpha 8
  EXPECT_EQ(config.scale(), 2);
  config.rank_stabilized = true;
  EXPECT_EQ(config.scale(), 4);
}

TEST(AdapterConfigJson, SaysHowTheBaseWasHeld) {
  AdapterConfig config = TinyAdapter(AdapterMethod::kSboraFa);
  EXPECT_THAT(ToJson(config), ::testing::HasSubstr("\"format_version\": 1"));
  for (const bool nested : {true, false}) {
    config.base_quantization = {.kind = Quantization::kNf4, .double_quantization = nested};
    const std::string text = ToJson(config);
    // A program that knows no quantised base must not take the adapter for one of the float base.
    EXPECT_THAT(text, ::testing::HasSubstr("\"format_version\": 2"));
    const auto parsed = ParseAdapterConfig(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    EXPECT_EQ(*parsed, config);
    std::string other = text;
    other.replace(other.find("\"nf4\""), 5, "\"int8\"");
    EXPECT_EQ(ParseAdapterConfig(other).status().reason(), "ADAPTER_CONFIG_MALFORMED");
  }
}

TEST(AdapterConfigJson, RefusesBadText) {
  const auto with = [](const char* key, nlohmann::json value) {
    auto json = nlohmann::json::parse(ToJson(TinyAdapter(AdapterMethod::kSboraFa)));
    json[key] = std::move(value);
    return ParseAdapterConfig(json.dump()).status().reason();
  };
  EXPECT_EQ(ParseAdapterConfig("[").status().reason(), "ADAPTER_CONFIG_MALFORMED");
  const auto deep = nlohmann::json::parse(std::string(70, '[') + std::string(70, ']'));
  EXPECT_EQ(with("base_config", deep), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("format_version", 4), "ADAPTER_FORMAT_VERSION");
  EXPECT_EQ(with("format_version", 2), "ADAPTER_CONFIG_MALFORMED");  // without base_quantization
  EXPECT_EQ(with("base_quantization", {{"method", "nf4"}, {"double_quantization", true}}), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("r", "4"), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("seed", -1), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("base_hash", "xyz"), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("artifact_dtype", "I32"), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("target_modules", {"q_proj", "q_proj"}), "TARGET_MODULE_DUPLICATE");
  EXPECT_EQ(with("target_modules", nlohmann::json::array()), "TARGET_MODULES_EMPTY");
  EXPECT_EQ(with("target_modules", {"wq"}), "TARGET_MODULE_UNKNOWN");
  EXPECT_EQ(with("r", 17), "RANK_OUT_OF_RANGE");  // k = 16
  EXPECT_EQ(with("r", 0), "RANK_OUT_OF_RANGE");
  EXPECT_EQ(with("alpha", 0), "ALPHA_OUT_OF_RANGE");
  EXPECT_EQ(with("dropout", 1.0), "DROPOUT_OUT_OF_RANGE");
  EXPECT_EQ(with("rank_stabilized", 1), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("frozen_a", true), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("frozen_a", "both"), "FROZEN_FACTOR_UNKNOWN");
  EXPECT_EQ(with("frozen_a", "random"), "FROZEN_FACTOR_METHOD");  // of sbora_fa
}

TEST(CheckAdapterConfig, RankLimitIsThatOfTheMethodsAxis) {
  AdapterConfig config = TinyAdapter(AdapterMethod::kSboraFa);  // k_proj is [8, 16]
  config.target_modules = {LinearModule::kK};
  config.rank = 16;
  EXPECT_TRUE(CheckAdapterConfig(config).ok());
  config.method = AdapterMethod::kSboraFb;
  EXPECT_EQ(CheckAdapterConfig(config).reason(), "RANK_OUT_OF_RANGE");
  EXPECT_THAT(CheckAdapterConfig(config).message(), ::testing::HasSubstr("k_proj"));
  config.rank = 8;
  EXPECT_TRUE(CheckAdapterConfig(config).ok());
}

TEST(ExpectedAdapterTensors, NamesAndShapesOfEachMethod) {
  AdapterConfig config = TinyAdapter(AdapterMethod::kSboraFa);
  config.target_modules = {LinearModule::kDown};
  config.base_config.num_layers = 1;
  const auto fa = ExpectedAdapterTensors(config);
  ASSERT_EQ(fa.size(), 2u);
  EXPECT_EQ(fa[0], (TensorSpec{"model.layers.0.mlp.down_proj.sbora_B", DType::kF32, {16, 4}}));
  EXPECT_EQ(fa[1], (TensorSpec{"model.layers.0.mlp.down_proj.sbora_index", DType::kI32, {4}}));
  config.method = AdapterMethod::kSboraFb;
  config.artifact_dtype = DType::kBF16;
  EXPECT_EQ(ExpectedAdapterTensors(config)[0],
            (TensorSpec{"model.layers.0.mlp.down_proj.sbora_A", DType::kBF16, {4, 24}}));
  config.method = AdapterMethod::kDora;
  const auto dora = ExpectedAdapterTensors(config);
  ASSERT_EQ(dora.size(), 3u);
  EXPECT_EQ(dora[2].name, "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector");
  EXPECT_EQ(dora[0].name, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
}

TEST(ModuleTensors, SayWhatIsTrained) {
  const ModuleShape shape{.out_features = 16, .in_features = 24};
  const auto trained = [&](const AdapterForm& form) {
    std::vector<std::pair<TensorRole, bool>> roles;
    for (const ModuleTensor& tensor : ModuleTensors(form, 3, LinearModule::kDown, shape)) {
      EXPECT_THAT(tensor.name, ::testing::HasSubstr("layers.3.mlp.down_proj"));
      roles.emplace_back(tensor.role, tensor.trained);
    }
    return roles;
  };
  using ::testing::ElementsAre;
  using ::testing::Pair;
  EXPECT_THAT(trained({AdapterMethod::kSboraFa, 4}),
              ElementsAre(Pair(TensorRole::kIndex, false), Pair(TensorRole::kB, true)));
  EXPECT_THAT(trained({AdapterMethod::kSboraFb, 4}),
              ElementsAre(Pair(TensorRole::kIndex, false), Pair(TensorRole::kA, true)));
  EXPECT_THAT(trained({AdapterMethod::kLora, 4}), ElementsAre(Pair(TensorRole::kA, true), Pair(TensorRole::kB, true)));
  EXPECT_THAT(trained({AdapterMethod::kLora, 4, FrozenFactor::kRandom}),
              ElementsAre(Pair(TensorRole::kA, false), Pair(TensorRole::kB, true)));
  EXPECT_THAT(trained({AdapterMethod::kDora, 4}),
              ElementsAre(Pair(TensorRole::kA, true), Pair(TensorRole::kB, true), Pair(TensorRole::kMagnitude, true)));
}

TEST(AdapterFolder, ArtifactBytesIsTheFileSizeAndBadIndicesAreRefused) {
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora,
                                     AdapterMethod::kDora}) {
    const auto dir = NewTempDirectory();
    const AdapterConfig config = TinyAdapter(method);
    const auto specs = ExpectedAdapterTensors(config);
    std::vector<std::vector<std::byte>> data;
    std::vector<TensorToWrite> tensors;
    const std::vector<int32_t> indices = {0, 2, 3, 7};
    for (const TensorSpec& spec : specs) {
      const auto bytes = std::as_bytes(std::span(indices));
      data.push_back(spec.dtype == DType::kI32 ? std::vector(bytes.begin(), bytes.end()) : testing::SeededBytes(spec));
    }
    for (size_t i = 0; i < specs.size(); ++i) tensors.push_back({specs[i], data[i]});
    const auto written = WriteSafetensors(dir.path() / kAdapterModelFile, tensors, AdapterMetadata(config));
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_EQ(written->size_bytes, ArtifactBytes(config));
    EXPECT_EQ(AdapterFolder::Open(dir.path()).status().reason(), "ADAPTER_FILE_MISSING");
    ASSERT_TRUE(WriteFileAtomic(dir.path() / kAdapterConfigFile, ToJson(config)).ok());
    const auto folder = AdapterFolder::Open(dir.path());
    ASSERT_TRUE(folder.ok()) << folder.status();
    if (!UsesIndices(method)) continue;
    EXPECT_EQ(*folder->Indices(1, LinearModule::kV), indices);

    const int32_t outside[] = {0, 2, 3, 1000};
    for (auto& bytes : data) {
      if (bytes.size() == 16) std::memcpy(bytes.data(), outside, 16);
    }
    ASSERT_TRUE(WriteSafetensors(dir.path() / kAdapterModelFile, tensors, {}).ok());
    EXPECT_EQ(AdapterFolder::Open(dir.path()).status().reason(), "INDEX_OUT_OF_RANGE");
    tensors.pop_back();
    ASSERT_TRUE(WriteSafetensors(dir.path() / kAdapterModelFile, tensors, {}).ok());
    EXPECT_EQ(AdapterFolder::Open(dir.path()).status().reason(), "ADAPTER_TENSOR_MISMATCH");
  }
}

}  // namespace
}  // namespace sbora::core
