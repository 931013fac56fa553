#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "common/status_macros.h"
#include "core/hashed_file.h"
#include "core/safetensors.h"

namespace sbora::core {
namespace {

/// Header text: metadata first, then tensors in declared order, padded with blanks so that data starts at a multiple
/// of 8. Written by hand because the order of keys has to follow the order of bytes.
StatusOr<std::string> BuildHeader(const std::vector<TensorSpec>& tensors,
                                  const std::map<std::string, std::string>& metadata, int64_t* data_bytes) {
  std::string text = "{";
  if (!metadata.empty()) text += fmt::format("\"__metadata__\":{}", nlohmann::json(metadata).dump());
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const TensorSpec& spec : tensors) {
    if (!names.insert(spec.name).second || spec.name == "__metadata__") {
      return InvalidArgument("TENSOR_DUPLICATE", fmt::format("tensor \"{}\" is declared twice", spec.name));
    }
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(spec));
    const int64_t begin = offset;
    if (__builtin_add_overflow(offset, bytes, &offset)) {
      return InvalidArgument("TENSOR_TOO_LARGE", fmt::format("the file overflows at tensor \"{}\"", spec.name));
    }
    text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", text.size() > 1 ? "," : "",
                        nlohmann::json(spec.name).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                        DTypeName(spec.dtype), nlohmann::json(spec.shape).dump(), begin, offset);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  if (static_cast<int64_t>(text.size()) > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("TENSOR_TOO_LARGE", fmt::format("a header of {} bytes exceeds {}", text.size(),
                                                           kMaxSafetensorsHeaderBytes));
  }
  *data_bytes = offset;
  std::string header(8, '\0');
  for (size_t i = 0; i < 8; ++i) header[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  return header + text;
}

}  // namespace

struct SafetensorsWriter::Impl {
  explicit Impl(const std::filesystem::path& path) : file(path) {}
  HashedFile file;
  int64_t due_bytes = 0;
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::filesystem::path& path,
                                                      std::vector<TensorSpec> tensors,
                                                      const std::map<std::string, std::string>& metadata) {
  auto impl = std::make_unique<Impl>(path);
  SBORA_ASSIGN_OR_RETURN(const std::string header, BuildHeader(tensors, metadata, &impl->due_bytes));
  SBORA_RETURN_IF_ERROR(impl->file.Open());
  SBORA_RETURN_IF_ERROR(impl->file.Write(header));
  impl->due_bytes += static_cast<int64_t>(header.size());
  return SafetensorsWriter(std::move(impl));
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  const int64_t due = impl_->due_bytes - impl_->file.written_bytes();
  if (static_cast<int64_t>(bytes.size()) > due) {
    return OutOfRange("TENSOR_DATA_EXCESS", fmt::format("{}: {} bytes appended, {} are due", impl_->file.path().string(),
                                                        bytes.size(), due));
  }
  return impl_->file.Write(bytes);
}

StatusOr<WrittenFile> SafetensorsWriter::Finish() {
  if (impl_->file.written_bytes() != impl_->due_bytes) {
    return FailedPrecondition("TENSOR_DATA_MISSING",
                              fmt::format("{}: {} of {} bytes written", impl_->file.path().string(),
                                          impl_->file.written_bytes(), impl_->due_bytes));
  }
  return impl_->file.Finish();
}

StatusOr<int64_t> SafetensorsFileBytes(const std::vector<TensorSpec>& tensors,
                                       const std::map<std::string, std::string>& metadata) {
  int64_t data_bytes = 0;
  SBORA_ASSIGN_OR_RETURN(const std::string header, BuildHeader(tensors, metadata, &data_bytes));
  return static_cast<int64_t>(header.size()) + data_bytes;
}

StatusOr<WrittenFile> WriteSafetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSpec> specs;
  for (const TensorToWrite& tensor : tensors) specs.push_back(tensor.spec);
  SBORA_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, std::move(specs), metadata));
  for (const TensorToWrite& tensor : tensors) {
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor.spec));
    if (bytes != static_cast<int64_t>(tensor.data.size())) {
      return InvalidArgument("SIZE_MISMATCH", fmt::format("tensor \"{}\" needs {} bytes, {} given", tensor.spec.name,
                                                          bytes, tensor.data.size()));
    }
    SBORA_RETURN_IF_ERROR(writer.Append(tensor.data));
  }
  return writer.Finish();
}

}  // namespace sbora::core
