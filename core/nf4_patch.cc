#include "core/nf4_patch.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/patch.h"
#include "core/r_index.h"
#include "core/region.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kVersion = "2";
constexpr std::string_view kIndexSuffix = ".patch_index";

enum class Side { kOld, kNew };

std::string Name(const std::string& module, Side side, std::string_view part) {
  return fmt::format("{}.patch_{}_{}", module, side == Side::kOld ? "old" : "new", part);
}

Status Malformed(const fs::path& path, std::string_view what) {
  return InvalidArgument("PATCH_MALFORMED", fmt::format("{}: {}", path.string(), what));
}

template <typename T>
std::span<const std::byte> Bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

/// One side of one module: what is kept aside, and the codes of the patch's rows.
struct Slice {
  std::vector<int32_t> row_index;
  std::vector<float> row_scales;
  std::vector<int32_t> column_index;
  std::vector<float> columns;
  std::vector<uint8_t> codes;
};

Slice SliceOf(const Nf4Parts& parts, const ModuleShape& shape, const std::vector<int32_t>& rows) {
  Slice slice{parts.row_index, parts.row_scales, parts.column_index, parts.columns, {}};
  for (const int32_t row : rows) {
    const std::vector<uint8_t> codes = Nf4RowCodes(parts, shape, row);
    slice.codes.insert(slice.codes.end(), codes.begin(), codes.end());
  }
  return slice;
}

/// The tensors of a side, in the order of the file.
std::vector<TensorToWrite> TensorsOf(const std::string& module, Side side, const Slice& slice, const ModuleShape& shape,
                                     int64_t rank) {
  std::vector<TensorToWrite> tensors;
  const auto rows = std::ssize(slice.row_index);
  const auto columns = std::ssize(slice.column_index);
  if (rows > 0) {
    tensors.push_back({{Name(module, side, "row_index"), DType::kI32, {rows}}, Bytes(slice.row_index)});
    tensors.push_back({{Name(module, side, "row_scales"), DType::kF32, {rows, std::ssize(slice.row_scales) / rows}},
                       Bytes(slice.row_scales)});
  }
  if (columns > 0) {
    tensors.push_back({{Name(module, side, "column_index"), DType::kI32, {columns}}, Bytes(slice.column_index)});
    tensors.push_back({{Name(module, side, "columns"), DType::kF32, {shape.out_features, columns}}, Bytes(slice.columns)});
  }
  if (!slice.codes.empty()) {
    tensors.push_back({{Name(module, side, "codes"), DType::kU8, {rank, (shape.in_features + 1) / 2}}, Bytes(slice.codes)});
  }
  return tensors;
}

/// A patch file opened and checked against itself.
class Nf4Patch {
 public:
  static StatusOr<Nf4Patch> Open(const fs::path& file) {
    SBORA_ASSIGN_OR_RETURN(SafetensorsFile tensors, SafetensorsFile::Open(file));
    Nf4Patch patch(std::move(tensors));
    SBORA_RETURN_IF_ERROR(patch.Read());
    return patch;
  }

  const std::string& base_hash() const { return base_hash_; }
  const std::string& patched_hash() const { return patched_hash_; }
  bool base_merged() const { return base_merged_; }

  /// The edits that put a side in. They borrow this object. Errors: FAILED_PRECONDITION BASE_HASH_MISMATCH when a module
  /// of the model has another shape.
  StatusOr<Nf4Edits> EditsFor(const Nf4ModelFolder& model, Side side) const {
    const ModelConfig& config = model.config().model;
    Nf4Edits edits;
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (const LinearModule module : kAllLinearModules) {
        const auto found = modules_.find(ModulePath(layer, module));
        if (found == modules_.end()) continue;
        const ModuleShape shape = LinearModuleShape(config, module);
        SBORA_ASSIGN_OR_RETURN(Slice slice, Read(found->first, side, shape, found->second, model.dir()));
        Nf4Edit& edit = edits[found->first];
        edit.row_index = slice.row_index;
        edit.column_index = slice.column_index;
        edit.apply = [shape, rows = axis_ == RegionAxis::kOutput ? found->second : std::vector<int32_t>(),
                      slice = std::move(slice)](Nf4Parts parts) -> StatusOr<Nf4Parts> {
          const size_t bytes = static_cast<size_t>((shape.in_features + 1) / 2);
          for (size_t i = 0; i < rows.size(); ++i) {
            SetNf4RowCodes(std::span<const uint8_t>(slice.codes).subspan(i * bytes, bytes), shape, rows[i], parts);
          }
          parts.row_index = slice.row_index;
          parts.row_scales = slice.row_scales;
          parts.column_index = slice.column_index;
          parts.columns = slice.columns;
          return parts;
        };
      }
    }
    if (edits.size() == modules_.size()) return edits;
    return WrongShape(model.dir(), "it names modules the model has not");
  }

 private:
  explicit Nf4Patch(SafetensorsFile file) : file_(std::move(file)) {}

  Status WrongShape(const fs::path& model, std::string_view what) const {
    return FailedPrecondition("BASE_HASH_MISMATCH", fmt::format("{} does not fit {}: {}; it is of another base",
                                                                file_.path().string(), model.string(), what));
  }

  Status Read() {
    const auto get = [this](const char* key) {
      const auto found = file_.metadata().find(key);
      return found == file_.metadata().end() ? std::string() : found->second;
    };
    const std::string axis = get("axis");
    if (axis != "input" && axis != "output") return Malformed(file_.path(), "axis must be input or output");
    axis_ = axis == "input" ? RegionAxis::kInput : RegionAxis::kOutput;
    base_hash_ = get("base_hash");
    patched_hash_ = get("patched_hash");
    if (!IsSha256Hex(base_hash_) || !IsSha256Hex(patched_hash_)) {
      return Malformed(file_.path(), "base_hash or patched_hash is no SHA-256");
    }
    const std::string merged = get("base_merged");
    if (merged != "true" && merged != "false") return Malformed(file_.path(), "base_merged must be true or false");
    base_merged_ = merged == "true";
    for (const TensorView& view : file_.tensors()) {
      if (!view.name.ends_with(kIndexSuffix)) continue;
      const std::string module = view.name.substr(0, view.name.size() - kIndexSuffix.size());
      SBORA_ASSIGN_OR_RETURN(modules_[module], Values<int32_t>(view.name, DType::kI32));
      const Status ascending = CheckIndices(modules_[module], view.name, std::numeric_limits<int32_t>::max());
      if (!ascending.ok()) return Malformed(file_.path(), ascending.message());
    }
    return modules_.empty() ? Malformed(file_.path(), "it has no patch_index") : OkStatus();
  }

  template <typename T>
  StatusOr<std::vector<T>> Values(const std::string& name, DType dtype) const {
    const auto view = file_.Tensor(name);
    if (!view.ok() || view->dtype != dtype) {
      return Malformed(file_.path(), fmt::format("{} must be there as {}", name, DTypeName(dtype)));
    }
    std::vector<T> values(view->data.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), view->data.data(), values.size() * sizeof(T));
    return values;
  }

  /// One side of a module, held against its shape. A module without `_row_index` keeps no rows aside on that side.
  StatusOr<Slice> Read(const std::string& module, Side side, const ModuleShape& shape, const std::vector<int32_t>& indices,
                       const fs::path& model) const {
    const bool rows = axis_ == RegionAxis::kOutput;
    Slice slice;
    if (file_.Contains(Name(module, side, "row_index"))) {
      SBORA_ASSIGN_OR_RETURN(slice.row_index, Values<int32_t>(Name(module, side, "row_index"), DType::kI32));
      SBORA_ASSIGN_OR_RETURN(slice.row_scales, Values<float>(Name(module, side, "row_scales"), DType::kF32));
    }
    if (file_.Contains(Name(module, side, "column_index"))) {
      SBORA_ASSIGN_OR_RETURN(slice.column_index, Values<int32_t>(Name(module, side, "column_index"), DType::kI32));
      SBORA_ASSIGN_OR_RETURN(slice.columns, Values<float>(Name(module, side, "columns"), DType::kF32));
    }
    if (rows) {
      SBORA_ASSIGN_OR_RETURN(slice.codes, Values<uint8_t>(Name(module, side, "codes"), DType::kU8));
    }
    const auto fits = [](const std::vector<int32_t>& index, int64_t dim) {
      return index.empty() || CheckIndices(index, "", dim).ok();
    };
    const int64_t blocks = (shape.in_features + kNf4BlockElements - 1) / kNf4BlockElements;
    const bool good = indices.back() < (rows ? shape.out_features : shape.in_features) &&
                      fits(slice.row_index, shape.out_features) && fits(slice.column_index, shape.in_features) &&
                      std::ssize(slice.row_scales) == std::ssize(slice.row_index) * blocks &&
                      std::ssize(slice.columns) == std::ssize(slice.column_index) * shape.out_features &&
                      std::ssize(slice.codes) == (rows ? std::ssize(indices) * ((shape.in_features + 1) / 2) : 0);
    if (good) return slice;
    return WrongShape(model, fmt::format("{} has another shape", module));
  }

  SafetensorsFile file_;
  RegionAxis axis_ = RegionAxis::kInput;
  std::string base_hash_;
  std::string patched_hash_;
  bool base_merged_ = false;
  std::map<std::string, std::vector<int32_t>> modules_;
};

/// What the patch of one adapter holds, module by module. All slices are held at once: they are as small as the adapter.
class Nf4PatchWriter {
 public:
  Nf4PatchWriter(const Nf4ModelFolder& base, const AdapterFolder& adapter, const Nf4Edits& edits)
      : base_(base), adapter_(adapter), edits_(edits) {}

  StatusOr<ExportedFolder> Write(const fs::path& out_dir, const MergeOptions& options) {
    SBORA_ASSIGN_OR_RETURN(const WeightHashes hashes,
                           HashBeforeAndAfter(base_, edits_, {options.progress, options.cancelled}));
    SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
    SBORA_RETURN_IF_ERROR(Collect(options));
    std::vector<TensorToWrite> tensors;
    for (const Entry& entry : entries_) {
      const auto rank = std::ssize(entry.indices);
      tensors.push_back({{entry.module + std::string(kIndexSuffix), DType::kI32, {rank}}, Bytes(entry.indices)});
      for (const Side side : {Side::kNew, Side::kOld}) {
        const Slice& slice = side == Side::kNew ? entry.now : entry.before;
        for (auto& tensor : TensorsOf(entry.module, side, slice, entry.shape, rank)) tensors.push_back(std::move(tensor));
      }
    }
    const AdapterConfig& config = adapter_.config();
    SBORA_ASSIGN_OR_RETURN(WrittenFile file,
                           WriteSafetensors(out_dir / kPatchFile, tensors,
                                            {{"format", "pt"},
                                             {"sbora_patch", std::string(kVersion)},
                                             {"axis", std::string(RegionAxisName(AxisOf(config.method)))},
                                             {"method", std::string(AdapterMethodName(config.method))},
                                             {"base_model", config.base_model},
                                             {"base_hash", hashes.before},
                                             {"base_merged", base_.config().merged() ? "true" : "false"},
                                             {"patched_hash", hashes.after}}));
    return ExportedFolder{.files = {file}, .total_bytes = file.size_bytes};
  }

 private:
  struct Entry {
    std::string module;
    ModuleShape shape;
    std::vector<int32_t> indices;
    Slice before;
    Slice now;
  };

  Status Collect(const MergeOptions& options) {
    const AdapterConfig& config = adapter_.config();
    const bool rows = config.method == AdapterMethod::kSboraFb;
    const std::vector<AdaptedModule> modules = config.Modules();
    for (const AdaptedModule& each : modules) {
      if (options.cancelled && options.cancelled()) return Cancelled("CANCELLED", "cancelled while writing the patch");
      Entry entry{.module = ModulePath(each.layer, each.module), .shape = each.shape, .indices = {}, .before = {}, .now = {}};
      SBORA_ASSIGN_OR_RETURN(entry.indices, adapter_.Indices(each.layer, each.module));
      const std::vector<int32_t> code_rows = rows ? entry.indices : std::vector<int32_t>();
      SBORA_ASSIGN_OR_RETURN(Nf4Parts parts, base_.Weight(each.layer, each.module));
      entry.before = SliceOf(parts, entry.shape, code_rows);
      SBORA_ASSIGN_OR_RETURN(const Nf4Parts merged, edits_.at(entry.module).apply(std::move(parts)));
      entry.now = SliceOf(merged, entry.shape, code_rows);
      entries_.push_back(std::move(entry));
      if (options.progress) options.progress(std::ssize(entries_), std::ssize(modules));
    }
    return OkStatus();
  }

  const Nf4ModelFolder& base_;
  const AdapterFolder& adapter_;
  const Nf4Edits& edits_;
  std::vector<Entry> entries_;
};

struct Direction {
  Side side;
  std::string from;
  std::string to;
  bool to_merged;
};

StatusOr<ExportedFolder> Overwrite(const fs::path& model_dir, const Nf4Patch& patch, const Direction& direction,
                                   const Status& wrong_model, const fs::path& out_dir, const MergeOptions& options) {
  const auto text = ReadFile(model_dir / "config.json", 1 << 20);
  if (text.ok() && !IsNf4Config(*text)) {
    return wrong_model.WithMetadata("found", "a model that is not in NF4");
  }
  SBORA_ASSIGN_OR_RETURN(const Nf4ModelFolder model, Nf4ModelFolder::Open(model_dir));
  if (const std::string found = model.ComputeHash(); found != direction.from) {
    return wrong_model.WithMetadata("found", found);
  }
  SBORA_ASSIGN_OR_RETURN(const Nf4Edits edits, patch.EditsFor(model, direction.side));
  const RewriteProgress progress{options.progress, options.cancelled};
  SBORA_ASSIGN_OR_RETURN(const WeightHashes hashes, HashBeforeAndAfter(model, edits, progress));
  if (hashes.after != direction.to) {
    return DataLoss("PATCH_CORRUPT", fmt::format("the patch promises weights of hash {}, its values give {}; fetch it again",
                                                 direction.to, hashes.after));
  }
  Nf4Config result = model.config();
  result.merged_hash = direction.to_merged ? direction.to : "";
  return RewriteNf4Model(model, edits, std::move(result), model_dir, out_dir, progress);
}

}  // namespace

StatusOr<ExportedFolder> ExportNf4Patch(const fs::path& nf4_dir, const fs::path& adapter_dir, const fs::path& out_dir,
                                        const Nf4Codec& codec, const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const AdapterFolder adapter, AdapterFolder::Open(adapter_dir));
  if (!UsesIndices(adapter.config().method)) return NoPatchOf(adapter.config().method);
  SBORA_RETURN_IF_ERROR(CheckMergeableIntoNf4("the adapter", adapter.config()));
  const auto alive = [&] {
    if (options.progress) options.progress(0, 1);
  };
  SBORA_ASSIGN_OR_RETURN(const Nf4ModelFolder base, Nf4ModelFolder::Open(nf4_dir, alive));
  SBORA_RETURN_IF_ERROR(CheckNf4Base(base, adapter.config()));
  SBORA_ASSIGN_OR_RETURN(const Nf4Edits edits, Nf4EditsOf(base, {{&adapter, 1.0}}, codec));
  return Nf4PatchWriter(base, adapter, edits).Write(out_dir, options);
}

StatusOr<bool> IsNf4Patch(const fs::path& file) {
  SBORA_ASSIGN_OR_RETURN(const SafetensorsFile tensors, SafetensorsFile::Open(file));
  const auto version = tensors.metadata().find("sbora_patch");
  return version != tensors.metadata().end() && version->second == kVersion;
}

StatusOr<ExportedFolder> ApplyNf4Patch(const fs::path& model_dir, const fs::path& file, const fs::path& out_dir,
                                       const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const Nf4Patch patch, Nf4Patch::Open(file));
  const Status wrong =
      FailedPrecondition("BASE_HASH_MISMATCH", fmt::format("the patch is for the NF4 model of hash {}, {} holds other weights "
                                                           "(it may be patched already, or not be in NF4)",
                                                           patch.base_hash(), model_dir.string()))
          .WithMetadata("expected", patch.base_hash());
  return Overwrite(model_dir, patch, {Side::kNew, patch.base_hash(), patch.patched_hash(), true}, wrong, out_dir, options);
}

StatusOr<ExportedFolder> ReverseNf4Patch(const fs::path& model_dir, const fs::path& file, const fs::path& out_dir,
                                         const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const Nf4Patch patch, Nf4Patch::Open(file));
  const Status wrong =
      FailedPrecondition("PATCH_NOT_APPLIED", fmt::format("{} is not the NF4 model with this patch applied (hash {}); only "
                                                          "that can be taken back",
                                                          model_dir.string(), patch.patched_hash()))
          .WithMetadata("expected", patch.patched_hash());
  return Overwrite(model_dir, patch, {Side::kOld, patch.patched_hash(), patch.base_hash(), patch.base_merged()}, wrong,
                   out_dir, options);
}

}  // namespace sbora::core
