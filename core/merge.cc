#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/model_writer.h"
#include "core/peft_export.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCopiedFiles[] = {"chat_template.jinja",     "config.json",
                                        "generation_config.json",  "model.safetensors.index.json",
                                        "special_tokens_map.json", "tokenizer.json",
                                        "tokenizer_config.json"};

struct Module {
  int64_t layer;
  LinearModule module;
};

/// weight_OI + s * delta at the touched places only; every other byte is left as it is.
Status AddSbora(const AdapterFolder& adapter, const Module& m, const TensorView& base, std::span<std::byte> out) {
  const AdapterConfig& config = adapter.config();
  SBORA_ASSIGN_OR_RETURN(const auto idx_R, adapter.Indices(m.layer, m.module));
  SBORA_ASSIGN_OR_RETURN(const auto factor, adapter.Floats(FactorTensorName(config.method, m.layer, m.module)));
  const auto scale = static_cast<float>(config.scale());
  const auto size = static_cast<size_t>(DTypeSize(base.dtype));
  const bool fa = config.method == AdapterMethod::kSboraFa;
  const auto out_features = static_cast<size_t>(base.shape[0]);
  const auto in_features = static_cast<size_t>(base.shape[1]);
  const size_t rank = idx_R.size();
  const size_t outer = fa ? out_features : rank;
  const size_t inner = fa ? rank : in_features;
  for (size_t i = 0; i < outer; ++i) {
    for (size_t j = 0; j < inner; ++j) {
      const size_t row = fa ? i : static_cast<size_t>(idx_R[i]);
      const size_t column = fa ? static_cast<size_t>(idx_R[j]) : j;
      const size_t at = (row * in_features + column) * size;
      float weight = 0.0f;
      SBORA_RETURN_IF_ERROR(ToFloat(base.dtype, base.data.subspan(at, size), {&weight, 1}));
      weight += scale * factor[i * inner + j];
      SBORA_RETURN_IF_ERROR(FromFloat({&weight, 1}, base.dtype, out.subspan(at, size)));
    }
  }
  return OkStatus();
}

/// LoRA and DoRA touch every weight: row by row in float32.
Status AddDense(const AdapterFolder& adapter, const Module& m, const TensorView& base, std::span<std::byte> out) {
  const AdapterConfig& config = adapter.config();
  SBORA_ASSIGN_OR_RETURN(const auto a_RI, adapter.Floats(PeftTensorName(m.layer, m.module, "lora_A.weight")));
  SBORA_ASSIGN_OR_RETURN(const auto b_OR, adapter.Floats(PeftTensorName(m.layer, m.module, "lora_B.weight")));
  std::vector<float> magnitude_O;
  if (config.method == AdapterMethod::kDora) {
    SBORA_ASSIGN_OR_RETURN(magnitude_O, adapter.Floats(PeftTensorName(m.layer, m.module, "lora_magnitude_vector")));
  }
  const auto scale = static_cast<float>(config.scale());
  const auto out_features = static_cast<size_t>(base.shape[0]);
  const auto in_features = static_cast<size_t>(base.shape[1]);
  const auto rank = static_cast<size_t>(config.rank);
  const size_t row_bytes = in_features * static_cast<size_t>(DTypeSize(base.dtype));
  std::vector<float> row(in_features);
  std::vector<float> delta(in_features);
  for (size_t o = 0; o < out_features; ++o) {
    SBORA_RETURN_IF_ERROR(ToFloat(base.dtype, base.data.subspan(o * row_bytes, row_bytes), row));
    std::fill(delta.begin(), delta.end(), 0.0f);
    for (size_t r = 0; r < rank; ++r) {
      const float b = b_OR[o * rank + r];
      for (size_t i = 0; i < in_features; ++i) delta[i] += b * a_RI[r * in_features + i];
    }
    double square = 0.0;
    for (size_t i = 0; i < in_features; ++i) {
      row[i] += scale * delta[i];
      square += static_cast<double>(row[i]) * row[i];
    }
    if (!magnitude_O.empty()) {
      const auto factor = static_cast<float>(magnitude_O[o] / std::sqrt(square));
      for (float& weight : row) weight *= factor;
    }
    SBORA_RETURN_IF_ERROR(FromFloat(row, base.dtype, out.subspan(o * row_bytes, row_bytes)));
  }
  return OkStatus();
}

class Merger {
 public:
  Merger(const ModelFolder& base, const AdapterFolder& adapter, const fs::path& out_dir, const MergeOptions& options)
      : base_(base), adapter_(adapter), out_dir_(out_dir), options_(options) {
    const AdapterConfig& config = adapter.config();
    for (int64_t layer = 0; layer < config.base_config.num_layers; ++layer) {
      for (const LinearModule m : config.target_modules) targets_[ModulePath(layer, m) + ".weight"] = {layer, m};
    }
    for (const SafetensorsFile& shard : base.shards()) total_ += static_cast<int64_t>(shard.tensors().size());
  }

  StatusOr<ExportedFolder> Run() {
    for (const SafetensorsFile& shard : base_.shards()) {
      SBORA_RETURN_IF_ERROR(MergeShard(shard));
      shard.Evict();
    }
    for (const char* name : kCopiedFiles) {
      std::error_code ec;
      if (!fs::exists(base_.dir() / name, ec)) continue;
      SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(base_.dir() / name, 256 << 20));
      SBORA_ASSIGN_OR_RETURN(WrittenFile file, WriteSmallFile(out_dir_ / name, text));
      folder_.files.push_back(std::move(file));
    }
    std::sort(folder_.files.begin(), folder_.files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const WrittenFile& file : folder_.files) folder_.total_bytes += file.size_bytes;
    return std::move(folder_);
  }

 private:
  Status MergeShard(const SafetensorsFile& shard) {
    std::vector<TensorView> views = shard.tensors();
    std::sort(views.begin(), views.end(), [](const auto& a, const auto& b) { return a.data.data() < b.data.data(); });
    std::vector<TensorSpec> specs;
    for (const TensorView& view : views) specs.push_back({view.name, view.dtype, view.shape});
    SBORA_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(out_dir_ / shard.path().filename(), std::move(specs),
                                                                  shard.metadata()));
    for (const TensorView& view : views) {
      if (options_.cancelled && options_.cancelled()) {
        return Cancelled("CANCELLED", fmt::format("cancelled after {} of {} tensors", done_, total_));
      }
      SBORA_RETURN_IF_ERROR(AppendTensor(view, writer));
      if (options_.progress) options_.progress(++done_, total_);
    }
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, writer.Finish());
    folder_.files.push_back(std::move(file));
    return OkStatus();
  }

  Status AppendTensor(const TensorView& view, SafetensorsWriter& writer) {
    const auto target = targets_.find(view.name);
    if (target == targets_.end()) return writer.Append(view.data);
    std::vector<std::byte> bytes(view.data.begin(), view.data.end());
    SBORA_RETURN_IF_ERROR(UsesIndices(adapter_.config().method) ? AddSbora(adapter_, target->second, view, bytes)
                                                                : AddDense(adapter_, target->second, view, bytes));
    return writer.Append(bytes);
  }

  const ModelFolder& base_;
  const AdapterFolder& adapter_;
  const fs::path& out_dir_;
  const MergeOptions& options_;
  std::map<std::string, Module> targets_;
  ExportedFolder folder_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

}  // namespace

StatusOr<ExportedFolder> MergeAdapter(const fs::path& base_dir, const fs::path& adapter_dir, const fs::path& out_dir,
                                      const MergeOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const AdapterFolder adapter, AdapterFolder::Open(adapter_dir));
  if (adapter.config().method == AdapterMethod::kFull) {
    return Unimplemented("EXPORT_METHOD", "full fine-tuning has no adapter; its artifact is a checkpoint already");
  }
  if (adapter.config().base_quantization.kind != Quantization::kNone) {
    return Unimplemented("MERGE_QUANTIZED_BASE",
                         fmt::format("the adapter was trained on {} held as {}; added to the float weights it is another "
                                     "model. Use it on the quantised base",
                                     adapter.config().base_model, Describe(adapter.config().base_quantization)));
  }
  SBORA_ASSIGN_OR_RETURN(const ModelFolder base, ModelFolder::Open(base_dir));
  const std::string hash = options.known_base_hash.empty() ? base.ComputeBaseHash() : options.known_base_hash;
  if (hash != adapter.config().base_hash) {
    return FailedPrecondition("BASE_HASH_MISMATCH",
                              fmt::format("the adapter was trained on base {} ({}), {} is base {}",
                                          adapter.config().base_hash, adapter.config().base_model, base_dir.string(), hash))
        .WithMetadata("expected", adapter.config().base_hash)
        .WithMetadata("found", hash);
  }
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  return Merger(base, adapter, out_dir, options).Run();
}

}  // namespace sbora::core
