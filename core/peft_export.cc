#include "core/peft_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/model_writer.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

Json NumberJson(double value) { return value == std::floor(value) ? Json(static_cast<int64_t>(value)) : Json(value); }

/// What differs from `otherwise`, as PEFT's pattern. PEFT takes the first key that matches, in the order of the file:
/// so no two keys here match one module. A module's name stands for all of its layers when they agree, else each layer
/// has a key of its own. PEFT reads keys as regular expressions; the dots of a name match themselves and, among the
/// names of this architecture, nothing else.
template <typename Value, typename ValueOf>
Json PatternJson(const std::vector<AdaptedModule>& modules, const ValueOf& value_of, Value otherwise) {
  std::map<LinearModule, std::set<Value>> values;
  for (const AdaptedModule& each : modules) values[each.module].insert(value_of(each));
  Json json = Json::object();
  for (const AdaptedModule& each : modules) {
    const Value value = value_of(each);
    if (value == otherwise) continue;
    const bool all_layers = values[each.module].size() == 1;
    json[all_layers ? std::string(LinearModuleName(each.module)) : ModulePath(each.layer, each.module)] =
        NumberJson(static_cast<double>(value));
  }
  return json;
}

Json TargetsJson(const AdapterConfig& config) {
  std::set<LinearModule> by_layer;
  for (const ModuleKey& key : config.pattern.single) by_layer.insert(key.module);
  Json targets = Json::array();
  for (const LinearModule module : config.target_modules) {
    if (!by_layer.contains(module)) targets.push_back(LinearModuleName(module));
  }
  for (const ModuleKey& key : config.pattern.single) targets.push_back(ToString(key));
  return targets;
}

std::string PeftConfigJson(const AdapterConfig& config, const std::string& base_path) {
  const std::vector<AdaptedModule> modules = config.Modules();
  const AdapterPattern& pattern = config.pattern;
  const Json json = {{"peft_type", "LORA"},
                     {"task_type", "CAUSAL_LM"},
                     {"base_model_name_or_path", base_path.empty() ? config.base_model : base_path},
                     {"revision", nullptr},
                     {"inference_mode", true},
                     {"r", config.rank},
                     {"lora_alpha", NumberJson(config.alpha)},
                     {"lora_dropout", config.dropout},
                     {"target_modules", TargetsJson(config)},
                     {"bias", "none"},
                     {"fan_in_fan_out", false},
                     {"modules_to_save", nullptr},
                     {"init_lora_weights", true},
                     {"layers_to_transform", pattern.layers.empty() ? Json() : Json(pattern.layers)},
                     {"layers_pattern", nullptr},
                     {"rank_pattern", PatternJson(modules, [](const AdaptedModule& m) { return m.rank; }, config.rank)},
                     {"alpha_pattern", PatternJson(modules, [](const AdaptedModule& m) { return m.alpha; }, config.alpha)},
                     {"use_rslora", config.rank_stabilized},
                     {"use_dora", config.method == AdapterMethod::kDora}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// Rows x columns of zeros with ones at (row, column) for each index: FA puts index i at (i-th row, index), FB mirrors.
StatusOr<std::vector<std::byte>> OneHot(const std::vector<int32_t>& indices, const TensorSpec& spec, bool indices_are_columns) {
  std::vector<float> values(static_cast<size_t>(spec.shape[0] * spec.shape[1]), 0.0f);
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto position = static_cast<int64_t>(i);
    const int64_t row = indices_are_columns ? position : indices[i];
    const int64_t column = indices_are_columns ? indices[i] : position;
    values[static_cast<size_t>(row * spec.shape[1] + column)] = 1.0f;
  }
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(DTypeSize(spec.dtype)));
  SBORA_RETURN_IF_ERROR(FromFloat(values, spec.dtype, bytes));
  return bytes;
}

/// The bytes of PEFT tensors "lora_A.weight" and "lora_B.weight" of one SBoRA module.
Status AppendSboraModule(const AdapterFolder& adapter, int64_t layer, LinearModule module, const TensorSpec& a,
                         const TensorSpec& b, SafetensorsWriter& writer) {
  const AdapterMethod method = adapter.config().method;
  const bool fa = method == AdapterMethod::kSboraFa;
  SBORA_ASSIGN_OR_RETURN(const auto indices, adapter.Indices(layer, module));
  SBORA_ASSIGN_OR_RETURN(const TensorView factor, adapter.tensors().Tensor(FactorTensorName(method, layer, module)));
  SBORA_ASSIGN_OR_RETURN(const auto one_hot, OneHot(indices, fa ? a : b, fa));
  SBORA_RETURN_IF_ERROR(writer.Append(fa ? std::span<const std::byte>(one_hot) : factor.data));
  return writer.Append(fa ? factor.data : std::span<const std::byte>(one_hot));
}

}  // namespace

StatusOr<ExportedFolder> ExportPeft(const std::filesystem::path& adapter_dir, const std::filesystem::path& out_dir,
                                    const std::string& base_path) {
  SBORA_ASSIGN_OR_RETURN(const AdapterFolder adapter, AdapterFolder::Open(adapter_dir));
  const AdapterConfig& config = adapter.config();
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  AdapterConfig peft = config;  // the same shapes, stored as LoRA
  if (UsesIndices(config.method)) peft.method = AdapterMethod::kLora;

  // Declared in the order of writing: A and B of one module side by side.
  std::vector<TensorSpec> specs = ExpectedAdapterTensors(peft);
  SBORA_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(out_dir / kAdapterModelFile, specs, {{"format", "pt"}}));
  if (!UsesIndices(config.method)) {
    for (const TensorSpec& spec : specs) {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, adapter.tensors().Tensor(spec.name));
      SBORA_RETURN_IF_ERROR(writer.Append(view.data));
    }
  } else {
    std::map<std::string, std::pair<int64_t, LinearModule>> modules;  // by name of tensor A
    for (const AdaptedModule& each : config.Modules()) {
      modules[PeftTensorName(each.layer, each.module, "lora_A.weight")] = {each.layer, each.module};
    }
    for (size_t i = 0; i + 1 < specs.size(); i += 2) {  // sorted by name: "...lora_A.weight", then "...lora_B.weight"
      const auto [layer, module] = modules.at(specs[i].name);
      SBORA_RETURN_IF_ERROR(AppendSboraModule(adapter, layer, module, specs[i], specs[i + 1], writer));
    }
  }
  ExportedFolder folder;
  SBORA_ASSIGN_OR_RETURN(WrittenFile config_file,
                         WriteSmallFile(out_dir / kAdapterConfigFile, PeftConfigJson(config, base_path)));
  SBORA_ASSIGN_OR_RETURN(WrittenFile model_file, writer.Finish());
  folder.total_bytes = config_file.size_bytes + model_file.size_bytes;
  folder.files = {std::move(config_file), std::move(model_file)};
  return folder;
}

}  // namespace sbora::core
