#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
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
  std::filesystem::path path;
  std::string temporary;
  UniqueFd fd;
  Sha256 hash;
  int64_t due_bytes = 0;
  int64_t written_bytes = 0;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (!temporary.empty()) ::unlink(temporary.c_str());
  }

  Status Write(std::string_view bytes) {
    SBORA_RETURN_IF_ERROR(WriteAll(fd.get(), bytes, temporary));
    hash.Update(bytes);
    written_bytes += static_cast<int64_t>(bytes.size());
    return OkStatus();
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::filesystem::path& path,
                                                      std::vector<TensorSpec> tensors,
                                                      const std::map<std::string, std::string>& metadata) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  SBORA_ASSIGN_OR_RETURN(const std::string header, BuildHeader(tensors, metadata, &impl->due_bytes));
  std::string temporary = path.string() + ".tmp-XXXXXX";
  impl->fd = UniqueFd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!impl->fd.valid()) return FromErrno(errno, fmt::format("creating {}", temporary));
  impl->temporary = temporary;
  if (::fchmod(impl->fd.get(), 0644) != 0) return FromErrno(errno, fmt::format("permissions of {}", temporary));
  SBORA_RETURN_IF_ERROR(impl->Write(header));
  impl->due_bytes += static_cast<int64_t>(header.size());
  return SafetensorsWriter(std::move(impl));
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (static_cast<int64_t>(bytes.size()) > impl_->due_bytes - impl_->written_bytes) {
    return OutOfRange("TENSOR_DATA_EXCESS", fmt::format("{}: {} bytes appended, {} are due", impl_->path.string(),
                                                        bytes.size(), impl_->due_bytes - impl_->written_bytes));
  }
  return impl_->Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

StatusOr<WrittenFile> SafetensorsWriter::Finish() {
  if (impl_->written_bytes != impl_->due_bytes) {
    return FailedPrecondition("TENSOR_DATA_MISSING",
                              fmt::format("{}: {} of {} bytes written", impl_->path.string(), impl_->written_bytes,
                                          impl_->due_bytes));
  }
  if (::fsync(impl_->fd.get()) != 0) return FromErrno(errno, fmt::format("fsync of {}", impl_->temporary));
  impl_->fd.Reset();
  if (::rename(impl_->temporary.c_str(), impl_->path.c_str()) != 0) {
    return FromErrno(errno, fmt::format("renaming {} to {}", impl_->temporary, impl_->path.string()));
  }
  impl_->temporary.clear();
  const auto parent = impl_->path.parent_path();
  SBORA_RETURN_IF_ERROR(SyncDirectory(parent.empty() ? "." : parent));
  return WrittenFile{.name = impl_->path.filename().string(), .size_bytes = impl_->written_bytes,
                     .sha256 = impl_->hash.FinishHex()};
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
