#include "worker/trainer/tasks/merge.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/nf4_merge.h"
#include "core/nf4_patch.h"
#include "core/patch.h"
#include "worker/trainer/ops/nf4_codec.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

StatusOr<bool> TrainedOnNf4(const std::filesystem::path& adapter_dir) {
  SBORA_ASSIGN_OR_RETURN(const auto adapter, core::AdapterFolder::Open(adapter_dir));
  return adapter.config().base_quantization.kind == core::Quantization::kNf4;
}

/// The model itself when it is in NF4, else the form of it that was made for the task.
StatusOr<std::filesystem::path> Nf4Dir(const MergeBase& base) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(base.model_dir / "config.json", kMaxConfigBytes));
  if (core::IsNf4Config(text)) return base.model_dir;
  if (!base.nf4_dir.empty()) return base.nf4_dir;
  return FailedPrecondition("NF4_BASE_MISSING", fmt::format("{} is needed in NF4 and no such folder was given",
                                                            base.model_dir.string()));
}

}  // namespace

StatusOr<core::ExportedFolder> Merge(MergeRequest request) {
  bool nf4 = request.into == MergeTarget::kNf4;
  for (const core::AdapterToMerge& adapter : request.adapters) {
    SBORA_ASSIGN_OR_RETURN(const bool trained_so, TrainedOnNf4(adapter.dir));
    nf4 = nf4 || trained_so;
  }
  const MergeBase& base = request.base;
  if (!nf4) return core::MergeAdapters(base.model_dir, std::move(request.adapters), request.output_dir, request.options);
  SBORA_ASSIGN_OR_RETURN(const std::filesystem::path nf4_dir, Nf4Dir(base));
  const core::Nf4Codec codec = MakeNf4Codec(base.threads);
  if (request.into == MergeTarget::kFloat) {
    return core::MergeDequantized(nf4_dir, base.model_dir, std::move(request.adapters), request.output_dir, codec,
                                  request.options);
  }
  return core::MergeIntoNf4({nf4_dir, base.model_dir}, std::move(request.adapters), request.output_dir, codec,
                            request.options);
}

StatusOr<core::ExportedFolder> WritePatch(const MergeBase& base, const std::filesystem::path& adapter_dir,
                                          const std::filesystem::path& output_dir, const core::MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const bool nf4, TrainedOnNf4(adapter_dir));
  if (!nf4) return core::ExportPatch(base.model_dir, adapter_dir, output_dir, options);
  SBORA_ASSIGN_OR_RETURN(const std::filesystem::path nf4_dir, Nf4Dir(base));
  return core::ExportNf4Patch(nf4_dir, adapter_dir, output_dir, MakeNf4Codec(base.threads), options);
}

}  // namespace sbora::trainer
