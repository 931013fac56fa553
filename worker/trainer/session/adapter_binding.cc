#include "worker/trainer/session/adapter_binding.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace sbora::trainer {

StatusOr<std::unique_ptr<AdapterSet>> CreateAdapter(const LlamaModel& model, const core::AdapterSpec& spec,
                                                    const std::vector<ModuleIndices>& indices,
                                                    const std::function<void()>& alive) {
  std::map<std::string, const std::vector<int32_t>*> by_module;
  for (const auto& entry : indices) by_module[entry.module] = &entry.index;
  AdapterOptions options{.method = spec.method, .rank = spec.rank, .alpha = spec.alpha, .dropout = spec.dropout,
                         .rank_stabilized = spec.rank_stabilized, .frozen_a = spec.frozen_a};
  for (const core::AdaptedModule& each : core::AdaptedModules(model.config(), spec.placement())) {
    options.modules.push_back({.layer = each.layer, .module = each.module, .rank = each.rank, .alpha = each.alpha});
    if (!core::UsesIndices(spec.method)) continue;
    const std::string name = core::ModulePath(each.layer, each.module);
    const auto found = by_module.find(name);
    if (found == by_module.end()) {
      return InvalidArgument("INDICES_MISMATCH", fmt::format("the job has no index vector for {}", name));
    }
    options.modules.back().index = *found->second;
    by_module.erase(found);
  }
  if (!by_module.empty()) {
    return InvalidArgument("INDICES_MISMATCH",
                           fmt::format("the job has an index vector for {}, which is no target", by_module.begin()->first));
  }
  SBORA_ASSIGN_OR_RETURN(auto adapter, AdapterSet::Create(model.config(), options, model.device()));
  const auto weight = [&](int64_t layer, core::LinearModule module) { return model.Weight(layer, module); };
  SBORA_RETURN_IF_ERROR(adapter->Initialize(spec.index_seed, weight, alive));
  return adapter;
}

StatusOr<std::unique_ptr<AdapterSet>> LoadAdapter(const std::filesystem::path& dir, const core::ModelConfig& config,
                                                  const std::string& base_hash, at::Device device) {
  SBORA_ASSIGN_OR_RETURN(const auto folder, core::AdapterFolder::Open(dir));
  const core::AdapterConfig& adapter_config = folder.config();
  if (!base_hash.empty() && adapter_config.base_hash != base_hash) {
    return FailedPrecondition("BASE_HASH_MISMATCH", fmt::format("the adapter was trained on base {}, this model is {}",
                                                                adapter_config.base_hash, base_hash));
  }
  AdapterOptions options{.method = adapter_config.method, .rank = adapter_config.rank, .alpha = adapter_config.alpha,
                         .dropout = adapter_config.dropout, .rank_stabilized = adapter_config.rank_stabilized,
                         .frozen_a = adapter_config.frozen_a};
  for (const core::AdaptedModule& each : core::AdaptedModules(config, adapter_config.placement())) {
    AdapterModuleSpec module_spec{.layer = each.layer, .module = each.module, .rank = each.rank, .alpha = each.alpha};
    if (core::UsesIndices(adapter_config.method)) {
      SBORA_ASSIGN_OR_RETURN(module_spec.index, folder.Indices(each.layer, each.module));
    }
    options.modules.push_back(std::move(module_spec));
  }
  SBORA_ASSIGN_OR_RETURN(auto adapter, AdapterSet::Create(config, options, device));
  for (const auto& module : adapter->modules()) {
    for (const auto& tensor : module.tensors) {
      SBORA_ASSIGN_OR_RETURN(const auto values, folder.Floats(tensor.spec.name));
      if (static_cast<int64_t>(values.size()) != tensor.value.numel()) {
        return FailedPrecondition("BASE_CONFIG_MISMATCH",
                                  fmt::format("{} has {} elements, this model's shape asks for {}; the adapter was "
                                              "trained on another base",
                                              tensor.spec.name, values.size(), tensor.value.numel()));
      }
      CopyFromHost(values, tensor.value.view({-1}));
    }
  }
  return adapter;
}

AdapterLayout LayoutOf(const AdapterSet& adapter, const core::AdapterConfig& config) {
  AdapterLayout layout;
  layout.parameter_count = adapter.parameter_count();
  layout.metadata = core::AdapterMetadata(config);
  for (const auto& module : adapter.modules()) {
    for (const auto& [spec, offset, value, gradient] : module.tensors) {
      if (spec.trained) {
        layout.factors.push_back({.name = spec.name, .shape = spec.shape, .offset = offset});
      } else {
        layout.frozen.push_back({.name = spec.name, .shape = spec.shape, .values = ToHost(value)});
      }
    }
    if (module.index.empty()) continue;
    layout.indices.push_back({.name = core::IndexTensorName(module.layer, module.module), .values = module.index});
  }
  return layout;
}

std::vector<float> ToHost(const at::Tensor& flat) {
  const at::Tensor host = flat.cpu().contiguous();
  const float* values = host.const_data_ptr<float>();
  return {values, values + host.numel()};
}

void CopyFromHost(std::span<const float> values, const at::Tensor& flat) {
  SBORA_CHECK(static_cast<int64_t>(values.size()) == flat.numel(), "{} values for {} elements", values.size(),
              flat.numel());
  const at::Tensor host = at::empty({flat.numel()}, at::kFloat);
  std::copy(values.begin(), values.end(), host.mutable_data_ptr<float>());
  at::Tensor target = flat;
  target.copy_(host);
}

}  // namespace sbora::trainer
