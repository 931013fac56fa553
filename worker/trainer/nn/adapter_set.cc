#include "worker/trainer/nn/adapter_set.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/lora_init.h"
#include "core/r_index.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kModulesPerLayer = static_cast<int64_t>(std::size(core::kAllLinearModules));

int64_t LinearNumber(int64_t layer, core::LinearModule module) {
  return layer * kModulesPerLayer + static_cast<int64_t>(module);
}

int64_t RankOf(const AdapterOptions& options, const AdapterModuleSpec& spec) {
  return spec.rank == 0 ? options.rank : spec.rank;
}

double AlphaOf(const AdapterOptions& options, const AdapterModuleSpec& spec) {
  return spec.alpha == 0 ? options.alpha : spec.alpha;
}

Status CheckOptions(const AdapterOptions& options) {
  if (options.method == core::AdapterMethod::kFull) {
    return InvalidArgument("METHOD_NO_ADAPTER", "method full trains the model's own weights and has no adapter");
  }
  if (options.modules.empty()) return InvalidArgument("TARGET_MODULES_EMPTY", "an adapter needs at least one module");
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    return InvalidArgument("DROPOUT_OUT_OF_RANGE", fmt::format("dropout={} is outside [0, 1)", options.dropout));
  }
  if (options.frozen_a != core::FrozenFactor::kNone && options.method != core::AdapterMethod::kLora) {
    return InvalidArgument("FROZEN_FACTOR_METHOD",
                           fmt::format("frozen_a {} goes with lora, not with {}",
                                       core::FrozenFactorName(options.frozen_a), core::AdapterMethodName(options.method)));
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
  const int64_t limit = core::MaxRank(options.method, core::LinearModuleShape(config, spec.module));
  const int64_t rank = RankOf(options, spec);
  if (rank < 1 || rank > limit) {
    return InvalidArgument("RANK_OUT_OF_RANGE", fmt::format("{}: rank={} is outside [1, {}] for {}", name, rank, limit,
                                                            core::AdapterMethodName(options.method)));
  }
  if (!(AlphaOf(options, spec) > 0)) {
    return InvalidArgument("ALPHA_OUT_OF_RANGE", fmt::format("{}: alpha={} must be above 0", name, AlphaOf(options, spec)));
  }
  const int64_t indices = core::UsesIndices(options.method) ? rank : 0;
  if (static_cast<int64_t>(spec.index.size()) != indices) {
    return InvalidArgument("INDICES_MISMATCH", fmt::format("{}: {} indices were given, {} with rank={} needs {}", name,
                                                           spec.index.size(), core::AdapterMethodName(options.method),
                                                           rank, indices));
  }
  return indices == 0 ? OkStatus() : core::CheckIndices(spec.index, name, limit);
}

at::Tensor FromHost(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::tensor(at::ArrayRef<float>(values)).view(shape);
}

}  // namespace

const AdapterTensor& AdapterModule::Tensor(core::TensorRole role) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.spec.role == role; });
  SBORA_CHECK(found != tensors.end(), "{} has no tensor of role {}", name, static_cast<int>(role));
  return *found;
}

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
  set->frozen_a_ = options.frozen_a;
  set->dropout_ = options.dropout;
  set->by_linear_.assign(static_cast<size_t>(config.num_layers * kModulesPerLayer), -1);
  for (AdapterModuleSpec& spec : specs) set->AddModule(config, options, std::move(spec));
  set->Allocate(device);
  return set;
}

void AdapterSet::AddModule(const core::ModelConfig& config, const AdapterOptions& options, AdapterModuleSpec spec) {
  const core::ModuleShape shape = core::LinearModuleShape(config, spec.module);
  const int64_t number = LinearNumber(spec.layer, spec.module);
  AdapterModule module{.name = core::ModulePath(spec.layer, spec.module), .layer = spec.layer, .module = spec.module,
                       .out_features = shape.out_features, .in_features = shape.in_features, .rank = RankOf(options, spec),
                       .scale = core::AdapterScale(AlphaOf(options, spec), RankOf(options, spec), options.rank_stabilized),
                       .dropout_id = static_cast<uint32_t>(number), .index = std::move(spec.index)};
  if (!modules_.empty()) module.offset = modules_.back().offset + modules_.back().size;
  for (core::ModuleTensor& tensor : core::ModuleTensors({method_, module.rank, frozen_a_}, spec.layer, spec.module, shape)) {
    if (tensor.role == core::TensorRole::kIndex) continue;
    const int64_t offset = module.offset + module.size;
    if (tensor.trained) module.size += c10::multiply_integers(tensor.shape);
    module.tensors.push_back({.spec = std::move(tensor), .offset = offset, .value = {}, .gradient = {}});
  }
  by_linear_[static_cast<size_t>(number)] = static_cast<int>(modules_.size());
  modules_.push_back(std::move(module));
}

void AdapterSet::Allocate(at::Device device) {
  const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
  const int64_t total = modules_.back().offset + modules_.back().size;
  parameters_ = at::zeros({total}, floats);
  gradients_ = at::zeros({total}, floats);
  if (method_ == core::AdapterMethod::kDora) norms_.resize(modules_.size());
  for (AdapterModule& module : modules_) {
    for (AdapterTensor& tensor : module.tensors) {
      const at::IntArrayRef shape = tensor.spec.shape;
      if (!tensor.spec.trained) {
        tensor.value = at::zeros(shape, floats);
        continue;
      }
      const int64_t size = c10::multiply_integers(shape);
      tensor.value = parameters_.narrow(0, tensor.offset, size).view(shape);
      tensor.gradient = gradients_.narrow(0, tensor.offset, size).view(shape);
    }
    if (!core::UsesIndices(method_)) continue;
    module.index_R = at::tensor(at::ArrayRef<int32_t>(module.index), at::TensorOptions().dtype(at::kInt)).to(device);
  }
}

Status AdapterSet::Initialize(uint64_t seed, const WeightOf& weight, const std::function<void()>& alive) {
  const at::NoGradGuard no_grad;
  parameters_.zero_();
  if (core::UsesIndices(method_)) return OkStatus();
  for (const AdapterModule& module : modules_) {
    if (alive) alive();
    at::Tensor a_RI = module.A().value;
    a_RI.copy_(FromHost(core::DrawLoraA(seed, module.name, module.rank, module.in_features, frozen_a_), a_RI.sizes()));
    if (method_ != core::AdapterMethod::kDora) continue;
    const at::Tensor& square_O = Norms(module, weight(module.layer, module.module)).base_square_O;
    if (const at::Tensor zero = (square_O == 0).nonzero(); zero.numel() > 0) {
      return InvalidArgument("ZERO_WEIGHT_ROW",
                             fmt::format("row {} of {}.weight is zero: dora has no direction to keep there. Leave {} "
                                         "out of target_modules or use lora",
                                         zero[0].item<int64_t>(), module.name, core::LinearModuleName(module.module)));
    }
    at::Tensor magnitude_O = module.Magnitude().value;
    magnitude_O.copy_(square_O.sqrt());
  }
  return OkStatus();
}

const AdapterModule* AdapterSet::Find(int64_t layer, core::LinearModule module) const {
  const int64_t number = LinearNumber(layer, module);
  SBORA_CHECK(number >= 0 && number < static_cast<int64_t>(by_linear_.size()), "layer {} is not of this model", layer);
  const int position = by_linear_[static_cast<size_t>(number)];
  return position < 0 ? nullptr : &modules_[static_cast<size_t>(position)];
}

AdapterSet::NormCache& AdapterSet::Norms(const AdapterModule& module, const at::Tensor& w0_OI) const {
  SBORA_CHECK(method_ == core::AdapterMethod::kDora, "{} has no row norms", core::AdapterMethodName(method_));
  NormCache& cache = norms_[static_cast<size_t>(by_linear_[module.dropout_id])];
  if (!cache.base_square_O.defined()) {
    cache.base_square_O = at::linalg_vector_norm(w0_OI, 2, {1}, false, at::kDouble).square_().to(at::kFloat);
  }
  return cache;
}

at::Tensor AdapterSet::RowNorms(const AdapterModule& module, const at::Tensor& w0_OI) const {
  const at::NoGradGuard no_grad;
  NormCache& cache = Norms(module, w0_OI);
  const int64_t version = parameters_._version();
  if (cache.version != version) {
    // |W0 + s B A|^2 = |W0|^2 + 2 s (W0 A^T . B) + s^2 (B A A^T . B), row by row.
    const at::Tensor& a_RI = module.A().value;
    const at::Tensor& b_OR = module.B().value;
    const at::Tensor cross_OR = at::mm(w0_OI.to(at::kFloat), a_RI.t()).mul_(2 * module.scale);
    const at::Tensor own_OR = at::mm(b_OR, at::mm(a_RI, a_RI.t())).mul_(module.scale * module.scale);
    cache.norm_O = (cross_OR + own_OR).mul_(b_OR).sum(1).add_(cache.base_square_O).sqrt_();
    cache.version = version;
  }
  return cache.norm_O;
}

at::Tensor AdapterSet::Merged(const AdapterModule& module, const at::Tensor& w0_OI) const {
  const at::NoGradGuard no_grad;
  if (!core::UsesIndices(method_)) return MergedDense(module, w0_OI);
  const bool fa = method_ == core::AdapterMethod::kSboraFa;
  const int64_t dim = fa ? 1 : 0;
  const at::Tensor index = module.index_R.to(at::kLong);
  at::Tensor merged_OI = w0_OI.clone();
  const at::Tensor touched =
      w0_OI.index_select(dim, index).to(at::kFloat).add_(fa ? module.B().value : module.A().value, module.scale);
  merged_OI.index_copy_(dim, index, touched.to(w0_OI.scalar_type()));
  return merged_OI;
}

at::Tensor AdapterSet::MergedDense(const AdapterModule& module, const at::Tensor& w0_OI) const {
  at::Tensor merged_OI = at::addmm(w0_OI.to(at::kFloat), module.B().value, module.A().value, 1, module.scale);
  if (method_ == core::AdapterMethod::kDora) {
    const at::Tensor norm_O = at::linalg_vector_norm(merged_OI, 2, {1});
    merged_OI.mul_((module.Magnitude().value / norm_O).unsqueeze(1));
  }
  return merged_OI.to(w0_OI.scalar_type());
}

void AdapterSet::NotifyGradientReady(const AdapterModule& module) const {
  if (gradient_ready_) gradient_ready_(module);
}

}  // namespace sbora::trainer
