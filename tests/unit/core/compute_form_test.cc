#include "core/compute_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora::core {
namespace {

TEST(ComputeForm, IsMergedWhereNothingSpeaksAgainstIt) {
  const ComputeFormFacts right{.method = AdapterMethod::kSboraFa, .dropout = 0, .quantized_base = false, .float32 = true};
  struct Row {
    const char* why;
    ComputeFormFacts facts;
    const char* text;  // null: merged is right
  };
  const auto with = [&](auto change) {
    ComputeFormFacts facts = right;
    change(facts);
    return facts;
  };
  const Row rows[] = {
      {"FA", right, nullptr},
      {"FB", with([](auto& f) { f.method = AdapterMethod::kSboraFb; }), nullptr},
      {"LoRA", with([](auto& f) { f.method = AdapterMethod::kLora; }), "lora changes more than r columns"},
      {"DoRA", with([](auto& f) { f.method = AdapterMethod::kDora; }), "dora changes"},
      {"all weights", with([](auto& f) { f.method = AdapterMethod::kFull; }), "full changes"},
      {"dropout", with([](auto& f) { f.dropout = 0.05; }), "dropout=0.05"},
      {"NF4", with([](auto& f) { f.quantized_base = true; }), "NF4"},
      {"bfloat16", with([](auto& f) { f.float32 = false; }), "not float32"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.why);
    const Status status = CheckMerged(row.facts);
    EXPECT_EQ(ChooseComputeForm(row.facts), status.ok() ? ComputeForm::kMerged : ComputeForm::kPlain);
    EXPECT_EQ(status.ok(), row.text == nullptr);
    if (row.text == nullptr) continue;
    EXPECT_EQ(status.reason(), "COMPUTE_FORM_WRONG");
    EXPECT_THAT(status.message(), testing::HasSubstr(row.text));
  }
  EXPECT_EQ(ComputeFormName(ComputeForm::kPlain), "plain");
  EXPECT_EQ(ComputeFormName(ComputeForm::kMerged), "merged");
}

}  // namespace
}  // namespace sbora::core
