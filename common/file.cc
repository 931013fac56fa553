#include "common/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "common/ids.h"
#include "common/status_macros.h"

namespace sbora {

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

int UniqueFd::Release() { return std::exchange(fd_, -1); }

void UniqueFd::Reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

StatusOr<std::string> ReadFile(const std::filesystem::path& path, int64_t max_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return FromErrno(errno, fmt::format("inspecting {}", path.string()));
  if (S_ISDIR(info.st_mode)) {
    return InvalidArgument("NOT_A_FILE", fmt::format("{} is a folder; name a file", path.string()));
  }
  std::string bytes;
  std::string buffer(1 << 16, '\0');
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FromErrno(errno, fmt::format("reading {}", path.string()));
    if (got == 0) return bytes;
    if (static_cast<int64_t>(bytes.size()) + got > max_bytes) {
      return OutOfRange("FILE_TOO_LARGE", fmt::format("{} is larger than {} bytes, the most that is read of it",
                                                      path.string(), max_bytes));
    }
    bytes.append(buffer.data(), static_cast<size_t>(got));
  }
}

Status WriteAll(int fd, std::string_view bytes, std::string_view what) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return FromErrno(errno, fmt::format("writing {}", what));
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return OkStatus();
}

Status SyncDirectory(const std::filesystem::path& directory) {
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", directory.string()));
  if (::fsync(fd.get()) != 0) return FromErrno(errno, fmt::format("syncing {}", directory.string()));
  return OkStatus();
}

namespace {

Status WriteAndSync(const std::filesystem::path& path, std::string_view bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return FromErrno(errno, fmt::format("creating {}", path.string()));
  SBORA_RETURN_IF_ERROR(WriteAll(fd.get(), bytes, path.string()));
  if (::fsync(fd.get()) != 0) return FromErrno(errno, fmt::format("syncing {}", path.string()));
  return OkStatus();
}

}  // namespace

Status WriteFileAtomic(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path temporary = path.string() + "." + NewUuid4().substr(0, 8) + ".tmp";
  Status status = WriteAndSync(temporary, bytes);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
    status = FromErrno(errno, fmt::format("renaming {} to {}", temporary.string(), path.string()));
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return SyncDirectory(path.has_parent_path() ? path.parent_path() : ".");
}

StatusOr<TempDirectory> TempDirectory::Create(const std::filesystem::path& parent, std::string_view prefix) {
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (error) return FromErrno(error.value(), fmt::format("creating {}", parent.string()));
  std::string pattern = (parent / fmt::format("{}.XXXXXX", prefix)).string();
  if (::mkdtemp(pattern.data()) == nullptr) return FromErrno(errno, fmt::format("creating {}", pattern));
  return TempDirectory(pattern);
}

TempDirectory::TempDirectory(TempDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}

TempDirectory& TempDirectory::operator=(TempDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TempDirectory::~TempDirectory() {
  std::error_code error;  // best effort: a leftover folder is swept at the next start
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
}

StatusOr<MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return FromErrno(errno, fmt::format("inspecting {}", path.string()));
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument("NOT_A_FILE", fmt::format("{} is no regular file; name one", path.string()));
  }
  MappedFile file;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ == 0) return file;
  void* address = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED) {
    file.size_ = 0;
    return FromErrno(errno, fmt::format("mapping {}", path.string()));
  }
  file.data_ = static_cast<const std::byte*>(address);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace sbora
