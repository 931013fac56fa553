#include "worker/agent/nf4_base_key.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/nf4_model.h"

namespace sbora::agent {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

bool DecidesTheWeights(const std::string& path) {
  return path == "config.json" || path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json");
}

/// Of a message that says how the base is to be held, with double quantisation by default.
core::BaseQuantization Asked(v1::Quantization quantization, bool double_quantization) {
  if (quantization != v1::QUANTIZATION_NF4) return {};
  return {.kind = core::Quantization::kNf4, .double_quantization = double_quantization};
}

template <typename Spec>
bool DoubleQuantization(const Spec& spec) {
  return !spec.has_double_quantization() || spec.double_quantization();
}

bool NeedsTheWeights(const worker::v1::Task& task) {
  const bool patch = task.has_export_() && task.export_().format() == v1::EXPORT_FORMAT_PATCH;
  return task.has_evaluate() || task.has_generate() || task.has_merge() || patch;
}

StatusOr<core::BaseQuantization> QuantizationOf(const worker::v1::Task& task, const std::filesystem::path& inputs_folder) {
  if (task.has_train()) {
    const auto& spec = task.train().spec();
    return Asked(spec.quantization(), DoubleQuantization(spec));
  }
  for (const auto& group : task.inputs()) {
    if (!NeedsTheWeights(task) || !group.name().starts_with("adapter")) continue;
    SBORA_ASSIGN_OR_RETURN(const core::AdapterConfig config, core::ReadAdapterConfig(inputs_folder / group.name()));
    return config.base_quantization;
  }
  if (task.has_evaluate()) {
    const auto& spec = task.evaluate().spec();
    return Asked(spec.base_quantization(), DoubleQuantization(spec));
  }
  if (!task.has_generate()) return core::BaseQuantization{};
  const auto& request = task.generate().request();
  return Asked(request.base_quantization(), DoubleQuantization(request));
}

/// A merge into NF4: there is nothing to make.
bool IsNf4Itself(const std::filesystem::path& model_folder) {
  const auto text = ReadFile(model_folder / "config.json", kMaxConfigBytes);
  return text.ok() && core::IsNf4Config(*text);  // one that cannot be read is the trainer's to refuse
}

std::string BaseHashOf(const worker::v1::Task& task) {
  if (task.has_train()) return task.train().base_hash();
  if (task.has_merge()) return task.merge().base_hash();
  if (task.has_export_()) return task.export_().base_hash();
  return task.has_evaluate() ? task.evaluate().base_hash() : task.generate().base_hash();
}

}  // namespace

StatusOr<std::optional<Nf4BaseNeed>> Nf4BaseNeedOf(const worker::v1::Task& task,
                                                   const std::filesystem::path& inputs_folder) {
  SBORA_ASSIGN_OR_RETURN(const core::BaseQuantization quantization, QuantizationOf(task, inputs_folder));
  if (quantization.kind == core::Quantization::kNone || IsNf4Itself(inputs_folder / "model")) return std::optional<Nf4BaseNeed>();
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
