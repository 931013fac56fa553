// What this project computes, in files, for scripts/numerics to hold against transformers, PEFT and its own estimates.
//
//   reference_dump import SOURCE OUT_DIR                  core's model import
//   reference_dump tokenize MODEL_DIR TEXTS.json IDS.json a list of texts -> a list of lists of ids
//   reference_dump logits MODEL_DIR SAMPLES.json OUT.safetensors [ADAPTER_DIR]
//                                                         a list of lists of ids -> tensors "0", "1", ... [tokens, vocab]
//   reference_dump quantize MODEL_DIR OUT_DIR             an NF4 base, with double quantisation
//   reference_dump nf4_logits NF4_DIR SAMPLES.json OUT.safetensors
//   reference_dump estimate MODEL_DIR METHOD RANK SAMPLES TOKENS
//                                                         core's estimate of one micro-batch on a CPU, as JSON on stdout:
//                                                         full samples, all tokens supervised, q, k, v, up, down
//
// Float32 on the CPU. Samples are packed a few at a time, as in training. Exit status: 0, 1 failed (the reason on
// standard error), 2 usage.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "common/ffi/tokenizer.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "core/estimate.h"
#include "core/model_folder.h"
#include "core/model_import.h"
#include "core/safetensors.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/session/adapter_binding.h"
#include "worker/trainer/session/quantize_base.h"
#include "worker/trainer/session/quiet_observer.h"
#include "worker/trainer/session/torch_runtime.h"

namespace sbora::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr size_t kSamplesPerPack = 4;

template <typename T>
StatusOr<T> ReadJson(const fs::path& path) {
  SBORA_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFileBytes));
  const auto value = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return InvalidArgument("BAD_JSON", fmt::format("{} is not JSON", path.string()));
  try {
    return value.get<T>();
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("BAD_JSON", fmt::format("{}: {}", path.string(), error.what()));
  }
}

Status Import(const fs::path& source, const fs::path& out_dir) { return core::ImportModel(source, out_dir).status(); }

Status DumpIds(const fs::path& model_dir, const fs::path& texts_path, const fs::path& ids_path) {
  SBORA_ASSIGN_OR_RETURN(const auto texts, ReadJson<std::vector<std::string>>(texts_path));
  SBORA_ASSIGN_OR_RETURN(const std::string json, ReadFile(model_dir / "tokenizer.json", kMaxFileBytes));
  SBORA_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromJson(json));
  SBORA_ASSIGN_OR_RETURN(const auto ids, tokenizer->EncodeBatch(texts, /*add_special_tokens=*/true));
  return WriteFileAtomic(ids_path, nlohmann::json(ids).dump());
}

/// One [tokens, vocab] tensor per sample.
std::vector<at::Tensor> AllLogits(const LlamaModel& model, AdapterSet* adapter,
                                  const std::vector<std::vector<int64_t>>& samples) {
  std::vector<at::Tensor> logits;
  for (size_t first = 0; first < samples.size(); first += kSamplesPerPack) {
    const size_t last = std::min(samples.size(), first + kSamplesPerPack);
    PackedBatch batch;
    for (size_t i = first; i < last; ++i) batch.Append(i, samples[i]);
    std::vector<int64_t> rows(static_cast<size_t>(batch.tokens()));
    std::iota(rows.begin(), rows.end(), 0);
    const at::Tensor all_TV = model.Logits(batch, rows, adapter).contiguous();
    for (int64_t n = 0; n < batch.samples(); ++n) {
      const auto begin = batch.cu_seqlens[static_cast<size_t>(n)];
      const auto end = batch.cu_seqlens[static_cast<size_t>(n) + 1];
      logits.push_back(all_TV.slice(0, begin, end));
    }
  }
  return logits;
}

Status Quantize(const fs::path& model_dir, const fs::path& out_dir) {
  QuietObserver observer;
  return QuantizeBase({.model_dir = model_dir, .output_dir = out_dir, .base_hash = "", .threads = 2}, observer).status();
}

Status DumpLogits(const fs::path& model_dir, const fs::path& samples_path, const fs::path& out_path,
                  const fs::path& adapter_dir, bool nf4) {
  SBORA_ASSIGN_OR_RETURN(const auto samples, ReadJson<std::vector<std::vector<int64_t>>>(samples_path));
  SBORA_RETURN_IF_ERROR(SetUpTorch({}).status());
  SBORA_ASSIGN_OR_RETURN(const auto model, nf4 ? LlamaModel::LoadNf4(model_dir, {}) : LlamaModel::Load(model_dir, {}));
  std::unique_ptr<AdapterSet> adapter;
  if (!adapter_dir.empty()) {
    SBORA_ASSIGN_OR_RETURN(const auto folder, core::ModelFolder::Open(model_dir));
    SBORA_ASSIGN_OR_RETURN(adapter, LoadAdapter(adapter_dir, model->config(), folder.ComputeBaseHash(), at::kCPU));
  }
  const std::vector<at::Tensor> logits = AllLogits(*model, adapter.get(), samples);
  std::vector<core::TensorToWrite> tensors;
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto* data = static_cast<const std::byte*>(logits[i].const_data_ptr());
    tensors.push_back({.spec = {.name = fmt::format("{}", i), .dtype = core::DType::kF32, .shape = logits[i].sizes().vec()},
                       .data = {data, static_cast<size_t>(logits[i].nbytes())}});
  }
  return core::WriteSafetensors(out_path, tensors).status();
}

Status PrintEstimate(const std::vector<std::string>& args) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(fs::path(args[1]) / "config.json", kMaxFileBytes));
  SBORA_ASSIGN_OR_RETURN(const core::ModelConfig model, core::ParseHfConfig(text));
  core::JobSpec spec;
  SBORA_ASSIGN_OR_RETURN(spec.adapter.method, core::ParseAdapterMethod(args[2]));
  using enum core::LinearModule;
  spec.adapter.target_modules = {kQ, kK, kV, kUp, kDown};
  spec.adapter.rank = std::stoll(args[3]);
  spec.training.micro_batch_size = std::stoll(args[4]);
  spec.data.cutoff_tokens = std::stoll(args[5]);
  const core::StepLoad load = core::FullLoad(spec, /*cuda=*/false);
  const core::MemoryEstimate memory = core::EstimateMemory(model, spec, load);
  fmt::print("{}\n", nlohmann::json{{"peakBytes", memory.peak()},
                                    {"trainingBytes", memory.training()},
                                    {"loadingBytes", memory.loading},
                                    {"activationBytes", memory.activations},
                                    {"flops", core::EstimateFlops(model, spec.adapter, load)}}
                          .dump());
  return OkStatus();
}

int Report(const Status& status) {
  if (status.ok()) return 0;
  fmt::print(stderr, "reference_dump: error: {} [{}]\n", status.message(), status.reason());
  return 1;
}

int Run(const std::vector<std::string>& args) {
  const std::string verb = args.empty() ? "" : args[0];
  if (verb == "import" && args.size() == 3) return Report(Import(args[1], args[2]));
  if (verb == "tokenize" && args.size() == 4) return Report(DumpIds(args[1], args[2], args[3]));
  if (verb == "logits" && (args.size() == 4 || args.size() == 5)) {
    return Report(Guarded([&] { return DumpLogits(args[1], args[2], args[3], args.size() == 5 ? args[4] : "", false); }));
  }
  if (verb == "quantize" && args.size() == 3) return Report(Quantize(args[1], args[2]));
  if (verb == "nf4_logits" && args.size() == 4) {
    return Report(Guarded([&] { return DumpLogits(args[1], args[2], args[3], "", true); }));
  }
  if (verb == "estimate" && args.size() == 6) return Report(PrintEstimate(args));
  fmt::print(stderr, "usage: reference_dump import SOURCE OUT_DIR\n"
                     "       reference_dump tokenize MODEL_DIR TEXTS.json IDS.json\n"
                     "       reference_dump logits MODEL_DIR SAMPLES.json OUT.safetensors [ADAPTER_DIR]\n"
                     "       reference_dump quantize MODEL_DIR OUT_DIR\n"
                     "       reference_dump nf4_logits NF4_DIR SAMPLES.json OUT.safetensors\n"
                     "       reference_dump estimate MODEL_DIR METHOD RANK SAMPLES TOKENS\n");
  return 2;
}

}  // namespace
}  // namespace sbora::trainer

int main(int argc, char** argv) { return sbora::trainer::Run({argv + 1, argv + argc}); }
