/// A base model in NF4 on disk: what a plain base (model_folder.h) becomes once, to be trained against many times.
///
///   config.json        the base's, with a quantization_config, so that nothing takes the folder for plain weights
///   model.safetensors  or shards and their index, as of a plain base
///   manifest.json      size and SHA-256 of both
///
/// The seven linear weights of a block are replaced by tensors (kernels/nf4/nf4.h says what they mean; n elements in
/// blocks of 64, b blocks in groups of 256, g groups):
///   <module>.nf4_codes U8 [ceil(n / 2)], and one scale for each block:
///   <module>.nf4_scales F32 [b], or with double quantisation
///   <module>.nf4_scale_codes U8 [b], .nf4_group_scales F32 [g], .nf4_offset F32 [1]
/// All other tensors (embeddings, norms, head) keep their name, dtype and bytes. The tokenizer stays with the base. The
/// same base and options give the same bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/model_config.h"
#include "core/model_folder.h"
#include "core/model_writer.h"
#include "core/safetensors.h"

namespace sbora::core {

/// Raised when the same base would become other bytes: a part of every key under which such a folder is kept.
inline constexpr int64_t kNf4FormatVersion = 1;
inline constexpr int64_t kNf4BlockElements = 64;
inline constexpr int64_t kNf4GroupBlocks = 256;

struct Nf4Config {
  ModelConfig model;
  bool double_quantization = true;
  std::string base_hash;  ///< ModelFolder::ComputeBaseHash of the base

  bool operator==(const Nf4Config&) const = default;
};

/// The text of config.json, and back. ParseNf4Config(ToJson(c)) == c.
std::string ToJson(const Nf4Config& config);
/// Errors: those of ParseHfConfig; INVALID_ARGUMENT NF4_CONFIG_MALFORMED naming the field (also for a plain model's
/// config); UNIMPLEMENTED NF4_FORMAT for another format version or other block sizes.
StatusOr<Nf4Config> ParseNf4Config(std::string_view json_text);

/// One linear weight, quantised. Either scales, or the other three.
struct Nf4Parts {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> scale_codes;
  std::vector<float> group_scales;
  std::vector<float> offset;  ///< one
};
/// Quantises the tensor; core has no kernels.
using Nf4Quantizer = std::function<StatusOr<Nf4Parts>(const TensorView& weight_OI)>;

struct Nf4WriteOptions {
  bool double_quantization = true;
  int64_t max_shard_bytes = int64_t{2} << 30;
  std::string known_base_hash = {};  ///< skips hashing the base (reads it once less)
  std::function<void(int64_t tensors_done, int64_t tensors_total)> progress = nullptr;
  std::function<bool()> cancelled = nullptr;
};

/// Streams `base` into `out_dir`, which is created and must be empty, one weight in memory at a time. On error out_dir
/// may hold partial files; manifest.json comes last.
/// Errors: those of the quantizer, with the tensor's name; of the writers; FAILED_PRECONDITION OUTPUT_NOT_EMPTY;
/// CANCELLED.
StatusOr<Nf4Config> WriteNf4Model(const ModelFolder& base, const std::filesystem::path& out_dir,
                                  const Nf4Quantizer& quantize, const Nf4WriteOptions& options);

/// An NF4 folder opened for reading. Thread-safe after Open; move-only. TensorViews are valid while the object lives.
class Nf4ModelFolder {
 public:
  /// Reads all bytes once (`alive` before each file), to hold them against the manifest; then checks that exactly the tensors above are there, with
  /// their shapes, and that all scales are finite and (before centring) not negative.
  /// Errors: NOT_FOUND MODEL_FILE_MISSING; DATA_LOSS NF4_DAMAGED (no good manifest) and those of VerifyManifest; those of ParseNf4Config and SafetensorsFile;
  /// INVALID_ARGUMENT NF4_TENSOR_MISMATCH, NF4_SCALE_RANGE, naming the tensor.
  static StatusOr<Nf4ModelFolder> Open(const std::filesystem::path& dir, const std::function<void()>& alive = {});

  const Nf4Config& config() const { return config_; }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  /// Any tensor of the folder. Errors: NOT_FOUND TENSOR_NOT_FOUND.
  StatusOr<TensorView> Tensor(std::string_view name) const;
  /// A copy of one linear weight's tensors.
  StatusOr<Nf4Parts> Weight(int64_t layer, LinearModule module) const;

 private:
  Nf4ModelFolder() = default;
  Status CheckTensors() const;

  std::filesystem::path dir_;
  Nf4Config config_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_tensor_;
};

}  // namespace sbora::core
