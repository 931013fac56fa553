/// Writing GGUF files, version 3, little-endian: tensors are declared first, then their values are appended.
///
///     GgufMetadata metadata;
///     metadata.String("general.architecture", "llama");
///     SBORA_ASSIGN_OR_RETURN(auto writer, GgufWriter::Create(path, metadata, {{"t", GgmlType::kQ8_0, {4, 64}}}));
///     SBORA_RETURN_IF_ERROR(writer->Append(values));   // 4 * 64 floats, in any number of calls of whole rows
///     SBORA_ASSIGN_OR_RETURN(const WrittenFile file, writer->Finish());
///
/// The same calls give the same bytes: no dates, no names of machines. Memory: one call's rows, encoded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/gguf.h"
#include "core/safetensors.h"

namespace sbora::core {

/// Key-value pairs, written in the order of the calls. Keys must differ.
class GgufMetadata {
 public:
  void String(std::string_view key, std::string_view value);
  void Uint32(std::string_view key, uint32_t value);
  void Float32(std::string_view key, float value);
  void Bool(std::string_view key, bool value);
  void Strings(std::string_view key, const std::vector<std::string>& values);
  void Int32s(std::string_view key, const std::vector<int32_t>& values);
  void Float32s(std::string_view key, const std::vector<float>& values);

  uint64_t size() const { return size_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void Key(std::string_view key, uint32_t type);

  std::string bytes_;
  uint64_t size_ = 0;
};

struct GgufTensorSpec {
  std::string name;
  GgmlType type = GgmlType::kF32;  ///< kF32, kF16 or kQ8_0
  std::vector<int64_t> shape;      ///< row-major (outermost first), the reverse of GGUF's own order
};

/// Appends `values` to `out` as ggml stores them.
/// kF32: as they are. kF16: rounded to nearest even. kQ8_0: blocks of 32 with scale d = max |x| / 127 (kept as half) and
/// codes round(x * (1 / d)), halves away from zero, all in float32 as ggml's reference does; a block whose d is 0 or
/// below the range of 1 / d is all zeros.
/// Errors: FAILED_PRECONDITION GGUF_VALUE_RANGE for a value that is not finite, or too large for a half (kF16: |x| >=
/// 65520, kQ8_0: |x| / 127 >= 65520); INVALID_ARGUMENT GGUF_ROW_LENGTH unless kQ8_0 gets whole blocks;
/// UNIMPLEMENTED GGML_TYPE_UNSUPPORTED for another type.
Status EncodeGgml(GgmlType type, std::span<const float> values, std::vector<std::byte>& out);

/// Not thread-safe. After an error only destruction is allowed; nothing is left on disk without Finish.
class GgufWriter {
 public:
  /// Errors: INVALID_ARGUMENT GGUF_ROW_LENGTH for kQ8_0 rows that are no multiple of 32, TENSOR_DUPLICATE,
  /// TENSOR_TOO_LARGE; UNIMPLEMENTED GGML_TYPE_UNSUPPORTED; file system errors by errno.
  static StatusOr<std::unique_ptr<GgufWriter>> Create(const std::filesystem::path& path, const GgufMetadata& metadata,
                                                      std::vector<GgufTensorSpec> tensors);
  ~GgufWriter();

  /// The next values, row-major, of the tensors in declared order; a call must not cross a tensor's end.
  /// Errors: those of EncodeGgml, naming the tensor; OUT_OF_RANGE TENSOR_DATA_EXCESS.
  Status Append(std::span<const float> values);
  /// Errors: FAILED_PRECONDITION TENSOR_DATA_MISSING when values are still due.
  StatusOr<WrittenFile> Finish();

 private:
  struct Impl;
  explicit GgufWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::core
