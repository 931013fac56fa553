/// Checks and errors that every object store of this folder shares.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "common/status.h"
#include "common/storage/object_store.h"

namespace sbora {

inline constexpr uint64_t kMaxRangeBytes = 1ULL << 30;
inline constexpr uint32_t kMaxListObjects = 10'000;
inline constexpr std::chrono::hours kMaxPresignTtl{7 * 24};  // the limit of S3's signatures

Status CheckRange(std::string_view key, uint64_t length);
Status CheckList(std::string_view prefix, const ListOptions& options);
Status CheckTtl(std::chrono::seconds ttl);
Status ObjectTooLarge(std::string_view key, uint64_t size, uint64_t max_bytes);
Status UploadFinished();

}  // namespace sbora
