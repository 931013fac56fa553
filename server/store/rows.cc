#include "server/store/rows.h"

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

}  // namespace sbora::server
