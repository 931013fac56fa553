#include "server/store/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "common/sha256.h"

namespace sbora::server {

std::string_view WorkKindName(WorkKind kind) {
  switch (kind) {
    case WorkKind::kTrain: return "train";
    case WorkKind::kEvaluate: return "evaluate";
    case WorkKind::kGenerate: return "generate";
    case WorkKind::kImport: return "import";
    case WorkKind::kMerge: return "merge";
    case WorkKind::kExport: return "export";
  }
  return "unknown";
}

std::string_view DeviceKindName(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::kAuto: return "auto";
    case DeviceKind::kCpu: return "cpu";
    case DeviceKind::kCuda: return "cuda";
  }
  return "unknown";
}

std::string_view ResourceKindName(ResourceKind kind) {
  switch (kind) {
    case ResourceKind::kModel: return "model";
    case ResourceKind::kDataset: return "dataset";
    case ResourceKind::kAdapter: return "adapter";
  }
  return "unknown";
}

int64_t ChangeTag(std::string_view uid, int64_t generation) {
  const std::string digest = Sha256Hex(fmt::format("{}\n{}", uid, generation));
  int64_t tag = 0;
  std::from_chars(digest.data(), digest.data() + 15, tag, 16);  // 60 bits: never negative
  return std::max<int64_t>(tag, 1);
}

}  // namespace sbora::server
