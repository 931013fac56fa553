/// Drawing of SBoRA's index vectors ("regions"): which r of a module's inputs (FA) or outputs (FB) are trained.
///
/// Drawn once, when a job is accepted, and stored with it. A draw is a pure function of (version, seed, module name,
/// dim, rank): Philox4x32-10 keyed by DeriveKey("sbora.r_index.v1", seed, module), Floyd's algorithm for a uniform
/// subset. Indices are distinct, ascending, in [0, dim), and always mean HF rows and columns.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::core {

/// Raised whenever the same arguments would give other indices; stored in every adapter.
inline constexpr int32_t kIndexGeneratorVersion = 1;

/// `module_name` as ModulePath gives it.
/// Errors: INVALID_ARGUMENT RANK_OUT_OF_RANGE unless 1 <= rank <= dim <= 2^31-1, naming module and values.
StatusOr<std::vector<int32_t>> DrawIndices(uint64_t seed, std::string_view module_name, int64_t dim, int64_t rank);

/// As DrawIndices, but avoiding `forbidden` (any order, duplicates allowed, each in [0, dim)). With nothing forbidden it
/// equals DrawIndices.
/// Errors: also RESOURCE_EXHAUSTED REGION_EXHAUSTED (metadata module, dim, capacity, rank) when fewer than `rank` are
/// free; INVALID_ARGUMENT INDEX_OUT_OF_RANGE for a bad forbidden index.
StatusOr<std::vector<int32_t>> DrawIndicesAvoiding(uint64_t seed, std::string_view module_name, int64_t dim,
                                                   int64_t rank, std::span<const int32_t> forbidden);

/// Checks an index vector from outside: size in [1, dim], ascending and distinct, in range.
/// Errors: INVALID_ARGUMENT INDEX_OUT_OF_RANGE, INDEX_NOT_ASCENDING, naming module, position and value.
Status CheckIndices(std::span<const int32_t> indices, std::string_view module_name, int64_t dim);

}  // namespace sbora::core
