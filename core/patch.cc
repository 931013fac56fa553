#include "core/patch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/merge.h"
#include "core/model_folder.h"
#include "core/model_rewrite.h"
#include "core/model_writer.h"
#include "core/nf4_patch.h"
#include "core/r_index.h"
#include "core/region.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kVersion = "1";
constexpr std::string_view kIndexSuffix = ".patch_index";
constexpr std::string_view kNewSuffix = ".patch_new";
constexpr std::string_view kOldSuffix = ".patch_old";
constexpr std::string_view kWeightSuffix = ".weight";

/// Where the values of a patch lie in a weight: runs of bytes, in the order of the patch's tensor.
/// Columns (FA): row by row, one element for each index. Rows (FB): one whole row for each index.
struct Placement {
  RegionAxis axis = RegionAxis::kInput;
  std::vector<int32_t> indices;

  template <typename Visit>  // visit(offset in the weight, offset in the patch, bytes)
  void ForEachRun(const TensorView& weight, const Visit& visit) const {
    const auto size = static_cast<size_t>(DTypeSize(weight.dtype));
    const auto rows = static_cast<size_t>(weight.shape[0]);
    const size_t row_bytes = static_cast<size_t>(weight.shape[1]) * size;
    size_t at = 0;
    if (axis == RegionAxis::kOutput) {
      for (const int32_t row : indices) {
        visit(static_cast<size_t>(row) * row_bytes, at, row_bytes);
        at += row_bytes;
      }
      return;
    }
    for (size_t row = 0; row < rows; ++row) {
      for (const int32_t column : indices) {
        visit(row * row_bytes + static_cast<size_t>(column) * size, at, size);
        at += size;
      }
    }
  }

  std::vector<int64_t> ShapeOfValues(const std::vector<int64_t>& weight) const {
    const auto rank = static_cast<int64_t>(indices.size());
    return axis == RegionAxis::kInput ? std::vector<int64_t>{weight[0], rank} : std::vector<int64_t>{rank, weight[1]};
  }
};

std::vector<std::byte> Gather(const Placement& placement, const TensorView& weight, std::span<const std::byte> bytes) {
  const std::vector<int64_t> shape = placement.ShapeOfValues(weight.shape);
  std::vector<std::byte> values(static_cast<size_t>(shape[0] * shape[1] * DTypeSize(weight.dtype)));
  placement.ForEachRun(weight, [&](size_t from, size_t to, size_t count) {
    std::memcpy(values.data() + to, bytes.data() + from, count);
  });
  return values;
}

Status Malformed(const fs::path& path, std::string_view what) {
  return InvalidArgument("PATCH_MALFORMED", fmt::format("{}: {}", path.string(), what));
}

/// `path`, or the file in it.
StatusOr<fs::path> PatchFile(const fs::path& path) {
  std::error_code ec;
  const fs::path file = fs::is_directory(path, ec) ? path / kPatchFile : path;
  if (fs::exists(file, ec)) return file;
  return NotFound("PATCH_FILE_MISSING", fmt::format("{} does not exist", file.string()));
}

/// A patch file opened and checked against itself.
class Patch {
 public:
  static StatusOr<Patch> Open(const fs::path& file) {
    SBORA_ASSIGN_OR_RETURN(SafetensorsFile tensors, SafetensorsFile::Open(file));
    Patch patch(std::move(tensors));
    SBORA_RETURN_IF_ERROR(patch.ReadMetadata());
    SBORA_RETURN_IF_ERROR(patch.ReadModules());
    return patch;
  }

  const std::string& base_hash() const { return base_hash_; }
  const std::string& patched_hash() const { return patched_hash_; }

  /// The edits that put the new values in, or the old ones back. They borrow this object. Errors: FAILED_PRECONDITION
  /// BASE_HASH_MISMATCH when the model lacks a module or has it in another shape or dtype.
  StatusOr<TensorEdits> EditsFor(const ModelFolder& model, std::string_view suffix) const {
    TensorEdits edits;
    for (const auto& [module, placement] : modules_) {
      const StatusOr<TensorView> weight = model.Tensor(module + std::string(kWeightSuffix));
      SBORA_ASSIGN_OR_RETURN(const TensorView values, file_.Tensor(module + std::string(suffix)));
      const bool fits = weight.ok() && weight->shape.size() == 2 && weight->dtype == values.dtype &&
                        values.shape == placement.ShapeOfValues(weight->shape) &&
                        placement.indices.back() < weight->shape[axis_ == RegionAxis::kInput ? 1 : 0];
      if (!fits) {
        return FailedPrecondition("BASE_HASH_MISMATCH",
                                  fmt::format("{} does not fit {} of {}: it is of another base", file_.path().string(),
                                              module, model.dir().string()));
      }
      edits[module + std::string(kWeightSuffix)] = [&placement, values](const TensorView& view,
                                                                        std::span<std::byte> bytes) {
        placement.ForEachRun(view, [&](size_t to, size_t from, size_t count) {
          std::memcpy(bytes.data() + to, values.data.data() + from, count);
        });
        return OkStatus();
      };
    }
    return edits;
  }

 private:
  explicit Patch(SafetensorsFile file) : file_(std::move(file)) {}

  Status ReadMetadata() {
    const auto get = [this](const char* key) {
      const auto found = file_.metadata().find(key);
      return found == file_.metadata().end() ? std::string() : found->second;
    };
    if (get("sbora_patch") != kVersion) {
      return Malformed(file_.path(),
                       fmt::format("sbora_patch is \"{}\", this program reads {}", get("sbora_patch"), kVersion));
    }
    const std::string axis = get("axis");
    if (axis != "input" && axis != "output") return Malformed(file_.path(), "axis must be input or output");
    axis_ = axis == "input" ? RegionAxis::kInput : RegionAxis::kOutput;
    base_hash_ = get("base_hash");
    patched_hash_ = get("patched_hash");
    if (IsSha256Hex(base_hash_) && IsSha256Hex(patched_hash_)) return OkStatus();
    return Malformed(file_.path(), "base_hash or patched_hash is no SHA-256");
  }

  Status ReadModules() {
    for (const TensorView& view : file_.tensors()) {
      if (!view.name.ends_with(kIndexSuffix)) continue;
      const std::string module = view.name.substr(0, view.name.size() - kIndexSuffix.size());
      if (view.dtype != DType::kI32 || view.shape.size() != 1)
        return Malformed(file_.path(), view.name + " must be I32 [r]");
      Placement placement{.axis = axis_, .indices = std::vector<int32_t>(static_cast<size_t>(view.elements()))};
      if (view.elements() > 0) std::memcpy(placement.indices.data(), view.data.data(), view.data.size());
      // Against the weight's own width once the model is there.
      const Status ascending = CheckIndices(placement.indices, view.name, std::numeric_limits<int32_t>::max());
      if (!ascending.ok()) return Malformed(file_.path(), ascending.message());
      modules_.emplace_back(module, std::move(placement));
    }
    if (modules_.empty() || file_.tensors().size() != 3 * modules_.size()) {
      return Malformed(file_.path(), "each module must have patch_index, patch_new and patch_old");
    }
    for (const auto& [module, placement] : modules_) {
      const StatusOr<TensorView> now = file_.Tensor(module + std::string(kNewSuffix));
      const StatusOr<TensorView> before = file_.Tensor(module + std::string(kOldSuffix));
      if (now.ok() && before.ok() && now->shape == before->shape && now->dtype == before->dtype) continue;
      return Malformed(file_.path(), module + " must have patch_new and patch_old of one shape and dtype");
    }
    return OkStatus();
  }

  SafetensorsFile file_;
  RegionAxis axis_ = RegionAxis::kInput;
  std::string base_hash_;
  std::string patched_hash_;
  std::vector<std::pair<std::string, Placement>> modules_;
};

Status WrongBase(const std::string& expected, const std::string& found, const fs::path& model) {
  return FailedPrecondition("BASE_HASH_MISMATCH",
                            fmt::format("the patch is for base {}, {} is base {}", expected, model.string(), found))
      .WithMetadata("expected", expected)
      .WithMetadata("found", found);
}

/// Both directions: from the weights of hash `from` to those of hash `to` with the values of `suffix`.
struct Direction {
  std::string_view suffix;
  std::string from;
  std::string to;
};

StatusOr<ExportedFolder> Overwrite(const fs::path& model_dir, const Patch& patch, const Direction& direction,
                                   const Status& wrong_model, const fs::path& out_dir, const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const ModelFolder model, ModelFolder::Open(model_dir));
  SBORA_ASSIGN_OR_RETURN(const TensorEdits edits, patch.EditsFor(model, direction.suffix));
  SBORA_ASSIGN_OR_RETURN(const WeightHashes hashes, HashBeforeAndAfter(model, edits, {options.progress, options.cancelled}));
  if (hashes.before != direction.from) return wrong_model.WithMetadata("found", hashes.before);
  if (hashes.after != direction.to) {
    return DataLoss("PATCH_CORRUPT",
                    fmt::format("the patch promises weights of hash {}, its values give {}; fetch it again",
                                direction.to, hashes.after));
  }
  return RewriteModel(model, edits, out_dir, {options.progress, options.cancelled});
}

/// What the patch of one adapter holds, tensor by tensor in the order of the file.
class PatchWriter {
 public:
  PatchWriter(const ModelFolder& base, const AdapterFolder& adapter)
      : base_(base), adapter_(adapter), edits_(EditsOf({{&adapter, 1.0}})) {}

  StatusOr<ExportedFolder> Write(const fs::path& out_dir, const MergeOptions& options) {
    const AdapterConfig& config = adapter_.config();
    SBORA_ASSIGN_OR_RETURN(const WeightHashes hashes, HashBeforeAndAfter(base_, edits_, {options.progress, options.cancelled}));
    if (hashes.before != config.base_hash) return WrongBase(config.base_hash, hashes.before, base_.dir());
    SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
    SBORA_ASSIGN_OR_RETURN(const RegionSet regions, RegionsOf(adapter_));
    std::vector<TensorSpec> specs;
    for (const Region& region : regions) {
      SBORA_ASSIGN_OR_RETURN(const TensorView weight, base_.Tensor(region.module + std::string(kWeightSuffix)));
      const auto shape = PlacementOf(region).ShapeOfValues(weight.shape);
      specs.push_back({region.module + std::string(kIndexSuffix), DType::kI32, {std::ssize(region.indices)}});
      specs.push_back({region.module + std::string(kNewSuffix), weight.dtype, shape});
      specs.push_back({region.module + std::string(kOldSuffix), weight.dtype, shape});
    }
    SBORA_ASSIGN_OR_RETURN(auto writer,
                           SafetensorsWriter::Create(out_dir / kPatchFile, std::move(specs),
                                                     {{"format", "pt"},
                                                      {"sbora_patch", std::string(kVersion)},
                                                      {"axis", std::string(RegionAxisName(AxisOf(config.method)))},
                                                      {"method", std::string(AdapterMethodName(config.method))},
                                                      {"base_model", config.base_model},
                                                      {"base_hash", hashes.before},
                                                      {"patched_hash", hashes.after}}));
    int64_t done = 0;
    for (const Region& region : regions) {
      if (options.cancelled && options.cancelled()) return Cancelled("CANCELLED", "cancelled while writing the patch");
      SBORA_RETURN_IF_ERROR(AppendModule(region, writer));
      if (options.progress) options.progress(++done, std::ssize(regions));
    }
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, writer.Finish());
    return ExportedFolder{.files = {file}, .total_bytes = file.size_bytes};
  }

 private:
  static Placement PlacementOf(const Region& region) { return {.axis = region.axis, .indices = region.indices}; }

  Status AppendModule(const Region& region, SafetensorsWriter& writer) {
    const std::string name = region.module + std::string(kWeightSuffix);
    SBORA_ASSIGN_OR_RETURN(const TensorView weight, base_.Tensor(name));
    std::vector<std::byte> merged(weight.data.begin(), weight.data.end());
    SBORA_RETURN_IF_ERROR(edits_.at(name)(weight, merged));
    const Placement placement = PlacementOf(region);
    SBORA_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(region.indices))));
    SBORA_RETURN_IF_ERROR(writer.Append(Gather(placement, weight, merged)));
    return writer.Append(Gather(placement, weight, weight.data));
  }

  const ModelFolder& base_;
  const AdapterFolder& adapter_;
  const TensorEdits edits_;
};

}  // namespace

StatusOr<ExportedFolder> ExportPatch(const fs::path& base_dir, const fs::path& adapter_dir, const fs::path& out_dir,
                                     const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const AdapterFolder adapter, AdapterFolder::Open(adapter_dir));
  SBORA_RETURN_IF_ERROR(CheckMergeable("the adapter", adapter.config()));
  if (!UsesIndices(adapter.config().method)) return NoPatchOf(adapter.config().method);
  SBORA_ASSIGN_OR_RETURN(const ModelFolder base, ModelFolder::Open(base_dir));
  return PatchWriter(base, adapter).Write(out_dir, options);
}

Status NoPatchOf(AdapterMethod method) {
  return FailedPrecondition("EXPORT_METHOD", fmt::format("{} changes all weights of its targets, so a patch would be as large "
                                                         "as they are; merge the adapter instead",
                                                         AdapterMethodName(method)));
}

StatusOr<ExportedFolder> ApplyPatch(const fs::path& model_dir, const fs::path& patch_path, const fs::path& out_dir,
                                    const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const fs::path file, PatchFile(patch_path));
  SBORA_ASSIGN_OR_RETURN(const bool nf4, IsNf4Patch(file));
  if (nf4) return ApplyNf4Patch(model_dir, file, out_dir, options);
  SBORA_ASSIGN_OR_RETURN(const Patch patch, Patch::Open(file));
  const Status wrong =
      FailedPrecondition("BASE_HASH_MISMATCH",
                         fmt::format("the patch is for the base of hash {}, {} holds other weights (it may be "
                                     "patched already)",
                                     patch.base_hash(), model_dir.string()))
          .WithMetadata("expected", patch.base_hash());
  return Overwrite(model_dir, patch, {kNewSuffix, patch.base_hash(), patch.patched_hash()}, wrong, out_dir, options);
}

StatusOr<ExportedFolder> ReversePatch(const fs::path& model_dir, const fs::path& patch_path, const fs::path& out_dir,
                                      const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const fs::path file, PatchFile(patch_path));
  SBORA_ASSIGN_OR_RETURN(const bool nf4, IsNf4Patch(file));
  if (nf4) return ReverseNf4Patch(model_dir, file, out_dir, options);
  SBORA_ASSIGN_OR_RETURN(const Patch patch, Patch::Open(file));
  const Status wrong =
      FailedPrecondition("PATCH_NOT_APPLIED",
                         fmt::format("{} is not the base with this patch applied (hash {}); only that can be "
                                     "taken back",
                                     model_dir.string(), patch.patched_hash()))
          .WithMetadata("expected", patch.patched_hash());
  return Overwrite(model_dir, patch, {kOldSuffix, patch.patched_hash(), patch.base_hash()}, wrong, out_dir, options);
}

}  // namespace sbora::core
