#include "core/r_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_set>

#include "common/status_macros.h"
#include "core/counter_rng.h"

namespace sbora::core {
namespace {

Status CheckRank(std::string_view module, int64_t dim, int64_t rank) {
  if (rank >= 1 && rank <= dim && dim <= std::numeric_limits<int32_t>::max()) return OkStatus();
  return InvalidArgument("RANK_OUT_OF_RANGE", fmt::format("rank {} of {} is outside [1, {}]", rank, module, dim))
      .WithMetadata("module", std::string(module))
      .WithMetadata("rank", std::to_string(rank))
      .WithMetadata("dim", std::to_string(dim));
}

/// Floyd's algorithm: each subset of `rank` out of [0, dim) is equally likely.
std::vector<int32_t> Subset(uint64_t seed, std::string_view module, int64_t dim, int64_t rank) {
  PhiloxStream stream(DeriveKey("sbora.r_index.v1", seed, module));
  std::unordered_set<int64_t> chosen;
  for (int64_t top = dim - rank; top < dim; ++top) {
    const auto candidate = static_cast<int64_t>(stream.Below(static_cast<uint64_t>(top) + 1));
    if (!chosen.insert(candidate).second) chosen.insert(top);
  }
  std::vector<int32_t> indices;
  indices.reserve(chosen.size());
  for (const int64_t index : chosen) indices.push_back(static_cast<int32_t>(index));
  std::sort(indices.begin(), indices.end());
  return indices;
}

}  // namespace

StatusOr<std::vector<int32_t>> DrawIndices(uint64_t seed, std::string_view module_name, int64_t dim, int64_t rank) {
  SBORA_RETURN_IF_ERROR(CheckRank(module_name, dim, rank));
  return Subset(seed, module_name, dim, rank);
}

StatusOr<std::vector<int32_t>> DrawIndicesAvoiding(uint64_t seed, std::string_view module_name, int64_t dim,
                                                   int64_t rank, std::span<const int32_t> forbidden) {
  SBORA_RETURN_IF_ERROR(CheckRank(module_name, dim, rank));
  std::vector<int32_t> taken(forbidden.begin(), forbidden.end());
  std::sort(taken.begin(), taken.end());
  taken.erase(std::unique(taken.begin(), taken.end()), taken.end());
  if (!taken.empty() && (taken.front() < 0 || taken.back() >= dim)) {
    return InvalidArgument("INDEX_OUT_OF_RANGE", fmt::format("forbidden index {} of {} is outside [0, {})",
                                                             taken.front() < 0 ? taken.front() : taken.back(),
                                                             module_name, dim));
  }
  const int64_t capacity = dim - static_cast<int64_t>(taken.size());
  if (rank > capacity) {
    return ResourceExhausted("REGION_EXHAUSTED",
                             fmt::format("{} has {} of {} indices free, rank {} needs more; lower the rank or delete "
                                         "adapters that hold regions of this base",
                                         module_name, capacity, dim, rank))
        .WithMetadata("module", std::string(module_name))
        .WithMetadata("dim", std::to_string(dim))
        .WithMetadata("capacity", std::to_string(capacity))
        .WithMetadata("rank", std::to_string(rank));
  }
  // Draw ranks among the free indices, then shift each past the taken ones below it.
  std::vector<int32_t> indices = Subset(seed, module_name, capacity, rank);
  size_t below = 0;
  for (int32_t& index : indices) {
    while (below < taken.size() && taken[below] <= index + static_cast<int32_t>(below)) ++below;
    index += static_cast<int32_t>(below);
  }
  return indices;
}

Status CheckIndices(std::span<const int32_t> indices, std::string_view module_name, int64_t dim) {
  SBORA_RETURN_IF_ERROR(CheckRank(module_name, dim, static_cast<int64_t>(indices.size())));
  for (size_t i = 0; i < indices.size(); ++i) {
    if (indices[i] < 0 || indices[i] >= dim) {
      return InvalidArgument("INDEX_OUT_OF_RANGE", fmt::format("{}: index[{}]={} is outside [0, {})", module_name, i,
                                                               indices[i], dim));
    }
    if (i > 0 && indices[i] <= indices[i - 1]) {
      return InvalidArgument("INDEX_NOT_ASCENDING", fmt::format("{}: index[{}]={} does not follow {}", module_name, i,
                                                                indices[i], indices[i - 1]));
    }
  }
  return OkStatus();
}

}  // namespace sbora::core
