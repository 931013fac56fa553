#include "client/spec_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "client/spec_docs.h"
#include "client/spec_flags.h"
#include "sbora/v1/evaluation.pb.h"
#include "sbora/v1/spec.pb.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A value that differs from the default, as a user would type it.
std::string SampleText(const LeafField& leaf) {
  using Field = google::protobuf::FieldDescriptor;
  const Field::CppType type = leaf.field->cpp_type();
  if (leaf.field->is_map()) return "q=3";
  if (type == Field::CPPTYPE_ENUM) return EnumShortNames(*leaf.field->enum_type()).back();
  if (type == Field::CPPTYPE_BOOL) return "true";
  if (type == Field::CPPTYPE_STRING) return leaf.field->is_repeated() ? "q,v" : "text";
  return "3";
}

std::set<std::string> PathsSetIn(const google::protobuf::Message& message) {
  std::set<std::string> paths;
  for (const LeafField& leaf : LeafFields(*message.GetDescriptor())) {
    const google::protobuf::Message* owner = &message;
    std::string rest = leaf.path;
    for (size_t dot = rest.find('.'); dot != std::string::npos; dot = rest.find('.')) {
      owner = &owner->GetReflection()->GetMessage(*owner, owner->GetDescriptor()->FindFieldByName(rest.substr(0, dot)));
      rest.erase(0, dot + 1);
    }
    const bool set = leaf.field->is_repeated() ? owner->GetReflection()->FieldSize(*owner, leaf.field) > 0
                                               : owner->GetReflection()->HasField(*owner, leaf.field);
    if (set) paths.insert(leaf.path);
  }
  return paths;
}

TEST(LeafFields, FlagsOfASpecAreUniqueAndApartFromTheOthers) {
  const std::set<std::string> taken = {
      "--server", "--project",       "--token-file",   "--tls-ca",       "--output", "--timeout",
      "--quiet",  "--name",          "--file",         "--set",          "--wait",   "--request-id",
      "--label",  "--validate-only", "--display-name", "--model-config", "--help",
      "--methods", "--seeds",        "--match-parameters", "--evaluate", "--evaluation-samples", "--few-shot-dataset", "--picture"};
  std::set<std::string> seen;
  const auto leaves = LeafFields(*v1::FineTuningSpec::descriptor());
  ASSERT_GT(leaves.size(), 30u);
  for (const LeafField& leaf : leaves) {
    EXPECT_TRUE(seen.insert(leaf.Flag()).second) << leaf.Flag();
    EXPECT_FALSE(taken.contains(leaf.Flag())) << leaf.Flag();
  }
}

TEST(SpecFlags, EveryLeafIsReachableByItsFlagAndByNoOther) {
  for (const LeafField& leaf : LeafFields(*v1::FineTuningSpec::descriptor())) {
    CLI::App app;
    const SpecFlags flags(app, *v1::FineTuningSpec::descriptor());
    std::vector<std::string> arguments = {leaf.Flag()};
    if (!leaf.IsBool()) arguments.insert(arguments.begin(), SampleText(leaf));
    app.parse(arguments);
    v1::FineTuningSpec spec;
    ASSERT_TRUE(flags.Apply(spec).ok()) << leaf.Flag();
    EXPECT_THAT(PathsSetIn(spec), ElementsAre(leaf.path)) << leaf.Flag();
  }
}

TEST(SpecFlags, EveryLeafIsExplainedInTheHelp) {
  int commented = 0;
  for (const LeafField& leaf : LeafFields(*v1::FineTuningSpec::descriptor())) {
    commented += FieldComment(*leaf.field).empty() ? 0 : 1;
  }
  EXPECT_GT(commented, 25);
  EXPECT_THAT(FieldComment(*v1::AdapterSpec::descriptor()->FindFieldByName("rank")), HasSubstr("Default: 32"));
}

TEST(SpecFlags, BoolsAreSetAndUnset) {
  CLI::App app;
  const SpecFlags flags(app, *v1::EvaluationSpec::descriptor());
  app.parse(std::vector<std::string>{"--no-exact-match", "--perplexity"});
  v1::EvaluationSpec spec;
  ASSERT_TRUE(flags.Apply(spec).ok());
  EXPECT_TRUE(spec.has_exact_match());
  EXPECT_FALSE(spec.exact_match());
  EXPECT_TRUE(spec.perplexity());
}

TEST(SpecFlags, MethodMayCarryItsQuantization) {
  CLI::App app;
  const SpecFlags flags(app, *v1::FineTuningSpec::descriptor());
  app.parse(std::vector<std::string>{"sbora_fa+nf4", "--method"});
  v1::FineTuningSpec spec;
  ASSERT_TRUE(flags.Apply(spec).ok());
  EXPECT_EQ(spec.adapter().method(), v1::METHOD_SBORA_FA);
  EXPECT_EQ(spec.quantization(), v1::QUANTIZATION_NF4);
}

TEST(SpecFlags, ContradictoryQuantizationIsRefused) {
  CLI::App app;
  const SpecFlags flags(app, *v1::FineTuningSpec::descriptor());
  app.parse(std::vector<std::string>{"none", "--quantization", "sbora_fa+nf4", "--method"});
  v1::FineTuningSpec spec;
  const Status status = flags.Apply(spec);
  EXPECT_EQ(status.reason(), "BAD_FIELD_VALUE");
  EXPECT_THAT(status.message(), HasSubstr("contradicts"));
}

TEST(SetField, TakesNumbersInTheirUsualForms) {
  v1::FineTuningSpec spec;
  ASSERT_TRUE(SetField(spec, "training.learning_rate", "2e-3").ok());
  ASSERT_TRUE(SetField(spec, "training.seed", "18446744073709551615").ok());
  ASSERT_TRUE(SetField(spec, "limits.priority", "-5").ok());
  ASSERT_TRUE(SetField(spec, "training.epochs", "+1.5").ok());
  EXPECT_DOUBLE_EQ(spec.training().learning_rate(), 2e-3);
  EXPECT_EQ(spec.training().seed(), 18446744073709551615u);
  EXPECT_EQ(spec.limits().priority(), -5);
  EXPECT_DOUBLE_EQ(spec.training().epochs(), 1.5);
}

TEST(SetField, TakesEnumsByShortAndFullNameInEitherCase) {
  v1::FineTuningSpec spec;
  for (const char* text : {"sbora_fb", "SBORA_FB", "sbora-fb", "METHOD_SBORA_FB"}) {
    spec.Clear();
    ASSERT_TRUE(SetField(spec, "adapter.method", text).ok()) << text;
    EXPECT_EQ(spec.adapter().method(), v1::METHOD_SBORA_FB) << text;
  }
  EXPECT_THAT(EnumShortNames(*v1::Method_descriptor()), ElementsAre("sbora_fa", "sbora_fb", "lora", "dora", "full"));
}

TEST(SetField, ListsReplaceAndRefuseEmptyItems) {
  v1::FineTuningSpec spec;
  ASSERT_TRUE(SetField(spec, "adapter.targetModules", "q,k").ok());
  ASSERT_TRUE(SetField(spec, "adapter.target_modules", "v").ok());
  EXPECT_THAT(spec.adapter().target_modules(), ElementsAre("v"));
  EXPECT_EQ(SetField(spec, "adapter.target_modules", "q,,v").reason(), "BAD_FIELD_VALUE");
}

TEST(SetField, MapsAreNamesAndNumbersAndReplace) {
  v1::FineTuningSpec spec;
  ASSERT_TRUE(SetField(spec, "adapter.rank_pattern", "q=8,layers.0.v=4").ok());
  ASSERT_TRUE(SetField(spec, "adapter.rankPattern", "layers.0.v=2,k=1").ok());
  EXPECT_EQ(spec.adapter().rank_pattern_size(), 2);
  EXPECT_EQ(spec.adapter().rank_pattern().at("layers.0.v"), 2);
  ASSERT_TRUE(SetField(spec, "adapter.alpha_pattern", "q=0.5").ok());
  EXPECT_EQ(spec.adapter().alpha_pattern().at("q"), 0.5);
  for (const char* text : {"q", "=4", "q=", "q=a", "q=1.5", "q=1,q=2", "q=1,"}) {
    EXPECT_EQ(SetField(spec, "adapter.rank_pattern", text).reason(), "BAD_FIELD_VALUE") << text;
  }
  EXPECT_EQ(FindLeaf(*spec.GetDescriptor(), "adapter.rank_pattern")->TypeText(), "name=int,...");
}

TEST(SetField, BadValuesNamePathValueAndWhatIsTaken) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"adapter.rank", "32.0"},          {"adapter.rank", "4294967296"},     {"training.seed", "-1"},
      {"training.learning_rate", "nan"}, {"training.learning_rate", "fast"}, {"validation.keep_best", "yes"},
      {"adapter.method", "unspecified"}, {"adapter.method", "lora2"},        {"adapter.rank", ""}};
  for (const auto& [path, text] : bad) {
    v1::FineTuningSpec spec;
    const Status status = SetField(spec, path, text);
    EXPECT_EQ(status.reason(), "BAD_FIELD_VALUE") << path << " " << text;
    EXPECT_THAT(status.message(), HasSubstr(path)) << text;
    ASSERT_EQ(status.violations().size(), 1u);
    EXPECT_EQ(status.violations()[0].field, path);
  }
}

TEST(FindLeaf, UnknownFieldNamesTheNearest) {
  const auto& root = *v1::FineTuningSpec::descriptor();
  EXPECT_THAT(FindLeaf(root, "adapter.rnak").status().message(), HasSubstr("did you mean 'adapter.rank'"));
  EXPECT_THAT(FindLeaf(root, "rank").status().message(), HasSubstr("did you mean 'adapter.rank'"));
  EXPECT_THAT(FindLeaf(root, "adapter.learningRate").status().message(),
              HasSubstr("did you mean 'training.learning_rate'"));
  EXPECT_EQ(FindLeaf(root, "zzzzzzzzzzzz").status().message(), "unknown field 'zzzzzzzzzzzz'");
}

TEST(Nearest, PrefersTheCloserAndLeavesStrangersAlone) {
  EXPECT_EQ(Nearest("alhpa", {"epochs", "alpha", "beta1"}), "alpha");
  EXPECT_EQ(Nearest("colour", {"epochs", "alpha"}), "");
}

TEST(ToSnakeCase, TakesCamelCaseAndDashes) {
  EXPECT_EQ(ToSnakeCase("targetModules"), "target_modules");
  EXPECT_EQ(ToSnakeCase("target-modules"), "target_modules");
  EXPECT_EQ(ToSnakeCase("METHOD_LORA"), "method_lora");
  EXPECT_EQ(ToSnakeCase("Linear"), "linear");
}

}  // namespace
}  // namespace sbora::client
