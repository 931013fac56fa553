#include "core/gguf_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/gguf_llama.h"
#include "core/model_folder.h"
#include "core/model_writer.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxTokenizerBytes = 256 << 20;
constexpr int64_t kMaxSmallFileBytes = 16 << 20;
constexpr int64_t kBatchElements = 1 << 20;  // converted at a time, rounded to whole rows
// llama.cpp's numbers for "mostly this type", and of the block formats' version.
constexpr uint32_t kFileTypeF16 = 1, kFileTypeQ8_0 = 7, kQuantizationVersion = 2;

StatusOr<std::string> ReadIfThere(const fs::path& path, int64_t max_bytes) {
  std::error_code ec;
  if (!fs::exists(path, ec)) return std::string();
  return ReadFile(path, max_bytes);
}

uint32_t U32(int64_t value) { return static_cast<uint32_t>(value); }

void WriteConfig(const ModelConfig& config, const GgufExportOptions& options, GgufMetadata& metadata) {
  const bool q8 = options.weights == GgufWeights::kQ8_0;
  metadata.String("general.architecture", "llama");
  metadata.String("general.type", "model");
  if (!options.name.empty()) metadata.String("general.name", options.name);
  metadata.Uint32("general.file_type", q8 ? kFileTypeQ8_0 : kFileTypeF16);
  metadata.Uint32("general.quantization_version", kQuantizationVersion);
  metadata.Uint32("llama.block_count", U32(config.num_layers));
  metadata.Uint32("llama.context_length", U32(config.max_position_embeddings));
  metadata.Uint32("llama.embedding_length", U32(config.hidden_size));
  metadata.Uint32("llama.feed_forward_length", U32(config.intermediate_size));
  metadata.Uint32("llama.attention.head_count", U32(config.num_heads));
  metadata.Uint32("llama.attention.head_count_kv", U32(config.num_kv_heads));
  metadata.Uint32("llama.attention.key_length", U32(config.head_dim));
  metadata.Uint32("llama.attention.value_length", U32(config.head_dim));
  metadata.Float32("llama.attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps));
  metadata.Uint32("llama.rope.dimension_count", U32(config.head_dim));
  metadata.Float32("llama.rope.freq_base", static_cast<float>(config.rope_theta));
  metadata.Uint32("llama.vocab_size", U32(config.vocab_size));
  if (config.rope_scaling.type == RopeScalingType::kLinear) {
    metadata.String("llama.rope.scaling.type", "linear");
    metadata.Float32("llama.rope.scaling.factor", static_cast<float>(config.rope_scaling.factor));
  }
}

/// One tensor to write: from the base by HF name, or made here.
struct Source {
  std::string hf_name;        ///< empty for values of our own
  std::vector<float> values;  ///< then these
};

struct Plan {
  std::vector<GgufTensorSpec> specs;
  std::vector<Source> sources;
};

Plan PlanTensors(const ModelConfig& config, GgufWeights weights) {
  Plan plan;
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    const GgmlType wide = weights == GgufWeights::kQ8_0 ? GgmlType::kQ8_0 : GgmlType::kF16;
    plan.specs.push_back({GgufTensorName(spec.name), spec.shape.size() == 1 ? GgmlType::kF32 : wide, spec.shape});
    plan.sources.push_back({spec.name, {}});
  }
  if (config.rope_scaling.type != RopeScalingType::kLlama3) return plan;
  std::vector<float> divisors;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) divisors.push_back(static_cast<float>(Llama3RopeDivisor(config, i)));
  plan.specs.push_back({kGgufRopeDivisors, GgmlType::kF32, {config.head_dim / 2}});
  plan.sources.push_back({"", std::move(divisors)});
  return plan;
}

/// Rows of one tensor in GGUF order, widened and appended some at a time.
Status AppendTensor(const TensorView& view, int64_t head_dim, GgufWriter& writer) {
  const int64_t columns = view.shape.back();
  const int64_t rows = view.elements() / columns;
  const int64_t batch = std::max<int64_t>(1, kBatchElements / columns);
  const auto row_bytes = static_cast<size_t>(columns * DTypeSize(view.dtype));
  const bool permuted = HasPermutedRows(view.name);
  std::vector<float> values(static_cast<size_t>(std::min(batch, rows) * columns));
  for (int64_t begin = 0; begin < rows; begin += batch) {
    const int64_t end = std::min(begin + batch, rows);
    for (int64_t row = begin; row < end; ++row) {
      const auto from = static_cast<size_t>(permuted ? HfRowOfGgufRow(row, head_dim) : row);
      const auto to = static_cast<size_t>((row - begin) * columns);
      SBORA_RETURN_IF_ERROR(ToFloat(view.dtype, view.data.subspan(from * row_bytes, row_bytes),
                                    std::span(values).subspan(to, static_cast<size_t>(columns))));
    }
    SBORA_RETURN_IF_ERROR(writer.Append(std::span(values).first(static_cast<size_t>((end - begin) * columns))));
  }
  return OkStatus();
}

Status AppendAll(const ModelFolder& base, const Plan& plan, const GgufExportOptions& options, GgufWriter& writer) {
  const auto total = static_cast<int64_t>(plan.sources.size());
  for (int64_t done = 0; done < total; ++done) {
    if (options.cancelled && options.cancelled()) {
      return Cancelled("CANCELLED", fmt::format("cancelled after {} of {} tensors", done, total));
    }
    const Source& source = plan.sources[static_cast<size_t>(done)];
    if (source.hf_name.empty()) {
      SBORA_RETURN_IF_ERROR(writer.Append(source.values));
    } else {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, base.Tensor(source.hf_name));
      SBORA_RETURN_IF_ERROR(AppendTensor(view, base.config().head_dim, writer));
    }
    if (options.progress) options.progress(done + 1, total);
  }
  return OkStatus();
}

}  // namespace

StatusOr<ExportedFolder> ExportGguf(const fs::path& model_dir, const fs::path& out_dir, const GgufExportOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const ModelFolder base, ModelFolder::Open(model_dir));
  GgufMetadata metadata;
  WriteConfig(base.config(), options, metadata);
  SBORA_ASSIGN_OR_RETURN(const std::string tokenizer, ReadFile(model_dir / "tokenizer.json", kMaxTokenizerBytes));
  SBORA_ASSIGN_OR_RETURN(const std::string settings, ReadIfThere(model_dir / "tokenizer_config.json", kMaxSmallFileBytes));
  SBORA_ASSIGN_OR_RETURN(const std::string chat, ReadIfThere(model_dir / "chat_template.jinja", kMaxSmallFileBytes));
  SBORA_RETURN_IF_ERROR(GgufTokenizerMetadata(tokenizer, settings, chat, base.config(), metadata));

  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  const char* name = options.weights == GgufWeights::kQ8_0 ? "model-q8_0.gguf" : "model-f16.gguf";
  const Plan plan = PlanTensors(base.config(), options.weights);
  SBORA_ASSIGN_OR_RETURN(const auto writer, GgufWriter::Create(out_dir / name, metadata, plan.specs));
  SBORA_RETURN_IF_ERROR(AppendAll(base, plan, options, *writer));
  SBORA_ASSIGN_OR_RETURN(WrittenFile file, writer->Finish());
  ExportedFolder folder;
  folder.total_bytes = file.size_bytes;
  folder.files.push_back(std::move(file));
  return folder;
}

}  // namespace sbora::core
