#include "worker/trainer/nn/adapter_set.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "common/status_macros.h"
#include "core/r_index.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kModulesPerLayer = static_cast<int64_t>(std::size(core::kAllLinearModules));

int64_t LinearNumber(int64_t layer, core::LinearModule module) {
  return layer * kModulesPerLayer + static_cast<int64_t>(module);
}

Status CheckOptions(const AdapterOptions& options) {
  if (options.method != core::AdapterMethod::kSboraFa && options.method != core::AdapterMethod::kSboraFb) {
    return Unimplemented("METHOD_UNIMPLEMENTED",
                         fmt::format("method {} cannot be trained by this version; use sbora_fa or sbora_fb",
                                     core::AdapterMethodName(options.method)));
  }
  if (options.modules.empty()) return InvalidArgument("TARGET_MODULES_EMPTY", "an adapter needs at least one module");
  if (!(options.alpha > 0)) {
    return InvalidArgument("ALPHA_OUT_OF_RANGE", fmt::format("alpha={} must be above 0", options.alpha));
  }
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    return InvalidArgument("DROPOUT_OUT_OF_RANGE", fmt::format("dropout={} is outside [0, 1)", options.dropout));
  }
  return OkStatus();
}

Status CheckModule(const core::ModelConfig& config, const AdapterOptions& options, const AdapterModuleSpec& spec) {
  if (spec.layer < 0 || spec.layer >= config.num_layers) {
    return InvalidArgument("LAYER_OUT_OF_RANGE",
                           fmt::format("layer {} of {} is outside [0, {})", spec.layer, core::LinearModuleName(spec.module),
                                       config.num_layers));
  }
  const std::string name = core::ModulePath(spec.layer, spec.module);
  const int64_t dim = core::IndexDim(options.method, core::LinearModuleShape(config, spec.module));
  if (options.rank < 1 || options.rank > dim || static_cast<int64_t>(spec.index.size()) != options.rank) {
    return InvalidArgument("RANK_OUT_OF_RANGE", fmt::format("{}: rank={} with {} indices; the rank must be in [1, {}] and "
                                                            "equal the number of indices",
                                                            name, options.rank, spec.index.size(), dim));
  }
  return core::CheckIndices(spec.index, name, dim);
}

}  // namespace

StatusOr<std::unique_ptr<AdapterSet>> AdapterSet::Create(const core::ModelConfig& config, const AdapterOptions& options,
                                                         at::Device device) {
  SBORA_RETURN_IF_ERROR(CheckOptions(options));
  std::set<int64_t> seen;
  for (const AdapterModuleSpec& spec : options.modules) {
    SBORA_RETURN_IF_ERROR(CheckModule(config, options, spec));
    if (!seen.insert(LinearNumber(spec.layer, spec.module)).second) {
      return InvalidArgument("TARGET_MODULE_DUPLICATE",
                             fmt::format("{} is listed twice", core::ModulePath(spec.layer, spec.module)));
    }
  }
  std::vector<AdapterModuleSpec> specs = options.modules;
  std::sort(specs.begin(), specs.end(), [](const auto& a, const auto& b) {
    return LinearNumber(a.layer, a.module) > LinearNumber(b.layer, b.module);
  });
  auto set = std::unique_ptr<AdapterSet>(new AdapterSet());
  set->method_ = options.method;
  set->rank_ = options.rank;
  set->scale_ = options.alpha / static_cast<double>(options.rank);
  set->dropout_ = options.dropout;
  set->by_linear_.assign(static_cast<size_t>(config.num_layers * kModulesPerLayer), -1);
  int64_t total = 0;
  for (AdapterModuleSpec& spec : specs) {
    const core::ModuleShape shape = core::LinearModuleShape(config, spec.module);
    const int64_t number = LinearNumber(spec.layer, spec.module);
    const int64_t other = options.method == core::AdapterMethod::kSboraFa ? shape.out_features : shape.in_features;
    AdapterModule module{.name = core::ModulePath(spec.layer, spec.module), .layer = spec.layer, .module = spec.module,
                         .out_features = shape.out_features, .in_features = shape.in_features, .offset = total,
                         .size = other * options.rank, .dropout_id = static_cast<uint32_t>(number),
                         .index = std::move(spec.index), .index_R = {}, .factor = {}, .gradient = {}};
    total += module.size;
    set->by_linear_[static_cast<size_t>(number)] = static_cast<int>(set->modules_.size());
    set->modules_.push_back(std::move(module));
  }
  const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
  set->parameters_ = at::zeros({total}, floats);
  set->gradients_ = at::zeros({total}, floats);
  for (AdapterModule& module : set->modules_) {
    const std::vector<int64_t> shape = options.method == core::AdapterMethod::kSboraFa
                                           ? std::vector<int64_t>{module.out_features, options.rank}
                                           : std::vector<int64_t>{options.rank, module.in_features};
    module.factor = set->parameters_.narrow(0, module.offset, module.size).view(shape);
    module.gradient = set->gradients_.narrow(0, module.offset, module.size).view(shape);
    module.index_R = at::tensor(at::ArrayRef<int32_t>(module.index), at::TensorOptions().dtype(at::kInt)).to(device);
  }
  return set;
}

const AdapterModule* AdapterSet::Find(int64_t layer, core::LinearModule module) const {
  const int64_t number = LinearNumber(layer, module);
  SBORA_CHECK(number >= 0 && number < static_cast<int64_t>(by_linear_.size()), "layer {} is not of this model", layer);
  const int position = by_linear_[static_cast<size_t>(number)];
  return position < 0 ? nullptr : &modules_[static_cast<size_t>(position)];
}

void AdapterSet::ZeroGradients() { gradients_.zero_(); }

at::Tensor AdapterSet::Merged(const AdapterModule& module, const at::Tensor& w0_OI) const {
  at::NoGradGuard no_grad;
  const int64_t dim = method_ == core::AdapterMethod::kSboraFa ? 1 : 0;
  const at::Tensor index = module.index_R.to(at::kLong);
  at::Tensor merged_OI = w0_OI.clone();
  const at::Tensor touched = w0_OI.index_select(dim, index).to(at::kFloat).add_(module.factor, scale_);
  merged_OI.index_copy_(dim, index, touched.to(w0_OI.scalar_type()));
  return merged_OI;
}

void AdapterSet::NotifyGradientReady(const AdapterModule& module) const {
  if (gradient_ready_) gradient_ready_(module);
}

}  // namespace sbora::trainer
