#include "core/proto/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "common/status_macros.h"

namespace sbora::core {
namespace {

/// Pairs of proto and domain values; the first one also stands for UNSPECIFIED (0), the documented default.
template <typename Proto, typename Domain, size_t N>
using EnumTable = std::array<std::pair<Proto, Domain>, N>;

constexpr EnumTable<v1::Method, AdapterMethod, 5> kMethods = {{{v1::METHOD_SBORA_FA, AdapterMethod::kSboraFa},
                                                               {v1::METHOD_SBORA_FB, AdapterMethod::kSboraFb},
                                                               {v1::METHOD_LORA, AdapterMethod::kLora},
                                                               {v1::METHOD_DORA, AdapterMethod::kDora},
                                                               {v1::METHOD_FULL, AdapterMethod::kFull}}};
constexpr EnumTable<v1::FrozenFactor, FrozenFactor, 3> kFrozenFactors = {
    {{v1::FROZEN_FACTOR_NONE, FrozenFactor::kNone},
     {v1::FROZEN_FACTOR_RANDOM, FrozenFactor::kRandom},
     {v1::FROZEN_FACTOR_ORTHONORMAL, FrozenFactor::kOrthonormal}}};
constexpr EnumTable<v1::Quantization, Quantization, 2> kQuantizations = {
    {{v1::QUANTIZATION_NONE, Quantization::kNone}, {v1::QUANTIZATION_NF4, Quantization::kNf4}}};
constexpr EnumTable<v1::PromptTemplate, PromptTemplate, 5> kTemplates = {
    {{v1::PROMPT_TEMPLATE_AUTO, PromptTemplate::kAuto},
     {v1::PROMPT_TEMPLATE_ALPACA, PromptTemplate::kAlpaca},
     {v1::PROMPT_TEMPLATE_LLM_ADAPTERS, PromptTemplate::kLlmAdapters},
     {v1::PROMPT_TEMPLATE_PLAIN, PromptTemplate::kPlain},
     {v1::PROMPT_TEMPLATE_CHAT, PromptTemplate::kChat}}};
constexpr EnumTable<v1::LossOn, LossOn, 2> kLossOns = {
    {{v1::LOSS_ON_RESPONSE, LossOn::kResponse}, {v1::LOSS_ON_ALL, LossOn::kAll}}};
constexpr EnumTable<v1::CutoffPolicy, CutoffPolicy, 3> kCutoffPolicies = {
    {{v1::CUTOFF_POLICY_TRUNCATE, CutoffPolicy::kTruncate},
     {v1::CUTOFF_POLICY_DROP, CutoffPolicy::kDrop},
     {v1::CUTOFF_POLICY_REJECT, CutoffPolicy::kReject}}};
constexpr EnumTable<v1::Schedule, Schedule, 3> kSchedules = {{{v1::SCHEDULE_LINEAR, Schedule::kLinear},
                                                              {v1::SCHEDULE_CONSTANT, Schedule::kConstant},
                                                              {v1::SCHEDULE_COSINE, Schedule::kCosine}}};
constexpr EnumTable<v1::Optimizer, OptimizerKind, 2> kOptimizers = {{{v1::OPTIMIZER_ADAMW, OptimizerKind::kAdamW},
                                                                     {v1::OPTIMIZER_ADAMW_8BIT, OptimizerKind::kAdamW8Bit}}};
constexpr EnumTable<v1::Device, DeviceKind, 3> kDevices = {{{v1::DEVICE_AUTO, DeviceKind::kAuto},
                                                            {v1::DEVICE_CPU, DeviceKind::kCpu},
                                                            {v1::DEVICE_CUDA, DeviceKind::kCuda}}};
constexpr EnumTable<v1::ComputeDtype, ComputeDtype, 3> kComputeDtypes = {
    {{v1::COMPUTE_DTYPE_AUTO, ComputeDtype::kAuto},
     {v1::COMPUTE_DTYPE_FLOAT32, ComputeDtype::kFloat32},
     {v1::COMPUTE_DTYPE_BFLOAT16, ComputeDtype::kBFloat16}}};

template <typename Proto, typename Domain, size_t N>
std::optional<Domain> FromEnum(const EnumTable<Proto, Domain, N>& table, Proto value) {
  if (static_cast<int>(value) == 0) return table.front().second;
  for (const auto& [proto, domain] : table) {
    if (proto == value) return domain;
  }
  return std::nullopt;
}

template <typename Proto, typename Domain, size_t N>
Proto ToEnum(const EnumTable<Proto, Domain, N>& table, Domain value) {
  for (const auto& [proto, domain] : table) {
    if (domain == value) return proto;
  }
  return static_cast<Proto>(0);
}

struct TargetModules {
  std::vector<LinearModule> modules;  ///< in some layer, sorted
  std::vector<ModuleKey> single;      ///< of one layer, sorted
};

/// Of "q", "q_proj", "layers.0.q", ...; duplicates refused. Empty means the default five: q, k, v, up, down.
StatusOr<TargetModules> ParseTargetModules(const std::vector<std::string>& names) {
  if (names.empty()) {
    return TargetModules{.modules = {LinearModule::kQ, LinearModule::kK, LinearModule::kV, LinearModule::kUp, LinearModule::kDown},
                         .single = {}};
  }
  std::set<ModuleKey> keys;
  for (const std::string& name : names) {
    SBORA_ASSIGN_OR_RETURN(const ModuleKey key, ParseModuleKey(name));
    if (!keys.insert(key).second) {
      return InvalidArgument("TARGET_MODULE_DUPLICATE", fmt::format("target module '{}' is named twice", name));
    }
  }
  TargetModules targets;
  std::set<LinearModule> modules;
  for (const ModuleKey& key : keys) {
    modules.insert(key.module);
    if (key.layer == ModuleKey::kEveryLayer) continue;
    if (keys.contains({ModuleKey::kEveryLayer, key.module})) {
      return InvalidArgument("TARGET_MODULE_DUPLICATE",
                             fmt::format("target module '{}' is named beside {}, which is every layer's; leave one of them out",
                                         ToString(key), LinearModuleName(key.module)));
    }
    targets.single.push_back(key);
  }
  targets.modules.assign(modules.begin(), modules.end());
  return targets;
}

/// Reads one message; remembers every problem, so that a user sees all of them at once.
class SpecReader {
 public:
  template <typename Proto, typename Domain, size_t N>
  void Enum(const EnumTable<Proto, Domain, N>& table, Proto value, std::string_view field, Domain& out) {
    if (const auto domain = FromEnum(table, value)) {
      out = *domain;
    } else {
      violations_.push_back({std::string(field), fmt::format("has the unknown value {}", static_cast<int>(value))});
    }
  }

  void Modules(const std::vector<std::string>& names, AdapterSpec& out) {
    StatusOr<TargetModules> modules = ParseTargetModules(names);
    if (modules.ok()) {
      out.target_modules = std::move(modules->modules);
      out.pattern.single = std::move(modules->single);
    } else {
      violations_.push_back({"spec.adapter.target_modules", modules.status().message()});
      out.target_modules = {LinearModule::kQ};  // keeps the later checks from repeating the problem
    }
  }

  void Layers(const std::vector<std::string>& items, std::vector<int64_t>& out) {
    StatusOr<std::vector<int64_t>> layers = ParseLayers(items);
    if (layers.ok()) {
      out = std::move(*layers);
    } else {
      violations_.push_back({"spec.adapter.target_layers", layers.status().message()});
    }
  }

  template <typename Value, typename Proto>
  void Pattern(const google::protobuf::Map<std::string, Proto>& entries, std::string_view field,
               std::map<ModuleKey, Value>& out) {
    for (const auto& [name, value] : entries) {
      const StatusOr<ModuleKey> key = ParseModuleKey(name);
      if (!key.ok()) {
        violations_.push_back({std::string(field), key.status().message()});
      } else if (!out.emplace(*key, value).second) {
        violations_.push_back({std::string(field), fmt::format("names {} twice", ToString(*key))});
      }
    }
  }

  /// `checked` is CheckJobSpec's answer for what was read.
  Status Finish(const Status& checked) const {
    if (violations_.empty()) return checked;
    std::vector<FieldViolation> all = violations_;
    all.insert(all.end(), checked.violations().begin(), checked.violations().end());
    std::string message = fmt::format("{} {}", all.front().field, all.front().description);
    if (all.size() > 1) message += fmt::format(" (and {} more)", all.size() - 1);
    Status status = InvalidArgument("INVALID_SPEC", std::move(message));
    for (const FieldViolation& violation : all) status = status.WithViolation(violation.field, violation.description);
    return status;
  }

 private:
  std::vector<FieldViolation> violations_;
};

AdapterSpec ReadAdapter(const v1::AdapterSpec& in, uint64_t seed, SpecReader& reader) {
  AdapterSpec out;
  reader.Enum(kMethods, in.method(), "spec.adapter.method", out.method);
  if (in.has_rank()) out.rank = in.rank();
  out.alpha = in.has_alpha() ? in.alpha() : 2.0 * static_cast<double>(out.rank);
  if (in.has_dropout()) out.dropout = in.dropout();
  reader.Modules({in.target_modules().begin(), in.target_modules().end()}, out);
  reader.Layers({in.target_layers().begin(), in.target_layers().end()}, out.pattern.layers);
  reader.Pattern(in.rank_pattern(), "spec.adapter.rank_pattern", out.pattern.ranks);
  reader.Pattern(in.alpha_pattern(), "spec.adapter.alpha_pattern", out.pattern.alphas);
  out.index_seed = in.has_index_seed() ? in.index_seed() : seed;
  if (in.has_rank_stabilized()) out.rank_stabilized = in.rank_stabilized();
  reader.Enum(kFrozenFactors, in.frozen_a(), "spec.adapter.frozen_a", out.frozen_a);
  if (in.has_share_indices()) out.share_indices = in.share_indices();
  out.disjoint_from.assign(in.disjoint_from().begin(), in.disjoint_from().end());
  if (in.has_disjoint_from_all()) out.disjoint_from_all = in.disjoint_from_all();
  if (out.method == AdapterMethod::kFull) TrainAllWeights(out);
  return out;
}

DataSpec ReadData(const v1::DataSpec& in, SpecReader& reader) {
  DataSpec out;
  reader.Enum(kTemplates, in.prompt_template(), "spec.data.prompt_template", out.prompt_template);
  reader.Enum(kLossOns, in.loss_on(), "spec.data.loss_on", out.loss_on);
  reader.Enum(kCutoffPolicies, in.cutoff_policy(), "spec.data.cutoff_policy", out.cutoff_policy);
  if (in.has_cutoff_tokens()) out.cutoff_tokens = in.cutoff_tokens() == 0 ? -1 : in.cutoff_tokens();
  if (in.has_source_cutoff_tokens()) out.source_cutoff_tokens = in.source_cutoff_tokens();
  if (in.has_target_cutoff_tokens()) out.target_cutoff_tokens = in.target_cutoff_tokens();
  if (in.has_validation_samples()) out.validation_samples = in.validation_samples();
  return out;
}

TrainingSpec ReadTraining(const v1::TrainingSpec& in, SpecReader& reader) {
  TrainingSpec out;
  if (in.has_epochs()) out.epochs = in.epochs();
  if (in.has_max_steps()) out.max_steps = in.max_steps();
  if (in.has_batch_size()) out.batch_size = in.batch_size();
  out.micro_batch_size = in.has_micro_batch_size() ? in.micro_batch_size() : std::min(out.micro_batch_size, out.batch_size);
  if (in.has_learning_rate()) out.learning_rate = in.learning_rate();
  reader.Enum(kSchedules, in.schedule(), "spec.training.schedule", out.schedule);
  if (in.has_warmup_steps()) out.warmup_steps = in.warmup_steps();
  if (in.has_weight_decay()) out.weight_decay = in.weight_decay();
  if (in.has_beta1()) out.beta1 = in.beta1();
  if (in.has_beta2()) out.beta2 = in.beta2();
  if (in.has_epsilon()) out.epsilon = in.epsilon();
  if (in.has_max_gradient_norm()) out.max_gradient_norm = in.max_gradient_norm();
  if (in.has_seed()) out.seed = in.seed();
  if (in.has_epoch_samples()) out.epoch_samples = in.epoch_samples();
  if (in.has_group_by_length()) out.group_by_length = in.group_by_length();
  if (in.has_gradient_checkpointing()) out.gradient_checkpointing = in.gradient_checkpointing();
  reader.Enum(kOptimizers, in.optimizer(), "spec.training.optimizer", out.optimizer);
  if (in.has_paged_optimizer()) out.paged_optimizer = in.paged_optimizer();
  return out;
}

void ReadLimits(const v1::LimitSpec& in, JobSpec& out) {
  if (in.has_priority()) out.priority = in.priority();
  if (in.has_max_queue_seconds()) out.max_queue_seconds = in.max_queue_seconds();
  if (in.has_max_attempt_seconds()) out.max_attempt_seconds = in.max_attempt_seconds();
  if (in.has_max_total_seconds()) out.max_total_seconds = in.max_total_seconds();
}

}  // namespace

StatusOr<AdapterMethod> ParseMethod(v1::Method value) {
  if (const auto domain = FromEnum(kMethods, value)) return *domain;
  return InvalidArgument("INVALID_SPEC", fmt::format("method has the unknown value {}", static_cast<int>(value)));
}

StatusOr<PromptTemplate> ParsePromptTemplate(v1::PromptTemplate value) {
  if (const auto domain = FromEnum(kTemplates, value)) return *domain;
  return InvalidArgument("INVALID_SPEC", fmt::format("prompt_template has the unknown value {}", static_cast<int>(value)));
}

StatusOr<DeviceKind> ParseDevice(v1::Device value) {
  if (const auto domain = FromEnum(kDevices, value)) return *domain;
  return InvalidArgument("INVALID_SPEC", fmt::format("device has the unknown value {}", static_cast<int>(value)));
}

StatusOr<JobSpec> ParseSpec(const v1::FineTuningSpec& in) {
  SpecReader reader;
  JobSpec out;
  out.model = in.model();
  out.dataset = in.dataset();
  out.datasets.assign(in.datasets().begin(), in.datasets().end());
  out.dataset_weights.assign(in.dataset_weights().begin(), in.dataset_weights().end());
  out.validation_dataset = in.validation_dataset();
  reader.Enum(kQuantizations, in.quantization(), "spec.quantization", out.quantization);
  if (in.has_double_quantization()) out.double_quantization = in.double_quantization();
  out.training = ReadTraining(in.training(), reader);
  out.adapter = ReadAdapter(in.adapter(), out.training.seed, reader);
  out.data = ReadData(in.data(), reader);
  if (in.validation().has_validate_every_steps()) out.validate_every_steps = in.validation().validate_every_steps();
  if (in.validation().has_keep_best()) out.keep_best = in.validation().keep_best();
  if (in.checkpoint().has_checkpoint_every_steps()) out.checkpoint_every_steps = in.checkpoint().checkpoint_every_steps();
  if (in.checkpoint().has_checkpoint_every_seconds()) {
    out.checkpoint_every_seconds = in.checkpoint().checkpoint_every_seconds();
  }
  if (in.resources().has_ranks()) out.ranks = in.resources().ranks();
  reader.Enum(kDevices, in.resources().device(), "spec.resources.device", out.device);
  reader.Enum(kComputeDtypes, in.resources().compute_dtype(), "spec.resources.compute_dtype", out.compute_dtype);
  if (in.resources().has_threads()) out.threads = in.resources().threads();
  ReadLimits(in.limits(), out);
  SBORA_RETURN_IF_ERROR(reader.Finish(CheckJobSpec(out)));
  return out;
}

namespace {

void WriteTargets(const AdapterSpec& in, v1::AdapterSpec& out) {
  for (const LinearModule module : in.target_modules) {
    const auto single = [module](const ModuleKey& key) { return key.module == module; };
    if (std::none_of(in.pattern.single.begin(), in.pattern.single.end(), single)) {
      out.add_target_modules(std::string(LinearModuleName(module)));
    }
  }
  for (const ModuleKey& key : in.pattern.single) out.add_target_modules(ToString(key));
  for (std::string& item : LayerItems(in.pattern.layers)) out.add_target_layers(std::move(item));
  for (const auto& [key, rank] : in.pattern.ranks) (*out.mutable_rank_pattern())[ToString(key)] = static_cast<int32_t>(rank);
  for (const auto& [key, alpha] : in.pattern.alphas) (*out.mutable_alpha_pattern())[ToString(key)] = alpha;
}

void WriteData(const DataSpec& in, v1::DataSpec& out) {
  out.set_prompt_template(ToEnum(kTemplates, in.prompt_template));
  out.set_loss_on(ToEnum(kLossOns, in.loss_on));
  if (in.cutoff_tokens != 0) out.set_cutoff_tokens(static_cast<int32_t>(in.cutoff_tokens));
  out.set_cutoff_policy(ToEnum(kCutoffPolicies, in.cutoff_policy));
  out.set_source_cutoff_tokens(static_cast<int32_t>(in.source_cutoff_tokens));
  out.set_target_cutoff_tokens(static_cast<int32_t>(in.target_cutoff_tokens));
  out.set_validation_samples(static_cast<int32_t>(in.validation_samples));
}

void WriteTraining(const TrainingSpec& in, v1::TrainingSpec& out) {
  out.set_epochs(in.epochs);
  out.set_max_steps(in.max_steps);
  out.set_batch_size(static_cast<int32_t>(in.batch_size));
  out.set_micro_batch_size(static_cast<int32_t>(in.micro_batch_size));
  out.set_learning_rate(in.learning_rate);
  out.set_schedule(ToEnum(kSchedules, in.schedule));
  out.set_warmup_steps(in.warmup_steps);
  out.set_weight_decay(in.weight_decay);
  out.set_beta1(in.beta1);
  out.set_beta2(in.beta2);
  out.set_epsilon(in.epsilon);
  out.set_max_gradient_norm(in.max_gradient_norm);
  out.set_seed(in.seed);
  out.set_epoch_samples(in.epoch_samples);
  out.set_group_by_length(in.group_by_length);
  out.set_gradient_checkpointing(in.gradient_checkpointing);
  out.set_optimizer(ToEnum(kOptimizers, in.optimizer));
  out.set_paged_optimizer(in.paged_optimizer);
}

}  // namespace

v1::FineTuningSpec ToProto(const JobSpec& in) {
  v1::FineTuningSpec out;
  out.set_model(in.model);
  out.set_dataset(in.dataset);
  for (const std::string& name : in.datasets) out.add_datasets(name);
  for (const double weight : in.dataset_weights) out.add_dataset_weights(weight);
  out.set_validation_dataset(in.validation_dataset);
  out.set_quantization(ToEnum(kQuantizations, in.quantization));
  out.set_double_quantization(in.double_quantization);
  v1::AdapterSpec& adapter = *out.mutable_adapter();
  adapter.set_method(ToEnum(kMethods, in.adapter.method));
  adapter.set_rank(static_cast<int32_t>(in.adapter.rank));
  adapter.set_alpha(in.adapter.alpha);
  adapter.set_dropout(in.adapter.dropout);
  WriteTargets(in.adapter, adapter);
  adapter.set_index_seed(in.adapter.index_seed);
  adapter.set_rank_stabilized(in.adapter.rank_stabilized);
  adapter.set_frozen_a(ToEnum(kFrozenFactors, in.adapter.frozen_a));
  adapter.set_share_indices(in.adapter.share_indices);
  for (const std::string& name : in.adapter.disjoint_from) adapter.add_disjoint_from(name);
  adapter.set_disjoint_from_all(in.adapter.disjoint_from_all);
  WriteData(in.data, *out.mutable_data());
  WriteTraining(in.training, *out.mutable_training());
  out.mutable_validation()->set_validate_every_steps(in.validate_every_steps);
  out.mutable_validation()->set_keep_best(in.keep_best);
  out.mutable_checkpoint()->set_checkpoint_every_steps(in.checkpoint_every_steps);
  out.mutable_checkpoint()->set_checkpoint_every_seconds(in.checkpoint_every_seconds);
  out.mutable_resources()->set_ranks(static_cast<int32_t>(in.ranks));
  out.mutable_resources()->set_device(ToEnum(kDevices, in.device));
  out.mutable_resources()->set_compute_dtype(ToEnum(kComputeDtypes, in.compute_dtype));
  out.mutable_resources()->set_threads(static_cast<int32_t>(in.threads));
  out.mutable_limits()->set_priority(static_cast<int32_t>(in.priority));
  out.mutable_limits()->set_max_queue_seconds(in.max_queue_seconds);
  out.mutable_limits()->set_max_attempt_seconds(in.max_attempt_seconds);
  out.mutable_limits()->set_max_total_seconds(in.max_total_seconds);
  return out;
}

}  // namespace sbora::core
