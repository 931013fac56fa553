/// A model in NF4 on disk: a base as a plain one (model_folder.h) becomes it once, to be trained against many times, or
/// such a base with SBoRA adapters merged in (nf4_merge.h).
///
///   config.json        the base's, with a quantization_config, so that nothing takes the folder for plain weights
///   model.safetensors  or shards and their index, as of a plain base
///   manifest.json      of a base: size and SHA-256 of both
///   tokenizer.json ... of a merged model: what its plain base has
///
/// The seven linear weights of a block are replaced by tensors (kernels/nf4/nf4.h says what they mean; W is [d, k] with
/// n = d k elements in blocks of 64, b blocks in groups of 256, g groups):
///   <module>.nf4_codes U8 [ceil(n / 2)], and one scale for each block:
///   <module>.nf4_scales F32 [b], or with double quantisation
///   <module>.nf4_scale_codes U8 [b], .nf4_group_scales F32 [g], .nf4_offset F32 [1]
/// A merged model may hold, beside these, which stay what they were:
///   <module>.nf4_row_index I32 [r], .nf4_row_scales F32 [r, ceil(k / 64)]: rows whose codes were made anew, in blocks
///       that begin with the row; their scales in nf4_scales or nf4_scale_codes are not looked at
///   <module>.nf4_column_index I32 [c], .nf4_columns F32 [d, c]: columns whose values stand here, whatever the codes say,
///       also where they cross such a row
/// Index vectors ascend. All other tensors (embeddings, norms, head) keep their name, dtype and bytes. The tokenizer stays
/// with the plain base. The same base and options give the same bytes.
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
#include "core/nf4_config.h"
#include "core/safetensors.h"

namespace sbora::core {

/// One linear weight, quantised. Either scales, or the next three; rows and columns of merged models only.
struct Nf4Parts {
  std::vector<uint8_t> codes;
  std::vector<float> scales = {};
  std::vector<uint8_t> scale_codes = {};
  std::vector<float> group_scales = {};
  std::vector<float> offset = {};  ///< one
  std::vector<int32_t> row_index = {};
  std::vector<float> row_scales = {};  ///< [r, ceil(k / 64)]
  std::vector<int32_t> column_index = {};
  std::vector<float> columns = {};  ///< [d, c]

  bool operator==(const Nf4Parts&) const = default;
};
/// Quantises the tensor; core has no kernels.
using Nf4Quantizer = std::function<StatusOr<Nf4Parts>(const TensorView& weight_OI)>;

/// The tensors that stand for one linear weight, in the order of the file. `rows` and `columns`: how many are kept aside.
std::vector<TensorSpec> Nf4PartSpecs(const std::string& module, const ModuleShape& shape, bool double_quantization,
                                     int64_t rows = 0, int64_t columns = 0);
/// Those tensors with their bytes, which `parts` owns.
std::vector<TensorToWrite> Nf4Tensors(const std::string& module, const ModuleShape& shape, const Nf4Parts& parts);

/// The codes of one row in a sequence of its own: [ceil(k / 2)], the earlier in the high half, an odd end padded with 0.
std::vector<uint8_t> Nf4RowCodes(const Nf4Parts& parts, const ModuleShape& shape, int64_t row);
/// Puts them back. REQUIRED: row_codes as Nf4RowCodes gives them.
void SetNf4RowCodes(std::span<const uint8_t> row_codes, const ModuleShape& shape, int64_t row, Nf4Parts& parts);

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

/// Writes the manifest of a base: of `files`, its config.json, shards and index.
Status WriteNf4Manifest(const std::filesystem::path& dir, std::vector<WrittenFile> files);

/// An NF4 folder opened for reading. Thread-safe after Open; move-only. TensorViews are valid while the object lives.
class Nf4ModelFolder {
 public:
  /// Reads all bytes once (`alive` before each file, or after each tensor), to hold a base against its manifest and a
  /// merged model against its hash; then checks that exactly the tensors above are there, with their shapes, that index
  /// vectors ascend within the weight, and that all scales are finite and (before centring) not negative.
  /// Errors: NOT_FOUND MODEL_FILE_MISSING; DATA_LOSS NF4_DAMAGED (no good manifest, another hash) and those of
  /// VerifyManifest; those of ParseNf4Config and SafetensorsFile; INVALID_ARGUMENT NF4_TENSOR_MISMATCH, NF4_SCALE_RANGE,
  /// naming the tensor.
  static StatusOr<Nf4ModelFolder> Open(const std::filesystem::path& dir, const std::function<void()>& alive = {});

  const Nf4Config& config() const { return config_; }
  const std::filesystem::path& dir() const { return dir_; }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  /// Ascending.
  std::vector<std::string> tensor_names() const;
  /// Any tensor of the folder. Errors: NOT_FOUND TENSOR_NOT_FOUND.
  StatusOr<TensorView> Tensor(std::string_view name) const;
  /// A copy of one linear weight's tensors.
  StatusOr<Nf4Parts> Weight(int64_t layer, LinearModule module) const;
  /// WeightsHash of all tensors; independent of sharding, config and tokenizer.
  std::string ComputeHash(const std::function<void()>& tensor_done = {}) const;

 private:
  Nf4ModelFolder() = default;
  Status CheckBytes(const std::function<void()>& alive) const;
  Status CheckTensors() const;
  StatusOr<int64_t> CheckModule(const std::string& module, const ModuleShape& shape) const;
  Status CheckTensor(const TensorSpec& spec, bool any_weight_dtype) const;

  std::filesystem::path dir_;
  Nf4Config config_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_tensor_;
};

/// WeightsHash of the tensors in a folder's shards, whatever its config says. `tensor_done` after each.
/// Errors: those of OpenShards.
StatusOr<std::string> HashOfNf4Shards(const std::filesystem::path& dir, const std::function<void()>& tensor_done = {});

/// "model.layers.0.self_attn.q_proj" for any tensor of that linear layer's weight, plain or in NF4; empty for others.
std::string LinearModuleOfTensor(std::string_view tensor_name);

}  // namespace sbora::core
