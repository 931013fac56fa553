#include "core/manifest.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kManifestVersion = 1;
constexpr size_t kMaxFiles = 100'000;

Status Malformed(std::string what) { return InvalidArgument("MANIFEST_MALFORMED", fmt::format("{}: {}", kManifestFile, what)); }

/// A plain name: manifests come from elsewhere and must not lead out of their folder.
bool IsSafeName(std::string_view name) {
  if (name.empty() || name.size() > 255 || name.front() == '.' || name == kManifestFile) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

}  // namespace

int64_t Manifest::total_bytes() const {
  int64_t total = 0;
  for (const WrittenFile& file : files) total += file.size_bytes;
  return total;
}

std::string ToJson(const Manifest& manifest) {
  std::vector<WrittenFile> files = manifest.files;
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  Json list = Json::array();
  for (const WrittenFile& file : files) {
    list.push_back({{"name", file.name}, {"sizeBytes", file.size_bytes}, {"sha256", file.sha256}});
  }
  const Json json = {{"manifestVersion", kManifestVersion}, {"files", list}, {"summary", manifest.summary}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

StatusOr<Manifest> ParseManifest(std::string_view json_text) {
  if (static_cast<int64_t>(json_text.size()) > kMaxManifestBytes) {
    return Malformed(fmt::format("{} bytes exceed {}", json_text.size(), kMaxManifestBytes));
  }
  const Json json = Json::parse(json_text, nullptr, false);
  if (!json.is_object()) return Malformed("no JSON object");
  const Json version = json.value("manifestVersion", Json());
  if (!version.is_number_integer()) return Malformed("manifestVersion is missing");
  if (version != kManifestVersion) {
    return Unimplemented("MANIFEST_VERSION", fmt::format("manifestVersion {}; this program reads {}", version.dump(),
                                                         kManifestVersion));
  }
  const Json list = json.value("files", Json());
  if (!list.is_array() || list.size() > kMaxFiles) return Malformed("files is no list, or too long");
  Manifest manifest;
  for (const Json& entry : list) {
    if (!entry.is_object() || !entry.value("name", Json()).is_string() ||
        !entry.value("sizeBytes", Json()).is_number_unsigned() || !entry.value("sha256", Json()).is_string()) {
      return Malformed("an entry lacks name, sizeBytes or sha256");
    }
    WrittenFile file{.name = entry["name"], .size_bytes = entry["sizeBytes"].get<int64_t>(), .sha256 = entry["sha256"]};
    if (!IsSafeName(file.name)) return Malformed(fmt::format("\"{}\" is no plain file name", file.name.substr(0, 80)));
    if (file.size_bytes < 0 || !IsSha256Hex(file.sha256)) {
      return Malformed(fmt::format("size or digest of \"{}\" is out of range", file.name));
    }
    manifest.files.push_back(std::move(file));
  }
  std::sort(manifest.files.begin(), manifest.files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(manifest.files.begin(), manifest.files.end(),
                                        [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != manifest.files.end()) return Malformed(fmt::format("\"{}\" is listed twice", twice->name));
  manifest.summary = json.value("summary", Json::object());
  if (!manifest.summary.is_object()) return Malformed("summary is no object");
  return manifest;
}

StatusOr<Manifest> ReadManifest(const fs::path& dir) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / kManifestFile, kMaxManifestBytes));
  return ParseManifest(text);
}

StatusOr<Manifest> BuildManifest(const fs::path& dir, Json summary, const std::function<void()>& alive) {
  Manifest manifest{.files = {}, .summary = std::move(summary)};
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    const std::string name = it->path().filename().string();
    if (name == kManifestFile || !it->is_regular_file(ec)) continue;
    if (!IsSafeName(name)) return Malformed(fmt::format("\"{}\" cannot be named in a manifest", name));
    SBORA_ASSIGN_OR_RETURN(FileDigest digest, DigestFile(it->path(), {}, alive));
    manifest.files.push_back({.name = name, .size_bytes = digest.size_bytes, .sha256 = std::move(digest.sha256)});
  }
  if (ec) return FromErrno(ec.value(), fmt::format("reading {}", dir.string()));
  std::sort(manifest.files.begin(), manifest.files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return manifest;
}

Status WriteManifest(const fs::path& dir, const Manifest& manifest) {
  return WriteFileAtomic(dir / kManifestFile, ToJson(manifest));
}

Status VerifyManifest(const Manifest& manifest, const fs::path& dir, const std::function<void()>& alive) {
  for (const WrittenFile& file : manifest.files) {
    const fs::path path = dir / file.name;
    std::error_code ec;
    if (!fs::is_regular_file(path, ec)) {
      return DataLoss("MANIFEST_FILE_MISSING", fmt::format("{} is named by the manifest and is not there", path.string()));
    }
    const auto size = fs::file_size(path, ec);
    if (ec || size != static_cast<uintmax_t>(file.size_bytes)) {
      return DataLoss("MANIFEST_SIZE_MISMATCH", fmt::format("{} has {} bytes, the manifest says {}", path.string(), size,
                                                            file.size_bytes));
    }
    SBORA_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(path, {}, alive));
    if (digest.sha256 != file.sha256) {
      return DataLoss("MANIFEST_HASH_MISMATCH", fmt::format("{} has SHA-256 {}, the manifest says {}", path.string(),
                                                            digest.sha256, file.sha256));
    }
  }
  return OkStatus();
}

}  // namespace sbora::core
