/// A base model in HF layout on disk, opened for reading: config.json plus one or more safetensors shards.
///
/// Thread-safe after Open; move-only. TensorViews are valid while the object lives.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/sha256.h"
#include "common/status.h"
#include "core/model_config.h"
#include "core/safetensors.h"

namespace sbora::core {

/// Maps the safetensors files of a model folder: model.safetensors, or those that model.safetensors.index.json names.
/// Errors: NOT_FOUND MODEL_FILE_MISSING, INVALID_ARGUMENT MODEL_INDEX_MALFORMED and those of SafetensorsFile.
StatusOr<std::vector<SafetensorsFile>> OpenShards(const std::filesystem::path& dir);
/// Identity of weights: SHA-256 (lower-case hex) over tensor names, dtypes, shapes and bytes. Add the tensors of a model
/// ascending by name.
class WeightsHash {
 public:
  /// `bytes` in place of the view's own.
  void Add(const TensorView& view, std::span<const std::byte> bytes);
  void Add(const TensorView& view) { Add(view, view.data); }
  std::string FinishHex() { return hash_.FinishHex(); }

 private:
  Sha256 hash_;
};

class ModelFolder {
 public:
  /// Maps the shards (model.safetensors, or those of model.safetensors.index.json) and checks that exactly the tensors
  /// of ExpectedTensors are there with their shapes and a weight dtype (rotary `inv_freq` buffers and a tied
  /// `lm_head.weight` are ignored).
  /// Errors: NOT_FOUND MODEL_FILE_MISSING, INVALID_ARGUMENT MODEL_TENSOR_MISSING, MODEL_TENSOR_SHAPE,
  /// MODEL_TENSOR_UNEXPECTED, MODEL_INDEX_MALFORMED and those of ParseHfConfig and SafetensorsFile.
  static StatusOr<ModelFolder> Open(const std::filesystem::path& dir);

  const ModelConfig& config() const { return config_; }
  const std::filesystem::path& dir() const { return dir_; }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  /// Names of all model tensors, ascending.
  const std::vector<std::string>& tensor_names() const { return names_; }
  /// Errors: NOT_FOUND TENSOR_NOT_FOUND.
  StatusOr<TensorView> Tensor(std::string_view name) const;

  /// WeightsHash of all model tensors. Independent of sharding, metadata, config and tokenizer. Reads all weights once,
  /// which takes minutes for large models; `tensor_done` is called after each tensor.
  std::string ComputeBaseHash(const std::function<void()>& tensor_done = {}) const;

 private:
  ModelFolder() = default;
  Status LoadShards();
  Status CheckTensors();

  std::filesystem::path dir_;
  ModelConfig config_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::map<std::string, size_t, std::less<>> shard_of_tensor_;
};

}  // namespace sbora::core
