#include "data/token_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::data {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is little-endian and mapped as it is");

constexpr char kMagic[8] = {'S', 'B', 'O', 'R', 'A', 'T', 'O', 'K'};
constexpr size_t kHeaderBytes = 256;
constexpr int64_t kMaxCount = int64_t{1} << 40;  // keeps every size of the file inside 63 bits

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  int64_t samples;
  int64_t tokens;
  int64_t supervised_tokens;
  int64_t vocab_bound;
  int64_t max_sample_tokens;
  char key[64];
  char body_sha256[64];
  int64_t parts;
  char header_sha256[64];  ///< of all bytes before it
};
static_assert(sizeof(Header) == kHeaderBytes && std::is_trivially_copyable_v<Header>);

std::string_view BytesOf(const Header& header) { return {reinterpret_cast<const char*>(&header), kHeaderBytes - 64}; }

int64_t PaddedMaskBytes(int64_t tokens) { return (tokens + 7) / 8 * 8; }
/// Ids take 4 bytes each: one more keeps the section's end a multiple of 8.
int64_t PaddedIdBytes(int64_t tokens) { return (tokens + 1) / 2 * 8; }

Status Malformed(const std::filesystem::path& path, std::string_view what) {
  return InvalidArgument("TOKEN_CACHE_MALFORMED", fmt::format("{}: {}", path.string(), what));
}

StatusOr<Header> ReadHeader(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < kHeaderBytes) return Malformed(path, "too short for a token cache");
  std::memcpy(&header, bytes.data(), kHeaderBytes);
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return Malformed(path, "no token cache");
  if (header.version != kTokenCacheVersion) {
    return FailedPrecondition("TOKEN_CACHE_VERSION", fmt::format("{} has version {}, this program reads {}", path.string(),
                                                                 header.version, kTokenCacheVersion));
  }
  if (Sha256Hex(BytesOf(header)) != std::string_view(header.header_sha256, 64)) {
    return DataLoss("TOKEN_CACHE_CORRUPT", fmt::format("{}: the header does not match its hash", path.string()));
  }
  const auto in_range = [](int64_t value) { return value >= 0 && value <= kMaxCount; };
  if (header.header_bytes != kHeaderBytes || !in_range(header.samples) || !in_range(header.tokens) ||
      !in_range(header.supervised_tokens) || !in_range(header.max_sample_tokens) || header.vocab_bound < 0 ||
      !in_range(header.parts) || header.parts == 0) {
    return Malformed(path, "a count of the header is out of range");
  }
  const int64_t size = static_cast<int64_t>(kHeaderBytes) + PaddedIdBytes(header.tokens) +
                       PaddedMaskBytes(header.tokens) + (header.samples + 1 + header.parts) * 8;
  if (size != static_cast<int64_t>(bytes.size())) {
    return DataLoss("TOKEN_CACHE_CORRUPT", fmt::format("{} has {} bytes, its header implies {}", path.string(),
                                                       bytes.size(), size));
  }
  return header;
}

StatusOr<UniqueFd> OpenTemporary(std::string* path) {
  UniqueFd fd(::mkostemp(path->data(), O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("creating {}", *path));
  if (::fchmod(fd.get(), 0644) != 0) return FromErrno(errno, fmt::format("permissions of {}", *path));
  return fd;
}

template <typename T>
std::string_view Chars(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

}  // namespace

StatusOr<TokenCache> TokenCache::Open(const std::filesystem::path& path, const OpenOptions& options) {
  TokenCache cache;
  SBORA_ASSIGN_OR_RETURN(cache.file_, MappedFile::Open(path));
  const auto bytes = cache.file_.bytes();
  SBORA_ASSIGN_OR_RETURN(const Header header, ReadHeader(path, bytes));
  cache.key_.assign(header.key, 64);
  if (!options.expected_key.empty() && cache.key_ != options.expected_key) {
    return FailedPrecondition("TOKEN_CACHE_KEY", fmt::format("{} was built for {}, wanted is {}", path.string(), cache.key_,
                                                             options.expected_key));
  }
  cache.samples_ = header.samples;
  cache.tokens_ = header.tokens;
  cache.supervised_tokens_ = header.supervised_tokens;
  cache.vocab_bound_ = header.vocab_bound;
  cache.max_sample_tokens_ = header.max_sample_tokens;
  cache.parts_ = header.parts;
  const std::byte* body = bytes.data() + kHeaderBytes;
  cache.ids_ = reinterpret_cast<const int32_t*>(body);
  cache.supervised_ = reinterpret_cast<const uint8_t*>(body + PaddedIdBytes(header.tokens));
  cache.offsets_ = reinterpret_cast<const int64_t*>(body + PaddedIdBytes(header.tokens) + PaddedMaskBytes(header.tokens));
  cache.part_ends_ = cache.offsets_ + header.samples + 1;
  if (!options.verify) return cache;
  Sha256 hash;
  hash.Update(bytes.subspan(kHeaderBytes));
  if (hash.FinishHex() != std::string_view(header.body_sha256, 64)) {
    return DataLoss("TOKEN_CACHE_CORRUPT", fmt::format("{}: the content does not match its hash", path.string()));
  }
  SBORA_RETURN_IF_ERROR(cache.Verify(path));
  return cache;
}

Status TokenCache::Verify(const std::filesystem::path& path) const {
  if (offsets_[0] != 0 || offsets_[samples_] != tokens_) return Malformed(path, "the offsets do not span the tokens");
  for (int64_t i = 0; i < samples_; ++i) {
    if (offsets_[i + 1] <= offsets_[i] || offsets_[i + 1] > tokens_ ||
        offsets_[i + 1] - offsets_[i] > max_sample_tokens_) {
      return Malformed(path, fmt::format("sample {} spans [{}, {})", i, offsets_[i], offsets_[i + 1]));
    }
  }
  for (int64_t i = 0; i < parts_; ++i) {
    if (part_ends_[i] >= (i == 0 ? 0 : part_ends_[i - 1]) && part_ends_[i] <= samples_) continue;
    return Malformed(path, fmt::format("part {} ends at sample {}", i, part_ends_[i]));
  }
  if (part_ends_[parts_ - 1] != samples_) return Malformed(path, "the parts do not span the samples");
  int64_t supervised = 0;
  for (int64_t i = 0; i < tokens_; ++i) {
    if (ids_[i] < 0 || ids_[i] >= vocab_bound_ || supervised_[i] > 1) return Malformed(path, fmt::format("token {} is bad", i));
    supervised += supervised_[i];
  }
  if (supervised != supervised_tokens_) return Malformed(path, "the count of supervised tokens is wrong");
  return OkStatus();
}

TokenSample TokenCache::Sample(int64_t i) const {
  SBORA_CHECK(i >= 0 && i < samples_, "sample {} is outside [0, {})", i, samples_);
  const auto begin = static_cast<size_t>(offsets_[i]);
  const auto count = static_cast<size_t>(offsets_[i + 1] - offsets_[i]);
  return {.ids = {ids_ + begin, count}, .supervised = {supervised_ + begin, count}};
}

std::vector<int64_t> TokenCache::part_sizes() const {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < parts_; ++i) sizes.push_back(part_ends_[i] - (i == 0 ? 0 : part_ends_[i - 1]));
  return sizes;
}

/// Ids stream into the final file, masks into a second temporary that is appended at the end.
struct TokenCacheWriter::Impl {
  std::filesystem::path path;
  std::string ids_path;
  std::string mask_path;
  UniqueFd ids_fd;
  UniqueFd mask_fd;
  Sha256 hash;
  std::string ids_buffer;
  std::string mask_buffer;
  std::vector<int64_t> offsets = {0};
  std::vector<int64_t> part_ends;
  Header header{};

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    for (const std::string& temporary : {ids_path, mask_path}) {
      if (!temporary.empty()) ::unlink(temporary.c_str());
    }
  }

  Status Flush(size_t threshold) {
    if (ids_buffer.size() >= threshold) {
      hash.Update(ids_buffer);
      SBORA_RETURN_IF_ERROR(WriteAll(ids_fd.get(), ids_buffer, ids_path));
      ids_buffer.clear();
    }
    if (mask_buffer.size() >= threshold) {
      SBORA_RETURN_IF_ERROR(WriteAll(mask_fd.get(), mask_buffer, mask_path));
      mask_buffer.clear();
    }
    return OkStatus();
  }

  Status AppendHashed(std::string_view bytes) {
    hash.Update(bytes);
    return WriteAll(ids_fd.get(), bytes, ids_path);
  }

  Status AppendMasks() {
    std::string buffer(1 << 20, '\0');
    if (::lseek(mask_fd.get(), 0, SEEK_SET) < 0) return FromErrno(errno, fmt::format("seeking {}", mask_path));
    for (;;) {
      const ssize_t count = ::read(mask_fd.get(), buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return FromErrno(errno, fmt::format("reading {}", mask_path));
      if (count == 0) break;
      SBORA_RETURN_IF_ERROR(AppendHashed({buffer.data(), static_cast<size_t>(count)}));
    }
    return AppendHashed(std::string(static_cast<size_t>(PaddedMaskBytes(header.tokens) - header.tokens), '\0'));
  }
};

TokenCacheWriter::TokenCacheWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenCacheWriter::TokenCacheWriter(TokenCacheWriter&&) noexcept = default;
TokenCacheWriter& TokenCacheWriter::operator=(TokenCacheWriter&&) noexcept = default;
TokenCacheWriter::~TokenCacheWriter() = default;

StatusOr<TokenCacheWriter> TokenCacheWriter::Create(const std::filesystem::path& path, std::string_view key) {
  SBORA_CHECK(IsSha256Hex(key), "token cache key \"{}\" is no SHA-256", key);
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  std::string ids_path = path.string() + ".tmp-XXXXXX";
  SBORA_ASSIGN_OR_RETURN(impl->ids_fd, OpenTemporary(&ids_path));
  impl->ids_path = ids_path;
  std::string mask_path = path.string() + ".mask-XXXXXX";
  SBORA_ASSIGN_OR_RETURN(impl->mask_fd, OpenTemporary(&mask_path));
  impl->mask_path = mask_path;
  std::memcpy(impl->header.magic, kMagic, sizeof(kMagic));
  impl->header.version = kTokenCacheVersion;
  impl->header.header_bytes = kHeaderBytes;
  std::memcpy(impl->header.key, key.data(), 64);
  SBORA_RETURN_IF_ERROR(WriteAll(impl->ids_fd.get(), std::string(kHeaderBytes, '\0'), ids_path));
  return TokenCacheWriter(std::move(impl));
}

Status TokenCacheWriter::Add(std::span<const int32_t> ids, std::span<const uint8_t> supervised) {
  SBORA_CHECK(ids.size() == supervised.size(), "{} ids with {} masks", ids.size(), supervised.size());
  if (ids.empty()) return InvalidArgument("SAMPLE_EMPTY", "a sample has no token");
  Header& header = impl_->header;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) return InvalidArgument("TOKEN_ID_NEGATIVE", fmt::format("token id {}", ids[i]));
    header.vocab_bound = std::max(header.vocab_bound, int64_t{ids[i]} + 1);
    const uint8_t mask = supervised[i] != 0 ? 1 : 0;
    header.supervised_tokens += mask;
    impl_->mask_buffer.push_back(static_cast<char>(mask));
  }
  impl_->ids_buffer.append(Chars(ids));
  header.tokens += static_cast<int64_t>(ids.size());
  header.samples += 1;
  header.max_sample_tokens = std::max(header.max_sample_tokens, static_cast<int64_t>(ids.size()));
  impl_->offsets.push_back(header.tokens);
  return impl_->Flush(1 << 20);
}

int64_t TokenCacheWriter::size() const { return impl_->header.samples; }

void TokenCacheWriter::EndPart() { impl_->part_ends.push_back(impl_->header.samples); }

Status TokenCacheWriter::Finish() {
  Impl& impl = *impl_;
  Header& header = impl.header;
  if (impl.part_ends.empty()) EndPart();
  SBORA_CHECK(impl.part_ends.back() == header.samples, "{} samples behind the last part",
              header.samples - impl.part_ends.back());
  header.parts = static_cast<int64_t>(impl.part_ends.size());
  SBORA_RETURN_IF_ERROR(impl.Flush(1));
  SBORA_RETURN_IF_ERROR(impl.AppendHashed(std::string(static_cast<size_t>(PaddedIdBytes(header.tokens) - 4 * header.tokens), '\0')));
  SBORA_RETURN_IF_ERROR(impl.AppendMasks());
  SBORA_RETURN_IF_ERROR(impl.AppendHashed(Chars(std::span<const int64_t>(impl.offsets))));
  SBORA_RETURN_IF_ERROR(impl.AppendHashed(Chars(std::span<const int64_t>(impl.part_ends))));
  const std::string body = impl.hash.FinishHex();
  std::memcpy(header.body_sha256, body.data(), 64);
  const std::string digest = Sha256Hex(BytesOf(header));
  std::memcpy(header.header_sha256, digest.data(), 64);
  if (::lseek(impl.ids_fd.get(), 0, SEEK_SET) < 0) return FromErrno(errno, fmt::format("seeking {}", impl.ids_path));
  SBORA_RETURN_IF_ERROR(WriteAll(impl.ids_fd.get(), {reinterpret_cast<const char*>(&header), kHeaderBytes}, impl.ids_path));
  if (::fsync(impl.ids_fd.get()) != 0) return FromErrno(errno, fmt::format("fsync of {}", impl.ids_path));
  impl.ids_fd.Reset();
  if (::rename(impl.ids_path.c_str(), impl.path.c_str()) != 0) {
    return FromErrno(errno, fmt::format("renaming {} to {}", impl.ids_path, impl.path.string()));
  }
  impl.ids_path.clear();
  const auto parent = impl.path.parent_path();
  return SyncDirectory(parent.empty() ? "." : parent);
}

}  // namespace sbora::data
