#include "client/compare_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "client/evaluation_tasks.h"
#include "client/spec_fields.h"
#include "common/check.h"
#include "common/ids.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/proto/convert.h"
#include "core/proto/stable_bytes.h"

namespace sbora::client {
namespace {

Status Usage(std::string message) { return InvalidArgument("USAGE", std::move(message)); }

std::string MethodName(const v1::FineTuningSpec& spec) {
  std::string name = EnumShortName(*v1::Method_descriptor()->FindValueByNumber(spec.adapter().method()));
  if (spec.quantization() > v1::QUANTIZATION_NONE) {
    name += "+" + EnumShortName(*v1::Quantization_descriptor()->FindValueByNumber(spec.quantization()));
  }
  return name;
}

void AddNote(ComparePlan& plan, std::string note) {
  if (std::find(plan.notes.begin(), plan.notes.end(), note) == plan.notes.end()) plan.notes.push_back(std::move(note));
}

/// The job's spec with this method; options of other methods left out.
StatusOr<v1::FineTuningSpec> SpecOf(const v1::FineTuningSpec& job, const std::string& method, ComparePlan& plan) {
  v1::FineTuningSpec spec = job;
  if (const Status status = SetField(spec, "adapter.method", method); !status.ok()) {
    return Usage(fmt::format("--methods: {}", status.message()));
  }
  v1::AdapterSpec& adapter = *spec.mutable_adapter();
  if (adapter.method() != v1::METHOD_LORA && adapter.frozen_a() > v1::FROZEN_FACTOR_NONE) {
    adapter.clear_frozen_a();
    AddNote(plan, "frozen_a holds for lora alone");
  }
  if (adapter.method() != v1::METHOD_SBORA_FA && adapter.share_indices()) {
    adapter.clear_share_indices();
    AddNote(plan, "share_indices holds for sbora_fa alone");
  }
  if (adapter.method() == v1::METHOD_FULL && adapter.dropout() > 0) {
    adapter.clear_dropout();
    AddNote(plan, "dropout holds for adapters alone: full trains without");
  }
  return spec;
}

/// The spec as core reads it, when it is one of this model.
std::optional<core::JobSpec> ResolvedSpec(const v1::FineTuningSpec& spec, const core::ModelConfig& model) {
  auto parsed = core::ParseSpec(spec);
  if (!parsed.ok() || !core::ResolveAgainstModel(model, *parsed).ok()) return std::nullopt;
  return *std::move(parsed);
}

/// Another rank at the same scale (core::AdapterScale).
void SetRank(const core::AdapterSpec& from, int64_t rank, v1::AdapterSpec& adapter) {
  const double ratio = static_cast<double>(rank) / static_cast<double>(from.rank);
  const double factor = from.rank_stabilized ? std::sqrt(ratio) : ratio;
  adapter.set_rank(static_cast<int32_t>(rank));
  adapter.set_alpha(from.alpha * factor);
  for (auto& [key, alpha] : *adapter.mutable_alpha_pattern()) alpha *= factor;
}

/// Takes rank, alpha and count from what core reads.
void Describe(const core::ModelConfig& model, MethodPlan& method) {
  const auto resolved = ResolvedSpec(method.spec, model);
  if (resolved) method.trainable_parameters = core::TrainableParameters(model, resolved->adapter);
  if (method.spec.adapter().method() == v1::METHOD_FULL) return;
  if (resolved) {
    method.rank = resolved->adapter.rank;
    method.alpha = resolved->adapter.alpha;
  } else {
    method.rank = method.spec.adapter().rank();
    method.alpha = method.spec.adapter().alpha();
  }
}

Status MatchParameters(const core::ModelConfig& model, ComparePlan& plan) {
  const MethodPlan* reference = nullptr;
  for (MethodPlan& method : plan.methods) {
    if (method.spec.adapter().rank_pattern_size() > 0) {
      return Usage("--match-parameters chooses one rank for all modules; leave rank_pattern out, or compare at equal ranks");
    }
    const auto resolved = ResolvedSpec(method.spec, model);
    if (method.rank == 0 || !resolved) continue;
    if (reference == nullptr) {
      reference = &method;
      continue;
    }
    SetRank(resolved->adapter, MatchRank(model, resolved->adapter, reference->trainable_parameters), *method.spec.mutable_adapter());
    Describe(model, method);
    if (method.trainable_parameters == reference->trainable_parameters) continue;
    plan.notes.push_back(fmt::format(
        "{} at rank {} trains {} parameters, the nearest to {}'s {} ({:+.2f} %)", method.method, method.rank,
        method.trainable_parameters, reference->method, reference->trainable_parameters,
        100.0 * (static_cast<double>(method.trainable_parameters) / static_cast<double>(reference->trainable_parameters) - 1)));
  }
  const bool full = std::any_of(plan.methods.begin(), plan.methods.end(), [](const MethodPlan& m) { return m.rank == 0; });
  if (full) plan.notes.push_back("full has no rank to match: it trains every weight");
  return OkStatus();
}

std::string RunId(const ComparePlan& plan, const MethodPlan& method, size_t seed) {
  std::string id = fmt::format("{}-{}", plan.name, method.method);
  std::replace_if(id.begin(), id.end(), [](char c) { return c == '_' || c == '+'; }, '-');
  if (method.rank > 0) id += fmt::format("-r{}", method.rank);
  return id + fmt::format("-s{}", plan.seeds[seed]);
}

v1::FineTuningSpec RunSpec(const ComparePlan& plan, const MethodPlan& method, size_t seed) {
  v1::FineTuningSpec spec = method.spec;
  spec.mutable_training()->set_seed(plan.seeds[seed]);
  spec.mutable_adapter()->set_index_seed(plan.index_seeds[seed]);
  return spec;
}

void PlanSeeds(const CompareOptions& options, ComparePlan& plan) {
  const uint64_t first = options.spec.training().has_seed() ? options.spec.training().seed() : core::TrainingSpec().seed;
  const uint64_t first_index =
      options.spec.adapter().has_index_seed() ? options.spec.adapter().index_seed() : first + kIndexSeedOffset;
  for (uint64_t k = 0; k < static_cast<uint64_t>(options.seeds); ++k) {
    plan.seeds.push_back(first + k);
    plan.index_seeds.push_back(first_index + k);
  }
}

}  // namespace

int64_t MatchRank(const core::ModelConfig& model, core::AdapterSpec adapter, int64_t wanted) {
  SBORA_CHECK(adapter.method != core::AdapterMethod::kFull && adapter.pattern.ranks.empty(), "{} has no rank to match",
              core::AdapterMethodName(adapter.method));
  int64_t limit = std::numeric_limits<int32_t>::max();
  for (const core::AdaptedModule& each : core::AdaptedModules(model, adapter.placement())) {
    limit = std::min(limit, core::MaxRank(adapter.method, each.shape));
  }
  const auto count = [&](int64_t rank) {
    adapter.rank = rank;
    return core::TrainableParameters(model, adapter);
  };
  int64_t low = 1;  // the largest rank known not to exceed, once the loop ends
  int64_t high = limit;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (count(middle) <= wanted) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  if (low == limit || wanted <= count(low)) return low;
  return count(low + 1) - wanted < wanted - count(low) ? low + 1 : low;
}

StatusOr<ComparePlan> PlanComparison(const CompareOptions& options, const core::ModelConfig& model) {
  if (options.methods.empty()) return Usage("--methods names none; for example --methods sbora_fa,sbora_fb,lora,dora");
  if (options.seeds < 1 || options.seeds > kMaxSeeds) {
    return Usage(fmt::format("--seeds is {}, must be from 1 to {}", options.seeds, kMaxSeeds));
  }
  ComparePlan plan;
  PlanSeeds(options, plan);
  for (const std::string& method : options.methods) {
    SBORA_ASSIGN_OR_RETURN(v1::FineTuningSpec spec, SpecOf(options.spec, method, plan));
    MethodPlan planned{.method = MethodName(spec), .spec = std::move(spec)};
    const auto same = [&](const MethodPlan& other) { return other.method == planned.method; };
    if (std::any_of(plan.methods.begin(), plan.methods.end(), same)) {
      return Usage(fmt::format("--methods names {} twice", planned.method));
    }
    Describe(model, planned);
    plan.methods.push_back(std::move(planned));
  }
  if (options.match_parameters) SBORA_RETURN_IF_ERROR(MatchParameters(model, plan));
  // Methods and seeds are not in it: one more of them finds the runs that are there.
  v1::FineTuningSpec common = options.spec;
  common.mutable_adapter()->clear_method();
  plan.name = options.name.empty() ? fmt::format("cmp-{}", Sha256Hex(core::StableBytes(common)).substr(0, 8)) : options.name;
  for (const MethodPlan& method : plan.methods) {
    SBORA_RETURN_IF_ERROR(CheckResourceId(RunId(plan, method, plan.seeds.size() - 1), "--name with a method and seed"));
  }
  return plan;
}

std::string RunDigest(const v1::FineTuningSpec& spec) { return Sha256Hex(core::StableBytes(spec)).substr(0, 32); }

v1::CreateFineTuningJobRequest RunRequest(const ComparePlan& plan, const MethodPlan& method, size_t seed, int attempt) {
  v1::CreateFineTuningJobRequest request;
  request.set_fine_tuning_job_id(RunId(plan, method, seed));
  v1::FineTuningJob& job = *request.mutable_fine_tuning_job();
  *job.mutable_spec() = RunSpec(plan, method, seed);
  (*job.mutable_labels())["sbora-compare"] = plan.name;
  (*job.mutable_labels())[std::string(kRunLabel)] = RunDigest(job.spec());
  request.set_request_id(DeriveUuid(fmt::format("job\n{}\n{}\n{}", request.fine_tuning_job_id(), attempt, core::StableBytes(job))));
  return request;
}

StatusOr<EvaluationPlan> PlanEvaluation(std::string_view text, const v1::FineTuningSpec& job) {
  EvaluationPlan plan{.title = std::string(text), .spec = {}};
  const size_t equals = text.find('=');
  if (equals != std::string_view::npos) {
    SBORA_ASSIGN_OR_RETURN(const EvaluationTask task, FindEvaluationTask(text.substr(0, equals)));
    plan.spec = task.spec;
    text.remove_prefix(equals + 1);
  } else {
    plan.spec.set_prompt_template(job.data().prompt_template());
    plan.spec.set_exact_match(true);
    plan.spec.set_perplexity(true);
  }
  if (text.empty()) return Usage(fmt::format("--evaluate {}: names no data set; write TASK=DATASET or DATASET", plan.title));
  plan.spec.set_dataset(std::string(text));
  if (job.resources().has_threads()) plan.spec.set_threads(job.resources().threads());
  plan.spec.set_device(job.resources().device());
  return plan;
}

v1::CreateEvaluationJobRequest EvaluationRequest(const ComparePlan& plan, const v1::EvaluationSpec& spec,
                                                 std::string_view subject_uid, int attempt) {
  v1::CreateEvaluationJobRequest request;
  *request.mutable_evaluation_job()->mutable_spec() = spec;
  const std::string digest = Sha256Hex(fmt::format("{}\n{}", subject_uid, core::StableBytes(spec)));
  request.set_evaluation_job_id(fmt::format("{}-eval-{}", plan.name, digest.substr(0, 12)));
  request.set_request_id(DeriveUuid(fmt::format("evaluation\n{}\n{}\n{}", plan.name, attempt, digest)));
  return request;
}

std::string DeriveUuid(std::string_view content) {
  std::string hex = Sha256Hex(content).substr(0, 32);
  hex[12] = '4';                                                    // the version
  hex[16] = "89ab"[static_cast<size_t>(hex[16]) % 4];               // the variant
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4), hex.substr(20));
}

}  // namespace sbora::client
