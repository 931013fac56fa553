#include "core/proto/convert.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

namespace sbora::core {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

v1::FineTuningSpec MinimalSpec() {
  v1::FineTuningSpec spec;
  spec.set_model("tiny");
  spec.set_dataset("tickets");
  return spec;
}

ModelConfig SmolModel() {
  ModelConfig config;
  config.hidden_size = 576;
  config.num_layers = 30;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.intermediate_size = 1536;
  config.vocab_size = 49152;
  config.max_position_embeddings = 2048;
  return config;
}

std::set<std::string> ViolatedFields(const Status& status) {
  std::set<std::string> fields;
  for (const FieldViolation& violation : status.violations()) fields.insert(violation.field);
  return fields;
}

TEST(ConvertTest, DefaultsAreFilledInAndSurviveTheRoundTrip) {
  const auto spec = ParseSpec(MinimalSpec());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->adapter.method, AdapterMethod::kSboraFa);
  EXPECT_EQ(spec->adapter.rank, 32);
  EXPECT_EQ(spec->adapter.alpha, 64.0);
  EXPECT_EQ(spec->adapter.target_modules.size(), 5u);
  EXPECT_EQ(spec->training.batch_size, 16);
  EXPECT_EQ(spec->adapter.index_seed, spec->training.seed);
  const v1::FineTuningSpec stored = ToProto(*spec);
  const auto again = ParseSpec(stored);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(stored, ToProto(*again)));
}

/// Sets one leaf to a value that is not its default and is valid on its own.
void SetDistinctive(Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  static const std::map<std::string, double> kSpecial = {{"dropout", 0.25},      {"beta1", 0.5}, {"beta2", 0.75},
                                                         {"epochs", 3.0},        {"priority", 7}, {"threads", 3},
                                                         {"micro_batch_size", 2}, {"rank", 8},    {"cutoff_tokens", 99}, {"ranks", 2}};
  const auto special = kSpecial.find(field.name());
  const double number = special == kSpecial.end() ? 17 : special->second;
  if (field.is_map()) {
    Message& entry = *reflection.AddMessage(&message, &field);
    entry.GetReflection()->SetString(&entry, field.message_type()->map_key(), "v_proj");
    SetDistinctive(entry, *field.message_type()->map_value());
    return;
  }
  if (field.is_repeated() && field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) return reflection.AddDouble(&message, &field, number);
  if (field.is_repeated()) return reflection.AddString(&message, &field, field.name() == "target_layers" ? "3-5" : "o_proj");
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: reflection.SetInt32(&message, &field, static_cast<int32_t>(number)); break;
    case FieldDescriptor::CPPTYPE_INT64: reflection.SetInt64(&message, &field, static_cast<int64_t>(number)); break;
    case FieldDescriptor::CPPTYPE_UINT64: reflection.SetUInt64(&message, &field, static_cast<uint64_t>(number)); break;
    case FieldDescriptor::CPPTYPE_DOUBLE: reflection.SetDouble(&message, &field, number); break;
    case FieldDescriptor::CPPTYPE_BOOL: reflection.SetBool(&message, &field, true); break;
    case FieldDescriptor::CPPTYPE_STRING: reflection.SetString(&message, &field, "other-name"); break;
    case FieldDescriptor::CPPTYPE_ENUM:
      reflection.SetEnumValue(&message, &field, field.enum_type()->value(field.enum_type()->value_count() - 1)->number());
      break;
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_MESSAGE: FAIL() << "no rule for " << field.full_name();
  }
}

struct Leaf {
  std::string path;
  std::vector<const FieldDescriptor*> parents;
  const FieldDescriptor* field;
};

void CollectLeaves(const Descriptor& descriptor, const std::string& prefix, std::vector<const FieldDescriptor*> parents,
                   std::vector<Leaf>& out) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor* field = descriptor.field(i);
    const std::string path = prefix.empty() ? field->name() : prefix + "." + field->name();
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_map()) {
      auto deeper = parents;
      deeper.push_back(field);
      CollectLeaves(*field->message_type(), path, deeper, out);
    } else {
      out.push_back({path, parents, field});
    }
  }
}

std::vector<Leaf> AllLeaves() {
  std::vector<Leaf> leaves;
  CollectLeaves(*v1::FineTuningSpec::descriptor(), "", {}, leaves);
  return leaves;
}

Message& Descend(Message& root, const std::vector<const FieldDescriptor*>& parents) {
  Message* message = &root;
  for (const FieldDescriptor* parent : parents) message = message->GetReflection()->MutableMessage(message, parent);
  return *message;
}

/// Every leaf: set alone, it is either kept by the round trip or refused by name; never dropped in silence.
TEST(ConvertTest, NoFieldIsLost) {
  for (const Leaf& leaf : AllLeaves()) {
    SCOPED_TRACE(leaf.path);
    v1::FineTuningSpec spec = MinimalSpec();
    Message& owner = Descend(spec, leaf.parents);
    SetDistinctive(owner, *leaf.field);
    if (leaf.path == "datasets" || leaf.path == "dataset_weights" || leaf.path == "training.epoch_samples") {
      spec.clear_dataset();  // they are a mixture's
      if (leaf.path != "datasets") spec.add_datasets("tickets");
    }
    if (leaf.path == "validation.keep_best") spec.set_validation_dataset("held-out");
    if (leaf.path == "adapter.frozen_a") spec.mutable_adapter()->set_method(v1::METHOD_LORA);
    if (leaf.path == "resources.compute_dtype") spec.mutable_resources()->set_device(v1::DEVICE_CUDA);
    const auto parsed = ParseSpec(spec);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    v1::FineTuningSpec back = ToProto(*parsed);
    const Message& read = Descend(back, leaf.parents);
    if (leaf.field->is_repeated()) {
      EXPECT_EQ(read.GetReflection()->FieldSize(read, leaf.field), 1);
      continue;
    }
    google::protobuf::util::MessageDifferencer differencer;
    EXPECT_TRUE(differencer.CompareWithFields(owner, read, {leaf.field}, {leaf.field}));
  }
}

TEST(ConvertTest, MixturesAreCheckedAndKept) {
  v1::FineTuningSpec spec = MinimalSpec();
  spec.clear_dataset();
  spec.add_datasets("a");
  spec.add_datasets("b");
  spec.add_dataset_weights(0.75);
  spec.add_dataset_weights(0.25);
  spec.mutable_training()->set_epoch_samples(50000);
  const auto parsed = ParseSpec(spec);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->datasets, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(parsed->dataset_weights, (std::vector<double>{0.75, 0.25}));
  EXPECT_EQ(parsed->training.epoch_samples, 50000);
  const v1::FineTuningSpec stored = ToProto(*parsed);
  EXPECT_EQ(std::vector<std::string>(stored.datasets().begin(), stored.datasets().end()), parsed->datasets);
  const auto violated = [&](auto change) {
    v1::FineTuningSpec other = spec;
    change(other);
    return ViolatedFields(ParseSpec(other).status());
  };
  using Fields = std::set<std::string>;
  EXPECT_EQ(violated([](auto& s) { s.set_dataset("c"); }), Fields{"spec.datasets"});
  EXPECT_EQ(violated([](auto& s) { s.set_datasets(1, "a"); }), Fields{"spec.datasets"});
  EXPECT_EQ(violated([](auto& s) { s.add_datasets("c"); }), Fields{"spec.dataset_weights"});
  EXPECT_EQ(violated([](auto& s) { s.set_dataset_weights(0, 0); }), Fields{"spec.dataset_weights"});
  EXPECT_EQ(violated([](auto& s) { s.set_dataset_weights(0, std::nan("")); }), Fields{"spec.dataset_weights"});
  EXPECT_EQ(violated([](auto& s) { s.mutable_training()->set_epoch_samples(-1); }), Fields{"spec.training.epoch_samples"});
  EXPECT_EQ(violated([](auto& s) {
              s.clear_datasets();
              s.clear_dataset_weights();
              s.set_dataset("a");
            }),
            Fields{"spec.training.epoch_samples"});
  EXPECT_EQ(violated([](auto& s) {
              for (int i = 0; i < 65; ++i) s.add_datasets(std::to_string(i));
              s.clear_dataset_weights();
            }),
            Fields{"spec.datasets"});
}

TEST(ConvertTest, BFloat16NeedsAGpu) {
  v1::FineTuningSpec spec = MinimalSpec();
  spec.mutable_resources()->set_compute_dtype(v1::COMPUTE_DTYPE_BFLOAT16);
  for (const v1::Device device : {v1::DEVICE_UNSPECIFIED, v1::DEVICE_AUTO, v1::DEVICE_CPU}) {
    spec.mutable_resources()->set_device(device);
    const Status status = ParseSpec(spec).status();
    EXPECT_EQ(status.reason(), "INVALID_SPEC");
    EXPECT_EQ(ViolatedFields(status), std::set<std::string>{"spec.resources.compute_dtype"});
    EXPECT_NE(status.message().find("needs DEVICE_CUDA"), std::string::npos) << status;
  }
  spec.mutable_resources()->set_device(v1::DEVICE_CUDA);
  EXPECT_TRUE(ParseSpec(spec).ok());
}

TEST(ConvertTest, LeafNamesAreUniqueSoThatEachCanBeAFlag) {
  std::set<std::string> names;
  for (const Leaf& leaf : AllLeaves()) EXPECT_TRUE(names.insert(leaf.field->name()).second) << leaf.path;
}

/// The comment above each field in spec.proto is its documentation: every one has one, directly or as part of a group.
TEST(ConvertTest, EveryFieldIsDocumented) {
  std::ifstream file(SBORA_SOURCE_DIR "/proto/sbora/v1/spec.proto");
  ASSERT_TRUE(file.good());
  std::string line;
  bool documented = false;
  const std::set<std::string> self_explaining = {"beta1", "beta2", "epsilon", "max_attempt_seconds", "max_total_seconds"};
  while (std::getline(file, line)) {
    if (line.find("//") != std::string::npos) documented = true;
    const size_t equals = line.find(" = ");
    if (!line.starts_with("  ") || equals == std::string::npos || line.find("//") < equals) continue;
    const std::string before = line.substr(0, equals);
    const std::string name = before.substr(before.rfind(' ') + 1);
    const bool is_enum_value = name.find_first_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos;
    const bool is_group_or_typed = before.find("optional") == std::string::npos;  // enum types document themselves
    EXPECT_TRUE(documented || is_enum_value || is_group_or_typed || self_explaining.contains(name)) << line;
    documented = false;
  }
}

TEST(ConvertTest, AllProblemsComeAtOnce) {
  v1::FineTuningSpec spec;
  spec.mutable_adapter()->set_rank(0);
  spec.mutable_adapter()->add_target_modules("q");
  spec.mutable_adapter()->add_target_modules("w_proj");
  spec.mutable_training()->set_learning_rate(-1);
  spec.mutable_training()->set_schedule(static_cast<v1::Schedule>(77));
  spec.mutable_limits()->set_priority(1000);
  const auto parsed = ParseSpec(spec);
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().reason(), "INVALID_SPEC");
  const auto fields = ViolatedFields(parsed.status());
  for (const char* field : {"spec.model", "spec.dataset", "spec.adapter.rank", "spec.adapter.target_modules",
                            "spec.training.learning_rate", "spec.training.schedule", "spec.limits.priority"}) {
    EXPECT_TRUE(fields.contains(field)) << field;
  }
}

TEST(ConvertTest, RankIsCheckedAgainstTheNarrowestTarget) {
  v1::FineTuningSpec proto = MinimalSpec();
  proto.mutable_adapter()->set_method(v1::METHOD_SBORA_FB);
  proto.mutable_adapter()->set_rank(193);  // k_proj has 192 rows
  auto spec = ParseSpec(proto);
  ASSERT_TRUE(spec.ok());
  const Status status = ResolveAgainstModel(SmolModel(), *spec);
  EXPECT_EQ(status.reason(), "INVALID_SPEC");
  ASSERT_EQ(ViolatedFields(status).count("spec.adapter.rank"), 1u);
  EXPECT_NE(status.message().find("192"), std::string::npos) << status;
  spec->adapter.rank = 192;
  EXPECT_TRUE(ResolveAgainstModel(SmolModel(), *spec).ok());
  EXPECT_EQ(spec->data.cutoff_tokens, 512);
}

TEST(ConvertTest, PatternsAreReadCheckedAndWrittenBack) {
  v1::FineTuningSpec proto = MinimalSpec();
  v1::AdapterSpec& adapter = *proto.mutable_adapter();
  for (const char* name : {"q", "layers.3.v", "model.layers.1.self_attn.v_proj"}) adapter.add_target_modules(name);
  (*adapter.mutable_rank_pattern())["q"] = 16;
  (*adapter.mutable_rank_pattern())["layers.3.v"] = 8;
  (*adapter.mutable_alpha_pattern())["q_proj"] = 5;
  auto spec = ParseSpec(proto);
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_TRUE(ResolveAgainstModel(SmolModel(), *spec).ok());
  const auto modules = AdaptedModules(SmolModel(), spec->adapter.placement());
  EXPECT_EQ(modules.size(), 32u);  // q of 30 layers, v of two
  EXPECT_EQ(RankOf(spec->adapter.placement(), 7, LinearModule::kQ), 16);
  EXPECT_EQ(RankOf(spec->adapter.placement(), 3, LinearModule::kV), 8);
  EXPECT_EQ(RankOf(spec->adapter.placement(), 1, LinearModule::kV), 32);
  EXPECT_EQ(AlphaOf(spec->adapter.placement(), 7, LinearModule::kQ), 5);
  const v1::FineTuningSpec stored = ToProto(*spec);
  EXPECT_EQ(stored.adapter().rank_pattern().at("model.layers.3.self_attn.v_proj"), 8);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(stored, ToProto(*ParseSpec(stored))));
}

TEST(ConvertTest, PatternsThatCannotBeAreRefusedByName) {
  const auto fields_of = [](const auto& change) {
    v1::FineTuningSpec proto = MinimalSpec();
    change(*proto.mutable_adapter());
    auto spec = ParseSpec(proto);
    return ViolatedFields(spec.ok() ? ResolveAgainstModel(SmolModel(), *spec) : spec.status());
  };
  using Fields = std::set<std::string>;
  EXPECT_EQ(fields_of([](auto& a) { (*a.mutable_rank_pattern())["wq"] = 4; }), Fields{"spec.adapter.rank_pattern"});
  EXPECT_EQ(fields_of([](auto& a) { (*a.mutable_rank_pattern())["q"] = 0; }), Fields{"spec.adapter.rank_pattern"});
  EXPECT_EQ(fields_of([](auto& a) { (*a.mutable_rank_pattern())["o"] = 4; }), Fields{"spec.adapter.rank_pattern"});
  EXPECT_EQ(fields_of([](auto& a) { (*a.mutable_rank_pattern())["q"] = 577; }), Fields{"spec.adapter.rank_pattern"});
  EXPECT_EQ(fields_of([](auto& a) {
              (*a.mutable_rank_pattern())["q"] = 4;
              (*a.mutable_rank_pattern())["q_proj"] = 4;
            }),
            Fields{"spec.adapter.rank_pattern"});
  EXPECT_EQ(fields_of([](auto& a) { (*a.mutable_alpha_pattern())["q"] = -1; }), Fields{"spec.adapter.alpha_pattern"});
  EXPECT_EQ(fields_of([](auto& a) { a.add_target_layers("29-30"); }), Fields{"spec.adapter.target_layers"});
  EXPECT_EQ(fields_of([](auto& a) { a.add_target_layers("x"); }), Fields{"spec.adapter.target_layers"});
  EXPECT_EQ(fields_of([](auto& a) { a.add_target_modules("layers.30.q"); }), Fields{"spec.adapter.target_modules"});
  EXPECT_EQ(fields_of([](auto& a) {
              a.add_target_modules("layers.0.q");
              a.add_target_modules("q");
            }),
            Fields{"spec.adapter.target_modules"});
  EXPECT_EQ(fields_of([](auto& a) {
              a.add_target_modules("layers.0.q");
              a.add_target_layers("0");
            }),
            Fields{"spec.adapter.target_layers"});
  EXPECT_EQ(fields_of([](auto& a) {
              a.set_share_indices(true);
              (*a.mutable_rank_pattern())["layers.2.k"] = 4;
            }),
            Fields{"spec.adapter.rank_pattern"});
}

TEST(ConvertTest, CutoffAboveTheContextIsRefused) {
  auto spec = ParseSpec(MinimalSpec());
  ASSERT_TRUE(spec.ok());
  spec->data.cutoff_tokens = 4096;
  const Status status = ResolveAgainstModel(SmolModel(), *spec);
  EXPECT_EQ(ViolatedFields(status), std::set<std::string>{"spec.data.cutoff_tokens"});
}

TEST(ConvertTest, Nf4IsDoublyQuantisedUnlessToldOtherwise) {
  v1::FineTuningSpec proto = MinimalSpec();
  EXPECT_EQ(BaseQuantizationOf(*ParseSpec(proto)), BaseQuantization{});
  proto.set_quantization(v1::QUANTIZATION_NF4);
  auto spec = ParseSpec(proto);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(BaseQuantizationOf(*spec), (BaseQuantization{.kind = Quantization::kNf4, .double_quantization = true}));
  EXPECT_TRUE(ToProto(*spec).double_quantization());
  proto.set_double_quantization(false);
  spec = ParseSpec(proto);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(BaseQuantizationOf(*spec), (BaseQuantization{.kind = Quantization::kNf4, .double_quantization = false}));
}

TEST(ConvertTest, FullFineTuningOnNf4IsRefusedWithWhatWorks) {
  v1::FineTuningSpec proto = MinimalSpec();
  proto.set_quantization(v1::QUANTIZATION_NF4);
  proto.mutable_adapter()->set_method(v1::METHOD_FULL);
  const Status status = ParseSpec(proto).status();
  EXPECT_EQ(status.reason(), "INVALID_SPEC");
  EXPECT_EQ(ViolatedFields(status), std::set<std::string>{"spec.quantization"});
  for (const char* works : {"sbora_fa", "QSBoRA", "QLoRA", "full without quantization"}) {
    EXPECT_NE(status.message().find(works), std::string::npos) << status;
  }
}

TEST(ConvertTest, FullFineTuningHasNoRankAndAllModulesWhateverTheSpecSays) {
  v1::FineTuningSpec proto = MinimalSpec();
  proto.mutable_adapter()->set_method(v1::METHOD_FULL);
  proto.mutable_adapter()->set_rank(1 << 30);
  proto.mutable_adapter()->add_target_modules("q");
  const auto spec = ParseSpec(proto);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->adapter.rank, 0);
  EXPECT_EQ(spec->adapter.alpha, 0);
  EXPECT_EQ(spec->adapter.target_modules.size(), 7u);
  const v1::FineTuningSpec stored = ToProto(*spec);
  EXPECT_EQ(stored.adapter().rank(), 0);
  EXPECT_EQ(stored.adapter().target_modules_size(), 7);
  EXPECT_TRUE(ParseSpec(stored).ok());
  proto.mutable_adapter()->set_dropout(0.1);
  proto.mutable_resources()->set_device(v1::DEVICE_CUDA);
  proto.mutable_resources()->set_compute_dtype(v1::COMPUTE_DTYPE_BFLOAT16);
  EXPECT_EQ(ViolatedFields(ParseSpec(proto).status()),
            (std::set<std::string>{"spec.adapter.dropout", "spec.resources.compute_dtype"}));
}

TEST(ConvertTest, EachRankHasAMicroBatchInEveryBatch) {
  v1::FineTuningSpec spec = MinimalSpec();
  spec.mutable_training()->set_batch_size(8);
  spec.mutable_training()->set_micro_batch_size(4);
  spec.mutable_resources()->set_ranks(2);
  EXPECT_TRUE(ParseSpec(spec).ok());
  spec.mutable_resources()->set_ranks(3);
  const Status refused = ParseSpec(spec).status();
  EXPECT_EQ(ViolatedFields(refused), std::set<std::string>{"spec.training.micro_batch_size"});
  EXPECT_NE(refused.message().find("is 4, times 3 ranks it must be at most batch_size=8"), std::string::npos) << refused;
}

TEST(ConvertTest, EveryOptimizerRunsOnGpusToo) {
  v1::FineTuningSpec spec = MinimalSpec();
  spec.mutable_resources()->set_device(v1::DEVICE_CUDA);
  spec.mutable_training()->set_optimizer(v1::OPTIMIZER_ADAMW_8BIT);
  spec.mutable_training()->set_paged_optimizer(true);
  const auto parsed = ParseSpec(spec);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->training.optimizer, OptimizerKind::kAdamW8Bit);
  EXPECT_TRUE(parsed->training.paged_optimizer);
}

TEST(ConvertTest, OnlyLoraCanFreezeItsA) {
  v1::FineTuningSpec spec = MinimalSpec();
  spec.mutable_adapter()->set_frozen_a(v1::FROZEN_FACTOR_ORTHONORMAL);
  for (const v1::Method method : {v1::METHOD_SBORA_FA, v1::METHOD_SBORA_FB, v1::METHOD_DORA}) {
    spec.mutable_adapter()->set_method(method);
    EXPECT_EQ(ViolatedFields(ParseSpec(spec).status()), std::set<std::string>{"spec.adapter.frozen_a"});
  }
  spec.mutable_adapter()->set_method(v1::METHOD_LORA);
  const auto parsed = ParseSpec(spec);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->adapter.frozen_a, FrozenFactor::kOrthonormal);
}

TEST(ConvertTest, TheAdapterConfigSaysAllThatTheJobAsked) {
  v1::FineTuningSpec proto = MinimalSpec();
  proto.mutable_adapter()->set_method(v1::METHOD_LORA);
  proto.mutable_adapter()->set_rank(16);
  proto.mutable_adapter()->set_alpha(32);
  proto.mutable_adapter()->set_dropout(0.05);
  proto.mutable_adapter()->set_index_seed(9);
  proto.mutable_adapter()->set_rank_stabilized(true);
  proto.mutable_adapter()->set_frozen_a(v1::FROZEN_FACTOR_RANDOM);
  const auto spec = ParseSpec(proto);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const AdapterConfig config = AdapterConfigOf(*spec, SmolModel(), "base", std::string(64, 'a'));
  EXPECT_EQ(config.method, AdapterMethod::kLora);
  EXPECT_EQ(config.scale(), 8);  // 32 / sqrt(16)
  EXPECT_EQ(config.dropout, 0.05);
  EXPECT_EQ(config.seed, 9u);
  EXPECT_EQ(config.frozen_a, FrozenFactor::kRandom);
  EXPECT_EQ(config.target_modules, spec->adapter.target_modules);
  EXPECT_EQ(config.base_config, SmolModel());
  EXPECT_EQ(config.base_quantization, BaseQuantization{});
}

TEST(ConvertTest, TheAdapterConfigSaysHowTheBaseIsHeld) {
  v1::FineTuningSpec proto = MinimalSpec();
  proto.set_quantization(v1::QUANTIZATION_NF4);
  const auto held = [&]() -> BaseQuantization {
    const auto spec = ParseSpec(proto);
    EXPECT_TRUE(spec.ok()) << spec.status();
    return AdapterConfigOf(*spec, SmolModel(), "base", std::string(64, 'a')).base_quantization;
  };
  const BaseQuantization nested{.kind = Quantization::kNf4, .double_quantization = true};
  EXPECT_EQ(held(), nested);
  proto.set_double_quantization(false);
  EXPECT_EQ(held(), (BaseQuantization{.kind = Quantization::kNf4, .double_quantization = false}));
  // A model that is in NF4 itself is held no other way.
  const auto plain_scales = ParseSpec(proto);
  EXPECT_TRUE(CheckHeldAs({}, *plain_scales).ok());
  const Status scales = CheckHeldAs(nested, *plain_scales);
  ASSERT_EQ(scales.violations().size(), 1u);
  EXPECT_EQ(scales.violations()[0].field, "spec.double_quantization");
  proto.set_quantization(v1::QUANTIZATION_NONE);
  JobSpec full = *ParseSpec(proto);
  TrainAllWeights(full.adapter);
  EXPECT_TRUE(CheckHeldAs({}, full).ok());
  const Status weights = CheckHeldAs(nested, full);
  ASSERT_EQ(weights.violations().size(), 1u);
  EXPECT_EQ(weights.violations()[0].field, "spec.adapter.method");
  const Status none = CheckHeldAs(nested, *ParseSpec(proto));
  ASSERT_EQ(none.violations().size(), 1u);
  EXPECT_EQ(none.violations()[0].field, "spec.quantization");
}

}  // namespace
}  // namespace sbora::core
