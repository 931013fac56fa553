#include "worker/agent/cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "common/clock.h"
#include "common/logging.h"
#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::agent {
namespace fs = std::filesystem;
namespace {

constexpr auto kPartsLive = std::chrono::hours(24);
constexpr size_t kKeyLength = 64;
constexpr int64_t kNanosInSecond = 1'000'000'000;

int64_t FolderBytes(const fs::path& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error)) bytes += static_cast<int64_t>(it->file_size(error));
  }
  return bytes;
}

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * kNanosInSecond + time.tv_nsec; }

struct EntryName {
  std::string key;
  int64_t number = 1;
};

/// `<key>` or `<key>.<n>`; nullopt for any other name.
std::optional<EntryName> ParseEntryName(const std::string& name) {
  EntryName parsed{.key = name.substr(0, kKeyLength)};
  if (!IsSha256Hex(parsed.key)) return std::nullopt;
  if (name.size() == kKeyLength) return parsed;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kKeyLength + 1, end, parsed.number);
  if (name[kKeyLength] != '.' || error != std::errc() || rest != end || parsed.number < 2) return std::nullopt;
  return parsed;
}

void Remove(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) LogWarn("cache entry not removed", {{"path", path.string()}, {"error", error.message()}});
}

}  // namespace

CachePin::CachePin(CachePin&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)), key_(std::move(other.key_)), path_(std::move(other.path_)) {}

CachePin& CachePin::operator=(CachePin&& other) noexcept {
  if (this != &other) {
    Release();
    cache_ = std::exchange(other.cache_, nullptr);
    key_ = std::move(other.key_);
    path_ = std::move(other.path_);
  }
  return *this;
}

CachePin::~CachePin() { Release(); }

void CachePin::Release() {
  if (cache_ != nullptr) cache_->Unpin(key_, path_);
  cache_ = nullptr;
}

StatusOr<std::unique_ptr<Cache>> Cache::Open(const fs::path& directory, int64_t max_bytes,
                                             std::function<void()> on_damaged) {
  std::unique_ptr<Cache> cache(new Cache(directory, max_bytes, std::move(on_damaged)));
  SBORA_RETURN_IF_ERROR(cache->Scan());
  return cache;
}

Status Cache::Scan() {
  std::error_code error;
  for (const char* part : {"files", "folders"}) {
    fs::create_directories(directory_ / part, error);
    if (error) return FromErrno(error.value(), fmt::format("making {}", (directory_ / part).string()));
  }
  MutexLock lock(mutex_);
  for (const char* part : {"files", "folders"}) {
    for (const auto& item : fs::directory_iterator(directory_ / part, error)) {
      const std::string name = item.path().filename().string();
      if (const auto parsed = ParseEntryName(name)) {
        TakeOverLocked(item.path(), parsed->key, parsed->number);
      } else if (!name.ends_with(".part") || fs::file_time_type::clock::now() - item.last_write_time(error) > kPartsLive) {
        fs::remove_all(item.path(), error);
      }
    }
    if (error) return FromErrno(error.value(), fmt::format("reading {}", (directory_ / part).string()));
  }
  EvictLocked();
  return OkStatus();
}

void Cache::TakeOverLocked(const fs::path& path, const std::string& key, int64_t number) {
  last_number_ = std::max(last_number_, number);
  const auto found = entries_.find(key);
  // Two of one key: an agent ended while a dropped one was in use. The younger has the higher number.
  if (found != entries_.end()) {
    const auto other = ParseEntryName(found->second.path.filename().string());
    if (other && other->number > number) return Remove(path);
    Remove(found->second.path);
  }
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  const int64_t size = folder ? FolderBytes(path) : static_cast<int64_t>(fs::file_size(path, error));
  struct stat info = {};
  ::stat(path.c_str(), &info);
  entries_[key] = Entry{.path = path, .size_bytes = size, .used_ns = Nanoseconds(info.st_atim)};
}

fs::path Cache::FreePathLocked(const char* part, const std::string& key) {
  const bool taken = std::any_of(dropped_.begin(), dropped_.end(), [&](const auto& item) { return item.second.key == key; });
  return directory_ / part / (taken ? fmt::format("{}.{}", key, ++last_number_) : key);
}

bool Cache::UsableLocked(const std::string& key, int64_t size_bytes) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return false;
  struct stat info = {};
  if (::stat(found->second.path.c_str(), &info) == 0 && info.st_size == size_bytes) return true;
  LogWarn("a cached file has another size than its resource says; fetching it again", {{"sha256", key}});
  if (on_damaged_) on_damaged_();
  DropLocked(key);
  return false;
}

std::optional<Cache::Identity> Cache::IdentityOf(const fs::path& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return Identity{.inode = info.st_ino, .size_bytes = info.st_size, .modified_ns = Nanoseconds(info.st_mtim)};
}

StatusOr<CachePin> Cache::Get(const v1::File& file, const Fetch& fetch, const std::stop_token& stop) {
  if (!IsSha256Hex(file.sha256()) || file.size_bytes() < 0) {
    return InvalidArgument("BAD_FILE", fmt::format("{} is listed with size {} and SHA-256 \"{}\"", file.path(),
                                                   file.size_bytes(), file.sha256()));
  }
  SBORA_ASSIGN_OR_RETURN(std::optional<CachePin> found, FindOrClaim(file, stop));
  if (found) return *std::move(found);
  auto fetched = FetchClaimed(file, fetch);
  Unclaim(file.sha256());
  return fetched;
}

/// The file when it is here and good, else nothing: the key is then claimed and the caller fetches it.
StatusOr<std::optional<CachePin>> Cache::FindOrClaim(const v1::File& file, const std::stop_token& stop) {
  const std::string& key = file.sha256();
  CachePin pin;  // outlives the lock, which its release takes
  {
    MutexLock lock(mutex_);
    unclaimed_.wait(lock, stop, [&]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return !claimed_.contains(key); });
    if (stop.stop_requested()) return Cancelled("STOPPED", "stopped while fetching files");
    if (!UsableLocked(key, file.size_bytes())) {
      claimed_.insert(key);
      return std::optional<CachePin>();
    }
    pin = PinLocked(key);
    const Entry& entry = entries_.at(key);
    if (entry.checked && entry.checked == IdentityOf(entry.path)) return std::optional(std::move(pin));
    claimed_.insert(key);
  }
  const Status checked = Recheck(pin, stop);
  if (checked.code() == StatusCode::kDataLoss) return std::optional<CachePin>();
  Unclaim(key);
  if (!checked.ok()) return checked;
  return std::optional(std::move(pin));
}

StatusOr<CachePin> Cache::FetchClaimed(const v1::File& file, const Fetch& fetch) {
  const std::string& key = file.sha256();
  fs::path path;
  {
    MutexLock lock(mutex_);
    path = FreePathLocked("files", key);
  }
  Status status = fetch(path);
  if (status.reason() == "NO_SPACE") {
    {
      MutexLock lock(mutex_);
      RemoveAllUnusedLocked();
    }
    status = fetch(path);
  }
  SBORA_RETURN_IF_ERROR(status);
  ::chmod(path.c_str(), 0444);  // it is linked into attempts: nobody writes through a link
  const std::optional<Identity> identity = IdentityOf(path);
  if (!identity || identity->size_bytes != file.size_bytes()) {
    ::unlink(path.c_str());
    return DataLoss("SIZE_MISMATCH", fmt::format("{} has {} bytes, listed are {}", file.path(),
                                                 identity ? identity->size_bytes : 0, file.size_bytes()));
  }
  MutexLock lock(mutex_);
  entries_[key] = Entry{.path = path, .size_bytes = file.size_bytes(), .checked = identity};
  CachePin pin = PinLocked(key);
  EvictLocked();
  return pin;
}

void Cache::Unclaim(const std::string& key) {
  MutexLock lock(mutex_);
  claimed_.erase(key);
  unclaimed_.notify_all();
}

Status Cache::Recheck(const CachePin& pin, const std::stop_token& stop) {
  const std::optional<Identity> identity = IdentityOf(pin.path_);
  const StatusOr<FileDigest> digest = DigestFile(pin.path_, stop);
  if (digest.status().code() == StatusCode::kCancelled) return digest.status();
  if (digest.ok() && digest->sha256 == pin.key_) {
    MutexLock lock(mutex_);
    const auto found = entries_.find(pin.key_);
    if (found != entries_.end() && found->second.path == pin.path_) found->second.checked = identity;
    return OkStatus();
  }
  const std::string what = digest.ok() ? fmt::format("its bytes have the SHA-256 {}", digest->sha256)
                                       : digest.status().ToString();
  LogWarn("a cached file is damaged; it is dropped and fetched again when it is needed",
          {{"sha256", pin.key_}, {"found", what}});
  if (on_damaged_) on_damaged_();
  Drop(pin);
  return DataLoss("CACHE_DAMAGED", fmt::format("the cached file {} is damaged: {}; the next attempt fetches it again",
                                              pin.key_, what));
}

std::optional<CachePin> Cache::FindFolder(const std::string& key) {
  MutexLock lock(mutex_);
  const auto found = entries_.find(key);
  std::error_code error;
  if (found == entries_.end() || !fs::is_directory(found->second.path, error)) return std::nullopt;
  return PinLocked(key);
}

StatusOr<CachePin> Cache::AddFolder(const std::string& key, const fs::path& folder) {
  SBORA_CHECK(IsSha256Hex(key), "cache folder key \"{}\"", key);
  const int64_t size = FolderBytes(folder);
  MutexLock lock(mutex_);
  std::error_code error;
  if (const auto there = entries_.find(key); there != entries_.end()) {
    if (fs::is_directory(there->second.path, error)) {
      fs::remove_all(folder, error);
      return PinLocked(key);
    }
    DropLocked(key);
  }
  const fs::path path = FreePathLocked("folders", key);
  fs::rename(folder, path, error);
  if (error) return FromErrno(error.value(), fmt::format("renaming {} into the cache", folder.string()));
  entries_[key] = Entry{.path = path, .size_bytes = size};
  CachePin pin = PinLocked(key);
  EvictLocked();
  return pin;
}

void Cache::Drop(const CachePin& pin) {
  MutexLock lock(mutex_);
  const auto found = entries_.find(pin.key_);
  // Another attempt may have dropped it already, and a good one may be there again.
  if (found != entries_.end() && found->second.path == pin.path_) DropLocked(pin.key_);
}

void Cache::DropLocked(const std::string& key) {
  const auto found = entries_.find(key);
  if (found->second.pins > 0) {
    dropped_[found->second.path] = Dropped{.key = key, .pins = found->second.pins};
  } else {
    Remove(found->second.path);
  }
  entries_.erase(found);
}

int64_t Cache::used_bytes() const {
  MutexLock lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [key, entry] : entries_) bytes += entry.size_bytes;
  return bytes;
}

CachePin Cache::PinLocked(const std::string& key) {
  Entry& entry = entries_.at(key);
  ++entry.pins;
  entry.used_ns = std::chrono::nanoseconds(SystemClock().WallNow().time_since_epoch()).count();
  const timespec times[2] = {{.tv_sec = entry.used_ns / kNanosInSecond, .tv_nsec = entry.used_ns % kNanosInSecond},
                             {.tv_sec = 0, .tv_nsec = UTIME_OMIT}};  // the time of modification is the bytes' own
  ::utimensat(AT_FDCWD, entry.path.c_str(), times, 0);
  return CachePin(this, key, entry.path);
}

void Cache::RemoveAllUnusedLocked() {
  LogWarn("the disk is full; removing all cached files that are not in use");
  std::error_code error;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.pins > 0) {
      ++it;
      continue;
    }
    fs::remove_all(it->second.path, error);
    it = entries_.erase(it);
  }
}

void Cache::EvictLocked() {
  int64_t bytes = 0;
  for (const auto& [key, entry] : entries_) bytes += entry.size_bytes;
  while (bytes > max_bytes_) {
    auto oldest = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->second.pins == 0 && (oldest == entries_.end() || it->second.used_ns < oldest->second.used_ns)) oldest = it;
    }
    if (oldest == entries_.end()) return;  // all in use: the limit gives way, the attempt does not
    std::error_code error;
    fs::remove_all(oldest->second.path, error);
    bytes -= oldest->second.size_bytes;
    entries_.erase(oldest);
  }
}

void Cache::Unpin(const std::string& key, const fs::path& path) {
  MutexLock lock(mutex_);
  if (const auto dropped = dropped_.find(path); dropped != dropped_.end()) {
    if (--dropped->second.pins > 0) return;
    Remove(path);
    dropped_.erase(dropped);
    return;
  }
  // A pinned entry leaves entries_ through dropped_ only.
  --entries_.at(key).pins;
  EvictLocked();
}

Status CheckFileName(std::string_view name) {
  const bool clean = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
  if (name.empty() || name == "." || name == ".." || name.size() > 200 || !clean) {
    return InvalidArgument("BAD_FILE_NAME", fmt::format("\"{}\" is no file name: letters, digits, '.', '_' and '-', at "
                                                        "most 200", name.substr(0, 200)));
  }
  return OkStatus();
}

Status Materialise(const fs::path& folder, const google::protobuf::RepeatedPtrField<v1::File>& files,
                   const std::vector<CachePin>& pins) {
  SBORA_CHECK(static_cast<size_t>(files.size()) == pins.size(), "{} files, {} pins", files.size(), pins.size());
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return FromErrno(error.value(), fmt::format("making {}", folder.string()));
  for (int i = 0; i < files.size(); ++i) {
    SBORA_RETURN_IF_ERROR(CheckFileName(files[i].path()));
    const fs::path target = folder / files[i].path();
    const fs::path& source = pins[static_cast<size_t>(i)].path();
    if (::link(source.c_str(), target.c_str()) == 0) continue;
    if (errno == EEXIST) {
      return InvalidArgument("DUPLICATE_FILE", fmt::format("{} is listed twice in one group", files[i].path()));
    }
    if (::symlink(source.c_str(), target.c_str()) != 0) {
      return FromErrno(errno, fmt::format("linking {}", target.string()));
    }
  }
  return OkStatus();
}

}  // namespace sbora::agent
