#include "core/nf4_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/manifest.h"
#include "core/r_index.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCodes = "nf4_codes";
constexpr const char* kScales = "nf4_scales";
constexpr const char* kScaleCodes = "nf4_scale_codes";
constexpr const char* kGroupScales = "nf4_group_scales";
constexpr const char* kOffset = "nf4_offset";
constexpr const char* kRowIndex = "nf4_row_index";
constexpr const char* kRowScales = "nf4_row_scales";
constexpr const char* kColumnIndex = "nf4_column_index";
constexpr const char* kColumns = "nf4_columns";

int64_t CeilDiv(int64_t value, int64_t divisor) { return value / divisor + (value % divisor == 0 ? 0 : 1); }

std::string PartName(std::string_view module, const char* part) { return fmt::format("{}.{}", module, part); }

template <typename T>
std::span<const std::byte> Bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

std::span<const std::byte> PartBytes(const Nf4Parts& parts, std::string_view part) {
  if (part == kCodes) return Bytes(parts.codes);
  if (part == kScales) return Bytes(parts.scales);
  if (part == kScaleCodes) return Bytes(parts.scale_codes);
  if (part == kGroupScales) return Bytes(parts.group_scales);
  if (part == kOffset) return Bytes(parts.offset);
  if (part == kRowIndex) return Bytes(parts.row_index);
  if (part == kRowScales) return Bytes(parts.row_scales);
  if (part == kColumnIndex) return Bytes(parts.column_index);
  return part == kColumns ? Bytes(parts.columns) : std::span<const std::byte>();
}

template <typename T>
StatusOr<std::vector<T>> CopyOf(const Nf4ModelFolder& folder, const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const TensorView view, folder.Tensor(name));
  std::vector<T> values(view.data.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), view.data.data(), values.size() * sizeof(T));
  return values;
}

Status CheckRange(const std::string& name, const std::vector<float>& values, bool signed_values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && (signed_values || values[i] >= 0)) continue;
    return InvalidArgument("NF4_SCALE_RANGE", fmt::format("tensor \"{}\": element {} is {}, must be finite{}", name, i,
                                                          values[i], signed_values ? "" : " and not negative"));
  }
  return OkStatus();
}

/// Feeds WriteModelShards: a weight is quantised when its codes are asked for, and kept until its other parts were.
class Nf4Source {
 public:
  Nf4Source(const ModelFolder& base, const Nf4Quantizer& quantize, bool double_quantization)
      : base_(base), quantize_(quantize), double_quantization_(double_quantization) {}

  StatusOr<std::vector<TensorSpec>> Specs() const {
    std::vector<TensorSpec> specs;
    for (TensorSpec& spec : ExpectedTensors(base_.config())) {
      if (const std::string module = LinearModuleOfTensor(spec.name); !module.empty()) {
        for (TensorSpec& part : Nf4PartSpecs(module, {spec.shape[0], spec.shape[1]}, double_quantization_)) {
          specs.push_back(std::move(part));
        }
        continue;
      }
      SBORA_ASSIGN_OR_RETURN(const TensorView view, base_.Tensor(spec.name));
      spec.dtype = view.dtype;
      specs.push_back(std::move(spec));
    }
    return specs;
  }

  Status Append(const TensorSpec& spec, const ByteSink& sink) {
    const std::string module = LinearModuleOfTensor(spec.name);
    if (module.empty()) {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, base_.Tensor(spec.name));
      return sink(view.data);
    }
    const std::string part = spec.name.substr(module.size() + 1);
    if (part == kCodes) {
      SBORA_ASSIGN_OR_RETURN(const TensorView weight, base_.Tensor(module + ".weight"));
      auto parts = quantize_(weight);
      if (!parts.ok()) return parts.status().WithContext(fmt::format("quantising {}", weight.name));
      parts_ = *std::move(parts);
    }
    return sink(PartBytes(parts_, part));
  }

 private:
  const ModelFolder& base_;
  const Nf4Quantizer& quantize_;
  const bool double_quantization_;
  Nf4Parts parts_;
};

}  // namespace

std::string LinearModuleOfTensor(std::string_view tensor_name) {
  if (!tensor_name.starts_with("model.layers.")) return {};
  const std::string_view module = tensor_name.substr(0, tensor_name.rfind('.'));
  const std::string_view part = tensor_name.substr(std::min(module.size() + 1, tensor_name.size()));
  if (part != "weight" && !part.starts_with("nf4_")) return {};
  for (const LinearModule linear : kAllLinearModules) {
    if (module.ends_with(fmt::format(".{}", LinearModuleName(linear)))) return std::string(module);
  }
  return {};
}

std::vector<TensorSpec> Nf4PartSpecs(const std::string& module, const ModuleShape& shape, bool double_quantization,
                                     int64_t rows, int64_t columns) {
  const int64_t elements = shape.out_features * shape.in_features;
  const int64_t blocks = CeilDiv(elements, kNf4BlockElements);
  std::vector<TensorSpec> specs = {{PartName(module, kCodes), DType::kU8, {CeilDiv(elements, 2)}}};
  if (double_quantization) {
    specs.push_back({PartName(module, kScaleCodes), DType::kU8, {blocks}});
    specs.push_back({PartName(module, kGroupScales), DType::kF32, {CeilDiv(blocks, kNf4GroupBlocks)}});
    specs.push_back({PartName(module, kOffset), DType::kF32, {1}});
  } else {
    specs.push_back({PartName(module, kScales), DType::kF32, {blocks}});
  }
  if (rows > 0) {
    specs.push_back({PartName(module, kRowIndex), DType::kI32, {rows}});
    specs.push_back({PartName(module, kRowScales), DType::kF32, {rows, CeilDiv(shape.in_features, kNf4BlockElements)}});
  }
  if (columns > 0) {
    specs.push_back({PartName(module, kColumnIndex), DType::kI32, {columns}});
    specs.push_back({PartName(module, kColumns), DType::kF32, {shape.out_features, columns}});
  }
  return specs;
}

std::vector<TensorToWrite> Nf4Tensors(const std::string& module, const ModuleShape& shape, const Nf4Parts& parts) {
  std::vector<TensorToWrite> tensors;
  for (TensorSpec& spec : Nf4PartSpecs(module, shape, parts.scales.empty(), std::ssize(parts.row_index),
                                       std::ssize(parts.column_index))) {
    const std::span<const std::byte> bytes = PartBytes(parts, spec.name.substr(module.size() + 1));
    tensors.push_back({std::move(spec), bytes});
  }
  return tensors;
}

std::vector<uint8_t> Nf4RowCodes(const Nf4Parts& parts, const ModuleShape& shape, int64_t row) {
  std::vector<uint8_t> row_codes(static_cast<size_t>(CeilDiv(shape.in_features, 2)));
  for (int64_t i = 0; i < shape.in_features; ++i) {
    const int64_t from = row * shape.in_features + i;
    const int code = parts.codes[static_cast<size_t>(from / 2)] >> (from % 2 == 0 ? 4 : 0) & 15;
    row_codes[static_cast<size_t>(i / 2)] |= static_cast<uint8_t>(i % 2 == 0 ? code << 4 : code);
  }
  return row_codes;
}

void SetNf4RowCodes(std::span<const uint8_t> row_codes, const ModuleShape& shape, int64_t row, Nf4Parts& parts) {
  for (int64_t i = 0; i < shape.in_features; ++i) {
    const int64_t to = row * shape.in_features + i;
    const int code = row_codes[static_cast<size_t>(i / 2)] >> (i % 2 == 0 ? 4 : 0) & 15;
    uint8_t& pair = parts.codes[static_cast<size_t>(to / 2)];
    pair = static_cast<uint8_t>(to % 2 == 0 ? (pair & 15) | code << 4 : (pair & 0xF0) | code);
  }
}

StatusOr<Nf4Config> WriteNf4Model(const ModelFolder& base, const fs::path& out_dir, const Nf4Quantizer& quantize,
                                  const Nf4WriteOptions& options) {
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  const Nf4Config config{
      .model = base.config(),
      .double_quantization = options.double_quantization,
      .base_hash = options.known_base_hash.empty() ? base.ComputeBaseHash() : options.known_base_hash};
  Nf4Source source(base, quantize, options.double_quantization);
  SBORA_ASSIGN_OR_RETURN(const auto specs, source.Specs());
  SBORA_ASSIGN_OR_RETURN(
      auto files, WriteModelShards(out_dir, specs,
                                   [&](const TensorSpec& spec, const ByteSink& sink) { return source.Append(spec, sink); },
                                   {.max_shard_bytes = options.max_shard_bytes, .progress = options.progress,
                                    .cancelled = options.cancelled}));
  for (const SafetensorsFile& shard : base.shards()) shard.Evict();
  SBORA_ASSIGN_OR_RETURN(WrittenFile config_file, WriteSmallFile(out_dir / "config.json", ToJson(config)));
  files.push_back(std::move(config_file));
  SBORA_RETURN_IF_ERROR(WriteNf4Manifest(out_dir, std::move(files)));
  return config;
}

Status WriteNf4Manifest(const fs::path& dir, std::vector<WrittenFile> files) {
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return WriteManifest(dir, {.files = std::move(files)});
}

StatusOr<Nf4ModelFolder> Nf4ModelFolder::Open(const fs::path& dir, const std::function<void()>& alive) {
  Nf4ModelFolder folder;
  folder.dir_ = dir;
  std::error_code ec;
  if (!fs::exists(dir / "config.json", ec)) {
    return NotFound("MODEL_FILE_MISSING", fmt::format("{} holds no config.json", dir.string()));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / "config.json", 1 << 20));
  SBORA_ASSIGN_OR_RETURN(folder.config_, ParseNf4Config(text));
  if (!folder.config_.merged()) SBORA_RETURN_IF_ERROR(folder.CheckBytes(alive));
  SBORA_ASSIGN_OR_RETURN(folder.shards_, OpenShards(dir));
  for (size_t i = 0; i < folder.shards_.size(); ++i) {
    for (const TensorView& view : folder.shards_[i].tensors()) folder.shard_of_tensor_.emplace(view.name, i);
  }
  if (folder.config_.merged()) SBORA_RETURN_IF_ERROR(folder.CheckBytes(alive));
  SBORA_RETURN_IF_ERROR(folder.CheckTensors());
  return folder;
}

Status Nf4ModelFolder::CheckBytes(const std::function<void()>& alive) const {
  if (!config_.merged()) {
    const auto manifest = ReadManifest(dir_);
    if (manifest.ok()) return VerifyManifest(*manifest, dir_, alive);
    return DataLoss("NF4_DAMAGED", fmt::format("{}: {}", dir_.string(), manifest.status().message()));
  }
  const std::string found = ComputeHash(alive);
  if (found == config_.merged_hash) return OkStatus();
  return DataLoss("NF4_DAMAGED", fmt::format("{}: the tensors have hash {}, config.json says {}; fetch the model again",
                                             dir_.string(), found, config_.merged_hash));
}

Status Nf4ModelFolder::CheckTensor(const TensorSpec& spec, bool any_weight_dtype) const {
  const auto mismatch = [&](std::string what) {
    return InvalidArgument("NF4_TENSOR_MISMATCH", fmt::format("{}: tensor \"{}\"{}", dir_.string(), spec.name, what));
  };
  const auto view = Tensor(spec.name);
  if (!view.ok()) return mismatch(", which config.json implies, is not there");
  const bool dtype = any_weight_dtype ? IsWeightDType(view->dtype) : view->dtype == spec.dtype;
  if (view->shape == spec.shape && dtype) return OkStatus();
  return mismatch(fmt::format(" is {} [{}], config.json implies {} [{}]", DTypeName(view->dtype),
                              fmt::join(view->shape, ", "), any_weight_dtype ? "F32, F16 or BF16" : DTypeName(spec.dtype),
                              fmt::join(spec.shape, ", ")));
}

StatusOr<int64_t> Nf4ModelFolder::CheckModule(const std::string& module, const ModuleShape& shape) const {
  const auto indices = [&](const char* part, int64_t dim) -> StatusOr<int64_t> {
    const auto view = Tensor(PartName(module, part));
    if (!config_.merged() || !view.ok()) return 0;
    if (view->dtype != DType::kI32 || view->shape.size() != 1 || view->elements() == 0) {
      return InvalidArgument("NF4_TENSOR_MISMATCH", fmt::format("{}: tensor \"{}\" must be I32 [r], r above 0",
                                                                dir_.string(), view->name));
    }
    SBORA_ASSIGN_OR_RETURN(const auto values, CopyOf<int32_t>(*this, view->name));
    const Status ascending = CheckIndices(values, view->name, dim);
    if (!ascending.ok()) return InvalidArgument("NF4_TENSOR_MISMATCH", ascending.message());
    return view->elements();
  };
  SBORA_ASSIGN_OR_RETURN(const int64_t rows, indices(kRowIndex, shape.out_features));
  SBORA_ASSIGN_OR_RETURN(const int64_t columns, indices(kColumnIndex, shape.in_features));
  const auto specs = Nf4PartSpecs(module, shape, config_.double_quantization, rows, columns);
  for (const TensorSpec& part : specs) {
    SBORA_RETURN_IF_ERROR(CheckTensor(part, false));
    if (part.dtype != DType::kF32) continue;
    SBORA_ASSIGN_OR_RETURN(const auto values, CopyOf<float>(*this, part.name));
    SBORA_RETURN_IF_ERROR(CheckRange(part.name, values, part.name.ends_with(kColumns)));
  }
  return std::ssize(specs);
}

Status Nf4ModelFolder::CheckTensors() const {
  int64_t expected = 0;
  for (const TensorSpec& spec : ExpectedTensors(config_.model)) {
    if (const std::string module = LinearModuleOfTensor(spec.name); !module.empty()) {
      SBORA_ASSIGN_OR_RETURN(const int64_t parts, CheckModule(module, {spec.shape[0], spec.shape[1]}));
      expected += parts;
      continue;
    }
    SBORA_RETURN_IF_ERROR(CheckTensor(spec, true));
    ++expected;
  }
  if (std::ssize(shard_of_tensor_) == expected) return OkStatus();
  return InvalidArgument("NF4_TENSOR_MISMATCH", fmt::format("{}: {} tensors, config.json implies {}", dir_.string(),
                                                            shard_of_tensor_.size(), expected));
}

std::vector<std::string> Nf4ModelFolder::tensor_names() const {
  std::vector<std::string> names;
  for (const auto& [name, shard] : shard_of_tensor_) names.push_back(name);
  return names;
}

std::string Nf4ModelFolder::ComputeHash(const std::function<void()>& tensor_done) const {
  WeightsHash hash;
  for (const auto& [name, shard] : shard_of_tensor_) {
    const auto view = Tensor(name);
    SBORA_CHECK(view.ok(), "{} vanished after Open", name);
    hash.Add(*view);
    if (tensor_done) tensor_done();
  }
  return hash.FinishHex();
}

StatusOr<std::string> HashOfNf4Shards(const fs::path& dir, const std::function<void()>& tensor_done) {
  SBORA_ASSIGN_OR_RETURN(const auto shards, OpenShards(dir));
  std::map<std::string, TensorView> views;
  for (const SafetensorsFile& shard : shards) {
    for (const TensorView& view : shard.tensors()) views.emplace(view.name, view);
  }
  WeightsHash hash;
  for (const auto& [name, view] : views) {
    hash.Add(view);
    if (tensor_done) tensor_done();
  }
  return hash.FinishHex();
}

StatusOr<TensorView> Nf4ModelFolder::Tensor(std::string_view name) const {
  const auto found = shard_of_tensor_.find(name);
  if (found == shard_of_tensor_.end()) {
    return NotFound("TENSOR_NOT_FOUND", fmt::format("{} holds no tensor \"{}\"", dir_.string(), name));
  }
  return shards_[found->second].Tensor(name);
}

StatusOr<Nf4Parts> Nf4ModelFolder::Weight(int64_t layer, LinearModule module) const {
  const std::string path = ModulePath(layer, module);
  Nf4Parts parts;
  SBORA_ASSIGN_OR_RETURN(parts.codes, CopyOf<uint8_t>(*this, PartName(path, kCodes)));
  if (config_.double_quantization) {
    SBORA_ASSIGN_OR_RETURN(parts.scale_codes, CopyOf<uint8_t>(*this, PartName(path, kScaleCodes)));
    SBORA_ASSIGN_OR_RETURN(parts.group_scales, CopyOf<float>(*this, PartName(path, kGroupScales)));
    SBORA_ASSIGN_OR_RETURN(parts.offset, CopyOf<float>(*this, PartName(path, kOffset)));
  } else {
    SBORA_ASSIGN_OR_RETURN(parts.scales, CopyOf<float>(*this, PartName(path, kScales)));
  }
  if (shard_of_tensor_.contains(PartName(path, kRowIndex))) {
    SBORA_ASSIGN_OR_RETURN(parts.row_index, CopyOf<int32_t>(*this, PartName(path, kRowIndex)));
    SBORA_ASSIGN_OR_RETURN(parts.row_scales, CopyOf<float>(*this, PartName(path, kRowScales)));
  }
  if (shard_of_tensor_.contains(PartName(path, kColumnIndex))) {
    SBORA_ASSIGN_OR_RETURN(parts.column_index, CopyOf<int32_t>(*this, PartName(path, kColumnIndex)));
    SBORA_ASSIGN_OR_RETURN(parts.columns, CopyOf<float>(*this, PartName(path, kColumns)));
  }
  return parts;
}

}  // namespace sbora::core
