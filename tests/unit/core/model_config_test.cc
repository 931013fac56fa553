#include "core/model_config.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "core/nf4_config.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

Json Base() {
  return {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"},        {"hidden_size", 2048},
          {"num_hidden_layers", 16},               {"num_attention_heads", 32},    {"num_key_value_heads", 8},
          {"head_dim", 64},                        {"intermediate_size", 8192},    {"vocab_size", 128256},
          {"max_position_embeddings", 131072},     {"rms_norm_eps", 1e-5},         {"tie_word_embeddings", true},
          {"bos_token_id", 128000},                {"eos_token_id", {128001, 128008, 128009}}};
}

Json Llama3Scaling() {
  return {{"rope_type", "llama3"}, {"factor", 32.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 8192}};
}

TEST(ParseHfConfig, ReadsTransformers4And5Alike) {
  Json four = Base();
  four["rope_theta"] = 500000.0;
  four["rope_scaling"] = Llama3Scaling();
  four["torch_dtype"] = "bfloat16";
  Json five = Base();
  five["rope_parameters"] = Llama3Scaling();
  five["rope_parameters"]["rope_theta"] = 500000.0;
  five["dtype"] = "bfloat16";
  const auto a = ParseHfConfig(four.dump());
  const auto b = ParseHfConfig(five.dump());
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(*a, *b);
  EXPECT_EQ(a->rope_theta, 500000.0);
  EXPECT_EQ(a->rope_scaling.type, RopeScalingType::kLlama3);
  EXPECT_EQ(a->rope_scaling.factor, 32.0);
  EXPECT_EQ(a->dtype, DType::kBF16);
  EXPECT_THAT(a->eos_token_ids, ::testing::ElementsAre(128001, 128008, 128009));
  EXPECT_EQ(ParameterCount(*a), 1235814400);  // Llama-3.2-1B
}

TEST(ParseHfConfig, RoundTripsThroughJson) {
  Json json = Base();
  for (const Json& scaling : {Json(), Llama3Scaling(), Json{{"type", "linear"}, {"factor", 2.0}}}) {
    json["rope_scaling"] = scaling;
    const auto config = ParseHfConfig(json.dump());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(*ParseHfConfig(ToHfConfigJson(*config)), *config);
  }
}

TEST(ParseHfConfig, DefaultsOfLlama1) {
  Json json = Base();
  for (const char* key : {"num_key_value_heads", "head_dim", "tie_word_embeddings", "bos_token_id"}) json.erase(key);
  json["pad_token_id"] = -1;
  const auto config = ParseHfConfig(json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 32);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->rope_theta, 10000.0);
  EXPECT_FALSE(config->pad_token_id.has_value());
}

struct BadCase {
  const char* name;
  const char* patch;  ///< merged into a good config
  const char* reason;
};
class BadConfigTest : public ::testing::TestWithParam<BadCase> {};
TEST_P(BadConfigTest, IsRefusedByName) {
  Json json = Base();
  json.merge_patch(Json::parse(GetParam().patch));
  const auto config = ParseHfConfig(json.dump());
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().reason(), GetParam().reason) << config.status();
}
INSTANTIATE_TEST_SUITE_P(
    Configs, BadConfigTest,
    ::testing::Values(
        BadCase{"Gpt2", R"({"model_type":"gpt2","architectures":["GPT2LMHeadModel"]})", "ARCHITECTURE_UNSUPPORTED"},
        BadCase{"Classifier", R"({"architectures":["LlamaForSequenceClassification"]})", "ARCHITECTURE_UNSUPPORTED"},
        BadCase{"MistralWindow", R"({"model_type":"mistral","architectures":["MistralForCausalLM"],"sliding_window":4096})",
                "SLIDING_WINDOW_UNSUPPORTED"},
        BadCase{"Mistral", R"({"model_type":"mistral","architectures":["MistralForCausalLM"]})",
                "ARCHITECTURE_UNSUPPORTED"},
        BadCase{"AttentionBias", R"({"attention_bias":true})", "ATTENTION_BIAS_UNSUPPORTED"},
        BadCase{"MlpBias", R"({"mlp_bias":true})", "MLP_BIAS_UNSUPPORTED"},
        BadCase{"Gelu", R"({"hidden_act":"gelu"})", "ACTIVATION_UNSUPPORTED"},
        BadCase{"Quantised", R"({"quantization_config":{"bits":4}})", "QUANTIZED_CHECKPOINT_UNSUPPORTED"},
        BadCase{"Yarn", R"({"rope_scaling":{"rope_type":"yarn","factor":4}})", "ROPE_SCALING_UNSUPPORTED"},
        BadCase{"Partial", R"({"partial_rotary_factor":0.5})", "ROPE_SCALING_UNSUPPORTED"},
        BadCase{"ScalingWithoutFactor", R"({"rope_scaling":{"rope_type":"linear"}})", "CONFIG_MALFORMED"},
        BadCase{"NoHidden", R"({"hidden_size":null})", "CONFIG_MALFORMED"},
        BadCase{"TextHidden", R"({"hidden_size":"576"})", "CONFIG_MALFORMED"},
        BadCase{"NegativeLayers", R"({"num_hidden_layers":-3})", "CONFIG_MALFORMED"},
        BadCase{"HugeVocab", R"({"vocab_size":9223372036854775807})", "CONFIG_MALFORMED"},
        BadCase{"HugeLayers", R"({"num_hidden_layers":100000})", "CONFIG_INCONSISTENT"},
        BadCase{"HeadsAgainstKv", R"({"num_key_value_heads":5})", "CONFIG_INCONSISTENT"},
        BadCase{"OddHead", R"({"head_dim":63})", "CONFIG_INCONSISTENT"},
        BadCase{"ZeroEps", R"({"rms_norm_eps":0})", "CONFIG_MALFORMED"},
        BadCase{"EosOutside", R"({"eos_token_id":128256})", "CONFIG_MALFORMED"},
        BadCase{"Dtype", R"({"torch_dtype":"int8"})", "CONFIG_MALFORMED"}),
    [](const auto& info) { return info.param.name; });

TEST(ParseHfConfig, RefusesWhatIsNoObject) {
  for (const char* text : {"", "[]", "{", "null", "\xff"}) EXPECT_EQ(ParseHfConfig(text).status().reason(), "CONFIG_MALFORMED");
}

// Copied or written by recursion, these would overflow the stack.
TEST(ParseHfConfig, RefusesBracketsWithoutEnd) {
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  for (const char* key : {"sliding_window", "hidden_act", "torch_dtype", "eos_token_id", "quantization_config"}) {
    const std::string text = R"({"model_type":"llama",")" + std::string(key) + "\":" + deep + "}";
    const Status refused = ParseHfConfig(text).status();
    EXPECT_EQ(refused.reason(), "CONFIG_MALFORMED") << key;
    EXPECT_EQ(refused.message(), "config.json is no JSON object of at most 64 levels") << key;
    EXPECT_EQ(ParseModelForm(text).status().reason(), "CONFIG_MALFORMED") << key;
  }
}

TEST(LinearModules, NamesShapesAndPaths) {
  const auto config = ParseHfConfig(Base().dump());
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(LinearModuleShape(*config, LinearModule::kK), (ModuleShape{512, 2048}));
  EXPECT_EQ(LinearModuleShape(*config, LinearModule::kDown), (ModuleShape{2048, 8192}));
  EXPECT_EQ(ModulePath(3, LinearModule::kQ), "model.layers.3.self_attn.q_proj");
  EXPECT_EQ(ModulePath(0, LinearModule::kGate), "model.layers.0.mlp.gate_proj");
  for (const LinearModule module : kAllLinearModules) {
    EXPECT_EQ(*ParseLinearModule(LinearModuleName(module)), module);
  }
  EXPECT_EQ(*ParseLinearModule("down"), LinearModule::kDown);
  EXPECT_EQ(ParseLinearModule("lm_head").status().reason(), "TARGET_MODULE_UNKNOWN");
  EXPECT_EQ(ExpectedTensors(*config).size(), 16u * 9 + 2);
}

}  // namespace
}  // namespace sbora::core
