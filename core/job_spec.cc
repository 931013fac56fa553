#include "core/job_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "core/r_index.h"

namespace sbora::core {
namespace {

constexpr int64_t kDefaultCutoffTokens = 512;
constexpr int64_t kMinCutoffTokens = 8;
constexpr size_t kMaxDisjointFrom = 1000;
constexpr size_t kMaxMixture = 64;
constexpr double kMaxDatasetWeight = 1e9;

/// Gathers violations; the first one leads the message.
class Violations {
 public:
  void Require(bool holds, std::string_view field, std::string description) {
    if (!holds) found_.push_back({std::string(field), std::move(description)});
  }

  /// `low <= value <= high`, not NaN.
  template <typename T>
  void InRange(std::string_view field, T value, T low, T high) {
    Require(value >= low && value <= high, field, fmt::format("is {}, must be from {} to {}", value, low, high));
  }

  void Positive(std::string_view field, double value) {
    Require(std::isfinite(value) && value > 0.0, field, fmt::format("is {}, must be a finite number above 0", value));
  }

  void NotNegative(std::string_view field, double value) {
    Require(std::isfinite(value) && value >= 0.0, field, fmt::format("is {}, must be 0 or a finite number above", value));
  }

  Status Finish() const {
    if (found_.empty()) return OkStatus();
    std::string message = fmt::format("{} {}", found_.front().field, found_.front().description);
    if (found_.size() > 1) message += fmt::format(" (and {} more)", found_.size() - 1);
    Status status = InvalidArgument("INVALID_SPEC", std::move(message));
    for (const FieldViolation& violation : found_) status = status.WithViolation(violation.field, violation.description);
    return status;
  }

 private:
  std::vector<FieldViolation> found_;
};

void CheckTraining(const TrainingSpec& training, int64_t ranks, Violations& violations) {
  violations.Require(training.epochs > 0.0 && training.epochs <= 1000.0, "spec.training.epochs",
                     fmt::format("is {}, must be above 0 and at most 1000", training.epochs));
  violations.InRange<int64_t>("spec.training.max_steps", training.max_steps, 0, 100'000'000);
  violations.InRange<int64_t>("spec.training.batch_size", training.batch_size, 1, 65536);
  violations.InRange<int64_t>("spec.training.micro_batch_size", training.micro_batch_size, 1, 4096);
  violations.Require(training.micro_batch_size * ranks <= training.batch_size, "spec.training.micro_batch_size",
                     fmt::format("is {}, times {} ranks it must be at most batch_size={}", training.micro_batch_size, ranks,
                                 training.batch_size));
  violations.Positive("spec.training.learning_rate", training.learning_rate);
  violations.InRange<int64_t>("spec.training.warmup_steps", training.warmup_steps, 0, 100'000'000);
  violations.NotNegative("spec.training.weight_decay", training.weight_decay);
  violations.Require(training.beta1 >= 0.0 && training.beta1 < 1.0, "spec.training.beta1",
                     fmt::format("is {}, must be at least 0 and below 1", training.beta1));
  violations.Require(training.beta2 >= 0.0 && training.beta2 < 1.0, "spec.training.beta2",
                     fmt::format("is {}, must be at least 0 and below 1", training.beta2));
  violations.Positive("spec.training.epsilon", training.epsilon);
  violations.NotNegative("spec.training.max_gradient_norm", training.max_gradient_norm);
}

void CheckRegions(const AdapterSpec& adapter, Violations& violations) {
  violations.Require(!adapter.share_indices || adapter.method == AdapterMethod::kSboraFa, "spec.adapter.share_indices",
                     "is for sbora_fa: only modules that read one input can share its coordinates; use sbora_fa or leave it out");
  const bool disjoint = adapter.disjoint_from_all || !adapter.disjoint_from.empty();
  const char* field = adapter.disjoint_from_all ? "spec.adapter.disjoint_from_all" : "spec.adapter.disjoint_from";
  violations.Require(!disjoint || UsesIndices(adapter.method), field,
                     fmt::format("needs sbora_fa or sbora_fb: {} changes all of its target modules",
                                 AdapterMethodName(adapter.method)));
  violations.Require(!adapter.disjoint_from_all || adapter.disjoint_from.empty(), "spec.adapter.disjoint_from",
                     "must be empty with disjoint_from_all, which holds for them too");
  violations.Require(adapter.disjoint_from.size() <= kMaxDisjointFrom, "spec.adapter.disjoint_from",
                     fmt::format("names {} adapters, at most {} are taken; disjoint_from_all means all",
                                 adapter.disjoint_from.size(), kMaxDisjointFrom));
}

/// Ranges of what the pattern names; whether the model has it is ResolveAgainstModel's.
void CheckPatternValues(const AdapterSpec& adapter, Violations& violations) {
  for (const auto& [key, rank] : adapter.pattern.ranks) {
    violations.Require(rank >= 1 && rank <= 1 << 20, "spec.adapter.rank_pattern",
                       fmt::format("gives {} the rank {}, must be from 1 to {}", ToString(key), rank, 1 << 20));
  }
  for (const auto& [key, alpha] : adapter.pattern.alphas) {
    violations.Require(alpha > 0.0 && alpha <= kMaxAlpha, "spec.adapter.alpha_pattern",
                       fmt::format("gives {} the alpha {}, must be above 0 and at most {}", ToString(key), alpha, kMaxAlpha));
  }
  violations.Require(adapter.pattern.layers.empty() || adapter.pattern.single.empty(), "spec.adapter.target_layers",
                     "must be empty when target_modules name layers themselves; choose one of them");
  violations.Require(adapter.method != AdapterMethod::kFull || adapter.pattern.empty(), "spec.adapter.rank_pattern",
                     "and alpha_pattern, target_layers and layers in target_modules are for adapters; full trains every weight");
}

/// Each module's rank against its width: once a module when all layers have one rank, else once a layer.
void CheckRanks(const ModelConfig& model, const AdapterSpec& adapter, Violations& violations) {
  for (const AdaptedModule& each : AdaptedModules(model, adapter.placement())) {
    const bool by_pattern = each.rank != adapter.rank;
    if (!by_pattern && adapter.pattern.empty() && each.layer > 0) break;
    const int64_t limit = MaxRank(adapter.method, each.shape);
    violations.Require(each.rank <= limit, by_pattern ? "spec.adapter.rank_pattern" : "spec.adapter.rank",
                       fmt::format("is {}, must be at most {} for {} of this model with {}", each.rank, limit,
                                   by_pattern ? ModulePath(each.layer, each.module)
                                              : std::string(LinearModuleName(each.module)),
                                   AdapterMethodName(adapter.method)));
  }
}

/// Modules that share an index vector have one rank.
void CheckSharedRanks(const ModelConfig& model, const AdapterSpec& adapter, Violations& violations) {
  if (!adapter.share_indices || adapter.pattern.empty()) return;
  std::map<std::pair<int64_t, bool>, AdaptedModule> first;  // by layer and block
  for (const AdaptedModule& each : AdaptedModules(model, adapter.placement())) {
    if (each.module == LinearModule::kO || each.module == LinearModule::kDown) continue;  // share with nobody
    const auto [entry, fresh] = first.try_emplace({each.layer, each.module >= LinearModule::kGate}, each);
    if (fresh || entry->second.rank == each.rank) continue;
    violations.Require(false, "spec.adapter.rank_pattern",
                       fmt::format("gives {} rank {} and {} rank {}, which share_indices gives one index vector; give them "
                                   "one rank or leave share_indices out",
                                   ModulePath(each.layer, entry->second.module), entry->second.rank,
                                   ModulePath(each.layer, each.module), each.rank));
    return;
  }
}

/// One data set, or a mixture of several.
void CheckDatasets(const JobSpec& spec, Violations& violations) {
  violations.Require(!spec.dataset.empty() || !spec.datasets.empty(), "spec.dataset",
                     "is required: name a data set (sbora-client datasets list), or several in datasets");
  violations.Require(spec.dataset.empty() || spec.datasets.empty(), "spec.datasets",
                     "must be empty when dataset is set; name all data sets of a mixture here and leave dataset out");
  violations.Require(spec.datasets.size() <= kMaxMixture, "spec.datasets",
                     fmt::format("names {} data sets, at most {} can be mixed", spec.datasets.size(), kMaxMixture));
  for (size_t i = 0; i < spec.datasets.size(); ++i) {
    const std::string& name = spec.datasets[i];
    violations.Require(!name.empty(), "spec.datasets", "holds an empty name");
    violations.Require(std::count(spec.datasets.begin(), spec.datasets.begin() + static_cast<int64_t>(i), name) == 0,
                       "spec.datasets", fmt::format("names {} twice; raise its weight instead", name));
  }
  violations.Require(spec.dataset_weights.empty() || spec.dataset_weights.size() == spec.datasets.size(),
                     "spec.dataset_weights", fmt::format("has {} weights for {} datasets, must have one for each or none",
                                                         spec.dataset_weights.size(), spec.datasets.size()));
  for (const double weight : spec.dataset_weights) {
    violations.Require(weight > 0.0 && weight <= kMaxDatasetWeight, "spec.dataset_weights",
                       fmt::format("has the weight {}, must be above 0 and at most {}", weight, kMaxDatasetWeight));
  }
  violations.InRange<int64_t>("spec.training.epoch_samples", spec.training.epoch_samples, 0, int64_t{1} << 40);
  violations.Require(spec.training.epoch_samples == 0 || !spec.datasets.empty(), "spec.training.epoch_samples",
                     "is for a mixture: name the data sets in datasets, or leave it out and set max_steps");
}

/// Full fine-tuning has neither rank, alpha nor targets (TrainAllWeights).
void CheckFull(const JobSpec& spec, Violations& violations) {
  violations.Require(spec.adapter.dropout == 0.0, "spec.adapter.dropout",
                     fmt::format("is {}, must be 0 with method full: it is for an adapter's input", spec.adapter.dropout));
  violations.Require(spec.compute_dtype != ComputeDtype::kBFloat16, "spec.resources.compute_dtype",
                     "must be auto or float32 with method full: its updates are too small for bfloat16 weights");
  violations.Require(spec.quantization == Quantization::kNone, "spec.quantization",
                     "must be none with method full, which trains the weights themselves and 4 bits cannot follow its steps; "
                     "train an adapter on the nf4 base (sbora_fa and sbora_fb: QSBoRA; lora: QLoRA; dora: QDoRA), or full "
                     "without quantization");
}

void CheckAdapter(const JobSpec& spec, Violations& violations) {
  const AdapterSpec& adapter = spec.adapter;
  CheckRegions(adapter, violations);
  CheckPatternValues(adapter, violations);
  const bool can_freeze = adapter.method == AdapterMethod::kLora;
  violations.Require(can_freeze || adapter.frozen_a == FrozenFactor::kNone, "spec.adapter.frozen_a",
                     fmt::format("is {}, which goes with METHOD_LORA, not with {}", FrozenFactorName(adapter.frozen_a),
                                 AdapterMethodName(adapter.method)));
  if (adapter.method == AdapterMethod::kFull) return CheckFull(spec, violations);
  violations.InRange<int64_t>("spec.adapter.rank", adapter.rank, 1, 1 << 20);
  violations.Require(adapter.alpha > 0.0 && adapter.alpha <= kMaxAlpha, "spec.adapter.alpha",
                     fmt::format("is {}, must be above 0 and at most {}", adapter.alpha, kMaxAlpha));
  violations.Require(adapter.dropout >= 0.0 && adapter.dropout < 1.0, "spec.adapter.dropout",
                     fmt::format("is {}, must be at least 0 and below 1", adapter.dropout));
  violations.Require(!adapter.target_modules.empty(), "spec.adapter.target_modules", "must name at least one module");
}

void CheckData(const JobSpec& spec, Violations& violations) {
  const DataSpec& data = spec.data;
  violations.Require(data.cutoff_tokens == 0 || data.cutoff_tokens >= kMinCutoffTokens, "spec.data.cutoff_tokens",
                     fmt::format("is {}, must be at least {}", data.cutoff_tokens, kMinCutoffTokens));
  violations.Require(data.source_cutoff_tokens >= 0, "spec.data.source_cutoff_tokens", "must not be negative");
  violations.Require(data.target_cutoff_tokens >= 0, "spec.data.target_cutoff_tokens", "must not be negative");
  violations.Require(data.validation_samples >= 0, "spec.data.validation_samples", "must not be negative");
  violations.Require(data.validation_samples == 0 || spec.validation_dataset.empty(), "spec.data.validation_samples",
                     "must be 0 when validation_dataset is set; choose one of them");
  const bool validates = data.validation_samples > 0 || !spec.validation_dataset.empty();
  violations.Require(!spec.keep_best || validates, "spec.validation.keep_best",
                     "needs validation data: set validation_dataset or data.validation_samples");
}

}  // namespace

void TrainAllWeights(AdapterSpec& adapter) {
  adapter.method = AdapterMethod::kFull;
  adapter.rank = 0;
  adapter.alpha = 0.0;
  adapter.rank_stabilized = false;
  adapter.target_modules.assign(std::begin(kAllLinearModules), std::end(kAllLinearModules));
}

BaseQuantization BaseQuantizationOf(const JobSpec& spec) {
  if (spec.quantization == Quantization::kNone) return {};
  return {.kind = spec.quantization, .double_quantization = spec.double_quantization};
}

AdapterConfig AdapterConfigOf(const JobSpec& spec, const ModelConfig& base, std::string base_model, std::string base_hash) {
  const AdapterSpec& adapter = spec.adapter;
  return {.method = adapter.method,
          .rank = adapter.rank,
          .alpha = adapter.alpha,
          .dropout = adapter.dropout,
          .rank_stabilized = adapter.rank_stabilized,
          .frozen_a = adapter.frozen_a,
          .target_modules = adapter.target_modules,
          .seed = adapter.index_seed,
          .index_generator_version = UsesIndices(adapter.method) ? kIndexGeneratorVersion : 0,
          .artifact_dtype = DType::kF32,
          .base_model = std::move(base_model),
          .base_hash = std::move(base_hash),
          .base_config = base,
          .base_quantization = BaseQuantizationOf(spec),
          .pattern = adapter.pattern};
}

int64_t TrainableParameters(const ModelConfig& base, const AdapterSpec& adapter) {
  if (adapter.method == AdapterMethod::kFull) return ParameterCount(base);
  return TrainableParameters(adapter.method, AdaptedModules(base, adapter.placement()), adapter.frozen_a);
}

Status CheckJobSpec(const JobSpec& spec) {
  Violations violations;
  violations.Require(!spec.model.empty(), "spec.model", "is required: name a base model (sbora-client models list)");
  CheckDatasets(spec, violations);
  CheckAdapter(spec, violations);
  CheckData(spec, violations);
  violations.InRange<int64_t>("spec.resources.ranks", spec.ranks, 1, 1024);
  violations.InRange<int64_t>("spec.resources.threads", spec.threads, 0, 1024);
  CheckTraining(spec.training, std::max<int64_t>(spec.ranks, 1), violations);
  violations.InRange<int64_t>("spec.validation.validate_every_steps", spec.validate_every_steps, 0, 100'000'000);
  violations.InRange<int64_t>("spec.checkpoint.checkpoint_every_steps", spec.checkpoint_every_steps, 0, 100'000'000);
  violations.NotNegative("spec.checkpoint.checkpoint_every_seconds", spec.checkpoint_every_seconds);
  violations.Require(spec.compute_dtype != ComputeDtype::kBFloat16 || spec.device == DeviceKind::kCuda,
                     "spec.resources.compute_dtype",
                     "is COMPUTE_DTYPE_BFLOAT16, which needs DEVICE_CUDA; COMPUTE_DTYPE_AUTO takes bfloat16 on GPUs and "
                     "float32 on CPUs");
  violations.InRange<int64_t>("spec.limits.priority", spec.priority, -100, 100);
  violations.NotNegative("spec.limits.max_queue_seconds", spec.max_queue_seconds);
  violations.NotNegative("spec.limits.max_attempt_seconds", spec.max_attempt_seconds);
  violations.NotNegative("spec.limits.max_total_seconds", spec.max_total_seconds);
  return violations.Finish();
}

Status CheckHeldAs(const BaseQuantization& model, const JobSpec& spec) {
  if (model.kind == Quantization::kNone) return OkStatus();
  Violations violations;
  if (spec.adapter.method == AdapterMethod::kFull) {
    violations.Require(false, "spec.adapter.method",
                       fmt::format("is full, which trains float weights; this model's own are {}: train an adapter on it, or "
                                   "full on the plain base", Describe(model)));
    return violations.Finish();
  }
  violations.Require(spec.quantization == model.kind, "spec.quantization",
                     fmt::format("must be nf4 for this model, whose own weights are {}", Describe(model)));
  violations.Require(spec.quantization != model.kind || spec.double_quantization == model.double_quantization,
                     "spec.double_quantization", fmt::format("must be {} for this model", model.double_quantization));
  return violations.Finish();
}

Status ResolveAgainstModel(const ModelConfig& model, JobSpec& spec) {
  const int64_t context = model.max_position_embeddings;
  if (spec.data.cutoff_tokens == 0) spec.data.cutoff_tokens = std::min(kDefaultCutoffTokens, context);
  Violations violations;
  violations.Require(spec.data.cutoff_tokens <= context, "spec.data.cutoff_tokens",
                     fmt::format("is {}, the model's context is {} tokens", spec.data.cutoff_tokens, context));
  if (spec.adapter.method == AdapterMethod::kFull) return violations.Finish();  // neither rank nor targets
  const Status pattern = CheckPattern(model, spec.adapter.placement());
  for (const FieldViolation& violation : pattern.violations()) {
    violations.Require(false, "spec.adapter." + violation.field, violation.description);
  }
  CheckRanks(model, spec.adapter, violations);
  CheckSharedRanks(model, spec.adapter, violations);
  return violations.Finish();
}

}  // namespace sbora::core
