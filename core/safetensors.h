/// Reading and writing safetensors files.
///
/// The reader trusts nothing: header at most 100 MB, ranges without holes or overlaps that cover the file exactly,
/// distinct names, dtype x shape equal to the range and free of overflow. Violations are INVALID_ARGUMENT with reason
/// SAFETENSORS_MALFORMED (SAFETENSORS_TRUNCATED when the file is shorter than its header says), naming file and tensor.
///
///     SBORA_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
///     SBORA_ASSIGN_OR_RETURN(const TensorView weight, file.Tensor("model.norm.weight"));
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.h"
#include "common/status.h"
#include "core/dtype.h"

namespace sbora::core {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

/// A tensor inside a mapped file: row-major, little-endian. `data` may be unaligned for its dtype in files written by
/// others (ours align the data section to 8 bytes); valid while the SafetensorsFile lives.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;

  int64_t elements() const;
};

/// What a tensor looks like, without bytes.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  bool operator==(const TensorSpec&) const = default;
};

/// Elements times element size. Errors: INVALID_ARGUMENT TENSOR_TOO_LARGE on overflow of int64 or a negative extent.
StatusOr<int64_t> TensorBytes(const TensorSpec& spec);

/// Thread-safe after Open; move-only.
class SafetensorsFile {
 public:
  static StatusOr<SafetensorsFile> Open(const std::filesystem::path& path);

  /// In ascending order of name.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  bool Contains(std::string_view name) const;
  /// Errors: NOT_FOUND TENSOR_NOT_FOUND naming file and tensor.
  StatusOr<TensorView> Tensor(std::string_view name) const;
  /// The header's __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }
  /// Tells the kernel that the pages are not needed again soon; a later access reads them from disk.
  void Evict() const;

 private:
  SafetensorsFile() = default;
  std::filesystem::path path_;
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// A written file: size and lower-case hexadecimal SHA-256 of all its bytes.
struct WrittenFile {
  std::string name;
  int64_t size_bytes = 0;
  std::string sha256;

  bool operator==(const WrittenFile&) const = default;
};

/// Streams one file: tensors are declared first, then their bytes are appended in the declared order. Nothing appears
/// under `path` before Finish, which fsyncs and renames; an unfinished writer removes its temporary file.
/// Not thread-safe. After an error only destruction is allowed.
class SafetensorsWriter {
 public:
  /// Errors: INVALID_ARGUMENT TENSOR_DUPLICATE, TENSOR_TOO_LARGE; file system errors by errno.
  static StatusOr<SafetensorsWriter> Create(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                                            const std::map<std::string, std::string>& metadata = {});
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  /// The next bytes of the data section. Any split is allowed. Errors: OUT_OF_RANGE TENSOR_DATA_EXCESS.
  Status Append(std::span<const std::byte> bytes);
  /// Errors: FAILED_PRECONDITION TENSOR_DATA_MISSING when bytes are still due.
  StatusOr<WrittenFile> Finish();

 private:
  struct Impl;
  explicit SafetensorsWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Size of the file SafetensorsWriter makes of these, header included. Errors as Create.
StatusOr<int64_t> SafetensorsFileBytes(const std::vector<TensorSpec>& tensors,
                                       const std::map<std::string, std::string>& metadata = {});

/// One tensor with its bytes, for small files.
struct TensorToWrite {
  TensorSpec spec;
  std::span<const std::byte> data;
};
/// Writes a whole file at once.
StatusOr<WrittenFile> WriteSafetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                                       const std::map<std::string, std::string>& metadata = {});

}  // namespace sbora::core
