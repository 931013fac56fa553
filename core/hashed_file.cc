#include "core/hashed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "common/status_macros.h"

namespace sbora::core {

HashedFile::~HashedFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status HashedFile::Open() {
  std::string temporary = path_.string() + ".tmp-XXXXXX";
  fd_ = UniqueFd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd_.valid()) return FromErrno(errno, fmt::format("creating {}", temporary));
  temporary_ = temporary;
  if (::fchmod(fd_.get(), 0644) != 0) return FromErrno(errno, fmt::format("permissions of {}", temporary_));
  return OkStatus();
}

Status HashedFile::Write(std::string_view bytes) {
  SBORA_RETURN_IF_ERROR(WriteAll(fd_.get(), bytes, temporary_));
  hash_.Update(bytes);
  written_bytes_ += static_cast<int64_t>(bytes.size());
  return OkStatus();
}

Status HashedFile::Write(std::span<const std::byte> bytes) {
  return Write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

StatusOr<WrittenFile> HashedFile::Finish() {
  if (::fsync(fd_.get()) != 0) return FromErrno(errno, fmt::format("fsync of {}", temporary_));
  fd_.Reset();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return FromErrno(errno, fmt::format("renaming {} to {}", temporary_, path_.string()));
  }
  temporary_.clear();
  const auto parent = path_.parent_path();
  SBORA_RETURN_IF_ERROR(SyncDirectory(parent.empty() ? "." : parent));
  return WrittenFile{.name = path_.filename().string(), .size_bytes = written_bytes_, .sha256 = hash_.FinishHex()};
}

}  // namespace sbora::core
