#include "worker/agent/nf4_base_key.h"

#include <fmt/format.h>

#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/nf4_model.h"

namespace sbora::agent {
namespace {

bool DecidesTheWeights(const std::string& path) {
  return path == "config.json" || path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json");
}

StatusOr<core::BaseQuantization> QuantizationOf(const worker::v1::Task& task, const std::filesystem::path& adapter_folder) {
  if (task.has_train()) {
    const auto& spec = task.train().spec();
    if (spec.quantization() != v1::QUANTIZATION_NF4) return core::BaseQuantization{};
    return core::BaseQuantization{.kind = core::Quantization::kNf4,
                                  .double_quantization = !spec.has_double_quantization() || spec.double_quantization()};
  }
  const bool uses_adapter = task.has_evaluate() || task.has_generate();
  for (const auto& group : task.inputs()) {
    if (!uses_adapter || group.name() != "adapter") continue;
    SBORA_ASSIGN_OR_RETURN(const core::AdapterConfig config, core::ReadAdapterConfig(adapter_folder));
    return config.base_quantization;
  }
  return core::BaseQuantization{};
}

std::string BaseHashOf(const worker::v1::Task& task) {
  if (task.has_train()) return task.train().base_hash();
  return task.has_evaluate() ? task.evaluate().base_hash() : task.generate().base_hash();
}

}  // namespace

StatusOr<std::optional<Nf4BaseNeed>> Nf4BaseNeedOf(const worker::v1::Task& task,
                                                   const std::filesystem::path& adapter_folder) {
  SBORA_ASSIGN_OR_RETURN(const core::BaseQuantization quantization, QuantizationOf(task, adapter_folder));
  if (quantization.kind == core::Quantization::kNone) return std::optional<Nf4BaseNeed>();
  Nf4BaseNeed need;
  std::string text = fmt::format("nf4 base {}\ndouble quantization {}\nbase {}\n", core::kNf4FormatVersion,
                                 quantization.double_quantization, BaseHashOf(task));
  for (const auto& group : task.inputs()) {
    if (group.name() != "model") continue;
    *need.quantize.add_inputs() = group;
    for (const auto& file : group.files()) {
      if (DecidesTheWeights(file.path())) text += fmt::format("{} {}\n", file.path(), file.sha256());
    }
  }
  need.key = Sha256Hex(text);
  need.quantize.mutable_quantize()->set_base_hash(BaseHashOf(task));
  need.quantize.mutable_quantize()->set_double_quantization(quantization.double_quantization);
  return std::optional<Nf4BaseNeed>(std::move(need));
}

}  // namespace sbora::agent
