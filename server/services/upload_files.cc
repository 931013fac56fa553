#include "server/services/upload_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::server {
namespace {

constexpr size_t kReadBytes = 1 << 20;

}  // namespace

struct UploadFiles::Writer::Entry {
  std::string uid;
  int64_t size_bytes = 0;
  Mutex mutex;
  UniqueFd fd SBORA_GUARDED_BY(mutex);
  int64_t received SBORA_GUARDED_BY(mutex) = 0;
  Sha256 hash SBORA_GUARDED_BY(mutex);               // of the first `hashed` bytes
  int64_t hashed SBORA_GUARDED_BY(mutex) = 0;        // less than `received` when another process received the rest
  std::string sha256 SBORA_GUARDED_BY(mutex);        // of all bytes, once they were sealed

  Status CatchUp(const std::filesystem::path& path) SBORA_REQUIRES(mutex);
  int64_t generation SBORA_GUARDED_BY(mutex) = 0;  // of the newest writer
};

/// Hashes what is in the file behind the first `hashed` bytes.
Status UploadFiles::Writer::Entry::CatchUp(const std::filesystem::path& path) {
  const UniqueFd in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in.valid()) return FromErrno(errno, path.string());
  std::string piece(kReadBytes, '\0');
  while (hashed < received) {
    const size_t wanted = std::min<size_t>(piece.size(), static_cast<size_t>(received - hashed));
    const ssize_t got = ::pread(in.get(), piece.data(), wanted, hashed);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FromErrno(errno, path.string());
    if (got == 0) return DataLoss("UPLOAD_SHRANK", fmt::format("{} ends at {} of {} bytes; another program cut it off, upload again", path.string(),
                                                          hashed, received));
    hash.Update(std::string_view(piece).substr(0, static_cast<size_t>(got)));
    hashed += got;
  }
  return OkStatus();
}

/// The table keeps the entry; no file stays open for an upload that nobody writes.
UploadFiles::Writer::~Writer() {
  MutexLock lock(entry_->mutex);
  if (entry_->generation == generation_) entry_->fd = UniqueFd();
}

int64_t UploadFiles::Writer::received_bytes() const {
  MutexLock lock(entry_->mutex);
  return entry_->received;
}

Status UploadFiles::Writer::Append(int64_t offset, std::string_view data) {
  MutexLock lock(entry_->mutex);
  if (entry_->generation != generation_) {
    return Aborted("UPLOAD_TAKEN_OVER", fmt::format("upload {} is being written by a newer call", entry_->uid));
  }
  if (offset != entry_->received) {
    return OutOfRange("UPLOAD_OFFSET", fmt::format("offset {} does not follow what was received; go on at {}", offset, entry_->received))
        .WithMetadata("expected_offset", std::to_string(entry_->received));
  }
  if (entry_->received + static_cast<int64_t>(data.size()) > entry_->size_bytes) {
    return OutOfRange("UPLOAD_TOO_LONG", fmt::format("{} bytes at offset {} exceed the announced size of {} bytes", data.size(), offset,
                                                     entry_->size_bytes));
  }
  const Status written = WriteAll(entry_->fd.get(), data, fmt::format("upload {}", entry_->uid));
  if (!written.ok()) {
    // A full disk may have taken half of the chunk; the file must end where `received` says.
    if (::ftruncate(entry_->fd.get(), entry_->received) != 0) return FromErrno(errno, fmt::format("upload {}", entry_->uid));
    return written;
  }
  if (entry_->hashed == entry_->received) {
    entry_->hash.Update(data);
    entry_->hashed += static_cast<int64_t>(data.size());
  }
  entry_->received += static_cast<int64_t>(data.size());
  return OkStatus();
}

Status UploadFiles::Writer::Sync() {
  MutexLock lock(entry_->mutex);
  if (::fdatasync(entry_->fd.get()) == 0) return OkStatus();
  return FromErrno(errno, fmt::format("syncing upload {}", entry_->uid));
}

StatusOr<std::unique_ptr<UploadFiles>> UploadFiles::Create(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return FromErrno(error.value(), directory.string());
  return std::unique_ptr<UploadFiles>(new UploadFiles(directory));
}

std::shared_ptr<UploadFiles::Writer::Entry> UploadFiles::EntryOf(const std::string& uid, int64_t size_bytes) {
  MutexLock lock(mutex_);
  std::shared_ptr<Writer::Entry>& entry = entries_[uid];
  if (entry == nullptr) {
    entry = std::make_shared<Writer::Entry>();
    entry->uid = uid;
    entry->size_bytes = size_bytes;
  }
  return entry;
}

StatusOr<std::unique_ptr<UploadFiles::Writer>> UploadFiles::Open(const std::string& uid, int64_t size_bytes) {
  // Not under the table's lock: an older writer of this upload may be syncing gigabytes, and others must not wait for that.
  const std::shared_ptr<Writer::Entry> entry = EntryOf(uid, size_bytes);
  MutexLock entry_lock(entry->mutex);
  // The file is opened anew each time: after a full disk its length may differ from what the older writer believed.
  entry->fd = UniqueFd(::open(PathOf(uid).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!entry->fd.valid()) return FromErrno(errno, PathOf(uid).string());
  struct stat info {};
  if (::fstat(entry->fd.get(), &info) != 0) return FromErrno(errno, PathOf(uid).string());
  if (entry->received != info.st_size) {
    entry->received = info.st_size;
    entry->sha256.clear();
    if (entry->hashed > entry->received) {
      entry->hash = Sha256();
      entry->hashed = 0;
    }
  }
  return std::unique_ptr<Writer>(new Writer(entry, ++entry->generation));
}

int64_t UploadFiles::Received(const std::string& uid) const {
  std::error_code error;
  const auto size = std::filesystem::file_size(PathOf(uid), error);
  return error ? 0 : static_cast<int64_t>(size);
}

StatusOr<UploadFiles::Sealed> UploadFiles::Seal(const std::string& uid, int64_t size_bytes) {
  SBORA_ASSIGN_OR_RETURN(const std::unique_ptr<Writer> writer, Open(uid, size_bytes));
  SBORA_RETURN_IF_ERROR(writer->Sync());
  Writer::Entry& entry = *writer->entry_;
  MutexLock lock(entry.mutex);
  Sealed sealed{.path = PathOf(uid), .received_bytes = entry.received, .sha256 = ""};
  if (entry.received < size_bytes) return sealed;
  if (entry.sha256.empty()) {
    SBORA_RETURN_IF_ERROR(entry.CatchUp(sealed.path));
    entry.sha256 = std::exchange(entry.hash, Sha256()).FinishHex();
  }
  sealed.sha256 = entry.sha256;
  return sealed;
}

void UploadFiles::Remove(const std::string& uid) {
  std::shared_ptr<Writer::Entry> entry;
  {
    MutexLock lock(mutex_);
    if (const auto found = entries_.find(uid); found != entries_.end()) {
      entry = std::move(found->second);
      entries_.erase(found);
    }
  }
  if (entry != nullptr) {
    MutexLock entry_lock(entry->mutex);
    ++entry->generation;  // a writer's bytes would go into a file without a name
  }
  std::error_code ignored;  // a file that is gone already is what we want
  std::filesystem::remove(PathOf(uid), ignored);
}

}  // namespace sbora::server
