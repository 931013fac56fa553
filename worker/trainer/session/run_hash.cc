#include "worker/trainer/session/run_hash.h"

#include <nlohmann/json.hpp>

#include "common/sha256.h"

namespace sbora::trainer {

namespace {

nlohmann::json PatternJson(const core::AdapterPattern& pattern) {
  nlohmann::json json = {{"layers", pattern.layers}};
  for (const core::ModuleKey& key : pattern.single) json["single"].push_back(core::ToString(key));
  for (const auto& [key, rank] : pattern.ranks) json["ranks"][core::ToString(key)] = rank;
  for (const auto& [key, alpha] : pattern.alphas) json["alphas"][core::ToString(key)] = alpha;
  return json;
}

}  // namespace

std::string RunHash(const TrainRequest& request, const std::string& token_cache_key,
                    const std::string& validation_cache_key) {
  const auto& adapter = request.spec.adapter;
  const auto& training = request.spec.training;
  nlohmann::json indices = nlohmann::json::object();
  for (const auto& [module, index] : request.indices) indices[module] = index;
  nlohmann::json targets = nlohmann::json::array();
  for (const auto module : adapter.target_modules) targets.push_back(core::LinearModuleName(module));
  const core::BaseQuantization base = core::BaseQuantizationOf(request.spec);
  nlohmann::json run = {
      {"adapter",
       {core::AdapterMethodName(adapter.method), adapter.rank, adapter.alpha, adapter.dropout, targets,
        adapter.rank_stabilized, core::FrozenFactorName(adapter.frozen_a)}},
      {"training",
       {training.epochs, training.max_steps, training.batch_size, training.micro_batch_size, training.learning_rate,
        static_cast<int>(training.schedule), training.warmup_steps, training.weight_decay, training.beta1,
        training.beta2, training.epsilon, training.max_gradient_norm, training.seed, training.epoch_samples,
        training.group_by_length}},
      {"mixture", request.spec.dataset_weights},
      {"validation", {request.spec.validate_every_steps, request.spec.keep_best}},
      {"quantization", {static_cast<int>(base.kind), base.double_quantization}},
      {"base", request.base_hash},
      {"data", {token_cache_key, validation_cache_key}},
      {"indices", indices},
      // What the seed decides: for SBoRA the indices above, for the others A.
      {"a_seed", core::UsesIndices(adapter.method) ? uint64_t{0} : adapter.index_seed}};
  // Left out when empty, so that checkpoints from before patterns existed still fit their run.
  if (!adapter.pattern.empty()) run["pattern"] = PatternJson(adapter.pattern);
  // Only where it is not the default: checkpoints from before there was a choice keep their hash.
  if (training.optimizer != core::OptimizerKind::kAdamW) run["optimizer"] = static_cast<int>(training.optimizer);
  return Sha256Hex(run.dump());
}

}  // namespace sbora::trainer
