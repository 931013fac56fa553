/// What an adapter is: its method, its config file, and the exact tensors its artifact holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/adapter_pattern.h"
#include "core/dtype.h"
#include "core/model_config.h"
#include "core/safetensors.h"

namespace sbora::core {

/// alpha is in (0, kMaxAlpha].
inline constexpr double kMaxAlpha = 1e6;

enum class AdapterMethod { kSboraFa, kSboraFb, kLora, kDora, kFull };

/// "sbora_fa", "sbora_fb", "lora", "dora", "full".
std::string_view AdapterMethodName(AdapterMethod method);
/// Errors: INVALID_ARGUMENT METHOD_UNKNOWN listing the names.
StatusOr<AdapterMethod> ParseAdapterMethod(std::string_view name);
/// True for SBoRA-FA and SBoRA-FB.
bool UsesIndices(AdapterMethod method);

/// How the frozen base is held.
enum class Quantization { kNone, kNf4 };

/// What an adapter was trained against: it is right for this form of its base and no other.
struct BaseQuantization {
  Quantization kind = Quantization::kNone;
  bool double_quantization = false;  ///< of NF4's scales

  bool operator==(const BaseQuantization&) const = default;
};
/// "none", "nf4", "nf4 with double quantisation": for messages.
std::string_view Describe(const BaseQuantization& quantization);
/// How LoRA's A is held. kNone: trained (LoRA, arXiv 2106.09685). kRandom: A stays as it was drawn, B alone is trained
/// (LoRA-FA, arXiv 2308.03303). kOrthonormal: A is drawn with orthonormal rows and stays (Orthogonal Adaptation,
/// arXiv 2312.02432, with a random basis for each adapter: two of them are nearly orthogonal where r is far below k).
/// The artifact holds A either way, so it is a plain LoRA to everybody else.
enum class FrozenFactor { kNone, kRandom, kOrthonormal };

/// "none", "random", "orthonormal".
std::string_view FrozenFactorName(FrozenFactor frozen);
/// Errors: INVALID_ARGUMENT FROZEN_FACTOR_UNKNOWN listing the names.
StatusOr<FrozenFactor> ParseFrozenFactor(std::string_view name);

/// What the adapter's product is multiplied by: alpha / rank, or alpha / sqrt(rank) when rank-stabilised (rsLoRA,
/// arXiv 2312.03732). The only place that computes it.
double AdapterScale(double alpha, int64_t rank, bool rank_stabilized);

inline constexpr std::string_view kAdapterConfigFile = "adapter_config.json";
inline constexpr std::string_view kAdapterModelFile = "adapter_model.safetensors";
/// adapter_config.json's place beside a checkpoint that full fine-tuning left (core/full_checkpoint.h).
inline constexpr std::string_view kFullConfigFile = "sbora_config.json";

struct AdapterConfig {
  AdapterMethod method = AdapterMethod::kSboraFa;
  int64_t rank = 0;
  double alpha = 0.0;
  double dropout = 0.0;
  bool rank_stabilized = false;                   ///< AdapterScale
  FrozenFactor frozen_a = FrozenFactor::kNone;    ///< kLora only
  std::vector<LinearModule> target_modules;  ///< distinct, in kAllLinearModules order
  uint64_t seed = 0;                    ///< of the index vectors, or of A as it was drawn
  int32_t index_generator_version = 0;  ///< 0 for methods without indices
  DType artifact_dtype = DType::kF32;   ///< of the factors; F32 or BF16
  std::string base_model;               ///< name of the base, for people
  std::string base_hash;                ///< ModelFolder::ComputeBaseHash of the base
  ModelConfig base_config;              ///< shapes of the base: an adapter is checkable without it
  BaseQuantization base_quantization = {};
  AdapterPattern pattern = {};  ///< where modules differ in rank or alpha, or not every layer is adapted

  /// Of a module without an entry in the pattern.
  double scale() const { return AdapterScale(alpha, rank, rank_stabilized); }
  double ScaleOf(int64_t layer, LinearModule module) const;
  /// Borrows from this config.
  AdapterPlacement placement() const { return {target_modules, rank, alpha, pattern}; }
  std::vector<AdaptedModule> Modules() const { return AdaptedModules(base_config, placement()); }
  bool operator==(const AdapterConfig&) const = default;
};

/// The text of adapter_config.json, and back. ParseAdapterConfig(ToJson(c)) == c. An adapter of a quantised base has
/// format_version 2, one with a pattern 3, so that a program that knows no such thing refuses it by name.
std::string ToJson(const AdapterConfig& config);
/// Errors: INVALID_ARGUMENT ADAPTER_CONFIG_MALFORMED naming the field, UNIMPLEMENTED ADAPTER_FORMAT_VERSION, and those
/// of CheckAdapterConfig.
StatusOr<AdapterConfig> ParseAdapterConfig(std::string_view json_text);

/// The config in an artifact's folder, an adapter's or a full checkpoint's.
/// Errors: NOT_FOUND ADAPTER_FILE_MISSING; those of ParseAdapterConfig; INVALID_ARGUMENT ADAPTER_CONFIG_MALFORMED for a
/// method under the other's file name.
StatusOr<AdapterConfig> ReadAdapterConfig(const std::filesystem::path& dir);

/// Rank against each target's shape (MaxRank), targets present and distinct, alpha > 0, 0 <= dropout < 1, A frozen for
/// LoRA only, the pattern as CheckPattern says. Full fine-tuning has none of these.
/// Errors: INVALID_ARGUMENT RANK_OUT_OF_RANGE, TARGET_MODULES_EMPTY, TARGET_MODULE_DUPLICATE, ALPHA_OUT_OF_RANGE,
/// DROPOUT_OUT_OF_RANGE, FROZEN_FACTOR_METHOD, and those of CheckPattern, each naming value and limit with a field violation
/// (`rank`, ...).
Status CheckAdapterConfig(const AdapterConfig& config);

/// The dimension an index vector of this method runs over: k for FA, d for FB.
int64_t IndexDim(AdapterMethod method, const ModuleShape& shape);
/// The largest rank of a module: k for FA, d for FB, the smaller of both for LoRA and DoRA.
int64_t MaxRank(AdapterMethod method, const ModuleShape& shape);

/// "model.layers.0.self_attn.q_proj.sbora_index".
std::string IndexTensorName(int64_t layer, LinearModule module);
/// The trained factor of SBoRA: "....sbora_B" [d, r] for FA, "....sbora_A" [r, k] for FB.
std::string FactorTensorName(AdapterMethod method, int64_t layer, LinearModule module);
/// PEFT's names: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" [r, k], ".lora_B.weight" [d, r],
/// ".lora_magnitude_vector" [d].
std::string PeftTensorName(int64_t layer, LinearModule module, std::string_view suffix);

/// What a tensor is to the adapter of its module.
enum class TensorRole { kIndex, kA, kB, kMagnitude };

/// One tensor of an adapted module, as the artifact names it.
struct ModuleTensor {
  TensorRole role = TensorRole::kA;
  std::string name;
  std::vector<int64_t> shape;  ///< kIndex [r], kA [r, k], kB [d, r], kMagnitude [d]
  bool trained = true;         ///< false: an index vector, and A where it is frozen
};

/// What decides them.
struct AdapterForm {
  AdapterMethod method = AdapterMethod::kSboraFa;
  int64_t rank = 0;
  FrozenFactor frozen_a = FrozenFactor::kNone;
};

/// Everything an adapter holds for one module, in the order index, A, B, magnitude: FA index and B; FB index and A;
/// LoRA A and B; DoRA A, B and magnitude. Artifact, checkpoints, counts and the trainer's buffers all follow this list.
/// REQUIRED: the method is not kFull.
std::vector<ModuleTensor> ModuleTensors(const AdapterForm& form, int64_t layer, LinearModule module,
                                        const ModuleShape& shape);

/// All tensors of adapter_model.safetensors, ascending by name. For kFull: those of the checkpoint, in forward order.
std::vector<TensorSpec> ExpectedAdapterTensors(const AdapterConfig& config);
/// Size of adapter_model.safetensors as SafetensorsWriter writes it (with AdapterMetadata), in bytes. For kFull: of the
/// checkpoint's shards and their index.
int64_t ArtifactBytes(const AdapterConfig& config);
/// The __metadata__ every adapter_model.safetensors carries.
std::map<std::string, std::string> AdapterMetadata(const AdapterConfig& config);
/// Trained elements: indices and a frozen A are not counted.
int64_t TrainableParameters(AdapterMethod method, const std::vector<AdaptedModule>& modules,
                            FrozenFactor frozen_a = FrozenFactor::kNone);
/// Of one rank on the same modules of every layer. kFull: all weights.
int64_t TrainableParameters(const ModelConfig& base, AdapterMethod method, int64_t rank,
                            const std::vector<LinearModule>& targets, FrozenFactor frozen_a = FrozenFactor::kNone);

/// An adapter folder opened and checked: config, all expected tensors with dtype and shape, index vectors in range.
class AdapterFolder {
 public:
  /// Errors: NOT_FOUND ADAPTER_FILE_MISSING, INVALID_ARGUMENT ADAPTER_TENSOR_MISMATCH and those of the readers;
  /// FAILED_PRECONDITION FULL_CHECKPOINT for what full fine-tuning left.
  static StatusOr<AdapterFolder> Open(const std::filesystem::path& dir);

  const AdapterConfig& config() const { return config_; }
  const SafetensorsFile& tensors() const { return file_; }
  /// SBoRA only. Errors: NOT_FOUND for a module that is no target.
  StatusOr<std::vector<int32_t>> Indices(int64_t layer, LinearModule module) const;
  /// Any factor by tensor name, widened to float32.
  StatusOr<std::vector<float>> Floats(std::string_view tensor_name) const;

 private:
  AdapterFolder(AdapterConfig config, SafetensorsFile file) : config_(std::move(config)), file_(std::move(file)) {}
  AdapterConfig config_;
  SafetensorsFile file_;
};

}  // namespace sbora::core
