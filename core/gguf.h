/// Reading GGUF files, version 2 and 3, little-endian.
///
/// Hostile input safe: each count, length, offset and alignment is checked against the file before use. Violations are
/// INVALID_ARGUMENT GGUF_MALFORMED or GGUF_TRUNCATED, other versions and byte orders UNIMPLEMENTED GGUF_VERSION.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/file.h"
#include "common/status.h"

namespace sbora::core {

/// Values of ggml's enum that this reader de-quantises; a file may hold others, Dequantize then refuses them by name.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kBF16 = 30,
};
/// "Q4_1", also for types that are known by name only ("Q4_K"); "type 99" for the rest.
std::string GgmlTypeName(uint32_t type);

using GgufArray = std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;
/// Integers of all widths arrive as int64_t (UINT64 above 2^63-1 is refused), floats as double, booleans as bool.
using GgufValue = std::variant<int64_t, double, bool, std::string, GgufArray>;

struct GgufTensor {
  std::string name;
  uint32_t type = 0;           ///< ggml's number; GgmlType where supported
  std::vector<int64_t> shape;  ///< row-major (outermost first), the reverse of GGUF's own order
  std::span<const std::byte> data;  ///< empty when the type is not supported

  int64_t elements() const;
};

/// Thread-safe after Open; move-only. Spans are valid while the object lives.
class GgufFile {
 public:
  static StatusOr<GgufFile> Open(const std::filesystem::path& path);

  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  /// In file order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// nullptr when absent.
  const GgufTensor* Find(std::string_view name) const;

  bool Has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  /// Errors: NOT_FOUND GGUF_KEY_MISSING, INVALID_ARGUMENT GGUF_KEY_TYPE.
  StatusOr<int64_t> Int(std::string_view key) const;
  /// Accepts integers too.
  StatusOr<double> Float(std::string_view key) const;
  StatusOr<bool> Bool(std::string_view key) const;
  StatusOr<std::string> String(std::string_view key) const;
  /// Borrowed from the file object.
  StatusOr<const std::vector<std::string>*> Strings(std::string_view key) const;
  StatusOr<const std::vector<int64_t>*> Ints(std::string_view key) const;
  StatusOr<const std::vector<double>*> Floats(std::string_view key) const;

 private:
  GgufFile() = default;
  MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
};

/// All elements as float32, row-major. Errors: UNIMPLEMENTED GGML_TYPE_UNSUPPORTED naming tensor and type (K-quants and
/// others).
StatusOr<std::vector<float>> Dequantize(const GgufTensor& tensor);

}  // namespace sbora::core
