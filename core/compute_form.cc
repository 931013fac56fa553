#include "core/compute_form.h"

#include <fmt/format.h>

namespace sbora::core {

std::string_view ComputeFormName(ComputeForm form) {
  switch (form) {
    case ComputeForm::kPlain: return "plain";
    case ComputeForm::kMerged: return "merged";
  }
  return "";
}

Status CheckMerged(const ComputeFormFacts& facts) {
  const auto wrong = [](std::string_view why) {
    return InvalidArgument("COMPUTE_FORM_WRONG", fmt::format("the adapter cannot be merged into the weights: {}", why));
  };
  if (!UsesIndices(facts.method)) {
    return wrong(fmt::format("{} changes more than r columns or rows of them", AdapterMethodName(facts.method)));
  }
  if (facts.dropout > 0) return wrong(fmt::format("dropout={} masks the adapter's input alone", facts.dropout));
  if (facts.quantized_base) return wrong("the base is NF4");
  if (!facts.float32) return wrong("they are not float32, and would round the adapter away");
  return OkStatus();
}

ComputeForm ChooseComputeForm(const ComputeFormFacts& facts) {
  return CheckMerged(facts).ok() ? ComputeForm::kMerged : ComputeForm::kPlain;
}

}  // namespace sbora::core
